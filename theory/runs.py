"""Rows of a study in a folder: computed once, kept through kills, checked whenever they are read.

DIR/STUDY.csv holds the rows, DIR/STUDY.json tells the configuration, what each run asked for and where it ran. Both
have checksums (`common.seals`): a change of the record or of a finished table is noticed.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common import seals, tables
from common.records import provenance, write_atomic
from theory.replicate import replicate
from theory.studies import Study
from theory.tables import COLUMNS, KEY

# Of these a folder may hold what several runs asked for.
ASKED = ("sizes", "replicates", "large_replicates", "large_n", "truths")
RECORD = "the record of a study"
FREE = {*ASKED, "quick_sizes", "quick_replicates", "first_n", "about", "theory_of", "truth"}
Task = tuple[int, int, int]


class RunError(ValueError):
    """A request that cannot be met, in words for the person who made it."""


def run(
    study: Study,
    folder: Path,
    pool: Executor | None = None,
    fresh: bool = False,
    tasks: Sequence[Task] | None = None,
    work: Callable[..., dict] = replicate,
    where: Mapping | None = None,
) -> list[dict]:
    """Rows of a study in DIR/STUDY.csv, computing those that are not there yet.

    Parameters
    ----------
    study : Study
    folder : Path
    pool : Executor, optional
        Workers; without, this process computes.
    fresh : bool
        Remove earlier rows first.
    tasks : sequence of (n, replicate, truth), optional
        Another order, for tests; rows do not depend on it.
    work : callable
        (study, n, replicate, truth) -> row.
    where : mapping, optional
        What the record says of the workers beside the provenance of this process.

    Raises
    ------
    RunError, TableError, Changed
        If the folder holds rows of another configuration, or a file that is not such a table or was changed.
    """
    study.identify()
    table, record = folder / f"{study.name}.csv", folder / f"{study.name}.json"
    if fresh:
        tables.remove(table)
        record.unlink(missing_ok=True)
    done, former = load(study, folder)
    wanted = list(tasks) if tasks is not None else study.tasks()
    todo = [task for task in wanted if task not in done]
    if todo:
        entry = provenance() | dict(where or {}) | {"rows": len(todo)} | {name: getattr(study, name) for name in ASKED}
        former = {"configuration": study.configuration(), "history": [*former.get("history", []), entry]}
        write_atomic(record, seals.sealed(former))
        # Largest first, so that no worker is left alone with a large one at the end.
        todo.sort(key=lambda task: -task[0])
        size = sum(task[0] for task in todo)
        with tqdm(total=size, desc=study.name, unit="row", unit_scale=True, mininterval=1, file=sys.stderr) as bar:
            for row in _rows(study, todo, pool, work):
                tables.append(table, row, COLUMNS)
                bar.update(row["n"])
        done = _by_task(tables.read(table, COLUMNS))
    if todo or not seals.beside(table).exists():
        tables.finish(table, [done[task] for task in sorted(done)], COLUMNS)
    return [done[task] for task in sorted(wanted)]


def load(study: Study, folder: Path) -> tuple[dict[Task, dict], dict]:
    """Rows of a study by task, and the record of the runs that made them; both empty if there are none.

    Raises
    ------
    RunError
        If the record beside the rows is missing or of another configuration.
    TableError, Changed
        If the table or the record differs from its checksum, a row is not of this study, of no run in the record or
        there twice, or a cell is not in its column's domain.
    """
    table, record = folder / f"{study.name}.csv", folder / f"{study.name}.json"
    if not table.exists():
        return {}, {}
    former = _record(study, record, table)
    asked = {task for entry in former["history"] for task in _asked(study, entry).tasks()}

    def wrong(row: dict[str, str]) -> str | None:
        if row["study"] != study.name:
            return f"it is of {row['study']!r}, and the table must be of {study.name} only"
        if _task(row) not in asked:
            return f"no run in {record.name} asked for {', '.join(f'{k} {row[k]}' for k in KEY)}"
        return None

    return _by_task(tables.read(table, COLUMNS, KEY, wrong)), former


def _task(row: dict[str, str]) -> Task:
    n, number, truth = (int(row[k]) for k in KEY)
    return n, number, truth


def _by_task(rows: list[dict[str, str]]) -> dict[Task, dict]:
    return {_task(row): row for row in rows}


def _rows(study: Study, todo: list[Task], pool: Executor | None, work: Callable[..., dict]):
    if pool is None:
        for task in todo:
            yield work(study, *task)
        return
    futures = [pool.submit(work, study, *task) for task in todo]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _record(study: Study, record: Path, table: Path) -> dict:
    """The record beside rows, after making sure that they are of the same configuration."""
    if not record.exists():
        raise RunError(
            f"{record} must tell the configuration of the rows in {table.name} beside it, and is missing; restore it, "
            "or move the table away"
        )
    former = seals.unsealed(record, RECORD)
    try:
        before = dict(former["configuration"])
        for entry in former["history"]:
            _asked(study, entry)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{record} is not a record of this command; use --fresh or another --out") from None
    now = json.loads(json.dumps(study.configuration()))
    differ = [key for key in now if key not in FREE and now[key] != before.get(key)]
    if differ:
        raise RunError(
            f"{record.parent} holds {study.name} with another {', '.join(differ)}; use --fresh to replace it "
            "or --out to keep both"
        )
    return former


def _asked(study: Study, entry: dict) -> Study:
    """The study as a run of the record asked for it."""
    asked = {name: entry[name] for name in ASKED}
    return replace(study, **asked | {"sizes": tuple(asked["sizes"])})
