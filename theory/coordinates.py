"""Parameters as one vector, and the coordinates in which over-specified fits move.

Two fitted prompts that share one true prompt are seen by the data through their total weight, their mean, their
second moment, their third, ... (this is why they converge at n^-1/4). In (p_i, p_j, b_i, b_j) the sets of equal moments
are curved, and steps along straight lines crawl through the bend. With weights rho, 1 - rho and u = b_i - b_j,

    beta = log(e^b_i + e^b_j),   mu = rho p_i + (1 - rho) p_j,   eps = sqrt(rho (1 - rho)) (p_i - p_j),   s = sinh(u/2)

have weight e^beta, mean mu, second moment eps eps' and third moment -2 s eps^3: each moment has a coordinate of its
own, and the bend is gone. Inverse: p_i = mu + e^(-u/2) eps, p_j = mu - e^(u/2) eps. Measured: docs/log.md.
"""

from itertools import combinations

import numpy as np

from theory.model import MoERegression, Prompts


class Layout:
    """Where each parameter of L prompts stands in a vector: p, p_value (unshared gates), b, alpha (own softmax).

    Attributes
    ----------
    atoms : list of ndarray, (L, m)
        Positions of p and, for the unshared gates, of p_value.
    b : ndarray, (L,)
        Positions of the biases.
    size : int
    names : list of str
    """

    def __init__(self, model: MoERegression, L: int):
        m = model.m
        self.joint, self.L = model.joint, L
        self.atoms = [np.arange(L * m).reshape(L, m) + i * L * m for i in range(1 + model.unshared)]
        self.b = np.arange(L) + len(self.atoms) * L * m
        self.size = self.b[-1] + 1 + (not model.joint)
        words = ("p", "p_value")[: len(self.atoms)]
        self.names = [f"{word}[{j},{k}]" for word in words for j in range(L) for k in range(m)]
        self.names += [f"b[{j}]" for j in range(L)] + ["alpha"] * (not model.joint)

    def pack(self, prompts: Prompts) -> np.ndarray:
        """Prompts -> vector, (size,)."""
        value = [] if prompts.p_value is None else [prompts.p_value.ravel()]
        return np.concatenate([prompts.p.ravel(), *value, prompts.b, [] if prompts.alpha is None else [prompts.alpha]])

    def unpack(self, theta: np.ndarray) -> Prompts:
        """Vector -> Prompts."""
        value = theta[self.atoms[1]] if len(self.atoms) == 2 else None
        return Prompts(theta[self.atoms[0]], theta[self.b], None if self.joint else theta[-1], value)

    def of(self, j: int) -> np.ndarray:
        """Positions of prompt j: its p, p_value and b."""
        return np.concatenate([*(a[j] for a in self.atoms), self.b[[j]]])

    def pairs(self, theta: np.ndarray, held: np.ndarray) -> list[tuple[int, int]]:
        """Disjoint pairs of prompts, nearest first; none with a coordinate that is held at a bound."""
        atoms = np.hstack([theta[a] for a in self.atoms])
        free = ~(held[self.b] | np.hstack([held[a] for a in self.atoms]).any(1))
        apart = atoms[:, None] - atoms
        distance = np.sqrt(np.einsum("ijk,ijk->ij", apart, apart)).tolist()
        near = sorted((distance[i][j], i, j) for i, j in combinations(np.flatnonzero(free).tolist(), 2))
        # As many pairs as there can be extra prompts to pair up, and only near ones: the reach of the moments' series.
        found: list[tuple[int, int]] = []
        for gap, i, j in near:
            if gap < 2 and len(found) < 2 and not any({i, j} & set(pair) for pair in found):
                found.append((i, j))
        return found

    def pair_jacobian(self, theta: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
        """d theta / d (pair coordinates), (size, size).

        mu and beta take the places of p_i and b_i, eps and s those of p_j and b_j.
        """
        J = np.eye(self.size)
        for i, j in pairs:
            bi, bj = self.b[i], self.b[j]
            u = theta[bi] - theta[bj]
            rho, du = 1 / (1 + np.exp(-u)), 2 / np.cosh(u / 2)
            J[np.ix_([bi, bj], [bi, bj])] = [[1, (1 - rho) * du], [1, -rho * du]]
            for a in self.atoms:
                eps = (theta[a[i]] - theta[a[j]]) / (2 * np.cosh(u / 2))
                J[a[i], a[j]], J[a[j], a[i]], J[a[j], a[j]] = np.exp(-u / 2), 1, -np.exp(u / 2)
                J[a[i], bj] = -0.5 * np.exp(-u / 2) * eps * du
                J[a[j], bj] = -0.5 * np.exp(u / 2) * eps * du
        return J

    def move(self, theta: np.ndarray, step: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
        """theta after a step in pair coordinates."""
        new = theta + step
        for i, j in pairs:
            bi, bj = self.b[i], self.b[j]
            u = theta[bi] - theta[bj]
            v = 2 * np.arcsinh(np.sinh(u / 2) + step[bj])
            beta = np.logaddexp(theta[bi], theta[bj]) + step[bi]
            new[bi], new[bj] = beta - np.logaddexp(0, -v), beta - np.logaddexp(0, v)
            rho = 1 / (1 + np.exp(-u))
            for a in self.atoms:
                mu = rho * theta[a[i]] + (1 - rho) * theta[a[j]] + step[a[i]]
                eps = (theta[a[i]] - theta[a[j]]) / (2 * np.cosh(u / 2)) + step[a[j]]
                new[a[i]], new[a[j]] = mu + np.exp(-v / 2) * eps, mu - np.exp(v / 2) * eps
        return new
