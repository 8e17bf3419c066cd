#!/usr/bin/env python
"""The paper's comparison on a small world: sample efficiency of every arm, and what it depends on.

Without arguments the quick twin, in minutes. Every finished run is a row of a table at once; a study that was stopped
goes on where it was. Rows depend neither on the number of workers nor on the order.
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # workers share the cores; one thread each also fixes the order of every sum

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace

import torch

from common import tables
from common.arguments import Parser
from common.paths import RESULTS, SCRATCH
from common.records import provenance, write_atomic
from llm import claims, pretrain
from llm.experiments import (
    FULL,
    LARGE,
    PROMPT_ARMS,
    QUICK,
    Cell,
    Experiment,
    ablations,
    rate,
    sample_efficiency,
    tuning,
)
from llm.pretrain import fingerprint
from llm.runs import COLUMNS, CURVE, KEY, Runner, Table, key, untuned
from llm.training import TrainingError

TABLES = ("tuning", "sample_efficiency", "ablations")
# What every row or every rate depends on, besides bases and device. Arms, fractions, seeds and worlds may be added.
FIXED = ("steps", "batch_size", "tuning_fraction", "tuning_seeds", "exponents")
WIDEN = 6  # an arm whose best is still at an edge then has no best rate in reach
COMMITTED = RESULTS / "llm"
EXAMPLES = """examples:
  python llm/study.py                                 quick twin, to results/scratch/llm
  python llm/study.py --full                          everything, to results/llm (hours; resumes)
  python llm/study.py --full --tables tuning          the learning rates only
  python llm/study.py --size large --workers 1 --device cuda
                                                      on a larger world, to results/llm/large
"""


class StudyError(ValueError):
    """A request that cannot be met, in words for the person who made it."""


def best(table: Table, arm: str, grid: Iterable[float] | None = None) -> tuple[float, bool] | None:
    """The rate of an arm's highest mean accuracy in the tuning (ties: lower loss), and whether it is at an edge.

    Of the rates of a grid; None: of all that were run.
    """
    means = {r: _mean(table, arm, r) for r in (_rates(table, arm) if grid is None else grid)}
    if not means:
        return None
    top = max(means, key=lambda r: means[r])
    return top, top in (min(means), max(means))


def common_rate(table: Table, arms: Iterable[str]) -> float:
    """The rate of the tuning grid with the highest accuracy averaged over these arms: the fairest single one."""
    shared = set.intersection(*(set(_rates(table, arm)) for arm in arms))
    return max(sorted(shared), key=lambda r: sum(_mean(table, arm, r)[0] for arm in arms))


def _rates(table: Table, arm: str) -> list[float]:
    return sorted({float(row["learning_rate"]) for row in table.rows.values() if row["arm"] == arm})


def _mean(table: Table, arm: str, learning_rate: float) -> tuple[float, float]:
    rows = [r for r in table.rows.values() if r["arm"] == arm and float(r["learning_rate"]) == learning_rate]
    if any(row["status"] != "finished" for row in rows):
        return float("-inf"), float("-inf")
    return sum(float(r["accuracy"]) for r in rows) / len(rows), -sum(float(r["held_out_loss"]) for r in rows) / len(
        rows
    )


def study(
    experiment: Experiment,
    folder: Path,
    runner: Runner,
    wanted: Sequence[str] = TABLES,
    tuned: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Fill the tables of a study, in their order, then judge the claims.

    Parameters
    ----------
    experiment : Experiment
    folder : Path
        Where the tables are and grow.
    runner : Runner
    wanted : sequence of str
        Which of `TABLES`.
    tuned : Path, optional
        Folder of an earlier study whose tuning gives the rates; none is run then.
    say : callable
    """
    table = Table(tuned or folder, "tuning")
    arms = (*experiment.arms, *experiment.matched)
    if "tuning" in wanted and tuned is None:
        runner.fill(table, [c for arm in arms for c in tuning(experiment, experiment.exponents, arm)], "tuning")
        _widen(experiment, table, runner, arms)
    rates = {arm: found[0] for arm in arms if (found := best(table, arm))}
    if missing := [arm for arm in arms if arm not in rates]:
        command = "python llm/study.py --full --tables tuning"
        raise StudyError(f"{table.path} has no rows of {', '.join(missing)}; `{command}` makes them")
    rates["common"] = common_rate(table, [arm for arm in arms if arm in PROMPT_ARMS])
    say("learning rates: " + ", ".join(f"{arm} {r:g}" for arm, r in rates.items()))
    for name, cells in (("sample_efficiency", sample_efficiency(experiment)), ("ablations", ablations(experiment))):
        if name in wanted and cells:
            grown, todo = Table(folder, name), [_with_rate(cell, rates) for cell in cells]
            _reuse(grown, Table(folder, "sample_efficiency"), todo)
            runner.fill(grown, todo, name)
    _write_sorted(folder)
    wanted_rows = [_rows_of(folder, TABLES[1], sample_efficiency(experiment), rates)]
    wanted_rows += [_rows_of(folder, TABLES[2], ablations(experiment), rates)]
    found = claims.write(folder, *wanted_rows)
    for claim in found:
        say(
            "{value:+.3f} [{low:+.3f}, {high:+.3f}]  {verdict:<13}  {claim} (rates: {rates}, world {world})".format(
                **claim
            )
        )


def _rows_of(folder: Path, name: str, cells: Sequence[Cell], rates: dict[str, float]) -> list[dict[str, str]]:
    """Rows of these cells alone: a table may have others, of an earlier tuning or of another list."""
    rows = Table(folder, name).rows
    return [rows[k] for cell in cells if (k := key(_with_rate(cell, rates))) in rows]


def _reuse(table: Table, earlier: Table, cells: Sequence[Cell]) -> None:
    """Where the common rate is an arm's best one, the run is that of the main study: its row is taken over."""
    for cell in cells:
        same = earlier.rows.get(key(replace(cell, ablation="", setting="")))
        if cell.ablation == "common_rate" and same and key(cell) not in table.rows:
            table.add({**same, "ablation": cell.ablation, "setting": cell.setting})


def _with_rate(cell: Cell, rates: dict[str, float]) -> Cell:
    named = cell.learning_rate or cell.arm
    return replace(cell, learning_rate=rates[named]) if isinstance(named, str) else cell


def _widen(experiment: Experiment, table: Table, runner: Runner, arms: Sequence[str]) -> None:
    """A further half decade beyond the edge where an arm's best is, until it is not at one, or for `WIDEN` times."""
    exponents = {arm: list(experiment.exponents) for arm in arms}
    for _ in range(WIDEN):
        cells = []
        for arm in arms:
            known = exponents[arm]
            # Rows beyond this grid may be there from a run that was stopped; they must not change the way.
            top, edge = best(table, arm, map(rate, known)) or (0.0, False)
            if not edge:
                continue
            added = [max(known) + 0.5] if top == rate(max(known)) else [min(known) - 0.5]
            known += added
            cells += tuning(experiment, added, arm)
        if not cells:
            return
        runner.fill(table, cells, "tuning, wider")


def _write_sorted(folder: Path) -> None:
    for name in TABLES:
        path = folder / f"{name}.csv"
        if rows := tables.read(path, COLUMNS):
            tables.write(path, sorted(rows, key=lambda r: [_number(r[c]) for c in KEY]), COLUMNS)
    # A run that was killed between its curve and its row has run again.
    if points := tables.read(folder / "curves.csv", CURVE):
        unique = {tuple(point.values()): point for point in points}
        tables.write(
            folder / "curves.csv", [unique[k] for k in sorted(unique, key=lambda k: [*map(_number, k)])], CURVE
        )


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _claim(experiment: Experiment, folder: Path, worlds: Path, device: str = "cpu", fresh: Sequence[str] = ()) -> None:
    """Make the folder this experiment's, or stop if it is another's; note which code and machine go on with it.

    Tables named in `fresh` are removed, once it is sure that they can be made again.
    """
    path = folder / "study.json"
    now = json.loads(json.dumps({"experiment": asdict(experiment), "provenance": provenance()}))
    ground = {"bases": {str(w): fingerprint(worlds / str(w)) for w in (0, *experiment.worlds)}, "device": device}
    if not path.is_file() or set(fresh) == set(TABLES):
        known = {**now, **ground, "untuned": untuned(worlds), "continued": []}
    else:
        known = json.loads(path.read_text())
        known = {**ground, "continued": [], **known}
        before = {name: known["experiment"].get(name) for name in FIXED} | {"device": known["device"]}
        after = {name: now["experiment"][name] for name in FIXED} | {"device": device}
        for world, base in known["bases"].items():
            before[f"base of world {world}"], after[f"base of world {world}"] = base, ground["bases"].get(world, base)
        if wrong := [name for name in before if before[name] != after[name]]:
            raise StudyError(
                f"{folder} has a study of another configuration ({wrong[0]} {before[wrong[0]]} instead of "
                f"{after[wrong[0]]}); name another folder by --out, or start anew with --fresh"
            )
        known["bases"] |= ground["bases"]
        if known["experiment"] != now["experiment"]:
            known["continued"].append({**now["provenance"], "experiment before": known["experiment"]})
        elif [known["provenance"], *known["continued"]][-1] | {"time": ""} != now["provenance"] | {"time": ""}:
            known["continued"].append(now["provenance"])
        known["experiment"] = now["experiment"]
    for name in fresh:
        for file in (f"{name}.csv", "claims.csv", *(["curves.csv"] if name == "ablations" else [])):
            (folder / file).unlink(missing_ok=True)
    write_atomic(path, json.dumps(known, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="study.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--full", action="store_true", help="the full study instead of the quick twin")
    parser.add_argument("--size", choices=("small", "large"), default="small", help="large: the world of the GPU tier")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=" ".join(TABLES))
    parser.add_argument("--workers", type=int, metavar="W", help="processes, one thread each (one a core; 1 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--worlds", type=Path, default=pretrain.WORLDS, metavar="DIR", help="results/llm/worlds")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results/scratch/llm; --full: results/llm")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of these tables")
    arguments = parser.parse_args(argv)
    count = (os.cpu_count() or 1) if arguments.device == "cpu" else 1
    count = count if arguments.workers is None else arguments.workers
    if count < 1:
        parser.error(f"--workers must be at least 1; got {count}")
    large = arguments.size == "large"
    full = arguments.full or large
    folder = arguments.out or (COMMITTED / "large" if large else COMMITTED if full else SCRATCH / "llm")
    experiment = LARGE if large else FULL if full else QUICK
    worlds = arguments.worlds / "large" if large else arguments.worlds
    try:
        if arguments.device != "cpu" and not torch.cuda.is_available():
            raise StudyError(f"--device {arguments.device} needs a GPU, and torch sees none; leave --device out")
        folder.mkdir(parents=True, exist_ok=True)
        _claim(experiment, folder, worlds, arguments.device, arguments.tables if arguments.fresh else ())
        with Runner(experiment, folder, worlds, count, arguments.device) as runner:
            study(experiment, folder, runner, arguments.tables, None if full else COMMITTED)
    except (StudyError, TrainingError, BrokenProcessPool, tables.TableError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("study.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
