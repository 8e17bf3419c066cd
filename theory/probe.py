"""The inequality behind the theorems, looked at itself: how little f may change where the loss is eps.

The proofs bound |f_G - f_G*|_{L2(mu)} from below by a constant times D(G, G*) + |alpha - alpha*|. For small eps,

    ratio(eps) = min { |f_G - f_G*|_{L2(mu)} / eps :  D(G, G*) + |alpha - alpha*| = eps },        mu = N(0, I_2),

is that constant: where it stays off 0 the rates follow, where it falls to 0 or is 0 a condition is broken. L2(mu) is
a Gauss-Hermite sum. Minima are sought from several starts (SLSQP), for every cell that may hold two fitted prompts. A
cell may not be empty: its missing weight alone would exceed eps. What is found is an upper bound of the minimum. Where
a witness is known, other prompts with the same f at the same loss, the minimum is 0 and nothing is sought: the ratio
is that of the witness, which is rounding.

    python -m theory.probe                       writes results/theory/probe.csv, and probe.json beside it
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq, minimize
from tqdm import tqdm

from common import journal, tables
from common.arguments import Parser, file, run
from common.paths import RESULTS
from common.streams import stream
from theory.cases import RELU
from theory.coordinates import Layout
from theory.equivalents import doubled
from theory.jacobian import jacobian
from theory.merging import double
from theory.model import MoERegression, Prompts
from theory.tables import PROBE, PROBE_CASES, PROBE_GATES
from theory.truths import draw_model, draw_prompts, halves
from theory.voronoi import voronoi_loss

SIZES = (1e-1, 1e-2, 1e-3, 1e-4)
SEED = 12
STARTS = 4  # of each kind, besides the minimum of the eps before
NODES = 14  # of the quadrature in each of two dimensions
REACH = 1.5  # how far from its true prompt a light spare prompt starts

Way = Callable[[float], Prompts]


@dataclass(frozen=True)
class Problem:
    """A model, its true prompts, and how many prompts more are fitted.

    Attributes
    ----------
    model : MoERegression
    truth : Prompts
    extra : int
        L' - L: 0 or 1.
    raw : bool
        Whether the loss compares exp(b) as the paper writes it, without the gauge of the biases.
    pair : tuple of int, or None
        Two true prompts that are halves of one.
    witness : callable or None
        c -> prompts with the f of the truth, as far from it as c says.
    """

    model: MoERegression
    truth: Prompts
    extra: int = 0
    raw: bool = False
    pair: tuple[int, int] | None = None
    witness: Way | None = None

    def loss(self, fitted: Prompts) -> float:
        """D + |alpha - alpha*|; D alone for the joint gates."""
        found = voronoi_loss(fitted, self.truth)
        if self.raw:
            found = replace(
                voronoi_loss(replace(fitted, alpha=None), replace(self.truth, alpha=None)), gating=found.gating
            )
        return found.total + (0.0 if np.isnan(found.gating) else found.gating)


def problem(case: str, gate: str, eps: float) -> Problem:
    """The problem of a case; the truth of `moving` depends on eps: two halves at distance eps^(1/4)."""
    if case not in PROBE_CASES or gate not in PROBE_GATES:
        raise ValueError(f"case and gate must be of {', '.join((*PROBE_CASES, *PROBE_GATES))}; got {case!r}, {gate!r}")
    relu = case.startswith("relu")
    model = draw_model(2, 2, "tanh" if case.endswith("tanh") else "identity", gate, SEED, 0)
    if relu or case == "rank-c":
        C = model.C * [1.0, 0.0] if case == "rank-c" else model.C
        model = MoERegression(model.A, model.a, model.eta, model.B, C, RELU if relu else "identity", gate)
    L = {"single-prompt": 1, "doubled": 2}.get(case, 3)
    truth = draw_prompts(model, L, (0.6, 2.0) if relu else (-1.3, 1.3), 0.6, SEED, 0)
    if case == "relu-inactive":
        p = truth.p.copy()
        p[0, 0] = -0.6
        truth = replace(truth, p=p)
    if case == "gate-zero" and truth.alpha is not None:
        truth = replace(truth, alpha=0.0)
    if case == "moving":
        truth = halves(truth, 0, 0.5 * eps**0.25 * np.eye(2)[0])
    extra = int(case.startswith("over") or case == "doubled")
    pair = (0, L) if case == "moving" else None
    return Problem(model, truth, extra, case == "no-gauge", pair, witness(case, model, truth))


def witness(case: str, model: MoERegression, truth: Prompts) -> Way | None:
    """Prompts at every distance from the truth that have its f, for the broken conditions; None where none is known."""
    first, second = np.eye(2)
    if case == "no-gauge" and not model.joint:
        return lambda c: replace(truth, b=truth.b + c)
    if case == "single-prompt" and not model.joint:
        return lambda c: replace(truth, p=truth.p * (1 + c), alpha=np.arctanh(np.tanh(truth.alpha or 0.0) / (1 + c)))
    if case == "gate-zero" and not model.joint:
        return lambda c: replace(truth, p=truth.p + c)
    if case == "rank-c" and truth.p_value is not None:
        value = truth.p_value
        return lambda c: replace(truth, p_value=value + c * second)
    if case == "rank-c" and not model.joint:
        return lambda c: replace(truth, p=truth.p + c * second)
    if case == "relu-inactive":
        side = np.eye(len(truth))[:, :1] * first
        return lambda c: replace(truth, p=truth.p - c * side)
    if case.startswith("over") or case == "doubled":
        twice = double(truth, 0)
        if twice.p_value is not None:  # two keys in one place: values on both sides of the true one, in sigma's range
            sides = np.eye(len(twice))[0] - np.eye(len(twice))[-1]
            values = model.activation(twice.p_value)
            inverse = np.arctanh if model.activation.name == "tanh" else np.asarray
            return lambda c: replace(twice, p_value=inverse(values + c * sides[:, None] * first))
    return None


def nodes(model: MoERegression) -> tuple[np.ndarray, np.ndarray]:
    """Places, (k, 2), and square roots of the weights, (k d',), of N(0, I_2)."""
    x, w = np.polynomial.hermite_e.hermegauss(NODES)
    places = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    weights = np.outer(w, w).ravel() / (2 * np.pi)
    return places, np.repeat(np.sqrt(weights), model.d_out)


class Distance:
    """|f_G - f_G*| in L2(mu), and its vector and derivative."""

    def __init__(self, given: Problem):
        self.model = given.model
        self.x, self.weight = nodes(given.model)
        self.f = given.model(self.x, given.truth)

    def vector(self, prompts: Prompts) -> np.ndarray:
        """f_G - f_G* at the nodes, times the root of their weights."""
        return (self.model(self.x, prompts) - self.f).ravel() * self.weight

    def __call__(self, prompts: Prompts) -> float:
        return float(np.linalg.norm(self.vector(prompts)))

    def derivative(self, prompts: Prompts) -> np.ndarray:
        """Of the vector, by the parameters in the order of `Layout`."""
        return jacobian(self.model, self.x, prompts) * self.weight[:, None]


@dataclass(frozen=True)
class Chart:
    """Coordinates z about a base, theta = base moved by scale z, in which errors of loss eps are about 1."""

    layout: Layout
    base: np.ndarray
    scale: np.ndarray
    pairs: list[tuple[int, int]]
    key: str

    def theta(self, z: np.ndarray) -> np.ndarray:
        """Parameter vector of z."""
        return self.layout.move(self.base, self.scale * z, self.pairs)

    def slope(self, theta: np.ndarray) -> np.ndarray:
        """d theta / d z."""
        return self.layout.pair_jacobian(theta, self.pairs) * self.scale


def charts(given: Problem, eps: float) -> Iterator[Chart]:
    """For every cell that may hold two prompts: both near the true one, or one near and a light one elsewhere."""
    truth, L = given.truth, len(given.truth)
    layout = Layout(given.model, L + given.extra)
    scale = np.full(layout.size, eps)
    if not given.extra:
        yield Chart(layout, layout.pack(truth), scale, [given.pair] if given.pair else [], "exact")
        return
    for j in range(L):
        twice, near, far = double(truth, j), scale.copy(), scale.copy()
        near[np.concatenate([a[L] for a in layout.atoms])], near[layout.b[L]] = np.sqrt(eps), 1.0
        yield Chart(layout, layout.pack(twice), near, [(j, L)], f"near {j}")
        far[layout.of(L)] = 1.0
        b = np.append(truth.b, np.logaddexp.reduce(truth.b) + np.log(eps))
        rng = stream(SEED, "far", j)
        for k in range(STARTS // 2):
            p, value = twice.p.copy(), None if twice.p_value is None else twice.p_value.copy()
            for array in (p, value):
                if array is not None:
                    array[L] += REACH * rng.standard_normal(2)
            yield Chart(layout, layout.pack(Prompts(p, b, truth.alpha, value)), far, [], f"far {j} {k}")


def least(given: Problem, eps: float, known: dict[str, np.ndarray] | None = None) -> float:
    """The least ratio found at loss eps.

    Parameters
    ----------
    given : Problem
    eps : float
        Above 0, and below every weight of the truth.
    known : dict, optional
        Where the minima of another eps are, by chart; replaced by those of this one.

    Raises
    ------
    ValueError
        If no start leads to prompts of loss eps.
    """
    distance, known, best = Distance(given), {} if known is None else known, np.inf
    if given.witness is not None:
        return distance(at_loss(given, given.witness, eps)) / eps
    for chart in charts(given, eps):
        rng, lowest = stream(SEED, "starts", chart.key), np.inf
        starts = [rng.standard_normal(len(chart.base)) / 2 for _ in range(STARTS if "far" not in chart.key else 1)]
        starts += [known[chart.key]] if chart.key in known else []
        for z in starts:
            ratio, end = _descend(given, distance, chart, eps, z)
            if ratio < lowest:
                lowest, known[chart.key] = ratio, end
        best = min(best, lowest)
    if not np.isfinite(best):
        raise ValueError(f"no prompts of loss {eps:g} were found; choose an eps below every weight of the truth")
    return best


def _descend(given: Problem, distance: Distance, chart: Chart, eps: float, z: np.ndarray) -> tuple[float, np.ndarray]:
    def squared(z: np.ndarray) -> tuple[float, np.ndarray]:
        theta = chart.theta(z)
        prompts = chart.layout.unpack(theta)
        e = distance.vector(prompts) / eps
        return float(e @ e), 2 * (e @ (distance.derivative(prompts) / eps) @ chart.slope(theta))

    def surplus(z: np.ndarray) -> float:
        return given.loss(chart.layout.unpack(chart.theta(z))) / eps - 1

    options = {"maxiter": 100, "ftol": 1e-13}
    try:
        found = minimize(
            squared, z, jac=True, method="SLSQP", constraints={"type": "eq", "fun": surplus}, options=options
        )
        off = surplus(found.x)
    except (ValueError, FloatingPointError):  # f or the loss overflows on the way
        return np.inf, z
    if not np.isfinite(found.fun) or abs(off) > 1e-5:
        return np.inf, z
    return float(np.sqrt(found.fun)) / (1 + off), found.x


def at_loss(given: Problem, path: Way, eps: float) -> Prompts:
    """The prompts of the path at loss eps."""
    high = eps
    while given.loss(path(high)) < eps:
        high *= 1.5
    return path(float(brentq(lambda c: given.loss(path(c)) - eps, 0.0, high, xtol=1e-15, rtol=1e-13)))  # type: ignore[arg-type]


def twin_row() -> dict:
    """The doubled prompts of L = 2 true ones: the same f, at a loss that is theirs and not small."""
    given = problem("doubled", "zero_init", SIZES[0])
    twin = doubled(given.truth)
    eps = given.loss(twin)
    return {"gate": "zero_init", "case": "doubled", "eps": eps, "ratio": Distance(given)(twin) / eps}


def curve(case: str, gate: str) -> list[dict]:
    """Rows of one case and gate: one for each eps."""
    known: dict[str, np.ndarray] = {}
    rows = [twin_row()] if (case, gate) == ("doubled", "zero_init") else []
    return rows + [
        {"gate": gate, "case": case, "eps": eps, "ratio": least(problem(case, gate, eps), eps, known)} for eps in SIZES
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.probe", description=__doc__)
    parser.add_argument(
        "--out", type=file, default=RESULTS / "theory" / "probe.csv", metavar="FILE", help="results/theory/probe.csv"
    )
    path = parser.parse_args(argv).out

    def work() -> None:
        configuration = {"seed": SEED, "eps": SIZES, "starts": STARTS, "nodes": NODES, "reach": REACH}
        record = journal.claim(path.with_suffix(".json"), configuration)
        done = record["results"]
        for case, gate in tqdm([(c, g) for c in PROBE_CASES for g in PROBE_GATES], file=sys.stderr, desc="probe"):
            if f"{case} {gate}" not in done:
                done[f"{case} {gate}"] = curve(case, gate)
                journal.save(path.with_suffix(".json"), record)
        tables.finish(path, [row for rows in done.values() for row in rows], PROBE)
        print(path)

    return run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
