"""Command lines, run in this process: each mistake is one line and exit code 2, and nothing is written."""

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import zeroinit
from common import arguments
from fuzz.judge import Case, Refused, in_words
from fuzz.nonsense import Random, pick
from fuzz.of_commands import Command
from fuzz.samples import SMALL, base
from llm.world import folder as worlds
from llm.world.folder import Pretraining


@cache
def places() -> dict[str, str]:
    """Models, data and other places that cases share; what they should not change is looked at after each."""
    root = Path(tempfile.mkdtemp())
    made = {name: str(root / name.lower()) for name in ("BASE", "ADAPTER", "TASKS", "EMPTY")}
    worlds.write(base(), SMALL, Pretraining(hidden=16, layers=3, heads=2), [], Path(made["BASE"]))
    zeroinit.save(zeroinit.attach(base(), zeroinit.AdapterConfig("nonlinear")), made["ADAPTER"])
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
        alone = more and more[0] in ("--help", "--list")
        return _case(command, [*more] if alone else [*command.valid, *more], "right")
    words, front = list(command.valid), []
    for _ in range(int(rng.integers(1, 3))):
        option = pick(rng, list(command.wrong))
        value = pick(rng, command.wrong[option])
        if isinstance(option, int):
            words[option] = value
        elif option:
            words += [option, value]
        else:
            front = [value]
    return _case(command, front + words, "refused")


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
            with contextlib.redirect_stdout(text), contextlib.redirect_stderr(error), _errors() as raised:
                code = command.main(argv)
        except SystemExit as stop:
            code = stop.code
        finally:
            shutil.rmtree(out.parent, ignore_errors=True)
        if code == 2:
            if inside := [each for each in raised if not in_words(each)]:
                raise inside[0]
            lines = error.getvalue().replace("\r", "\n").rstrip("\n").split("\n")
            said = [line for line in lines if ": error: " in line]
            if len(said) == 1 and said[0] == lines[-1] and "Traceback" not in error.getvalue():
                return Refused(said[0])
            return f"exit code 2 after {error.getvalue()[-300:]!r}"
        return code

    def check(code: Any) -> str | None:
        kept = Path(known["FILE"]).read_text() == "of somebody" and not os.listdir(known["EMPTY"])
        return None if code in (0, None) and kept else f"exit code {code}" if kept else "a file of somebody is changed"

    return Case(" ".join([command.name, *words]).replace("\0", "NUL"), call, expected, check)


@contextlib.contextmanager
def _errors() -> Iterator[list[Exception]]:
    """The errors that `common.arguments.run` turns into a line, each of which should be one in words by itself."""
    raised: list[Exception] = []
    words = arguments._words

    def kept(error: Exception) -> str:
        raised.append(error)
        return words(error)

    with mock.patch.object(arguments, "_words", kept):
        yield raised
