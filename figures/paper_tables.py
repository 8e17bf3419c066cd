"""The paper's tables beside what is measured and counted here; a cell without a measurement says what fills it."""

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.texts import read_json
from figures.frames import read
from figures.llm_figures import LOOK
from figures.llm_tables import COMMANDS, COMMITTED, Measured, band
from figures.paper_numbers import ACCURACY, BENCHMARKS, COSTS, TEST_SIZES, Entry, averages
from figures.style import BLACK, BLUE, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILION, Mark, figure
from llm.evaluation import tasks
from llm.training.counts import COLUMNS, TABLE

NAMES = {arm: mark.label for arm, mark in LOOK.items()}
ACCURACIES = ("arc_easy", "arc_challenge", "mmlu", "hellaswag", "truthfulqa")  # tasks of `BENCHMARKS`
LOOK_OF = {
    "ARC-e": Mark("ARC-e", BLUE, "s"),
    "ARC-c": Mark("ARC-c", SKY, "s", True),
    "MMLU": Mark("MMLU", GREEN, "^"),
    "HellaSwag": Mark("HellaSwag", ORANGE, "v", True),
    "TruthfulQA": Mark("TruthfulQA", PURPLE, "D", True),
    "average": Mark("average", BLACK, "o"),
}


def published() -> list[dict]:
    """Tables 1 and 2 as printed, with the averages recomputed from the entries."""
    return [
        {"model": f"{e.size} {NAMES[e.method]}", "parameters": e.parameters}
        | {name: f"{x:.2f}" for name, x in zip(BENCHMARKS, e.scores, strict=True)}
        | {"ARC": f"{e.arc:.2f}", "average": f"{e.average:.2f}", "average, recomputed": f"{e.recomputed[1]:.2f}"}
        | {"agrees": "yes" if e.agrees else "**no**"}
        for e in ACCURACY
    ]


def accuracies(measured: Measured) -> list[dict]:
    """Tables 1 and 2: published average, accuracy on the small world with all data, and average of LLaMA here."""
    return [
        {"model": f"{e.size} {NAMES[e.method]}", "published": f"{e.average:.2f}"}
        | {"ours (small world)": _small_world(measured, e), "ours (LLaMA)": _llama(e.size, e.method)}
        for e in ACCURACY
    ]


def _small_world(measured: Measured, entry: Entry) -> str:
    if entry.size != "7B":
        return "as 7B"
    whole = all_data(measured, entry)
    if not whole:
        return f"not run: `{COMMANDS['sample_efficiency']}`"
    value, low, high = (100 * whole[k] for k in ("value", "low", "high"))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def all_data(measured: Measured, entry: Entry) -> dict:
    """Accuracy of the entry's method on the small world with all of its data; empty where it was not run."""
    points = band(measured.efficiency, entry.method)
    return next(iter(points[points["fraction"] == 1.0].to_dict("records")), {})


def _run(size: str, method: str) -> str:
    return f"llama-{size.lower()}-{method}"


def _llama(size: str, method: str) -> str:
    """Average of the paper's protocol on the whole test sets."""
    run = _run(size, method)
    results = _record(COMMITTED / run / "paper.json").get("results", {})
    whole = [t for t in ACCURACIES if results.get(t, {"n": 0})["n"] == TEST_SIZES[t]]
    scores = tuple(100 * results[t]["accuracy"] for t in whole)
    if len(scores) == len(ACCURACIES):
        return f"{averages(scores)[1]:.2f}"
    evaluation = f"python llm/evaluate.py {_tuned(size, method)} --protocol paper --out results/llm/{run}"
    return f"not run: `python llm/finetune.py {run}`, then `{evaluation}`"


def _tuned(size: str, method: str) -> str:
    """Arguments for a model where `llm.finetune` puts it."""
    folder = f"results/scratch/llm/{_run(size, method)}"
    if method == "full":
        return f"--model {folder}/model"
    return f"--model huggyllama/llama-{size.lower()} --adapter {folder}/adapter"


def _record(path: Path) -> dict:
    return read_json(path, "the record of a run") if path.is_file() else {}


def trainable(size: str, method: str) -> int:
    """Parameters that a method trains on LLaMA of a size, from results/llm/parameters.csv."""
    counts = _counts()
    if (size.lower(), method) not in counts:
        raise LookupError(f"{TABLE} has no {method} on {size}; run `python -m llm.training.counts`")
    return counts[size.lower(), method]


@cache
def _counts() -> dict[tuple[str, str], int]:
    table = read(TABLE, COLUMNS, ("size", "method"))
    return dict(zip(zip(table["size"], table["method"], strict=True), map(int, table["trainable"]), strict=True))


def number(printed: str) -> float:
    """1.2M, 42K or 7B as a number."""
    return float(printed[:-1]) * {"K": 1e3, "M": 1e6, "B": 1e9}[printed[-1]]


def parameters() -> list[dict]:
    """Trainable parameters of Tables 1 and 2, as printed and counted."""
    return [
        {"model": f"{e.size} {NAMES[e.method]}", "published": e.parameters, "counted": f"{count:,}"}
        | {"counted / published": count / number(e.parameters)}
        for e in ACCURACY
        for count in (trainable(e.size, e.method),)
    ]


def costs() -> list[dict]:
    """Table 3: parameters counted, storage in float32 from that, time of training where a run was made."""
    found = []
    for size, method, printed, storage, minutes in COSTS:
        count, run = trainable(size, method), _run(size, method)
        record = _record(COMMITTED / f"{run}.json")
        whole = record.get("configuration", {}).get("fraction") == 1
        curve = record["results"].get("curve") if whole else None
        time = f"{curve[-1]['seconds'] / 3600:.2f} h" if curve else f"not run: `python llm/finetune.py {run}`"
        found.append(
            {
                "model": f"{size} {NAMES[method]}",
                "parameters: published": printed,
                "counted": f"{count:,}",
                "storage: published": f"{storage:g} MB",
                "float32": f"{4 * count / 2**20:.2f} MiB",
                "time: published": f"{minutes // 60} h {minutes % 60} min (4 A100)",
                "ours": time,
            }
        )
    return found


def sizes() -> list[dict]:
    """Table 4: test items, recounted from the files in the folder that ZIA_DATA names."""
    folder, found = os.environ.get("ZIA_DATA"), []
    for task, printed in TEST_SIZES.items():
        counted = "not run: `ZIA_DATA=DIR python figures/draw.py tables`"
        if folder:
            try:
                counted = str(len(tasks.items(task, folder)))
            except FileNotFoundError:
                counted = f"not run: ZIA_DATA needs {tasks.file_names(task)}"
        found.append({"task": task, "published": printed, "counted": counted})
    return found


def accuracy_figure(measured: Measured) -> tuple[Figure, list[dict]]:
    """Tables 1 and 2 drawn: published accuracies of each benchmark, and the small world with all of its data."""
    drawn, (left, right) = figure(PAGE, 3.6, 1, 2, sharey=True, width_ratios=(3, 2))
    numbers: list[dict] = []
    for y, e in enumerate(ACCURACY):
        model = {"size": e.size, "method": e.method}
        for name, value in (*zip(BENCHMARKS, e.scores, strict=True), ("average", e.recomputed[1])):
            left.plot(value, y, linestyle="", zorder=3, **LOOK_OF[name].points)
            numbers.append(_cell(model, name, value / 100, "published"))
        if e.size != "7B":
            continue
        if whole := all_data(measured, e):
            right.hlines(y, whole["low"], whole["high"], color=VERMILION, linewidth=0.8)
            right.plot(whole["value"], y, "o", color=VERMILION)
            numbers.append(_cell(model, "exact answers", whole["value"], "small world", whole))
        else:
            right.text(0.02, y, f"not run: {COMMANDS['sample_efficiency']}", va="center", color="0.45", size=5)
    for ax in (left, right):
        ax.axhline(7.5, color="0.45", linewidth=0.7)
        ax.grid(axis="y", color="0.92", linewidth=0.6)
        ax.tick_params(axis="y", length=0)
    labels = [f"{e.size} {NAMES[e.method]}" for e in ACCURACY]
    left.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.5, -0.5))
    left.set(title="published", xlabel="accuracy, %")
    right.set(title="small world, all data", xlabel="exact answers, %", xlim=(0, 1.03))
    right.xaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    handles = [left.plot([], [], linestyle="", label=m.label, **m.points)[0] for m in LOOK_OF.values()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=6)
    return drawn, numbers


def _cell(model: dict, benchmark: str, value: float, source: str, bounds: Mapping | None = None) -> dict:
    low, high = (float(bounds[k]) if bounds else np.nan for k in ("low", "high"))
    return {**model, "source": source, "benchmark": benchmark, "accuracy": value, "low": low, "high": high}
