"""One training run of the small world, scored, as a row of a table; and many of them on worker processes."""

import copy
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from common import tables, workers
from llm.data.alpaca import encode
from llm.data.splits import fraction
from llm.methods import registry
from llm.methods.bases import read_model, read_tokenizer
from llm.training.errors import Diverged
from llm.training.settings import Training
from llm.training.train import train
from llm.world import folder as world_folder
from llm.world.experiments import ARMS, Cell, Experiment
from llm.world.scoring import chance, score
from llm.world.tables import CURVE, KEY, Table, key
from llm.world.world import World


def run(cell: Cell, experiment: Experiment, worlds: str, device: str = "cpu") -> tuple[dict[str, Any], list[dict]]:
    """Train one cell on its world and score it: its row, and its loss curve where the cell is one with epochs.

    Parameters
    ----------
    cell : Cell
        With a number for a learning rate.
    experiment : Experiment
    worlds : str
        Folder of the bases of the worlds.
    device : str
    """
    assert isinstance(cell.learning_rate, float)
    torch.set_num_threads(1)
    began = time.perf_counter()
    base, tokenizer, world, instructions = _base(worlds, cell.world)
    arm = ARMS[cell.arm]
    model = registry.apply(copy.deepcopy(base).to(device), arm.method, {**arm.options, **cell.options}, cell.seed)
    if cell.gate is not None:
        _fix_gates(model, cell.gate)
    examples = encode(fraction(instructions, cell.fraction, cell.seed), tokenizer).examples
    validation = encode([q.row for q in world.questions("validation")], tokenizer).examples if cell.epochs else []
    settings = Training(learning_rate=cell.learning_rate, batch_size=experiment.batch_size, seed=cell.seed)
    if cell.epochs:
        settings = replace(settings, epochs=cell.epochs)
    else:
        settings = replace(settings, steps=experiment.steps, evaluate_every=experiment.steps)
    row = {
        **{c: getattr(cell, c) for c in KEY},
        **dict.fromkeys(("accuracy", "multiple_choice", "held_out_loss", "train_loss"), float("nan")),
        "steps": experiment.steps,
        "trainable": registry.counts(model)["trainable"],
        "rows": len(examples),
        "status": "finished",
    }
    curve: list[dict] = []
    try:
        curve = train(model, examples, validation, settings, device=device)
        scored = score(model, tokenizer, world.questions(cell.part))
        row |= {
            "accuracy": scored.accuracy,
            "multiple_choice": scored.multiple_choice,
            "held_out_loss": scored.loss,
            "train_loss": curve[-1]["train_loss"],
            "steps": curve[-1]["step"],
        }
    except Diverged:
        row["status"] = "diverged"
    row["seconds"] = time.perf_counter() - began
    return row, [{**{c: getattr(cell, c) for c in KEY}, **point} for point in curve] if cell.epochs else []


@cache
def _base(worlds: str, number: int) -> tuple[Any, Any, World, list[dict[str, str]]]:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the study has its own
    folder = Path(worlds) / str(number)
    world = world_folder.read(folder)
    base = read_model(folder, torch.float32)
    return base, read_tokenizer(folder), world, world.instructions()


@torch.no_grad()
def _fix_gates(model: torch.nn.Module, value: float) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter.fill_(value).requires_grad_(False)


class Runner:
    """Runs cells that have no row yet, on worker processes, and keeps their rows."""

    def __init__(self, experiment: Experiment, folder: Path, worlds: Path, count: int, device: str):
        self.experiment, self.folder, self.worlds, self.device = experiment, folder, str(worlds), device
        self.workers = workers.pool(count)

    def __enter__(self) -> "Runner":
        self.pool = self.workers.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.workers.__exit__(*error)

    def fill(self, table: Table, cells: Sequence[Cell], name: str) -> None:
        """Run the cells that the table has no row of."""
        missing = [cell for cell in cells if key(cell) not in table.rows]
        if not missing:
            return
        curves = self.folder / "curves.csv"
        bar = tqdm(total=len(cells), initial=len(cells) - len(missing), desc=name, unit="run", smoothing=0.1)
        futures = [self.pool.submit(run, cell, self.experiment, self.worlds, self.device) for cell in missing]
        with bar:
            for future in as_completed(futures):
                row, curve = future.result()
                for point in curve:
                    tables.append(curves, point, CURVE)
                table.add(row)
                bar.update()


def untuned(worlds: Path, number: int = 0) -> dict[str, float]:
    """Score of the base before any tuning, and chance."""
    base, tokenizer, world, _ = _base(str(worlds), number)
    found = score(base, tokenizer, world.questions("test"))
    return {**asdict(found), "chance": chance(world.questions("test"))}
