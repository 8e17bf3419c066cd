"""Over-specified fits: estimates with fewer prompts than asked for, and where one prompt more pays.

Two prompts of one place are seen through their total weight and their moments, so a descent that brings two together
crawls, and its Gauss-Newton decrement, a ratio of two numbers that go to 0, does not. So the pair is merged, and the
problem with one prompt less is solved, which is regular. There one prompt more, at the place q with the small weight
omega, changes f by omega D_q and lowers SSE by

    2 omega a - omega^2 h,     a = <e, D_q>,    h = |D_q|^2 less its projection on the other prompts' tangent space,

where e are the residuals and D_q = tanh(alpha) e^(x'Bq) / Z (C q - g). The places q where that is most, over the
weights that the box allows, are where a descent with one prompt more begins: far away, or beside a prompt, where the
same formula has the second derivative along the line between the two (the n^-1/4 phenomenon).
"""

from collections.abc import Callable

import numpy as np

from theory.model import Prompts
from theory.problem import LeastSquares

FAR, BESIDE = 64, 32  # places tried: anywhere in the box, and around each prompt
NEAREST, FARTHEST = 0.1, 1.5  # distances of the latter
ROWS = 1000  # rows that h is taken from; a is from all of them
SCAN = 4  # passes that this costs, about
ALIKE = 0.8  # places whose effects on f correlate as much lead to one minimum


def nearest(prompts: Prompts) -> tuple[float, int, int]:
    """Distance of the nearest two prompts, and which two."""
    distance = np.linalg.norm(prompts.atoms[:, None] - prompts.atoms, axis=-1) + np.diag([np.inf] * len(prompts))
    i, j = divmod(int(distance.argmin()), len(prompts))
    return float(distance[i, j]), i, j


def merge(prompts: Prompts, i: int, j: int) -> Prompts:
    """One prompt less: i and j in one, the last, at their weighted mean and with both weights."""
    rho = 1 / (1 + np.exp(prompts.b[j] - prompts.b[i]))
    rest = np.delete(np.arange(len(prompts)), [i, j])

    def joined(a: np.ndarray) -> np.ndarray:
        return np.vstack([a[rest], rho * a[i] + (1 - rho) * a[j]])

    b = np.append(prompts.b[rest], np.logaddexp(prompts.b[i], prompts.b[j]))
    value = None if prompts.p_value is None else joined(prompts.p_value)
    return Prompts(joined(prompts.p), b, prompts.alpha, value)


def double(prompts: Prompts, i: int) -> Prompts:
    """The same measure with one prompt more: i in two halves, the second one last."""
    more = prompts.take(np.append(np.arange(len(prompts)), i))
    b = more.b.copy()
    b[[i, -1]] -= np.log(2)
    return Prompts(more.p, b, more.alpha, more.p_value)


def additions(fewer: LeastSquares, theta: np.ndarray, box: Callable, most: int) -> list[Prompts]:
    """Prompts with one more than `theta` has, the last, at up to `most` places where it lowers SSE most.

    Parameters
    ----------
    fewer : LeastSquares
        The problem with one prompt less.
    theta : ndarray
        A stationary point of it.
    box : callable
        Layout -> least and greatest parameter vector: `Box.bounds`.
    most : int

    Returns
    -------
    list of Prompts
        The best place first; none where no place promises a fall.
    """
    prompts, (lower, upper) = fewer.layout.unpack(theta), box(fewer.layout)
    atoms = _places(fewer, prompts, lower, upper)
    value = None if prompts.p_value is None else atoms[:, prompts.p.shape[1] :]
    tried = Prompts(atoms[:, : prompts.p.shape[1]], np.zeros(len(atoms)), prompts.alpha, value)
    a, D = _slope_and_effect(fewer, theta, tried, (theta > lower + 1e-10) & (theta < upper - 1e-10))
    h = np.maximum((D * D).sum(1), np.finfo(float).tiny)
    D /= np.sqrt(h)[:, None]
    # The box bounds b - mean b, or b itself, of the new prompt from below; above, half of all weight is enough.
    L, bound = len(prompts), upper[fewer.layout.b[0]]
    least = np.exp(-bound if prompts.alpha is None else prompts.b.mean() - bound * (L + 1) / L)
    with np.errstate(over="ignore"):
        weight = np.clip(a / h, least, max(least, np.exp(prompts.b).sum() / 2))
    fall = 2 * weight * a - weight**2 * h
    chosen: list[int] = []
    for i in np.argsort(-fall):
        if fall[i] > 0 and len(chosen) < most and all(abs(D[i] @ D[j]) < ALIKE for j in chosen):
            chosen.append(i)
    return [_joined(prompts, tried.take(np.array([i])), float(np.log(weight[i]))) for i in chosen]


def _joined(prompts: Prompts, one: Prompts, b: float) -> Prompts:
    """The prompts and one more of bias b."""
    pair = [value for value in (prompts.p_value, one.p_value) if value is not None]
    value = np.vstack(pair) if pair else None
    return Prompts(np.vstack([prompts.p, one.p]), np.append(prompts.b, b), prompts.alpha, value)


def _places(fewer: LeastSquares, prompts: Prompts, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Places tried for one prompt more, always the same ones for the same prompts."""
    rng = np.random.default_rng(len(prompts))
    low, high = (np.concatenate([bound[a[0]] for a in fewer.layout.atoms]) for bound in (lower, upper))
    beside = np.repeat(prompts.atoms, BESIDE, axis=0)
    direction = rng.standard_normal(beside.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    beside = beside + direction * np.exp(rng.uniform(np.log(NEAREST), np.log(FARTHEST), (len(beside), 1)))
    return np.vstack([rng.uniform(low, high, (FAR, len(low))), np.clip(beside, low, high)])


def _slope_and_effect(fewer: LeastSquares, theta: np.ndarray, tried: Prompts, free: np.ndarray):
    """a of the module's formula at each place tried, (Q,), and D_q off the tangent space, whose squared length is h."""
    data, prompts, model = fewer.data, fewer.layout.unpack(theta), fewer.model
    t = 1.0 if prompts.alpha is None else np.tanh(prompts.alpha)
    (key, value), (new_key, new_value) = (
        (q @ M.T for q, M in zip(model.keys_and_values(p), (data.key_map, data.value_map), strict=True))
        for p in (prompts, tried)
    )
    # In single precision, as the places are only compared; and few rows at a time, which stay in the cache.
    read, sums, D = new_key.astype(np.float32), np.zeros((len(tried), data.value_map.shape[0] + 1)), np.empty(0)
    for block in data.blocks:
        for begin in range(0, block[0].shape[1], ROWS):
            x, y, base, level = (a[..., begin : begin + ROWS] for a in block)
            scores = np.vstack([key @ x + prompts.b[:, None], *([level] if len(level) else [])])
            top = scores.max(0)
            w = np.exp(scores - top)
            Z = w.sum(0)
            w /= Z
            g = value.T @ w[: len(key)] + (w[-1] * base if len(level) else 0.0)
            e = y - t * g
            E = read @ x.astype(np.float32)
            E -= (top + np.log(Z)).astype(np.float32)
            np.exp(np.minimum(E, np.float32(40.0), out=E), out=E)
            sums += E @ np.vstack([e, (g * e).sum(0)]).T.astype(np.float32)
            if not D.size:
                D = E[:, None] * (new_value[:, :, None] - g) * (t * np.sqrt(data.n / len(Z)))
                D = D.reshape(len(D), -1)
                if free.any():
                    U = _tangent(fewer, theta, x, w[: len(key)], value, g, t)[:, :, free]
                    U, size, _ = np.linalg.svd(U.reshape(-1, U.shape[2]), full_matrices=False)
                    U = U[:, size > 1e-7 * size[0]]
                    D -= (D @ U) @ U.T
    a = np.einsum("qr,qr->q", new_value, sums[:, :-1]) - sums[:, -1]
    data.rows_read[0] += SCAN * data.n
    return t * a, D


def _tangent(fewer: LeastSquares, theta: np.ndarray, x, w, value, g, t: float) -> np.ndarray:
    """d (t g) / d theta at rows x, (r, n, K), from the weights w and g there."""
    layout, data, sigma = fewer.layout, fewer.data, fewer.model.activation
    J = np.zeros((*g.shape, layout.size))
    slopes = [sigma.jacobian(theta[a]) for a in layout.atoms]
    for j in range(layout.L):
        by_score = t * w[j] * (value[j][:, None] - g)
        J[:, :, layout.b[j]] = by_score
        J[:, :, layout.atoms[0][j]] += by_score[:, :, None] * (x.T @ (data.key_map @ slopes[0][j]))
        J[:, :, layout.atoms[-1][j]] += t * w[j][:, None] * (data.value_map @ slopes[-1][j])[:, None]
    if not layout.joint:
        J[:, :, -1] = (1 - t * t) * g
    return J
