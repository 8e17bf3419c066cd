"""Constants, not only slopes: whole error curves with no free parameter.

**Exact fits.** Where the truth is identified and L' = L, least squares is asymptotically normal,

    sqrt(n) (theta^ - theta*) -> N(0, nu^2 I^+),     I = E[J(X)' J(X)],   J = d f / d theta at theta*,

with the pseudo-inverse across the gauges, along which nothing is estimated (it keeps the biases centred). So an error
that is homogeneous of degree one in theta^ - theta* near 0, as all error columns of an exact study are, has mean

    E[error] ~ c / sqrt(n),     c = E[error of a fit at theta* + h delta] / h,   delta ~ N(0, nu^2 I^+),   h -> 0.

For the function error this is exact: n |f^ - f*|^2 / nu^2 is chi-squared with rank I degrees of freedom, hence

    c = nu sqrt(2) Gamma((r + 1) / 2) / Gamma(r / 2),     r = rank I: parameters less gauges.

**One prompt more than the truth.** Near the truth f moves along the tangent space of the exact fit, and, by two prompts
in place of true prompt j with second moment eps eps', along |eps|^2 D_v, v = eps / |eps|, D_v the second derivative
of f off that tangent space: one half-space for each (j, v). Least squares projects the noise W onto their union, so

    n |f^ - f*|^2 / nu^2  ->  chi^2_r + max(0, sup S_v)^2,      S_v = <W, D_v> / |D_v|,
    |eps|^2  =  nu sup S_v / (sqrt(n) |D_v|)                    at the (j, v) of the supremum.

Which share rho of weight the lighter of the two gets is left to terms of higher order, in all of which an uneven pair
does better: rho is the least that the box allows. The box allows some prompts no split at all, as the bias of a pair
pulls the mean down and the greatest bias over its bound: these cells are no part of the supremum. With Delta the
distance of the two, |eps|^2 = rho (1 - rho) |Delta|^2, so prompt errors are 2 sqrt(rho (1 - rho)) |eps| weighted and
|eps| / (2 sqrt(rho (1 - rho))) unweighted, and the over term of D is pi_j |eps|^2.

While no bias is at its bound the spare prompt may stand anywhere, with a weight of n^-1/2 to come: A_q, the change of f
by a light prompt at q, takes the place of D_v, and q runs over the box. This second law is what a finite n sees while
the box does not bind; the first is the limit.

The paper proves rates only. The exact constants are classical (asymptotic normality of least squares, Jennrich 1969);
the laws of over-specified fits are those of likelihood ratios on cones (Dacunha-Castelle and Gassiat 1999).
"""

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from scipy.optimize import root_scalar
from scipy.special import gammaln
from scipy.stats import qmc

from common.streams import stream
from theory.box import Box
from theory.coordinates import Layout
from theory.model import MoERegression, Prompts, in_q
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.truths import Moments, off

H = 1e-6  # terms of second order are this small, and so is rounding over it: 1e-16 / 1e-6 = 1e-10
GAUGE = 1e-13  # eigenvalues below this share of the largest are gauges; `theory.identifiability` admits none else
CHUNK = 1 << 13
LIGHT = 1e-6  # its weight against e^0: f is linear in it


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
    covariance: np.ndarray | None = None,
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
    covariance : ndarray, (K, K), optional
        Of sqrt(n) (theta^ - theta*), in place of nu^2 I^+: `theory.misspecified.sandwich`.

    Returns
    -------
    dict
        The names of `errors`; `function_error`, where it is not among them, is the closed form above (not with a
        `covariance`).

    Raises
    ------
    ValueError
        If the prompts do not fit the model.
    """
    layout = Layout(model, len(truth))
    if covariance is None:
        values, vectors = np.linalg.eigh(information(model, truth, seed=seed))
        seen = values > GAUGE * values[-1]
        root = noise * vectors[:, seen] / np.sqrt(values[seen])  # nu^2 I^+ = root root'
    else:
        values, vectors = np.linalg.eigh(covariance)
        seen = values > GAUGE * values[-1]
        root = vectors[:, seen] * np.sqrt(values[seen])
    rank = int(seen.sum())
    steps = _normal(rank, draws, seed, "draws") @ root.T
    rows = [errors(layout.unpack(layout.pack(truth) + H * step)) for step in steps]
    chi = np.sqrt(2) * np.exp(gammaln((rank + 1) / 2) - gammaln(rank / 2))
    names = [name for name, value in rows[0].items() if isinstance(value, float)]
    means = {name: float(np.mean([row[name] for row in rows]) / H) for name in names}
    return ({} if covariance is not None else {"function_error": float(noise * chi)}) | means


def over_specified(
    model: MoERegression, truth: Prompts, noise: float, box: Box, seed: int = 0, places: int = 1 << 10
) -> dict[str, float]:
    """Constants of fits with one prompt more: mean error ~ constant n^-1/2 (function error) or n^-1/4 (the others).

    Parameters
    ----------
    model : MoERegression
        With shared prompts.
    truth : Prompts
    noise : float
        nu.
    box : Box
        Its bias bound decides which prompts can be split, and how unevenly.
    seed : int
    places : int
        Of the spare prompt, where it may stand anywhere; a power of two.

    Returns
    -------
    dict
        `function_error` and `function_error_free` (spare prompt anywhere in the box); `squared_error` and
        `squared_error_free`, their limits of E n |f^ - f*|^2 / nu^2; `vanishes`, the probability that the spare prompt
        does; and given that it does not, `over_prompt_error`, `over_prompt_error_unweighted` and `sqrt_over_term`.

    Raises
    ------
    ValueError
        If the prompts do not fit the model, or the box allows no split.
    """
    share = [lightest(model, truth, box, j) for j in range(len(truth))]
    cells = [j for j, rho in enumerate(share) if rho]
    if not cells:
        raise ValueError(
            f"the box must leave room to split a prompt; bias {box.bias:g} leaves none, weights are {truth.weights}"
        )
    shown, q = in_q(model, truth)
    moments, v = Moments(shown, q), _sphere(model.m, seed)
    D = np.vstack([_quadratic(moments, j, v) for j in cells])
    cell, v = np.repeat(cells, len(v)), np.tile(v, (len(cells), 1))
    length = np.linalg.norm(D, axis=1)
    rng = stream(seed, "asymptotics", "over")
    best, where = _supremum(D / length[:, None], 1 << 16, rng)
    free = _supremum(np.vstack([D / length[:, None], _light_prompts(moments, model, box, places, seed)]), 1 << 13, rng)[
        0
    ]
    rank = moments.tangent.shape[1]
    found = {"vanishes": float((best <= 0).mean())}
    for name, sup in {"": best, "_free": free}.items():
        square = rng.chisquare(rank, len(sup)) + np.maximum(sup, 0) ** 2
        found |= {
            f"function_error{name}": noise * float(np.sqrt(square).mean()),
            f"squared_error{name}": float(square.mean()),
        }
    there = best > 0
    best, j, v, length = best[there], cell[where[there]], v[where[there]], length[where[there]]
    in_p = np.linalg.solve(model.activation.jacobian(truth.p)[j], v[..., None])[..., 0]
    eps = np.sqrt(noise * best / length) * np.linalg.norm(in_p, axis=1)
    uneven = 2 * np.sqrt([(rho or 0) * (1 - (rho or 0)) for rho in share])[j]
    return found | {
        "over_prompt_error": float((uneven * eps).mean()),
        "over_prompt_error_unweighted": float((eps / uneven).mean()),
        "sqrt_over_term": float((np.sqrt(truth.weights[j]) * eps).mean()),
    }


def lightest(model: MoERegression, truth: Prompts, box: Box, j: int) -> float | None:
    """The least share of its weight that one of two prompts in place of true prompt j may have; None if none may.

    All biases of the fit are in the box, less their mean for a softmax of its own.
    """

    def room(log_share: float) -> float:
        rho = np.exp(log_share)
        b = np.append(truth.b, truth.b[j] + log_share)
        b[j] += np.log1p(-rho)
        return box.bias - np.abs(b if model.joint else b - b.mean()).max()

    even = np.log(0.5)
    grid = np.linspace(even - 2 * len(truth) * box.bias - 2, even, 2001)
    inside = np.flatnonzero([room(s) >= 0 for s in grid])
    if not len(inside):
        return None
    first = int(inside[0])
    edge = root_scalar(room, bracket=(grid[first - 1], grid[first])).root if first else grid[0]
    return float(np.exp(edge))


def _supremum(unit: np.ndarray, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of the Gaussian process with covariance unit unit', and where they are; (draws,) each."""
    values, vectors = np.linalg.eigh(unit @ unit.T)
    kept = values > 1e-8 * values[-1]
    root = vectors[:, kept] * np.sqrt(values[kept])
    parts = [rng.standard_normal((1 << 12, root.shape[1])) @ root.T for _ in range(draws >> 12)]
    return np.concatenate([p.max(1) for p in parts]), np.concatenate([p.argmax(1) for p in parts])


def _quadratic(moments: Moments, j: int, v: np.ndarray) -> np.ndarray:
    """D_v for each row of v, from second derivatives along axes and diagonals."""
    axes = np.eye(v.shape[1])
    D = sum(np.outer(v[:, a] ** 2, moments.second(j, axes[a])) for a in range(len(axes)))
    for a, c in combinations(range(len(axes)), 2):
        sides = [moments.second(j, (axes[a] + side * axes[c]) / np.sqrt(2)) for side in (1, -1)]
        D = D + np.outer(v[:, a] * v[:, c], sides[0] - sides[1])
    return np.asarray(D)


def _sphere(m: int, seed: int) -> np.ndarray:
    """Unit vectors up to sign, evenly in the plane and by Sobol points beyond."""
    if m == 2:
        angle = np.arange(180) * np.pi / 180
        return np.column_stack([np.cos(angle), np.sin(angle)])
    points = _normal(m, 1 << 10, seed, "sphere")
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def _light_prompts(moments: Moments, model: MoERegression, box: Box, places: int, seed: int) -> np.ndarray:
    """A_q off the tangent space, of unit length, for q = sigma(p) and p all over the box."""
    p = qmc.Sobol(model.m, rng=stream(seed, "asymptotics", "box")).random(places)
    whole = moments.whole
    b = np.append(whole.b, np.log(LIGHT))
    more = (Prompts(np.vstack([whole.p, q]), b, whole.alpha) for q in model.activation(box.prompt * (2 * p - 1)))
    A = np.array([off(moments.tangent, moments.change(prompts)) for prompts in more])
    return A / np.linalg.norm(A, axis=1, keepdims=True)


def _normal(dimension: int, count: int, seed: int, use: str) -> np.ndarray:
    """Standard normal points, (count, dimension), that fill the space evenly."""
    return qmc.MultivariateNormalQMC(np.zeros(dimension), rng=stream(seed, "asymptotics", use)).random(count)
