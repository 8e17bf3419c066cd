"""The least-squares problem of equation (13): sum of squares, gradient and Gram at a parameter vector."""

import numba
import numpy as np

from theory.coordinates import Layout
from theory.model import MoERegression
from theory.reduction import Reduced, evaluate


class LeastSquares:
    """SSE, gradient and Gram of one problem as functions of the parameter vector.

    The chain rule from the coordinates of `theory.reduction` (keys, values, b, t) to (p, p_value, b, alpha).
    """

    def __init__(self, model: MoERegression, data: Reduced, layout: Layout):
        self.model, self.data, self.layout = model, data, layout
        self.freedom = max(data.n * model.d_out - layout.size, 1)

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """SSE, and gradient and Gauss-Newton Gram of SSE / 2, at one parameter vector."""
        sse, gradient, gram = self.at_each(theta[None])
        return float(sse[0]), gradient[0], gram[0]

    def at_each(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same at several, (S, size) -> (S,), (S, size), (S, size, size)."""
        layout, data, sigma = self.layout, self.data, self.model.activation
        L, m = layout.L, self.model.m
        atoms = [theta[:, a].reshape(-1, m) for a in layout.atoms]
        q = [sigma(p).reshape(-1, L, m) for p in atoms]
        t = np.ones(len(theta)) if layout.joint else np.tanh(theta[:, -1])
        b = np.ascontiguousarray(theta[:, layout.b])
        sse, gradient, gram = evaluate(data, q[0] @ data.key_map.T, q[-1] @ data.value_map.T, b, t)
        slopes = [sigma.jacobian(p).reshape(-1, L, m, m) for p in atoms]
        back = _chain(gradient, gram, data.key_map @ slopes[0], data.value_map @ slopes[-1], len(atoms) * L * m, t)
        return sse, back[0][:, : layout.size], back[1][:, : layout.size, : layout.size]


@numba.njit(cache=True)
def _chain(gradient, gram, key, value, first_b, t):
    """Gradient and Gram in (p, p_value, b, alpha), from those in (keys, values, b, t).

    `key` and `value`, (S, L, k, m) and (S, L, r, m), are the derivatives of each prompt's key and value by its p.
    """
    L, k, m = key.shape[1:]
    r = value.shape[2]
    size, last_atom = first_b + L + 1, first_b - L * m
    new_gradient, new_gram = np.empty((len(t), size)), np.empty((len(t), size, size))
    T = np.zeros((L * (k + r) + L + 1, size))
    for j in range(L):
        T[L * (k + r) + j, first_b + j] = 1.0
    for s in range(len(t)):
        T[: L * (k + r), :first_b] = 0.0
        for j in range(L):
            for c in range(m):
                for i in range(k):
                    T[j * k + i, j * m + c] += key[s, j, i, c]
                for i in range(r):
                    T[L * k + j * r + i, last_atom + j * m + c] += value[s, j, i, c]
        T[-1, -1] = 1 - t[s] * t[s]
        new_gradient[s] = T.T @ gradient[s]
        new_gram[s] = T.T @ (gram[s] @ T)
    return new_gradient, new_gram
