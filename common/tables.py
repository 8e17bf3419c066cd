"""CSV files that grow one row at a time, survive a kill at any moment, and are never written over by mistake."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.records import append_whole, write_atomic


class TableError(ValueError):
    """A file is not the table it should be."""


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a table that must have exactly these columns; an absent file has no rows.

    Raises
    ------
    TableError
        If the header differs, a row is incomplete, or the last line has no end: the file is foreign or truncated.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        text = file.read()
    lines = list(csv.reader(io.StringIO(text)))
    if not lines or lines[0] != list(columns):
        raise TableError(
            f"{path} is not a table of this command: its header must be {','.join(columns)}; "
            f"got {','.join(lines[0]) if lines else 'an empty file'}. Move it away, or name another folder"
        )
    broken = next((i for i, line in enumerate(lines, 1) if len(line) != len(columns)), None)
    if broken is not None or not text.endswith("\n"):
        raise TableError(
            f"{path} is truncated: line {broken or len(lines)} must have {len(columns)} cells and an end. "
            "Delete that line to go on from the rows before it, or start anew with --fresh"
        )
    return [dict(zip(columns, line, strict=True)) for line in lines[1:]]


def line(row: Mapping, columns: Sequence[str]) -> str:
    """One line of the table; floats are written so that they read back to the same bits."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([_cell(row[c]) for c in columns])
    return out.getvalue()


def append(path: Path, row: Mapping, columns: Sequence[str]) -> None:
    """Add a row by one system call (`append_whole`)."""
    if not path.exists():
        write_atomic(path, ",".join(columns) + "\n")
    append_whole(path, line(row, columns).encode())


def write(path: Path, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    """Write a whole table at once, atomically."""
    write_atomic(path, ",".join(columns) + "\n" + "".join(line(row, columns) for row in rows))


def _cell(value) -> str:
    return repr(float(value)) if isinstance(value, float) else "" if value is None else str(value)
