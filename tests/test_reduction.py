"""The reduced least-squares problem against automatic differentiation of the plain model, and its streaming."""

import numpy as np
import pytest
import torch
from problems import literal_residual, random_problem

from theory.coordinates import Layout
from theory.kernel import _exp
from theory.model import GATES
from theory.problem import LeastSquares
from theory.reduction import reduce


def relative(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("activation", ["identity", "tanh", "sigmoid", "gelu", "leaky_relu", "softplus", "mlp"])
@pytest.mark.parametrize(
    ("d", "d_out", "m", "L"), [(3, 3, 3, 3), (2, 5, 2, 4), (4, 2, 4, 2), (3, 4, 2, 1), (2, 4, 3, 3)]
)
def test_gram_and_gradient_against_autodiff(gate, activation, d, d_out, m, L):
    """Two routes to SSE, gradient and J'J in (p, p_value, b, alpha), to 1e-11; square, tall, wide B and C."""
    model, prompts = random_problem(gate, activation, d, d_out, L, m)
    layout = Layout(model, L)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, d))
    y = model(x, prompts) + 0.5 * rng.standard_normal((300, d_out))
    theta = layout.pack(prompts) + 0.1 * rng.standard_normal(layout.size)
    sse, gradient, gram = LeastSquares(model, reduce(model, [(x[:170], y[:170]), (x[170:], y[170:])]), layout)(theta)
    residual = literal_residual(model, layout, x, y)
    at = torch.tensor(theta)
    r, J = residual(at).numpy(), torch.func.jacfwd(residual)(at).numpy()
    assert relative(sse, r @ r) < 1e-12
    assert relative(gram, J.T @ J) < 1e-11
    # The gradient is a sum that nearly cancels: its error is relative to its terms.
    assert np.abs(gradient - J.T @ r).max() < 1e-11 * (np.abs(J).T @ np.abs(r)).max()


def test_chunks_do_not_matter():
    """Rows in one chunk, in many, and cut at odd places give the same sums, to rounding."""
    model, prompts = random_problem(d_out=5)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 3)), rng.standard_normal((1000, 5))
    layout = Layout(model, 3)
    cuts = [[], [1, 128, 129, 700], list(range(50, 1000, 50))]
    found = [
        LeastSquares(model, reduce(model, zip(np.split(x, c), np.split(y, c), strict=True)), layout)(
            layout.pack(prompts)
        )
        for c in cuts
    ]
    for sse, gradient, gram in found[1:]:
        assert sse == pytest.approx(found[0][0], rel=1e-13)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(gram, found[0][2], rtol=1e-11, atol=1e-11)


def test_head_is_the_problem_of_the_first_rows():
    model, prompts = random_problem()
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((500, 3)), rng.standard_normal((500, 3))
    layout = Layout(model, 3)
    head = reduce(model, [(x[:200], y[:200]), (x[200:], y[200:])]).head(301)
    direct = reduce(model, [(x[:301], y[:301])])
    theta = layout.pack(prompts)
    for a, b in zip(*(LeastSquares(model, data, layout)(theta) for data in (head, direct)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-10)


def test_noise_free_residual_does_not_cancel():
    """SSE at the truth of noise-free data is rounding error squared, not rounding error of the sum of squares."""
    model, prompts = random_problem(d_out=3)
    x = np.random.default_rng(0).standard_normal((1000, 3))
    layout = Layout(model, 3)
    sse = LeastSquares(model, reduce(model, [(x, model(x, prompts))]), layout)(layout.pack(prompts))[0]
    assert sse < 1e-26 * 1000


def test_exp_of_the_kernel():
    v = -np.concatenate([np.linspace(0, 50, 5000), np.linspace(50, 700, 5000)])
    expected = np.exp(v)
    _exp(v)
    assert (np.abs(v / expected - 1) < 5e-16 - 4e-17 * np.log(expected)).all()


@pytest.mark.parametrize("name", ["x", "y"])
def test_bad_rows_are_named(name):
    model, _ = random_problem()
    arrays = {"x": np.zeros((4, 3)), "y": np.zeros((4, 3))}
    arrays[name][2, 1] = np.nan
    with pytest.raises(ValueError, match=rf"{name} must be finite.*\(4, 3\)"):
        reduce(model, [(arrays["x"], arrays["y"])])
    with pytest.raises(ValueError, match=r"x \(4, 3\) and y \(4, 2\)"):
        reduce(model, [(np.zeros((4, 3)), np.zeros((4, 2)))])
    with pytest.raises(ValueError, match="at least one row"):
        reduce(model, [])
