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

from theory.coordinates import Layout
from theory.descent import TOLERANCE, Box, LeastSquares, descend
from theory.model import MoERegression, Prompts
from theory.reduction import Reduced, reduce

ROUNDS = 2  # of exploring neighbours, at most
CRAWL = 12  # a descent of more passes than this met a singular Gram; exact fits take 4 to 7
CHUNK = 16_384


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


def fit(
    model: MoERegression,
    x: np.ndarray | Iterable,
    y: np.ndarray | Iterable[np.ndarray] | None,
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
        Or one iterable of pairs of chunks as x, such as `model.sample` gives, and None as y. Chunks are read once;
        beyond the row features of `theory.reduction` nothing of them is kept.
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
        x, y = np.asarray(x), np.asarray(y)
        model.check_data(x, y)
        x, y = (np.array_split(a, max(1, len(x) // CHUNK)) for a in (x, y))
    data = reduce(model, x if y is None else zip(x, y, strict=True))
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
    descents = [descend(problem, layout.pack(s), box, max_iterations) for s in starts]
    passes = sum(d.iterations for d in descents)
    best = min(descents, key=lambda d: d.sse)
    for _ in range(ROUNDS if explore and layout.L > 1 else 0):
        if best.iterations <= CRAWL:
            break
        tries = [descend(problem, v, box, max_iterations, best.sse) for v in _neighbours(layout, best.theta)]
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
