"""Least squares seen through a few numbers a row: value, gradient and Hessian in one streamed pass.

For fixed pre-trained part, f depends on the prompts through B and C only. With the thin QR factorisation C = Q R,

    x~ = B' x  (or x itself where that is shorter),     y~ = Q' (y - f0(x))        (`joint`: y~ = Q' y)

are all that a fit needs of a row: 16 bytes a coordinate, whatever the output dimension d' is. What lies outside the
range of C adds a constant to the sum of squares. (For `joint`, f0 keeps a component outside that range; the rotation of
each row that brings it onto one axis adds a single coordinate to y~.) Working in the coordinates of Q instead of with
C'C keeps the residual free of cancellation, down to noise-free data.

In these coordinates, with weights w_j, experts v_j = R q_j, prediction g = sum_j w_j v_j (`joint`: + w_0 Q' f0),
residual e = y~ - t g and t = tanh(alpha), F = |e|^2 / 2 has

    dF/ds_j = -t w_j (v_j - g).e,    dF/dv_j = -t w_j e,    dF/dt = -g.e                       (s_j: score of prompt j)

and the Gauss-Newton Gram of (s, v, t) is a sum over rows of products of a few features. One pass forms them in buffers
that stay in cache, every loop over rows vectorised, and multiplies them by a small kernel that holds its sums in
registers: the Gram costs less than BLAS takes to multiply a Jacobian that is already there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numba
import numpy as np

from theory.arrays import real
from theory.kernel import accumulate_each
from theory.model import MoERegression

LARGEST = 1e70  # its fourth power, which Gram and decrement may hold, is a number still
KEPT = 1 << 18  # rows of a `head` up to which its features are kept in any case


@dataclass(frozen=True)
class Anew:
    """Row features that are made anew at every pass over the first so many rows: flat memory, at the price of making.

    Attributes
    ----------
    features : callable
        (x, y) -> row features of a chunk, and its part of the constant.
    source : iterable of (x, y)
        Chunks, the same ones whenever they are read.
    rows : int
    """

    features: Callable
    source: Iterable
    rows: int

    def __iter__(self) -> Iterator[tuple]:
        return _first((self.features(x, y)[0] for x, y in self.source), self.rows)


def _first(blocks: Iterable[tuple], rows: int) -> Iterator[tuple]:
    """The blocks up to so many rows, of which there must be one."""
    for block in blocks:
        yield tuple(np.ascontiguousarray(a[..., :rows]) for a in block)
        rows -= block[0].shape[1]
        if rows <= 0:
            return


@dataclass
class Reduced:
    """The data of one regression problem, as its least-squares fit sees them.

    Attributes
    ----------
    blocks : list of, or `Anew` with, tuples of arrays
        Row features, feature-major: x~ (k, rows), y~ (r, rows), and for `joint` Q' f0 (r, rows) and the pre-trained
        log-normaliser (rows,), empty otherwise.
    key_map, value_map : ndarray, (k, m) and (r, m)
        Prompts enter as key_map q^K and value_map q^V.
    constant : float
        Part of the sum of squares that no prompt can change.
    n : int
        Number of rows.
    rows_read : list of one int
        Rows that evaluations have read so far, those of a `head` among them.
    """

    blocks: list | Anew
    key_map: np.ndarray
    value_map: np.ndarray
    constant: float
    n: int
    rows_read: list[int] = field(default_factory=lambda: [0])

    def head(self, rows: int) -> "Reduced":
        """The problem of the first rows only; the constant, which no fit depends on, is scaled."""
        n = min(rows, self.n)
        blocks = self.blocks
        blocks = replace(blocks, rows=n) if isinstance(blocks, Anew) and n > KEPT else list(_first(blocks, n))
        return Reduced(blocks, self.key_map, self.value_map, self.constant * n / self.n, n, self.rows_read)


def reduce(model: MoERegression, chunks: Iterable[tuple[np.ndarray, np.ndarray]], keep: bool = True) -> Reduced:
    """Stream chunks of (x, y) into their row features.

    Without `keep`, features are made anew whenever they are read, from chunks that must be the same ones each time.

    Raises
    ------
    TypeError
        If an array is masked or holds anything but real numbers.
    ValueError
        If an array has the wrong shape, is not finite or so large that sums of squares overflow, or there is no row.
    """
    m = model.B.shape[1]
    Q, R = np.linalg.qr(model.C)
    outside = model.d_out > len(R)
    key_map = np.eye(m) if _narrow(model) else model.B
    value_map = np.vstack([R, np.zeros((1, m))]) if model.joint and outside else R
    features = partial(_features, model, Q)
    blocks, constant, n = [], 0.0, 0
    for x, y in chunks:
        block, rest = features(x, y)
        if keep:
            blocks.append(block)
        constant += rest
        n += block[0].shape[1]
    if not n:
        raise ValueError("x and y must have at least one row; got none")
    return Reduced(blocks if keep else Anew(features, chunks, n), key_map, value_map, constant, n)


def _narrow(model: MoERegression) -> bool:
    """Whether B' x is no longer than x."""
    return model.m <= model.d


def _features(model: MoERegression, Q: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[tuple, float]:
    """Row features of a chunk, and the part of its sum of squares that no prompt can change."""
    x, y = real("x", x), real("y", y)
    model.check_data(x, y)
    for name, array in (("x", x), ("y", y)):
        if array.size and np.abs(array).max() > LARGEST:
            raise ValueError(f"{name} must stay under {LARGEST:g} in size; got {np.abs(array).max():.3g}")
    f0, level = model.pretrained(x)
    if not model.joint:  # new empty arrays: a view would keep all of f0 in memory
        f0, level, y = np.empty((len(x), 0)), np.empty(0), y - f0
    target, base, constant = y @ Q, f0 @ Q if model.joint else f0, 0.0
    if model.d_out > Q.shape[1]:
        rest = y - target @ Q.T
        if model.joint:
            f0 = f0 - base @ Q.T
            length = np.linalg.norm(f0, axis=1)
            axis = f0 / np.where(length > 0, length, 1)[:, None]
            along = np.einsum("ni,ni->n", rest, axis)
            rest -= along[:, None] * axis
            target, base = np.column_stack([target, along]), np.column_stack([base, length])
        constant = float(np.vdot(rest, rest))
    arrays = (x @ model.B if _narrow(model) else x, target, base, level)
    return tuple(np.ascontiguousarray(a.T) for a in arrays), constant


def evaluate(data: Reduced, key: np.ndarray, value: np.ndarray, b: np.ndarray, t: np.ndarray):
    """Sums of squares, and gradients and Gauss-Newton Grams of half of them, at one place or several.

    Parameters
    ----------
    data : Reduced
    key, value : ndarray, (S, L, k) and (S, L, r)
        Prompts in the coordinates of the rows, at S places.
    b : ndarray, (S, L)
    t : ndarray, (S,)
        tanh(alpha); 1 for `joint`.

    Returns
    -------
    sse : ndarray, (S,)
    gradient : ndarray, (S, K)
    gram : ndarray, (S, K, K)
        J'J over (key, value, b, t), K = L k + L r + L + 1.
    """
    (places, L, k), r = key.shape, value.shape[2]
    data.rows_read[0] += places * data.n
    P = np.zeros((places, L * (L + 1) // 2, k + 1 + k * (k + 1) // 2))
    S = np.zeros((places, 2 * L, k + 1))
    X = np.zeros((places, L * k + L, L * r + 2 * r))
    W = np.zeros((places, L, L))
    totals = np.zeros((places, 3))  # |e|^2, |g|^2, g.e
    for x, y, base, level in data.blocks:
        accumulate_each(x, y, base, level, key, value, b, t, P, S, X, W, totals)
    return data.constant + totals[:, 0], *_assemble_each(L, k, r, t, P, S, X, W, totals)


@numba.njit(cache=True)
def _assemble_each(L, k, r, t, P, S, X, W, totals):
    size = L * (k + r) + L + 1
    gradient, gram = np.zeros((len(t), size)), np.zeros((len(t), size, size))
    for s in range(len(t)):
        gradient[s], gram[s] = _assemble(L, k, r, t[s], P[s], S[s], X[s], W[s], totals[s])
    return gradient, gram


@numba.njit(cache=True)
def _assemble(L, k, r, t, P, S, X, W, totals):
    """Gradient and Gram from the sums over rows."""
    values, biases, last = L * k, L * (k + r), L * (k + r) + L
    gradient, G = np.zeros(last + 1), np.zeros((last + 1, last + 1))
    pair = 0
    for j in range(L):
        for l in range(j, L):
            product = k + 1
            for i in range(k):
                G[j * k + i, biases + l] = G[l * k + i, biases + j] = P[pair, i]
                for c in range(i, k):
                    G[j * k + i, l * k + c] = G[j * k + c, l * k + i] = P[pair, product]
                    product += 1
            G[biases + j, biases + l] = P[pair, k]
            for c in range(r):
                G[values + j * r + c, values + l * r + c] = t * t * W[j, l]
            pair += 1
        # X holds sums of (w_l x~_i) and of w_l, each times (t^2 dg/ds_j, e, g).
        for l in range(L):
            for c in range(r):
                for i in range(k):
                    G[j * k + i, values + l * r + c] = X[l * k + i, j * r + c]
                G[values + l * r + c, biases + j] = X[L * k + l, j * r + c]
        for i in range(k):
            gradient[j * k + i], G[j * k + i, last] = -t * S[j, i], t * S[L + j, i]
        for c in range(r):
            gradient[values + j * r + c] = -t * X[L * k + j, L * r + c]
            G[values + j * r + c, last] = t * X[L * k + j, L * r + r + c]
        gradient[biases + j], G[biases + j, last] = -t * S[j, k], t * S[L + j, k]
    gradient[last], G[last, last] = -totals[2], totals[1]
    for i in range(last):
        for c in range(i + 1, last + 1):
            G[c, i] = G[i, c]
    return gradient, G
