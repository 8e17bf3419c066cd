"""Fewer prompts than the truth has: what least squares estimates then, and how well.

With fewer prompts no fit has f* (White 1981). Least squares converges to the G of that size nearest f* in L2(mu), and

    sqrt(n) (theta^ - theta_G) -> N(0, H^+ V H^+),      r = f* - f_G,
    H = E[J'J] - E[r . d^2 f],     V = nu^2 E[J'J] + E[(J'r) (J'r)'],

so its rate is n^-1/2 too, and its constant knows of the misfit r, which does not shrink with the noise.
"""

from itertools import combinations

import numpy as np
from scipy.stats import qmc

from common.streams import stream
from theory.box import Box
from theory.chunks import chunks
from theory.coordinates import Layout
from theory.estimate import fit_reduced
from theory.jacobian import jacobian
from theory.merging import merge
from theory.model import MoERegression, Prompts
from theory.problem import LeastSquares
from theory.reduction import Reduced, reduce
from theory.starts import anywhere

POINTS = 1 << 15
PART = 1 << 12
STEP = 1e-4  # of the differences of gradients


def projection(model: MoERegression, truth: Prompts, size: int, box: Box) -> Prompts:
    """The `size` prompts whose f is nearest in L2(mu) to f at the truth, size < L: what misspecified fits converge to.

    Least squares on noise-free data at Sobol points, from every merging of two true prompts and from anywhere; the
    nearest is taken on part of the points.
    """
    data = _noise_free(model, truth)[1]
    starts = [truth]
    while len(starts[0]) > size:
        starts = [merge(s, i, j) for s in starts for i, j in combinations(range(len(s)), 2)]
    starts += anywhere(model, size, box, stream(0, "projection", "starts"), 2 * len(starts))
    part = fit_reduced(model, data.head(PART), starts, box, explore=False)
    return fit_reduced(model, data, part.prompts, box).prompts


def sandwich(model: MoERegression, truth: Prompts, nearest: Prompts, noise: float) -> np.ndarray:
    """H^+ V H^+, the covariance of sqrt(n) (theta^ - theta_G), (K, K), in the order of `theory.coordinates.Layout`."""
    x, data = _noise_free(model, truth)
    layout = Layout(model, len(nearest))
    problem, theta = LeastSquares(model, data, layout), layout.pack(nearest)
    steps = STEP * np.eye(layout.size)
    H = np.array([problem(theta + step)[1] - problem(theta - step)[1] for step in steps]) / (2 * STEP * data.n)
    V = noise**2 * problem(theta)[2] / data.n
    for part in np.split(x, len(x) // PART):
        J = jacobian(model, part, nearest).reshape(len(part), model.d_out, -1)
        score = np.einsum("nok,no->nk", J, model(part, truth) - model(part, nearest))
        V += score.T @ score / len(x)
    inverse = np.linalg.pinv((H + H.T) / 2, rcond=1e-8, hermitian=True)
    return inverse @ V @ inverse


def _noise_free(model: MoERegression, truth: Prompts) -> tuple[np.ndarray, Reduced]:
    x = qmc.MultivariateNormalQMC(np.zeros(model.d), rng=stream(0, "projection")).random(POINTS)
    return x, reduce(model, chunks((x, model(x, truth))))
