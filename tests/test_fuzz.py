"""`make fuzz` sees what it is for: each kind of failure, every public name, command and kind of file."""

import json

import numpy as np
import pytest
import torch

import theory
import zeroinit
from common.paths import ROOT
from fuzz import (
    damages,
    inputs,
    judge,
    lines,
    of_commands,
    of_common,
    of_files,
    of_llm,
    of_studies,
    of_theory,
    of_zeroinit,
    report,
)
from fuzz.judge import Case, Tally
from fuzz.nonsense import Entry
from theory.arrays import count

ENTRIES = {e.name: e for room in (of_zeroinit, of_theory, of_studies, of_llm, of_common) for e in room.ENTRIES}


def refuses():
    return count("n", "x")


def says_what_python_says():
    return len(3)  # type: ignore[arg-type]


def hangs():
    while True:
        pass


@pytest.mark.parametrize(
    ("call", "expected", "check", "outcome"),
    [
        (lambda: 3, "right", lambda found: None, "right"),
        (lambda: 3, "right", lambda found: "3 instead of 4", "3 instead of 4"),
        (lambda: 3, "refused", lambda found: None, "nonsense accepted: 3"),
        (refuses, "refused", None, "refused"),
        (refuses, "right", None, "right input refused: TypeError: n must be a whole number"),
        (says_what_python_says, "refused", None, "from inside: TypeError at test_fuzz.py"),
        (lambda: np.zeros(3) + np.zeros(4), "refused", None, "from inside: ValueError at test_fuzz.py"),
        (lambda: {}["a"], "either", None, "from inside: KeyError"),
        (hangs, "either", None, "hangs for 1 s"),
    ],
)
def test_outcomes(call, expected, check, outcome, monkeypatch):
    monkeypatch.setattr(judge, "PATIENCE", 1)
    assert judge.judge(Case("", call, expected, check or (lambda found: None))).startswith(outcome)


def test_a_comparison_that_python_refuses_in_our_own_line_is_from_inside():
    """Only a line that raises counts as words of the project."""
    case = Case("", lambda: zeroinit.AdapterConfig.adapted_layers(zeroinit.AdapterConfig(layers=2), "x"), "refused")
    assert judge.judge(case).startswith("from inside: TypeError at config.py")


BROKEN = {
    "theory.MoERegression()": lambda model, x, prompts: model(x, prompts) + 1e-6,
    "theory.jacobian": lambda **given: ENTRIES["theory.jacobian"].call(**given) * 1.001,
    "llm.data.batches.pack": lambda examples, length: of_llm.pack(examples, length)[1:] or [examples[0]] * 2,
    "zeroinit.disabled": lambda model: of_zeroinit.logits(model),
    "common.streams.stream": lambda seed, key: np.zeros(3),
    "llm.training.train": lambda method, rate, stop: of_llm._trained(method, rate * 1.01, None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_result_is_seen(name):
    """What the entry calls is broken; among its valid inputs some show it."""
    true = ENTRIES[name]
    broken = Entry(name, BROKEN[name], true.valid, {}, true.check)
    torch.manual_seed(0)
    cases = [broken.case(np.random.default_rng(number)) for number in range(4)]
    assert any(judge.judge(case) not in ("right", "refused") for case in cases)


def test_a_damage_that_is_not_seen_is_a_failure(monkeypatch):
    kind = damages.Kind("text", lambda path: (path / "a").write_text("123"), lambda path: "of no file", exact=True)
    monkeypatch.setattr(damages, "same", lambda one, other: one == "123")
    monkeypatch.setattr(damages, "DAMAGES", {"digit": damages.digits})
    outcome = judge.judge(damages.case(kind, np.random.default_rng(0)))
    assert outcome == "a damaged file is read as something else"


def test_a_reader_that_changes_its_file_is_a_failure():
    def read(path):
        (path / "a").write_text("")

    kind = damages.Kind("text", lambda path: (path / "a").write_text("123"), read)
    outcomes = {judge.judge(damages.case(kind, np.random.default_rng(number))) for number in range(5)}
    assert "from inside: RuntimeError at damages.py" in " ".join(outcomes)


def test_every_public_name_and_command_is_tried():
    tried = " ".join(ENTRIES)
    words = {"load": "save, load", "trainable_parameters": "detach, trainable_parameters"}
    for room in (zeroinit, theory):
        for name in room.__all__:
            assert f"{room.__name__}.{words.get(name, name)}" in tried, name
    with_main = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("zeroinit", "theory", "llm", "common", "figures")
        for path in (ROOT / room).rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    # The command line of lm_eval is the harness's own, and so are its errors; its adapters are those of `load`.
    assert {command.module for command in of_commands.COMMANDS} == with_main - {"zeroinit.lm_eval"}


def test_it_is_as_large_as_promised():
    counts = {name: count for name, (count, _) in inputs.sources().items()}
    files = sum(count for name, count in counts.items() if name.startswith("file: "))
    assert files >= 500
    assert sum(counts.values()) - files >= 10_000


@pytest.mark.parametrize("kind", of_files.KINDS, ids=lambda kind: kind.name)
def test_a_sample_is_read_and_equals_itself(kind):
    assert damages.same(kind.read(damages.sample(kind)), kind.read(damages.sample(kind)))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_takes_its_valid_inputs(name):
    for number in range(2):
        rng = np.random.default_rng(number)
        entry = ENTRIES[name]
        case = Entry(name, entry.call, entry.valid, {}, entry.check).case(rng)
        assert judge.judge(case) == "right"


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_refuses_every_nonsense(name):
    entry = ENTRIES[name]
    for keyword, values in entry.wrong.items():
        rng = np.random.default_rng(0)
        given = entry.valid(rng)
        for value in [values(rng, given) for _ in range(3)] if callable(values) else values:
            outcome = judge.judge(Case("", lambda given=given | {keyword: value}: entry.call(**given), "refused"))
            assert outcome == "refused", (keyword, value)


@pytest.mark.parametrize("command", of_commands.COMMANDS, ids=lambda command: command.name)
def test_a_mistake_in_a_command_is_one_line(command):
    cases = [lines.case(command, np.random.default_rng(number)) for number in range(3)]
    assert {judge.judge(case) for case in cases} <= {"refused", "right"}


def test_a_record_keeps_the_entries_of_the_other_command(tmp_path):
    record = tmp_path / "reliability.json"
    report.write("inputs", [Tally("a", 3, 1, 2), Tally("c", 1)], 0, 1.0, record)
    report.write("kills", [Tally("kills: b", 2, 0, 1, ["case 1: wrong"])], 0, 1.0, record)
    report.write("inputs", [Tally("a", 4, 2, 2)], 0, 1.0, record)
    first = {"entry": "a", "cases": 4, "refused": 2, "right": 2, "failures": 0}
    second = {"entry": "kills: b", "cases": 2, "refused": 0, "right": 1, "failures": 1}
    assert json.loads(record.read_text()) == [first, second]
    runs = json.loads((tmp_path / "reliability_runs.json").read_text())
    assert runs["kills"]["failures"] == ["kills: b: case 1: wrong"]
    assert runs["inputs"]["provenance"]["commit"]
