"""Records of long work: JSON lines that survive a kill at any moment, and the configuration that they belong to."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common import seals
from common.records import append_whole, provenance, write_atomic
from common.texts import JSONError, parse_json, read_json, read_text


def read(path: Path, keys: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Rows of a file; an absent file has none, and the part of a row that a kill may have left is cut off.

    Parameters
    ----------
    path : Path
    keys : iterable of str
        What every row must have.

    Raises
    ------
    ValueError
        If a whole line is not a JSON object with these keys: the file is foreign or damaged.
    """
    if not path.exists():
        return []
    text = read_text(path, "JSON lines")
    whole, end, part = text.rpartition("\n")
    if part and not part.startswith("{"):
        raise ValueError(f"{path} must hold a JSON record per line; its last line is none. Move the file away")
    if part:
        os.truncate(path, path.stat().st_size - len(part.encode()))
    rows = []
    for number, line in enumerate(whole.split("\n") if end else (), 1):
        try:
            row = parse_json(line, path, number)
            if not isinstance(row, dict) or (missing := [key for key in keys if key not in row]):
                raise ValueError("no object" if not isinstance(row, dict) else f"no {missing[0]}")
        except ValueError as error:
            raise ValueError(
                f"{path} must hold a JSON record per line; line {number} is none ({error}). Move the file away, or "
                "start anew with --fresh"
            ) from error
        rows.append(row)
    return rows


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows by one system call; `read` cuts off the part of a row that a kill may leave."""
    data = _lines(path, rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    append_whole(path, data)


def replace(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of these rows whole."""
    write_atomic(path, _lines(path, rows))


def known(path: Path, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a run that lies there, of whatever configuration; None if there is no file.

    Raises
    ------
    ValueError
        If the file is no record of a configuration with these keys: it is another command's, or somebody's own; or
        if it is not as it was written.
    """
    if not path.exists():
        return None
    try:
        record = read_json(path, "the record of a run")
        kinds = {"configuration": dict, "history": list, "results": dict}
        ours = all(isinstance(record.get(key), kind) for key, kind in kinds.items())
    except JSONError:
        ours = False
    if not ours or record["configuration"].keys() != configuration.keys():
        raise ValueError(f"{path} is not a record of this command; move it away, or give the result another name")
    return seals.unsealed(path, "the record of a run")


def claim(path: Path, configuration: Mapping[str, Any], fresh: bool = False) -> dict[str, Any]:
    """The record of a run: its configuration, where its numbers come from, and whatever results were saved in it.

    Parameters
    ----------
    path : Path
        A JSON file; made if absent.
    configuration : mapping
        What the numbers depend on.
    fresh : bool
        Replace a record that is there.

    Returns
    -------
    dict with configuration, history (provenance of every start) and results, to be changed and saved by `save`.

    Raises
    ------
    ValueError
        If the file is of another configuration, or no such file.
    """
    now = json.loads(json.dumps(configuration))
    record = known(path, now)
    if record is None or fresh:
        record = {"configuration": now, "history": [], "results": {}}
    elif (before := record["configuration"]) != now:
        keys = sorted(key for key in now if before[key] != now[key])
        differences = ", ".join(f"{key} {before[key]!r} (now {now[key]!r})" for key in keys)
        raise ValueError(f"{path} is of a run with {differences}; use --fresh to replace it, or --out to keep both")
    record["history"].append(provenance())
    save(path, record)
    return record


def save(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole."""
    write_atomic(path, seals.sealed(record))


def _lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    try:
        return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    except ValueError as error:
        raise ValueError(
            f"{path} takes finite numbers alone, and one of a row is none: does the model overflow?"
        ) from error
