#!/usr/bin/env python
"""Cost of a fit against n, up to 1e8 rows that are drawn anew at every pass; results/theory/scaling.csv and .json.

For each n a process of its own fits the truth of exact-linear, search included: its peak memory (interpreter and
libraries too), its passes, CPU seconds and error. Then descents of two steps from the same start are timed: CPU seconds
of a step, which is one pass over n rows (draw them, make their features, add up value, gradient and Gram) and a
solution; the least of the descents, as other work of the machine only adds.
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import resource
import time
from collections.abc import Sequence

import numpy as np

from common import seals, tables
from common.arguments import Parser, folder, run
from common.paths import RESULTS
from common.records import provenance, write_atomic
from common.streams import stream
from common.workers import pool
from theory.chunks import Again, Drawn
from theory.coordinates import Layout
from theory.descent import descend
from theory.errors import errors
from theory.estimate import fit
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.starts import near
from theory.studies import STUDIES
from theory.study import decades
from theory.tables import SCALING

STUDY = STUDIES["exact-linear"]
STEPS = 2  # of a timed descent
SECONDS = 5.0  # that all of them take at least; there are two or more
LINEAR = 100_000  # from here on seconds of a step should be proportional to n


def measure(n: int) -> dict:
    """A row of the table."""
    setting = STUDY.setting(0)
    model, truth, key = setting.model, setting.target(n), ("scaling", n)
    data = Drawn(model, truth, STUDY.noise, n, STUDY.seed, key)
    start = near(truth, STUDY.fitted, stream(STUDY.seed, *key, "start"))
    began = time.process_time()
    found = fit(model, data, start, STUDY.box, truth, keep=False)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    problem = LeastSquares(model, reduce(model, Again(data), keep=False), Layout(model, STUDY.fitted))
    times: list[float] = []
    while len(times) < 2 or sum(times) < SECONDS:
        began = time.process_time()
        descend(problem, problem.layout.pack(start), STUDY.box.bounds, STEPS)
        times.append(time.process_time() - began)
    return {
        "n": n,
        "seconds_per_step": min(times) / STEPS,
        "peak_mb": peak,
        "descents": len(times),
        "fit_seconds": seconds,
        "fit_passes": found.iterations,
        "status": found.status,
        "function_error": errors(STUDY, found.prompts, n)["function_error"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="scaling.py", description=__doc__)
    parser.add_argument("--decades", type=float, default=8, metavar="K", help="up to n = 10^K (8)")
    parser.add_argument("--out", type=folder, default=RESULTS / "theory", metavar="DIR", help="folder (results/theory)")
    a = parser.parse_args(argv)
    if not 3 <= a.decades <= 9:
        parser.error(f"--decades must lie between 3 and 9; got {a.decades:g}")

    def work() -> None:
        sizes, rows = decades(3, a.decades), []
        for n in (sizes[0], *sizes):  # the first one twice, as it may have to compile
            with pool(1) as executor:
                rows.append(executor.submit(measure, n).result())
            words = "{n:11} {seconds_per_step:9.4g} s a step, {peak_mb:4.0f} MB; fit {fit_seconds:8.1f} s, {fit_passes}"
            print(words.format(**rows[-1]), f"passes, {rows[-1]['status']}", flush=True)
        del rows[0]
        record = {"study": STUDY.configuration(), "threads": 1, "provenance": provenance()}
        tables.finish(a.out / "scaling.csv", rows, SCALING)
        write_atomic(a.out / "scaling.json", seals.sealed(record))
        large = np.array([r["seconds_per_step"] / r["n"] for r in rows if r["n"] >= LINEAR])
        if len(large) > 1:
            off = np.abs(large / np.median(large) - 1).max()
            print(f"from n = {LINEAR:,} on a step takes {np.median(large) * 1e9:.0f} ns a row, to within {off:.0%}")

    return run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
