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
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm
from transformers import TextStreamer

from common.arguments import Parser
from llm import data, inference, journal
from llm.decoding import DECODINGS, Decoding, generate, token_ids
from llm.evaluate import add_model_arguments, model_configuration
from llm.memory import out_of_memory
from llm.rows import read_file

EXAMPLES = """examples:
  python llm/generate.py --model models/llama-7b --adapter runs/nonlinear/adapter
  python llm/generate.py --model models/llama-7b --adapter runs/nonlinear/adapter --instruction "Name three birds."
  python llm/generate.py --model models/llama-7b --instruction "Translate to Spanish." --input "I am not a cat."
  python llm/generate.py --model models/llama-7b --file questions.jsonl --out answers.jsonl --decoding published
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    a = _arguments(argv)
    inference.quiet()
    try:
        rows = _instructions(a.file) if a.file else []  # a wrong file shows before the model is loaded
        model, tokenizer = inference.load(
            a.model, a.adapter, gate_activation=a.gate_activation, precision=a.precision, device=a.device
        )
        decoding = replace(DECODINGS[a.decoding], max_new_tokens=a.max_new_tokens, seed=a.seed)
        if a.file:
            unfit = answer_file(a, model, tokenizer, rows, decoding)
            print(f"{len(rows)} answers in {a.out}" + (f"; {unfit} instructions do not fit the model" if unfit else ""))
        elif a.instruction is not None:
            answer(model, tokenizer, a.instruction, a.input, decoding)
        else:
            chat(model, tokenizer, decoding)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail("out of memory; use a smaller --batch-size, or --precision bfloat16")
    except (ValueError, OSError) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("generate.py: stopped" + ("; the same command goes on from here" if a.file else ""), file=sys.stderr)
        return 130
    return 0


def answer(model: Any, tokenizer: Any, instruction: str, input: str, decoding: Decoding, key: int = 0) -> None:
    """Print the answer to one instruction as it comes."""
    ids = token_ids(tokenizer, data.prompt(instruction, input))
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    found = generate(model, tokenizer, [ids], decoding, [key], streamer)
    if found[0].cut:
        print("(cut: the answer is as long as --max-new-tokens or the model's context allow)", file=sys.stderr)


def chat(model: Any, tokenizer: Any, decoding: Decoding) -> None:
    """Answer lines from the terminal until it is closed; Ctrl-C stops an answer, and with none, the program."""
    print("One instruction per line; Ctrl-D ends.", file=sys.stderr)
    number = 0
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if not line:
            continue
        try:
            answer(model, tokenizer, line, "", decoding, number)
        except KeyboardInterrupt:
            print()
        except ValueError as error:  # too long for the model: the next one may not be
            print(error, file=sys.stderr)
        number += 1


def answer_file(
    a: argparse.Namespace, model: Any, tokenizer: Any, rows: list[dict[str, Any]], decoding: Decoding
) -> int:
    """Write rows with their answers as `output` to a.out, in their order; how many instructions do not fit.

    Beside it, a.out.json tells model, decoding and provenance. Rows that are there already are not answered again. An
    instruction that leaves no room for an answer has the output null.

    Raises
    ------
    ValueError
        If a.out holds answers of another model, decoding or file.
    """
    if a.out.resolve() == a.file.resolve():
        raise ValueError(f"--out must be another file than that of the instructions, {a.file}")
    record = a.out.with_name(a.out.name + ".json")
    configuration = {
        **model_configuration(a, model),
        "decoding": asdict(decoding),
        "instructions": hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16],
    }
    if journal.known(record, configuration) is None and a.out.exists():
        raise ValueError(f"{a.out} must be new, or of this command, which keeps {record.name} beside it")
    if a.fresh:
        a.out.unlink(missing_ok=True)
    journal.claim(record, configuration, a.fresh)
    context, done = inference.context_length(model), len(journal.read(a.out))
    for start in tqdm(range(done, len(rows), a.batch_size), desc=a.file.name, unit="batch", mininterval=1):
        batch = rows[start : start + a.batch_size]
        prompts = [token_ids(tokenizer, data.prompt(row["instruction"], row["input"])) for row in batch]
        fit = [n for n, ids in enumerate(prompts) if len(ids) < context]
        keys = [start + n for n in fit]
        found = generate(model, tokenizer, [prompts[n] for n in fit], decoding, keys) if fit else []
        outputs: list[dict[str, Any]] = [{"output": None} for _ in batch]
        for n, (text, cut) in zip(fit, found, strict=True):
            outputs[n] = {"output": text.strip(), "cut": cut}
        journal.append(a.out, [row | output for row, output in zip(batch, outputs, strict=True)])
    return sum(row["output"] is None for row in journal.read(a.out))


def _instructions(path: Path) -> list[dict[str, Any]]:
    """Rows of a .json, .jsonl or .parquet file; any columns, `instruction` among them, and an `input` or none."""
    rows = read_file(path)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            found = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"every row must have an instruction, as text; row {number} of {path} has {found}")
        row["input"] = "" if row.get("input") is None else row["input"]
        if not isinstance(row["input"], str):
            raise ValueError(f"input must be a string, if there is any; row {number} of {path} has {row['input']!r}")
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except (TypeError, UnicodeEncodeError) as error:
            raise ValueError(
                f"rows must be text and numbers; row {number} of {path} cannot be written: {error}"
            ) from error
    if not rows:
        raise ValueError(f"{path} must have at least one row; it is empty")
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(prog="generate.py", description=__doc__, epilog=EXAMPLES)
    add_model_arguments(p)
    p.add_argument("--instruction", metavar="TEXT", help="one instruction (without it and --file: the terminal)")
    p.add_argument("--input", default="", metavar="TEXT", help="what the instruction is about, if anything")
    p.add_argument("--file", type=Path, metavar="PATH", help=".json, .jsonl or .parquet with instruction and input")
    p.add_argument("--out", type=Path, metavar="PATH", help="with --file: where to write, JSON lines")
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
    for name in ("max_new_tokens", "batch_size"):
        if getattr(a, name) < 1:
            p.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(a, name)}")
    if a.seed < 0:
        p.error(f"--seed must not be negative; got {a.seed}")
    return a


def _fail(message: str) -> int:
    print(f"generate.py: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
