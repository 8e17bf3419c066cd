"""Least squares over a compact box of prompts, equation (13), with a certificate.

    minimise   SSE(theta) = sum_i |y_i - f(x_i; theta)|^2    over   theta = (p, p_value, b, alpha) in the box

by Levenberg-Marquardt steps on the reduced problem of `theory.reduction`, taken in the pair coordinates of
`theory.coordinates`. In over-specified fits the Gram becomes singular at the solution (this is the n^-1/4 phenomenon),
and there are several minima: a descent that crawled is followed by descents from its neighbours.

The stop is statistical: the undamped Gauss-Newton decrement on the free coordinates,

    g' (J'J)^+ g / s^2,     s^2 = SSE / (residual degrees of freedom),

is the fall of SSE, in units of the noise variance, that the linearised problem still promises; a fit ends when it is
under 1e-4. The paper leaves the algorithm open; everything here is our choice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from theory.coordinates import Layout
from theory.model import MoERegression, Prompts
from theory.reduction import Reduced, evaluate, reduce

TOLERANCE = 1e-4  # decrement over the noise variance
CRAWL = 12  # a descent of more passes than this met a singular Gram; exact fits take 4 to 7
ROUNDS = 2  # of exploring neighbours, at most
WARM = 32_000  # rows from which a descent starts on a sixteenth of them
PROMISE = 2  # a descent is given up when this many times its decrement would not reach the best fit so far
CHUNK = 16_384
EDGE = 1e-10


@dataclass(frozen=True)
class Box:
    """The compact parameter set Theta x Omega of equation (13).

    Attributes
    ----------
    prompt : float
        Bound on every |p| (and |p_value|) componentwise.
    bias : float
        Bound on |b - mean b|; for the joint gates, whose level of b is identified, on |b|.
    alpha : float
        Bound on |alpha|.
    """

    prompt: float = 4.0
    bias: float = 3.0
    alpha: float = 3.0

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            if not 0 < bound < np.inf:
                raise ValueError(f"Box.{name} must be positive and finite; got {bound}")


@dataclass(frozen=True)
class FitResult:
    """A least-squares fit and what is known about it.

    Attributes
    ----------
    prompts : Prompts
        The estimate; biases have mean 0 where the gate has a softmax of its own.
    sse : float
        Sum of squared residuals.
    sse_at_truth : float or None
        The same at the true prompts, when they were given. An estimate above it is not a least-squares estimate.
    iterations : int
        Passes over the data, all starts together.
    status : str
        `converged`: the decrement is under 1e-4. `max_iterations`, `stalled`: it is not, because the passes ran out
        or no step lowers SSE any more. `above_truth`: every start ended above the sum of squares at the truth, so
        this is no least-squares estimate.
    gradient_norm : float
        |gradient of SSE / 2| over the free coordinates, per row.
    decrement : float
        The certificate described above.
    at_bound : tuple of str
        Coordinates on the boundary of the box, such as 'p[2,0]' or 'b[1]'.
    """

    prompts: Prompts
    sse: float
    sse_at_truth: float | None
    iterations: int
    status: str
    gradient_norm: float
    decrement: float
    at_bound: tuple[str, ...]


class LeastSquares:
    """SSE, gradient and Gram of one problem as functions of the parameter vector.

    The chain rule from the coordinates of `theory.reduction` (keys, values, b, t) to (p, p_value, b, alpha).
    """

    def __init__(self, model: MoERegression, data: Reduced, layout: Layout):
        self.model, self.data, self.layout = model, data, layout
        self.freedom = max(data.n * model.d_out - layout.size, 1)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """SSE, and gradient and Gauss-Newton Gram of SSE / 2."""
        prompts, layout, data = self.layout.unpack(theta), self.layout, self.data
        key, value = self.model.keys_and_values(prompts)
        t = 1.0 if prompts.alpha is None else np.tanh(prompts.alpha)
        sse, gradient, gram = evaluate(data, key @ data.key_map.T, value @ data.value_map.T, prompts.b, t)
        (k, r), L = (len(data.key_map), len(data.value_map)), layout.L
        T = np.zeros((len(gradient), layout.size))
        slopes = [self.model.activation.jacobian(theta[a]) for a in layout.atoms]
        for j in range(L):
            T[j * k : (j + 1) * k, layout.atoms[0][j]] += data.key_map @ slopes[0][j]
            T[L * k + j * r : L * k + (j + 1) * r, layout.atoms[-1][j]] += data.value_map @ slopes[-1][j]
        T[L * (k + r) : L * (k + r) + L, layout.b] = np.eye(L)
        if prompts.alpha is not None:
            T[-1, -1] = 1 - t * t
        return sse, T.T @ gradient, T.T @ gram @ T


def fit(
    model: MoERegression,
    x: np.ndarray | Iterable[np.ndarray],
    y: np.ndarray | Iterable[np.ndarray],
    start: Prompts | Sequence[Prompts],
    box: Box | None = None,
    truth: Prompts | None = None,
    explore: bool = True,
    max_iterations: int = 300,
) -> FitResult:
    """Least-squares prompts for the data, from one start or the best of several.

    Parameters
    ----------
    model : MoERegression
    x, y : arrays (n, d) and (n, d'), or two iterables of such chunks
        Chunks are read once; beyond the row features of `theory.reduction` nothing of them is kept.
    start : Prompts or sequence of Prompts
        L' prompts each; `theory.starts` makes them. L' may exceed the number of true prompts.
    box : Box, optional
    truth : Prompts, optional
        True prompts, where known: `sse_at_truth` is filled in, and a fit above it says so.
    explore : bool
        After a descent that crawled, which tells a singular Gram and so more prompts than the data can place, also
        descend from the neighbours of its result: nearest pair merged, another prompt split. Over-specified
        problems have several minima, and least squares means the lowest.
    max_iterations : int
        Passes over the data for each descent.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError
        If an array has the wrong shape or is not finite, or a start lacks a parameter of this gate.
    """
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        model.check_data(x, y)
        x, y = (np.array_split(a, max(1, len(x) // CHUNK)) for a in (x, y))
    data = reduce(model, zip(x, y, strict=True))
    return fit_reduced(model, data, start, box, truth, explore, max_iterations)


def fit_reduced(
    model: MoERegression,
    data: Reduced,
    start: Prompts | Sequence[Prompts],
    box: Box | None = None,
    truth: Prompts | None = None,
    explore: bool = True,
    max_iterations: int = 300,
) -> FitResult:
    """`fit` on data that are already reduced."""
    starts, box = [start] if isinstance(start, Prompts) else list(start), box or Box()
    for prompts in starts:
        model.check_prompts(prompts)
    if len({len(s) for s in starts}) != 1:
        raise ValueError(f"starts must all have the same number of prompts; got {[len(s) for s in starts]}")
    layout = Layout(model, len(starts[0]))
    problem = LeastSquares(model, data, layout)
    descents = [_descend(problem, layout.pack(s), box, max_iterations) for s in starts]
    passes = sum(d.iterations for d in descents)
    best = min(descents, key=lambda d: d.sse)
    for _ in range(ROUNDS if explore and layout.L > 1 else 0):
        if best.iterations <= CRAWL:
            break
        tries = [_descend(problem, v, box, max_iterations, best.sse) for v in _neighbours(layout, best.theta)]
        passes += sum(d.iterations for d in tries)
        former, best = best, min([best, *tries], key=lambda d: d.sse)
        if best.sse > former.sse - TOLERANCE * former.variance:
            break
    at_truth = None
    if truth is not None:
        at_truth = LeastSquares(model, data, (true := Layout(model, len(truth))))(true.pack(truth))[0]
    above = at_truth is not None and len(truth) <= layout.L and best.sse > at_truth + TOLERANCE * best.variance
    return FitResult(
        prompts=layout.unpack(best.theta),
        sse=best.sse,
        sse_at_truth=at_truth,
        iterations=passes,
        status="above_truth" if above else best.status,
        gradient_norm=best.gradient_norm,
        decrement=best.decrement,
        at_bound=tuple(np.array(layout.names)[best.at_bound]),
    )


def _neighbours(layout: Layout, theta: np.ndarray) -> list[np.ndarray]:
    """Parameter vectors with the nearest pair of prompts merged and, in turn, each prompt of the rest split in two."""
    atoms = np.hstack([theta[a] for a in layout.atoms])
    distance = np.linalg.norm(atoms[:, None] - atoms, axis=-1) + np.diag(np.full(layout.L, np.inf))
    i, j = divmod(int(distance.argmin()), layout.L)
    rho = 1 / (1 + np.exp(theta[layout.b[j]] - theta[layout.b[i]]))
    merged = theta.copy()
    merged[layout.b[i]] = np.logaddexp(theta[layout.b[i]], theta[layout.b[j]])
    for a in layout.atoms:
        merged[a[i]] = rho * theta[a[i]] + (1 - rho) * theta[a[j]]
    size = np.clip(distance[i, j], 0.02, 0.5) / 2
    found = []
    for split in range(layout.L):
        if split == j:
            continue
        new = merged.copy()
        new[layout.b[j]] = new[layout.b[split]] = merged[layout.b[split]] - np.log(2)
        for c, a in enumerate(layout.atoms):
            # Any direction will do that is no symmetry of the problem; irrational multiples make one.
            direction = np.cos(np.sqrt(2) * (np.arange(a.shape[1]) + 1) * (split + 1) + c)
            new[a[j]], new[a[split]] = merged[a[split]] + size * direction, merged[a[split]] - size * direction
        found.append(new)
    return found


@dataclass
class _Descent:
    theta: np.ndarray
    sse: float
    variance: float
    iterations: int
    status: str
    gradient_norm: float
    decrement: float
    at_bound: np.ndarray


def _descend(problem, theta: np.ndarray, box: Box, max_iterations: int, rival: float = np.inf) -> _Descent:
    """One descent; large problems first on a part of the rows, which costs little and does most of the way.

    It is given up once the fall of SSE that it can still promise would not bring it below `rival`.
    """
    iterations = 0
    if problem.data.n >= WARM:
        part = LeastSquares(problem.model, problem.data.head(problem.data.n // 16), problem.layout)
        start = _descend(part, theta, box, max_iterations)
        theta, iterations = start.theta, start.iterations
    result = _levenberg_marquardt(problem, theta, box, max_iterations, rival)
    result.iterations += iterations // 16
    return result


def _levenberg_marquardt(problem, theta: np.ndarray, box: Box, max_iterations: int, rival: float) -> _Descent:
    """Damped Gauss-Newton steps in pair coordinates inside the box, until the undamped decrement is small."""
    layout = problem.layout
    theta = _inside(layout, theta, box)
    upper = _bounds(layout, box)
    sse, gradient, gram = problem(theta)
    damping, growth, passes = 1e-3, 2.0, 1
    while True:
        low, high = theta <= -upper + EDGE, theta >= upper - EDGE
        held = (low & (gradient > 0)) | (high & (gradient < 0))
        basis = _free_basis(layout, held, np.eye(layout.size))
        variance = sse / problem.freedom
        decrement = _decrement(basis.T @ gradient, basis.T @ gram @ basis) / max(variance, np.finfo(float).tiny)
        status = "converged" if decrement < TOLERANCE else "max_iterations" if passes >= max_iterations else None
        if sse - PROMISE * decrement * variance > rival:
            status = "given up"
        while status is None:
            new, predicted = _step(layout, theta, gradient, gram, damping, held, low, high, upper, box)
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
            return _Descent(theta, sse, variance, passes, status, norm, decrement, low | high)
        theta, sse, gradient, gram = new, new_sse, new_gradient, new_gram


def _step(layout, theta, gradient, gram, damping, held, low, high, upper, box):
    """A damped step in pair coordinates and the fall of SSE / 2 that the quadratic model predicts.

    A coordinate at its bound that the step would push outwards is held, and the step taken anew.
    """
    while True:
        pairs = layout.pairs(theta, held)
        J = _free_basis(layout, held, layout.pair_jacobian(theta, pairs))
        slope, A = J.T @ gradient, J.T @ gram @ J
        scale = np.maximum(A.diagonal(), 1e-10 * A.diagonal().max())
        # The ridge settles directions that the model cannot see, such as a common shift of b.
        A_damped = A + np.diag(damping * scale + 1e-14 * A.trace())
        free_step = -np.linalg.solve(A_damped, slope)
        step = np.zeros(layout.size)
        step[~held] = free_step
        new = layout.move(theta, step, pairs)
        if not layout.joint:
            tied, loose = layout.b[held[layout.b]], layout.b[~held[layout.b]]
            if len(tied) and len(loose):
                new[tied] = theta[tied] + new[loose].mean() - theta[loose].mean()
            new[layout.b] -= new[layout.b].mean()
        outward = ~held & ((low & (new < -upper)) | (high & (new > upper)))
        if not outward.any() or (outward | held)[layout.b].all():
            predicted = -(slope @ free_step + 0.5 * free_step @ A @ free_step)
            return _inside(layout, new, box), predicted
        held = held | outward


def _free_basis(layout: Layout, held: np.ndarray, J: np.ndarray) -> np.ndarray:
    """Columns of J for the free coordinates.

    With a softmax of its own the bound is on b - mean b, so a held bias follows the mean of the free ones.
    """
    tied, loose = layout.b[held[layout.b]], layout.b[~held[layout.b]]
    if not layout.joint and len(tied) and len(loose):
        J = J.copy()
        J[tied] = J[loose].mean(0)
    return J[:, ~held]


def _decrement(gradient: np.ndarray, gram: np.ndarray) -> float:
    """g' G^+ g: the squared length of the residual's projection on the column space of the Jacobian."""
    values, vectors = np.linalg.eigh(gram)
    seen = values > 1e-13 * values[-1]
    return float(((vectors.T @ gradient)[seen] ** 2 / values[seen]).sum())


def _bounds(layout: Layout, box: Box) -> np.ndarray:
    upper = np.full(layout.size, box.prompt)
    upper[layout.b] = box.bias
    if not layout.joint:
        upper[-1] = box.alpha
    return upper


def _inside(layout: Layout, theta: np.ndarray, box: Box) -> np.ndarray:
    """The nearest point of the box; biases with mean 0 where only b - mean b means something."""
    theta = theta.copy()
    if not layout.joint:
        b = theta[layout.b] - theta[layout.b].mean()
        if np.abs(b).max() > box.bias:
            shift = brentq(lambda c: np.clip(b - c, -box.bias, box.bias).sum(), b.min(), b.max(), xtol=1e-14)
            b = np.clip(b - shift, -box.bias, box.bias)
        theta[layout.b] = b
    upper = _bounds(layout, box)
    return np.clip(theta, -upper, upper)
