"""Measured constants over predicted ones: whether whole error curves are where theory puts them, without a fit.

For each study whose limits are known (`theory.asymptotics`), each n and quantity: n^r times the mean error, r the rate,
over the constant that theory predicts for the same truths. With one truth the interval is the replicates' (normal, 95
%); with several, Student's over the truths' ratios. For over-specified fits `predicted` has the spare prompt near a
true one, which is the limit, and `predicted_free` has it anywhere, which n sees as long as the box does not bind.
`squared_error` is E n |f^ - f*|^2 / nu^2, whose limit is free of units.

    python -m theory.constants                   from results/theory into results/theory/constants.csv
    python -m theory.constants quarter-rate --results DIR
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from common import arguments as commands
from common import tables
from common.arguments import CommandError, Parser
from common.paths import RESULTS
from common.streams import stream
from theory.asymptotics import over_specified, predict
from theory.errors import errors
from theory.misspecified import sandwich
from theory.runs import load
from theory.studies import STUDIES, Study
from theory.summary import errors_of
from theory.tables import CONSTANTS

Predicted = Callable[[int], dict[str, float]]
"""n -> mean error by quantity; `_free` at the end of a name for the second law."""
ASYMMETRY = 1 << 20  # draws of the asymmetry of two halves


def prediction(study: Study, number: int, draws: int = 1 << 11) -> Predicted | None:
    """What theory predicts for a truth of the study; None where no limit is known to us.

    `draws`, a power of two, is how many of theta (exact fits) or half as many places of the spare prompt are tried.
    """
    setting = study.setting(number)
    model, rates = setting.model, {q: r.slope for q, r in study.theory.items()}
    if study.moving == "gate":
        return lambda n: {
            q: c / np.sqrt(n)
            for q, c in predict(model, setting.at(n), study.noise, partial(_errors, study, n, number), draws).items()
        }
    if study.moving == "sixth":
        return lambda n: {"moving_prompt_error": _half_gap(setting.at(n)) * mean_asymmetry()}
    if study.moving or study.theory_of == "exact in q only" or (model.unshared and study.extra):
        return None
    if study.extra == 1:
        constants = over_specified(model, setting.whole, study.noise, study.box, places=draws // 2)
        rates |= {name: -0.5 for name in constants if name.startswith("function_error")} | {"squared_error": 0.0}
        rates |= {"squared_error_free": 0.0, "over_prompt_error_unweighted": -0.25}
    elif study.extra:
        return None
    else:
        nearest = setting.target(study.sizes[-1])
        covariance = sandwich(model, setting.whole, nearest, study.noise) if study.fewer else None
        of = partial(_errors, study, study.sizes[-1], number)
        constants = predict(model, nearest, study.noise, of, draws, covariance=covariance)
    return lambda n: {q: c * n ** rates[q] for q, c in constants.items() if q in rates}


@cache
def mean_asymmetry() -> float:
    """Mean error of two halves at distance 1 from their middle, one standard error of asymmetry apart from it.

    With the second moment known, halves of shares rho, 1 - rho stand at e^a and -e^-a, where 2 sinh(a) is the
    standardised third moment: N(0, 1). The error is the mean distance from 1 and -1 to the nearer of the two.
    """
    a = np.arcsinh(stream(0, "asymmetry").standard_normal(ASYMMETRY) / 2)
    places = np.stack([np.exp(a), -np.exp(-a)])
    return float(np.mean([np.abs(places - side).min(0).mean() for side in (1, -1)]))


def compare(study: Study, rows: list[dict]) -> list[dict]:
    """Rows of constants.csv for a study."""
    numbers = sorted({int(r["truth"]) for r in rows})
    predictions = [prediction(study, k, 1 << (11 if len(numbers) == 1 else 9)) for k in numbers]
    if not predictions or predictions[0] is None:
        return []
    sizes = [n for n in study.sizes if any(int(r["n"]) == n for r in rows)]
    known = {n: [p(n) for p in predictions if p is not None] for n in sizes}
    found = []
    for quantity in [*(q for q in study.theory if q in known[sizes[0]][0]), "squared_error"]:
        base = "function_error" if quantity == "squared_error" else quantity
        every = errors_of(study, rows, base)
        for n in every[0]:
            values = [e[n][~np.isnan(e[n])] for e in every]
            power = 0.0 if quantity == "squared_error" else -study.theory[quantity].slope
            if quantity == "squared_error":
                values = [n * v**2 / study.noise**2 for v in values]
            if quantity in known[n][0]:
                found.append(_compared(study, n, quantity, values, known[n], n**power))
    return found


def _compared(study: Study, n: int, quantity: str, values: list[np.ndarray], known: list[dict], scale: float) -> dict:
    predicted = np.array([k[quantity] for k in known])
    means = np.array([v.mean() for v in values])
    ratio = means / predicted
    if len(values) > 1:
        half = stdtrit(len(ratio) - 1, 0.975) * ratio.std(ddof=1) / np.sqrt(len(ratio))
    else:
        half = 1.96 * values[0].std(ddof=1) / np.sqrt(len(values[0])) / predicted[0]
    free = [k[f"{quantity}_free"] for k in known if f"{quantity}_free" in k]
    return {
        "study": study.name,
        "n": n,
        "quantity": quantity,
        "simulated": float(means.mean() * scale),
        "predicted": float(predicted.mean() * scale),
        "ratio": float(ratio.mean()),
        "low": float(ratio.mean() - half),
        "high": float(ratio.mean() + half),
        "predicted_free": float(np.mean(free) * scale) if free else None,
        "replicates": min(map(len, values)),
        "truths": len(values),
    }


def _errors(study: Study, n: int, number: int, fitted) -> dict:
    return errors(study, fitted, n, number)


def _half_gap(truth) -> float:
    distance = np.linalg.norm(truth.p[:-1] - truth.p[-1], axis=1)
    return float(distance.min() / 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.constants", description=__doc__)
    parser.add_argument("study", nargs="*", metavar="STUDY", help="studies; all that have rows if none is named")
    parser.add_argument(
        "--results", type=commands.folder, default=RESULTS / "theory", metavar="DIR", help="folder of the rows"
    )
    parser.add_argument("--out", type=commands.file, metavar="FILE", help="table to write (DIR/constants.csv)")
    a = parser.parse_args(argv)
    if unknown := [name for name in a.study if name not in STUDIES]:
        parser.error(f"no study is called {unknown[0]}; there are {', '.join(STUDIES)}")
    path = a.out or a.results / "constants.csv"

    def work() -> None:
        found: list[dict] = []
        kept = [r for r in tables.read(path, CONSTANTS) if a.study and r["study"] not in a.study]
        for name in tqdm(a.study or STUDIES, file=sys.stderr):
            rows = list(load(STUDIES[name], a.results)[0].values())
            if a.study and not rows:
                raise CommandError(f"{a.results} has no rows of {name}; `python theory/simulate.py {name}` makes them")
            found += compare(STUDIES[name], rows) if rows else []
        if not found:
            raise CommandError(f"{a.results} has no rows whose constants are known; name another folder by --results")
        order = list(STUDIES)
        tables.finish(path, sorted([*kept, *found], key=lambda r: order.index(r["study"])), CONSTANTS)
        for r in found:
            print(f"{r['study']:20} {r['n']:8} {r['quantity']:30} {r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]")

    return commands.run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
