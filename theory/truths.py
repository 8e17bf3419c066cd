"""Truths of the studies: a model and its true prompts, drawn by the seed; and truths that move with n.

A truth that moves has two prompts that come together as n grows, or a gate that closes, at a pace at which the data can
just not keep up. Its scale c is the truth's own: at every n the split changes f, beyond what the other parameters can
imitate, by one standard error,

    | P (f_split - f_whole) |_{L2(mu)} = nu / sqrt(n)                                                               (*)

to leading order, P the projection off the tangent space of the unsplit truth (and, where lower moments of the split are
seen, off those). So every truth splits a comparable amount, and c is no choice of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import null_space
from scipy.stats import qmc

from common.streams import stream
from theory.jacobian import jacobian
from theory.merging import double
from theory.model import MoERegression, Prompts

DRAWS = 1000  # of true prompts, until they are far enough from each other
POINTS = 1 << 12  # inputs at which derivatives are taken
STEP = 0.01  # of the differences in `moments`
VALUE_GAP = 1.0  # distance of the values of two prompts whose keys come together
ALPHA = 0.8  # the gate of fixed truths, and of the vanishing one at n = 316


@dataclass(frozen=True)
class Setting:
    """What is known, and what is true at each sample size.

    Attributes
    ----------
    model : MoERegression
    whole : Prompts
        The truth, or what a moving truth comes from: its two halves in one place, its gate open.
    at : callable
        n -> true prompts.
    target : callable
        n -> the prompts that least squares estimates: the true ones, or with fewer fitted prompts the best of these.
    """

    model: MoERegression
    whole: Prompts
    at: Callable[[int], Prompts]
    target: Callable[[int], Prompts]


def draw_model(d: int, d_out: int, activation: str, gate: str, seed: int, number: int) -> MoERegression:
    """Pre-trained part: two experts of random weights; B and C with orthonormal columns.

    Keyed by dimensions, seed and number, not by name: studies of equal dimensions share it, whatever their gate.
    """
    rng = stream(seed, "model", d, d_out, *([number] if number else []))
    N = 2
    return MoERegression(
        A=0.3 * rng.standard_normal((N, d, d)),
        a=0.3 * rng.standard_normal(N),
        eta=rng.standard_normal((N, d_out, d)),
        B=np.linalg.qr(rng.standard_normal((d, d)))[0],
        C=np.linalg.qr(rng.standard_normal((d_out, d)))[0],
        activation=activation,
        gate=gate,
    )


def draw_prompts(
    model: MoERegression, L: int, spread: tuple[float, float], apart: float, seed: int, number: int
) -> Prompts:
    """True prompts uniform in `spread` and at least `apart` from each other, keyed like the model; alpha* = 0.8.

    Raises
    ------
    ValueError
        If none of 1000 draws has its prompts so far apart.
    """
    rng = stream(seed, "truth", model.d, L, *([number] if number else []))
    for _ in range(DRAWS):
        unit = rng.uniform(size=(2, L, model.m))
        p, value = spread[0] + (spread[1] - spread[0]) * unit
        distance = np.linalg.norm(p[:, None] - p, axis=-1)[np.triu_indices(L, 1)]
        if L == 1 or distance.min() >= apart:
            break
    else:
        raise ValueError(
            f"apart must leave room for {L} prompts between {spread[0]:g} and {spread[1]:g} in {model.m} dimensions; "
            f"none of {DRAWS} draws has them {apart:g} apart. Choose a smaller apart, or a wider spread"
        )
    b = 0.3 * rng.standard_normal(L)
    return Prompts(p, b - b.mean(), None if model.joint else ALPHA, value if model.unshared else None)


def halves(whole: Prompts, j: int, step: np.ndarray, value_step: np.ndarray | None = None) -> Prompts:
    """Prompt j in halves at p_j +- step, values at p_value_j +- value_step; the second half last."""
    twice = double(whole, j)
    sides = np.zeros((len(twice), 1))
    sides[j], sides[-1] = 1, -1
    value = twice.p_value if value_step is None else twice.p_value + sides * value_step  # type: ignore[operator]
    b = twice.b if twice.alpha is None else twice.b - twice.b.mean()
    return Prompts(twice.p + sides * step, b, twice.alpha, value)


class Moments:
    """Changes of f that the moments of a split prompt cause, in L2(mu), beyond what the whole truth can imitate.

    Vectors hold f at Sobol points, over the square root of their number.
    """

    def __init__(self, model: MoERegression, whole: Prompts):
        self.model, self.whole = model, whole
        self.x = qmc.MultivariateNormalQMC(np.zeros(model.d), rng=stream(0, "moments")).random(POINTS)
        self.tangent = _span(jacobian(model, self.x, whole) / np.sqrt(POINTS))
        self.f = model(self.x, whole)

    def change(self, prompts: Prompts) -> np.ndarray:
        """f at these prompts less f at the whole truth."""
        return (self.model(self.x, prompts) - self.f).ravel() / np.sqrt(POINTS)

    def second(self, j: int, v: np.ndarray) -> np.ndarray:
        """D_v = lim P (f - f_whole) / h^2 for halves of prompt j at distance h v either way."""
        return off(self.tangent, self.change(halves(self.whole, j, STEP * v))) / STEP**2

    def third(self, j: int, v: np.ndarray) -> np.ndarray:
        """Change of f per unit of the third central moment along v, beyond what else two near prompts can do.

        They have second moment eps eps': as eps moves about h v, f changes along D of v v' and of v w' + w v'.
        Weights 1/3 and 2/3 at mu + 2 s v and mu - s v have third moment 2 s^3 and second moment 2 s^2, like the two
        with v turned round: the difference of the two over 4 s^3 is free of even moments.
        """
        light = [self._lopsided(j, side * STEP * v) for side in (1, -1)]
        odd = (self.change(light[0]) - self.change(light[1])) / (4 * STEP**3)
        seen = [self.second(j, v)]
        for w in null_space(v[None]).T:
            seen.append(self.second(j, (v + w) / np.sqrt(2)) - self.second(j, (v - w) / np.sqrt(2)))
        return off(_span(np.column_stack(seen)), off(self.tangent, odd))

    def values(self, j: int, v: np.ndarray, value_step: np.ndarray) -> np.ndarray:
        """lim P (f - f_whole) / h for halves of an unshared prompt, keys h v and values value_step either way."""
        return off(self.tangent, self.change(halves(self.whole, j, STEP * v, value_step))) / STEP

    def _lopsided(self, j: int, s: np.ndarray) -> Prompts:
        split = halves(self.whole, j, 0 * s)
        p, b = split.p.copy(), split.b.copy()
        p[j], p[-1] = p[j] + 2 * s, p[-1] - s
        b[[j, -1]] += np.log([2 / 3, 4 / 3])
        return replace(split, p=p, b=b)


def fixed(model: MoERegression, whole: Prompts, noise: float) -> Callable[[int], Prompts]:
    """The same truth at every n."""
    return lambda n: whole


def quarter(model: MoERegression, whole: Prompts, noise: float) -> Callable[[int], Prompts]:
    """Halves c n^-1/4 from their middle: their second moment is one standard error, c^2 |D_v| = nu.

    Of all prompts and directions, those are split whose second moment is seen best.
    """
    moments = Moments(model, whole)
    size, j, v = max(((float(np.linalg.norm(moments.second(j, v))), j, v) for j, v in _splits(whole)), key=_first)
    return lambda n: halves(whole, j, np.sqrt(noise / size) * n**-0.25 * v)


def sixth(model: MoERegression, whole: Prompts, noise: float) -> Callable[[int], Prompts]:
    """Halves c n^-1/6 from their middle: an asymmetry of the size of the split is one standard error, c^3 |T_v| = nu.

    At this pace the second moment is seen and the third, which tells the weights of the halves, is not. Of all prompts
    and directions those are split where these two are farthest apart, |D_v|^3 / |T_v|^2 largest.
    """
    moments = Moments(model, whole)

    def sizes(j: int, v: np.ndarray) -> tuple[float, float]:
        return float(np.linalg.norm(moments.second(j, v))), float(np.linalg.norm(moments.third(j, v)))

    found = [(*sizes(j, v), j, v) for j, v in _splits(whole)]
    _, size, j, v = max(found, key=lambda each: each[0] ** 3 / each[1] ** 2)
    return lambda n: halves(whole, j, np.cbrt(noise / size) * n ** (-1 / 6) * v)


def values(model: MoERegression, whole: Prompts, noise: float) -> Callable[[int], Prompts]:
    """Unshared halves with keys c n^-1/2 from their middle and values 1/2 from theirs, c |change of f| = nu."""
    moments, j = Moments(model, whole), len(whole) - 1
    v, u = np.eye(model.m)[0], 0.5 * VALUE_GAP * np.eye(model.m)[-1]
    size = float(np.linalg.norm(moments.values(j, v, u)))
    return lambda n: halves(whole, j, noise / size * n**-0.5 * v, u)


def gate(model: MoERegression, whole: Prompts, noise: float) -> Callable[[int], Prompts]:
    """A gate that closes, alpha_n = 0.8 (n / 316)^-1/4: the start of training."""
    return lambda n: replace(whole, alpha=ALPHA * (n / 316) ** -0.25)


MOVES = {"": fixed, "quarter": quarter, "sixth": sixth, "values": values, "gate": gate}
SPLITS = ("quarter", "sixth", "values")  # those that split a prompt in two


def off(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The part of the vector orthogonal to the columns of an orthonormal basis."""
    return vector - basis @ (basis.T @ vector)


def _span(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the columns' span."""
    left, size, _ = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), full_matrices=False)
    return left[:, size > 1e-7 * size[0]]


def directions(m: int) -> list[np.ndarray]:
    """Unit vectors whose squares v v' span the symmetric matrices: axes and diagonals."""
    axes = list(np.eye(m))
    return axes + [(axes[i] + side * axes[k]) / np.sqrt(2) for i in range(m) for k in range(i) for side in (1, -1)]


def _splits(whole: Prompts) -> list[tuple[int, np.ndarray]]:
    return [(j, v) for j in range(len(whole)) for v in directions(whole.p.shape[1])]


def _first(each: tuple) -> float:
    return each[0]
