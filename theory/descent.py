"""One descent of the least-squares fit: Levenberg-Marquardt steps in pair coordinates inside the box."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from theory.coordinates import Layout
from theory.model import MoERegression
from theory.reduction import Reduced, evaluate

TOLERANCE = 1e-4  # decrement over the noise variance
WARM = 32_000  # rows from which a descent starts on a sixteenth of them
PROMISE = 2  # a descent is given up when this many times its decrement would not reach the best fit so far
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


def descend(problem, theta: np.ndarray, box: Box, max_iterations: int, rival: float = np.inf) -> Descent:
    """One descent; large problems first on a part of the rows, which costs little and does most of the way.

    It is given up once the fall of SSE that it can still promise would not bring it below `rival`.
    """
    iterations = 0
    if problem.data.n >= WARM:
        part = LeastSquares(problem.model, problem.data.head(problem.data.n // 16), problem.layout)
        start = descend(part, theta, box, max_iterations)
        theta, iterations = start.theta, start.iterations
    result = _levenberg_marquardt(problem, theta, box, max_iterations, rival)
    result.iterations += iterations // 16
    return result


def _levenberg_marquardt(problem, theta: np.ndarray, box: Box, max_iterations: int, rival: float) -> Descent:
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
            return Descent(theta, sse, variance, passes, status, norm, decrement, low | high)
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
