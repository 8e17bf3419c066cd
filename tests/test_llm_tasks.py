"""Rows of benchmarks: declared types, files as their authors publish them, and files that are damaged."""

import json
import random
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from llm.evaluation import definitions, harness, published, tasks
from llm.evaluation.columns import COLUMNS, OPTIONAL, typed
from tests.llm_evaluation import save_items
from tests.llm_helpers import data


def lines(rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def made(kind, text: str):
    """A value of a kind, with this text wherever there is one."""
    if kind is str:
        return text
    if isinstance(kind, dict):
        return {name: made(one, text) for name, one in kind.items()}
    if isinstance(kind, list):
        return [1, 0] if isinstance(kind[0], range) else [text, text + " or so"]
    return 1


# Declared types

LOOKS = ["2001-01-01", "1999-12-31T10:00:00", "12", "1e5", "true", "null", "NaN", "cause"]


@pytest.mark.parametrize("task", [*COLUMNS, "truthfulqa_mc1"])
def test_text_stays_text_on_its_way_into_the_harness(tmp_path, task):
    name = tasks.source(task)
    task = "truthfulqa_mc2" if task == "truthfulqa" else task
    rows = [made(COLUMNS[name], look) for look in LOOKS]
    for number, row in enumerate(rows):
        if name in ("arc_easy", "arc_challenge"):
            row |= {"id": f"{number}", "answerKey": row["choices"]["label"][0]}
        if name == "mmlu":
            row |= {"subject": "anatomy", "choices": [row["question"]] * 4}
        if name == "copa":
            row["question"] = "cause"
    (tmp_path / f"{name}.jsonl").write_text(lines(rows * 2 if name == "hellaswag" else rows))
    expected = rows
    if name == "hellaswag":
        expected = [definitions.hellaswag_row(row) for row in rows * 2]
    with harness._quiet(), harness._squad_metrics():
        specs = definitions.local(task, tmp_path, tmp_path)
        loaded = TaskManager(include_defaults=False).load([str(spec) for spec in specs])
    (definition,) = loaded["tasks"].values()
    assert [dict(row) for row in definition.dataset["test"]] == expected


@pytest.mark.parametrize("task", COLUMNS)
def test_values_of_other_types_are_refused(task):
    right = made(COLUMNS[task], "text")
    assert typed(task, [right | {"more": object()}]) == [right]
    wrong = {str: [None, 1, 1.5, True, ["a"], {}, "\ud800"], int: [None, "1", 1.0, True, 2**31, [1]]}
    for name, kind in COLUMNS[task].items():
        one = range if isinstance(kind, range) else type(kind) if isinstance(kind, (list, dict)) else kind
        bad = wrong.get(one, [None, "text", 7.0, True, [], {}, [None], [[]], -1, 99])
        for value in bad:
            with pytest.raises(ValueError, match=f"^row 2 must have the columns of the hub's data: {name} must be "):
                typed(task, [right, right | {name: value}])
        with pytest.raises(ValueError, match=f"{name} must be"):
            typed(task, [{key: value for key, value in right.items() if key != name}])
    for name in OPTIONAL.get(task, {}):
        with pytest.raises(ValueError, match=f"{name} must be text; got 3"):
            typed(task, [right | {name: 3}])


# As published

PASSAGE = "Ann Smith met Bob.\n@highlight\nThey met"
PUBLISHED = {
    "boolq": (
        [
            {"question": "is it", "passage": "It is.", "idx": 3, "label": True},
            {"question": "a", "passage": "b", "label": False},
        ],
        [{"passage": "It is.", "question": "is it", "label": 1}, {"passage": "b", "question": "a", "label": 0}],
    ),
    "cb": (
        [
            {"premise": "a", "hypothesis": "b", "label": word, "idx": 1}
            for word in ("entailment", "contradiction", "neutral")
        ],
        [{"premise": "a", "hypothesis": "b", "label": number} for number in range(3)],
    ),
    "copa": (
        [{"premise": "a", "choice1": "b", "choice2": "c", "question": "cause", "label": 1, "idx": 0}],
        [{"premise": "a", "choice1": "b", "choice2": "c", "question": "cause", "label": 1}],
    ),
    "multirc": (
        [
            {
                "idx": 0,
                "passage": {
                    "text": "p",
                    "questions": [
                        {
                            "question": "q",
                            "idx": 0,
                            "answers": [{"text": "a", "idx": 0, "label": 0}, {"text": "b", "idx": 1, "label": 1}],
                        },
                        {"question": "r", "idx": 1, "answers": [{"text": "c", "idx": 2, "label": 1}]},
                    ],
                },
            }
        ],
        [
            {"paragraph": "p", "question": question, "answer": answer, "label": label}
            for question, answer, label in (("q", "a", 0), ("q", "b", 1), ("r", "c", 1))
        ],
    ),
    "record": (
        [
            {
                "source": "x",
                "passage": {
                    "text": PASSAGE,
                    "entities": [{"start": 14, "end": 16}, {"start": 0, "end": 8}, {"start": 14, "end": 16}],
                },
                "qas": [
                    {
                        "query": "@placeholder met",
                        "answers": [{"start": 0, "end": 8, "text": "Ann Smith"}] * 2,
                        "idx": 0,
                    },
                    {"query": "met @placeholder", "answers": [{"start": 14, "end": 16, "text": "Bob"}], "idx": 1},
                ],
            }
        ],
        [
            {"passage": PASSAGE, "query": query, "entities": ["Ann Smith", "Bob"], "answers": [answer]}
            for query, answer in (("@placeholder met", "Ann Smith"), ("met @placeholder", "Bob"))
        ],
    ),
    "rte": (
        [{"premise": "a", "hypothesis": "b", "label": word, "idx": 1} for word in ("entailment", "not_entailment")],
        [{"premise": "a", "hypothesis": "b", "label": number} for number in range(2)],
    ),
    "wic": (
        [
            {
                "word": "w",
                "sentence1": "a w",
                "sentence2": "w",
                "idx": 1,
                "label": False,
                "start1": 2,
                "start2": 0,
                "end1": 3,
                "end2": 1,
                "version": 1.1,
            }
        ],
        [{"word": "w", "sentence1": "a w", "sentence2": "w", "start1": 2, "end1": 3, "label": 0}],
    ),
    "wsc": (
        [
            {
                "text": "I told the man that he won.",
                "target": {"span1_index": 2, "span1_text": "The man", "span2_index": 5, "span2_text": "he"},
                "idx": 1,
                "label": True,
            },
            {
                "text": "Bob told Al that he won.",
                "target": {"span1_index": 2, "span1_text": "Al.", "span2_index": 4, "span2_text": "he"},
                "idx": 1,
                "label": False,
            },
        ],
        [
            {
                "text": "I told the man that he won.",
                "span1_text": "the man",
                "span2_text": "he",
                "span2_index": 5,
                "label": 1,
            },
            {"text": "Bob told Al that he won.", "span1_text": "Al", "span2_text": "he", "span2_index": 4, "label": 0},
        ],
    ),
}


@pytest.mark.parametrize("below", ["", "superglue"])
@pytest.mark.parametrize("task", PUBLISHED)
def test_super_glue_as_published(tmp_path, task, below):
    found, expected = PUBLISHED[task]
    folder = tmp_path / below / published.SUPER_GLUE[task]
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match=f"no data of {task} in .* must hold {folder.name}/train.jsonl or "):
        tasks.rows(task, tmp_path)
    (folder / "train.jsonl").write_text(lines(found))
    assert tasks.rows(task, tmp_path) == expected
    assert tasks.local_file(task, tmp_path) == (Path(below) / folder.name / "train.jsonl").as_posix()
    (folder / "val.jsonl").write_text(lines(found[:1]))
    assert tasks.rows(task, tmp_path) == expected[: len(tasks.rows(task, tmp_path))]
    assert tasks.local_file(task, tmp_path) == (Path(below) / folder.name / "val.jsonl").as_posix()
    without = [{key: value for key, value in row.items() if key not in ("label", "qas", "passage")} for row in found]
    (folder / "val.jsonl").write_text(lines(without))
    with pytest.raises(ValueError, match=f"val.jsonl must hold {task} as published; it does not"):
        tasks.rows(task, tmp_path)


def test_real_super_glue_recounted():
    """From the files once more: rows, labels, and what the hub's columns say of the same text."""
    counts = {"copa": 32, "multirc": 154, "record": 32, "boolq": 32, "cb": 32, "rte": 32, "wic": 32, "wsc": 32}
    labels = {
        "boolq": Counter({0: 14, 1: 18}),
        "cb": Counter({0: 19, 1: 10, 2: 3}),
        "rte": Counter({0: 13, 1: 19}),
        "wic": Counter({0: 15, 1: 17}),
        "wsc": Counter({1: 32}),
    }
    folder = data("superglue")
    rows = {task: tasks.rows(task, folder) for task in counts}
    assert {task: len(some) for task, some in rows.items()} | {"record": 32} == counts
    assert {task: Counter(row["label"] for row in rows[task]) for task in labels} == labels
    for row in rows["record"]:
        assert all(entity in row["passage"] for entity in row["entities"])
        assert set(row["answers"]) <= set(row["entities"])
        assert "@placeholder" in row["query"]
    for row in rows["wic"]:
        assert row["sentence1"][row["start1"] : row["end1"]].lower().startswith(row["word"][:2].lower())
    for row in rows["wsc"]:
        assert row["span1_text"] in row["text"]
        assert " ".join(row["text"].split()[row["span2_index"] :]).startswith(row["span2_text"])


def test_real_natural_questions_are_the_published_ones():
    path = data("nq_open", "NQ-open.dev.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert tasks.rows("nq_open", path.parent) == rows
    assert len(rows) == 3610


# Damaged files


def words(folder, task: str) -> str:
    """The one line that a damaged file of a task is refused with."""
    with pytest.raises(ValueError, match=f"must hold {task} as published; it does not") as caught:
        tasks.rows(task, folder)
    line = str(caught.value)
    assert "\n" not in line.strip()
    return line


DEEP = "[" * 100_000 + "]" * 100_000
GOOD = '{"question": "who", "answer": ["Ann"]}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"question": "who", "answer": ' + DEEP + "}\n", "nested too deeply"),
        (GOOD + '{"question": "who", "answer": ' + "9" * 5000 + "}\n", "too many digits"),
        ('{"question": "who", "answer": NaN}\n', "NaN"),
        ('{"question": "who", "answer": [-Infinity]}\n', "-Infinity"),
        ('{"question": "who", "answer": [1e999]}\n', "1e999"),
        ('{"question": "who", "question": "why", "answer": ["Ann"]}\n', "'question' twice"),
        (b'{"question": "\xff", "answer": ["Ann"]}\n', "UTF-8"),
        (GOOD[:-5], "not JSON at line 1"),
        ("[1]\n", "row 1 is no object"),
        ('{"question": "who", "answer": "Ann"}\n', "answer must be a list of text, not empty; got 'Ann'"),
        ('{"question": "who", "answer": {"a": 1}}\n', "answer must be a list of text"),
        ("\n", "it has no rows"),
    ],
)  # fmt: skip
def test_damaged_lines_are_refused(tmp_path, text, message):
    (tmp_path / "nq_open.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in words(tmp_path, "nq_open")


CSV = "Why?,a,b,c,d,A\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV + "Why\0?,a,b,c,d,A\n", "NUL"),
        (CSV + "Why?,a,b,c,d\n", "row 2 of anatomy_test.csv must have a question, four options and one of A, B, C, D"),
        (CSV + "Why?,a,b,c,d,AB\n", "row 2"),
        (CSV + "Why?,a,b,c,d,\n", "row 2"),
        (CSV + '"Why?,a,b,c,d,A\n', "comma-separated"),
        (CSV + "x" * 200_000 + ",a,b,c,d,A\n", "field limit"),
        (b"Why\xff?,a,b,c,d,A\n", "utf-8"),
        ("", "it has no rows"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_damaged_tables_are_refused(tmp_path, kind, text, message):
    text = text if isinstance(text, bytes) else text.encode()
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "mmlu.zip", "w") as archive:
            archive.writestr("data/test/anatomy_test.csv", text)
    else:
        (tmp_path / "test").mkdir()
        (tmp_path / "test" / "anatomy_test.csv").write_bytes(text)
    assert message in words(tmp_path, "mmlu")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "mmlu.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for subject in ("anatomy", "virology"):
            archive.writestr(f"data/test/{subject}_test.csv", CSV * 3000)
    assert len(tasks.rows("mmlu", tmp_path)) == 6000
    monkeypatch.setattr(published, "MOST", len(CSV) * 5999)
    assert "at most 89,985 bytes unpacked" in words(tmp_path, "mmlu")


def test_flipped_bits_of_an_archive_are_refused_or_do_not_matter(tmp_path):
    path = tmp_path / "mmlu.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/test/anatomy_test.csv", CSV * 40)
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    rows = tasks.rows("mmlu", tmp_path)
    for number in range(400):
        damaged = bytearray(whole)
        if number % 4:
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        else:
            del damaged[draw.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            found = tasks.rows("mmlu", tmp_path)
        except ValueError:
            refused += 1
            assert str(path) in words(tmp_path, "mmlu")
        else:  # flags and times of the archive; its name tells the subject
            assert [row | {"subject": ""} for row in found] == [row | {"subject": ""} for row in rows]
    assert refused > 200


def test_which_file_is_read_is_told(tmp_path):
    save_items(tmp_path / "deep")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "anatomy_test.csv").write_text(CSV)
    assert tasks.local_file("arc_easy", tmp_path) == "deep/ARC-Easy-Test.jsonl"
    assert tasks.local_file("mmlu", tmp_path) == "test"
