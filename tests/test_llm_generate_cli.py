"""The generation command: one instruction, a file of them, the terminal; kills and errors."""

import builtins
import json
import os
import subprocess
import sys

import pytest

from common import journal
from common.paths import ROOT
from llm import generate
from llm.data import alpaca
from llm.evaluation import answers
from llm.evaluation.decoding import generate as answers_to
from llm.evaluation.settings import Decoding
from llm.methods import loading
from tests.llm_evaluation import ids_of, save_model
from tests.llm_helpers import adapted, tiny
from zeroinit.model import save

ROWS = [{"instruction": f"Say {n}", "input": "it" * (n % 3), "topic": n} for n in range(7)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("base"))


def literal(base, instruction: str, input: str = "", **decoding) -> str:
    model, tokenizer = loading.load(base)
    ids = ids_of(tokenizer, alpaca.prompt(instruction, input))
    return answers_to(model, tokenizer, [ids], Decoding(**decoding))[0].text


def test_one_instruction(base, capsys):
    command = ["--model", str(base), "--instruction", "Name a bird.", "--max-new-tokens", "8"]
    assert generate.main(command) == 0
    printed = capsys.readouterr()
    assert printed.out.rstrip("\n") == literal(base, "Name a bird.", max_new_tokens=8)
    assert "cut" in printed.err
    assert generate.main([*command, "--input", "red"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == literal(base, "Name a bird.", "red", max_new_tokens=8)


def test_an_adapter_and_its_gate_activation_change_the_answer(base, tmp_path, capsys):
    model, _ = loading.load(base)
    save(adapted(model, gates=3.0), tmp_path)
    found = set()
    for more in ((), ("--adapter", str(tmp_path)), ("--adapter", str(tmp_path), "--gate-activation", "identity")):
        assert generate.main(["--model", str(base), "--instruction", "x", "--max-new-tokens", "30", *more]) == 0
        found.add(capsys.readouterr().out)
    assert len(found) == 3


@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_file_is_answered_in_its_order(base, tmp_path, ending, capsys):
    source, out = tmp_path / f"questions{ending}", tmp_path / "answers.jsonl"
    rows = [*ROWS, {"instruction": "long " * 120, "input": None}]
    source.write_text(json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    command = ["--model", str(base), "--file", str(source), "--out", str(out), "--batch-size", "3"]
    assert generate.main([*command, "--max-new-tokens", "5"]) == 0
    text = capsys.readouterr().out
    assert "8 answers" in text
    assert "1 instructions do not fit" in text
    found = journal.read(out)
    assert [{key: row[key] for key in ROWS[0]} for row in found[:7]] == ROWS
    assert found[7]["output"] is None
    for row in found[:3]:
        assert row["output"] == literal(base, row["instruction"], row["input"], max_new_tokens=5).strip()
    record = json.loads((tmp_path / "answers.jsonl.json").read_text())
    assert record["configuration"]["decoding"]["max_new_tokens"] == 5


def test_a_stopped_file_goes_on_to_the_same_answers(base, tmp_path, monkeypatch):
    source = tmp_path / "questions.json"
    source.write_text(json.dumps(ROWS))
    command = ["--model", str(base), "--file", str(source), "--batch-size", "2", "--decoding", "published"]
    command += ["--max-new-tokens", "5"]
    assert generate.main([*command, "--out", str(tmp_path / "whole.jsonl")]) == 0
    calls = []

    def stops(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers_to(*args, **kwargs)

    monkeypatch.setattr(answers, "generate", stops)
    out = tmp_path / "parts.jsonl"
    assert generate.main([*command, "--out", str(out)]) == 130
    with out.open("a") as file:
        file.write('{"instruction": "Say')
    assert generate.main([*command, "--out", str(out)]) == 0
    assert len(calls) == 3 + 2
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert generate.main([*command, "--out", str(out), "--seed", "1"]) == 2
    assert generate.main([*command, "--out", str(out), "--seed", "1", "--fresh"]) == 0


def test_files_of_somebody_else_are_not_removed(base, tmp_path, capsys):
    source = tmp_path / "questions.jsonl"
    source.write_text(json.dumps({"instruction": "a"}) + "\n")
    command = ["--model", str(base), "--file", str(source), "--max-new-tokens", "2", "--out"]
    assert generate.main([*command, str(source), "--fresh"]) == 2
    assert "another file than that of the instructions" in capsys.readouterr().err
    mine = tmp_path / "mine.jsonl"
    mine.write_text("mine")
    assert generate.main([*command, str(mine), "--fresh"]) == 2
    assert "must be new, or of this command" in capsys.readouterr().err
    assert (mine.read_text(), len(source.read_text())) == ("mine", 21)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"instruction": "a", "input": 5}', "input must be a string"),
        ('{"instruction": "a \\ud800"}', "cannot be written"),
    ],
)
def test_rows_that_are_no_text_are_refused(base, tmp_path, capsys, row, message):
    (tmp_path / "a.jsonl").write_text(row + "\n")
    command = ["--model", str(base), "--file", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "b.jsonl")]
    assert generate.main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_terminal(base, capsys, monkeypatch):
    lines = iter(["Name a bird.", "  ", "long " * 120, "x"])

    def typed(prompt=""):
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr(builtins, "input", typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert generate.main(["--model", str(base), "--max-new-tokens", "6"]) == 0
    printed = capsys.readouterr()
    expected = [literal(base, text, max_new_tokens=6) for text in ("Name a bird.", "x")]
    assert printed.out == "".join(text + "\n" for text in expected)
    assert "must leave room for an answer" in printed.err


def refused(capsys, command: list[str], message: str) -> None:
    """Exit code 2 and one line."""
    try:
        code = generate.main(command)
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err.strip().split("\n")
    assert code == 2
    assert len(error) == 1
    assert error[0].startswith("generate.py: error: ")
    assert message in error[0]


def test_errors_are_one_line(base, tmp_path, capsys, monkeypatch):
    model, source, out = ["--model", str(base)], tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    refused(capsys, model, "give --instruction or --file")
    refused(capsys, [*model, "--file", str(source)], "--file and --out belong together")
    refused(capsys, [*model, "--instruction", "x", "--file", str(source), "--out", str(out)], "not both")
    refused(
        capsys, [*model, "--file", str(source), "--out", str(out), "--input", "x"], "--input needs an --instruction"
    )
    refused(capsys, [*model, "--instruction", "x", "--max-new-tokens", "0"], "--max-new-tokens must be at least 1")
    refused(capsys, [*model, "--file", str(source), "--out", str(out)], "no data file at")
    source.write_text("")
    refused(capsys, [*model, "--file", str(source), "--out", str(out)], "at least one row")
    source.write_text('{"instruction": "a"}\n{"question": "b"}\n')
    refused(capsys, [*model, "--file", str(source), "--out", str(out)], "row 2 of")
    source.write_text('{"instruction": "a"}\n')
    out.write_text("something of the user's\n")
    refused(capsys, [*model, "--file", str(source), "--out", str(out)], "must be new, or of this command")
    assert out.read_text() == "something of the user's\n"
    refused(capsys, [*model, "--instruction", "x" * 600], "must leave room for an answer in the model's 512 tokens")
    refused(capsys, ["--model", str(tmp_path), "--instruction", "x"], "must have config.json")
    save(adapted(tiny("llama", hidden_size=32)), tmp_path / "other")
    refused(capsys, [*model, "--instruction", "x", "--adapter", str(tmp_path / "other")], "hidden_size 32")


@pytest.mark.slow
def test_works_as_a_module_from_any_folder(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in (["-m", "llm.generate"], [str(ROOT / "llm" / "generate.py")], ["-m", "llm.evaluate"]):
        run = subprocess.run(
            [sys.executable, *command, "--help"], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert run.returncode == 0, run.stderr
        assert "examples:" in run.stdout
