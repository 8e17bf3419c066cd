"""Tables of a study that nobody ran, with accuracies drawn at random, for the tests of figures and notebooks."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from common import tables
from common.streams import stream
from llm.world import claims
from llm.world.experiments import Cell, Experiment, ablations, rate, sample_efficiency, tuning
from llm.world.tables import COLUMNS, CURVE

LEVEL = {"nonlinear": 0.9, "linear": 0.85, "random_init": 0.6, "full": 1.0, "lora": 0.97, "nonlinear_shared": 0.8}
LEVEL |= {"vera": 0.7, "ia3": 0.65, "prompt_tuning": 0.55}


def write_study(folder: Path, experiment: Experiment) -> None:
    """Every table that the experiment asks for, as `llm.study` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    arms = (*experiment.arms, *experiment.matched)
    tuned = [_row(cell) for arm in arms for cell in tuning(experiment, experiment.exponents, arm)]
    main = [_row(_with_rate(cell)) for cell in sample_efficiency(experiment)]
    other = [_row(_with_rate(cell)) for cell in ablations(experiment)]
    rows = {"tuning": tuned if experiment.ablations else [], "sample_efficiency": main, "ablations": other}
    for name, some in rows.items():
        if some:
            tables.write(folder / f"{name}.csv", some, COLUMNS)
    curve = [
        {**row, "epoch": float(e), "step": 60 * e, "train_loss": 2.0 / e, "held_out_loss": 1.0 / e}
        for row in other
        if row["ablation"] == "equal_epochs"
        for e in range(1, 6)
    ]
    if curve:
        tables.write(folder / "curves.csv", curve, CURVE)
    claims.write(folder, *(tables.read(folder / f"{name}.csv", COLUMNS) for name in ("sample_efficiency", "ablations")))
    untuned = {"accuracy": 0.02, "multiple_choice": 0.31, "loss": 3.0, "chance": 0.09}
    text = {"experiment": asdict(experiment), "untuned": untuned, "provenance": {}}
    (folder / "study.json").write_text(json.dumps(text))


def best(arm: str) -> float:
    """The rate that the tuning finds."""
    return rate(-2.5 if arm in ("full", "lora") else -1.5)


def _with_rate(cell: Cell) -> Cell:
    if isinstance(cell.learning_rate, float):
        return cell
    return replace(cell, learning_rate=rate(-1.5) if cell.learning_rate == "common" else best(cell.arm))


def _row(cell: Cell) -> dict:
    rng = stream(0, cell.arm, str(cell.fraction), cell.seed, str(cell.learning_rate), cell.ablation, cell.setting)
    level = LEVEL[cell.arm.removesuffix("_matched")] * cell.fraction**0.15
    if cell.part == "validation":
        level /= 1 + (cell.learning_rate / best(cell.arm) - best(cell.arm) / cell.learning_rate) ** 2
    accuracy = float(min(1.0, level + 0.03 * rng.standard_normal() ** 2))
    names = ("arm", "fraction", "seed", "learning_rate", "world", "ablation", "setting")
    return {name: getattr(cell, name) for name in names} | {
        "accuracy": accuracy,
        "multiple_choice": min(1.0, accuracy + 0.05),
        "held_out_loss": 2.0 - accuracy,
        "steps": 400,
        "trainable": 5136,
        "seconds": 10.0,
        "rows": round(1000 * cell.fraction),
        "train_loss": 0.5,
        "status": "finished",
    }
