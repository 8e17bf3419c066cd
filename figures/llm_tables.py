"""Tables of the study on the small world as they lie in the results folder, and its claims counted anew from them."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from common import tables
from common.paths import RESULTS
from llm.claims import CLAIMS, MARGIN, interval
from llm.experiments import FULL, PROMPT_ARMS, PUBLISHED_RATE, Experiment, ablations, rate, sample_efficiency
from llm.runs import COLUMNS, CURVE

COMMITTED = RESULTS / "llm"
NUMBERS = ("accuracy", "multiple_choice", "held_out_loss", "learning_rate", "fraction", "train_loss", "seconds")
WHOLE = ("seed", "steps", "trainable", "rows", "world")
# What fills a table of the study.
COMMANDS = {
    name: f"python llm/study.py --full --tables {name}" for name in ("tuning", "sample_efficiency", "ablations")
}
# Claims of one table: the first arm should beat the second; the last two have as many parameters.
PAIRS = (("linear", "random_init"), ("nonlinear", "random_init"), ("nonlinear", "linear"))
MATCHED_PAIRS = (("nonlinear", "linear_matched"), ("nonlinear_matched", "linear"))


@dataclass(frozen=True)
class Measured:
    """Rows of a study as it was run, numbers as numbers.

    Attributes
    ----------
    folder : Path
    experiment : Experiment
    untuned : dict
        Scores of the base before any tuning, and `chance`, that of guessing among the values of a fact.
    tuning, efficiency, ablations, curves, claims : list of dict
        Empty where nothing was run. A study without a tuning of its own took its rates from the committed one.
    """

    folder: Path
    experiment: Experiment
    untuned: dict[str, float]
    tuning: list[dict]
    efficiency: list[dict]
    ablations: list[dict]
    curves: list[dict]
    claims: list[dict]

    @property
    def full(self) -> bool:
        """Whether this is the frozen full study, and not its quick twin or one by hand."""
        return self.experiment == FULL

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of the main study."""
        return self.experiment.arms

    def ablation(self, name: str, setting: str | None = None, world: int | None = 0) -> list[dict]:
        """Rows of one ablation, of one of its settings or all, on one world or all."""
        wanted = {"ablation": name, "setting": setting, "world": world}
        return [r for r in self.ablations if all(r[k] == v for k, v in wanted.items() if v is not None)]

    def parts(self) -> dict[str, list[dict]]:
        """Rows of the main study and of each ablation, by name."""
        names = dict.fromkeys(cell.ablation for cell in ablations(FULL))
        return {"sample_efficiency": self.efficiency} | {name: self.ablation(name, world=None) for name in names}


def load() -> Measured:
    """The study in $ZIA_LLM_RESULTS or results/llm.

    Raises
    ------
    FileNotFoundError, ValueError, TableError
        If the study has not begun there, or is one of another code.
    """
    folder = Path(os.environ.get("ZIA_LLM_RESULTS") or COMMITTED)
    path = folder / "study.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no study; run `python llm/study.py --full`, or without --full the twin")
    text = json.loads(path.read_text())
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in text["experiment"].items()}
        experiment = Experiment(**fields)
    except TypeError as error:
        raise ValueError(
            f"{path} is of another configuration than the code's ({error}); run the study again"
        ) from error
    found = {name: _rows(folder, name, COLUMNS) for name in ("tuning", "sample_efficiency", "ablations")}
    return Measured(
        folder,
        experiment,
        text["untuned"],
        found["tuning"] or _rows(COMMITTED, "tuning", COLUMNS),
        found["sample_efficiency"],
        found["ablations"],
        list({(r["arm"], r["fraction"], r["seed"], r["step"]): r for r in _rows(folder, "curves", CURVE)}.values()),
        _rows(folder, "claims", CLAIMS),
    )


def _rows(folder: Path, name: str, columns: tuple[str, ...]) -> list[dict]:
    return [{k: _number(k, v) for k, v in row.items()} for row in tables.read(folder / f"{name}.csv", columns)]


def _number(column: str, text: str) -> float | int | str:
    if column in (*NUMBERS, "value", "low", "high", "epoch"):
        return float(text or "nan")
    return int(text) if column in (*WHOLE, "step", "seeds") else text


def accounts(measured: Measured) -> list[dict]:
    """What became of the runs of the main study and of each ablation, for `show`."""
    wanted = [*sample_efficiency(measured.experiment), *ablations(measured.experiment)]
    cells = [(c.ablation, c.setting, c.arm, c.fraction, c.seed, c.world) for c in wanted]
    found = []
    for name, rows in measured.parts().items():
        there = {tuple(r[k] for k in ("ablation", "setting", "arm", "fraction", "seed", "world")) for r in rows}
        asked = {cell for cell in cells if cell[0] == ("" if name == "sample_efficiency" else name)}
        found.append(
            {
                "table": name,
                "runs": len(rows),
                "missing": len(asked - there),
                "not asked for": len(there - asked),
                "diverged": sum(r["status"] != "finished" for r in rows),
                "seeds": len({r["seed"] for r in rows}),
                "steps": " ".join(map(str, sorted({r["steps"] for r in rows}))) or "-",
                "hours": sum(r["seconds"] for r in rows) / 3600,
            }
        )
    return found


def paired(rows: Iterable[Mapping], arms: Sequence[str], quantity: str = "accuracy") -> tuple[np.ndarray, np.ndarray]:
    """Fractions (F,), ascending, and values (arms, seeds, F), paired by seed; nan where there is no row."""
    mine = [r for r in rows if r["arm"] in arms]
    fractions, column = np.unique([r["fraction"] for r in mine], return_inverse=True)
    seeds, line = np.unique([r["seed"] for r in mine], return_inverse=True)
    values = np.full((len(arms), len(seeds), len(fractions)), np.nan)
    values[[arms.index(r["arm"]) for r in mine], line, column] = [r[quantity] for r in mine]
    return fractions, values


def band(rows: Iterable[Mapping], arm: str, quantity: str = "accuracy", minus: str | None = None) -> list[dict]:
    """Mean over seeds with its 95 % interval at every fraction; of the paired difference to the arm `minus`."""
    fractions, values = paired(rows, [arm] if minus is None else [arm, minus], quantity)
    per_seed = values[0] if minus is None else values[0] - values[1]
    return [
        {"fraction": float(f), "value": value, "low": low, "high": high, "seeds": len(column)}
        for f, column in zip(fractions, per_seed.T, strict=True)
        for value, low, high in (interval(column),)
    ]


def best_rates(tuning: Iterable[Mapping]) -> dict[str, dict]:
    """Of each arm the rate with the highest mean accuracy (ties: lower loss; none that diverged), and the grid."""
    found = {}
    tuning = list(tuning)
    for arm in dict.fromkeys(r["arm"] for r in tuning):
        table = []
        for learning_rate in sorted({r["learning_rate"] for r in tuning if r["arm"] == arm}):
            mine = [r for r in tuning if r["arm"] == arm and r["learning_rate"] == learning_rate]
            if all(r["status"] == "finished" for r in mine):
                means = (float(np.mean([r[q] for r in mine])) for q in ("accuracy", "held_out_loss"))
                table.append((learning_rate, *means))
        grid = sorted({r["learning_rate"] for r in tuning if r["arm"] == arm})
        top = max(table, key=lambda line: (line[1], -line[2]))
        found[arm] = {
            "arm": arm,
            "best rate": f"{top[0]:g}",
            "accuracy": top[1],
            "lowest": f"{grid[0]:g}",
            "highest": f"{grid[-1]:g}",
            "at an edge": top[0] in (grid[0], grid[-1]),
        }
    return found


def common_rate(tuning: Iterable[Mapping]) -> float:
    """The rate with the highest accuracy averaged over the paper's three prompt arms."""
    tuning = [r for r in tuning if r["arm"] in PROMPT_ARMS]
    grids = [{r["learning_rate"] for r in tuning if r["arm"] == arm} for arm in PROMPT_ARMS]
    shared = sorted(set.intersection(*grids))
    means = [
        [np.mean([r["accuracy"] for r in tuning if (r["arm"], r["learning_rate"]) == (arm, x)]) for arm in PROMPT_ARMS]
        for x in shared
    ]
    return shared[int(np.nanargmax(np.sum(means, 1)))]


def tuned(measured: Measured) -> bool:
    """Whether every arm has been tuned on the whole grid, and every seed."""
    e, there = measured.experiment, {(r["arm"], r["learning_rate"], r["seed"]) for r in measured.tuning}
    arms = dict.fromkeys((*e.arms, *e.matched))
    return all((a, rate(x), s) in there for a in arms for x in e.exponents for s in e.tuning_seeds)


def recount(measured: Measured) -> dict[tuple, dict]:
    """Claims from the rows by NumPy and SciPy alone: (rates, world, first, second, quantity) -> value, verdict."""
    e, published = measured.experiment, f"{PUBLISHED_RATE:g}"
    matched = [*measured.efficiency, *measured.ablation("matched")]
    sets = [("own best", 0, measured.efficiency, PAIRS), ("own best", 0, matched, MATCHED_PAIRS)]
    sets += [("one for all", 0, measured.ablation("common_rate"), PAIRS)]
    sets += [("own best, 5 epochs", 0, measured.ablation("equal_epochs"), PAIRS)]
    sets += [("own best, all layers", 0, measured.ablation("all_layers", "own best"), PAIRS)]
    sets += [("as published, all layers", 0, measured.ablation("all_layers", published), PAIRS)]
    sets += [("as published", w, measured.ablation("published_rate", world=w), PAIRS) for w in (0, *e.worlds)]
    sets += [("own best", w, measured.ablation("world", world=w), PAIRS) for w in e.worlds]
    found = {}
    for rates, world, rows, pairs in sets:
        arms = {r["arm"] for r in rows}
        for first, second in pairs:
            if not {first, second} <= arms:
                continue
            fractions, (left, right) = paired(rows, [first, second])
            gap = left - right
            per_seed = {"gain": gap.mean(1)}
            if len(fractions) > 1:
                per_seed["growth"] = np.polyfit(-np.log10(fractions), gap.T, 1)[0]
            for quantity, values in per_seed.items():
                low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                word = "holds" if low > 0 else "does not hold" if high < MARGIN else "not resolved"
                found[rates, world, first, second, quantity] = {
                    **{"value": float(values.mean()), "low": float(low), "high": float(high)},
                    "verdict": "incomplete" if np.isnan(gap).any() else word,
                }
    return found


def claims_table(measured: Measured) -> list[dict]:
    """Claims with value and interval in points of accuracy, for `show`."""
    return [
        {
            "claim": c["claim"],
            "rates": c["rates"],
            "world": c["world"],
            "points": f"{100 * c['value']:+.1f}",
            "95 % interval": f"{100 * c['low']:+.1f} to {100 * c['high']:+.1f}",
            "seeds": c["seeds"],
            "verdict": f"**{c['verdict']}**",
        }
        for c in measured.claims
    ]
