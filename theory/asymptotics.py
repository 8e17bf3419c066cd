"""Constants, not only slopes: the whole error curve of an exact fit, with no free parameter.

Where the truth is identified and L' = L, least squares is asymptotically normal,

    sqrt(n) (theta^ - theta*) -> N(0, nu^2 I^+),     I = E[J(X)' J(X)],   J = d f / d theta at theta*,

with the pseudo-inverse across the gauges, along which nothing is estimated (it keeps the biases centred). So an error
that is homogeneous of degree one in theta^ - theta* near 0, as all error columns of an exact study are, has mean

    E[error] ~ c / sqrt(n),     c = E[error of a fit at theta* + h delta] / h,   delta ~ N(0, nu^2 I^+),   h -> 0.

For the function error this is exact: n |f^ - f*|^2 / nu^2 is chi-squared with rank I degrees of freedom, hence

    c = nu sqrt(2) Gamma((r + 1) / 2) / Gamma(r / 2),     r = rank I: parameters less gauges.

The paper proves rates only; the constants are classical (asymptotic normality of least squares, Jennrich 1969).
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import gammaln
from scipy.stats import qmc

from common.streams import stream
from theory.coordinates import Layout
from theory.model import MoERegression, Prompts
from theory.problem import LeastSquares
from theory.reduction import reduce

H = 1e-6  # terms of second order are this small, and so is rounding over it: 1e-16 / 1e-6 = 1e-10
GAUGE = 1e-13  # eigenvalues below this share of the largest are gauges; `theory.identifiability` admits none else
CHUNK = 1 << 13


def information(model: MoERegression, truth: Prompts, points: int = 1 << 18, seed: int = 0) -> np.ndarray:
    """I = E[J'J] for X ~ N(0, I_d): the Gram of the fits at scrambled Sobol points.

    Parameters
    ----------
    model : MoERegression
    truth : Prompts
    points : int
        A power of two, at least 8192. With the default, standard errors of theta^ are right to 0.3 % (measured).
    seed : int

    Returns
    -------
    ndarray, (K, K)
        In the order of `theory.coordinates.Layout`.

    Raises
    ------
    ValueError
        If the prompts do not fit the model.
    """
    model.check_prompts(truth)
    layout, no_y = Layout(model, len(truth)), np.zeros((CHUNK, model.d_out))  # J does not depend on y
    chunks = np.split(_normal(model.d, points, seed, "information"), points // CHUNK)
    problem = LeastSquares(model, reduce(model, ((x, no_y) for x in chunks)), layout)
    return problem(layout.pack(truth))[2] / points


def predict(
    model: MoERegression,
    truth: Prompts,
    noise: float,
    errors: Callable[[Prompts], Mapping],
    draws: int = 1 << 11,
    seed: int = 0,
) -> dict[str, float]:
    """Constants c with mean error ~ c / sqrt(n) of exact fits, one for each error.

    Parameters
    ----------
    model : MoERegression
    truth : Prompts
        Identified: see `theory.identifiability.require`.
    noise : float
        nu.
    errors : callable
        Fitted prompts -> errors by name, as a study computes them from a fit; each homogeneous of degree one near the
        truth and blind to the gauges. What is not a float is left out.
    draws : int
        Gaussian draws of theta, a power of two; with the default, constants are right to 0.3 % (measured).
    seed : int

    Returns
    -------
    dict
        The names of `errors`; `function_error`, where it is not among them, is the closed form above.

    Raises
    ------
    ValueError
        If the prompts do not fit the model.
    """
    layout = Layout(model, len(truth))
    values, vectors = np.linalg.eigh(information(model, truth, seed=seed))
    seen = values > GAUGE * values[-1]
    rank = int(seen.sum())
    root = vectors[:, seen] / np.sqrt(values[seen])  # I^+ = root root'
    steps = noise * _normal(rank, draws, seed, "draws") @ root.T
    rows = [errors(layout.unpack(layout.pack(truth) + H * step)) for step in steps]
    chi = np.sqrt(2) * np.exp(gammaln((rank + 1) / 2) - gammaln(rank / 2))
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    means = {name: float(np.mean([row[name] for row in rows]) / H) for name in names}
    return {"function_error": float(noise * chi)} | means


def _normal(dimension: int, count: int, seed: int, use: str) -> np.ndarray:
    """Standard normal points, (count, dimension), that fill the space evenly."""
    return qmc.MultivariateNormalQMC(np.zeros(dimension), rng=stream(seed, "asymptotics", use)).random(count)
