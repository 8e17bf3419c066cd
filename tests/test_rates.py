"""Slopes on exact power laws, coverage of their intervals, and the verdict rule."""

import numpy as np
import pytest

from theory.rates import Slope, local_slopes, slope, verdict

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
    ],
)
def test_verdict_rule(low, high, theory, expected):
    assert verdict(Slope((low + high) / 2, low, high, 1, 2, 3), theory) == expected
