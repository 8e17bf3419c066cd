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

from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np

from theory.model import MoERegression

ROWS = 128  # rows of a work buffer: what one pass touches stays in the first two cache levels


@dataclass
class Reduced:
    """The data of one regression problem, as its least-squares fit sees them.

    Attributes
    ----------
    blocks : list of tuples of arrays
        Row features, feature-major: x~ (k, rows), y~ (r, rows), and for `joint` Q' f0 (r, rows) and the pre-trained
        log-normaliser (rows,), empty otherwise.
    key_map, value_map : ndarray, (k, m) and (r, m)
        Prompts enter as key_map q^K and value_map q^V.
    constant : float
        Part of the sum of squares that no prompt can change.
    n : int
        Number of rows.
    """

    blocks: list
    key_map: np.ndarray
    value_map: np.ndarray
    constant: float
    n: int

    def head(self, rows: int) -> "Reduced":
        """The problem of the first rows only; the constant, which no fit depends on, is scaled."""
        blocks, left = [], rows
        for block in self.blocks:
            if left > 0:
                blocks.append(tuple(np.ascontiguousarray(a[..., :left]) for a in block))
                left -= block[0].shape[1]
        n = min(rows, self.n)
        return Reduced(blocks, self.key_map, self.value_map, self.constant * n / self.n, n)


def reduce(model: MoERegression, chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> Reduced:
    """Stream chunks of (x, y) into their row features.

    Raises
    ------
    ValueError
        If an array has the wrong shape or is not finite, or there is no row.
    """
    d, m = model.B.shape
    Q, R = np.linalg.qr(model.C)
    outside = model.d_out > len(R)
    key_map, narrow = (np.eye(m), True) if m <= d else (model.B, False)
    value_map = np.vstack([R, np.zeros((1, m))]) if model.joint and outside else R
    blocks, constant, n = [], 0.0, 0
    for x, y in chunks:
        x, y = np.asarray(x, float), np.asarray(y, float)
        model.check_data(x, y)
        f0, level = model.pretrained(x)
        if not model.joint:
            f0, y = f0[:, :0], y - f0
        target, base = y @ Q, f0 @ Q if model.joint else f0
        if outside:
            rest = y - target @ Q.T
            if model.joint:
                f0 = f0 - base @ Q.T
                length = np.linalg.norm(f0, axis=1)
                axis = f0 / np.where(length > 0, length, 1)[:, None]
                along = np.einsum("ni,ni->n", rest, axis)
                rest -= along[:, None] * axis
                target, base = np.column_stack([target, along]), np.column_stack([base, length])
            constant += np.vdot(rest, rest)
        level = level if model.joint else level[:0]
        blocks.append(tuple(np.ascontiguousarray(a.T) for a in (x @ model.B if narrow else x, target, base, level)))
        n += len(x)
    if not n:
        raise ValueError("x and y must have at least one row; got none")
    return Reduced(blocks, key_map, value_map, constant, n)


def evaluate(data: Reduced, key: np.ndarray, value: np.ndarray, b: np.ndarray, t: float):
    """Sum of squares, and gradient and Gauss-Newton Gram of half of it.

    Parameters
    ----------
    data : Reduced
    key, value : ndarray, (L, k) and (L, r)
        Prompts in the coordinates of the rows.
    b : ndarray, (L,)
    t : float
        tanh(alpha); 1 for `joint`.

    Returns
    -------
    sse : float
    gradient : ndarray, (K,)
    gram : ndarray, (K, K)
        J'J over (key, value, b, t), K = L k + L r + L + 1.
    """
    (L, k), r = key.shape, value.shape[1]
    pairs, quadratic = L * (L + 1) // 2, k + 1 + k * (k + 1) // 2
    features = np.zeros((quadratic, ROWS))  # x~, 1, products x~_k x~_l with k <= l
    scores = np.zeros((pairs, ROWS))  # t^2 dg/ds_j . dg/ds_l for j <= l
    slopes = np.zeros((2 * L, ROWS))  # D_j = w_j (v_j - g).e and U_j = w_j (v_j - g).g
    left = np.zeros((L * k + L, ROWS))  # w_j x~_k, then w_j
    right = np.zeros((L * r + 2 * r, ROWS))  # t^2 dg/ds_j, then e, then g
    P = np.zeros((pairs, quadratic))
    S = np.zeros((2 * L, k + 1))
    X = np.zeros((L * k + L, L * r + 2 * r))
    W = np.zeros((L, L))
    work = (features, features[: k + 1], scores, slopes, left, left[L * k :], right)
    totals = np.zeros(3)  # |e|^2, |g|^2, g.e
    for block in data.blocks:
        _accumulate(*block, key, value, b, t, *work, P, S, X, W, totals)
    return data.constant + totals[0], *_assemble(L, k, r, t, P, S, X, W, totals)


def _assemble(L, k, r, t, P, S, X, W, totals):
    """Gradient and Gram from the sums over rows."""
    keys, values, biases = slice(0, L * k), slice(L * k, L * (k + r)), slice(L * (k + r), L * (k + r) + L)
    G = np.zeros((L * (k + r) + L + 1,) * 2)

    pairs = np.zeros((L, L, P.shape[1]))
    j, l = np.triu_indices(L)
    pairs[j, l] = pairs[l, j] = P
    square = np.zeros((L, L, k, k))
    i, c = np.triu_indices(k)
    square[..., i, c] = square[..., c, i] = pairs[..., k + 1 :]
    G[keys, keys] = square.transpose(0, 2, 1, 3).reshape(L * k, L * k)
    G[keys, biases] = pairs[..., :k].transpose(0, 2, 1).reshape(L * k, L)
    G[biases, biases] = pairs[..., k]

    # X holds sums of (w_l x~_c) and of w_l, each times (t^2 dg/ds_j, e, g).
    wx, w = X[: L * k].reshape(L, k, -1), X[L * k :]
    G[keys, values] = wx[..., : L * r].reshape(L, k, L, r).transpose(2, 1, 0, 3).reshape(L * k, L * r)
    we, wg = w[:, L * r : L * r + r], w[:, L * r + r :]
    G[values, biases] = w[:, : L * r].reshape(L, L, r).transpose(0, 2, 1).reshape(L * r, L)
    G[values, values] = t * t * np.kron(W, np.eye(r))

    D, U = S[:L], S[L:]
    G[keys, -1], G[biases, -1] = t * U[:, :k].ravel(), t * U[:, k]
    G[values, -1] = t * wg.ravel()
    G[-1, -1] = totals[1]
    G = np.triu(G)
    gradient = -np.concatenate([t * D[:, :k].ravel(), t * we.ravel(), t * D[:, k], totals[2:]])
    return gradient, G + np.triu(G, 1).T


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _accumulate(x, y, base, level, key, value, b, t,
                features, first, scores, slopes, left, w, right, P, S, X, W, totals):  # fmt: skip
    """Add the sums over the rows of one block; every inner loop runs over rows and vectorises."""
    L, k = key.shape
    r = value.shape[1]
    joint = len(level) > 0
    gram = value @ value.T
    u = np.empty((L, ROWS))
    a = np.empty((L, ROWS))
    z, top, gg, ge, w0 = np.empty(ROWS), np.empty(ROWS), np.empty(ROWS), np.empty(ROWS), np.zeros(ROWS)
    e, g = right[L * r : L * r + r], right[L * r + r :]
    for start in range(0, x.shape[1], ROWS):
        n = min(ROWS, x.shape[1] - start)
        stop = start + n
        for c in range(k):
            features[c, :n] = x[c, start:stop]
            features[c, n:] = 0.0
        features[k] = 1.0

        # Weights.
        top[:] = 0.0
        if joint:
            top[:n] = level[start:stop]
        for j in range(L):
            s = w[j]
            s[:] = b[j]
            for c in range(k):
                for i in range(ROWS):
                    s[i] += key[j, c] * features[c, i]
            if j == 0 and not joint:
                top[:] = s
            else:
                for i in range(ROWS):
                    top[i] = max(top[i], s[i])
        z[:] = 0.0
        if joint:
            for i in range(n):
                w0[i] = level[start + i] - top[i]
            _exp(w0)
            z[:] = w0
        for j in range(L):
            for i in range(ROWS):
                w[j, i] -= top[i]
            _exp(w[j])
            for i in range(ROWS):
                z[i] += w[j, i]
        for i in range(ROWS):
            z[i] = 1.0 / z[i]
        for i in range(n, ROWS):  # rows past the end weigh nothing
            z[i] = 0.0
        for j in range(L):
            for i in range(ROWS):
                w[j, i] *= z[i]

        # Prediction g, residual e and their inner products.
        gg[:] = 0.0
        ge[:] = 0.0
        for c in range(r):
            gc, ec = g[c], e[c]
            gc[:] = 0.0
            ec[:] = 0.0
            for j in range(L):
                for i in range(ROWS):
                    gc[i] += w[j, i] * value[j, c]
            if joint:
                for i in range(n):
                    gc[i] += w0[i] * z[i] * base[c, start + i]
            total = 0.0
            for i in range(n):
                ec[i] = y[c, start + i] - t * gc[i]
                total += ec[i] * ec[i]
            totals[0] += total
            for i in range(ROWS):
                gg[i] += gc[i] * gc[i]
                ge[i] += gc[i] * ec[i]
        totals[1] += gg.sum()
        totals[2] += ge.sum()

        # Row features.
        for j in range(L):
            u[j] = 0.0
            a[j] = 0.0
            for c in range(r):
                for i in range(ROWS):
                    u[j, i] += value[j, c] * g[c, i]
                    a[j, i] += value[j, c] * e[c, i]
            for i in range(ROWS):
                slopes[j, i] = w[j, i] * (a[j, i] - ge[i])
                slopes[L + j, i] = w[j, i] * (u[j, i] - gg[i])
        p = 0
        for j in range(L):
            for l in range(j, L):
                for i in range(ROWS):
                    scores[p, i] = t * t * w[j, i] * w[l, i] * (gram[j, l] - u[j, i] - u[l, i] + gg[i])
                p += 1
        p = k + 1
        for c in range(k):
            for l in range(c, k):
                for i in range(ROWS):
                    features[p, i] = features[c, i] * features[l, i]
                p += 1
        for j in range(L):
            for c in range(k):
                for i in range(ROWS):
                    left[j * k + c, i] = w[j, i] * features[c, i]
            for c in range(r):
                for i in range(ROWS):
                    right[j * r + c, i] = t * t * w[j, i] * (value[j, c] - g[c, i])
        _multiply(scores, features, P)
        _multiply(slopes, first, S)
        _multiply(left, right, X)
        _multiply(w, w, W)


@numba.njit(cache=True, error_model="numpy")
def _exp(v):
    """exp in place for v <= 0, to 2 units in the last place; unlike the library's, a loop that vectorises.

    v = k log 2 + f with |f| <= log(2) / 2, exp(f) by its series, 2^k by writing the exponent bits.
    """
    bits = np.empty(len(v), np.int64)
    for i in range(len(v)):
        x = max(v[i], -708.0)
        k = np.floor(x * 1.4426950408889634 + 0.5)
        f = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        s = 1.0 / 6227020800.0
        s = s * f + 1.0 / 479001600.0
        s = s * f + 1.0 / 39916800.0
        s = s * f + 1.0 / 3628800.0
        s = s * f + 1.0 / 362880.0
        s = s * f + 1.0 / 40320.0
        s = s * f + 1.0 / 5040.0
        s = s * f + 1.0 / 720.0
        s = s * f + 1.0 / 120.0
        s = s * f + 1.0 / 24.0
        s = s * f + 1.0 / 6.0
        s = s * f + 0.5
        v[i] = s * f * f + f + 1.0
        bits[i] = (np.int64(np.int32(k)) + 1023) << 52
    power = bits.view(np.float64)
    for i in range(len(v)):
        v[i] *= power[i]


@numba.njit(cache=True, fastmath=True, error_model="numpy")
def _multiply(A, B, C):
    """C += A B' for a few short rows: 4 x 3 sums are held in registers (BLAS would first copy both factors)."""
    rows, columns = A.shape[0], B.shape[0]
    for p in range(0, rows - rows % 4, 4):
        a0, a1, a2, a3 = A[p], A[p + 1], A[p + 2], A[p + 3]
        for q in range(0, columns - columns % 3, 3):
            b0, b1, b2 = B[q], B[q + 1], B[q + 2]
            c00 = c01 = c02 = c10 = c11 = c12 = c20 = c21 = c22 = c30 = c31 = c32 = 0.0
            for i in range(ROWS):
                c00 += a0[i] * b0[i]
                c01 += a0[i] * b1[i]
                c02 += a0[i] * b2[i]
                c10 += a1[i] * b0[i]
                c11 += a1[i] * b1[i]
                c12 += a1[i] * b2[i]
                c20 += a2[i] * b0[i]
                c21 += a2[i] * b1[i]
                c22 += a2[i] * b2[i]
                c30 += a3[i] * b0[i]
                c31 += a3[i] * b1[i]
                c32 += a3[i] * b2[i]
            C[p, q] += c00
            C[p, q + 1] += c01
            C[p, q + 2] += c02
            C[p + 1, q] += c10
            C[p + 1, q + 1] += c11
            C[p + 1, q + 2] += c12
            C[p + 2, q] += c20
            C[p + 2, q + 1] += c21
            C[p + 2, q + 2] += c22
            C[p + 3, q] += c30
            C[p + 3, q + 1] += c31
            C[p + 3, q + 2] += c32
    for p in range(rows):  # what the tiles leave over
        for q in range(columns - columns % 3 if p < rows - rows % 4 else 0, columns):
            c00 = 0.0
            for i in range(ROWS):
                c00 += A[p, i] * B[q, i]
            C[p, q] += c00
