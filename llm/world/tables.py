"""Tables of the study on the small world: their columns, what these may hold, and what makes a row that of a cell."""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import tables
from common.tables import Column
from llm.world.experiments import ARMS, FULL, Experiment, ablations, grid, sample_efficiency

CELLS = {"tuning": grid, "sample_efficiency": sample_efficiency, "ablations": ablations}
TABLES = tuple(CELLS)
SCORES = ("accuracy", "multiple_choice", "held_out_loss", "train_loss")  # nan in the row of a run that diverged
_COUNT, _LEAST, _FROM_0 = Column("integer", 0), Column("integer", 1), Column("number", 0)
_SHARE, _LOSS = Column("number", 0, 1, also=("nan",)), Column("number", 0, also=("nan",))
_ARM, _FRACTION, _RATE = Column(words=ARMS), Column("number", 1e-6, 1), Column("number", 1e-12)
_ANY = Column("number", also=("nan",))
COLUMNS = {
    "arm": _ARM,
    "fraction": _FRACTION,
    "seed": _COUNT,
    "accuracy": _SHARE,
    "multiple_choice": _SHARE,
    "held_out_loss": _LOSS,
    "learning_rate": _RATE,
    "steps": _LEAST,
    "trainable": _LEAST,
    "seconds": _FROM_0,
    "rows": _LEAST,
    "train_loss": _LOSS,
    "status": Column(words=("finished", "diverged")),
    "world": _COUNT,
    "ablation": Column(words={"", *(cell.ablation for cell in ablations(FULL))}),
    "setting": Column(),
}
KEY = ("world", "ablation", "setting", "arm", "fraction", "seed", "learning_rate")
CURVE = {
    "arm": _ARM,
    "fraction": _FRACTION,
    "seed": _COUNT,
    "learning_rate": _FROM_0,  # of a step
    "epoch": _FROM_0,
    "step": _LEAST,
    "train_loss": _FROM_0,
    "held_out_loss": _FROM_0,
}
CLAIMS = {
    "claim": Column(),
    "value": _ANY,
    "low": _ANY,
    "high": _ANY,
    "verdict": Column(words=("holds", "does not hold", "not resolved", "incomplete")),
    "rates": Column(),
    "quantity": Column(words=("gain", "growth")),
    "first": _ARM,
    "second": _ARM,
    "world": _COUNT,
    "fractions": Column(),
    "seeds": _LEAST,
}


class Table:
    """Rows of one CSV file by their cell, growing as runs end.

    Parameters
    ----------
    folder : Path
    name : str
        One of `TABLES`.
    experiments : collection of Experiment, optional
        The rows must be of their cells, at whatever rate; without, of any.

    Raises
    ------
    TableError, Changed, ValueError
        As `common.tables.read`, and if a row is of no such cell, or its scores do not fit its status.
    """

    def __init__(self, folder: Path, name: str, experiments: Collection[Experiment] = ()):
        self.path = folder / f"{name}.csv"
        cells = (replace(cell, learning_rate=0.0) for experiment in experiments for cell in CELLS[name](experiment))
        allowed = {key(cell)[:-1] for cell in cells}
        steps = {str(experiment.steps) for experiment in experiments}

        def wrong(row: dict[str, str]) -> str | None:
            if row["status"] == "finished" and (without := [c for c in SCORES if math.isnan(float(row[c]))]):
                return f"{without[0]} of a run that finished must be a number"
            if row["status"] == "diverged" and not math.isnan(float(row["accuracy"])):
                return "accuracy of a run that diverged must be nan"
            if experiments and key(row)[:-1] not in allowed:
                return "no run of this study has " + ", ".join(f"{c} {row[c]}" for c in KEY[:-1] if row[c])
            if experiments and row["steps"] not in steps and row["ablation"] != "equal_epochs":
                return f"steps must be {' or '.join(sorted(steps))}; got {row['steps']}"
            return None

        self.rows = {key(row): row for row in tables.read(self.path, COLUMNS, KEY, wrong)}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to the file."""
        tables.append(self.path, row, COLUMNS)
        self.rows[key(row)] = {c: str(row[c]) for c in COLUMNS}


def key(row: Any) -> tuple[str, ...]:
    """What a row, or a cell, is the only one of."""
    values = {c: row[c] if isinstance(row, dict) else getattr(row, c) for c in KEY}
    return tuple(str(float(v)) if c in ("fraction", "learning_rate") else str(v) for c, v in values.items())
