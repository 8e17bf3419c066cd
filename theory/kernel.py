"""The inner loops of `theory.reduction`: weights, prediction, residual and row features of a block, and their products.

Buffers are feature-major and short, so that all that one pass touches stays in the first two cache levels and every
inner loop, which runs over rows, vectorises.
"""

import numba
import numpy as np

ROWS = 128  # rows of a buffer


# In one file with all that it calls: a cached function does not notice that one of another file has changed.
@numba.njit(cache=True, fastmath=True, error_model="numpy")
def accumulate_each(x, y, base, level, key, value, b, t, P, S, X, W, totals):
    """Add the sums over the rows of one block, at each place; names are those of `theory.reduction.evaluate`."""
    for s in range(len(t)):
        _accumulate(x, y, base, level, key[s], value[s], b[s], t[s], P[s], S[s], X[s], W[s], totals[s])


# Inlined: of two compiled copies, which round differently, the one that runs would depend on what was compiled when.
@numba.njit(inline="always")
def _accumulate(x, y, base, level, key, value, b, t, P, S, X, W, totals):
    L, k = key.shape
    r = value.shape[1]
    pairs, quadratic = L * (L + 1) // 2, k + 1 + k * (k + 1) // 2
    features = np.zeros((quadratic, ROWS))  # x~, 1, products x~_k x~_l with k <= l
    scores = np.zeros((pairs, ROWS))  # t^2 dg/ds_j . dg/ds_l for j <= l
    slopes = np.zeros((2 * L, ROWS))  # D_j = w_j (v_j - g).e and U_j = w_j (v_j - g).g
    left = np.zeros((L * k + L, ROWS))  # w_j x~_k, then w_j
    right = np.zeros((L * r + 2 * r, ROWS))  # t^2 dg/ds_j, then e, then g
    first, w = features[: k + 1], left[L * k :]
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
            for i in range(n):
                ec[i] = y[c, start + i] - t * gc[i]
            # A loop of its own: one that wrote as well would sum in another order where buffers happen to adjoin.
            total = 0.0
            for i in range(n):
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
    """exp in place for v <= 0, with relative error below 5e-16 + 4e-17 |v|; unlike the library's, it vectorises.

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


@numba.njit(inline="always")  # as _accumulate
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
