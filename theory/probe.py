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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize
from tqdm import tqdm

from common import journal, tables
from common.arguments import Parser, file, run
from common.paths import RESULTS
from common.streams import stream
from theory.coordinates import Layout
from theory.equivalents import doubled
from theory.jacobian import jacobian
from theory.merging import double
from theory.model import MoERegression, Prompts
from theory.probe_cases import SEED, Problem, at_loss, problem
from theory.tables import PROBE, PROBE_CASES, PROBE_GATES

SIZES = (1e-1, 1e-2, 1e-3, 1e-4)
STARTS = 2  # in each chart (one where the spare prompt is far), besides the minimum of the eps before
NODES = 14  # of the quadrature in each of two dimensions
REACH = 0.45  # share of the way to another true prompt where a light spare prompt starts
FARTHEST = 30.0  # of the coordinates z
LIGHT = 0.1  # its weight over eps


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
        b = np.append(truth.b, np.logaddexp.reduce(truth.b) + np.log(LIGHT * eps))
        for k in set(range(L)) - {j}:
            p, value = twice.p.copy(), None if twice.p_value is None else twice.p_value.copy()
            for array in (p, value):
                if array is not None:
                    array[L] += REACH * (array[k] - array[j])
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
        before = [known[chart.key]] if chart.key in known else []
        count = (1 if "far" in chart.key else STARTS) - len(before)
        starts = before + [rng.standard_normal(len(chart.base)) / 2 for _ in range(count)]
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
        gradient = 2 * (e @ (distance.derivative(prompts) / eps) @ chart.slope(theta))
        if not np.isfinite(gradient).all():  # SLSQP would not end
            raise ValueError(f"derivatives must be finite; got {gradient}")
        return float(e @ e), gradient

    def surplus(z: np.ndarray) -> float:
        return given.loss(chart.layout.unpack(chart.theta(z))) / eps - 1

    def onto(z: np.ndarray) -> np.ndarray:
        """z, scaled to the loss eps."""
        high = 1.0
        while surplus(high * z) < 0:
            high *= 2
            if high > 1e3:
                raise ValueError(f"the loss must reach {eps:g} on this ray, and does not up to {high:g}")
        return z * float(brentq(lambda c: surplus(c * z), 0.0, high, xtol=1e-14, rtol=1e-12))  # type: ignore[arg-type]

    bounds = np.outer(np.maximum(10 * np.abs(z), FARTHEST), [-1, 1])
    ends, options = [], {"maxiter": 60, "ftol": 1e-13}
    try:
        z = onto(z)
        ends.append((squared(z)[0], z))
        constraint = {"type": "eq", "fun": surplus}
        found = minimize(squared, z, jac=True, method="SLSQP", bounds=bounds, constraints=constraint, options=options)
        z = onto(found.x)
        ends.append((squared(z)[0], z))
    except (ValueError, FloatingPointError):  # the loss is above eps wherever z leads, or f overflows
        pass
    if not ends:
        return np.inf, z
    lowest, z = min(ends, key=lambda end: end[0])
    return float(np.sqrt(lowest)), z


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
