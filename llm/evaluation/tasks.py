"""Benchmark items: ARC, HellaSwag, MMLU and TruthfulQA, from files as their authors publish them or from the hub.

Whatever the source, rows have the columns of the data sets on the Hugging Face hub, which lm-evaluation-harness reads
as well; `items` makes questions with options of them. A local folder is searched, with all folders in it, for

    arc_easy, arc_challenge   ARC-Easy-Test.jsonl, ARC-Challenge-Test.jsonl
    hellaswag                 hellaswag_val*.jsonl; examples in the prompt from hellaswag_train.jsonl, if there is one
    mmlu                      SUBJECT_test.csv in a folder called test, or mmlu.zip with such files
    truthfulqa                mc_task.json, or TruthfulQA.csv
    any task                  TASK.jsonl with the columns of the hub (the only form of SuperGLUE and nq_open)

Of several files that fit, the largest is read.
"""

import csv
import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.streams import stream
from llm.data.rows import read_file

Row = dict[str, Any]
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
    found = []
    for number, row in enumerate(rows(task, data)):
        try:
            found.append(_ITEMS[task](number, row))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"row {number + 1} of {task} must have the columns of {HUB[task][0]} on the hub; "
                f"it does not ({type(error).__name__}: {error})"
            ) from error
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
        If a file cannot be read.
    """
    if data is None:
        return _from_hub(task)
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"the data must be a folder; there is none at {folder}")
    for pattern, read in _sources(task):
        if paths := sorted(path for path in folder.rglob(pattern) if path.is_file()):
            path = max(paths, key=lambda path: path.stat().st_size)  # a whole set beside excerpts of it
            try:
                return _checked(read(path), path)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"{path} must hold {task} as published; it does not ({type(error).__name__}: {error})"
                ) from error
    raise FileNotFoundError(
        f"no data of {task} in {folder}, which must hold {file_names(task)}, in any folder below it"
    )


def _checked(found: list[Row], path: Path) -> list[Row]:
    if not found:
        raise ValueError("it has no rows")
    if wrong := next((number for number, row in enumerate(found, 1) if not isinstance(row, dict)), None):
        raise ValueError(f"row {wrong} is no object")
    return found


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


def file_names(task: str) -> str:
    """The files that a task may be read from, for people."""
    return " or ".join(pattern for pattern, _ in reversed(_sources(task)))


def _from_hub(task: str) -> list[Row]:
    from datasets import load_dataset

    name, configuration, split = HUB[task]
    try:
        found: Any = load_dataset(name, configuration, split=split)
        return found.to_list()
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"the hub does not give {name} ({reason}); without a network put its files into a folder and give that "
            f"with --data; {task} is read from {file_names(task)}"
        ) from error


def _arc_rows(path: Path) -> list[Row]:
    return [
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": {name: [choice[name] for choice in row["question"]["choices"]] for name in ("text", "label")},
            "answerKey": row["answerKey"],
        }
        for row in read_file(path)
    ]


def _mmlu_zip(path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).match(_MMLU))
            return _mmlu_rows({Path(name).name: archive.read(name) for name in names})
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is damaged or not a zip archive: {error}") from error


def _mmlu_folder(path: Path) -> list[Row]:
    return _mmlu_rows({file.name: file.read_bytes() for file in sorted(path.parent.glob(Path(_MMLU).name))})


def _mmlu_rows(files: dict[str, bytes]) -> list[Row]:
    """Rows of SUBJECT_test.csv files without a header: question, four options, letter."""
    return [
        {
            "question": question,
            "subject": name.rpartition("_")[0],
            "choices": options,
            "answer": {"A": 0, "B": 1, "C": 2, "D": 3}[letter],
        }
        for name, text in files.items()
        for question, *options, letter in csv.reader(io.StringIO(text.decode("utf-8"), newline=""))
    ]


def _truthfulqa_json(path: Path) -> list[Row]:
    found = read_file(path)
    return [_truthfulqa_row(row["question"], row["mc1_targets"], row["mc2_targets"]) for row in found]


def _truthfulqa_csv(path: Path) -> list[Row]:
    """Multiple choice from the authors' table: all wrong answers, with the best one (mc1) or all right ones (mc2)."""

    def answers(cell: str, label: int) -> dict[str, int]:
        texts = (text.strip() for text in cell.split(";"))
        return {text if text.endswith(".") else text + ".": label for text in texts if text}

    found = []
    for row in csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")):
        best, right = answers(row["Best Answer"], 1), answers(row["Correct Answers"], 1)
        wrong = answers(row["Incorrect Answers"], 0)
        found.append(_truthfulqa_row(row["Question"].strip(), best | wrong, right | wrong))
    return found


def _truthfulqa_row(question: str, mc1: dict[str, int], mc2: dict[str, int]) -> Row:
    targets = {"mc1_targets": mc1, "mc2_targets": mc2}
    columns = {name: {"choices": list(some), "labels": list(some.values())} for name, some in targets.items()}
    return {"question": question, **columns}


def _sources(task: str) -> list[tuple[str, Callable[[Path], list[Row]]]]:
    """Patterns of file names, first choice first, and how each is read."""
    return [(f"{task}.jsonl", read_file), *_AS_PUBLISHED.get(task, [])]


_MMLU = "test/*_test.csv"
_AS_PUBLISHED: dict[str, list[tuple[str, Callable[[Path], list[Row]]]]] = {
    "arc_easy": [("ARC-Easy-Test.jsonl", _arc_rows)],
    "arc_challenge": [("ARC-Challenge-Test.jsonl", _arc_rows)],
    "hellaswag": [("hellaswag_val*.jsonl", read_file)],
    "mmlu": [(_MMLU, _mmlu_folder), ("*mmlu*.zip", _mmlu_zip)],
    "truthfulqa": [("mc_task.json", _truthfulqa_json), ("TruthfulQA.csv", _truthfulqa_csv)],
}


def _arc_item(number: int, row: Row) -> Item:
    labels = row["choices"]["label"]
    gold = labels.index(row["answerKey"]) if row["answerKey"] in labels else -1
    return Item(row["id"], row["question"], tuple(row["choices"]["text"]), gold)


def _mmlu_item(number: int, row: Row) -> Item:
    if not isinstance(row["answer"], int):
        raise TypeError(f"answer must be the number of the right choice, from 0; got {row['answer']!r}")
    return Item(f"{row['subject']}/{number}", row["question"], tuple(row["choices"]), row["answer"], row["subject"])


def _truthfulqa_item(number: int, row: Row) -> Item:
    targets = row["mc1_targets"]
    return Item(str(number), row["question"], tuple(targets["choices"]), list(targets["labels"]).index(1))


def _hellaswag_item(number: int, row: Row) -> Item:
    return Item(str(number), row["ctx"], tuple(row["endings"]), int(row["label"]))


_ITEMS: dict[str, Callable[[int, Row], Item]] = {
    "arc_easy": _arc_item,
    "arc_challenge": _arc_item,
    "hellaswag": _hellaswag_item,
    "mmlu": _mmlu_item,
    "truthfulqa": _truthfulqa_item,
}
