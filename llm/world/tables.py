"""Tables of the study on the small world: their columns, and what makes a row that of a cell."""

from pathlib import Path
from typing import Any

from common import tables

TABLES = ("tuning", "sample_efficiency", "ablations")
COLUMNS = (
    "arm", "fraction", "seed", "accuracy", "multiple_choice", "held_out_loss", "learning_rate", "steps", "trainable",
    "seconds", "rows", "train_loss", "status", "world", "ablation", "setting",
)  # fmt: skip
KEY = ("world", "ablation", "setting", "arm", "fraction", "seed", "learning_rate")
CURVE = ("arm", "fraction", "seed", "learning_rate", "epoch", "step", "train_loss", "held_out_loss")
CLAIMS = (
    "claim",
    "value",
    "low",
    "high",
    "verdict",
    "rates",
    "quantity",
    "first",
    "second",
    "world",
    "fractions",
    "seeds",
)


class Table:
    """Rows of one CSV file by their cell, growing as runs end."""

    def __init__(self, folder: Path, name: str):
        self.path = folder / f"{name}.csv"
        self.rows = {key(row): row for row in tables.read(self.path, COLUMNS)}

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to the file."""
        tables.append(self.path, row, COLUMNS)
        self.rows[key(row)] = {c: str(row[c]) for c in COLUMNS}


def key(row: Any) -> tuple[str, ...]:
    """What a row, or a cell, is the only one of."""
    values = {c: row[c] if isinstance(row, dict) else getattr(row, c) for c in KEY}
    return tuple(str(float(v)) if c in ("fraction", "learning_rate") else str(v) for c, v in values.items())
