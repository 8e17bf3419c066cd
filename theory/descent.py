"""One descent of the least-squares fit: Levenberg-Marquardt steps in pair coordinates inside the box.

And, where a prompt can be spared, the way over one prompt less to a lower minimum (`theory.merging`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import brentq, root_scalar

from theory.coordinates import Layout
from theory.merging import double, merge, nearest, partings, probes
from theory.problem import LeastSquares

TOLERANCE = 1e-4  # decrement over the noise variance
WARM = 32_000  # rows from which a descent starts on a sixteenth of them
PROMISE = 2  # a descent is given up when this many times its decrement would not reach the best fit so far
EDGE = 1e-10
SPARE = 100  # a prompt can be spared if SSE without it need not be higher by this many noise variances
LEG = 48  # passes of a descent before the first look at fewer prompts
TOUCHING = 1e-6  # prompts this near are one


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
    spare: bool = True  # whether a prompt fewer would do about as well


def descend(problem: LeastSquares, theta: np.ndarray, box: Callable, most: int, explore: bool = True) -> Descent:
    """One descent; large problems first on a part of the rows, which costs little and does most of the way.

    Parameters
    ----------
    problem : LeastSquares
    theta : ndarray
        Where to start.
    box : callable
        Layout -> least and greatest parameter vector: `Box.bounds`.
    most : int
        Passes over the data after which no new leg is begun.
    explore : bool
        Whether to look for a lower minimum by way of fewer prompts.
    """
    passes = 0
    if problem.data.n >= WARM:
        part = LeastSquares(problem.model, problem.data.head(problem.data.n // 16), problem.layout)
        start = descend(part, theta, box, most, explore)
        theta, passes = start.theta, start.iterations // 16
        explore = explore and start.spare
    search = _explore if explore else _levenberg_marquardt
    best = search(problem, theta, box, most)
    best.iterations += passes
    return best


def _explore(problem: LeastSquares, theta: np.ndarray, box: Callable, most: int, rival: float = np.inf) -> Descent:
    """Legs of growing length, after each of which the way over one prompt less is tried, as long as that helps."""
    if problem.layout.L == 1:
        return _levenberg_marquardt(problem, theta, box, most, rival)
    leg, seen = LEG, []
    best = _levenberg_marquardt(problem, theta, box, leg, rival)
    if best.status == "given up":
        return best
    descended, passes = best.iterations, best.iterations
    if nearest(problem.layout.unpack(best.theta))[0] < TOUCHING:
        best.sse = np.inf  # no step can part them, so the decrement means nothing here
    while True:
        other, used = _over_fewer(problem, best, box, most, seen)
        passes += used
        if other is not None and other.sse < best.sse - TOLERANCE * other.variance:
            best = other
        elif best.status == "max_iterations" and descended < most:
            leg = min(4 * leg, most - descended)
            best = _levenberg_marquardt(problem, best.theta, box, leg)
            descended, passes = descended + best.iterations, passes + best.iterations
        else:
            best.iterations = passes
            return best


def _over_fewer(problem: LeastSquares, best: Descent, box: Callable, most: int, seen: list[float]):
    """The best descent that begins where one prompt less ends, None if no prompt can be spared; and passes.

    The two prompts are merged that SSE minds least, the problem with one prompt less is solved, and each of its prompts
    in turn gives one off, or none does. Also None if the problem with one prompt less ends in a place `seen` before.
    """
    layout = problem.layout
    whole = layout.unpack(best.theta)
    fewer = LeastSquares(problem.model, problem.data, Layout(problem.model, layout.L - 1))
    merged = [merge(whole, i, j) for i, j in combinations(range(layout.L), 2)]
    starts = [_inside(fewer.layout, fewer.layout.pack(m), *box(fewer.layout)) for m in merged]
    least = int(np.argmin([fewer(start)[0] for start in starts]))
    one = _explore(fewer, starts[least], box, most, best.sse + SPARE * best.variance)
    passes = len(merged) + one.iterations
    best.spare = one.status != "given up"
    if not best.spare or any(abs(one.sse - sse) < TOLERANCE * one.variance for sse in seen):
        return None, passes
    seen.append(one.sse)
    prompts = fewer.layout.unpack(one.theta)
    place = int(np.linalg.norm(prompts.atoms - merged[least].atoms[-1], axis=1).argmin())
    ends = [_levenberg_marquardt(problem, layout.pack(double(prompts, place)), box, 1)]
    apart = partings(problem, prompts, lambda theta: _inside(layout, theta, *box(layout)))
    for theta in apart:
        ends.append(_levenberg_marquardt(problem, theta, box, LEG, min(e.sse for e in [best, *ends])))
    passes += sum(e.iterations for e in ends) + probes(prompts)
    lowest = min(e.sse for e in ends) + TOLERANCE * one.variance
    return min(ends, key=lambda e: (e.sse > lowest, e.status != "converged", e.sse)), passes


def _levenberg_marquardt(
    problem: LeastSquares, theta: np.ndarray, box: Callable, most: int, rival: float = np.inf
) -> Descent:
    """Damped Gauss-Newton steps in pair coordinates inside the box, until the undamped decrement is small.

    Given up once the fall of SSE that it can still promise would not bring it below `rival`.
    """
    layout = problem.layout
    lower, upper = box(layout)
    theta = _inside(layout, theta, lower, upper)
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
        paired = np.isin(np.arange(layout.size), [k for pair in pairs for j in pair for k in layout.of(j)])
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
    return _inside(layout, new, lower, upper), predicted


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


def _inside(layout: Layout, theta: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The nearest point of the box; biases with mean 0 where only b - mean b means something."""
    theta = theta.copy()
    if not layout.joint:
        b, bound = theta[layout.b] - theta[layout.b].mean(), upper[layout.b[0]]
        if np.abs(b).max() > bound:
            shift = brentq(lambda c: np.clip(b - c, -bound, bound).sum(), b.min(), b.max(), xtol=1e-14)
            b = np.clip(b - shift, -bound, bound)
        theta[layout.b] = b
    return np.clip(theta, lower, upper)
