"""Train prompts from zero: gradient descent and Adam from the method's own start, against random starts.

The protocol is in docs/training.md.

Rates are chosen on a seed of their own, then every cell of the study runs from all its starts at once. Finished cells
are rows in DIR/training.csv; a run that was stopped goes on where it was. Rows do not depend on the number of workers.

    python -m theory.dynamics                    the study, into results/theory
    python -m theory.dynamics --quick            its quick twin, into results/scratch/theory
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from common import arguments, journal, tables
from common.arguments import Parser
from common.paths import RESULTS, SCRATCH
from common.records import only_writer
from common.streams import stream
from common.workers import pool
from theory.box import Box
from theory.coordinates import Layout
from theory.descent import descend
from theory.estimate import fit_reduced
from theory.model import Prompts
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.stability import judge, words
from theory.starts import near
from theory.study import BOX
from theory.training import (
    ACTIVATIONS,
    ARMS,
    CLAIMS,
    FULL,
    KEY,
    OPTIMISERS,
    QUICK,
    RATES,
    ROWS,
    WIDEN,
    Cell,
    Setting,
    Training,
)
from theory.truths import draw_model, draw_prompts

BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam
LOST = 1e4  # a run is lost once its loss is so many times that at the start
WIDE = Box(prompt=20.0, bias=20.0, alpha=10.0)  # where the minimum below a trained point is looked for
POLISH = 200  # passes of that


def train(
    problem: LeastSquares, theta: np.ndarray, optimiser: str, rate: float, marks: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Full-batch descent of SSE / (2 n) at a constant rate, from several starts at once.

        gd     theta <- theta - rate g
        adam   theta <- theta - rate m / (sqrt(v) + 1e-8),   m, v means of g and g^2 with (0.9, 0.999), bias-corrected

    Parameters
    ----------
    problem : LeastSquares
    theta : ndarray, (S, size)
        The starts.
    optimiser : {'gd', 'adam'}
    rate : float
    marks : sequence of int
        Steps after which to tell, ascending.

    Yields
    ------
    step, theta (S, size), sse (S,), largest sse so far (S,). Both are inf for a run that is lost: whose loss was no
    number, or more than 1e4 times that at the start.
    """
    theta, home = theta.copy(), theta
    mean, square = np.zeros_like(theta), np.zeros_like(theta)
    alive, bound, peak = np.ones(len(theta), bool), np.inf, np.zeros(len(theta))
    for step in range(marks[-1] + 1):
        with np.errstate(over="ignore", invalid="ignore"):
            sse, gradient, _ = problem.at_each(theta)
        bound = LOST * sse if step == 0 else bound
        alive &= (sse <= bound) & np.isfinite(gradient).all(1)
        sse = np.where(alive, sse, np.inf)
        peak = np.maximum(peak, sse)
        if step in marks:
            yield step, theta.copy(), sse, peak
        g = np.where(alive[:, None], gradient, 0) / problem.data.n
        if optimiser == "adam":
            mean = BETAS[0] * mean + (1 - BETAS[0]) * g
            square = BETAS[1] * square + (1 - BETAS[1]) * g * g
            g = mean / (1 - BETAS[0] ** (step + 1))
            g /= np.sqrt(square / (1 - BETAS[1] ** (step + 1))) + EPSILON
        theta = np.where(alive[:, None], theta - rate * g, home)


@lru_cache(maxsize=64)
def data_of(study: Training, activation: str, gate: str, truth: int) -> tuple[LeastSquares, Prompts, float, float]:
    """Problem, true prompts, SSE of least squares and SSE at the truth."""
    seed = study.seed
    model = draw_model(study.d, study.d, activation, gate, seed, truth)
    true = draw_prompts(model, study.L, ACTIVATIONS[activation], study.apart, seed, truth)
    data = reduce(model, model.sample(true, study.noise, study.n, stream(seed, "training", truth, "data")))
    best = fit_reduced(model, data, near(true, study.L, stream(seed, "training", truth, "near")), BOX)
    problem = LeastSquares(model, data, Layout(model, study.L))
    return problem, true, best.sse, problem(problem.layout.pack(true))[0]


def starts(study: Training, arm: str, scale: float, truth: int) -> list[Prompts]:
    """Prompts N(0, scale^2), b = 0; alpha as the arm says. The same draws for every arm and scale."""
    gate, spread = ARMS[arm]
    drawn = []
    for start in range(study.starts):
        rng = stream(study.seed, "training", truth, start, "start")
        p, alpha = scale * rng.standard_normal((study.L, study.d)), spread * rng.standard_normal()
        drawn.append(Prompts(p, np.zeros(study.L), None if gate == "joint" else alpha))
    return drawn


def run_cell(study: Training, cell: Cell) -> list[dict]:
    """Rows of a cell; a function of these arguments alone."""
    marks = study.marks if cell.factor == 1 else (study.marks[0], study.marks[-1])
    with threadpool_limits(limits=1, user_api="blas"):
        problem, true, least, at_truth = data_of(study, cell.activation, ARMS[cell.arm][0], cell.truth)
        first = [problem.layout.pack(s) for s in starts(study, cell.arm, cell.scale, cell.truth)]
        rows, begin = [], None
        for step, theta, sse, peak in train(problem, np.array(first), cell.optimiser, cell.rate, marks):
            begin = sse if begin is None else begin
            for k in range(study.starts):
                row = {"start": k, "step": step, "excess": (sse[k] - least) / study.noise**2}
                row |= {"at_truth": (at_truth - least) / study.noise**2, "peak": peak[k] / begin[k]}
                row |= _errors(problem.layout.unpack(theta[k]), true) if np.isfinite(sse[k]) else _lost(true)
                polished = None
                if step == marks[-1]:
                    end = descend(problem, theta[k], WIDE.bounds, POLISH).sse if np.isfinite(sse[k]) else np.inf
                    polished = (end - least) / study.noise**2
                rows.append(cell._asdict() | {name: _short(v) for name, v in (row | {"polished": polished}).items()})
    return rows


def _errors(found: Prompts, true: Prompts) -> dict:
    """Error of the gate, and mean distance of the prompts after the best assignment."""
    distance = np.linalg.norm(found.p[:, None] - true.p, axis=-1)
    gating = None if true.alpha is None or found.alpha is None else abs(found.alpha - true.alpha)
    return {"gating_error": gating, "prompt_error": float(distance[linear_sum_assignment(distance)].mean())}


def _lost(true: Prompts) -> dict:
    return {"gating_error": None if true.alpha is None else np.inf, "prompt_error": np.inf}


def _short(value):
    """Five digits: more than the picture shows, at half the size of the table."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def score(study: Training, setting: Setting, rate: float) -> dict:
    """Of a rate on the tuning seed: the mean of log10(1 + excess) at the last step, a lost run as at its start."""
    study = replace(study, seed=study.tuning_seed, marks=(study.marks[0], study.marks[-1]))
    ends = []
    for scale, truth in product(study.scales, range(study.tuning_truths)):
        rows = run_cell(study, Cell(*setting, scale, 1.0, rate, truth))
        for before, after in zip(rows[: study.starts], rows[study.starts :], strict=True):
            ends.append((before["excess"], after["excess"]))
    begin, end = np.array(ends).T
    lost = ~np.isfinite(end)
    value = float(np.log10(1 + np.maximum(np.where(lost, begin, end), 0)).mean())
    names = dict(zip(KEY[:3], setting, strict=True))
    return names | {"rate": rate, "score": _short(value), "lost": _short(float(lost.mean())), "runs": len(ends)}


def rate_of(exponent: float) -> float:
    """10^exponent, with the digits that a table holds."""
    return _short(10.0**exponent)


def tune(study: Training, path: Path, each: Callable) -> dict[Setting, float]:
    """The rate of every setting: the one with the lowest score, of equal ones the smallest, in a table that grows.

    A grid is widened by half a decade while its best is at an edge, at most four times.
    """
    done = {_scored(row): row for row in tables.read(path, RATES, (*KEY[:3], "rate"))}
    grids = {s: list(np.arange(OPTIMISERS[s[2]][0], OPTIMISERS[s[2]][1] + 0.25, 0.5)) for s in study.settings()}
    best: dict[Setting, float] = {}
    for _ in range(1 + WIDEN):
        todo = [(s, rate_of(e)) for s, grid in grids.items() for e in grid if (*s, rate_of(e)) not in done]
        for row in each(score, todo, "rates"):
            tables.append(path, row, RATES)
            done[_scored(row)] = row
        best = {s: min(sorted(g), key=lambda e: float(done[*s, rate_of(e)]["score"])) for s, g in grids.items()}
        edges = [s for s, e in best.items() if e in (min(grids[s]), max(grids[s]))]
        for s in edges:
            grids[s].append(best[s] + (0.5 if best[s] == max(grids[s]) else -0.5))
        if not edges:
            break
    tables.finish(path, [done[k] for k in sorted(done)], RATES)
    return {s: rate_of(e) for s, e in best.items()}


def _scored(row: dict) -> tuple:
    return *(row[c] for c in KEY[:3]), float(row["rate"])


def study(experiment: Training, folder: Path, executor: Executor | None = None, fresh: bool = False) -> list[dict]:
    """Fill DIR/training_rates.csv, DIR/training.csv and DIR/training_claims.csv; rows of the last.

    Raises
    ------
    ValueError
        If the folder holds another configuration, or files that are not such tables.
    """
    rates_path, path, claims = (folder / f"training{end}.csv" for end in ("_rates", "", "_claims"))
    record = journal.claim(folder / "training.json", experiment.configuration(), fresh)
    if fresh:
        for old in (rates_path, path, claims):
            tables.remove(old)

    def each(work: Callable, todo: list[tuple], what: str) -> Iterator:
        futures = [executor.submit(work, experiment, *t) for t in todo] if executor else []
        results = (f.result() for f in as_completed(futures)) if executor else (work(experiment, *t) for t in todo)
        yield from tqdm(results, total=len(todo), desc=what, file=sys.stderr, mininterval=1)

    rates = tune(experiment, rates_path, each)
    record["results"] = {"rates": {" ".join(s): rate for s, rate in rates.items()}}
    journal.save(folder / "training.json", record)
    rows = tables.read(path, ROWS, KEY)
    cells = experiment.cells(rates)
    here = Counter(_cell(r) for r in rows)
    whole = {_name(c) for c in cells if here[_name(c)] == experiment.rows_of(c)}
    rows = [r for r in rows if _cell(r) in whole]  # a kill may have left part of a cell
    todo = [(c,) for c in cells if _name(c) not in whole]
    if todo:
        tables.write(path, rows, ROWS)
    for found in each(run_cell, todo, "training"):
        for row in found:
            tables.append(path, row, ROWS)
    order = {_name(c): i for i, c in enumerate(cells)}
    rows = sorted(tables.read(path, ROWS, KEY), key=lambda r: (order[_cell(r)], int(r["start"]), int(r["step"])))
    tables.finish(path, rows, ROWS)
    found = judge(experiment, rows)
    tables.finish(claims, found, CLAIMS)
    return found


def _cell(row: dict) -> tuple[str, ...]:
    return tuple(str(row[c]) for c in (*KEY[:6], "rate"))


def _name(cell: Cell) -> tuple[str, ...]:
    return _cell(cell._asdict())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.dynamics", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the quick twin")
    parser.add_argument("--out", type=arguments.folder, metavar="DIR", help="folder of the tables")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="W", help="processes (all cores)")
    parser.add_argument("--fresh", action="store_true", help="remove earlier rows first")
    a = parser.parse_args(argv)
    if a.workers < 1:
        parser.error(f"--workers must be at least 1; got {a.workers}")
    folder = a.out or (SCRATCH if a.quick else RESULTS) / "theory"

    def work() -> None:
        with only_writer(folder), pool(a.workers) if a.workers > 1 else nullcontext() as executor:
            print(words(study(QUICK if a.quick else FULL, folder, executor, a.fresh)))

    return arguments.run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
