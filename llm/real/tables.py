"""Tables of the study on a real base: their columns, and what makes a row that of a cell."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import tables
from llm.real.protocol import Cell

COLUMNS = {
    "tuning": (
        "arm", "attention", "prompt", "initial_scale", "learning_rate", "seed", "steps", "held_out_loss", "train_loss",
        "seconds", "cpu_seconds", "tokens", "status",
    ),
    "study": (
        "arm", "attention", "prompt", "share", "seed", "rate_rule", "learning_rate", "steps", "held_out_loss",
        "seconds", "tokens", "initial_scale", "trainable", "rows", "train_loss", "cpu_seconds", "status",
    ),
    "rows_loss": ("arm", "seed", "row", "loss", "share", "rate_rule", "tokens"),
    "curves": ("arm", "share", "seed", "rate_rule", "learning_rate", "step", "train_loss", "seconds"),
    "scores": ("arm", "seed", "task", "protocol", "n", "score", "stderr", "metric", "seconds", "right"),
    "claims": (
        "base", "claim", "measure", "quantity", "value", "low", "high", "seed_low", "seed_high", "resolution",
        "verdict", "rates", "first", "second", "shares", "seeds",
    ),
}  # fmt: skip
KEYS = {
    "tuning": ("arm", "initial_scale", "learning_rate", "seed"),
    "study": ("arm", "share", "seed", "rate_rule"),
    "scores": ("arm", "seed", "task", "protocol"),
}
KEYS |= dict.fromkeys(("rows_loss", "curves"), KEYS["study"])


class Table:
    """Rows of one CSV file by their key, growing as runs end."""

    def __init__(self, folder: Path, name: str):
        self.path, self.columns, self.keys = folder / f"{name}.csv", COLUMNS[name], KEYS[name]
        mend(self.path)
        self.rows = {self.key(row): row for row in tables.read(self.path, self.columns)}

    def key(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """What a row, or a cell as a mapping, is the only one of."""
        return tuple(text(row[column]) for column in self.keys)

    def __contains__(self, cell: Cell) -> bool:
        return self.key(asdict(cell)) in self.rows

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row to the file."""
        tables.append(self.path, row, self.columns)
        self.rows[self.key(row)] = {c: text(row[c]) for c in self.columns}


def text(value: Any) -> str:
    """A cell as the file has it."""
    return repr(float(value)) if isinstance(value, float) else "" if value is None else str(value)


def mend(path: Path) -> None:
    """Cut off the part of a row that a kill may have left at the end of a table."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def keep(folder: Path, name: str, keys: Iterable[tuple[str, ...]]) -> None:
    """Leave only rows with these keys: parts of cells whose own row is not there are of a run that was killed."""
    path, wanted = folder / f"{name}.csv", set(keys)
    mend(path)
    rows = tables.read(path, COLUMNS[name])
    left = [row for row in rows if tuple(row[column] for column in KEYS[name]) in wanted]
    if len(left) < len(rows):
        tables.write(path, left, COLUMNS[name])
