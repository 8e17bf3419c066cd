"""Command lines that answer a mistake with one line, and end when they are told to."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from common.memory import out_of_disk, out_of_memory

RESUMES = "the same command resumes"
PATIENCE = 4.0  # seconds that a stopped command has to end by itself


class CommandError(Exception):
    """A command cannot do what it was asked; the message says what to change."""


class Stopped(KeyboardInterrupt):
    """The user (SIGINT) or the system (SIGTERM) asks the process to end."""


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps docstrings as they are laid out, and whose errors are one line and exit code 2."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Stop with the message on standard error."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Stop, with a message on standard error."""
        _say(message or "")
        sys.exit(status)

    def print_help(self, file: Any = None) -> None:
        """Write the help text; exit code 1 if it was lost."""
        if code := run(self.prog, lambda: print(self.format_help(), end="", file=file), ""):
            sys.exit(code)


def _without_trace(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ctrl-C while modules load, before `run` has begun, ends a command by the signal alone."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _without_trace


def given(text: str) -> str:
    """Type of an option that may be anything but empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError("must not have a NUL character")
    return text


def file(text: str) -> Path:
    """Type of an option that names a file."""
    return Path(given(text))


def folder(text: str) -> Path:
    """Type of an option that names a folder, which may be missing; `.` is the current one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must name a folder, and is empty; the current folder is .")
    path = file(text)
    with suppress(OSError):
        if path.exists() and not path.is_dir():
            raise argparse.ArgumentTypeError(f"must be a folder that can be written; {path} is a file")
    return path


def run(prog: str, work: Callable[[], None], stopped: str = RESUMES, memory: str = "use a machine with more") -> int:
    """Do the work of a command and give its exit code.

    0; 2 after a line that says what went wrong; 1 after a line that says that the standard output was lost; 130 and
    143 when stopped by SIGINT and SIGTERM, within seconds.

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
    told = f"{prog}: stopped" + (f"; {stopped}" if stopped else "") + "\n"
    output = _Output(sys.stdout)
    try:
        with _ending_on_signals(told), redirect_stdout(output):
            work()
            output.flush()
    except KeyboardInterrupt as stop:
        _say(told)
        return 128 + (stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT)
    except BrokenProcessPool:
        _say(f"{prog}: error: the system killed a worker, perhaps for its memory; {RESUMES}\n")
        return 2
    except Exception as error:
        if output.lost and isinstance(error, CommandError | ValueError | OSError | RuntimeError):
            hint = f"; {stopped}" if stopped else ""
            _say(f"{prog}: error: the standard output was lost ({output.lost}); files are written{hint}\n")
            return 1
        if out_of_memory(error):
            words = f"out of memory; {memory}"
        elif out_of_disk(error):
            words = f"a file cannot be written, perhaps the disk is full ({' '.join(str(error).split())[:200]})"
        elif isinstance(error, CommandError | ValueError | OSError):
            words = " ".join(_words(error).split())
        else:
            raise
        _say(f"{prog}: error: {words}\n")
        return 2
    finally:
        output.end()
    return 0


class _Output:
    """The standard output, which tells whether it was the one that failed."""

    def __init__(self, stream: Any):
        self.stream, self.lost = stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        return self._try("write", text)

    def flush(self) -> None:
        self._try("flush")

    def end(self) -> None:
        """Let go what cannot be written, about which Python would complain at its end."""
        if self.stream is None:
            return
        try:
            self.stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def _try(self, method: str, *arguments: str) -> Any:
        try:
            if self.stream is None:
                raise OSError("it is closed")
            return getattr(self.stream, method)(*arguments)
        except (OSError, ValueError) as error:
            self.lost = getattr(error, "strerror", None) or str(error)
            raise


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _say(message: str) -> None:
    """Write to the standard error, which may be closed or full, too."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(message)
        sys.stderr.flush()


@contextmanager
def _ending_on_signals(told: str) -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `Stopped`; after `PATIENCE`, end at once.

    Further ones are ignored from then on, for the process is about to end. Signals that it was started to ignore stay
    ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    # Code that takes no exceptions (callbacks of libraries) may swallow that of the signal.
    watch = threading.Timer(PATIENCE, lambda: _end_at_once(told))
    watch.daemon = True

    def stop(number: int, frame: Any) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        watch.start()
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if (handler := signal.getsignal(number)) != signal.SIG_IGN:
            before[number] = handler
            signal.signal(number, stop)
    try:
        yield
    finally:
        if watch.ident is None:
            for number, handler in before.items():
                signal.signal(number, handler)
        watch.cancel()


def _end_at_once(told: str) -> NoReturn:
    _say(told)
    os._exit(128 + signal.SIGINT)
