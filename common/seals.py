#!/usr/bin/env python
"""Accept changed files: write their checksums anew.

A finished table has its checksum beside it, in NAME.csv.sha256 as of the program sha256sum; a record has its own
inside. A change of either is refused until the file is restored, or accepted by this command.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.arguments import Parser, file, run
from common.records import write_atomic
from common.texts import read_json

KEY = "checksum"


class Changed(ValueError):
    """A file is not as it was written."""


def beside(path: Path) -> Path:
    """Where the checksum of a finished file is."""
    return path.with_name(f"{path.name}.sha256")


def seal(path: Path) -> None:
    """Write the checksum of a finished file beside it."""
    write_atomic(beside(path), f"{digest(path)}  {path.name}\n")


def unseal(path: Path) -> None:
    """Remove the checksum of a file that will change."""
    beside(path).unlink(missing_ok=True)


def check(path: Path) -> None:
    """Compare a file with the checksum beside it, if there is one.

    Raises
    ------
    Changed
    """
    note = beside(path)
    if note.exists() and note.read_bytes().split()[:1] != [digest(path).encode()]:
        raise Changed(f"{path} is not as it was finished ({note.name}); {_mend(path)}")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sealed(record: Mapping[str, Any]) -> str:
    """Text of a record with its checksum inside.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != KEY}))
    return json.dumps(plain | {KEY: _of(plain)}, indent=1) + "\n"


def unsealed(path: Path, what: str) -> dict[str, Any]:
    """A record, without its checksum.

    Raises
    ------
    FileNotFoundError, ValueError
        As `common.texts.read_json`.
    Changed
        If its checksum is another's, or missing.
    """
    record = read_json(path, what)
    found = record.pop(KEY, None)
    if found != _of(record):
        state = "has no checksum" if found is None else "is not as it was written"
        raise Changed(f"{path} must be {what}, and {state}; {_mend(path)}")
    return record


def _of(record: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(record, allow_nan=False).encode()).hexdigest()
    except ValueError as error:
        raise ValueError("a record takes finite numbers alone, and one of its numbers is none") from error


def _mend(path: Path) -> str:
    return f"restore it, start anew with --fresh, or accept it by `python -m common.seals {path}`"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="seals.py", description=__doc__)
    parser.add_argument("files", nargs="+", type=file, metavar="FILE", help="tables (.csv) and records (.json)")
    files = parser.parse_args(argv).files

    def work() -> None:
        for path in files:
            if path.suffix == ".json":
                write_atomic(path, sealed(read_json(path, "a record")))
            else:
                seal(path)
            print(path)

    return run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
