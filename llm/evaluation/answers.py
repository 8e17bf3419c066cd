"""Answers to instructions: one, those of a terminal, or a file of them; the command is llm/generate.py."""

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TextStreamer

from common import journal
from llm.data.alpaca import prompt
from llm.data.rows import read_file
from llm.data.tokens import token_ids
from llm.evaluation.decoding import generate
from llm.evaluation.run import model_configuration
from llm.evaluation.settings import Decoding
from llm.methods import loading


def answer(model: Any, tokenizer: Any, instruction: str, input: str, decoding: Decoding, key: int = 0) -> None:
    """Print the answer to one instruction as it comes."""
    ids = token_ids(tokenizer, prompt(instruction, input))
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
    context, done = loading.context_length(model), len(journal.read(a.out))
    for start in tqdm(range(done, len(rows), a.batch_size), desc=a.file.name, unit="batch", mininterval=1):
        batch = rows[start : start + a.batch_size]
        prompts = [token_ids(tokenizer, prompt(row["instruction"], row["input"])) for row in batch]
        fit = [n for n, ids in enumerate(prompts) if len(ids) < context]
        keys = [start + n for n in fit]
        found = generate(model, tokenizer, [prompts[n] for n in fit], decoding, keys) if fit else []
        outputs: list[dict[str, Any]] = [{"output": None} for _ in batch]
        for n, (text, cut) in zip(fit, found, strict=True):
            outputs[n] = {"output": text.strip(), "cut": cut}
        journal.append(a.out, [row | output for row, output in zip(batch, outputs, strict=True)])
    return sum(row["output"] is None for row in journal.read(a.out))


def instructions(path: Path) -> list[dict[str, Any]]:
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
