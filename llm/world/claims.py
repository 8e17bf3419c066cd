"""The paper's empirical claims, judged on the tables of `llm.world.study` by a rule that was fixed before any run.

A claim compares two arms on the same seeds (same subset of the data, same order). Per seed s and fraction f the
difference of test accuracies is D(s, f). Two numbers are taken of it:

    gain      mean of D over all fractions
    growth    least-squares slope of D against -log10(f): what the gain grows by when the data shrink to a tenth

each with the 95 % interval of Student's t over seeds. **Rule**: the claim `holds` if the interval lies above 0; it
`does not hold` if the interval lies below `MARGIN` (a gain that small is not worth a name, and a loss is none); else it
is `not resolved`. Seeds vary subset, order and initial values; the world, and with it base and test questions, is
fixed, so the claims are judged on every world by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import stdtrit

from common import tables
from llm.world.experiments import PUBLISHED_RATE
from llm.world.tables import CLAIMS

MARGIN = 0.02
# arm, arm it should beat, in words
ORDER = (
    ("linear", "random_init", "zero-initialised linear prompts beat random-initialised attention"),
    ("nonlinear", "random_init", "zero-initialised non-linear prompts beat random-initialised attention"),
    ("nonlinear", "linear", "non-linear prompts beat linear prompts"),
)
SIZES = (
    ("nonlinear", "linear_matched", "non-linear prompts beat linear prompts with as many parameters"),
    ("nonlinear_matched", "linear", "non-linear prompts with as few parameters beat linear prompts"),
)
# Ablations that have the three arms, and what `rates` calls them.
REGIMES = {
    "common_rate": "one for all",
    "published_rate": "as published",
    "equal_epochs": "own best, 5 epochs",
    "world": "own best",
}
Rows = Sequence[Mapping[str, str]]


def differences(rows: Rows, first: str, second: str) -> tuple[list[float], list[int], np.ndarray]:
    """Differences of accuracy, paired by seed.

    Returns
    -------
    fractions : list of float
        Those at which either was run; none if one of the two never was.
    seeds : list of int
    difference : ndarray (seeds, fractions)
        nan where one of the two was not run, or diverged.
    """
    accuracy = {(r["arm"], float(r["fraction"]), int(r["seed"])): float(r["accuracy"]) for r in rows}
    keys = [key for key in accuracy if key[0] in (first, second)]
    if {arm for arm, _, _ in keys} != {first, second}:
        keys = []
    fractions, seeds = sorted({f for _, f, _ in keys}), sorted({s for _, _, s in keys})
    missing = float("nan")
    table = [
        [accuracy.get((first, f, s), missing) - accuracy.get((second, f, s), missing) for f in fractions] for s in seeds
    ]
    return fractions, seeds, np.array(table).reshape(len(seeds), len(fractions))


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t: (value, low, high); nan where fewer than two values are given."""
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def verdict(low: float, high: float) -> str:
    """The rule in the head of this file."""
    if low > 0:
        return "holds"
    return "does not hold" if high < MARGIN else "not resolved"


def judge(efficiency: Rows, ablations: Rows) -> list[dict]:
    """Every claim under every way to choose the rates, and on every world, that has been run."""
    matched = [r for r in ablations if r["ablation"] == "matched"]
    found = [*_judge(efficiency, "own best", ORDER), *_judge([*efficiency, *matched], "own best", SIZES)]
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in ablations:
        if rates := _regime(row):
            groups.setdefault((rates, row["world"]), []).append(row)
    for (rates, _), rows in groups.items():
        found += _judge(rows, rates, ORDER)
    return found


def _regime(row: Mapping[str, str]) -> str | None:
    if row["ablation"] == "all_layers":
        rates = "as published" if row["setting"] == f"{PUBLISHED_RATE:g}" else row["setting"]
        return f"{rates}, all layers"
    return REGIMES.get(row["ablation"])


def write(folder: Path, efficiency: Rows, ablations: Rows) -> list[dict]:
    """Judge and write claims.csv."""
    found = judge(efficiency, ablations)
    tables.finish(folder / "claims.csv", found, CLAIMS)
    return found


def _judge(rows: Rows, rates: str, claims: Iterable[tuple[str, str, str]]) -> list[dict]:
    found = []
    for (first, second, words), quantity in product(claims, ("gain", "growth")):
        fractions, seeds, table = differences(rows, first, second)
        # A pair that is missing makes a claim about other data; there is no verdict before all are there.
        if not table.size or np.isnan(table).all():
            continue
        if quantity == "growth" and len(fractions) < 2:
            continue
        per_seed = table.mean(1) if quantity == "gain" else growth(fractions, table)
        value, low, high = interval(per_seed)
        found.append(
            {
                "claim": words if quantity == "gain" else f"{words}, by more with less data",
                **{"value": value, "low": low, "high": high},
                "verdict": "incomplete" if np.isnan(table).any() else verdict(low, high),
                **{"rates": rates, "quantity": quantity, "first": first, "second": second},
                "world": rows[0]["world"],
                "fractions": " ".join(f"{f:g}" for f in fractions),
                "seeds": len(seeds),
            }
        )
    return found


def growth(fractions: Sequence[float], table: np.ndarray) -> np.ndarray:
    """Slope of each row of differences against -log10(fraction): (seeds,)."""
    x = -np.log10(np.array(fractions))
    x = x - x.mean()
    return table @ x / (x @ x)
