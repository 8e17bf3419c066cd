"""Rows of instruction data, from a local file or the Hugging Face hub."""

import os
from pathlib import Path
from typing import Any

from common.sources import tell_hub, why_local
from common.texts import JSONError, parse_json, read_text

COLUMNS = ("instruction", "input", "output")
FORMATS = (".json", ".jsonl", ".parquet")

Row = dict[str, str]


def read(source: str | os.PathLike, split: str = "train") -> list[Row]:
    """Rows of a local file, or of a data set on the Hugging Face hub.

    Parameters
    ----------
    source : path or str
        A .json file (one list of rows), .jsonl (a row per line) or .parquet; or a hub id such as tatsu-lab/alpaca.
    split : str
        Which part of a data set on the hub.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConnectionError
        If the data set cannot be had from the hub.
    ValueError
        If the file cannot be read, has no rows, or lacks a column; a missing `input` is an empty one.
    """
    path, name = Path(source).expanduser(), os.fspath(source)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a {', '.join(FORMATS)} file in it")
    found = read_file(path) if why_local(source) else _read_hub(name, split)
    if not found:
        raise ValueError(f"{source} must have at least one row; it is empty")
    return [_row(row, number, source) for number, row in enumerate(found, 1)]


def read_file(path: Path) -> list[Any]:
    """What a local .json, .jsonl or .parquet file holds, row by row; errors as of `read`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no data file at {path}; give the path of a {', '.join(FORMATS)} file, or a hub id (tatsu-lab/alpaca)"
        )
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix not in FORMATS:
        raise ValueError(f"a data file must end in {', '.join(FORMATS)}; got {path}")
    text = read_text(path, "a data file")
    if suffix == ".jsonl":
        lines = text.split("\n")  # not splitlines: JSON strings may hold other line ends, such as U+2028
        return [parse_json(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    try:
        found = parse_json(text, path)
    except JSONError as error:
        hint = "; a file with a row per line must end in .jsonl" if "Extra data" in str(error) else ""
        raise JSONError(f"{error}{hint}") from error
    if not isinstance(found, list):
        raise ValueError(f"{path} must hold one list of rows; got {type(found).__name__}")
    return found


def _read_parquet(path: Path) -> list[Any]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
            found = file.read().to_pylist()
            # The numbers of rows have no checksum; each stands in several places. A list has more values than rows.
            flat = [n for n, column in enumerate(file.schema) if column.max_repetition_level == 0]
            values = [group.column(n).num_values - group.num_rows for group in groups for n in flat]
        if any(values) or not len(found) == file.metadata.num_rows == sum(group.num_rows for group in groups):
            raise ValueError("its numbers of rows contradict each other")
        return found
    except (ArrowException, OSError, ValueError, OverflowError) as error:  # seen for flipped bits
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is damaged or not a Parquet file: {reason}") from error


def _read_hub(name: str, split: str) -> list[Any]:
    from datasets import load_dataset

    tell_hub(name)
    try:
        found: Any = load_dataset(name, split=split)
        return found.to_list()
    except ValueError as error:
        raise ValueError(f"the hub's data set {name} must have a split {split!r}: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"the hub's data set {name} brings code of its own, which is never run here: {error}"
        ) from error
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"there is no local file {name}, and the hub does not give a data set of this name ({reason}); without a "
            "network download it elsewhere and give the path of its .json, .jsonl or .parquet file"
        ) from error


def _row(row: Any, number: int, source: object) -> Row:
    if not isinstance(row, dict) or not {"instruction", "output"} <= row.keys():
        found = ", ".join(map(str, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(
            f"every row must have the columns instruction and output (and input, if any); row {number} of {source} has "
            f"{found or 'none'}; rename its columns"
        )
    values: Row = {}
    for column in COLUMNS:
        value = row.get(column)
        if value is None and column == "input":
            value = ""
        if not isinstance(value, str):
            raise ValueError(f"{column} must be a string; row {number} of {source} has {value!r}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{column} must be text; row {number} of {source} has half a character ({error})"
            ) from error
        values[column] = value
    return values
