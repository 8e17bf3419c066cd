"""What the rows of a study say: slopes, verdicts, and the tables that show them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common import tables
from common.streams import stream
from theory.rates import Errors, Slope, slope, slope_over_truths, verdict
from theory.studies import STUDIES, Study
from theory.tables import QUANTITIES, RATES, STATUS, error

WITH_THEORY_ONLY = QUANTITIES[QUANTITIES.index("over_prompt_error_unweighted") :]  # the others are always measured


class NoSlopeError(ValueError):
    """Errors of which no slope can be taken."""


def errors_of(study: Study, rows: Sequence[dict], quantity: str, first: int = 0) -> list[dict[int, np.ndarray]]:
    """For each truth, errors of the replicates at each n from `first` on, but sizes that a truth has too few of."""
    found: dict[int, dict[int, list[float]]] = {}
    for row in rows:
        if int(row["n"]) >= first:
            found.setdefault(int(row["truth"]), {}).setdefault(int(row["n"]), []).append(error(row, quantity))
    every = [{n: np.array(of[n]) for n in study.sizes if n in of} for _, of in sorted(found.items())]
    shared = [n for n in study.sizes if all((~np.isnan(e.get(n, []))).sum() >= 2 for e in every)]
    return [{n: e[n] for n in shared} for e in every]


def slope_of_study(study: Study, every: Sequence[Errors], quantity: str, logarithm: bool = False) -> Slope:
    """Slope of `errors_of`: over truths, if there are several, else with the bootstrap."""
    if len(every) > 1:
        return slope_over_truths(every, logarithm)
    return slope(every[0], stream(study.seed, study.name, quantity, "bootstrap"), logarithm)


def measure(study: Study, rows: list[dict]) -> list[dict]:
    """Slopes with intervals and verdicts of one study: rows of rates.csv.

    Raises
    ------
    NoSlopeError
        If an error has no logarithm, naming the quantity.
    """
    found = []
    for quantity in QUANTITIES:
        if quantity in WITH_THEORY_ONLY and quantity not in study.theory:
            continue
        every = errors_of(study, rows, quantity, study.first_n)
        if not every or len(every[0]) < 2:
            continue

        theory = study.theory.get(quantity)
        try:
            plain, logarithmic = (slope_of_study(study, every, quantity, logarithm) for logarithm in (False, True))
            without = [dict(list(errors.items())[1:]) for errors in every]
            late = slope_of_study(study, without, quantity) if len(without[0]) > 1 else None
            word = verdict(plain, theory)
        except ValueError as reason:
            raise NoSlopeError(f"{study.name} has no slope of {quantity}: {reason}") from None
        found.append(
            {"study": study.name, "quantity": quantity, "theory": theory.slope if theory else None}
            | vars(plain)
            | {"verdict": word, "kind": theory.kind if theory else ""}
            | {f"log_{k}": getattr(logarithmic, k) for k in ("slope", "low", "high")}
            | {f"late_{k}": getattr(late, k) if late else None for k in ("slope", "low", "high")}
        )
    return found


def save_rates(folder: Path, rates: list[dict]) -> None:
    """Put these rows into DIR/rates.csv, beside those of other studies."""
    path = folder / "rates.csv"
    new = {r["study"] for r in rates}
    kept = [r for r in tables.read(path, RATES) if r["study"] not in new]
    order = {name: i for i, name in enumerate(STUDIES)}
    tables.finish(path, sorted([*kept, *rates], key=lambda r: order.get(r["study"], len(order))), RATES)


def show(rates: list[dict], rows: list[dict]) -> str:
    """The table for people: slopes, intervals, verdicts, and what became of the fits."""
    head = f"{'study':24}{'quantity':30}{'slope':>8}  {'95 % interval':17}{'theory':>7}  {'verdict':14}without first n"
    lines = [head, "-" * len(head)]
    for r in rates:
        theory = "" if r["theory"] is None else f"{r['theory']:.3f}"
        late = "" if r["late_slope"] is None else f"{r['late_slope']:.3f} {_interval(r, 'late_')}"
        lines.append(
            f"{r['study']:24}{r['quantity']:30}{r['slope']:8.3f}  {_interval(r):17}{theory:>7}  {r['verdict']:14}{late}"
        )
    status = {s: sum(r["status"] == s for r in rows) for s in STATUS}
    lines += ["", *(coverage(rates, prefix, words) for prefix, words in (("", ""), ("late_", " without the first n")))]
    return "\n".join([*lines, f"{len(rows)} fits: " + ", ".join(f"{count} {name}" for name, count in status.items())])


def coverage(rates: list[dict], prefix: str = "", words: str = "") -> str:
    """How many intervals of exact rates cover the theory value."""
    tested = [r for r in rates if r["kind"] == "exact" and r[f"{prefix}slope"] is not None]
    covered = sum(r[f"{prefix}low"] <= r["theory"] <= r[f"{prefix}high"] for r in tested)
    share = f"95 % would be {0.95 * len(tested):.0f}"
    return f"{covered} of {len(tested)} intervals of exact rates cover the theory value{words}; {share}"


def _interval(r: dict, prefix: str = "") -> str:
    return f"[{r[f'{prefix}low']:.3f}, {r[f'{prefix}high']:.3f}]"
