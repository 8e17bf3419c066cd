#!/usr/bin/env python
"""Answers of a trained model: to one instruction, to a file of them, or in the terminal.

Instructions are put into the Alpaca template that the models are trained with. In the terminal every line is an
instruction of its own, because the template has no place for earlier ones. Answers to a file are written as they come,
and a run that was stopped goes on where it was.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import argparse
from collections.abc import Sequence
from dataclasses import replace

from common.arguments import RESUMES, Parser, file, run
from llm.evaluation.settings import DECODINGS
from llm.options import MEMORY, add_model_arguments, check_least

EXAMPLES = """examples:
  python llm/generate.py --model models/llama-7b --adapter runs/nonlinear/adapter
  python llm/generate.py --model models/llama-7b --adapter runs/nonlinear/adapter --instruction "Name three birds."
  python llm/generate.py --model models/llama-7b --instruction "Translate to Spanish." --input "I am not a cat."
  python llm/generate.py --model models/llama-7b --file questions.jsonl --out answers.jsonl --decoding published
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    a = _arguments(argv)

    def work() -> None:
        from llm.evaluation import answers  # torch is not needed before
        from llm.methods import loading

        loading.quiet()
        rows = answers.instructions(a.file) if a.file else []  # a wrong file shows before the model is loaded
        model, tokenizer = loading.load(
            a.model, a.adapter, gate_activation=a.gate_activation, precision=a.precision, device=a.device
        )
        decoding = replace(DECODINGS[a.decoding], max_new_tokens=a.max_new_tokens, seed=a.seed)
        if a.file:
            unfit = answers.answer_file(a, model, tokenizer, rows, decoding)
            print(f"{len(rows)} answers in {a.out}" + (f"; {unfit} instructions do not fit the model" if unfit else ""))
        elif a.instruction is not None:
            answers.answer(model, tokenizer, a.instruction, a.input, decoding)
        else:
            answers.chat(model, tokenizer, decoding)

    return run("generate.py", work, RESUMES if a.file else "", MEMORY)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(prog="generate.py", description=__doc__, epilog=EXAMPLES)
    add_model_arguments(p)
    p.add_argument("--instruction", metavar="TEXT", help="one instruction (without it and --file: the terminal)")
    p.add_argument("--input", default="", metavar="TEXT", help="what the instruction is about, if anything")
    p.add_argument("--file", type=file, metavar="PATH", help=".json, .jsonl or .parquet with instruction and input")
    p.add_argument("--out", type=file, metavar="PATH", help="with --file: where to write, JSON lines")
    p.add_argument("--decoding", choices=DECODINGS, default="greedy", help="as in evaluate.py (greedy)")
    p.add_argument("--max-new-tokens", type=int, default=512, metavar="T", help="longest answer (512)")
    p.add_argument("--batch-size", type=int, default=16, metavar="B", help="with --file: instructions at once (16)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of the sampling (0)")
    p.add_argument("--fresh", action="store_true", help="with --file: remove earlier answers in --out first")
    a = p.parse_args(argv)
    if a.file and a.instruction is not None:
        p.error("give --instruction or --file, not both")
    if (a.file is None) != (a.out is None):
        p.error("--file and --out belong together")
    if a.input and a.instruction is None:
        p.error("--input needs an --instruction")
    if not a.file and a.instruction is None and not sys.stdin.isatty():
        p.error("give --instruction or --file; without them the instructions come from a terminal, and this is none")
    check_least(p, a, 1, "max_new_tokens", "batch_size")
    check_least(p, a, 0, "seed")
    return a


if __name__ == "__main__":
    sys.exit(main())
