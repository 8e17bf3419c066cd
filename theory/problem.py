"""The least-squares problem of equation (13): sum of squares, gradient and Gram at a parameter vector, and its box."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from theory.arrays import number
from theory.coordinates import Layout
from theory.model import MoERegression

if TYPE_CHECKING:
    from theory.reduction import Reduced


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

    Raises
    ------
    TypeError, ValueError
        If a bound is not a number above 0.
    """

    prompt: float = 4.0
    bias: float = 3.0
    alpha: float = 3.0

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            number(f"Box.{name}", bound, 0, strictly=True)

    def bounds(self, layout: Layout, sigma=None) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest parameter vector, (size,) each; of sigma(p) in place of p, for an increasing sigma."""
        lower, upper = np.full(layout.size, -self.prompt), np.full(layout.size, self.prompt)
        if sigma is not None:
            lower, upper = sigma(lower), sigma(upper)
        upper[layout.b] = self.bias
        if not layout.joint:
            upper[-1] = self.alpha
        for place in (layout.b, [] if layout.joint else [-1]):
            lower[place] = -upper[place]
        return lower, upper


class LeastSquares:
    """SSE, gradient and Gram of one problem as functions of the parameter vector.

    The chain rule from the coordinates of `theory.reduction` (keys, values, b, t) to (p, p_value, b, alpha).
    """

    def __init__(self, model: MoERegression, data: "Reduced", layout: Layout):
        from theory.reduction import evaluate  # Numba, which those who need a Box alone do not wait for

        self.evaluate = evaluate
        self.model, self.data, self.layout = model, data, layout
        self.freedom = max(data.n * model.d_out - layout.size, 1)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """SSE, and gradient and Gauss-Newton Gram of SSE / 2."""
        prompts, layout, data = self.layout.unpack(theta), self.layout, self.data
        key, value = self.model.keys_and_values(prompts)
        t = 1.0 if prompts.alpha is None else np.tanh(prompts.alpha)
        sse, gradient, gram = self.evaluate(data, key @ data.key_map.T, value @ data.value_map.T, prompts.b, t)
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
