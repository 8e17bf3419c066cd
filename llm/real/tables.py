"""Tables of the study on a real base: their columns, and what makes a row that of a cell."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import seals, tables
from common.records import append_whole
from common.tables import Column
from llm.real.protocol import ARMS, COMMON, OWN_BEST, PUBLISHED, Cell

TEXT, COUNT = Column(), Column("integer", 0)
POSITIVE = Column("number", 0)
LOSS, SCALE = Column("number", 0, also=("nan",)), Column("number", 0, also=("",))
_ARM = Column(words={"base", *ARMS, *(arm.method for arm in ARMS.values())})
_ATTENTION, _STATUS = Column(words={"", "zero_init", "random_init"}), Column(words={"finished", "diverged"})
_PROMPT = Column(words={"", "linear", "nonlinear", "nonlinear_shared"})
_RULE, _RATE = Column(words={"none", OWN_BEST, COMMON, PUBLISHED}), Column("number", 1e-12, also=("",))
_SHARE, _ANY = Column("number", 0, 1), Column("number", also=("nan",))
COLUMNS = {
    "tuning": {
        **{"arm": _ARM, "attention": _ATTENTION, "prompt": _PROMPT, "initial_scale": SCALE, "learning_rate": _RATE},
        **{"seed": COUNT, "steps": LOSS, "held_out_loss": LOSS, "train_loss": LOSS, "seconds": POSITIVE},
        **{"cpu_seconds": POSITIVE, "tokens": LOSS, "status": _STATUS},
    },
    "study": {
        **{"arm": _ARM, "attention": _ATTENTION, "prompt": _PROMPT, "share": _SHARE, "seed": COUNT},
        **{"rate_rule": _RULE, "learning_rate": _RATE, "steps": LOSS, "held_out_loss": LOSS, "seconds": POSITIVE},
        **{"tokens": LOSS, "initial_scale": SCALE, "trainable": COUNT, "rows": COUNT},
        **{"train_loss": Column("number", 0, also=("nan", "")), "cpu_seconds": POSITIVE, "status": _STATUS},
    },
    "rows_loss": {
        **{"arm": _ARM, "seed": COUNT, "row": COUNT, "loss": POSITIVE, "share": _SHARE, "rate_rule": _RULE},
        "tokens": COUNT,
    },
    "curves": {
        **{"arm": _ARM, "share": _SHARE, "seed": COUNT, "rate_rule": _RULE, "learning_rate": POSITIVE},
        **{"step": COUNT, "train_loss": POSITIVE, "seconds": POSITIVE},
    },
    "scores": {
        **{"arm": _ARM, "seed": COUNT, "task": TEXT, "protocol": Column(words={"harness", "paper"}), "n": COUNT},
        **{"score": _SHARE, "stderr": POSITIVE, "metric": TEXT, "seconds": POSITIVE, "right": TEXT},
    },
    "claims": {
        **{"base": TEXT, "claim": TEXT, "measure": TEXT, "quantity": Column(words={"gain", "growth"}), "value": _ANY},
        **{"low": _ANY, "high": _ANY, "seed_low": _ANY, "seed_high": _ANY, "resolution": _ANY, "verdict": TEXT},
        **{"rates": _RULE, "first": _ARM, "second": _ARM, "shares": TEXT, "seeds": COUNT},
    },
}
KEYS = {
    "tuning": ("arm", "initial_scale", "learning_rate", "seed"),
    "study": ("arm", "share", "seed", "rate_rule"),
    "scores": ("arm", "seed", "task", "protocol"),
}
PARTS = {"rows_loss": ("row",), "curves": ("step",)}  # several rows a run
KEYS |= dict.fromkeys(PARTS, KEYS["study"])


class Table:
    """Rows of one CSV file by their key, growing as runs end."""

    def __init__(self, folder: Path, name: str):
        self.path, self.columns, self.keys = folder / f"{name}.csv", COLUMNS[name], KEYS[name]
        mend(self.path)
        self.rows = {self.key(row): row for row in tables.read(self.path, self.columns, self.keys)}

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
    """Cut off the part of a row that a kill may have left at the end of a table that is not finished."""
    if path.exists() and not seals.beside(path).exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def append(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows that belong together by one system call."""
    path, columns = folder / f"{name}.csv", COLUMNS[name]
    seals.unseal(path)
    if not path.exists():
        tables.write(path, [], columns)
    append_whole(path, "".join(tables.line(row, columns) for row in rows).encode())


def finish(folder: Path, name: str) -> None:
    """Put the rows in the order of their keys, which does not depend on workers, and seal the table."""
    path = folder / f"{name}.csv"
    if path.exists() and not seals.beside(path).exists():
        rows, keys = (
            tables.read(path, COLUMNS[name]),
            (*KEYS[name], *({"rows_loss": ["row"], "curves": ["step"]}.get(name, ()))),
        )
        tables.finish(path, sorted(rows, key=lambda row: [_order(row[key]) for key in keys]), COLUMNS[name])


def _order(cell: str) -> tuple[float, str]:
    try:
        return float(cell), ""
    except ValueError:
        return float("inf"), cell


def keep(folder: Path, name: str, keys: Iterable[tuple[str, ...]]) -> None:
    """Leave of one of `PARTS` only rows with these keys; others are of a run that was killed before its own row."""
    path, wanted = folder / f"{name}.csv", set(keys)
    mend(path)
    rows = tables.read(path, COLUMNS[name])
    left = [row for row in rows if tuple(row[column] for column in KEYS[name]) in wanted]
    if len(left) < len(rows):
        tables.write(path, left, COLUMNS[name])
