"""Files that somebody may have changed: their text or JSON, or one line that says what is wrong with them."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn


class JSONError(ValueError):
    """A text is not the JSON that it should be."""


def read_text(path: str | Path, what: str) -> str:
    """Text of a file in UTF-8; a byte-order mark is left out.

    Parameters
    ----------
    path : str or Path
    what : str
        What the file must be, for the messages: "a table", "the record of a run".

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is a folder, not UTF-8, or has a NUL byte.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it must be {what}") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ValueError(f"{path} must be {what}, a file; there is a folder, or a file for a folder") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be {what}, in UTF-8; byte {error.start} is not. Restore the file") from error
    if "\0" in text:
        raise ValueError(f"{path} must be {what}; it has a NUL byte at {text.index(chr(0))}. Restore the file")
    return text


def parse_json(text: str, source: object, line: int | None = None, finite: bool = True) -> Any:
    """What a JSON text says.

    Stricter than `json.loads`: no key twice, no number of more digits than Python reads, no deeper nesting than it
    follows, and neither NaN nor an infinity if the numbers must be `finite`.

    Parameters
    ----------
    text : str
    source : object
        Its file, for the messages.
    line : int, optional
        Where in the file it stands, if it is one of many lines.
    finite : bool

    Raises
    ------
    JSONError
    """
    hooks: dict[str, Any] = {"parse_constant": _no_constant, "parse_float": _finite} if finite else {}
    place = f"{source}, line {line}," if line else f"{source}"
    try:
        return json.loads(text, object_pairs_hook=_no_key_twice, **hooks)
    except json.JSONDecodeError as error:
        where = f"{source} is not JSON at line {line or error.lineno}, column {error.colno}"
        raise JSONError(f"{where}: {error.msg}") from error
    except RecursionError:
        raise JSONError(f"{place} is nested too deeply to be of this project") from None
    except ValueError as error:
        reason = "has a number of too many digits" if "digits" in str(error) else str(error)
        raise JSONError(f"{place} {reason}") from error


def read_json(path: str | Path, what: str, kind: type = dict) -> Any:
    """What a JSON file holds, which must be of this kind (an object: dict).

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_text` and `parse_json`, and if it is of another kind.
    """
    found = parse_json(read_text(path, what), path)
    if not isinstance(found, kind):
        raise JSONError(f"{path} must be {what}, a JSON {NAMES[kind]}; it is a {type(found).__name__}")
    return found


NAMES = {dict: "object", list: "list"}


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"has the number {word}; all must be finite")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"has the number {text}; all must be finite")
    return number


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"has the key {next(k for k in keys if keys.count(k) > 1)!r} twice in one object")
    return found
