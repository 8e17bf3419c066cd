"""Records of long work: JSON lines that survive a kill at any moment, and the configuration that they belong to."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.records import append_whole, provenance, write_atomic


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a file; an absent file has none, and the part of a row that a kill may have left is cut off.

    Raises
    ------
    ValueError
        If a whole line is not JSON: the file is foreign or damaged.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    rows = []
    for number, line in enumerate(data[:end].splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path} must hold a JSON record per line; line {number} is none ({error}). Move the file away, or "
                "start anew with --fresh"
            ) from error
    return rows


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows by one system call; `read` cuts off the part of a row that a kill may leave."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    append_whole(path, data)


def replace(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of these rows whole."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def known(path: Path, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a run that lies there, of whatever configuration; None if there is no file.

    Raises
    ------
    ValueError
        If the file is no record of a configuration with these keys: it is another command's, or somebody's own.
    """
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        keys, _, _ = record["configuration"].keys(), record["history"], record["results"]
    except (ValueError, KeyError, TypeError, AttributeError):
        keys = None
    if keys != configuration.keys():
        raise ValueError(f"{path} is not a record of this command; move it away, or give the result another name")
    return record


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
    write_atomic(path, json.dumps(record, indent=1) + "\n")
