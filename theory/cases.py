"""The named cases of docs/identifiability.md: truths that show each way of being hidden, and neighbours that do not.

Frozen, so that the numbers in the text can be computed again:

    python -m theory.cases        writes results/theory/identifiability.json and prints the tables
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.arguments import Parser, file, run
from common.paths import RESULTS
from common.records import provenance, write_atomic
from common.streams import stream
from theory.activations import MLP, Activation
from theory.attention import head_to_model
from theory.box import Box
from theory.equivalents import Finding, doubled
from theory.estimate import fit_reduced
from theory.identifiability import check
from theory.jacobian import jacobian
from theory.model import GATES, MoERegression, Prompts, in_q
from theory.reduction import reduce
from theory.starts import near
from theory.voronoi import voronoi_loss

FILE = RESULTS / "theory" / "identifiability.json"
SEED = 2
RANKS = ((4, 4), (3, 4), (4, 3), (2, 2), (2, 1))  # of B and C, for prompts of length 4
HEADS = (2, 3, 4, 6)  # head sizes, for prompts of length 6
LAYERS = ((1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (1, 6))  # number of heads and their size

# LLaMA-Adapter's published default for non-linear prompts. At the kink any slope between 0 and 1 would do.
RELU = Activation("relu", lambda p: np.maximum(p, 0.0), lambda p: (1 + np.sign(p)) / 2, None, False)


@dataclass(frozen=True)
class Case:
    """A model, true prompts, how many more prompts are fitted, and the half-width of the box they are fitted in."""

    group: str
    name: str
    model: MoERegression
    truth: Prompts
    over: int = 0
    bound: float = 10.0


def cases() -> Iterator[Case]:
    """All cases, in the order of the text."""
    yield from _doubled()
    for gate in GATES:
        for rank_B, rank_C in RANKS:
            model, truth = _model(gate, rank_B, rank_C), _truth(gate)
            yield Case("ranks", f"{gate}, rank B = {rank_B}, rank C = {rank_C}, L' = L + 1", model, truth, over=1)
    for size in HEADS:
        W = stream(SEED, "head", size).standard_normal((3, 6, size))
        truth = Prompts(stream(SEED, "head prompts").uniform(-1, 1, (3, 6)), np.zeros(3), 0.8)
        yield Case("heads", f"head of size {size}, prompts of length 6", _head(W), truth)
    for m in (2, 4, 8):
        gate = "zero_init_unshared"
        yield Case("unshared", f"prompts of length {m}", _model(gate, m, m, m=m), _truth(gate, m=m))
    yield from _sigma()
    model = _model()
    yield Case("truth", "alpha = 0", model, _truth(alpha=0.0))
    yield Case("truth", "L = 1", model, _truth(L=1))
    yield Case("truth", "a prompt twice", model, _truth().take(np.array([0, 1, 1, 2])))


def layer_rank(heads: int, size: int) -> tuple[int, int]:
    """Rank of the Jacobian of a layer, and its number of parameters: heads share p and b, and have a gate each.

    Outputs of the heads stand side by side; an invertible output projection would change no rank.
    """
    rng = stream(SEED, "layer", heads, size)
    truth = Prompts(rng.uniform(-1, 1, (3, 6)), np.zeros(3), 0.8)
    x = rng.standard_normal((400, 12))
    blocks = []
    for h in range(heads):
        J = jacobian(_head(rng.standard_normal((3, 6, size))), x, truth)
        blocks.append(np.hstack([J[:, :-1], J[:, -1:] * (np.arange(heads) == h)]))
    J = np.vstack(blocks)
    return int(np.linalg.matrix_rank(J, rtol=1e-9)), J.shape[1]


def least_squares_choice(n: int, data_sets: int = 50) -> dict:
    """How often least squares with L' = 3 lies at the doubled prompts of L = 2 true ones, and the loss that results.

    Each data set is fitted from near the truth and from near its doubled prompts; the lower sum of squares is the
    estimate, and it is where its Voronoi loss is smaller. Noise 0.1, in a box that holds both.
    """
    model, truth, rng = _model(m=2), _truth(L=2, m=2), stream(SEED, "choice", n)
    twin, box, noise = doubled(truth), Box(prompt=4.0, bias=3.0, alpha=2.0), 0.1
    fits = []
    for _ in range(data_sets):
        data = reduce(model, model.sample(truth, noise, n, rng))
        pair = [fit_reduced(model, data, near(start, 3, rng), box) for start in (truth, twin)]
        fits.append(min(pair, key=lambda fit: fit.sse).prompts)
    loss, other = (np.array([voronoi_loss(prompts, place).total for prompts in fits]) for place in (truth, twin))
    return {
        "n": n,
        "data_sets": data_sets,
        "doubled": int((other < loss).sum()),
        "mean_voronoi": float(loss.mean()),
        "standard_error": float(loss.std(ddof=1) / np.sqrt(data_sets)),
        "voronoi_of_doubled": voronoi_loss(twin, truth).total,
    }


def _doubled() -> Iterator[Case]:
    two, three = _truth(L=2), _truth(L=3)
    line = Prompts(np.arange(3.0)[:, None] * np.full(4, 0.3), np.array([0.0, 0.3, 0.1]), 0.8)
    reach = float(np.abs(two.p).max())
    small = Prompts(0.3 * two.p / reach, two.b, 0.8)
    wide = Prompts(two.p / reach, two.b, 0.8)
    for name, truth, over in (
        ("L = 2, L' = 3", two, 1),
        ("L = 3, L' = 4", three, 1),
        ("L = 3, L' = 5", three, 2),
        ("L = 3, L' = 6", three, 3),
        ("L = 3 evenly spaced on a line, L' = 4", line, 1),
        ("L = 3 evenly spaced on a line, L' = 5", line, 2),
    ):
        yield Case("doubled", name, _model(), truth, over)
    yield Case("doubled", "L = 2, L' = 3, box 1.9 times the largest p", _model(), two, 1, 1.9 * reach)
    yield Case("doubled", "L = 2, L' = 3, sigma = tanh, largest p 0.3", _model(sigma="tanh"), small, 1)
    yield Case("doubled", "L = 2, L' = 3, sigma = tanh, largest p 1", _model(sigma="tanh"), wide, 1)
    yield Case("doubled", "L = 2, L' = 3, gate joint", _model("joint"), _truth("joint", L=2), 1)


def _sigma() -> Iterator[Case]:
    mixed = _truth()
    above = Prompts(np.abs(mixed.p), mixed.b, mixed.alpha)
    below = Prompts(above.p.copy(), above.b, above.alpha)
    below.p[1, 2] = -0.3
    steep = Prompts(above.p.copy(), above.b, above.alpha)
    steep.p[1, 2] = 1.5
    for name, sigma, truth in (
        ("gelu, all p > 0", "gelu", above),
        ("gelu, one coordinate at -0.3", "gelu", below),
        ("relu, all p > 0", RELU, above),
        (f"relu, {(mixed.p < 0).sum()} coordinates below 0", RELU, mixed),
        ("leaky_relu", "leaky_relu", mixed),
        ("mlp", "mlp", mixed),
        ("tanh", "tanh", mixed),
        ("tanh, one coordinate at 1.5", "tanh", steep),
    ):
        yield Case("sigma", name, _model(sigma=sigma), truth)


def _head(W: np.ndarray) -> MoERegression:
    """The head of W_q, W_k, W_v = W / sqrt(6) that reads two tokens of length 6."""
    W_q, W_k, W_v = W / np.sqrt(6)
    return head_to_model(W_q, W_k, W_v, 2)


def _model(gate="zero_init", rank_B=4, rank_C=4, sigma: str | Activation | MLP = "identity", m=4) -> MoERegression:
    """Two pre-trained experts; d = m inputs, m + 1 outputs; B and C of the given ranks."""
    rng = stream(SEED, "model", m, rank_B, rank_C)
    A, a, eta = rng.standard_normal((2, m, m)) / 4, rng.standard_normal(2), rng.standard_normal((2, m + 1, m))
    B = rng.standard_normal((m, rank_B)) @ rng.standard_normal((rank_B, m))
    C = rng.standard_normal((m + 1, rank_C)) @ rng.standard_normal((rank_C, m))
    return MoERegression(A, a, eta, B, C, sigma, gate)


def _truth(gate="zero_init", L=3, alpha=0.8, m=4) -> Prompts:
    rng = stream(SEED, "truth", L, m)
    p, value, b = rng.uniform(-1, 1, (L, m)), rng.uniform(-1, 1, (L, m)), 0.5 * rng.standard_normal(L)
    return Prompts(p, b, None if gate.startswith("joint") else alpha, value if gate.endswith("unshared") else None)


def measure() -> list[dict]:
    """Check every case; one record each."""
    records = []
    for case in cases():
        report, q = check(case.model, case.truth, case.over, case.bound), in_q(case.model, case.truth)[1]
        records.append(
            {
                "group": case.group,
                "name": case.name,
                "parameters": report.parameters,
                "rank": report.rank,
                "gauges": sum(g.directions.shape[1] for g in report.gauges),
                "conditioning": report.conditioning,
                "broken": [_record(finding, q) for finding in report.broken],
                "remarks": report.remarks,
            }
        )
    for heads, size in LAYERS:
        rank, parameters = layer_rank(heads, size)
        name = f"layer of {heads} head{'s' * (heads > 1)} of size {size}"
        records.append({"group": "layers", "name": name, "parameters": parameters, "rank": rank, "gauges": 1})
    return records


def _record(finding: Finding, q: Prompts) -> dict:
    """A finding; where it has a witness, that one's change of f and its Voronoi loss and gating error against q."""
    record = {"condition": finding.condition, "words": finding.words, "null_directions": finding.directions.shape[1]}
    if finding.witness is not None:
        loss = voronoi_loss(finding.witness, q)
        gating = None if q.alpha is None else loss.gating
        record |= {"change": finding.change, "voronoi": loss.total, "gating": gating}
    return record


def tables(result: dict) -> dict[str, str]:
    """The Markdown tables of docs/identifiability.md: one for each group of cases, and what least squares does."""
    head = ["| case | parameters | rank | gauges | hidden | broken (null directions) | f changes by | D |"]
    head.append("|---|---|---|---|---|---|---|---|")
    groups = dict.fromkeys(record["group"] for record in result["cases"])
    found = {g: "\n".join(head + [_row(r) for r in result["cases"] if r["group"] == g]) for g in groups}
    choice = ["| n | data sets | at the doubled prompts | mean D | D of the doubled prompts |", "|---|---|---|---|---|"]
    for row in result["choice"]:
        words = (
            "| {n} | {data_sets} | {doubled} | {mean_voronoi:.2f} ± {standard_error:.2f} | {voronoi_of_doubled:.2f} |"
        )
        choice.append(words.format(**row))
    return found | {"choice": "\n".join(choice)}


def _row(record: dict) -> str:
    broken = record.get("broken", [])
    seen = [finding for finding in broken if "change" in finding]
    cells = [record[key] for key in ("name", "parameters", "rank", "gauges")]
    cells.append(record["parameters"] - record["rank"] - record["gauges"])
    names = [f"{f['condition']} ({f['null_directions']})" for f in broken]
    cells.append("; ".join(names) if "broken" in record else "rank only")
    cells.append(f"{max(f['change'] for f in seen):.0e}" if seen else "")
    cells.append("; ".join(f"{f['voronoi']:.2f}" for f in seen))
    return f"| {' | '.join(map(str, cells))} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.cases", description=__doc__)
    parser.add_argument("--out", type=file, default=FILE, metavar="FILE", help="record to write (that of the docs)")
    a = parser.parse_args(argv)

    def work() -> None:
        choice = [least_squares_choice(n) for n in (1000, 10_000)]
        configuration = {"seed": SEED, "ranks": RANKS, "heads": HEADS, "layers": LAYERS}
        result = {"configuration": configuration, "provenance": provenance(), "cases": measure(), "choice": choice}
        write_atomic(a.out, json.dumps(result, indent=1) + "\n")
        print("\n\n".join(f"{group}\n\n{table}" for group, table in tables(result).items()))

    return run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
