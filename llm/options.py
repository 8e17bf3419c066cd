"""Command-line options that several commands share."""

import argparse

from common.arguments import given
from llm.methods.names import PRECISIONS
from zeroinit.config import GATE_ACTIVATIONS

MEMORY = "use a smaller --batch-size, or --precision bfloat16"


def add_model_arguments(p: argparse.ArgumentParser) -> None:
    """Options that say which model; for every command that uses a trained one."""
    p.add_argument("--model", type=given, required=True, metavar="PATH", help="a Hugging Face folder, or a hub id")
    p.add_argument("--adapter", type=given, metavar="DIR", help="what was trained on it (none: the model as it is)")
    p.add_argument(
        "--gate-activation",
        choices=GATE_ACTIVATIONS,
        help="tanh(g) or the raw g as the factor of the prompts; published: identity for ARC, MMLU and TruthfulQA, "
        "tanh for HellaSwag (as trained)",
    )
    p.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the model (auto: as saved)")
    p.add_argument("--device", type=given, metavar="NAME", help="cpu, cuda, cuda:1, ... (a GPU if there is one)")


def check_least(parser: argparse.ArgumentParser, arguments: argparse.Namespace, least: int, *names: str) -> None:
    """Stop the parser unless these options are absent or at least `least`."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}; got {value}")
