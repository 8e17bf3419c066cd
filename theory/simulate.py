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
import time
from collections.abc import Sequence
from dataclasses import replace

from common import arguments as commands
from common import tables
from common.arguments import Parser
from common.cluster import cluster
from common.paths import RESULTS, SCRATCH
from common.records import only_writer, provenance, write_atomic
from common.workers import pool
from theory.claims import judge_all, lines
from theory.coordinates import Layout
from theory.runs import run
from theory.studies import STUDIES, Study
from theory.summary import measure, save_rates, show
from theory.tables import RATES

EXAMPLES = """examples:
  python theory/simulate.py                              every study, quick twins
  python theory/simulate.py --full                       every study in full, to results/theory
  python theory/simulate.py over-linear --full           one study
  python theory/simulate.py exact-tanh --sizes 500 5000 50000 --replicates 50 --out mine
  python theory/simulate.py --list                       what there is
"""


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[Study], Path]:
    parser = Parser(prog="simulate.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("study", nargs="*", metavar="STUDY", help="studies to run; all of them if none is named")
    parser.add_argument("--list", action="store_true", help="list the studies and stop")
    parser.add_argument("--full", action="store_true", help="the full study instead of its quick twin")
    parser.add_argument("--sizes", nargs="+", type=int, metavar="N", help="other sample sizes; all enter the slope")
    parser.add_argument("--replicates", type=int, metavar="R", help="other number of replicates, per truth and size")
    parser.add_argument("--truths", type=int, metavar="K", help="other number of truths")
    parser.add_argument("--noise", type=float, metavar="NU", help="other standard deviation of the noise")
    parser.add_argument("--seed", type=int, metavar="S", help="other seed: truth, pre-trained part and data")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="W", help="processes (all cores)")
    parser.add_argument("--scheduler", type=commands.given, metavar="ADDRESS", help="of a Dask cluster that computes")
    parser.add_argument(
        "--out",
        type=commands.folder,
        metavar="DIR",
        help="folder of the rows (results/theory with --full, else results/scratch/theory)",
    )
    parser.add_argument("--fresh", action="store_true", help="remove earlier rows of these studies first")
    a = parser.parse_args(argv)
    if unknown := [name for name in a.study if name not in STUDIES]:
        parser.error(f"no study is called {unknown[0]}; there are {', '.join(STUDIES)}")
    if a.sizes and len(a.sizes) < 2:
        parser.error(f"--sizes must be two or more, for a slope; got {a.sizes[0]}")
    if a.replicates is not None and a.replicates < 2:
        parser.error(f"--replicates must be at least 2, for an interval; got {a.replicates}")
    if a.workers < 1:
        parser.error(f"--workers must be at least 1; got {a.workers}")
    studies = []
    for name in a.study or STUDIES:
        study = STUDIES[name] if a.full else STUDIES[name].quick()
        other = {k: getattr(a, k) for k in ("noise", "seed", "truths", "replicates") if getattr(a, k) is not None}
        if a.sizes:
            other |= {"sizes": tuple(a.sizes), "first_n": a.sizes[0]}
        if a.replicates is not None:
            other["large_replicates"] = a.replicates
        try:
            study = replace(study, **other)
            parameters = Layout(study.model, study.fitted).size
        except ValueError as reason:
            option = str(reason).split()[0] in (*other, "sizes")
            parser.error(f"{'--' if option else ''}{reason}")
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


@contextlib.contextmanager
def _pool(workers: int, scheduler: str | None):
    """What computes, None for this process, and what the record says of it."""
    with contextlib.ExitStack() as stack:
        if scheduler is not None:
            yield stack.enter_context(cluster(scheduler))
        else:
            yield stack.enter_context(pool(workers)) if workers > 1 else None, {}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    arguments, studies, folder = _arguments(argv)
    if arguments.list:
        for study in studies:
            print(f"{study.name:24} {study.about}")
        return 0

    def work() -> None:
        rates, rows, finished, began = [], [], {}, time.monotonic()
        tables.read(folder / "rates.csv", RATES)  # a foreign file is noticed before, not after the work
        with only_writer(folder), _pool(arguments.workers, arguments.scheduler) as (executor, where):
            for study in studies:
                done = run(study, folder, executor, arguments.fresh, where=where)
                found = measure(study, done)
                save_rates(folder, found)
                rates += found
                rows += done
                finished[study.name] = study, done
        table = show(rates, rows)
        computed = f"{arguments.workers} workers, {provenance()['cpu']}"
        table += f"\n{time.monotonic() - began:.0f} s, {'a Dask cluster' if arguments.scheduler else computed}"
        claims = lines(judge_all(finished))
        write_atomic(folder / "table.txt", "\n\n".join(filter(None, (claims, table))) + "\n")
        if arguments.study:
            print(table, end="\n\n" if claims else "\n")
            print(claims, end="\n" if claims else "")
        else:
            print(claims, f"All slopes, and what became of the fits: {folder / 'table.txt'}", sep="\n\n")

    return commands.run("simulate.py", work)


if __name__ == "__main__":
    sys.exit(main())
