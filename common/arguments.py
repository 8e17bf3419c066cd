"""Command lines that answer a mistake with one line."""

import argparse
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps docstrings as they are laid out, and whose errors are one line and exit code 2."""

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        """Stop with the message on standard error."""
        self.exit(2, f"{self.prog}: error: {message}\n")
