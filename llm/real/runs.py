"""One training run on a real base, its loss on every held-out row, and what was trained, kept for scoring."""

import shutil
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.streams import stream
from llm.data.alpaca import IGNORED, Example, encode
from llm.data.batches import Collator
from llm.data.rows import read
from llm.data.splits import fraction
from llm.evaluation import prefix
from llm.methods import loading, registry
from llm.methods.bases import read_tokenizer
from llm.real.protocol import ARMS, Cell, Protocol
from llm.training.errors import Diverged
from llm.training.loss import response_loss
from llm.training.settings import Training
from llm.training.train import train


@dataclass(frozen=True)
class Place:
    """Where a study computes: base, file or hub id of the instructions, device, folder of what was trained."""

    base: str
    instructions: str
    device: str
    trained: str


@dataclass(frozen=True)
class Rows:
    """Examples of the four parts, disjoint also as instructions."""

    held_out: list[Example]
    sample: list[Example]
    tuning_held_out: list[Example]
    tuning_sample: list[Example]


def run(cell: Cell, protocol: Protocol, place: Place) -> tuple[dict[str, Any], list[dict], list[dict]]:
    """Train one cell and score it: its row, the loss of every held-out row, and its curve.

    A cell of the study is kept in `place.trained`, if it is one that is scored on benchmarks.
    """
    assert cell.learning_rate is not None
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()
    base, _ = loading.load_base(place.base, "float32", place.device)
    rows = examples(place, protocol)
    tuning = cell.part == "tuning"
    method = cell.arm if tuning else ARMS[cell.arm].method
    options = {} if cell.initial_scale is None else {"initial_scale": cell.initial_scale}
    model = registry.apply(base, method, options, cell.seed)
    part = rows.tuning_sample if tuning else fraction(rows.sample, cell.share, cell.seed)
    settings = Training(
        learning_rate=cell.learning_rate,
        epochs=cell.epochs or 1,
        steps=cell.steps,
        batch_size=protocol.batch_size,
        length=protocol.length,
        seed=cell.seed,
        evaluate_every=10,
    )
    row = {
        **{name: getattr(cell, name) for name in ("arm", "share", "seed", "rate_rule", "learning_rate")},
        **{"attention": _words(method).attention, "prompt": _words(method).prompt},
        **{"initial_scale": cell.initial_scale, "trainable": registry.counts(model)["trainable"], "rows": len(part)},
        **dict.fromkeys(("steps", "tokens", "held_out_loss", "train_loss"), float("nan")),
        "status": "finished",
    }
    losses: list[dict] = []
    curve: list[dict] = []
    try:
        curve = train(model, part, [], settings, device=place.device)
        row |= {"steps": curve[-1]["step"], "tokens": curve[-1]["tokens"], "train_loss": curve[-1]["train_loss"]}
        losses = row_losses(model.eval(), rows.tuning_held_out if tuning else rows.held_out)
        row["held_out_loss"] = mean_loss(losses)
        if is_scored(cell, protocol):
            keep(model, folder_of(cell, place))
    except Diverged:
        row["status"] = "diverged"
    row |= {"seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}
    return row, [{**row, **loss} for loss in losses], [{**row, **point} for point in curve]


def untuned(protocol: Protocol, place: Place) -> tuple[dict[str, Any], list[dict], list[dict]]:
    """The base as it is, as a row of the study."""
    torch.set_num_threads(1)
    began, cpu = time.perf_counter(), time.process_time()
    model, _ = loading.load_base(place.base, "float32", place.device)
    losses = row_losses(model, examples(place, protocol).held_out)
    row = {
        **{"arm": "base", "share": 0.0, "seed": 0, "rate_rule": "none", "attention": "", "prompt": ""},
        **dict.fromkeys(("learning_rate", "initial_scale", "train_loss")),
        **dict.fromkeys(("steps", "tokens", "rows", "trainable"), 0),
        **{"held_out_loss": mean_loss(losses), "status": "finished"},
        **{"seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - cpu, 2)},
    }
    return row, [{**row, **loss} for loss in losses], []


def is_scored(cell: Cell, protocol: Protocol) -> bool:
    """Whether a cell is one that benchmarks score: an arm at its own best rate, on the whole sample."""
    return cell.part == "study" and cell.rate_rule == "own_best" and cell.share == max(protocol.shares)


def folder_of(cell: Cell, place: Place) -> Path:
    """Where what a cell trained is kept."""
    return Path(place.trained) / f"{cell.arm}-{cell.share:g}-{cell.seed}-{cell.rate_rule}"


def keep(model: nn.Module, folder: Path) -> None:
    """Save whole, or not at all."""
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    registry.save(model, unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def row_losses(model: nn.Module, held_out: list[Example]) -> list[dict[str, Any]]:
    """Of every row: its number, mean loss over the tokens of its response, and how many they are."""
    starts = [example["labels"].count(IGNORED) for example in held_out]
    pairs = [(e["input_ids"][:start], e["input_ids"][start:]) for e, start in zip(held_out, starts, strict=True)]
    if prefix.possible(model):
        sums = [-value for value, _ in prefix.loglikelihoods(model, pairs)]
    else:
        sums = [_loss(model, example) for example in held_out]
    return [
        {"row": number, "loss": round(total / len(pair[1]), 6), "tokens": len(pair[1])}
        for number, (total, pair) in enumerate(zip(sums, pairs, strict=True))
    ]


def mean_loss(losses: list[dict[str, Any]]) -> float:
    """Mean over all tokens."""
    return sum(loss["loss"] * loss["tokens"] for loss in losses) / sum(loss["tokens"] for loss in losses)


@torch.no_grad()
def _loss(model: nn.Module, example: Example) -> float:
    device = next(model.parameters()).device
    total, _ = response_loss(model, {name: t.to(device) for name, t in Collator()([example]).items()})
    return total.item()


@cache
def examples(place: Place, protocol: Protocol) -> Rows:
    """The four parts of the instructions that fit the length, drawn by a stream of their own.

    Raises
    ------
    ValueError
        If there are too few rows.
    """
    tokenizer = read_tokenizer(place.base)
    rows = [row for row in _once(read(place.instructions)) if row["output"]]
    encoded = encode(rows, tokenizer, protocol.length + 1).examples
    fitting = [example for example in encoded if len(example["input_ids"]) <= protocol.length]
    sizes = [protocol.held_out, protocol.sample, protocol.tuning_held_out, protocol.tuning_sample]
    if len(fitting) < sum(sizes):
        raise ValueError(
            f"{sum(sizes)} rows of at most {protocol.length} tokens are needed; {place.instructions} has {len(fitting)}"
        )
    order = stream(0, "real", "rows").permutation(len(fitting)).tolist()
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    return Rows(*([fitting[i] for i in order[end - size : end]] for size, end in zip(sizes, ends, strict=True)))


def _once(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first row of every instruction and input, so that no part has rows of another."""
    return list({(row["instruction"], row["input"]): row for row in reversed(rows)}.values())[::-1]


def _words(method: str) -> Any:
    return next(arm for arm in ARMS.values() if arm.method == method)
