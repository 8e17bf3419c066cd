"""Command lines, run in this process: each mistake is one line and exit code 2, and nothing is written."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.judge import Case, Refused
from fuzz.nonsense import Random, pick
from fuzz.samples import SMALL, base
from llm import evaluate, finetune, generate, pretrain, study
from llm.world import folder as worlds
from llm.world.folder import Pretraining
from theory import simulate
from zeroinit import convert, gates

COUNTS = ("0", "-1", "2.5", "x", "", "nan", "-99999999999999999999999", "1e3", " ", "0x10")
SEEDS = COUNTS[1:]
SHARES = ("0", "-1", "1.5", "nan", "inf", "x", "")
POSITIVE = ("0", "-1", "nan", "inf", "-inf", "x", "", "1e999")
NAMES = ("none of these", "", " ", "--", "ä")
FOLDERS = ("", " ", "FILE", "FILE/below", "a\0b")
ABSENT = ("/no/such/place", "./none", "", " ", "FILE")
MODELS = ("/no/such/model", "./none/at/all", "", "FILE", "EMPTY")
SETS = ("depth=3", "layers", "layers=0", "layers=-1", "layers=99", "layers=x", "prompt_length=0", "prompt_length=nan",
        "=3", "prompt_length=" + "9" * 30, "layers=[1]", "initial_scale=-1", "initial_scale=inf", "gate=none")  # fmt: skip


@dataclass(frozen=True)
class Command:
    """A command, a command line that it takes, and what its options may not be.

    Words in capitals are places: OUT is to be written, BASE a model, DATA its rows, TASKS a folder with tasks, FILE a
    file of somebody, EMPTY an empty folder.
    """

    name: str
    main: Callable[[Sequence[str]], int]
    valid: Sequence[str]
    wrong: Mapping[str, Sequence[str]]
    runs: Sequence[Sequence[str]] = field(default=(("--help",),))


MODEL = ("--model", "BASE", "--device", "cpu")
SHORT = ("--model", "BASE", "--data", "DATA", "--steps", "2", "--batch-size", "4", "--validation", "2")
COMMANDS = (
    Command(
        "theory/simulate.py",
        simulate.main,
        ("exact-linear", "--sizes", "40", "80", "--replicates", "2", "--workers", "1", "--out", "OUT"),
        {
            "": NAMES,
            "--replicates": (*COUNTS, "1"),
            "--noise": POSITIVE,
            "--seed": SEEDS,
            "--workers": COUNTS,
            "--out": FOLDERS,
            "--sizes": (*COUNTS, "5", "100"),
            "--none": NAMES,
        },
        (("--help",), ("--list",), ()),
    ),
    Command(
        "llm/study.py",
        study.main,
        ("--workers", "1", "--out", "OUT"),
        {
            "": NAMES,
            "--workers": COUNTS,
            "--out": FOLDERS,
            "--tables": NAMES,
            "--size": NAMES,
            "--device": (*NAMES, "cuda"),
            "--worlds": ("EMPTY", *FOLDERS),
        },
    ),
    Command(
        "llm/finetune.py",
        finetune.main,
        ("mini-linear", *SHORT, "--set", "layers=2", "--out", "OUT", "--result", "OUT/result.json"),
        {
            "--method": (*NAMES, "bitfit"),
            "--model": MODELS,
            "--data": ("/no/such.json", "", "FILE", "EMPTY", "./none.json"),
            "--set": SETS,
            "--fraction": SHARES,
            "--validation": ("-1", "9999", "x", "2.5", ""),
            "--learning-rate": POSITIVE,
            "--epochs": COUNTS,
            "--steps": COUNTS,
            "--warmup": ("1", "-0.1", "nan", "inf", "x"),
            "--batch-size": COUNTS,
            "--micro-batch-size": COUNTS,
            "--length": ("0", "1", "9999", "-3", "x"),
            "--precision": NAMES,
            "--evaluate-every": SEEDS,
            "--checkpoint-every": COUNTS,
            "--seed": SEEDS,
            "--out": FOLDERS,
            "--result": ("", "EMPTY", "FILE"),
            "--throughput": POSITIVE,
        },
        (("--help",), ("--list",), (), ("--dry-run", "--throughput", "1")),
    ),
    Command(
        "llm/pretrain.py",
        pretrain.main,
        ("--train", "6", "--validation", "1", "--test", "1", "--asked", "2", "--steps", "1", "--out", "OUT"),
        {
            **{f"--{name}": COUNTS for name in ("train", "validation", "test", "asked", "steps", "batch-size")},
            **{f"--{name}": COUNTS for name in ("hidden", "layers", "heads")},
            "--asked": ("7", *COUNTS),
            "--seed": SEEDS,
            "--learning-rate": POSITIVE[1:],
            "--weight-decay": POSITIVE[1:],
            "--out": FOLDERS,
        },
    ),
    Command(
        "llm/evaluate.py",
        evaluate.main,
        (
            *MODEL,
            "--protocol",
            "paper",
            "--tasks",
            "arc_easy",
            "--data",
            "TASKS",
            "--max-new-tokens",
            "2",
            "--out",
            "OUT",
        ),
        {
            "--model": MODELS,
            "--adapter": MODELS,
            "--tasks": NAMES,
            "--data": ("/no/such", "EMPTY", "FILE", ""),
            "--limit": COUNTS,
            "--decoding": NAMES,
            "--max-new-tokens": COUNTS,
            "--truthfulqa-order": NAMES,
            "--batch-size": COUNTS,
            "--seed": SEEDS,
            "--out": FOLDERS,
            "--device": ("none", "cuda:99", "", "cpu:x"),
            "--precision": NAMES,
            "--protocol": NAMES,
            "--gate-activation": ("tanh", *NAMES),
        },
        (("--help",), ()),
    ),
    Command(
        "llm/generate.py",
        generate.main,
        (*MODEL, "--file", "DATA", "--out", "OUT/answers.jsonl", "--max-new-tokens", "2"),
        {
            "--model": MODELS,
            "--adapter": MODELS,
            "--file": ("/no/such.json", "", "EMPTY", "FILE", "DATA/below"),
            "--out": ("", "EMPTY", "FILE", "DATA"),
            "--max-new-tokens": COUNTS,
            "--batch-size": COUNTS,
            "--seed": SEEDS,
            "--decoding": NAMES,
            "--instruction": ("Name a bird.",),
            "--input": ("alone",),
        },
        (("--help",), ()),
    ),
    Command("zeroinit.gates", gates.main, ("EMPTY", "--out", "OUT"), {"": MODELS, "--out": ("", "FILE")}),
    Command(
        "zeroinit.convert",
        convert.main,
        ("to-linear", "EMPTY", "OUT"),
        {"": NAMES, "--none": NAMES},
    ),
)


@cache
def places() -> dict[str, str]:
    """Models, data and other places that cases share; what they should not change is looked at after each."""
    root = Path(tempfile.mkdtemp())
    made = {name: str(root / name.lower()) for name in ("BASE", "TASKS", "EMPTY")}
    worlds.write(base(), SMALL, Pretraining(hidden=16, layers=3, heads=2), [], Path(made["BASE"]))
    Path(made["TASKS"]).mkdir()
    Path(made["EMPTY"]).mkdir()
    item = {
        "id": "q1",
        "question": {"stem": "Who?", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]},
        "answerKey": "A",
    }
    lines = "".join(json.dumps(item | {"id": f"q{n}"}) + "\n" for n in range(3))
    Path(made["TASKS"], "ARC-Easy-Test.jsonl").write_text(lines)
    rows = root / "data.json"
    rows.write_text(json.dumps(SMALL.instructions()[:20]))
    somebody = root / "file"
    somebody.write_text("of somebody")
    return made | {"DATA": str(rows), "FILE": str(somebody)}


def case(command: Command, rng: Random) -> Case:
    """A command line with one or two mistakes, or none."""
    if rng.random() < 0.04:
        more = pick(rng, command.runs)
        words = [*more] if more and more[0] in ("--help", "--list") else [*command.valid, *more]
        return _case(command, words, "right" if command.valid[0] not in ("EMPTY", "to-linear") or more else "refused")
    words = list(command.valid)
    for _ in range(int(rng.integers(1, 3))):
        option = pick(rng, list(command.wrong))
        value = pick(rng, command.wrong[option])
        words = [*words, option, value] if option else [value, *words]
    return _case(command, words, "refused")


def _case(command: Command, words: list[str], expected: str) -> Case:
    out = Path(tempfile.mkdtemp()) / "out"
    known = places() | {"OUT": str(out)}

    def fill(word: str) -> str:
        first, slash, rest = word.partition("/")
        return known.get(first, first) + slash + rest

    argv = [fill(word) for word in words]

    def call() -> Any:
        text, error = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(error):
                code = command.main(argv)
        except SystemExit as stop:
            code = stop.code
        finally:
            shutil.rmtree(out.parent, ignore_errors=True)
        if code == 2:
            said = [line for line in error.getvalue().replace("\r", "\n").split("\n") if ": error: " in line]
            last = error.getvalue().rstrip("\n").replace("\r", "\n").rsplit("\n", 1)[-1]
            if len(said) == 1 and said[0] == last and "Traceback" not in error.getvalue():
                return Refused(said[0])
            return f"exit code 2 after {error.getvalue()[-300:]!r}"
        return code

    def check(code: Any) -> str | None:
        kept = Path(known["FILE"]).read_text() == "of somebody" and not os.listdir(known["EMPTY"])
        return None if code in (0, None) and kept else f"exit code {code}" if kept else "a file of somebody is changed"

    return Case(" ".join([command.name, *words]).replace("\0", "NUL"), call, expected, check)
