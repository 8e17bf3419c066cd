"""Rates: slope of log mean error on log n, with an interval, and the verdict on a theory value.

A rate n^-r is a line of slope -r in the log-log plot. The theorems' rates carry log n, (log n / n)^r; the variant with
log(log n / n) as abscissa has that exponent as its slope. Both abscissas are signed so that the theory value is -r.

With one truth the interval is a bootstrap over replicates. With several, the slope is the mean of the truths' slopes,
each of its own mean errors, and the interval is Student's over truths: what another truth would give is part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from theory.arrays import count, number, real
from theory.theorems import Rate

DRAWS = 2000
MARGIN = 0.05
Errors = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class Slope:
    """A fitted slope, its 95 % interval, and behind it: range of n, least number of replicates, number of truths."""

    slope: float
    low: float
    high: float
    n_min: int
    n_max: int
    replicates: int
    truths: int = 1


def abscissa(n: np.ndarray, logarithm: bool = False) -> np.ndarray:
    """log n, or -log(log n / n) with `logarithm`."""
    n = np.asarray(n, float)
    return np.log(n) - np.log(np.log(n)) if logarithm else np.log(n)


def sound(errors: Errors) -> dict[int, np.ndarray]:
    """The errors without missing ones (nan: there was no such cell).

    Raises
    ------
    TypeError
        If a size is not a whole number, or an error not a real one.
    ValueError
        If a size is below 2 or has fewer than two errors, or one that is zero, negative or infinite: none of these has
        a logarithm, or a mean whose logarithm means anything.
    """
    if not isinstance(errors, Mapping) or not errors:
        raise ValueError(f"errors must map one size or more to its errors; got {errors!r}")
    found = {}
    for n, every in errors.items():
        values = np.atleast_1d(real(f"errors at n = {count('a size n', n, 2)}", every))
        values = values[~np.isnan(values)]
        if len(values) < 2:
            raise ValueError(f"a slope needs at least 2 replicates at every n; n = {n} has {len(values)}")
        bad = values[~((values > 0) & (values < np.inf))]
        if len(bad):
            raise ValueError(f"errors must be positive and finite, to have a logarithm; n = {n} has {bad[0]:g}")
        found[n] = values
    return found


def bootstrap_means(errors: Errors, rng: np.random.Generator) -> np.ndarray:
    """Mean error at each n under resampling of replicates, (DRAWS + 1, number of n); row 0 has the means themselves.

    Replicates of different n are independent, so each n is resampled on its own. Missing errors (nan) are left out.

    Raises
    ------
    ValueError
        As `sound`.
    """
    columns = []
    for values in sound(errors).values():
        index = rng.integers(len(values), size=(DRAWS, len(values)))
        columns.append(np.r_[values.mean(), values[index].mean(1)])
    return np.column_stack(columns)


def slope(errors: Errors, rng: np.random.Generator, logarithm: bool = False) -> Slope:
    """Least-squares slope of log mean error on the abscissa, over all n given, with a bootstrap interval.

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
        If there are fewer than two sizes, fewer than two replicates at one, or an error that has no logarithm.
    """
    return slope_of(errors, bootstrap_means(errors, rng), logarithm)


def slope_of(errors: Errors, means: np.ndarray, logarithm: bool = False) -> Slope:
    """`slope`, from the bootstrap means of the errors."""
    draws = _line(list(errors), means, logarithm)
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return Slope(float(draws[0]), float(low), float(high), min(errors), max(errors), _least([errors]))


def slope_over_truths(truths: Sequence[Errors], logarithm: bool = False) -> Slope:
    """Mean of the slopes of several truths, with a t interval over truths.

    Parameters
    ----------
    truths : sequence of mappings from n to ndarray, (R,)
        Errors of the replicates, for each of two or more truths; all of the same sizes.

    Raises
    ------
    ValueError
        If there are fewer than two truths or sizes, sizes differ, or as `sound`.
    """
    if not isinstance(truths, Sequence) or not all(isinstance(errors, Mapping) for errors in truths):
        raise TypeError(f"truths must be a sequence of mappings from n to errors; got {truths!r}")
    if len(truths) < 2:
        raise ValueError(f"a t interval needs at least 2 truths; got {len(truths)}")
    sizes = list(truths[0])
    if any(list(errors) != sizes for errors in truths):
        raise ValueError(f"all truths must have the same sizes; got {[list(errors) for errors in truths]}")
    means = np.array([[values.mean() for values in sound(errors).values()] for errors in truths])
    every = _line(sizes, means, logarithm)
    half = stdtrit(len(every) - 1, 0.975) * every.std(ddof=1) / np.sqrt(len(every))
    middle = float(every.mean())
    return Slope(middle, middle - half, middle + half, min(sizes), max(sizes), _least(truths), len(truths))


def verdict(measured: Slope, theory: Rate | float | None) -> str:
    """The rule fixed before any run: is the interval within the theory value plus or minus 0.05?

    Parameters
    ----------
    measured : Slope
    theory : Rate, float or None
        A number is an exact rate.

    Returns
    -------
    str
        `no theorem` where there is no theory value; `not testable` where it is a uniform statement. Else `consistent`
        when the interval lies within theory +- 0.05; `faster` or `slower` when it lies wholly outside, below or above;
        otherwise `not resolved`. `faster` than an upper bound contradicts nothing: `within bound`.

    Raises
    ------
    ValueError
        If the slope or its interval is not finite.
    """
    if not np.isfinite(real("the slope", [measured.slope, measured.low, measured.high])).all():
        raise ValueError(f"a verdict needs a finite slope and interval; got {measured}")
    if theory is None:
        return "no theorem"
    value, kind = (theory.slope, theory.kind) if isinstance(theory, Rate) else (theory, "exact")
    value = number("theory", value, -np.inf)
    if kind == "uniform":
        return "not testable"
    if kind == "bound" and measured.high <= value + MARGIN:
        return "within bound"
    if value - MARGIN <= measured.low and measured.high <= value + MARGIN:
        return "consistent"
    if measured.high < value - MARGIN:
        return "faster"
    return "slower" if measured.low > value + MARGIN else "not resolved"


def _line(sizes: Sequence[int], means: np.ndarray, logarithm: bool) -> np.ndarray:
    """Least-squares slopes of the log of each row of means."""
    if len(sizes) < 2:
        raise ValueError(f"a slope needs at least 2 sizes; got {list(sizes)}")
    x = abscissa(np.array(sizes), logarithm)
    x = x - x.mean()
    return np.log(means) @ x / (x @ x)


def _least(truths: Sequence[Errors]) -> int:
    return min(int((~np.isnan(v)).sum()) for errors in truths for v in errors.values())
