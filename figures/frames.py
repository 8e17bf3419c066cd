"""Result tables as data frames, and rows as a table in Markdown."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from common import tables


def read(path: Path, columns: Collection[str] | Mapping[str, tables.Column], words: Sequence[str] = ()) -> pd.DataFrame:
    """A table that must have exactly these columns; `words` are text, the others numbers (NaN where a cell is empty).

    An absent file gives a frame without rows.

    Raises
    ------
    TableError
        If the header differs, or the file is truncated.
    """
    if not tables.read(path, columns):
        return pd.DataFrame(columns=list(columns))
    text = dict.fromkeys(words, str)
    frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=["", "nan"], encoding="utf-8")
    return frame.fillna(dict.fromkeys(words, ""))


def table(head: str, rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown under this line of heads."""
    lines = [head, "|---" * (head.count("|") - 1) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines)


def hours(rows: pd.DataFrame) -> float:
    """Core hours of runs."""
    return rows["seconds"].sum() / 3600


def show(rows: Iterable[Mapping]) -> str:
    """A table in Markdown; floats with three decimals."""
    rows = list(rows)
    if not rows:
        return "(none)"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_cell, r.values())) for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)
