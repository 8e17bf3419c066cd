"""Command lines that answer a mistake with one line."""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NoReturn

from common.memory import out_of_memory

RESUMES = "the same command resumes"


class CommandError(Exception):
    """A command cannot do what it was asked; the message says what to change."""


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps docstrings as they are laid out, and whose errors are one line and exit code 2."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Stop with the message on standard error."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(prog: str, work: Callable[[], None], stopped: str = RESUMES, memory: str = "use a machine with more") -> int:
    """Do the work of a command and give its exit code: 0, 2 after a line that says what went wrong, 130 when stopped.

    Only errors that a user can mend are turned into a line: what the project raises in words, and what files,
    the network and memory do. Anything else is a defect and keeps its traceback.

    Parameters
    ----------
    prog : str
        Name of the command.
    work : callable
    stopped : str
        What to do after Ctrl-C.
    memory : str
        What to do if memory does not suffice.
    """
    try:
        work()
    except KeyboardInterrupt:
        print(f"{prog}: stopped" + (f"; {stopped}" if stopped else ""), file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print(f"{prog}: error: the system killed a worker, perhaps for its memory; {RESUMES}", file=sys.stderr)
        return 2
    except (CommandError, ValueError, OSError, MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            words = f"out of memory; {memory}"
        elif isinstance(error, RuntimeError):
            raise
        else:
            words = " ".join(str(error).split())
        print(f"{prog}: error: {words}", file=sys.stderr)
        return 2
    return 0
