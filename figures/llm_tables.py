"""Tables of the study on the small world as they lie in the results folder, and its claims counted anew from them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.paths import RESULTS
from common.texts import read_json
from figures.frames import read
from llm.world.claims import MARGIN, interval
from llm.world.experiments import FULL, PUBLISHED_RATE, Experiment, ablations, rate, sample_efficiency
from llm.world.rates import best
from llm.world.tables import CLAIMS, COLUMNS, CURVE, TABLES

COMMITTED = RESULTS / "llm"
# Columns of text, in whichever table they stand.
WORDS = tuple("arm status ablation setting claim verdict rates quantity first second fractions".split())
CELL = ["ablation", "setting", "arm", "fraction", "seed", "world"]
# What fills a table of the study.
COMMANDS = {name: f"python llm/study.py --full --tables {name}" for name in TABLES}
# Claims of one table: the first arm should beat the second; the last two have as many parameters.
PAIRS = (("linear", "random_init"), ("nonlinear", "random_init"), ("nonlinear", "linear"))
MATCHED_PAIRS = (("nonlinear", "linear_matched"), ("nonlinear_matched", "linear"))


@dataclass(frozen=True)
class Measured:
    """A study as it was run.

    Attributes
    ----------
    folder : Path
    experiment : Experiment
    untuned : dict
        Scores of the base before any tuning, and `chance`, that of guessing among the values of a fact.
    tuning, efficiency, ablations, curves, claims : DataFrame
        Empty where nothing was run. A study without a tuning of its own took its rates from the committed one.
    """

    folder: Path
    experiment: Experiment
    untuned: dict[str, float]
    tuning: pd.DataFrame
    efficiency: pd.DataFrame
    ablations: pd.DataFrame
    curves: pd.DataFrame
    claims: pd.DataFrame

    @property
    def full(self) -> bool:
        """Whether this is the frozen full study, and not its quick twin or one by hand."""
        return self.experiment == FULL

    @property
    def arms(self) -> tuple[str, ...]:
        """Arms of the main study."""
        return self.experiment.arms

    def ablation(self, name: str, setting: str | None = None, world: int | None = 0) -> pd.DataFrame:
        """Rows of one ablation, of one of its settings or all, on one world or all."""
        rows = self.ablations[self.ablations["ablation"] == name]
        for column, wanted in (("setting", setting), ("world", world)):
            if wanted is not None:
                rows = rows[rows[column] == wanted]
        return rows

    def parts(self) -> dict[str, pd.DataFrame]:
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
    text = read_json(path, "the record of a study")
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in text["experiment"].items()}
        experiment = Experiment(**fields)
    except TypeError as error:
        raise ValueError(
            f"{path} is of another configuration than the code's ({error}); run the study again"
        ) from error
    tuning, efficiency, ablated = (runs(folder, name) for name in TABLES)
    curves = read(folder / "curves.csv", CURVE, WORDS).drop_duplicates(["arm", "fraction", "seed", "step"], keep="last")
    return Measured(
        folder,
        experiment,
        text["untuned"],
        runs(COMMITTED, "tuning") if tuning.empty else tuning,
        efficiency,
        ablated,
        curves,
        judged(folder),
    )


def runs(folder: Path, table: str) -> pd.DataFrame:
    """One of the three tables of runs, by its name."""
    return read(folder / f"{table}.csv", COLUMNS, WORDS)


def judged(folder: Path) -> pd.DataFrame:
    """claims.csv."""
    return read(folder / "claims.csv", CLAIMS, WORDS)


def accounts(measured: Measured) -> list[dict]:
    """Outcomes of the runs of the main study and of each ablation, for `show`."""
    cells = [*sample_efficiency(measured.experiment), *ablations(measured.experiment)]
    wanted = {tuple(getattr(cell, column) for column in CELL) for cell in cells}
    return [_account(name, rows, wanted) for name, rows in measured.parts().items()]


def _account(name: str, rows: pd.DataFrame, wanted: set[tuple]) -> dict:
    there = set(rows[CELL].itertuples(index=False, name=None))
    asked = {cell for cell in wanted if cell[0] == ("" if name == "sample_efficiency" else name)}
    return {
        "table": name,
        "runs": len(rows),
        "missing": len(asked - there),
        "not asked for": len(there - asked),
        "diverged": int((rows["status"] != "finished").sum()),
        "seeds": rows["seed"].nunique(),
        "steps": " ".join(map(str, sorted(rows["steps"].unique()))) or "-",
        "hours": float(rows["seconds"].sum()) / 3600,
    }


def by_seed(rows: pd.DataFrame, arm: str, quantity: str = "accuracy", minus: str | None = None) -> pd.DataFrame:
    """A line for each seed, a column for each fraction; of the difference to the arm `minus`, paired by seed.

    NaN where one of the two has no row.
    """

    def values(name: str) -> pd.DataFrame:
        return rows[rows["arm"] == name].pivot(index="seed", columns="fraction", values=quantity)

    return values(arm) if minus is None else values(arm) - values(minus)


def band(rows: pd.DataFrame, arm: str, quantity: str = "accuracy", minus: str | None = None) -> pd.DataFrame:
    """Mean over seeds with its 95 % interval at every fraction; of the paired difference to the arm `minus`."""
    table = by_seed(rows, arm, quantity, minus)
    lines = [(fraction, *interval(column.to_numpy()), len(column)) for fraction, column in table.items()]
    return pd.DataFrame(lines, columns=["fraction", "value", "low", "high", "seeds"])


def best_rates(tuning: pd.DataFrame) -> dict[str, dict]:
    """The best rate of each arm, its mean accuracy, and the grid, for `show`."""
    return {str(arm): _best(str(arm), rows) for arm, rows in tuning.groupby("arm", sort=False)}


def _best(arm: str, rows: pd.DataFrame) -> dict:
    top, edge = best(rows.to_dict("records"), arm) or (np.nan, False)
    return {
        "arm": arm,
        "best rate": f"{top:g}",
        "accuracy": float(rows.loc[rows["learning_rate"] == top, "accuracy"].mean()),
        "lowest": f"{rows['learning_rate'].min():g}",
        "highest": f"{rows['learning_rate'].max():g}",
        "at an edge": edge,
    }


def tuned(measured: Measured) -> bool:
    """Whether every arm has been tuned on the whole grid, and every seed."""
    e, columns = measured.experiment, ["arm", "learning_rate", "seed"]
    there = set(measured.tuning[columns].itertuples(index=False, name=None))
    return all((a, rate(x), s) in there for a in (*e.arms, *e.matched) for x in e.exponents for s in e.tuning_seeds)


def recount(measured: Measured) -> dict[tuple, dict]:
    """Claims from the rows by pandas and SciPy alone: (rates, world, first, second, quantity) -> value, verdict."""
    from scipy import stats  # takes as long to import as everything else here

    e, published = measured.experiment, f"{PUBLISHED_RATE:g}"
    matched = pd.concat([measured.efficiency, measured.ablation("matched")])
    sets = [("own best", 0, measured.efficiency, PAIRS), ("own best", 0, matched, MATCHED_PAIRS)]
    sets += [("one for all", 0, measured.ablation("common_rate"), PAIRS)]
    sets += [("own best, 5 epochs", 0, measured.ablation("equal_epochs"), PAIRS)]
    sets += [("own best, all layers", 0, measured.ablation("all_layers", "own best"), PAIRS)]
    sets += [("as published, all layers", 0, measured.ablation("all_layers", published), PAIRS)]
    sets += [("as published", w, measured.ablation("published_rate", world=w), PAIRS) for w in (0, *e.worlds)]
    sets += [("own best", w, measured.ablation("world", world=w), PAIRS) for w in e.worlds]
    claims = {}
    for rates, world, rows, pairs in sets:
        for first, second in pairs:
            if not {first, second} <= set(rows["arm"]):
                continue
            gap = by_seed(rows, first, minus=second)
            per_seed = {"gain": gap.mean(axis=1, skipna=False).to_numpy()}
            if len(gap.columns) > 1:
                per_seed["growth"] = np.polyfit(-np.log10(gap.columns.to_numpy(float)), gap.to_numpy().T, 1)[0]
            for quantity, values in per_seed.items():
                low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
                word = "holds" if low > 0 else "does not hold" if high < MARGIN else "not resolved"
                claims[rates, world, first, second, quantity] = {
                    **{"value": float(values.mean()), "low": float(low), "high": float(high)},
                    "verdict": "incomplete" if gap.isna().any(axis=None) else word,
                }
    return claims


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
        for c in measured.claims.to_dict("records")
    ]
