"""Least squares over a compact box of prompts, equation (13), with a certificate.

    minimise   SSE(theta) = sum_i |y_i - f(x_i; theta)|^2    over   theta = (p, p_value, b, alpha) in the box

by Levenberg-Marquardt steps on the reduced problem of `theory.reduction`, taken in the pair coordinates of
`theory.coordinates`. Sums of squares of prompts have several local minima, exact fits now and then, over-specified ones
often: `theory.search` looks for the lowest. Where sigma acts elementwise and has
an inverse, the search runs in q = sigma(p), which a saturated sigma cannot flatten.

The stop is statistical: the undamped Gauss-Newton decrement on the free coordinates,

    g' (J'J)^+ g / s^2,     s^2 = SSE / (residual degrees of freedom),

is the fall of SSE, in units of the noise variance, that the linearised problem still promises; a fit ends when it is
under 1e-4. The paper leaves the algorithm open; everything here is our choice.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from threadpoolctl import ThreadpoolController

from theory.arrays import count, instance
from theory.box import Box
from theory.chunks import Again, chunks
from theory.coordinates import Layout
from theory.descent import TOLERANCE
from theory.model import MoERegression, Prompts, in_q
from theory.problem import LeastSquares
from theory.reduction import Reduced, reduce
from theory.search import lowest, lowest_of

STEP = 1000.0  # difference of scores from which a softmax is a step


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
        Passes over the data, all starts together; a pass over a part of the rows counts as that part.
    status : str
        `converged`: the decrement is under 1e-4, so this is a local minimum; no certificate says that it is the lowest,
        see `starts_agree`. `max_iterations`, `stalled`: it is not, because the passes ran out
        or no step lowers SSE any more. `above_truth`: every start ended above the sum of squares at the truth, so
        this is no least-squares estimate.
    gradient_norm : float
        |gradient of SSE / 2| over the free coordinates, per row; with respect to q = sigma(p) for an invertible
        elementwise sigma.
    decrement : float
        The certificate described above.
    at_bound : tuple of str
        Coordinates on the boundary of the box, such as 'p[2,0]' or 'b[1]'.
    starts_agree : float
        Share of the descents that ended within 0.1 noise variances of the lowest sum of squares: of the starts given
        without search; with it, of the better part of all starts, on the few rows where these are tried. A small share
        tells of several minima.
    """

    prompts: Prompts
    sse: float
    sse_at_truth: float | None
    iterations: int
    status: str
    gradient_norm: float
    decrement: float
    at_bound: tuple[str, ...]
    starts_agree: float


def fit(
    model: MoERegression,
    data: tuple[np.ndarray, np.ndarray] | Iterable[tuple[np.ndarray, np.ndarray]],
    start: Prompts | Sequence[Prompts],
    box: Box | None = None,
    truth: Prompts | None = None,
    *,
    explore: bool = True,
    max_iterations: int = 300,
    keep: bool = True,
) -> FitResult:
    """Least-squares prompts for the data, from one start or the best of several.

    Parameters
    ----------
    model : MoERegression
    data : pair (x, y) of arrays (n, d) and (n, d'), or an iterable of such pairs
        An iterable gives chunks of rows, as `model.sample` does. Chunks are read once; beyond the row features of
        `theory.reduction` nothing of them is kept, and without `keep` not even these.
    start : Prompts or sequence of Prompts
        L' prompts each; `theory.starts` makes them. L' may exceed the number of true prompts.
    box : Box, optional
    truth : Prompts, optional
        True prompts, where known: `sse_at_truth` is filled in, and a fit above it says so.
    explore : bool
        Whether to search for the lowest minimum (`theory.search`): from starts anywhere in the box and doubled prompts
        beside those given, and by way of fewer prompts where one can be spared. Without, plain descents only.
    max_iterations : int
        Passes over the data for each descent; a search finishes legs of up to 48.
    keep : bool
        Whether row features stay in memory. Without, data are read at every pass and memory does not grow with them;
        an iterable must then start anew each time with the same rows, as `theory.chunks.Drawn` does.

    Returns
    -------
    FitResult

    Raises
    ------
    TypeError
        If data are not such pairs, hold anything but real numbers, or start, box or truth is of another class.
    ValueError
        If an array has the wrong shape, is not finite or too large; a start or the truth is not finite or does not have
        the parameters of this gate; or there are no more observations than parameters.
    """
    checked = _checked(model, start, box, truth, max_iterations)  # before data are read, which may take hours
    return _fit(model, reduce(model, chunks(data) if keep else Again(data), keep), *checked, explore)


def fit_reduced(
    model: MoERegression,
    data: Reduced,
    start: Prompts | Sequence[Prompts],
    box: Box | None = None,
    truth: Prompts | None = None,
    *,
    explore: bool = True,
    max_iterations: int = 300,
) -> FitResult:
    """`fit` on data that are already reduced."""
    checked = _checked(model, start, box, truth, max_iterations)
    if not isinstance(data, Reduced):
        made = "theory.reduction.Reduced, which reduce(model, chunks) makes"
        raise TypeError(f"data must be {made}; got an object of class {type(data).__name__}")
    return _fit(model, data, *checked, explore)


def _checked(model: MoERegression, start, box, truth, most: int) -> tuple[list[Prompts], Box, Prompts | None, int]:
    """Starts, box, truth and passes, once they are what `fit` says."""
    starts = [start] if isinstance(start, Prompts) else list(start) if isinstance(start, Sequence) else [start]
    box = Box() if box is None else box
    instance("model", model, MoERegression)
    instance("box", box, Box)
    for name, prompts in [*(("start", s) for s in starts), *([] if truth is None else [("truth", truth)])]:
        model.check_prompts(prompts, name)
    if len({len(s) for s in starts}) != 1:
        raise ValueError(f"starts must be one or more of the same number of prompts; got {[len(s) for s in starts]}")
    return starts, box, truth, count("max_iterations", most)


def _check_data(model: MoERegression, data: Reduced, starts: list[Prompts], box: Box) -> None:
    """Raise ValueError unless the data can tell where such prompts are."""
    size, outputs = Layout(model, len(starts[0])).size, len(data.value_map)
    if data.n * outputs <= size:
        raise ValueError(
            f"n times {outputs} outputs must be more than the {size} parameters of {len(starts[0])} prompts; "
            f"got n = {data.n}"
        )
    reads = data.key_map.T @ next(iter(data.blocks))[0]
    keys = [model.activation(np.clip(s.p, -box.prompt, box.prompt)) for s in starts]
    if (apart := min(float(np.median(np.ptp(key @ reads, axis=0))) for key in keys)) > STEP:
        raise ValueError(
            f"scores x'Bq of the start must differ by less than {STEP:g} from prompt to prompt, or their softmax is a "
            f"step without slope; got {apart:.3g} (median over rows): scale x or B down"
        )


def _fit(model, data: Reduced, starts: list[Prompts], box: Box, truth: Prompts | None, most: int, explore) -> FitResult:
    """The fit of checked arguments."""
    _check_data(model, data, starts, box)
    layout, sigma = Layout(model, len(starts[0])), model.activation
    if sigma.inverse is None:
        problem, bounds = LeastSquares(model, data, layout), box.bounds
    else:
        problem, bounds = LeastSquares(in_q(model, starts[0])[0], data, layout), partial(box.bounds, sigma=sigma)
        starts = [in_q(model, s)[1] for s in starts]
    before, first = data.rows_read[0], [layout.pack(s) for s in starts]
    # The matrices are small: threads of BLAS would mostly wait, and their number would change the last digits.
    with _libraries().limit(limits=1, user_api="blas"):
        best, agree = (lowest if explore else lowest_of)(problem, first, bounds, most)
    passes = round((data.rows_read[0] - before) / data.n)
    at_truth, above = None, False
    if truth is not None:
        at_truth = LeastSquares(model, data, (true := Layout(model, len(truth))))(true.pack(truth))[0]
        above = len(truth) <= layout.L and best.sse > at_truth + TOLERANCE * best.variance
    prompts = layout.unpack(best.theta)
    return FitResult(
        prompts=prompts if sigma.inverse is None else _from_q(sigma, prompts, box),
        sse=best.sse,
        sse_at_truth=at_truth,
        iterations=passes,
        status="above_truth" if above else best.status,
        gradient_norm=best.gradient_norm,
        decrement=best.decrement,
        at_bound=tuple(np.array(layout.names)[best.at_bound]),
        starts_agree=agree,
    )


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _from_q(sigma, prompts: Prompts, box: Box) -> Prompts:
    """p = sigma^-1(q); where sigma(box) rounds to the edge of sigma's range, the edge of the box."""
    with np.errstate(divide="ignore"):
        p = np.clip(sigma.inverse(prompts.p), -box.prompt, box.prompt)
        value = prompts.p_value
        if value is not None:
            value = np.clip(sigma.inverse(value), -box.prompt, box.prompt)
    return Prompts(p, prompts.b, prompts.alpha, value)
