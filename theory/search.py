"""The search among local minima: many starts on a few rows, few on all, and the way over one prompt less.

A descent ends in a local minimum. Which one depends on the start, so descents from many starts are tried where they
cost little: on a few rows, all at once. What ended lowest goes on to all rows. Where a prompt can be spared, the way to
a lower minimum leads over the problem with one prompt less: there `theory.merging` finds the places where one prompt
more pays, and descents begin at the best of them.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np

from theory.coordinates import Layout
from theory.descent import EDGE, TOLERANCE, Descent, descend, inside
from theory.equivalents import doubled
from theory.merging import additions, double, merge, nearest
from theory.problem import LeastSquares

WARM, SHARE = 32_000, 16  # rows from which a plain descent starts on a sixteenth of them
SMALL, PART = 4000, 1000  # a search over more rows than SMALL begins on PART of them
ANYWHERE, FEW = 12, 6  # starts beside those given, in a small problem and in a large one
ROWS, FEW_ROWS = 400, 250  # rows of the first tries, likewise
HALVINGS = (4, 6, 8)  # steps of the first tries, after each of which the better half goes on
KEPT = 3  # of these, so many go on
SAME = 0.1  # ends whose SSE differ by less, in noise variances, are taken for one
SPARE = 100  # a prompt can be spared if SSE without it need not be higher by this many noise variances
LEG, SHORT = 48, 6  # passes of a descent before the first look at fewer prompts; on a part of the rows
MARGIN = 0.1  # in a large problem, noise variances by which another descent has to promise less
PLACES, FEW_PLACES = 3, 2  # places for one prompt more where descents begin, in a small problem and in a large one
TOUCHING = 1e-6  # prompts this near are one


def lowest_of(problem: LeastSquares, starts: list[np.ndarray], box: Callable, most: int) -> tuple[Descent, float]:
    """The lowest end of one plain descent from each start, and the share of the starts that ended there."""
    ends = [_plain(problem, start, box, most) for start in starts]
    best = min(ends, key=lambda end: end.sse)
    return best, float(np.mean([end.sse - best.sse < SAME * best.variance for end in ends]))


def _plain(problem: LeastSquares, theta: np.ndarray, box: Callable, most: int, rival: float = np.inf) -> Descent:
    """One descent; large problems first on a part of the rows, which costs little and does most of the way."""
    if problem.data.n >= WARM:
        theta = _plain(_head(problem, problem.data.n // SHARE), theta, box, most).theta
    return descend(problem, theta, box, most, rival)


def lowest(problem: LeastSquares, starts: list[np.ndarray], box: Callable, most: int) -> tuple[Descent, float]:
    """The lowest minimum that the search finds, and the share of its first tries that led there.

    Parameters
    ----------
    problem : LeastSquares
    starts : list of ndarray
        Parameter vectors, which `others` join. The first goes on to the second round whatever the first tries say.
    box : callable
        Layout -> least and greatest parameter vector: `Box.bounds`.
    most : int
        Passes over the data after which no new leg of a descent is begun.
    """
    starts = starts + others(problem, starts[0], box, ANYWHERE if problem.data.n <= SMALL else FEW)
    if problem.data.n <= SMALL:
        tries, agree = _tries(_head(problem, ROWS), starts, box, HALVINGS, KEPT)
        best = _explored(problem, _best_of(problem, tries, box), box, most)
    else:
        best, agree = _from_parts(problem, starts, box)
    if best.status == "max_iterations" and most > LEG:
        best = descend(problem, best.theta, box, most)
    return best, agree


def _from_parts(problem: LeastSquares, starts: list[np.ndarray], box: Callable) -> tuple[Descent, float]:
    """The search on parts of the rows, then descents on all: from where it ended, and from where the first start leads.

    A part may not tell that minimum from others. Where it does, as no prompt can be spared there and no other start
    ends lower, one descent is enough.
    """
    part = _head(problem, PART)
    tries, agree = _tries(_head(problem, FEW_ROWS), starts, box, HALVINGS[:2], 1)
    chain = _fewer_and_fewer(part, _best_of(part, tries, box, SHORT), box)
    if len(chain) == len(tries) == 1:
        return descend(problem, chain[0].theta, box, LEG), agree
    best = _more_and_more(problem, chain, box, MARGIN)
    own = _plain(problem, starts[0], box, LEG, best.sse - MARGIN * best.variance)
    return own if own.status != "given up" and own.sse < best.sse else best, agree


def others(problem: LeastSquares, start: np.ndarray, box: Callable, count: int) -> list[np.ndarray]:
    """Starts beside the one given: anywhere in smaller and larger parts of the box, and the doubled prompts.

    The same ones every time. For shared prompts behind a softmax of their own, tanh(alpha) / 2 with prompts at the sums
    q_i + q_j gives f again (`theory.equivalents.doubled`); as many of these as are fitted are often near a local
    minimum. So the sums are merged, nearest and lightest first, until so many are left.
    """
    layout, (lower, upper) = problem.layout, box(problem.layout)
    rng = np.random.default_rng(layout.size)
    middle, reach = (lower + upper) / 2, (upper - lower) / 2
    theta = middle + np.linspace(0.2, 1, count)[:, None] * reach * rng.uniform(-1, 1, (count, layout.size))
    theta[:, layout.b] = 0
    q = layout.unpack(start)
    if q.alpha is None or q.p_value is not None or problem.model.activation.name != "identity" or not q.alpha:
        return list(theta)
    q = doubled(q)
    while len(q) > layout.L:
        gap = ((q.p[:, None] - q.p) ** 2).sum(-1) / np.add.outer(1 / q.weights, 1 / q.weights)
        q = merge(q, *divmod(int((gap + np.diag(np.full(len(q), np.inf))).argmin()), len(q)))
    return [*theta, layout.pack(q)] if len(q) == layout.L else list(theta)


def _tries(part: LeastSquares, starts: list[np.ndarray], box: Callable, halvings, most: int):
    """Where plain damped Gauss-Newton steps lead, all starts at once: `most` distinct ends, and that of the first.

    And the share of the starts that lasted the halvings which are within SAME of the lowest.
    """
    layout = part.layout
    lower, upper = box(layout)
    theta = np.array([inside(layout, start, lower, upper) for start in starts])
    own, diagonal = np.arange(len(theta)), np.arange(layout.size)
    damping = np.full(len(theta), 1e-2)
    sse, gradient, gram = part.at_each(theta)
    for steps in halvings:
        for _ in range(steps):
            free = ~(((theta <= lower + EDGE) & (gradient > 0)) | ((theta >= upper - EDGE) & (gradient < 0)))
            scale = gram[:, diagonal, diagonal]
            scale = np.maximum(scale, 1e-8 * scale.max(1, keepdims=True) + np.finfo(float).tiny)
            A = gram * (free[:, :, None] & free[:, None])
            A[:, diagonal, diagonal] += np.where(free, damping[:, None] * scale, 1.0)
            new = theta - np.linalg.solve(A, (gradient * free)[..., None])[..., 0]
            if not layout.joint:
                new[:, layout.b] -= new[:, layout.b].mean(1, keepdims=True)
            new = np.clip(new, lower, upper)
            new_sse, new_gradient, new_gram = part.at_each(new)
            better = new_sse < sse
            damping = np.where(better, np.maximum(damping / 5, 1e-9), damping * 5)
            for old, fresh in ((theta, new), (sse, new_sse), (gradient, new_gradient), (gram, new_gram)):
                old[better] = fresh[better]
        order = np.argsort(sse)
        keep = order[: max((len(order) + 1) // 2, most)]
        keep = keep if 0 in own[keep] else np.append(keep, np.flatnonzero(own == 0))
        own, theta, sse, gradient, gram, damping = (a[keep] for a in (own, theta, sse, gradient, gram, damping))
    same = SAME * sse.min() / part.freedom
    agree = float(np.mean(sse - sse.min() < same))
    distinct: list[int] = []
    for i in np.argsort(sse - same * (own == 0)):  # of equals the first
        if own[i] == 0 or (len(distinct) < most and all(sse[i] - sse[j] > same for j in distinct)):
            distinct.append(i)
    return [theta[i] for i in distinct], agree


def _explored(problem: LeastSquares, best: Descent, box: Callable, most: int) -> Descent:
    """The way over fewer prompts as long as it leads lower; between, longer legs of the descent."""
    leg, descended, seen = LEG, best.iterations, []
    if nearest(problem.layout.unpack(best.theta))[0] < TOUCHING:
        best.sse = np.inf  # no step can part them, so the decrement means nothing here
    while True:
        chain = _fewer_and_fewer(problem, best, box)
        other = best
        if len(chain) > 1 and not any(abs(chain[1].sse - sse) < TOLERANCE * best.variance for sse in seen):
            seen.append(chain[1].sse)
            other = _more_and_more(problem, chain, box)
        if other.sse < best.sse - TOLERANCE * other.variance:
            best = other
        elif best.status == "max_iterations" and descended < most:
            leg = min(4 * leg, most - descended)
            best = descend(problem, best.theta, box, leg)
            descended += best.iterations
        else:
            return best


def _fewer_and_fewer(problem: LeastSquares, best: Descent, box: Callable) -> list[Descent]:
    """`best`, then ends with one prompt less each, as long as it can be spared.

    The two prompts are merged that SSE minds least.
    """
    chain = [best]
    while (L := problem.layout.L) > 1:
        prompts = problem.layout.unpack(chain[-1].theta)
        problem = LeastSquares(problem.model, problem.data, Layout(problem.model, L - 1))
        limits = box(problem.layout)
        starts = [merge(prompts, i, j) for i, j in combinations(range(L), 2)]
        starts = np.array([inside(problem.layout, problem.layout.pack(start), *limits) for start in starts])
        start = starts[_head(problem, PART).at_each(starts)[0].argmin()]
        one = descend(problem, start, box, LEG, chain[0].sse + SPARE * chain[0].variance)
        if one.status == "given up":
            break
        chain.append(one)
    return chain


def _more_and_more(problem: LeastSquares, chain: list[Descent], box: Callable, margin: float = 0.0) -> Descent:
    """From the last of the chain back up, one prompt more at a time where it pays most, or two in one place if nowhere.

    A chain of this problem has its members tried beside; of one of fewer rows, with a margin, the first and the last.
    """
    best = fewer = None
    for L, former in zip(range(problem.layout.L - len(chain) + 1, problem.layout.L + 1), reversed(chain), strict=True):
        level = LeastSquares(problem.model, problem.data, Layout(problem.model, L))
        if best is None or fewer is None:
            best = _plain(level, former.theta, box, LEG)
        else:
            prompts = fewer.layout.unpack(best.theta)
            more = additions(fewer, best.theta, box, FEW_PLACES if margin else PLACES)
            more = [*more, double(prompts, int(prompts.b.argmax()))]
            starts = [level.layout.pack(start) for start in more]
            if not margin or L == problem.layout.L:
                starts.append(former.theta)
            best = _best_of(level, starts, box, LEG, margin)
        fewer = level
    assert best is not None
    return best


def _best_of(problem: LeastSquares, starts: list, box: Callable, most: int = LEG, margin: float = 0.0) -> Descent:
    """The lowest end of descents from every start; a converged one, where that makes no difference.

    A descent is given up that cannot end lower than the others by `margin` noise variances.
    """
    ends: list[Descent] = []
    for start in starts:
        rival = min((end.sse - margin * end.variance for end in ends), default=np.inf)
        ends.append(descend(problem, start, box, most, rival))
    least = min(end.sse for end in ends) + TOLERANCE * ends[0].variance
    best = min(ends, key=lambda end: (end.sse > least, end.status != "converged", end.sse))
    return descend(problem, best.theta, box, most) if best.status == "given up" else best


def _head(problem: LeastSquares, rows: int) -> LeastSquares:
    if rows >= problem.data.n:
        return problem
    return LeastSquares(problem.model, problem.data.head(rows), problem.layout)
