"""Benchmark items: the rows of a task from local files or from the hub, and the questions with options in them.

Whatever the source, rows have the columns of the data sets on the Hugging Face hub, which lm-evaluation-harness reads
as well (`llm.evaluation.columns`); `llm.evaluation.published` has the files that a local folder is searched for. Files
of the first kind found are read; of several, the largest.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.sources import tell_hub
from common.streams import stream
from llm.evaluation.columns import Row, typed
from llm.evaluation.published import Reader, file_names, sources

# Data set, configuration and split on the hub.
HUB = {
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", "test"),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", "test"),
    "hellaswag": ("Rowan/hellaswag", None, "validation"),
    "mmlu": ("cais/mmlu", "all", "test"),
    "truthfulqa": ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
}


@dataclass(frozen=True)
class Item:
    """A question with options, of which `options[gold]` is right; `subject` groups the questions of MMLU."""

    id: str
    question: str
    options: tuple[str, ...]
    gold: int
    subject: str = ""


def items(task: str, data: str | Path | None = None) -> list[Item]:
    """The test items of a task, with unique ids, in the order of their source.

    Parameters
    ----------
    task : str
        A key of `HUB`.
    data : path, optional
        Local folder; None: the hub.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        As `rows`, or if an item lacks an option or its answer.
    """
    found = [_ITEMS[task](number, row) for number, row in enumerate(rows(task, data))]
    if len({item.id for item in found}) < len(found):
        raise ValueError(f"items must have ids of their own; {task} repeats one; remove repeated rows")
    for item in found:
        if len(item.options) < 2 or not 0 <= item.gold < len(item.options):
            raise ValueError(
                f"an item must have two options or more, one of them right; {task} item {item.id} has "
                f"{len(item.options)}, the right one at {item.gold}"
            )
    return found


def shuffled(found: Sequence[Item], seed: int) -> list[Item]:
    """The same items with their options in an order of their own, drawn by seed and place."""
    mixed = []
    for number, item in enumerate(found):
        order = stream(seed, "options", number).permutation(len(item.options))
        options = tuple(item.options[i] for i in order)
        mixed.append(replace(item, options=options, gold=order.tolist().index(item.gold)))
    return mixed


def limited(found: Sequence[Item], limit: int | None) -> list[Item]:
    """The first `limit` items; of MMLU, the first of every subject, as lm-evaluation-harness does it."""
    taken: Counter[str] = Counter()
    first = []
    for item in found:
        if limit is None or taken[item.subject] < limit:
            first.append(item)
        taken[item.subject] += 1
    return first


def rows(task: str, data: str | Path | None = None) -> list[Row]:
    """Rows with the columns of the hub's data set, from a local folder (None: from the hub).

    Raises
    ------
    FileNotFoundError
        If the folder holds no file of this task.
    ConnectionError
        If the hub does not give the data set.
    ValueError
        If a file cannot be read, or a row lacks a column or has a value of another type.
    """
    if data is None:
        return typed(task, _from_hub(task))
    path, read = _found(task, Path(data).expanduser())
    name = task.removesuffix("_train")
    try:
        if not (found := read(path)):
            raise ValueError("it has no rows")
        return typed(name, found)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} must hold {name} as published; it does not ({reason})") from error


def local_file(task: str, data: str | Path) -> str:
    """Which file in a local folder a task of any protocol is read from; errors as of `rows`."""
    folder = Path(data).expanduser()
    path, _ = _found(source(task), folder)
    return (path.parent if path.suffix == ".csv" and task == "mmlu" else path).relative_to(folder).as_posix()


def _found(task: str, folder: Path) -> tuple[Path, Reader]:
    """The file of a task, and how it is read."""
    if not folder.is_dir():
        raise FileNotFoundError(f"the data must be a folder; there is none at {folder}")
    for pattern, read in sources(task):
        if paths := sorted(path for path in folder.rglob(pattern) if path.is_file()):
            return max(paths, key=lambda path: path.stat().st_size), read  # a whole set beside excerpts of it
    raise FileNotFoundError(
        f"no data of {task} in {folder}, which must hold {file_names(task)}, in any folder below it"
    )


def fingerprint(task: str, data: str | Path) -> str:
    """Which rows a local folder has for a task of any protocol; errors as of `rows`."""
    found = rows(source(task), data)
    if task == "hellaswag":
        with suppress(FileNotFoundError):
            found += rows("hellaswag_train", data)
    return "local " + hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


def source(task: str) -> str:
    """The data of a task: both scores of the harness for TruthfulQA read the same."""
    return "truthfulqa" if task.startswith("truthfulqa") else task


def _from_hub(task: str) -> list[Row]:
    from datasets import load_dataset

    name, configuration, split = HUB[task]
    tell_hub(name)
    try:
        found: Any = load_dataset(name, configuration, split=split)
        return found.to_list()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"the hub does not give {name} ({reason}); without a network put its files into a folder and give that "
            f"with --data; {task} is read from {file_names(task)}"
        ) from error


def _arc_item(number: int, row: Row) -> Item:
    labels = row["choices"]["label"]
    gold = labels.index(row["answerKey"]) if row["answerKey"] in labels else -1
    return Item(row["id"], row["question"], tuple(row["choices"]["text"]), gold)


def _mmlu_item(number: int, row: Row) -> Item:
    return Item(f"{row['subject']}/{number}", row["question"], tuple(row["choices"]), row["answer"], row["subject"])


def _truthfulqa_item(number: int, row: Row) -> Item:
    targets = row["mc1_targets"]
    gold = targets["labels"].index(1) if 1 in targets["labels"] else -1
    return Item(str(number), row["question"], tuple(targets["choices"]), gold)


def _hellaswag_item(number: int, row: Row) -> Item:
    return Item(str(number), row["ctx"], tuple(row["endings"]), row["label"])


_ITEMS: dict[str, Callable[[int, Row], Item]] = {
    "arc_easy": _arc_item,
    "arc_challenge": _arc_item,
    "hellaswag": _hellaswag_item,
    "mmlu": _mmlu_item,
    "truthfulqa": _truthfulqa_item,
}
