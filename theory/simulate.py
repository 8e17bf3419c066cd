#!/usr/bin/env python
"""Measure the rates of Theorems 4.2 and 4.4: simulate, fit, and read slopes off log-log plots.

Without arguments the quick twin of every study, in minutes. Every finished fit is a row in DIR/STUDY.csv at once; a run
that was stopped goes on where it was. Rows do not depend on the number of workers or on the order.
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # workers share the cores; one thread each also fixes the order of every sum

import argparse
import contextlib
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from common import tables
from common.arguments import Parser
from common.arguments import run as run_command
from common.paths import RESULTS, SCRATCH
from common.records import provenance, write_atomic
from common.streams import stream
from common.workers import pool
from theory.coordinates import Layout
from theory.rates import slope, verdict
from theory.replicate import COLUMNS, replicate
from theory.studies import QUANTITIES, STUDIES, Study

RATES = (
    "study", "quantity", "slope", "low", "high", "theory", "n_min", "n_max", "replicates", "verdict",
    "log_slope", "log_low", "log_high",
)  # fmt: skip
EXAMPLES = """examples:
  python theory/simulate.py                              every study, quick twins
  python theory/simulate.py --full                       every study in full, to results/theory
  python theory/simulate.py over-linear --full           one study
  python theory/simulate.py exact-tanh --sizes 500 5000 50000 --replicates 50 --out mine
  python theory/simulate.py --list                       what there is
"""


class RunError(ValueError):
    """A request that cannot be met, in words for the person who made it."""


def run(study: Study, folder: Path, pool: Executor | None = None, fresh: bool = False, tasks=None) -> list[dict]:
    """Rows of a study in DIR/STUDY.csv, computing those that are not there yet.

    Parameters
    ----------
    study : Study
    folder : Path
    pool : Executor, optional
        Workers; without, this process computes.
    fresh : bool
        Remove earlier rows first.
    tasks : sequence of (n, replicate), optional
        Another order, for tests; rows do not depend on it.

    Raises
    ------
    RunError, TableError
        If the folder holds rows of another configuration, or a file that is not such a table.
    """
    study.identify()
    table, record = folder / f"{study.name}.csv", folder / f"{study.name}.json"
    if fresh:
        for path in (table, record):
            path.unlink(missing_ok=True)
    done = {(int(r["n"]), int(r["replicate"])): r for r in tables.read(table, COLUMNS)}
    history = _history(study, record, bool(done))
    wanted = list(tasks) if tasks is not None else study.tasks()
    todo = [task for task in wanted if task not in done]
    if todo:
        entry = provenance() | {"rows": len(todo)}
        text = {"configuration": study.configuration(), "history": [*history, entry]}
        write_atomic(record, json.dumps(text, indent=1) + "\n")
        # Largest first, so that no worker is left alone with a large one at the end.
        todo.sort(key=lambda task: -task[0])
        size = sum(n for n, _ in todo)
        with tqdm(total=size, desc=study.name, unit="row", unit_scale=True, mininterval=1, file=sys.stderr) as bar:
            for row in _rows(study, todo, pool):
                tables.append(table, row, COLUMNS)
                bar.update(row["n"])
        done = {(int(r["n"]), int(r["replicate"])): r for r in tables.read(table, COLUMNS)}
        tables.write(table, [done[k] for k in sorted(done)], COLUMNS)
    return [done[task] for task in sorted(wanted)]


def _rows(study: Study, todo: list[tuple[int, int]], pool: Executor | None):
    if pool is None:
        for n, number in todo:
            yield replicate(study, n, number)
        return
    # A bare copy: the model that the study has built holds functions, which do not travel between processes.
    futures = [pool.submit(replicate, replace(study), n, number) for n, number in todo]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _history(study: Study, record: Path, rows: bool) -> list:
    """Provenance of earlier runs, after making sure that their rows are of the same configuration."""
    if not rows:
        return []
    if not record.exists():
        raise RunError(
            f"{record} must tell the configuration of the rows beside it, but is missing; use --fresh or --out"
        )
    try:
        former = json.loads(record.read_text())
        before = former["configuration"]
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{record} is not a record of this command; use --fresh or another --out") from None
    free = {"sizes", "replicates", "large_replicates", "quick_sizes", "quick_replicates", "first_n", "about"}
    now = json.loads(json.dumps(study.configuration()))
    differ = [key for key in now if key not in free and now[key] != before.get(key)]
    if differ:
        raise RunError(
            f"{record.parent} holds {study.name} with another {', '.join(differ)}; use --fresh to replace it "
            "or --out to keep both"
        )
    return former["history"]


def measure(study: Study, rows: list[dict]) -> list[dict]:
    """Slopes with intervals and verdicts of one study: rows of rates.csv."""
    found = []
    for quantity in QUANTITIES:
        errors = {n: np.array([float(r[quantity]) for r in rows if int(r["n"]) == n]) for n in study.sizes}
        errors = {n: e for n, e in errors.items() if n >= study.first_n and (~np.isnan(e)).sum() >= 2}
        if len(errors) < 2:
            continue
        theory = study.theory.get(quantity)
        plain, logarithmic = (
            slope(errors, stream(study.seed, study.name, quantity, "bootstrap"), log) for log in (False, True)
        )
        found.append(
            {"study": study.name, "quantity": quantity, "theory": theory}
            | vars(plain)
            | {"verdict": verdict(plain, theory)}
            | {f"log_{k}": getattr(logarithmic, k) for k in ("slope", "low", "high")}
        )
    return found


def save_rates(folder: Path, rates: list[dict]) -> None:
    """Put these rows into DIR/rates.csv, beside those of other studies."""
    path = folder / "rates.csv"
    new = {r["study"] for r in rates}
    kept = [r for r in tables.read(path, RATES) if r["study"] not in new]
    order = {name: i for i, name in enumerate(STUDIES)}
    tables.write(path, sorted([*kept, *rates], key=lambda r: order.get(r["study"], len(order))), RATES)


def show(rates: list[dict], rows: list[dict]) -> str:
    """The table for people: slopes, intervals, verdicts, and what became of the fits."""
    head = f"{'study':24}{'quantity':20}{'slope':>8}  {'95 % interval':17}{'theory':>7}  verdict"
    lines = [head, "-" * len(head)]
    for r in rates:
        theory = "" if r["theory"] is None else f"{r['theory']:.2f}"
        interval = f"[{r['low']:.3f}, {r['high']:.3f}]"
        lines.append(f"{r['study']:24}{r['quantity']:20}{r['slope']:8.3f}  {interval:17}{theory:>7}  {r['verdict']}")
    tested = [r for r in rates if r["theory"] is not None]
    covered = sum(r["low"] <= r["theory"] <= r["high"] for r in tested)
    status = {s: sum(r["status"] == s for r in rows) for s in ("converged", "max_iterations", "stalled", "above_truth")}
    lines += [
        "",
        f"{covered} of {len(tested)} intervals cover the theory value"
        f" ({0.95 * len(tested):.0f} should, were every theory value the exact slope)",
        f"{len(rows)} fits: " + ", ".join(f"{count} {name}" for name, count in status.items()),
    ]
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Study], Path]:
    parser = Parser(prog="simulate.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("study", nargs="*", metavar="STUDY", help="studies to run; all of them if none is named")
    parser.add_argument("--list", action="store_true", help="list the studies and stop")
    parser.add_argument("--full", action="store_true", help="the full study instead of its quick twin")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="other sample sizes; all enter the slope")
    parser.add_argument("--replicates", type=int, metavar="R", help="other number of replicates at every size")
    parser.add_argument("--noise", type=float, metavar="NU", help="other standard deviation of the noise")
    parser.add_argument("--seed", type=int, metavar="S", help="other seed: truth, pre-trained part and data")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="W", help="processes (all cores)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the rows (results/theory with --full, else results/scratch/theory)",
    )
    parser.add_argument("--fresh", action="store_true", help="remove earlier rows of these studies first")
    a = parser.parse_args(argv)
    if unknown := [name for name in a.study if name not in STUDIES]:
        parser.error(f"no study is called {unknown[0]}; there are {', '.join(STUDIES)}")
    if a.sizes and any(m >= n for m, n in pairwise(a.sizes)):
        parser.error(f"--sizes must increase; got {' '.join(map(str, a.sizes))}")
    if a.sizes and len(a.sizes) < 2:
        parser.error(f"--sizes must be two or more, for a slope; got {a.sizes[0]}")
    if a.replicates is not None and a.replicates < 2:
        parser.error(f"--replicates must be at least 2, for an interval; got {a.replicates}")
    if a.noise is not None and not (math.isfinite(a.noise) and a.noise > 0):
        parser.error(f"--noise must be positive and finite; got {a.noise}")
    if a.seed is not None and a.seed < 0:
        parser.error(f"--seed must not be negative; got {a.seed}")
    if a.workers < 1:
        parser.error(f"--workers must be at least 1; got {a.workers}")
    studies = []
    for name in a.study or STUDIES:
        study = STUDIES[name] if a.full else STUDIES[name].quick()
        if a.noise is not None:
            study = replace(study, noise=a.noise)
        if a.seed is not None:
            study = replace(study, seed=a.seed)
        if a.sizes:
            study = replace(study, sizes=tuple(a.sizes), first_n=a.sizes[0])
        if a.replicates is not None:
            study = replace(study, replicates=a.replicates, large_replicates=a.replicates)
        parameters = Layout(study.model, study.fitted).size
        if study.sizes[0] <= parameters:
            parser.error(f"--sizes must exceed the {parameters} parameters of {name}; got {study.sizes[0]}")
        studies.append(study)
    folder = a.out or (RESULTS / "theory" if a.full else SCRATCH / "theory")
    if a.list:
        return a, studies, folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / ".writable", "")
        (folder / ".writable").unlink()
    except OSError as error:
        parser.error(f"--out must be a folder that can be written: {error}")
    return a, studies, folder


def _pool(workers: int):
    return contextlib.nullcontext() if workers == 1 else pool(workers)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    arguments, studies, folder = _arguments(argv)
    if arguments.list:
        for study in studies:
            print(f"{study.name:24} {study.about}")
        return 0

    def work() -> None:
        rates, rows, began = [], [], time.monotonic()
        with _pool(arguments.workers) as pool:
            for study in studies:
                done = run(study, folder, pool, arguments.fresh)
                found = measure(study, done)
                save_rates(folder, found)
                rates += found
                rows += done
        table = show(rates, rows)
        table += f"\n{time.monotonic() - began:.0f} s, {arguments.workers} workers, {provenance()['cpu']}"
        write_atomic(folder / "table.txt", table + "\n")
        print(table)

    return run_command("simulate.py", work)


if __name__ == "__main__":
    sys.exit(main())
