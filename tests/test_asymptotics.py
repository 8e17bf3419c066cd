"""Predicted constants against other routes: simulated noise and linear algebra, closed forms, quadrature."""

from itertools import product

import numpy as np
import pytest

from common.streams import stream
from theory.asymptotics import information, predict
from theory.coordinates import Layout
from theory.jacobian import jacobian
from theory.model import GATES, MoERegression, Prompts, canonical
from theory.voronoi import voronoi_loss


def a_case(gate, activation="tanh", d=2, L=2):
    rng = stream(4, "case", gate)
    A, a, eta = rng.standard_normal((2, d, d)) / 4, rng.standard_normal(2), rng.standard_normal((2, 3, d))
    model = MoERegression(A, a, eta, rng.standard_normal((d, d)), rng.standard_normal((3, d)), activation, gate)
    p, value = rng.uniform(-1, 1, (2, L, d))
    alpha = None if model.joint else 0.8
    return model, Prompts(p, 0.5 * rng.standard_normal(L), alpha, value if model.unshared else None)


@pytest.mark.parametrize("gate", GATES)
def test_information_against_the_dense_jacobian(gate):
    """Quadrature instead of a sample, and the dense Jacobian instead of the Gram that the fits stream."""
    model, truth = a_case(gate)
    node, weight = np.polynomial.hermite_e.hermegauss(150)
    x, weights = np.array(list(product(node, node))), np.outer(weight, weight).ravel() / (2 * np.pi)
    J = jacobian(model, x, truth) * np.sqrt(np.repeat(weights, model.d_out))[:, None]
    scale = np.linalg.norm(J, axis=0)
    unit = np.outer(scale, scale)
    np.testing.assert_allclose(information(model, truth) / unit, J.T @ J / unit, rtol=0, atol=5e-3)


@pytest.mark.parametrize("gate", ["zero_init", "joint"])
def test_constants_against_one_step_estimates(gate):
    """Gauss-Newton estimates of 1000 noisy data sets, errors linearised by hand.

    Standard errors are under 3 % (at most 2.4 % from the data sets, the rest from their common x); the bound is 10 %.
    """
    model, truth, noise, n = *a_case(gate), 0.3, 4000
    rng = stream(4, "one step", gate)
    J = jacobian(model, rng.standard_normal((n, 2)), truth)
    response = np.linalg.pinv(J)
    steps = np.array([response @ (noise * rng.standard_normal(len(J))) for _ in range(1000)])
    layout, weight = Layout(model, len(truth)), truth.weights
    places, shifts = (steps[:, layout.atoms[0]], steps[:, layout.b])
    if not model.joint:
        shifts = shifts - (shifts @ weight)[:, None]
    moved = np.linalg.norm(places, axis=2) @ weight
    expected = {
        "function_error": np.linalg.norm(steps @ J.T, axis=1) / np.sqrt(n),
        "weight_error": np.abs(weight * shifts).sum(1),
        "exact_prompt_error": moved / weight.sum(),
        "voronoi": np.abs(weight * shifts).sum(1) + moved,
        "gating_error": np.full(1000, np.nan) if model.joint else np.abs(steps[:, -1]),
    }

    def errors(fitted):
        loss = voronoi_loss(fitted, truth)
        return {
            "voronoi": loss.total,
            "weight_error": loss.weight,
            "gating_error": loss.gating,
            "exact_prompt_error": loss.exact_prompt_error,
        }

    constants = predict(model, truth, noise, errors)
    assert constants.keys() == expected.keys()
    for name, values in expected.items():
        assert constants[name] / np.sqrt(n) == pytest.approx(values.mean(), rel=0.1, nan_ok=True), name


@pytest.mark.parametrize(("gate", "gauges"), [("zero_init", 1), ("joint", 0), ("zero_init_unshared", 2 + 2)])
def test_function_error_is_chi_with_the_rank_of_freedom(gate, gauges):
    """The closed form, and the same mean by evaluating f at the drawn prompts."""
    model, truth = a_case(gate)
    x = stream(4, "held out").standard_normal((2000, 2))
    f = model(x, truth)
    by_draws = predict(
        model,
        truth,
        0.5,
        lambda fitted: {"on_x": np.sqrt(np.square(model(x, fitted) - f).sum(1).mean())},
        draws=256,
    )
    degrees = Layout(model, len(truth)).size - gauges
    chi = np.sqrt(stream(4, "chi").chisquare(degrees, 100_000)).mean()
    assert by_draws["function_error"] == pytest.approx(0.5 * chi, rel=0.005)
    assert by_draws["on_x"] == pytest.approx(by_draws["function_error"], rel=0.05)


def test_constants_are_proportional_to_noise_and_draws_keep_the_gauge():
    model, truth = a_case("zero_init")
    seen = []

    def errors(fitted):
        seen.append(fitted.b.mean() - truth.b.mean())
        return {"gating_error": abs(fitted.alpha - truth.alpha)}

    small, large = (predict(model, truth, noise, errors, draws=256) for noise in (0.1, 1.0))
    for name, value in small.items():
        assert 10 * value == pytest.approx(large[name], rel=1e-3)
    assert np.abs(seen).max() < 1e-12


def test_unshared_constants_do_not_depend_on_the_gauge():
    """Two truths of one function: keys shifted, values scaled against the gate; losses between canonical prompts."""
    model, truth = a_case("zero_init_unshared", "identity")
    assert truth.p_value is not None
    moved = Prompts(truth.p + np.array([0.5, -1.0]), truth.b, np.arctanh(np.tanh(0.8) / 2), 2 * truth.p_value)

    def constant(true):
        place = canonical(model, true).atoms
        return predict(
            model, true, 0.1, lambda fitted: {"atoms": np.linalg.norm(canonical(model, fitted).atoms - place)}
        )

    assert constant(truth)["atoms"] == pytest.approx(constant(moved)["atoms"], rel=0.02)


def test_bad_arguments():
    model, truth = a_case("zero_init")
    with pytest.raises(ValueError, match="gate joint has no alpha"):
        predict(model.with_gate("joint"), truth, 0.1, lambda fitted: {})
