"""lm-evaluation-harness over our models and local files, against literal computations and its own front door."""

import json
import re

import pytest
import torch

from common import journal
from llm.evaluation import definitions, harness, settings, tasks
from llm.evaluation.columns import COLUMNS
from llm.methods import loading
from tests.llm_evaluation import save_items, save_model
from tests.llm_helpers import data, randomise_gates
from zeroinit.config import AdapterConfig
from zeroinit.model import attach


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_items(folder / "data")
    return save_model(folder)


@pytest.fixture(scope="module")
def stories():
    folder = data("stories260K", "config.json").parent
    model, tokenizer = loading.load(folder)
    torch.manual_seed(0)
    attach(model, AdapterConfig("linear", initial_scale=0.5))
    randomise_gates(model)
    return model.eval(), tokenizer


def literal_scores(model, tokenizer, item) -> tuple[list[float], bool, bool, bool]:
    """Log-likelihoods of the options by one plain forward each; whether acc and acc_norm call the item right; its fit.

    513 tokens, the last of which is predicted and not read, are all that the model bears; more are cut on the left.
    """
    start = len(tokenizer(f"Question: {item.question}\nAnswer:")["input_ids"])
    found, fits = [], True
    for option in item.options:
        ids = tokenizer(f"Question: {item.question}\nAnswer: {option}", verbose=False)["input_ids"]
        cut = max(len(ids) - 513, 0)
        ids, first, fits = ids[cut:], start - cut, fits and not cut
        with torch.no_grad():
            logits = model(torch.tensor([ids[:-1]])).logits[0].double()
        total = 0.0
        for place in range(first, len(ids)):
            row = logits[place - 1]
            total += float(row[ids[place]] - row.max() - torch.log(torch.exp(row - row.max()).sum()))
        found.append(total)
    by_length = [value / len(option) for value, option in zip(found, item.options, strict=True)]
    return found, found.index(max(found)) == item.gold, by_length.index(max(by_length)) == item.gold, fits


def compare_with_literal(stories, folder, count: int) -> int:
    """Evaluate the first items by both; how many do not fit."""
    model, tokenizer = stories
    path = folder / "arc_easy.jsonl"
    found = harness.evaluate(model, tokenizer, "arc_easy", path, data=data("arc"), limit=count, batch_size=16)
    items = tasks.items("arc_easy", data("arc"))[:count]
    rows = journal.read(path)
    assert [row["id"] for row in rows] == list(range(count))
    acc, acc_norm, fitting = 0, 0, []
    for row, item in zip(rows, items, strict=True):
        likelihoods, right, right_norm, fits = literal_scores(model, tokenizer, item)
        assert [value for value, _ in row["responses"]] == pytest.approx(likelihoods, abs=2e-3)
        assert (row["acc"], row["acc_norm"], row["fits"]) == (right, right_norm, fits)
        acc, acc_norm = acc + right, acc_norm + right_norm
        fitting += [right] if fits else []
    assert found["metrics"] == {"acc": acc / count, "acc_norm": acc_norm / count}
    assert (found["n"], found["not_fitting"], found["accuracy"]) == (count, count - len(fitting), acc / count)
    assert found["accuracy_fitting"] == pytest.approx(sum(fitting) / len(fitting))
    assert 0 < acc_norm < count
    return count - len(fitting)


def test_harness_equals_a_literal_computation(stories, tmp_path):
    assert compare_with_literal(stories, tmp_path, 40) == 0


@pytest.mark.slow
def test_harness_equals_a_literal_computation_on_200_items(stories, tmp_path):
    assert compare_with_literal(stories, tmp_path, 200) == 1


def test_harness_equals_simple_evaluate(stories, tmp_path):
    """Ten examples in the prompt: the same ones, and so the same likelihoods."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model, tokenizer = stories
    source = tmp_path / "data"
    source.mkdir()
    rows = [{"ctx": f"[header] It is {n}", "endings": [f"and {n} a.", f"or b {n}."], "label": n % 2} for n in range(30)]
    (source / "hellaswag_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = harness.evaluate(model, tokenizer, "hellaswag", tmp_path / "h.jsonl", data=source, limit=8)
    with harness._quiet():
        specs = definitions.local("hellaswag", source, tmp_path)
        expected = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer),
            tasks=[str(spec) for spec in specs],
            task_manager=TaskManager(include_defaults=False),
            num_fewshot=10,
            limit=8,
            bootstrap_iters=0,
        )
    assert expected["results"]["hellaswag"]["acc_norm,none"] == found["accuracy"]
    samples = expected["samples"]["hellaswag"]
    for row, sample in zip(journal.read(tmp_path / "h.jsonl"), samples, strict=True):
        assert [v for v, _ in row["responses"]] == pytest.approx([v for v, _ in sample["filtered_resps"]], abs=2e-3)
        (prompt, _), *_ = sample["arguments"]
        assert prompt.count("It is") == 11  # ten others and the item
        *examples, own = prompt.split("\n\n")
        assert not any(example.startswith(own + " ") for example in examples)
        assert "[header]" not in prompt


def test_what_does_not_fit_is_counted(base, tmp_path):
    model, tokenizer = loading.load(base)
    items = tasks.items("arc_easy", base / "data")
    found = harness.evaluate(model, tokenizer, "arc_easy", tmp_path / "a.jsonl", data=base / "data")
    rows = journal.read(tmp_path / "a.jsonl")
    lengths = [len(tokenizer(f"Question: {i.question}\nAnswer: {i.options[0]}")["input_ids"]) for i in items]
    assert [row["fits"] for row in rows] == [length <= 513 for length in lengths]
    assert found["not_fitting"] == 1
    assert found["accuracy_fitting"] == pytest.approx(sum(row["acc"] for row in rows if row["fits"]) / 11)


SMALL = {
    "boolq": {"passage": "It rains.", "question": "does it rain", "label": 1},
    "cb": {"premise": "It rains.", "hypothesis": "It is wet", "label": 0},
    "copa": {"premise": "It rained.", "question": "effect", "choice1": "It was wet.", "choice2": "It ran.", "label": 0},
    "multirc": {"paragraph": "It rains.", "question": "What?", "answer": "rain", "label": 1},
    "record": {
        "passage": "Ann met Bob.\n@highlight\nThey met",
        "query": "@placeholder met Bob",
        "entities": ["Ann", "Bob"],
    }
    | {"answers": ["Ann"], "idx": {"passage": 0, "query": 0}},
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0},
    "wic": {
        "sentence1": "a bank here",
        "sentence2": "a bank there",
        "start1": 2,
        "end1": 6,
        "word": "bank",
        "label": 1,
    },
    "wsc": {
        "text": "Ann told Bob that he won .",
        "span1_text": "Bob",
        "span2_text": "he",
        "span2_index": 4,
        "label": 1,
    },
    "nq_open": {"question": "who won", "answer": ["Ann", "Bob"]},
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")  # F1 of so few items
@pytest.mark.parametrize("task", SMALL)
def test_super_glue_and_natural_questions(base, tmp_path, task):
    # The same question with every label: whatever the model prefers is right once.
    labels = [{"label": label} for label in COLUMNS[task].get("label", ())] or [{}, {}]
    (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(SMALL[task] | label) + "\n" for label in labels))
    model, tokenizer = loading.load(base)
    found = harness.evaluate(model, tokenizer, task, tmp_path / "out.jsonl", data=tmp_path)
    assert (found["n"], found["not_fitting"]) == (len(labels), 0)
    if "label" in COLUMNS[task] and task != "multirc":  # whose two rows are the answers of one question
        assert found["accuracy"] == pytest.approx(1 / len(labels))
    assert found["metric"] in found["metrics"]
    if task == "multirc":  # the harness's own way: its first choice is yes, and label 1 (right) counts "no" as right
        yes, no = (value for value, _ in journal.read(tmp_path / "out.jsonl")[1]["responses"])
        assert journal.read(tmp_path / "out.jsonl")[1]["acc"] == float(no > yes)
    if task == "record":
        assert found["metrics"] == {"f1": found["accuracy"], "em": found["accuracy"]}
    if task == "boolq":
        start = tokenizer("It rains.\nQuestion: does it rain?\nAnswer:", return_tensors="pt")["input_ids"]
        (row, *_) = journal.read(tmp_path / "out.jsonl")
        with torch.no_grad():
            for word, (value, _) in zip((" no", " yes"), row["responses"], strict=True):
                more = tokenizer(word, add_special_tokens=False, return_tensors="pt")["input_ids"]
                logits = model(torch.cat([start, more], 1)).logits[0, start.shape[1] - 1 : -1].log_softmax(-1)
                assert value == pytest.approx(float(logits.gather(1, more[0, :, None]).sum()), abs=1e-4)


NQ = {"question": "who won", "answer": ["Ann"]}
HELLASWAG = {"ctx": "It rains and", "endings": ["it is wet", "it is dry"], "label": "0"}
TRUTHFUL = {"question": "Is it?", "mc2_targets": {"choices": ["Yes", "No"], "labels": [1, 0]}}


@pytest.mark.parametrize(
    ("task", "rows", "message"),
    [
        ("boolq", [{k: v for k, v in SMALL["boolq"].items() if k != "label"}], "label must be one of 0 to 1; got None"),
        ("boolq", [SMALL["boolq"] | {"label": -1}], "got -1"),
        ("cb", [SMALL["cb"] | {"label": 3}], "label must be one of 0 to 2; got 3"),
        ("boolq", [{"label": 1}], "row 1 must have the columns of the hub's data: passage must be text; got None"),
        ("nq_open", [{"question": "who won"}], "answer must be a list of text, not empty; got None"),
        ("record", [SMALL["record"] | {"answers": []}], "answers must be a list of text, not empty; got []"),
        ("boolq", [[1]], "row 1 is no object"),
        ("boolq", [], "it has no rows"),
        ("hellaswag", [HELLASWAG] * 10, "10 rows are too few"),
        ("mmlu", [{"question": "a", "subject": "anatomy", "choices": list("abcd"), "answer": "B"}], "got 'B'"),
        (
            "truthfulqa_mc1",
            [TRUTHFUL | {"mc1_targets": {"choices": ["Yes", "No"], "labels": [0, 1]}}],
            "takes the first option",
        ),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(base, tmp_path, task, rows, message):
    name = tasks.source(task)
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer = loading.load(base)
    with pytest.raises(ValueError, match=re.escape(message)):
        harness.evaluate(model, tokenizer, task, tmp_path / "out.jsonl", data=tmp_path)


def test_an_answer_longer_than_the_model_is_refused(base, tmp_path, monkeypatch):
    (tmp_path / "nq_open.jsonl").write_text(json.dumps(NQ) + "\n")
    model, tokenizer = loading.load(base)
    monkeypatch.setattr(harness, "context_length", lambda model: 128)
    with pytest.raises(ValueError, match=r"nq_open needs a model of more than \d+ tokens; this has 128"):
        harness.evaluate(model, tokenizer, "nq_open", tmp_path / "out.jsonl", data=tmp_path)


@pytest.mark.parametrize(("train", "source"), [(0, "other test items"), (10, "training set")])
def test_where_the_examples_of_hellaswag_come_from_is_told(base, tmp_path, train, source):
    lines = [json.dumps(HELLASWAG | {"ctx": f"It rains {n} times and"}) + "\n" for n in range(11)]
    (tmp_path / "hellaswag.jsonl").write_text("".join(lines[: 2 if train else 11]))
    if train:
        (tmp_path / "hellaswag_train.jsonl").write_text("".join(lines[:train]))
    model, tokenizer = loading.load(base)
    found = harness.evaluate(model, tokenizer, "hellaswag", tmp_path / "out.jsonl", data=tmp_path)
    assert (found["shots"], found["examples"]) == (10, source)


def test_every_task_of_the_command_has_a_definition():
    assert set(settings.TASKS["harness"]) == set(definitions.DEFINITIONS)
    counts = {task: len(definitions.built_in(task)) for task in definitions.DEFINITIONS}
    assert counts == dict.fromkeys(counts, 1) | {"mmlu": 57}
