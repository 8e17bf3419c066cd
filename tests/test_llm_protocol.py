"""Benchmark items from their published files; the paper's prompts and its matching of answers, rule by rule."""

import csv
import difflib
import io
import json
import zipfile

import numpy as np
import pytest

from llm.evaluation import protocol, tasks
from llm.evaluation.protocol import (
    CONTAINED,
    NEITHER,
    SEVERAL,
    SIMILAR,
    ceiling,
    most_similar,
    prompt,
    score,
    standard_error,
)
from llm.evaluation.tasks import Item
from tests.llm_helpers import data

COUNTS = {"arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 1000, "mmlu": 14042, "truthfulqa": 817}
CEILINGS = {"arc_easy": 99.45, "arc_challenge": 99.4, "hellaswag": 100.0, "mmlu": 94.27, "truthfulqa": 98.04}
FOLDERS = {
    "arc_easy": "arc",
    "arc_challenge": "arc",
    "hellaswag": "hellaswag",
    "mmlu": "mmlu",
    "truthfulqa": "truthfulqa",
}


@pytest.mark.parametrize(
    ("text", "options", "gold", "right", "reason"),
    [
        ("It is a cat.", ["a cat", "a dog"], 0, True, SIMILAR),
        ("It is a cat or a dog.", ["a cat", "a dog"], 0, False, SEVERAL),
        ("110 m", ["10 m", "110 m"], 1, False, SEVERAL),  # a right answer that the matching cannot accept
        ("THE SUN", ["the sun", "THE MOON"], 0, True, CONTAINED),  # case counts for similarity, not for containing
        ("The sun", ["The sun.", "The moon."], 0, True, SIMILAR),  # contained without its full stop
        ("the sun. the moon", ["The sun.", "The moon."], 0, False, SEVERAL),
        ("stars", ["sun", "star"], 0, False, NEITHER),
        ("xyz", ["abc", "def"], 0, False, NEITHER),  # nothing in common: no option is most similar
        ("", ["abc", "def"], 0, False, NEITHER),
        ("ab", ["ac", "ad"], 0, True, SIMILAR),  # equal ratios: the first
        ("ab", ["ac", "ad"], 1, False, NEITHER),
        ("x ### Response: wrong ### Response: a dog", ["a dog", "wrong"], 0, True, SIMILAR),  # behind the last marker
        ("same", ["same", "same"], 0, False, SEVERAL),
    ],
)
def test_score(text, options, gold, right, reason):
    assert score(text, options, gold) == (right, reason)


@pytest.mark.parametrize("gold", [None, -1, 2, True, False, 0.0, "0", "a cat", float("nan"), [0]])
def test_a_right_option_that_is_none_is_refused(gold):
    """A missing answer is not the answer of a text that resembles nothing."""
    for text in ("xyz", "It is a cat.", ""):
        with pytest.raises(ValueError, match=r"gold must be the place of the right option, from 0 to 1; got"):
            score(text, ["a cat", "a dog"], gold)
    assert score("It is a cat.", ["a cat", "a dog"], np.int64(0)).right


@pytest.mark.parametrize("options", [[], ["a cat"], "ab", None, ["a cat", None], ["a cat", 1], {"a": 1, "b": 2}])
def test_options_that_are_no_choice_are_refused(options):
    with pytest.raises(ValueError, match="options must be at least two texts"):
        score("It is a cat.", options, 0)
    with pytest.raises(ValueError, match="the answer must be text; got None"):
        score(None, ["a cat", "a dog"], 0)  # pyright: ignore[reportArgumentType]


def test_the_only_contained_option_wins_over_a_more_similar_one():
    text, options = "I would say that it is iron, and not steal", ["iron", "I would say that it is steel, and not zinc"]
    assert most_similar(text, options) == 1
    assert score(text, options, 0) == (True, CONTAINED)
    assert score(text, options, 1) == (True, SIMILAR)


def test_most_similar_is_the_published_ratio_of_option_and_text_in_this_order():
    options = ["tide", "diet", "the tides rise", "a diet of tides", ""]
    for text in ("diet tide", "tides", "", "diets rise at low tide and " * 20):  # over 200 characters difflib changes
        ratios = [difflib.SequenceMatcher(None, option, text).ratio() for option in options]
        best = max(range(len(options)), key=lambda i: (ratios[i], -i))
        assert most_similar(text, options) == (best if ratios[best] > 0 else None)
    assert (
        difflib.SequenceMatcher(None, "tide", "diet").ratio() != difflib.SequenceMatcher(None, "diet", "tide").ratio()
    )


def test_prompts_to_the_letter():
    item = Item("1", "Which is hot?", ("ice", "the sun"), 1)
    assert prompt(item) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the "
        "multiple-choice question.\n\n### Instruction:\n\nQuestion: Which is hot?\n\nOptions:\n\n- ice\n- the sun\n\n"
        "### Response:"
    )
    subject = prompt(Item("1", "Which?", ("a", "b", "c"), 1, "high_school_physics"))
    assert "completes the multiple-choice question about high_school_physics.\n\n###" in subject
    assert subject.endswith("Options:\n\n- a\n- b\n- c\n\n### Response:")
    assert "### Instruction:\nTake it literally.\n\nQuestion: Which is hot?" in prompt(item, "Take it literally.")
    braces = prompt(Item("1", "What is {x}?", ("{instruction}", "{0}"), 0))
    assert "Question: What is {x}?\n\nOptions:\n\n- {instruction}\n- {0}\n" in braces


def recount(task: str) -> list[tuple[str, list[str], int]]:
    """Questions, options and places of the right ones, read from the files once more."""
    found = []
    if task.startswith("arc"):
        name = "ARC-Easy-Test.jsonl" if task == "arc_easy" else "ARC-Challenge-Test.jsonl"
        for line in data("arc", name).read_text().splitlines():
            row = json.loads(line)
            (gold,) = [i for i, c in enumerate(row["question"]["choices"]) if c["label"] == row["answerKey"]]
            found.append((row["question"]["stem"], [c["text"] for c in row["question"]["choices"]], gold))
    elif task == "hellaswag":
        for line in data("hellaswag", "hellaswag_val_1000.jsonl").read_text().splitlines():
            row = json.loads(line)
            found.append((row["ctx"], row["endings"], row["label"]))
    elif task == "mmlu":
        with zipfile.ZipFile(data("mmlu", "mmlu.zip")) as archive:
            for name in sorted(archive.namelist()):
                if name.startswith("data/test/") and name.endswith(".csv"):
                    text = io.StringIO(archive.read(name).decode())
                    found += [(r[0], r[1:5], "ABCD".index(r[5])) for r in csv.reader(text)]
    else:
        for row in json.loads(data("truthfulqa", "mc_task.json").read_text()):
            found.append((row["question"], list(row["mc1_targets"]), list(row["mc1_targets"].values()).index(1)))
    return found


def literal_rule(answer: str, options: list[str], gold: int) -> bool:
    held = []
    for i in range(len(options)):
        inside = options[i].lower() in answer.lower()
        if not inside and options[i][-1:] == ".":
            inside = options[i][:-1].lower() in answer.lower()
        if inside:
            held.append(i)
    if len(held) >= 2:
        return False
    best, place = 0.0, None
    for i in range(len(options)):
        ratio = difflib.SequenceMatcher(None, options[i], answer).ratio()
        if ratio > best:
            best, place = ratio, i
    return place == gold or held == [gold]


@pytest.mark.parametrize("task", COUNTS)
def test_counts_and_ceilings_equal_an_independent_recount(task):
    expected = recount(task)
    items = tasks.items(task, data(FOLDERS[task]))
    assert len(items) == len(expected) == COUNTS[task]
    assert [(item.question, list(item.options), item.gold) for item in items] == expected
    if task == "mmlu":
        assert len({item.subject for item in items}) == 57
    some = slice(0, None, len(items) // 100)  # difflib takes its time; all of them in the next test
    right = [literal_rule(options[gold], options, gold) for _, options, gold in expected[some]]
    assert ceiling(items[some]) == sum(right) / len(right)


@pytest.mark.slow
def test_ceilings_of_the_published_data():
    for task, percent in CEILINGS.items():
        expected = recount(task)
        right = sum(literal_rule(options[gold], options, gold) for _, options, gold in expected)
        assert ceiling(tasks.items(task, data(FOLDERS[task]))) == right / len(expected)
        assert round(100 * right / len(expected), 2) == percent


def test_the_two_forms_of_truthfulqa_agree(tmp_path):
    by_json = {item.question: item for item in tasks.items("truthfulqa", data("truthfulqa"))}
    (tmp_path / "TruthfulQA.csv").write_bytes(data("truthfulqa", "TruthfulQA.csv").read_bytes())
    by_csv = tasks.items("truthfulqa", tmp_path)
    assert len(by_csv) == len(by_json) == 817
    for item in by_csv:
        assert (item.options, item.gold) == (by_json[item.question].options, by_json[item.question].gold)
    rows = {row["question"]: row["mc2_targets"] for row in tasks.rows("truthfulqa", data("truthfulqa"))}
    assert all(row["mc2_targets"] == rows[row["question"]] for row in tasks.rows("truthfulqa", tmp_path))


def test_the_two_forms_of_mmlu_agree(tmp_path):
    with zipfile.ZipFile(data("mmlu", "mmlu.zip")) as archive:
        archive.extractall(tmp_path)
    assert tasks.items("mmlu", tmp_path) == tasks.items("mmlu", data("mmlu"))


def arc_line(labels: str, answer: str, name: str = "a") -> str:
    choices = [{"text": f"option {label}", "label": label} for label in labels]
    return json.dumps({"id": name, "question": {"stem": "Which?", "choices": choices}, "answerKey": answer})


def test_arc_labels_may_be_numbers_and_options_three_or_five(tmp_path):
    lines = [arc_line("1234", "3", "x"), arc_line("ABC", "C", "y"), arc_line("ABCDE", "E", "z")]
    (tmp_path / "ARC-Easy-Test.jsonl").write_text("\n".join(lines) + "\n")
    items = tasks.items("arc_easy", tmp_path)
    assert [(item.gold, len(item.options)) for item in items] == [(2, 4), (2, 3), (4, 5)]
    assert items[0].options[2] == "option 3"


def test_hub_columns_in_a_file_named_after_the_task(tmp_path):
    row = {"id": "a", "question": "Q?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}
    (tmp_path / "arc_challenge.jsonl").write_text(json.dumps(row) + "\n")
    assert tasks.items("arc_challenge", tmp_path) == [Item("a", "Q?", ("x", "y"), 1)]


def test_of_several_files_the_largest(tmp_path):
    row = {"ctx": "A", "endings": ["b", "c"], "label": "1"}
    (tmp_path / "hellaswag_val_head.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "hellaswag_val.jsonl").write_text(3 * (json.dumps(row) + "\n"))
    assert [item.gold for item in tasks.items("hellaswag", tmp_path)] == [1, 1, 1]


def test_shuffled_options_keep_the_right_one_and_the_seed():
    items = [Item(str(n), "Q", tuple("abcdef"), 0) for n in range(600)]
    mixed = tasks.shuffled(items, 0)
    assert mixed == tasks.shuffled(items, 0) != tasks.shuffled(items, 1)
    assert tasks.shuffled(items[:5], 0) == mixed[:5]
    assert all(item.options[item.gold] == "a" and sorted(item.options) == list("abcdef") for item in mixed)
    shares = [sum(item.gold == place for item in mixed) for place in range(6)]
    assert min(shares) > 65  # mean 100, standard deviation 9.1: below 65 in one of 8,000 seeds for any place
    assert protocol.ceiling(mixed) == protocol.ceiling(items) == 1


def test_limit_is_by_subject():
    items = [Item(f"{s}{n}", "Q", ("a", "b"), 0, s) for s in "xyz" for n in range(4)]
    assert [item.id for item in tasks.limited(items, 2)] == ["x0", "x1", "y0", "y1", "z0", "z1"]
    assert tasks.limited(items, None) == items
    assert len(tasks.limited([Item(str(n), "Q", ("a", "b"), 0) for n in range(9)], 4)) == 4


def test_limit_counts_subjects_that_alternate():
    found = [tasks.Item(str(n), "q", ("a", "b"), 0, subject="xy"[n % 2]) for n in range(6)]
    assert [item.id for item in tasks.limited(found, 2)] == ["0", "1", "2", "3"]


def test_standard_error():
    assert standard_error([1.0, 0.0, 0.0, 1.0]) == pytest.approx((0.25 * 4 / 3) ** 0.5 / 2)
    assert standard_error([1.0]) is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ARC-Easy-Test.jsonl", '{"id": "a"}\n', "as published.*KeyError: 'question'"),
        ("ARC-Easy-Test.jsonl", arc_line("AB", "A") + "\n{\n", "not JSON at line 2"),
        ("ARC-Easy-Test.jsonl", arc_line("AB", "C"), "two options or more, one of them right; arc_easy item a has 2"),
        ("ARC-Easy-Test.jsonl", arc_line("A", "A"), "two options or more"),
        ("ARC-Easy-Test.jsonl", f"{arc_line('AB', 'A')}\n{arc_line('AB', 'B')}", "ids of their own"),
        ("arc_easy.jsonl", "{}\n", "row 1 must have the columns of the hub's data: id must be text; got None"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        tasks.items("arc_easy", tmp_path)


def test_missing_data_say_what_is_looked_for(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no data of mmlu in .*must hold .*zip or test/\*_test.csv or mmlu.jsonl"
    ):
        tasks.items("mmlu", tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        tasks.items("mmlu", tmp_path / "absent")
    (tmp_path / "mmlu.zip").write_text("no archive")
    with pytest.raises(ValueError, match="not a zip archive"):
        tasks.items("mmlu", tmp_path)


def test_without_a_network_local_files_are_proposed(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        ConnectionError, match=r"allenai/ai2_arc \(Couldn't.*--data; arc_easy is read from ARC-Easy-Test"
    ):
        tasks.items("arc_easy")
