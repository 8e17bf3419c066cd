"""Token ids that a model has no row for: never padded with, refused by name wherever texts become ids."""

import json
import re

import pytest
from transformers import AutoTokenizer

from common import journal
from llm import finetune, generate
from llm.data.alpaca import encode
from llm.data.tokens import check_ids, ids_of_texts, padding_id
from llm.evaluation import decoding, harness, protocol, tasks
from llm.evaluation.settings import Decoding
from llm.methods import loading
from tests.llm_evaluation import byte_tokenizer, save_items, save_model
from tests.llm_helpers import tiny

REFUSED = re.escape("every token must have an id below 259, the size of the model's vocabulary; '<new>' has 259; use")
SIZE = 259


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model whose tokenizer has two tokens more than the model."""
    folder = save_model(tmp_path_factory.mktemp("base"))
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    save_items(folder / "data")
    return folder


def without(tokenizer, *names: str):
    for name in names:
        setattr(tokenizer, name, None)
    return tokenizer


def test_padding_is_an_id_of_the_model(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert (tokenizer.pad_token_id, len(tokenizer)) == (260, 261)
    assert padding_id(tokenizer, 261) == 260
    assert padding_id(tokenizer, 260) == padding_id(tokenizer, SIZE) == 2
    assert padding_id(tokenizer, 2) == 0
    assert padding_id(without(tokenizer, "pad_token"), SIZE) == 2
    assert padding_id(without(tokenizer, "eos_token"), SIZE) == 0


def test_ids_are_checked_one_by_one(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    check_ids([[0, 258], [], [5]], tokenizer, SIZE)
    with pytest.raises(ValueError, match=REFUSED):
        check_ids([[1], [5, 259, 260]], tokenizer, SIZE)


@pytest.mark.parametrize("changes", [(), ("pad_token",), ("pad_token", "eos_token", "unk_token")])
def test_answers_are_those_of_any_other_padding(base, changes):
    model, tokenizer = loading.load(base)
    plain, texts = byte_tokenizer(), ("a", "what is this?", "no")
    prompts = ids_of_texts(plain, texts)
    expected = decoding.generate(model, plain, prompts, Decoding(max_new_tokens=9))
    found = decoding.generate(model, without(tokenizer, *changes), prompts, Decoding(max_new_tokens=9))
    assert found == expected


@pytest.mark.parametrize("changes", [(), ("pad_token",)])
@pytest.mark.parametrize("task", ["nq_open", "arc_easy"])
def test_the_harness_pads_with_an_id_of_the_model_and_leaves_the_tokenizer_alone(base, tmp_path, task, changes):
    rows = [{"question": f"who won{' it' * n}", "answer": ["Ann"]} for n in range(3)]
    (tmp_path / "nq_open.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, tokenizer = loading.load(base)
    folder, found = tmp_path if task == "nq_open" else base / "data", []
    for number, one in enumerate((byte_tokenizer(), without(tokenizer, *changes))):
        before = one.pad_token_id
        path = tmp_path / f"{number}.jsonl"
        harness.evaluate(model, one, task, path, data=folder, limit=3, batch_size=3)
        found.append(path.read_text())
        assert one.pad_token_id == before
    assert found[0] == found[1]


def test_tokens_in_data_are_refused_wherever_ids_enter_a_model(base, tmp_path, capsys):
    model, tokenizer = loading.load(base)
    row = {"instruction": "Say <new>.", "input": "", "output": "x"}
    with pytest.raises(ValueError, match=REFUSED):
        encode([row], tokenizer, vocabulary=SIZE)
    with pytest.raises(ValueError, match=REFUSED):
        encode([{**row, "instruction": "a", "output": "<new>"}], tokenizer, vocabulary=SIZE)
    with pytest.raises(ValueError, match=REFUSED):
        decoding.generate(model, tokenizer, ids_of_texts(tokenizer, ["fine", "not <new>"]))
    items = [tasks.Item("1", "What is <new>?", ("a", "b"), 0)]
    with pytest.raises(ValueError, match=REFUSED):
        protocol.evaluate(model, tokenizer, items, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()
    for task, one in (
        ("nq_open", {"question": "who is <new>", "answer": ["Ann"]}),
        ("boolq", {"passage": "<new>", "question": "is it", "label": 1}),
    ):
        (tmp_path / f"{task}.jsonl").write_text(json.dumps(one) + "\n")
        with pytest.raises(ValueError, match=REFUSED):
            harness.evaluate(model, tokenizer, task, tmp_path / "out.jsonl", data=tmp_path)
    assert generate.main(["--model", str(base), "--instruction", "Say <new>.", "--max-new-tokens", "2"]) == 2
    assert "'<new>' has 259" in capsys.readouterr().err
    (tmp_path / "rows.json").write_text(json.dumps([row] * 9))
    where = {
        "--model": base,
        "--data": tmp_path / "rows.json",
        "--out": tmp_path / "o",
        "--result": tmp_path / "r.json",
    }
    options = ["--validation", "0", "--precision", "float32", "--set", "layers=2"]
    command = ["llama-7b-linear", *(str(word) for pair in where.items() for word in pair)]
    assert finetune.main([*command, *options]) == 2
    assert "'<new>' has 259" in capsys.readouterr().err


def test_an_end_beyond_the_model_is_refused_in_training_and_harmless_in_answers(base, tmp_path):
    model, tokenizer = loading.load(base)
    tokenizer.eos_token = "[PAD]"
    with pytest.raises(ValueError, match=r"'\[PAD\]' has 260"):
        encode([{"instruction": "a", "input": "", "output": "x"}], tokenizer, vocabulary=SIZE)
    answers = decoding.generate(model, tokenizer, ids_of_texts(tokenizer, ["a", "bcd"]), Decoding(max_new_tokens=4))
    assert [answer.cut for answer in answers] == [True, True]
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a"}\n{"instruction": "bcd"}\n')
    command = ["--model", str(base), "--file", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    assert generate.main([*command, "--max-new-tokens", "3"]) == 0
    assert len(journal.read(tmp_path / "out.jsonl")) == 2


def test_the_size_of_the_vocabulary_is_that_of_the_embedding():
    assert loading.vocabulary_size(tiny()) == 97
