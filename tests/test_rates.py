"""Slopes on exact power laws, coverage of their intervals, and the verdict rule."""

from dataclasses import replace

import numpy as np
import pytest

from theory.rates import Slope, local_slopes, slope, slope_over_truths, verdict
from theory.tables import VERDICTS
from theory.theorems import Rate

SIZES = [1000, 10_000, 100_000]


def test_exact_power_law():
    errors = {n: np.full(5, 3 * n**-0.5) for n in SIZES}
    found = slope(errors, np.random.default_rng(0))
    assert found.slope == pytest.approx(-0.5, abs=1e-12)
    assert found.low == pytest.approx(-0.5, abs=1e-12)
    assert (found.n_min, found.n_max, found.replicates) == (1000, 100_000, 5)
    with_log = {n: np.full(5, (np.log(n) / n) ** 0.25) for n in SIZES}
    assert slope(with_log, np.random.default_rng(0), logarithm=True).slope == pytest.approx(-0.25, abs=1e-12)
    assert [s.slope for s in local_slopes(errors, np.random.default_rng(0))] == pytest.approx([-0.5, -0.5])


def test_interval_covers_as_often_as_it_says():
    """Errors |N(0, 1/n)|, 200 experiments: at a coverage of 0.94 more than 24 misses have probability 3e-4."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(200):
        errors = {n: np.abs(rng.standard_normal(60)) / np.sqrt(n) for n in SIZES}
        found = slope(errors, rng)
        missed += not found.low <= -0.5 <= found.high
    assert 2 <= missed <= 24


def test_missing_errors_are_left_out():
    errors = {n: np.r_[np.full(4, n**-0.5), np.nan] for n in SIZES}
    assert slope(errors, np.random.default_rng(0)).slope == pytest.approx(-0.5, abs=1e-12)
    assert slope(errors, np.random.default_rng(0)).replicates == 4
    with pytest.raises(ValueError, match="n = 1000 has 1"):
        slope({1000: np.array([1.0, np.nan]), 10_000: np.ones(3)}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 2 sizes"):
        slope({1000: np.ones(3)}, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("low", "high", "theory", "expected"),
    [
        (-0.52, -0.48, -0.5, "consistent"),
        (-0.55, -0.45, -0.5, "consistent"),
        (-0.57, -0.48, -0.5, "not resolved"),
        (-0.70, -0.56, -0.5, "faster"),
        (-0.44, -0.30, -0.5, "slower"),
        (-0.44, -0.30, None, "no theorem"),
        (-0.70, -0.56, Rate(-0.5, "bound"), "within bound"),
        (-0.57, -0.46, Rate(-0.5, "bound"), "within bound"),
        (-0.57, -0.44, Rate(-0.5, "bound"), "not resolved"),
        (-0.44, -0.30, Rate(-0.5, "bound"), "slower"),
        (-0.44, -0.30, Rate(0.0, "uniform"), "not testable"),
        (-0.28, -0.23, Rate(-0.25), "consistent"),
    ],
)
def test_verdict_rule(low, high, theory, expected):
    assert verdict(Slope((low + high) / 2, low, high, 1, 2, 3), theory) == expected
    assert expected in VERDICTS


@pytest.mark.parametrize("bad", [0.0, -0.1, np.inf, -np.inf])
def test_errors_without_a_logarithm_are_refused(bad):
    errors = {100: np.array([0.3, bad, 0.2]), 1000: np.array([0.1, 0.1, 0.2])}
    with pytest.raises(ValueError, match=f"must be positive and finite, to have a logarithm; n = 100 has {bad:g}"):
        slope(errors, np.random.default_rng(0))
    with pytest.raises(ValueError, match="positive and finite"):
        slope_over_truths([errors, errors])


@pytest.mark.parametrize("field", ["slope", "low", "high"])
def test_no_verdict_on_what_is_no_number(field):
    broken = replace(Slope(-0.5, -0.51, -0.49, 1, 2, 3), **{field: np.nan})
    with pytest.raises(ValueError, match="needs a finite slope and interval"):
        verdict(broken, -0.5)


def test_slope_over_truths():
    """Exact power laws of three slopes: their mean, and Student's interval by hand (2 degrees of freedom: 4.3027)."""
    slopes = np.array([-0.2, -0.25, -0.33])
    truths = [{n: np.full(3, c * n**s) for n in SIZES} for c, s in zip((1, 5, 0.2), slopes, strict=True)]
    found = slope_over_truths(truths)
    half = 4.302653 * slopes.std(ddof=1) / np.sqrt(3)
    assert [found.slope, found.low, found.high] == pytest.approx(slopes.mean() + half * np.array([0, -1, 1]), abs=1e-6)
    assert (found.replicates, found.truths) == (3, 3)
    with pytest.raises(ValueError, match="at least 2 truths; got 1"):
        slope_over_truths(truths[:1])
    with pytest.raises(ValueError, match="the same sizes"):
        slope_over_truths([truths[0], {1000: np.ones(3), 10_000: np.ones(3)}])


def test_interval_over_truths_covers_as_often_as_it_says():
    """Slopes of truths N(-0.25, 0.05^2), 200 experiments of 5 truths: coverage 0.95, more than 22 misses have 1e-4."""
    rng, missed = np.random.default_rng(2), 0
    for _ in range(200):
        truths = [{n: np.abs(rng.standard_normal(20)) * n**s for n in SIZES} for s in rng.normal(-0.25, 0.05, 5)]
        found = slope_over_truths(truths)
        missed += not found.low <= -0.25 <= found.high
    assert 1 <= missed <= 22
