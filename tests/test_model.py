"""The model against literal loops, its activations against automatic differentiation, and what it refuses."""

import math

import numpy as np
import pytest
import torch

from common.streams import stream
from theory.activations import ACTIVATIONS, activation
from theory.model import GATES, MoERegression, Prompts, canonical

NAMES = [*ACTIVATIONS, "mlp"]
# d, m, d': square, d' > m, d' < m, m < d, m > d
SHAPES = [(3, 3, 3), (3, 3, 6), (4, 4, 2), (5, 2, 4), (2, 4, 3)]


def a_model(gate="zero_init", sigma="identity", d=3, m=3, d_out=3, N=2):
    rng = stream(3, "model", d, m, d_out)
    A, a, eta = rng.standard_normal((N, d, d)) / d, rng.standard_normal(N), rng.standard_normal((N, d_out, d))
    return MoERegression(A, a, eta, rng.standard_normal((d, m)), rng.standard_normal((d_out, m)), sigma, gate)


def some_prompts(gate="zero_init", m=3, L=4):
    rng = stream(3, "prompts", m)
    p, value, b = rng.standard_normal((L, m)), rng.standard_normal((L, m)), rng.standard_normal(L)
    return Prompts(p, b, None if gate.startswith("joint") else -0.7, value if gate.endswith("unshared") else None)


def sigma_of(model, p):
    """sigma of one prompt, a number at a time."""
    name, m = model.activation.name, len(p)
    if name == "mlp":
        W1, W2, c = model.activation.W1, model.activation.W2, model.activation.c
        hidden = [math.tanh(c[h] + sum(W1[h, k] * p[k] for k in range(m))) for h in range(m)]
        return [sum(W2[i, h] * hidden[h] for h in range(m)) for i in range(m)]
    function = {
        "identity": lambda s: s,
        "tanh": math.tanh,
        "sigmoid": lambda s: 1 / (1 + math.exp(-s)),
        "gelu": lambda s: s * 0.5 * (1 + math.erf(s / math.sqrt(2))),
        "leaky_relu": lambda s: s if s > 0 else 0.1 * s,
        "relu": lambda s: max(s, 0.0),
        "softplus": lambda s: math.log(1 + math.exp(s)),
    }[name]
    return [function(s) for s in p]


def literal(model, x, prompts):
    """f(x) of one row by the equations of the paper, without matrix products or a stable softmax."""
    d, m, outputs = model.d, model.m, range(model.d_out)
    scores, experts = [], []
    for A, a, eta in zip(model.A, model.a, model.eta, strict=True):
        scores.append(math.exp(sum(x[i] * A[i, k] * x[k] for i in range(d) for k in range(d)) + a))
        experts.append([sum(eta[o, i] * x[i] for i in range(d)) for o in outputs])
    prompt_scores, prompt_experts = [], []
    for j in range(len(prompts)):
        key = sigma_of(model, prompts.p[j])
        value = key if prompts.p_value is None else sigma_of(model, prompts.p_value[j])
        score = sum(model.B[i, k] * key[k] * x[i] for i in range(d) for k in range(m)) + prompts.b[j]
        prompt_scores.append(math.exp(score))
        prompt_experts.append([sum(model.C[o, k] * value[k] for k in range(m)) for o in outputs])

    def mixture(scores, experts):
        return np.array([sum(s * e[o] for s, e in zip(scores, experts, strict=True)) for o in outputs]) / sum(scores)

    if model.gate.startswith("joint"):
        return mixture(scores + prompt_scores, experts + prompt_experts)
    return mixture(scores, experts) + math.tanh(prompts.alpha) * mixture(prompt_scores, prompt_experts)


@pytest.mark.parametrize("sigma", NAMES)
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("d", "m", "d_out"), SHAPES)
def test_model_against_literal_loops(gate, sigma, d, m, d_out):
    model, prompts = a_model(gate, sigma, d, m, d_out), some_prompts(gate, m)
    x = stream(3, "x").standard_normal((5, d))
    np.testing.assert_allclose(model(x, prompts), [literal(model, row, prompts) for row in x], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("gate", GATES)
def test_large_scores_do_not_overflow(gate):
    model, prompts = a_model(gate), some_prompts(gate)
    assert np.isfinite(model(1e4 * stream(3, "x").standard_normal((5, 3)), prompts)).all()


def torch_sigma(name, m):
    if name == "mlp":
        mlp = activation("mlp", m)
        W1, W2, c = (torch.tensor(v) for v in (mlp.W1, mlp.W2, mlp.c))
        return lambda p: W2 @ torch.tanh(W1 @ p + c)
    return {
        "identity": lambda p: 1.0 * p,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu": torch.nn.functional.gelu,
        "leaky_relu": lambda p: torch.nn.functional.leaky_relu(p, 0.1),
        "relu": torch.nn.functional.relu,
        "softplus": torch.nn.functional.softplus,
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_activation_against_autograd(name):
    """Value and derivative, as `jacobian` returns it."""
    sigma, reference, rng = activation(name, 4), torch_sigma(name, 4), stream(3, "sigma")
    p = 1.5 * rng.standard_normal((6, 4))
    value, slope = sigma(p), sigma.jacobian(p)
    for j in range(6):
        at = torch.tensor(p[j])
        first = torch.autograd.functional.jacobian(reference, at)
        np.testing.assert_allclose(value[j], reference(at), rtol=0, atol=1e-12)
        np.testing.assert_allclose(slope[j], first, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_flags_of_activations(name):
    """Injective means one-to-one on the line, smooth means that sigma'' has no jumps."""
    sigma, p = ACTIVATIONS[name], np.linspace(-6, 6, 4001)
    assert sigma.injective == bool((np.diff(sigma(p)) > 0).all())
    assert sigma.smooth == bool(np.abs(np.diff(sigma.slope(p))).max() < 0.01)
    np.testing.assert_array_equal(np.diagonal(sigma.jacobian(p[:5][None])[0]), sigma.slope(p[:5]))


def test_unknown_names():
    with pytest.raises(ValueError, match=r"activation must be one of identity, tanh, .*, mlp; got 'relu6'"):
        a_model(sigma="relu6")
    with pytest.raises(ValueError, match=r"gate must be one of zero_init, joint, .*; got 'vanilla'"):
        a_model(gate="vanilla")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"C": np.zeros((3, 2))}, r"B \(3, 3\) and C \(3, 2\)"),
        ({"B": np.zeros(3)}, r"B \(3,\) and C \(3, 3\)"),
        ({"A": np.zeros((2, 3, 4))}, r"A must have shape \(2, 3, 3\).*got \(2, 3, 4\)"),
        ({"eta": np.zeros((2, 4, 3))}, r"eta must have shape \(2, 3, 3\).*got \(2, 4, 3\)"),
        ({"a": np.array([0, np.nan])}, "a must be finite"),
        ({"B": np.full((3, 3), np.inf)}, "B must be finite"),
    ],
)
def test_bad_pretrained_arrays_are_named(change, message):
    model = a_model()
    arrays = {name: getattr(model, name) for name in ("A", "a", "eta", "B", "C")} | change
    with pytest.raises(ValueError, match=message):
        MoERegression(**arrays)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.0, 1.0]], [0.0, 1.0], 1.0), r"p \(1, 2\) and b \(2,\)"),
        (([[[0.0]]], [0.0], 1.0), r"p \(1, 1, 1\) and b \(1,\)"),
        (([[0.0, 1.0]], [0.0], None, [[0.0]]), r"\(1, 1\) and \(1, 2\)"),
    ],
)
def test_bad_prompts_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Prompts(*arguments)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("prompts_of", GATES)
def test_prompts_of_another_gate_are_refused(gate, prompts_of):
    model, prompts, x = a_model(gate), some_prompts(prompts_of), np.zeros((1, 3))
    if gate == prompts_of:
        assert model(x, prompts).shape == (1, 3)
        return
    with pytest.raises(ValueError, match=f"gate {gate} (needs|has no) (alpha|p_value)"):
        model(x, prompts)


def test_bad_data_is_named():
    model, prompts, x, y = a_model(d_out=2), some_prompts(), np.zeros((5, 3)), np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"p of prompts must be \(L, 3\), as B says; got \(4, 2\)"):
        model(x, some_prompts(m=2))
    with pytest.raises(ValueError, match=r"x must be \(n, 3\); got x \(5, 2\)"):
        model(y, prompts)
    with pytest.raises(ValueError, match=r"x must be \(n, 3\); got x \(3,\) and y \(5, 2\)"):
        model.check_data(x[0], y)
    with pytest.raises(ValueError, match=r"y must be \(n, 2\) with the n of x; got x \(5, 3\) and y \(4, 2\)"):
        model.check_data(x, y[:4])
    for name, bad in (("x", (x + np.nan, y)), ("y", (x, y + np.inf))):
        with pytest.raises(ValueError, match=rf"{name} must be finite.*x \(5, 3\) and y \(5, 2\)"):
            model.check_data(*bad)


@pytest.mark.parametrize("gate", GATES)
def test_canonical_prompts_forget_the_gauges_only(gate):
    """Gauge moves leave the canonical prompts as they are; for linear prompts these have the function of the others."""
    model, prompts, x = a_model(gate), some_prompts(gate), stream(3, "x").standard_normal((9, 3))
    seen = canonical(model, prompts)
    p, value, alpha, shift = prompts.p, prompts.p_value, prompts.alpha, 0.0 if model.joint else 0.4
    if gate == "zero_init_unshared":
        p, value, alpha = p + np.array([1.0, -2.0, 0.5]), 2 * value, np.arctanh(np.tanh(alpha) / 2)
    moved = Prompts(p, prompts.b + shift, alpha, value)
    again = canonical(model, moved)
    np.testing.assert_allclose(model(x, moved), model(x, prompts), rtol=0, atol=1e-13)
    np.testing.assert_allclose(again.atoms, seen.atoms, rtol=0, atol=1e-13)
    np.testing.assert_allclose(again.b, seen.b, rtol=0, atol=1e-13)
    if alpha is not None:
        factor = np.tanh(1.0) if gate == "zero_init_unshared" else 1.0  # alpha is left as a mark
        f0 = model.pretrained(x)[0]
        np.testing.assert_allclose(model(x, seen) - f0, factor * (model(x, prompts) - f0), rtol=0, atol=1e-13)


def test_sample_is_the_model_plus_noise():
    model, prompts = a_model(), some_prompts()
    chunks = list(model.sample(prompts, 0.5, 25, stream(3, "data"), chunk=10))
    assert [len(x) for x, _ in chunks] == [10, 10, 5]
    noise = np.vstack([y - model(x, prompts) for x, y in chunks])
    assert 0.35 < noise.std() < 0.65  # 75 normal numbers; false alarm below 1e-3
    [(x, y)] = model.sample(prompts, 0.0, 10, stream(3, "data"))
    np.testing.assert_array_equal(x, chunks[0][0])
    np.testing.assert_array_equal(y, model(x, prompts))


@pytest.mark.parametrize("name", [name for name, sigma in ACTIVATIONS.items() if sigma.injective])
def test_inverse_undoes_sigma(name):
    p = np.linspace(-6, 6, 401)
    np.testing.assert_allclose(ACTIVATIONS[name].inverse(ACTIVATIONS[name](p)), p, atol=1e-9)
