"""Benchmarks as their authors publish them, read into the columns of `llm.evaluation.columns`.

A folder is searched, with all folders in it, for these files, the first kind first:

    any task                  TASK.jsonl with the columns of the hub
    arc_easy, arc_challenge   ARC-Easy-Test.jsonl, ARC-Challenge-Test.jsonl
    hellaswag                 hellaswag_val*.jsonl; examples in the prompt from hellaswag_train.jsonl, if there is one
    mmlu                      SUBJECT_test.csv in a folder called test, or mmlu.zip with such files
    truthfulqa                mc_task.json, or TruthfulQA.csv
    SuperGLUE                 BoolQ, CB, COPA, MultiRC, ReCoRD, RTE, WiC and WSC: val.jsonl in a folder of this name, or
                              train.jsonl (test.jsonl has no answers)
    nq_open                   NQ-open.dev.jsonl
"""

import csv
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.texts import read_text
from llm.data.rows import read_file
from llm.evaluation.columns import Row

Reader = Callable[[Path], list[Any]]
SUPER_GLUE = {
    "boolq": "BoolQ",
    "cb": "CB",
    "copa": "COPA",
    "multirc": "MultiRC",
    "record": "ReCoRD",
    "rte": "RTE",
    "wic": "WiC",
    "wsc": "WSC",
}
MOST = 200_000_000  # bytes of an archive's files of a task, unpacked; MMLU's have 7 million


def sources(task: str) -> list[tuple[str, Reader]]:
    """Patterns of file names, first choice first, and how each is read."""
    own = f"{task}.jsonl", _hellaswag_rows if task.startswith("hellaswag") else read_file
    return [own, *_AS_PUBLISHED.get(task, [])]


def file_names(task: str) -> str:
    """The files that a task may be read from, for people."""
    return " or ".join(pattern for pattern, _ in reversed(sources(task)))


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


def _hellaswag_rows(path: Path) -> list[Any]:
    """Labels as numbers; the hub has them as text."""
    rows = read_file(path)
    for row in rows:
        if isinstance(row, dict) and isinstance(row.get("label"), str) and row["label"].isdecimal():
            row["label"] = int(row["label"][:9])
    return rows


def _mmlu_zip(path: Path) -> list[Row]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if Path(name).match(_MMLU))
            files, room = {}, MOST
            for name in names:
                with archive.open(name) as file:
                    data = file.read(room + 1)  # what the archive says of its sizes may be wrong
                room -= len(data)
                if room < 0:
                    raise ValueError(f"its files must have at most {MOST:,} bytes unpacked; they have more")
                files[Path(name).name] = data
    # What damaged archives were seen to raise; encrypted ones raise RuntimeError.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ArithmeticError, struct.error) as error:
        raise ValueError(f"it is damaged or not a zip archive: {error}") from error
    return _mmlu_rows(files)


def _mmlu_folder(path: Path) -> list[Row]:
    return _mmlu_rows({file.name: file.read_bytes() for file in sorted(path.parent.glob(Path(_MMLU).name))})


def _mmlu_rows(files: dict[str, bytes]) -> list[Row]:
    """Rows of SUBJECT_test.csv files without a header: question, four options, letter."""
    found = []
    for name, data in files.items():
        for number, line in enumerate(_csv(data.decode("utf-8")), 1):
            if len(line) != 6 or line[-1] not in "ABCD" or len(line[-1]) != 1:
                raise ValueError(f"row {number} of {name} must have a question, four options and one of A, B, C, D")
            question, *options, letter = line
            subject = name.rpartition("_")[0]
            found.append({"question": question, "subject": subject, "choices": options, "answer": "ABCD".index(letter)})
    return found


def _csv(text: str) -> Iterator[list[str]]:
    if "\0" in text:
        raise ValueError("it has a NUL byte, so it is no table")
    try:
        yield from csv.reader(io.StringIO(text, newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(f"it is not a table of comma-separated values: {error}") from error


def _truthfulqa_json(path: Path) -> list[Row]:
    found = read_file(path)
    return [_truthfulqa_row(row["question"], row["mc1_targets"], row["mc2_targets"]) for row in found]


def _truthfulqa_csv(path: Path) -> list[Row]:
    """Multiple choice from the authors' table: all wrong answers, with the best one (mc1) or all right ones (mc2)."""

    def answers(cell: str, label: int) -> dict[str, int]:
        texts = (text.strip() for text in cell.split(";"))
        return {text if text.endswith(".") else text + ".": label for text in texts if text}

    found = []
    head, *lines = _csv(read_text(path, "TruthfulQA's table"))
    for row in (dict(zip(head, line, strict=True)) for line in lines):
        best, right = answers(row["Best Answer"], 1), answers(row["Correct Answers"], 1)
        wrong = answers(row["Incorrect Answers"], 0)
        found.append(_truthfulqa_row(row["Question"].strip(), best | wrong, right | wrong))
    return found


def _truthfulqa_row(question: str, mc1: dict[str, int], mc2: dict[str, int]) -> Row:
    targets = {"mc1_targets": mc1, "mc2_targets": mc2}
    columns = {name: {"choices": list(some), "labels": list(some.values())} for name, some in targets.items()}
    return {"question": question, **columns}


def _labelled(words: dict[Any, int]) -> Reader:
    """A reader of rows whose label is one of these words."""

    def read(path: Path) -> list[Row]:
        return [{**row, "label": _number(row.get("label"), words)} for row in read_file(path)]

    return read


def _number(label: Any, words: dict[Any, int]) -> Any:
    # By type, too: 1 is not true here.
    return next((number for word, number in words.items() if type(word) is type(label) and word == label), label)


def _multirc_rows(path: Path) -> list[Row]:
    """A row for each answer of each question."""
    return [
        {
            "paragraph": row["passage"]["text"],
            "question": question["question"],
            "answer": answer["text"],
            "label": answer.get("label"),
        }
        for row in read_file(path)
        for question in row["passage"]["questions"]
        for answer in question["answers"]
    ]


def _record_rows(path: Path) -> list[Row]:
    """A row for each query; an entity is given by the places of its first and its last character."""
    found = []
    for row in read_file(path):
        text = row["passage"]["text"]
        entities = sorted({text[entity["start"] : entity["end"] + 1] for entity in row["passage"]["entities"]})
        for question in row["qas"]:
            answers = sorted({answer["text"] for answer in question.get("answers") or []})
            found.append({"passage": text, "query": question["query"], "entities": entities, "answers": answers})
    return found


def _wsc_rows(path: Path) -> list[Row]:
    return [
        {**row["target"], "text": row["text"], "label": _number(row.get("label"), _TRUE)}
        | {f"{span}_text": _in_text(row["target"], span, row["text"]) for span in ("span1", "span2")}
        for row in read_file(path)
    ]


def _in_text(target: dict[str, Any], span: str, text: str) -> str:
    """A span as it stands in the text, as in the hub's wsc.fixed: some begin with another case, or end in a stop."""
    words = target[f"{span}_text"]
    if words in text:
        return words
    first = text.split()[target[f"{span}_index"]]
    head = words[0].lower() if first[0].islower() else words[0].upper()
    return (head + words[1:]).rstrip(".").replace("\n", " ")


def _folders(task: str, read: Reader) -> list[tuple[str, Reader]]:
    return [(f"{SUPER_GLUE[task]}/{part}.jsonl", read) for part in ("val", "train")]


_MMLU = "test/*_test.csv"
_TRUE = {False: 0, True: 1}
_AS_PUBLISHED: dict[str, list[tuple[str, Reader]]] = {
    "arc_easy": [("ARC-Easy-Test.jsonl", _arc_rows)],
    "arc_challenge": [("ARC-Challenge-Test.jsonl", _arc_rows)],
    "hellaswag": [("hellaswag_val*.jsonl", _hellaswag_rows)],
    "mmlu": [(_MMLU, _mmlu_folder), ("*mmlu*.zip", _mmlu_zip)],
    "truthfulqa": [("mc_task.json", _truthfulqa_json), ("TruthfulQA.csv", _truthfulqa_csv)],
    "boolq": _folders("boolq", _labelled(_TRUE)),
    "cb": _folders("cb", _labelled({"entailment": 0, "contradiction": 1, "neutral": 2})),
    "copa": _folders("copa", read_file),
    "multirc": _folders("multirc", _multirc_rows),
    "record": _folders("record", _record_rows),
    "rte": _folders("rte", _labelled({"entailment": 0, "not_entailment": 1})),
    "wic": _folders("wic", _labelled(_TRUE)),
    "wsc": _folders("wsc", _wsc_rows),
    "nq_open": [("NQ-open.dev.jsonl", read_file)],
}
