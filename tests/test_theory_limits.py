"""The theory part at its limits: what is no data or no prompts is refused by name, and hard data get a right answer."""

from dataclasses import replace

import numpy as np
import pytest
from problems import random_problem
from test_estimate import BOX, data

from theory.arrays import count, number, real
from theory.attention import head_to_model, rotations
from theory.box import Box
from theory.estimate import fit
from theory.identifiability import check
from theory.jacobian import jacobian
from theory.model import GATES, MoERegression, Prompts
from theory.reduction import LARGEST
from theory.starts import anywhere, near
from theory.voronoi import voronoi_loss

RNG = np.random.default_rng(0)
NOT_NUMBERS = {
    "complex": lambda a: a + 0j,
    "masked": lambda a: np.ma.masked_array(a, np.zeros(np.shape(a), bool)),
    "object": lambda a: np.asarray(a).astype(object),
    "words": lambda a: np.asarray(a).astype(str),
    "dates": lambda a: np.zeros(np.shape(a), "datetime64[D]"),
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "none": lambda a: None,
}


@pytest.mark.parametrize("spoil", NOT_NUMBERS.values(), ids=NOT_NUMBERS)
def test_what_is_no_real_number_is_refused_by_name(spoil):
    """In every public function that takes arrays; never converted in silence."""
    model, truth = random_problem()
    x, y, _ = data(model, truth, 50, 0.1, "limits")
    parts = {name: getattr(model, name) for name in ("A", "a", "eta", "B", "C")}
    W = np.ones((4, 2))
    calls = {
        "p": lambda: Prompts(spoil(truth.p), truth.b, 0.8),
        "b": lambda: Prompts(truth.p, spoil(truth.b), 0.8),
        "p_value": lambda: Prompts(truth.p, truth.b, 0.8, spoil(truth.p)),
        "x": lambda: model(spoil(x), truth),
        "y": lambda: fit(model, (x, spoil(y)), truth),
        "W_q": lambda: head_to_model(spoil(W), W, W, 3),
    }
    calls |= {name: lambda name=name: MoERegression(**parts | {name: spoil(parts[name])}) for name in parts}
    for name, call in calls.items():
        if not (name == "p_value" and spoil(0) is None):  # None is how one leaves out p_value
            with pytest.raises(TypeError, match=f"^{name} must"):
                call()
    for call in (lambda: fit(model, (spoil(x), y), truth), lambda: jacobian(model, spoil(x), truth)):
        with pytest.raises(TypeError, match=r"^x must"):
            call()


@pytest.mark.parametrize("gate", GATES)
def test_a_truth_or_start_of_another_model_is_refused(gate):
    """Another gate, another length, NaN: in fit, the model itself, its Jacobian and the check of identifiability."""
    model, truth = random_problem(gate)
    x, y, rng = data(model, truth, 60, 0.1, "other", gate)
    start = near(truth, 3, rng)
    others = [random_problem(g)[1] for g in GATES if g != gate] + [random_problem(gate, d=2)[1]]
    others += [replace(truth, p=truth.p * np.nan), replace(truth, b=truth.b + np.inf)]
    for other in others:
        for call in (
            lambda other=other: fit(model, (x, y), start, BOX, other),
            lambda other=other: fit(model, (x, y), other, BOX),
            lambda other=other: model(x, other),
            lambda other=other: jacobian(model, x, other),
            lambda other=other: check(model, other),
        ):
            with pytest.raises(ValueError, match=r"alpha|p_value|must be \(L, 3\)|must be finite"):
                call()


def test_voronoi_loss_compares_like_with_like():
    shared = Prompts(np.ones((2, 4)), np.zeros(2), 0.8)
    unshared = Prompts(np.ones((2, 2)), np.zeros(2), 0.8, np.ones((2, 2)))
    for fitted, truth in ((shared, unshared), (unshared, shared), (shared, replace(shared, alpha=None))):
        with pytest.raises(ValueError, match=r"of one gate and one length; got (un)?shared prompts of length"):
            voronoi_loss(fitted, truth)
    for name in ("p", "b", "alpha"):
        for bad in (np.nan, np.inf):
            with pytest.raises(ValueError, match="fitted prompts must be finite"):
                voronoi_loss(replace(shared, **{name: getattr(shared, name) + bad}), shared)
    with pytest.raises(TypeError, match="truth must be of class Prompts; got an object of class ndarray"):
        voronoi_loss(shared, shared.p)
    joint = replace(shared, alpha=None)
    with pytest.raises(ValueError, match="weights are too large"):
        voronoi_loss(replace(joint, b=joint.b + 1e4), joint)


def test_numbers_out_of_their_domain_are_refused_by_name():
    model, truth = random_problem()
    for call, words in (
        (lambda: Box(prompt="4"), r"Box\.prompt must hold real numbers"),
        (lambda: Box(alpha=-1), r"Box\.alpha must be above 0 and finite; got -1"),
        (lambda: Box(bias=np.inf), r"Box\.bias must be above 0 and finite"),
        (lambda: near(truth, 3.5, RNG), "size must be a whole number"),
        (lambda: near(truth, 3, RNG, np.nan), "jitter must be at least 0 and finite"),
        (lambda: anywhere(model, 0, BOX, RNG, 3), "size must be at least 1"),
        (lambda: anywhere(model, 3, BOX, RNG, -3), "count must be at least 1"),
        (lambda: check(model, truth, over=-1), "over must be at least 0"),
        (lambda: check(model, truth, bound=0), "bound must be above 0"),
        (lambda: list(model.sample(truth, -0.1, 10, RNG)), "noise must be at least 0"),
        (lambda: list(model.sample(truth, 0.1, 0, RNG)), "n must be at least 1"),
        (lambda: Prompts(np.empty((0, 3)), []), r"p must be \(L, m\) and b \(L,\), with L, m >= 1"),
        (lambda: Prompts(truth.p, truth.b, [0.8, 0.9]), "alpha must be one number"),
        (lambda: MoERegression(model.A, model.a, model.eta, model.B, model.C, 3), "activation must be a name"),
        (lambda: rotations([0, 1], 4, -1.0), "theta must be above 0"),
        (lambda: fit(model, (np.ones((50, 3)), np.ones((50, 3))), truth, max_iterations=0), "max_iterations must be"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            call()
    assert real("x", [1, True]).dtype == float
    assert (number("noise", np.float32(0), 0), count("n", np.int64(3))) == (0.0, 3)


@pytest.mark.parametrize("gate", GATES)
def test_fewer_observations_than_parameters_are_refused(gate):
    """A residual that can be made 0 tells nothing: no such fit may say that it converged."""
    model, truth = random_problem(gate, d=3, d_out=5)
    least = (3 * (3 if not model.unshared else 6) + 3 + (not model.joint)) / (4 if model.joint else 3)
    x, y, rng = data(model, truth, 40, 0.1, "few", gate)
    for n in (1, int(least)):
        with pytest.raises(ValueError, match=rf"parameters of 3 prompts; got n = {n}$"):
            fit(model, (x[:n], y[:n]), near(truth, 3, rng))
    assert fit(model, (x, y), near(truth, 3, rng)).sse > 0
    with pytest.raises(ValueError, match="at least one row"):
        fit(model, [], truth)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("scale", [100, -100, 1e6])
def test_every_coordinate_at_a_bound(gate, scale):
    """Responses far beyond the box: an answer inside it, at its bounds, with the SSE of the model."""
    model, truth = random_problem(gate, d=2, d_out=2)
    x, y, rng = data(model, truth, 500, 0.1, "bounds", gate)
    for size in (1, 3, 4):
        start = near(truth, size, rng) if size >= 3 else anywhere(model, 1, BOX, rng, 1)
        result = fit(model, (x, scale * y), start, BOX)
        assert result.at_bound
        assert np.abs(result.prompts.atoms).max() <= BOX.prompt
        own = ((scale * y - model(x, result.prompts)) ** 2).sum()
        assert result.sse == pytest.approx(own, rel=1e-8)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("scale", [1e-6, 1e3, 1e6, 1e30])
def test_x_in_other_units(gate, scale):
    """x scaled up and the model's A, eta and B down: the same function, and the same minimum."""
    for m in (2, 4):
        model, truth = random_problem(gate, d=2, d_out=4, m=m)
        other = MoERegression(model.A / scale**2, model.a, model.eta / scale, model.B / scale, model.C, gate=gate)
        x, y, rng = data(model, truth, 400, 0.1, "units", gate, m)
        start = near(truth, 3, rng)
        here, there = fit(model, (x, y), start, BOX), fit(other, (scale * x, y), start, BOX)
        assert there.sse == pytest.approx(here.sse, rel=1e-9)
        assert there.status == here.status


@pytest.mark.parametrize("gate", GATES)
def test_numbers_too_large_are_refused_by_name(gate):
    """Steps in place of a softmax, sums of squares that overflow: no error from inside, no other minimum."""
    model, truth = random_problem(gate)
    x, y, rng = data(model, truth, 100, 0.1, "large", gate)
    start = near(truth, 3, rng)
    for scale in (1e4, 1e6, 1e60, 1e100, 1e160):
        words = "softmax is a step" if scale < LARGEST / 10 else r"x must stay under 1e\+70"
        with pytest.raises(ValueError, match=words):
            fit(model, (scale * x, y), start)
    for scale in (1e100, 1e160, 1e300):
        with pytest.raises(ValueError, match=r"y must stay under 1e\+70"):
            fit(model, (x, scale * y), start)
    with pytest.raises(ValueError, match="f overflows"):
        model(x * 1e9, replace(truth, p=np.sign(truth.p) * 1e300))
    with pytest.raises(ValueError, match="f0\\(x\\) overflows"):
        model(x * 1e160, truth)


HARD = {
    "y zero": lambda x, y: (x, 0 * y),
    "y constant": lambda x, y: (x, 0 * y + 3),
    "x zero": lambda x, y: (0 * x, y),
    "one row again and again": lambda x, y: (0 * x + x[0], 0 * y + y[0]),
    "ten rows again and again": lambda x, y: (np.tile(x[:10], (20, 1)), np.tile(y[:10], (20, 1))),
    "x on a line": lambda x, y: (x * [1, 0, 0], y),
    "y tiny": lambda x, y: (x, 1e-150 * y),
    "x tiny": lambda x, y: (1e-200 * x, y),
    "an outlier": lambda x, y: (x, y + 1e6 * (np.arange(len(y)) == 7)[:, None]),
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("spoil", HARD.values(), ids=HARD)
def test_poor_data_get_a_right_answer(gate, spoil):
    """No warning, the SSE of the model, no higher than at the start, inside the box."""
    model, truth = random_problem(gate)
    x, y, rng = data(model, truth, 200, 0.1, "poor", gate)
    x, y = spoil(x, y)
    start = near(truth, 4, rng)
    result = fit(model, (x, y), start, BOX, truth)
    own, before = (((y - model(x, prompts)) ** 2).sum() for prompts in (result.prompts, start))
    assert result.sse == pytest.approx(own, rel=1e-8, abs=1e-12 * (y**2).sum() + 1e-300)
    assert result.sse <= before * (1 + 1e-9)
    assert np.abs(result.prompts.atoms).max() <= BOX.prompt
