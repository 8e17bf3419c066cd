"""Columns that tasks are read from, as the data sets on the Hugging Face hub have them, and their types.

Types are declared here and never inferred: text that looks like a date or a number stays text, and a value of another
type is refused.
"""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
# Kinds: str (text), int (a whole number), a range (one of its numbers), [kind] (a list of it), {name: kind} (columns).
_CHOICES = {"choices": [str], "labels": [range(2)]}
_ARC = {"id": str, "question": str, "choices": {"text": [str], "label": [str]}, "answerKey": str}
COLUMNS: dict[str, dict[str, Any]] = {
    "arc_easy": _ARC,
    "arc_challenge": _ARC,
    "hellaswag": {"ctx": str, "endings": [str], "label": int},
    "mmlu": {"question": str, "subject": str, "choices": [str], "answer": range(4)},
    "truthfulqa": {"question": str, "mc1_targets": _CHOICES, "mc2_targets": _CHOICES},
    "boolq": {"passage": str, "question": str, "label": range(2)},
    "cb": {"premise": str, "hypothesis": str, "label": range(3)},
    "copa": {"premise": str, "choice1": str, "choice2": str, "question": str, "label": range(2)},
    "multirc": {"paragraph": str, "question": str, "answer": str, "label": range(2)},
    "record": {"passage": str, "query": str, "entities": [str], "answers": [str]},
    "rte": {"premise": str, "hypothesis": str, "label": range(2)},
    "wic": {"word": str, "sentence1": str, "sentence2": str, "start1": int, "end1": int, "label": range(2)},
    "wsc": {"text": str, "span1_text": str, "span2_text": str, "span2_index": int, "label": range(2)},
    "nq_open": {"question": str, "answer": [str]},
}
# What the harness puts before a context of HellaSwag; an excerpt may lack it.
OPTIONAL: dict[str, dict[str, Any]] = {"hellaswag": {"activity_label": str, "ctx_a": str, "ctx_b": str}}


def typed(task: str, rows: Iterable[Any]) -> list[Row]:
    """The columns of a task, and no others, of rows.

    Raises
    ------
    ValueError
        If a row lacks one, or has a value of another type.
    """
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is no object")
        own = COLUMNS[task] | {name: kind for name, kind in OPTIONAL.get(task, {}).items() if name in row}
        try:
            found.append(_typed(row, own))
        except ValueError as error:
            raise ValueError(f"row {number} must have the columns of the hub's data: {error}") from error
    return found


def _typed(row: dict, columns: dict[str, Any]) -> Row:
    for name, kind in columns.items():
        if not _is(row.get(name), kind):
            value = repr(row.get(name))
            shown = value if len(value) <= 60 else value[:57] + "..."
            hint = " (a test split without answers?)" if name in ("label", "answers", "answer") else ""
            raise ValueError(f"{name} must be {_words(kind)}; got {shown}{hint}")
    return {name: _kept(row[name], kind) for name, kind in columns.items()}


def _is(value: Any, kind: Any) -> bool:
    if kind is str:
        return isinstance(value, str) and _is_text(value)
    if kind is int or isinstance(kind, range):
        limits = kind if isinstance(kind, range) else range(-(2**31), 2**31)
        return isinstance(value, int) and not isinstance(value, bool) and value in limits
    if isinstance(kind, list):
        return isinstance(value, list) and len(value) > 0 and all(_is(one, kind[0]) for one in value)
    return isinstance(value, dict) and all(_is(value.get(name), one) for name, one in kind.items())


def _kept(value: Any, kind: Any) -> Any:
    return {name: value[name] for name in kind} if isinstance(kind, dict) else value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


def _words(kind: Any) -> str:
    if kind is str:
        return "text"
    if kind is int:
        return "a whole number"
    if isinstance(kind, range):
        return f"one of 0 to {kind[-1]}"
    if isinstance(kind, list):
        return f"a list of {_words(kind[0])}, not empty"
    return " and ".join(f"{name} ({_words(one)})" for name, one in kind.items())
