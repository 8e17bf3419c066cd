#!/usr/bin/env python
"""The estimator side by side with its peers, in one run on one thread; results/benchmarks/estimator.json and .csv.

gram       Gram and gradient, against BLAS J @ J.T on a Jacobian that is already there
fit        a whole fit, against scipy.optimize.least_squares with analytic Jacobian to the same SSE, and torch's Adam
memory     peak memory of a fit at n = 1e7, d = 4
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import json
import multiprocessing
import resource
import statistics
import time
from contextlib import suppress

import numpy as np
from scipy.optimize import least_squares

from common import tables
from common.arguments import Parser
from common.paths import RESULTS
from common.records import provenance, write_atomic
from common.streams import stream
from theory.box import Box
from theory.coordinates import Layout
from theory.estimate import fit
from theory.jacobian import jacobian
from theory.model import MoERegression, Prompts
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.starts import near

BOX = Box(prompt=4.0, bias=3.0, alpha=2.0)
COLUMNS = ("case", "ours_seconds", "peer", "peer_seconds", "ratio", "note")


def problem(d: int, d_out: int, L: int = 3) -> tuple[MoERegression, Prompts]:
    """A zero_init model of two pre-trained experts, and true prompts."""
    rng = stream(0, "benchmark", d, d_out)
    model = MoERegression(
        0.3 * rng.standard_normal((2, d, d)),
        0.3 * rng.standard_normal(2),
        rng.standard_normal((2, d_out, d)),
        np.linalg.qr(rng.standard_normal((d, d)))[0],
        np.linalg.qr(rng.standard_normal((d_out, d)))[0],
    )
    b = 0.3 * rng.standard_normal(L)
    return model, Prompts(1.5 * rng.standard_normal((L, d)), b - b.mean(), 0.8)


def alternate(ours, peer, pairs: int) -> tuple[float, float]:
    """Median seconds of both, called in turn so that a change of the machine's speed meets both."""
    seconds = ([], [])
    for _ in range(pairs):
        for into, call in zip(seconds, (ours, peer), strict=True):
            began = time.perf_counter()
            call()
            into.append(time.perf_counter() - began)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def gram(d_out: int, pairs: int) -> dict:
    """n = 1e5, L' = 4, d = 4."""
    n, model, truth = 100_000, *problem(4, d_out)
    fitted = near(truth, 4, stream(0, "start"))
    layout = Layout(model, 4)
    evaluate = LeastSquares(model, reduce(model, model.sample(truth, 0.1, n, stream(0, "rows"))), layout)
    theta = layout.pack(fitted)
    J = stream(0, "J").standard_normal((layout.size, n * d_out))
    evaluate(theta)
    ours, peer = alternate(lambda: evaluate(theta), lambda: J @ J.T, pairs)
    note = "ours: SSE, gradient and Gram from the rows; peer: the product alone"
    return {
        "case": f"gram d'={d_out}",
        "ours_seconds": ours,
        "peer": "BLAS J @ J.T",
        "peer_seconds": peer,
        "ratio": ours / peer,
        "note": note,
    }


def fits(extra: int, n: int, count: int, steps: int) -> list[dict]:
    """Whole fits from the same starts, from (x, y) to the estimate; medians over data sets, and of their ratios.

    Plain descents, as the peers' are; the last row tells what the search for lower minima adds. Ours is timed before,
    between and after the peers, and the median taken.
    """
    model, truth = problem(4, 4)
    layout = Layout(model, len(truth) + extra)
    rows = {"scipy least_squares": [], "torch Adam": [], "ours without search": []}
    for number in range(count):
        rng = stream(0, "fits", extra, n, number)
        x, y = (np.concatenate(a) for a in zip(*model.sample(truth, 0.1, n, rng), strict=True))
        start = near(truth, layout.L, rng)

        def ours(explore=False, x=x, y=y, start=start):
            began = time.perf_counter()
            result = fit(model, (x, y), start, BOX, explore=explore)
            return time.perf_counter() - began, result

        result = ours()[1]  # compiles, the first time
        seconds, found = [ours()[0]], []
        goal = result.sse * (1 + 1e-12) + 1e-3 * 0.1**2
        for peer, run in (("scipy least_squares", scipy_fit), ("torch Adam", adam_fit)):
            began = time.perf_counter()
            sse, work = run(model, layout, x, y, start, goal, steps)
            found.append((peer, time.perf_counter() - began, sse, work))
            seconds += [ours()[0], ours()[0]]
        plain = statistics.median(seconds)
        for peer, theirs, sse, work in found:
            rows[peer].append((plain, theirs, plain / theirs, (sse - result.sse) / 0.01, work))
        whole, searched = ours(explore=True)
        rows["ours without search"].append((whole, plain, whole / plain, (result.sse - searched.sse) / 0.01, 0))
    found = []
    for peer, measured in rows.items():
        ours_seconds, theirs, ratio, gap, work = (statistics.median(v) for v in zip(*measured, strict=True))
        reached = sum(m[3] <= 2e-3 for m in measured)
        note = f"{count} data sets, {reached} reached our SSE; median gap {gap:.3g} nu^2"
        name = f"{'over-specified' if extra else 'exact'} fit n={n}"
        found.append(
            {
                "case": name,
                "ours_seconds": ours_seconds,
                "peer": peer,
                "peer_seconds": theirs,
                "ratio": ratio,
                "note": note + (f", median {work:.0f} evaluations" if work else ""),
            }
        )
    return found


class _Reached(Exception):
    pass


def scipy_fit(model, layout, x, y, start, goal, steps):
    """least_squares (trf) with the analytic Jacobian, until the SSE of ours or its own end."""
    best = [np.inf, 0]

    def residual(theta):
        r = (model(x, layout.unpack(theta)) - y).ravel()
        best[:] = min(best[0], r @ r), best[1] + 1
        if best[0] <= goal:
            raise _Reached
        return r

    def slope(theta):
        return jacobian(model, x, layout.unpack(theta)).reshape(-1, layout.size)

    upper = np.full(layout.size, BOX.prompt)
    upper[layout.b], upper[-1] = 2 * BOX.bias, BOX.alpha
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15}
    with suppress(_Reached):
        least_squares(residual, layout.pack(start), slope, (-upper, upper), x_scale="jac", max_nfev=steps, **tight)
    return best


def adam_fit(model, layout, x, y, start, goal, steps):
    """Full-batch Adam at 1e-2 on the plain model in torch float64."""
    import torch  # here, so that the process whose memory is measured does not load it

    torch.set_num_threads(1)
    f0 = torch.tensor(y - model.pretrained(x)[0])
    xB, C = torch.tensor(x @ model.B), torch.tensor(model.C)
    theta = torch.tensor(layout.pack(start), requires_grad=True)
    optimizer, sse, step = torch.optim.Adam([theta], lr=1e-2), np.inf, 0
    while step < 20 * steps:
        step += 1
        q = theta[torch.tensor(layout.atoms[0])]
        weight = torch.softmax(xB @ q.T + theta[torch.tensor(layout.b)], 1)
        loss = ((f0 - torch.tanh(theta[-1]) * weight @ q @ C.T) ** 2).sum()
        sse = min(sse, loss.item())
        if sse <= goal:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sse, step


def _peak(n: int, queue) -> None:
    model, truth = problem(4, 4)
    rng = stream(0, "memory")
    began = time.perf_counter()
    result = fit(model, model.sample(truth, 0.1, n, rng), near(truth, 3, stream(0, "start")), BOX, truth)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put((peak / 1e9, time.perf_counter() - began, result.status))


def memory(n: int) -> dict:
    """Peak resident memory of a process that draws data in chunks and fits them, interpreter and libraries included."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(n, queue))
    process.start()
    peak, seconds, status = queue.get()
    process.join()
    return {"n": n, "d": 4, "peak_gb": round(peak, 3), "seconds": round(seconds, 1), "status": status}


def main() -> None:
    """Command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; nothing is written")
    quick = parser.parse_args().quick
    pairs, count, steps = (3, 2, 30) if quick else (21, 5, 300)
    peak = memory(100_000 if quick else 10_000_000)  # first: a process begins with its parent's peak
    print(f"memory: {peak}")
    rows = [gram(4, pairs), gram(64, pairs)]
    for extra, n in ((0, 2000), (1, 2000)) if quick else ((0, 10_000), (0, 100_000), (1, 10_000)):
        rows += fits(extra, n, count, steps)
    for row in rows:
        print(
            f"{row['case']:28} {row['ours_seconds']:9.4f} s   {row['peer']:20} {row['peer_seconds']:9.4f} s", end="   "
        )
        print(f"ratio {row['ratio']:.3f} ({1 / row['ratio']:.1f}x)   {row['note']}")
    if not quick:
        folder = RESULTS / "benchmarks"
        tables.write(folder / "estimator.csv", rows, COLUMNS)
        record = {"rows": rows, "memory": peak, "threads": 1, "provenance": provenance()}
        write_atomic(folder / "estimator.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
