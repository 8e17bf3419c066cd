"""The study on the small world: its tables in their order, then the claims; the command is llm/study.py."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from common import seals, tables
from common.arguments import CommandError
from common.records import provenance, write_atomic
from llm.world import claims
from llm.world.experiments import PROMPT_ARMS, Cell, Experiment, ablations, grid, rate, sample_efficiency, tuning
from llm.world.folder import fingerprint
from llm.world.rates import best, common_rate
from llm.world.runs import Runner, untuned
from llm.world.tables import COLUMNS, CURVE, KEY, TABLES, Table, key

# What every row or every rate depends on, besides bases and device. Arms, fractions, seeds and worlds may be added.
FIXED = ("steps", "batch_size", "tuning_fraction", "tuning_seeds", "exponents")
RECORD = "the record of a study"
WIDEN = 6  # an arm whose best is still at an edge then has no best rate in reach


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
    table = Table(tuned or folder, "tuning", _recorded(tuned) if tuned else [experiment, *_recorded(folder)])
    arms = (*experiment.arms, *experiment.matched)
    if "tuning" in wanted and tuned is None:
        runner.fill(table, grid(experiment), "tuning")
        _widen(experiment, table, runner, arms)
    rates = {arm: found[0] for arm in arms if (found := best(table.rows.values(), arm))}
    if missing := [arm for arm in arms if arm not in rates]:
        command = "python llm/study.py --full --tables tuning"
        raise CommandError(f"{table.path} has no rows of {', '.join(missing)}; `{command}` makes them")
    rates["common"] = common_rate(table.rows.values(), [arm for arm in arms if arm in PROMPT_ARMS])
    say("learning rates: " + ", ".join(f"{arm} {r:g}" for arm, r in rates.items()))
    for name, cells in (("sample_efficiency", sample_efficiency(experiment)), ("ablations", ablations(experiment))):
        if name in wanted and cells:
            known = [experiment, *_recorded(folder)]
            grown, todo = Table(folder, name, known), [_with_rate(cell, rates) for cell in cells]
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


def _write_sorted(folder: Path) -> None:
    for name in TABLES:
        path = folder / f"{name}.csv"
        if rows := tables.read(path, COLUMNS):
            tables.finish(path, sorted(rows, key=lambda r: [_number(r[c]) for c in KEY]), COLUMNS)
    # A run that was killed between its curve and its row has run again.
    if points := tables.read(folder / "curves.csv", CURVE):
        unique = {tuple(point.values()): point for point in points}
        tables.finish(
            folder / "curves.csv", [unique[k] for k in sorted(unique, key=lambda k: [*map(_number, k)])], CURVE
        )


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def _widen(experiment: Experiment, table: Table, runner: Runner, arms: Sequence[str]) -> None:
    """A further half decade beyond the edge where an arm's best is, until it is not at one, or for `WIDEN` times."""
    exponents = {arm: list(experiment.exponents) for arm in arms}
    for _ in range(WIDEN):
        cells = []
        for arm in arms:
            known = exponents[arm]
            # Rows beyond this grid may be there from a run that was stopped; they must not change the way.
            top, edge = best(table.rows.values(), arm, map(rate, known)) or (0.0, False)
            if not edge:
                continue
            added = [max(known) + 0.5] if top == rate(max(known)) else [min(known) - 0.5]
            known += added
            cells += tuning(experiment, added, arm)
        if not cells:
            return
        runner.fill(table, cells, "tuning, wider")


def claim(experiment: Experiment, folder: Path, worlds: Path, device: str = "cpu", fresh: Sequence[str] = ()) -> None:
    """Make the folder this experiment's, or stop if it is another's; note which code and machine go on with it.

    Tables named in `fresh` are removed, once it is sure that they can be made again.
    """
    path = folder / "study.json"
    now = json.loads(json.dumps({"experiment": asdict(experiment), "provenance": provenance()}))
    ground = {"bases": {str(w): fingerprint(worlds / str(w)) for w in (0, *experiment.worlds)}, "device": device}
    if not path.is_file() and (found := [name for name in TABLES if (folder / f"{name}.csv").exists()]):
        raise CommandError(
            f"{path} must tell the configuration of {found[0]}.csv beside it, and is missing; restore it, or move the "
            "tables away"
        )
    if not path.is_file() or set(fresh) == set(TABLES):
        known = {**now, **ground, "untuned": untuned(worlds), "continued": []}
    else:
        known = seals.unsealed(path, RECORD)
        known = {**ground, "continued": [], **known}
        before = {name: known["experiment"].get(name) for name in FIXED} | {"device": known["device"]}
        after = {name: now["experiment"][name] for name in FIXED} | {"device": device}
        for world, base in known["bases"].items():
            before[f"base of world {world}"], after[f"base of world {world}"] = base, ground["bases"].get(world, base)
        if wrong := [name for name in before if before[name] != after[name]]:
            raise CommandError(
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
            tables.remove(folder / file)
    write_atomic(path, seals.sealed(known))


def _recorded(folder: Path) -> list[Experiment]:
    """The experiments that a folder has rows of, as its record tells."""
    path = folder / "study.json"
    if not path.is_file():
        return []
    record = seals.unsealed(path, RECORD)
    former = [entry.get("experiment before") for entry in record["continued"]]
    names, found = {field.name for field in fields(Experiment)}, []
    for entry in (record["experiment"], *filter(None, former)):
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k in names}
        found.append(Experiment(**values))
    return found
