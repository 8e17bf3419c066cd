"""Truths that move, against other routes: a sample in place of quadrature, the information matrix, limits."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from common.streams import stream
from theory.asymptotics import information
from theory.coordinates import Layout
from theory.errors import halves_errors, merged_loss
from theory.jacobian import jacobian
from theory.model import Prompts
from theory.studies import STUDIES, Study
from theory.truths import Moments, directions, halves
from theory.voronoi import voronoi_loss

MOVING = [name for name, study in STUDIES.items() if study.moving in ("quarter", "sixth", "values")]


def seen(model, whole, split, noise, n):
    """|P (f_split - f_whole)| sqrt(n) / nu on a sample of 20,000 inputs: good to about 2 %."""
    x = stream(5, "sample").standard_normal((20_000, model.d))
    change = (model(x, split) - model(x, whole)).ravel()
    J = jacobian(model, x, whole)
    rest = change - J @ np.linalg.lstsq(J, change)[0]
    return np.linalg.norm(rest) / np.sqrt(len(x)) * np.sqrt(n) / noise


@pytest.mark.parametrize("name", ["moving-quarter", "moving-unshared", "moving-unshared-zero"])
@pytest.mark.parametrize("number", [0, 3])
def test_the_split_is_one_standard_error(name, number):
    study = STUDIES[name]
    setting = study.setting(number)
    for n in (study.sizes[0], study.sizes[-1]):
        split = setting.at(n)
        assert len(split) == study.fitted
        assert seen(setting.model, setting.whole, split, study.noise, n) == pytest.approx(1, rel=0.06)


@pytest.mark.parametrize("name", ["moving-sixth", "moving-sixth-joint"])
@pytest.mark.parametrize("number", [0, 3])
def test_the_asymmetry_has_standard_error_one(name, number):
    """Cramer and Rao at the moving truth, an independent route: b_j - b_last has standard error 1 in the limit."""
    study = STUDIES[name]
    model, truth, n = study.setting(number).model, study.setting(number).at(10**6), 10**6
    j = int(np.linalg.norm(truth.p[:-1] - truth.p[-1], axis=1).argmin())
    values, vectors = np.linalg.eigh(information(model, truth))
    kept = slice(0 if model.joint else 1, None)  # a common shift of b is seen by the joint gates only
    b = Layout(model, len(truth)).b
    along = vectors[b[j], kept] - vectors[b[-1], kept]
    error = study.noise / np.sqrt(n) * np.sqrt((along**2 / values[kept]).sum())
    assert error == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", MOVING)
def test_halves_come_together_at_their_pace(name):
    """In one place at n to infinity, weight, gate and middle those of the whole; distance c n^-rate."""
    study = STUDIES[name]
    rate = {"quarter": 1 / 4, "sixth": 1 / 6, "values": 1 / 2}[study.moving]
    setting = study.setting(1)
    near, far = setting.at(10**6), setting.at(10**2)
    j = int(np.linalg.norm(near.p[:-1] - near.p[-1], axis=1).argmin())
    gap = [np.linalg.norm(t.p[j] - t.p[-1]) for t in (far, near)]
    assert gap[0] / gap[1] == pytest.approx(10 ** (4 * rate), rel=1e-6)
    np.testing.assert_allclose((near.p[j] + near.p[-1]) / 2, setting.whole.p[j], atol=1e-12)
    assert near.weights[[j, -1]].sum() == pytest.approx(setting.whole.weights[j])
    assert near.alpha == setting.whole.alpha
    if study.moving == "values":
        assert near.p_value is not None
        assert np.linalg.norm(near.p_value[j] - near.p_value[-1]) == pytest.approx(1)


def test_vanishing_gate():
    study = STUDIES["vanishing-gate"]
    at = study.setting().at
    assert at(316).alpha == pytest.approx(0.8)
    assert at(316 * 16).alpha == pytest.approx(0.4)
    assert np.array_equal(at(10**5).p, study.setting().whole.p)


def test_third_moments_are_free_of_even_ones():
    """The change of f by an asymmetry at fixed second moment, a direct route, against the derivative."""
    setting = STUDIES["moving-sixth"].setting(2)
    moments, v, h = Moments(setting.model, setting.whole), directions(2)[0], 0.004
    rho = 0.3
    split = halves(setting.whole, 1, 0 * v)
    p, b = split.p.copy(), split.b.copy()
    p[1], p[-1] = p[1] + h * np.sqrt((1 - rho) / rho) * v, p[-1] - h * np.sqrt(rho / (1 - rho)) * v
    b[[1, -1]] += np.log([2 * rho, 2 * (1 - rho)])
    odd = moments.change(replace(split, p=p, b=b)) - moments.change(halves(setting.whole, 1, h * v))
    third = h**3 * (1 - 2 * rho) / np.sqrt(rho * (1 - rho))
    expected = moments.third(1, v)
    assert odd @ expected / (expected @ expected) == pytest.approx(third, rel=0.01)


def test_truths_of_one_seed():
    """Truth 0 is the draw of one truth; others differ, model included; every truth again the same."""
    one, ten = replace(STUDIES["quarter-rate"], truths=1), STUDIES["quarter-rate"]
    np.testing.assert_array_equal(one.truth.p, ten.setting(0).whole.p)
    np.testing.assert_array_equal(STUDIES["over-linear"].truth.p, ten.truth.p)
    settings = [ten.setting(k) for k in range(10)]
    for s, t in combinations(settings, 2):
        assert not np.allclose(s.whole.p, t.whole.p)
        assert not np.allclose(s.model.eta, t.model.eta)


def test_projection_is_the_nearest_with_fewer_prompts():
    """Stationary on a sample that it has not seen, and no random prompts of that size come nearer."""
    study = STUDIES["under"]
    model, whole, best = study.model, study.truth, study.setting().target(1000)
    assert len(best) == len(whole) - 1
    x = stream(6, "sample").standard_normal((200_000, model.d))
    residual = (model(x, whole) - model(x, best)).ravel()
    J = jacobian(model, x[:20_000], best)
    slope = J.T @ residual[: len(J)] / np.sqrt((J**2).sum(0) * (residual[: len(J)] ** 2).sum())
    assert np.abs(slope).max() < 4 / np.sqrt(20_000) * 2
    rng = stream(6, "others")
    for _ in range(20):
        other = Prompts(best.p + 0.2 * rng.standard_normal(best.p.shape), best.b, best.alpha)
        assert (residual**2).sum() < ((model(x, whole) - model(x, other)) ** 2).sum()


def test_impossible_truths_are_refused():
    with pytest.raises(ValueError, match=r"apart must leave room for 3 prompts .* none of 1000 draws has them 100"):
        replace(STUDIES["exact-linear"], apart=100.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": -0.1}, "noise must lie between"),
        ({"noise": float("nan")}, "noise must lie between"),
        ({"noise": 1e200}, "noise must lie between"),
        ({"extra": -1}, "extra must be a whole number of 0 or more; got -1"),
        ({"truths": 0}, "truths must be a whole number of 1 or more"),
        ({"replicates": 2.5}, "replicates must be a whole number"),
        ({"start": "middle"}, "start must be one of 'near', 'global'; got 'middle'"),
        ({"moving": "half"}, "moving must be one of"),
        ({"theory_of": "nothing"}, "theory_of must be one of"),
        ({"gate": "open"}, "gate must be one of"),
        ({"sizes": (100, 100)}, "sizes must increase"),
        ({"sizes": (100.5, 200)}, "sizes must be whole numbers"),
        ({"spread": (2.0, -2.0)}, "spread must increase"),
        ({"apart": float("inf")}, "apart be 0 or more"),
        ({"fewer": 3}, "fewer must leave a prompt"),
        ({"fewer": 1, "extra": 1}, "stand without extra"),
    ],
)
def test_studies_refuse_nonsense(change, message):
    with pytest.raises(ValueError, match=message):
        Study(**{"name": "mine", "about": "", "L": 3} | change)


def test_merged_loss():
    """Split prompts merge back, to D = 0; a light one far away joins the prompt that this costs least."""
    truth = Prompts(np.array([[0.0, 0.0], [2.0, 0.0]]), np.log([0.5, 0.5]), 0.8)
    split = Prompts(np.array([[-0.1, 0.0], [0.3, 0.0], [2.0, 0.0]]), np.log([0.375, 0.125, 0.5]), 0.8)
    assert merged_loss(split, truth).total == pytest.approx(0, abs=1e-12)
    far = Prompts(np.array([[0.0, 0.0], [2.0, 0.0], [3.5, 0.0]]), np.log([0.5, 0.499, 0.001]), 0.8)
    assert merged_loss(far, truth).total == pytest.approx(0.001 * 1.5, rel=1e-2)
    two = split.take(np.array([0, 2]))
    assert merged_loss(two, truth).total == voronoi_loss(two, truth).total


def test_errors_of_the_halves():
    """By hand: distances to the nearest fitted prompt, and values after assignment in the other order."""
    p, value = np.array([[0.0, 0.0], [1.0, 0.0], [1.1, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
    truth = Prompts(p, np.zeros(3), None, value)
    off = np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.4]])
    moved = Prompts(p, np.zeros(3), None, value + off).take(np.array([2, 0, 1]))
    found = halves_errors(moved, truth)
    assert found["value_error"] == pytest.approx(0.35)
    assert found["moving_prompt_error"] == pytest.approx(0.35)
    off = np.array([[0.0, 0.0], [0.0, 0.2], [5.0, 0.0]])
    shared = halves_errors(Prompts(p + off, np.zeros(3), 0.8), Prompts(p, np.zeros(3), 0.8))
    assert shared["moving_prompt_error"] == pytest.approx((0.2 + np.hypot(0.1, 0.2)) / 2)
    assert np.isnan(shared["value_error"])
