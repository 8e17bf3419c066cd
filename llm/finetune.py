#!/usr/bin/env python
"""Fine-tune a model on instruction data by one of the paper's methods.

A run writes what was trained to DIR/adapter (full fine-tuning: DIR/model), which llm/evaluate.py and llm/generate.py
take, and its configuration, data report, curve and provenance to results/llm/NAME.json. It can be killed at any moment:
the same command goes on from the last checkpoint in DIR.

Several GPUs: `torchrun --nproc_per_node N llm/finetune.py ...` or `accelerate launch`, with the same effective batch; a
base that does not fit one GPU is sharded by `accelerate launch --config_file llm/fsdp.yaml --num_processes N`.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import argparse
import ast
import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from common import arguments as commands
from common.arguments import Parser, run
from common.paths import RESULTS, SCRATCH, label
from llm.methods.names import METHODS
from llm.training.presets import PRESETS, Preset
from llm.training.settings import PRECISIONS, Training

EXAMPLES = """examples:
  python llm/finetune.py mini-nonlinear                            the small world, a minute on a CPU
  python llm/finetune.py llama-7b-nonlinear --dry-run              what it will take
  python llm/finetune.py llama-7b-nonlinear --model DIR --data alpaca_data.json --out runs/nonlinear
  python llm/finetune.py mini-linear --set prompt_length=20 initial_scale=0.1 --learning-rate 0.02 --out runs/long
  torchrun --nproc_per_node 4 llm/finetune.py llama-7b-linear --out runs/linear
  accelerate launch --config_file llm/fsdp.yaml --num_processes 4 llm/finetune.py llama-13b-nonlinear --out runs/13b
"""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="finetune.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="what to run; --list shows all")
    parser.add_argument("--list", action="store_true", help="list the presets and stop")
    parser.add_argument("--dry-run", action="store_true", help="estimate parameters, memory and time, and stop")
    parser.add_argument("--throughput", type=float, metavar="T", help="TFLOP/s for the estimate (this machine's)")
    parser.add_argument("--model", type=commands.given, metavar="PATH", help="folder or hub id of the base")
    parser.add_argument(
        "--data", type=commands.given, metavar="PATH", help="a .json, .jsonl or .parquet file, or a hub id"
    )
    parser.add_argument("--method", choices=METHODS, metavar="M", help=", ".join(METHODS))
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="options of the method"
    )
    parser.add_argument("--fraction", type=float, default=1.0, metavar="F", help="share of the training rows (1)")
    parser.add_argument("--validation", type=int, metavar="N", help="rows held out, of which training sees none")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="peak")
    parser.add_argument("--epochs", type=int, metavar="E", help="passes over the data")
    parser.add_argument("--steps", type=int, metavar="S", help="optimiser steps, instead of epochs")
    parser.add_argument("--warmup", type=float, metavar="W", help="share of the steps with a rising rate")
    parser.add_argument("--batch-size", type=int, metavar="B", help="rows of a step, over all processes")
    parser.add_argument("--micro-batch-size", type=int, metavar="B", help="most rows computed at once in a process")
    parser.add_argument("--length", type=int, metavar="L", help="most tokens of a row")
    group = parser.add_mutually_exclusive_group()
    for name, text in (("packed", "several rows in one"), ("padded", "every row to --length, as published")):
        group.add_argument(f"--{name}", dest="batching", action="store_const", const=name, help=text)
    parser.add_argument("--precision", choices=PRECISIONS, help="of the computation and, but for full, the base")
    parser.add_argument("--gradient-checkpointing", action="store_true", default=None, help="less memory, more time")
    parser.add_argument("--evaluate-every", type=int, metavar="S", help="steps between rows of the curve (0: an epoch)")
    parser.add_argument("--checkpoint-every", type=int, metavar="S", help="steps between checkpoints")
    parser.add_argument("--seed", type=int, metavar="S", help="of the initial values, the subset and the order")
    parser.add_argument(
        "--out", type=commands.folder, metavar="DIR", help="folder of the run (results/scratch/llm/PRESET)"
    )
    parser.add_argument("--result", type=commands.file, metavar="FILE", help="results/llm/NAME.json, NAME that of DIR")
    parser.add_argument(
        "--other-rounding", action="store_true", help="go on though this machine or micro-batch rounds otherwise"
    )
    parser.add_argument("--fresh", action="store_true", help="start anew, removing this run from DIR")
    return parser


def configured(a: argparse.Namespace) -> Preset:
    """The preset with what the command line changes.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """
    name = a.preset
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name}; there are {', '.join(PRESETS)}")
    if a.method:
        name = f"{name.removesuffix(PRESETS[name].method)}{a.method}"
    preset = PRESETS[name]
    changes = {f.name: getattr(a, f.name, None) for f in fields(Training)}
    training = replace(preset.training, **{key: value for key, value in changes.items() if value is not None})
    if a.epochs is not None and a.steps is None:
        every = training.evaluate_every if a.evaluate_every is not None else 0
        training = replace(training, steps=None, evaluate_every=every)
    sources = {key: value for key in ("model", "data", "validation") if (value := getattr(a, key)) is not None}
    options = {**preset.options, **dict(_option(text) for text in a.set)}
    return replace(preset, training=training, options=options, **sources)


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"--set takes NAME=VALUE; got {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = _parser()
    a = parser.parse_args(argv)
    if a.list:
        for preset in PRESETS.values():
            print(f"{preset.name:26} {label(preset.model):24} {preset.training.learning_rate:g}")
        return 0
    if a.preset is None:
        parser.error("name a preset; --list shows all")
    if a.throughput is not None and not 0 < a.throughput < math.inf:
        parser.error(f"--throughput must be positive and finite; got {a.throughput}")

    def work() -> None:
        preset = configured(a)
        out = a.out or SCRATCH / "llm" / preset.name

        from llm.methods.loading import quiet  # torch is not needed before
        from llm.training.estimate import report
        from llm.training.run import finetune
        from llm.training.train import memory_in_words

        quiet()
        if a.dry_run:
            print(report(preset, a.fraction, out, a.throughput))
            return
        result = a.result or RESULTS / "llm" / f"{out.resolve().name}.json"
        with memory_in_words():
            record = finetune(preset, a.fraction, out, result, a.fresh, a.other_rounding)
        if record:
            print(table(record["results"]["curve"]))
            print(f"{out}, {result}")

    return run("finetune.py", work)


def table(curve: list[dict[str, Any]]) -> str:
    """The curve for people."""
    lines = [f"{'epoch':>7}{'step':>7}{'train loss':>12}{'held out':>10}{'seconds':>9}"]
    for row in curve:
        held_out = "" if row["held_out_loss"] is None else f"{row['held_out_loss']:.4f}"
        lines.append(f"{row['epoch']:7.2f}{row['step']:7}{row['train_loss']:12.4f}{held_out:>10}{row['seconds']:9.1f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
