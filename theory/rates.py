"""Rates: slope of log mean error on log n, with bootstrap intervals over replicates, and the verdict on a theory value.

A rate n^-r is a line of slope -r in the log-log plot. The theorems' rates carry log n, (log n / n)^r; the variant with
log(log n / n) as abscissa has that exponent as its slope. Both abscissas are signed so that the theory value is -r.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

DRAWS = 2000
MARGIN = 0.05


@dataclass(frozen=True)
class Slope:
    """A fitted slope, its 95 % percentile interval, and the range of n and least number of replicates behind it."""

    slope: float
    low: float
    high: float
    n_min: int
    n_max: int
    replicates: int


def abscissa(n: np.ndarray, logarithm: bool = False) -> np.ndarray:
    """log n, or -log(log n / n) with `logarithm`."""
    n = np.asarray(n, float)
    return np.log(n) - np.log(np.log(n)) if logarithm else np.log(n)


def bootstrap_means(errors: Mapping[int, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Mean error at each n under resampling of replicates, (DRAWS + 1, number of n); row 0 has the means themselves.

    Replicates of different n are independent, so each n is resampled on its own. Missing errors (nan: there was no such
    cell) are left out.
    """
    if not errors:
        raise ValueError("errors must hold at least one size; got none")
    columns = []
    for n, values in errors.items():
        values = np.asarray(values, float)
        values = values[~np.isnan(values)]
        if len(values) < 2:
            raise ValueError(f"a slope needs at least 2 replicates at every n; n = {n} has {len(values)}")
        index = rng.integers(len(values), size=(DRAWS, len(values)))
        columns.append(np.r_[values.mean(), values[index].mean(1)])
    return np.column_stack(columns)


def slope(errors: Mapping[int, np.ndarray], rng: np.random.Generator, logarithm: bool = False) -> Slope:
    """Least-squares slope of log mean error on the abscissa, over all n given.

    Parameters
    ----------
    errors : mapping from n to ndarray, (R,)
        Errors of the replicates at each of two or more sizes.
    rng : numpy Generator
        For the bootstrap.
    logarithm : bool
        Use log n / n in place of 1 / n.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or fewer than two replicates at one.
    """
    return slope_of(errors, bootstrap_means(errors, rng), logarithm)


def slope_of(errors: Mapping[int, np.ndarray], means: np.ndarray, logarithm: bool = False) -> Slope:
    """`slope`, from the bootstrap means of the errors."""
    if len(errors) < 2:
        raise ValueError(f"a slope needs at least 2 sizes; got {list(errors)}")
    x = abscissa(np.array(list(errors)), logarithm)
    x = x - x.mean()
    draws = np.log(means) @ x / (x @ x)
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    least = min(int((~np.isnan(v)).sum()) for v in errors.values())
    return Slope(float(draws[0]), float(low), float(high), min(errors), max(errors), least)


def local_slopes(errors: Mapping[int, np.ndarray], rng: np.random.Generator) -> list[Slope]:
    """Slope between each n and the next: where the curve stands, and where it is heading."""
    sizes = list(errors)
    return [slope({n: errors[n] for n in pair}, rng) for pair in pairwise(sizes)]


def verdict(measured: Slope, theory: float | None) -> str:
    """The rule fixed before any run: is the interval within the theory value plus or minus 0.05?

    Returns
    -------
    str
        `consistent` when the interval lies within theory +- 0.05; `faster` or `slower` when it lies wholly outside,
        below or above; otherwise `not resolved`. `no theorem` where there is no theory value. The theorems are
        upper bounds: `faster` contradicts none of them.
    """
    if theory is None:
        return "no theorem"
    if theory - MARGIN <= measured.low and measured.high <= theory + MARGIN:
        return "consistent"
    if measured.high < theory - MARGIN:
        return "faster"
    return "slower" if measured.low > theory + MARGIN else "not resolved"
