"""The parser of this library's two commands."""

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Errors are one line and exit code 2; examples keep their layout."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Stop with the message on standard error."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")
