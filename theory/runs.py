"""Rows of a study in a folder: computed once, kept through kills, checked whenever they are read.

DIR/STUDY.csv holds the rows, DIR/STUDY.json tells the configuration, what each run asked for and where it ran, and,
once the table is finished, its SHA-256: a later change of the table is noticed.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common import tables
from common.records import provenance, write_atomic
from theory.replicate import replicate
from theory.studies import Study
from theory.tables import COLUMNS, check

# Of these a folder may hold what several runs asked for.
ASKED = ("sizes", "replicates", "large_replicates", "large_n", "truths")
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

    Raises
    ------
    RunError, TableError
        If the folder holds rows of another configuration, or a file that is not such a table or was changed.
    """
    study.identify()
    table, record = folder / f"{study.name}.csv", folder / f"{study.name}.json"
    if fresh:
        for path in (table, record):
            path.unlink(missing_ok=True)
    done, former = load(study, folder)
    wanted = list(tasks) if tasks is not None else study.tasks()
    todo = [task for task in wanted if task not in done]
    if todo:
        entry = provenance() | {"rows": len(todo)} | {name: getattr(study, name) for name in ASKED}
        former = {"configuration": study.configuration(), "history": [*former.get("history", []), entry]}
        _write(record, former)
        # Largest first, so that no worker is left alone with a large one at the end.
        todo.sort(key=lambda task: -task[0])
        size = sum(task[0] for task in todo)
        with tqdm(total=size, desc=study.name, unit="row", unit_scale=True, mininterval=1, file=sys.stderr) as bar:
            for row in _rows(study, todo, pool, work):
                tables.append(table, row, COLUMNS)
                bar.update(row["n"])
        done = _by_task(tables.read(table, COLUMNS))
        tables.write(table, [done[k] for k in sorted(done)], COLUMNS)
    if "sha256" not in former:
        _write(record, former | {"sha256": _sha256(table)})
    return [done[task] for task in sorted(wanted)]


def load(study: Study, folder: Path) -> tuple[dict[Task, dict], dict]:
    """Rows of a study by task, and the record of the runs that made them; both empty if there are none.

    Raises
    ------
    RunError
        If the record beside the rows is missing or of another configuration.
    TableError
        If the table differs from its checksum, a row is not of this study or of no run in the record, or a cell is not
        in its column's domain.
    """
    table, record = folder / f"{study.name}.csv", folder / f"{study.name}.json"
    rows = tables.read(table, COLUMNS)
    if not rows:
        return {}, {}
    former = _record(study, record)
    check(rows, study.name, table)
    if former.get("sha256") not in (None, _sha256(table)):
        raise tables.TableError(
            f"{table} was changed after it was finished: its SHA-256 is not the one in {record.name}. "
            "Restore the file, or start anew with --fresh"
        )
    asked = {task for entry in former["history"] for task in _asked(study, entry).tasks()}
    done = _by_task(rows)
    if strange := sorted(set(done) - asked):
        n, number, truth = strange[0]
        raise tables.TableError(
            f"{table} must hold what a run in {record.name} asked for; none asked for n {n}, replicate {number}, "
            f"truth {truth}. Restore the file, or start anew with --fresh"
        )
    if len(done) < len(rows):
        raise tables.TableError(f"{table} has a fit twice. Restore the file, or start anew with --fresh")
    return done, former


def _by_task(rows: list[dict[str, str]]) -> dict[Task, dict]:
    return {(int(r["n"]), int(r["replicate"]), int(r["truth"])): r for r in rows}


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


def _record(study: Study, record: Path) -> dict:
    """The record beside rows, after making sure that they are of the same configuration."""
    if not record.exists():
        raise RunError(
            f"{record} must tell the configuration of the rows beside it, but is missing; use --fresh or --out"
        )
    try:
        former = json.loads(record.read_text())
        before = former["configuration"]
        for entry in former["history"]:
            _asked(study, entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
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


def _write(path: Path, content: dict) -> None:
    """Write a record at once, atomically."""
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
