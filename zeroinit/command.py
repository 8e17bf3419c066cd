"""The parser of this library's two commands."""

import argparse
from pathlib import Path
from typing import NoReturn


def path(text: str) -> Path:
    """Type of an argument that names a file or a folder; `.` is the current one."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("must name a file or a folder, and is empty or has a NUL character")
    return Path(text)


class Parser(argparse.ArgumentParser):
    """Errors are one line and exit code 2; examples keep their layout."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Stop with the message on standard error."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")
