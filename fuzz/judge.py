"""One case, and what became of it: refused in words, right, or a failure.

A failure is a traceback from inside, a hang, a wrong number, a lost row, or nonsense accepted.
"""

import os
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from common.arguments import CommandError
from common.paths import ROOT

PATIENCE = 120  # seconds, after which a case hangs
OURS = tuple(str(ROOT / room) + os.sep for room in ("zeroinit", "theory", "llm", "common", "figures"))
REFUSALS = (ValueError, TypeError, OSError, CommandError, MemoryError)


class Case(NamedTuple):
    """A call, and what must come of it.

    Attributes
    ----------
    words : str
        What was given, to be reported with a failure.
    call : callable
    expected : {'right', 'refused', 'either'}
    check : callable
        What is wrong with the result, in words, or None.
    """

    words: str
    call: Callable[[], Any]
    expected: str
    check: Callable[[Any], str | None] = lambda result: None


class Refused(NamedTuple):
    """What a command gives that ends with exit code 2 after one line."""

    line: str


@dataclass
class Tally:
    """Counts of one entry point."""

    entry: str
    cases: int = 0
    refused: int = 0
    right: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, outcome: str) -> None:
        """Count a case: refused, right, or what is wrong."""
        self.cases += 1
        if outcome in ("refused", "right"):
            setattr(self, outcome, getattr(self, outcome) + 1)
        else:
            self.failures.append(f"{what}: {outcome}")


class Hang(BaseException):
    """The time of a case is over."""


def judge(case: Case) -> str:
    """refused, right, or what failed."""
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.call()
            if isinstance(result, Refused):
                return f"right input refused: {result.line}" if case.expected == "right" else "refused"
            wrong = case.check(result) if case.expected != "refused" else f"nonsense accepted: {result!r}"[:300]
    except Hang:
        return f"hangs for {PATIENCE} s"
    except REFUSALS as error:
        if case.expected == "right":
            return f"right input refused: {type(error).__name__}: {error}"[:300]
        return "refused" if in_words(error) else f"from inside: {_last(error)}"
    except Exception as error:
        return f"from inside: {_last(error)}"
    return wrong or "right"


def in_words(error: BaseException) -> bool:
    """Whether a line of the project raises the error, in one line of words; or the system names a file.

    What Python or a library raises is no such thing, even if a line of the project calls it.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return True
    text, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
    by_us = last.filename.startswith(OURS) and (last.line or "").startswith("raise")
    return by_us and bool(text.strip()) and "\n" not in text


def _last(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())}"[:300]


@contextmanager
def _limited():
    def over(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
