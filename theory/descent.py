"""One descent of the least-squares fit to a local minimum: Levenberg-Marquardt steps in pair coordinates."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, root_scalar

from theory.coordinates import Layout
from theory.problem import LeastSquares

TOLERANCE = 1e-4  # decrement over the noise variance
PROMISE = 2  # a descent is given up when this many times its decrement would not reach the best fit so far
EDGE = 1e-10


@dataclass
class Descent:
    """Where a descent ended; fields as in `theory.estimate.FitResult`."""

    theta: np.ndarray
    sse: float
    variance: float
    iterations: int
    status: str
    gradient_norm: float
    decrement: float
    at_bound: np.ndarray


def descend(problem: LeastSquares, theta: np.ndarray, box: Callable, most: int, rival: float = np.inf) -> Descent:
    """Damped Gauss-Newton steps in pair coordinates inside the box, until the undamped decrement is small.

    Parameters
    ----------
    problem : LeastSquares
    theta : ndarray
        Where to start.
    box : callable
        Layout -> least and greatest parameter vector: `Box.bounds`.
    most : int
        Passes over the data after which it ends unconverged.
    rival : float
        An SSE: the descent is given up once the fall that it can still promise would not bring it below.
    """
    layout = problem.layout
    lower, upper = box(layout)
    theta = inside(layout, theta, lower, upper)
    sse, gradient, gram = problem(theta)
    damping, growth, passes = 1e-3, 2.0, 1
    while True:
        low, high = theta <= lower + EDGE, theta >= upper - EDGE
        held = (low & (gradient > 0)) | (high & (gradient < 0))
        variance = sse / problem.freedom
        basis, decrement = _certificate(layout, held, gradient, gram, variance)
        if decrement < TOLERANCE:
            held &= ~_let_go(layout, held, gradient, low)
            basis, decrement = _certificate(layout, held, gradient, gram, variance)
        status = "converged" if decrement < TOLERANCE else "max_iterations" if passes >= most else None
        if sse - PROMISE * decrement * variance > rival:
            status = "given up"
        while status is None:
            new, predicted = _step(layout, theta, gradient, gram, damping, held, low, high, lower, upper)
            new_sse, new_gradient, new_gram = problem(new)
            passes += 1
            if new_sse < sse:
                gain = (sse - new_sse) / 2 / predicted if predicted > 0 else 0.0
                # Nielsen's rule: less damping the better the quadratic model predicted the fall.
                damping, growth = max(damping * max(0.1, 1 - (2 * gain - 1) ** 3), 1e-12), 2.0
                break
            damping, growth = damping * growth, growth * 2
            if damping > 1e14:
                status = "stalled"
        if status is not None:
            norm = float(np.linalg.norm(basis.T @ gradient)) / problem.data.n
            return Descent(theta, sse, variance, passes, status, norm, decrement, low | high)
        theta, sse, gradient, gram = new, new_sse, new_gradient, new_gram


def _step(layout, theta, gradient, gram, damping, held, low, high, lower, upper):
    """A damped step in pair coordinates and the fall of SSE / 2 that the quadratic model predicts.

    A coordinate at its bound that the step would push outwards is held, and the step taken anew.
    """
    while True:
        pairs = layout.pairs(theta, held)
        paired = np.zeros(layout.size, bool)
        for j in (j for pair in pairs for j in pair):
            paired[layout.of(j)] = True
        J = _free_basis(layout, held, layout.pair_jacobian(theta, pairs))
        slope, A = J.T @ gradient, J.T @ gram @ J
        scale = np.maximum(A.diagonal(), 1e-10 * A.diagonal().max())
        # The ridge settles directions that the model cannot see, such as a common shift of b.
        A_damped = A + np.diag(damping * scale + (1e-14 * A.trace() or 1.0))
        free_step = -np.linalg.solve(A_damped, slope)
        step = np.zeros(layout.size)
        step[~held] = free_step
        new = _moved(layout, theta, step, pairs, held)
        out = (new < lower) | (new > upper)
        outward = out & ~held & (low | high)
        if not outward.any() or (outward | held)[layout.b].all() or (outward | held).all():
            break
        held = held | outward
    share, cut = 1.0, out & ~low & ~high & paired
    if cut.any():
        # Clipping one coordinate of a pair would change all of its moments: the step ends at the wall instead.
        def beyond(share):
            new = _moved(layout, theta, share * step, pairs, held)[cut]
            return max((lower[cut] - new).max(), (new - upper[cut]).max())

        share = root_scalar(beyond, bracket=(0, 1), xtol=1e-12).root + 1e-11
        new = _moved(layout, theta, share * step, pairs, held)
    predicted = -share * (slope @ free_step + 0.5 * share * free_step @ A @ free_step)
    return inside(layout, new, lower, upper), predicted


def _moved(layout: Layout, theta: np.ndarray, step: np.ndarray, pairs, held: np.ndarray) -> np.ndarray:
    """theta after the step; with a softmax of its own, biases of mean 0 and held ones where they were in the box."""
    new = layout.move(theta, step, pairs)
    if not layout.joint:
        tied, loose = layout.b[held[layout.b]], layout.b[~held[layout.b]]
        if len(tied) and len(loose):
            new[tied] = theta[tied] + new[loose].mean() - theta[loose].mean()
        new[layout.b] -= new[layout.b].mean()
    return new


def _let_go(layout: Layout, held: np.ndarray, gradient: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Held biases whose release lowers SSE, where the free coordinates are at their minimum.

    With a softmax of their own biases sum to 0: one at its bound moves at the cost of the free ones, and so does SSE.
    """
    let_go = np.zeros(layout.size, bool)
    tied, free = layout.b[held[layout.b]], layout.b[~held[layout.b]]
    if not layout.joint and len(free):
        slope = gradient[tied] - gradient[free].mean()
        let_go[tied] = np.where(low[tied], slope < 0, slope > 0)
    return let_go


def _free_basis(layout: Layout, held: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Columns of J for the free coordinates.

    With a softmax of its own the bound is on b - mean b, so a held bias follows the mean of the free ones.
    """
    tied, loose = layout.b[held[layout.b]], layout.b[~held[layout.b]]
    if not layout.joint and len(tied) and len(loose):
        J = J.copy()
        J[tied] = J[loose].mean(0)
    return J[:, ~held]


def _certificate(layout: Layout, held, gradient, gram, variance: float) -> tuple[np.ndarray, float]:
    """Basis of the free coordinates, and the undamped decrement on them over the noise variance.

    g' G^+ g is the squared length of the residual's projection on the column space of the Jacobian.
    """
    basis = _free_basis(layout, held, np.eye(layout.size))
    if not basis.size:  # every coordinate is held at a bound
        return basis, 0.0
    values, vectors = np.linalg.eigh(basis.T @ gram @ basis)
    seen = values > 1e-13 * values[-1]
    length = float(((vectors.T @ (basis.T @ gradient))[seen] ** 2 / values[seen]).sum())
    return basis, length / max(variance, np.finfo(float).tiny)


def inside(layout: Layout, theta: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The nearest point of the box; biases with mean 0 where only b - mean b means something."""
    theta = theta.copy()
    if not layout.joint:
        b, bound = theta[layout.b] - theta[layout.b].mean(), upper[layout.b[0]]
        if np.abs(b).max() > bound:
            shift = brentq(lambda c: np.clip(b - c, -bound, bound).sum(), b.min(), b.max(), xtol=1e-14)
            b = np.clip(b - shift, -bound, bound)
        theta[layout.b] = b
    return np.clip(theta, lower, upper)
