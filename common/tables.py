"""CSV files that grow one row at a time, survive a kill at any moment, and are never written over by mistake.

A finished table has its checksum beside it (`common.seals`); cells are checked against what their column may hold.
"""

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import seals
from common.records import append_whole, write_atomic
from common.texts import read_text

KINDS = {  # what a cell is, for messages, and how it is written
    "text": ("a text", re.compile(r"[\s\S]*")),
    "integer": ("an integer", re.compile(r"-?[0-9]{1,18}")),
    "number": ("a finite number", re.compile(r"-?[0-9]++(?:\.[0-9]++)?(?:e[+-]?[0-9]{1,3})?")),
    "counts": ("counts joined by -", re.compile(r"[0-9]{1,9}(-[0-9]{1,9})*")),
}


class TableError(ValueError):
    """A file is not the table it should be."""


@dataclass(frozen=True)
class Column:
    """What the cells of a column may be.

    Attributes
    ----------
    kind : {'text', 'integer', 'number', 'counts'}
        Numbers are finite; counts are integers of 0 or more, joined by -.
    low, high : float
        Least and greatest number.
    words : collection of str, optional
        The only texts.
    also : tuple of str
        Other cells: "" where there is nothing, "nan" where there is no number.
    """

    kind: str = "text"
    low: float = -math.inf
    high: float = math.inf
    words: Collection[str] | None = None
    also: tuple[str, ...] = ()

    def wrong(self, cells: Collection[str]) -> set[str]:
        """Those of the cells that may not be of this column."""
        written = KINDS[self.kind][1].fullmatch
        if self.kind in ("text", "counts"):
            bad = {c for c in cells if not written(c) or (self.words is not None and c not in self.words)}
        else:
            low, high = max(self.low, -sys.float_info.max), min(self.high, sys.float_info.max)
            bad = {c for c in cells if not (written(c) and low <= float(c) <= high)}
        return bad.difference(self.also)

    def __str__(self) -> str:
        """What a cell must be, for messages."""
        what = KINDS[self.kind][0]
        what = what if self.words is None else f"one of {', '.join(map(repr, sorted(self.words)))}"
        what += "" if self.low == -math.inf else f" of at least {self.low:g}"
        what += "" if self.high == math.inf else f" and at most {self.high:g}"
        return " or ".join([what, *(repr(cell) for cell in self.also)])


def read(
    path: Path,
    columns: Collection[str] | Mapping[str, Column],
    unique: Sequence[str] = (),
    wrong: Callable[[dict[str, str]], str | None] | None = None,
) -> list[dict[str, str]]:
    """Rows of a table that must have exactly these columns; an absent file has no rows.

    Parameters
    ----------
    path : Path
    columns : collection of str, or mapping to Column
        Names in their order; with what their cells may be.
    unique : sequence of str
        Columns that no two rows have alike.
    wrong : callable, optional
        What is wrong with a row, in words, or None.

    Raises
    ------
    TableError
        If the header differs, a row is incomplete, the last line has no end, or a cell or a row is not one of this
        table: the file is foreign, truncated or damaged.
    Changed, ValueError
        If a finished table is not as it was written, or the file is no text.
    """
    if not path.exists():
        return []
    text = read_text(path, "a table")
    seals.check(path)
    if "\r" in text:
        raise TableError(f"{path} must have lines that end in a line feed alone; it has a carriage return. Restore it")
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise TableError(f"{path} is damaged ({error}). Restore it, or start anew with --fresh") from error
    if not lines or lines[0] != list(columns):
        raise TableError(
            f"{path} is not a table of this command: its header must be {','.join(columns)}; "
            f"got {','.join(lines[0])[:500] if lines else 'an empty file'}. Move it away, or name another folder"
        )
    broken = next((i for i, line in enumerate(lines, 1) if len(line) != len(columns)), None)
    if broken is not None or not text.endswith("\n"):
        raise TableError(
            f"{path} is truncated: line {broken or len(lines)} must have {len(columns)} cells and an end. "
            "Delete that line to go on from the rows before it, or start anew with --fresh"
        )
    rows = [dict(zip(columns, line, strict=True)) for line in lines[1:]]
    _check(path, rows, columns if isinstance(columns, Mapping) else {}, unique, wrong)
    return rows


def line(row: Mapping, columns: Iterable[str]) -> str:
    """One line of the table; floats are written so that they read back to the same bits."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(row[c]) for c in columns])
    return out.getvalue()


def append(path: Path, row: Mapping, columns: Iterable[str]) -> None:
    """Add a row by one system call (`append_whole`); the table is no longer a finished one."""
    seals.unseal(path)
    if not path.exists():
        write_atomic(path, ",".join(columns) + "\n")
    append_whole(path, line(row, columns).encode())


def write(path: Path, rows: Iterable[Mapping], columns: Iterable[str]) -> None:
    """Write a whole table at once, atomically."""
    seals.unseal(path)
    write_atomic(path, ",".join(columns) + "\n" + "".join(line(row, columns) for row in rows))


def finish(path: Path, rows: Iterable[Mapping], columns: Iterable[str]) -> None:
    """Write a whole table that will not grow, with its checksum beside it."""
    write(path, rows, columns)
    seals.seal(path)


def remove(path: Path) -> None:
    """Remove a table, if it is there, and its checksum."""
    path.unlink(missing_ok=True)
    seals.unseal(path)


def _check(
    path: Path,
    rows: list[dict[str, str]],
    columns: Mapping[str, Column],
    unique: Sequence[str],
    wrong: Callable[[dict[str, str]], str | None] | None,
) -> None:
    seen: dict[tuple[str, ...], int] = {}
    # Sets, so that a cell of many rows is checked once; column by column, as tables have many rows.
    bad = {c: cells for c, column in columns.items() if (cells := column.wrong({row[c] for row in rows}))}
    for number, row in enumerate(rows, 2):
        reason = next((f"{c} must be {columns[c]}; got {row[c][:80]!r}" for c in bad if row[c] in bad[c]), None)
        reason = reason or (wrong(row) if wrong else None)
        if not reason and unique:
            same = seen.setdefault(tuple(row[c] for c in unique), number)
            reason = f"it is of the same {', '.join(unique)} as line {same}" if same != number else None
        if reason:
            raise TableError(f"{path} has a wrong line {number}: {reason}. Restore it, or start anew with --fresh")


def _cell(value) -> str:
    return repr(float(value)) if isinstance(value, float) else "" if value is None else str(value)
