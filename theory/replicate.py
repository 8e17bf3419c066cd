"""One replicate of a study: draw a data set, fit it, measure every error. The row of the results table."""

import time

import numpy as np

from common.streams import stream
from theory.chunks import Drawn
from theory.errors import errors
from theory.estimate import fit_reduced
from theory.model import Prompts
from theory.reduction import Reduced, reduce
from theory.starts import anywhere, near
from theory.studies import Study
from theory.truths import Setting

RESTARTS = 5
GLOBAL_STARTS = 4
GLOBAL_ROWS = 1000
LARGE = 3_000_000  # rows from which they are drawn anew at every pass


def replicate(study: Study, n: int, number: int, truth: int = 0) -> dict:
    """Row of replicate `number` of a truth at sample size n; a function of these and the study alone, `seconds` apart.

    A fit whose sum of squares is above that at the truth is no least-squares estimate: it is started again, at most
    RESTARTS times, and says `above_truth` if that did not help. With fewer prompts than the truth has, the best fit of
    that size stands for the truth.
    """
    setting = study.setting(truth)
    model, target = setting.model, setting.target(n)
    began = time.perf_counter()
    key = (study.name, n, number, *(("truth", truth) if truth else ()))
    if n < LARGE:
        data = reduce(model, model.sample(setting.at(n), study.noise, n, stream(study.seed, *key, "data")))
    else:
        data = reduce(model, Drawn(model, setting.at(n), study.noise, n, study.seed, (*key, "data")), keep=False)
    rng = stream(study.seed, *key, "start")
    passes = 0
    for restarts in range(RESTARTS + 1):  # noqa: B007  (how many it took is a column)
        result = fit_reduced(model, data, _start(study, setting, n, data, rng), study.box, target)
        passes += result.iterations
        if result.status != "above_truth":
            break
    seconds = time.perf_counter() - began
    return {
        "study": study.name,
        "n": n,
        "replicate": number,
        "truth": truth,
        "status": result.status,
        "iterations": passes,
        "restarts": restarts,
        "seconds": round(seconds, 4),
        "sse": result.sse,
        "sse_at_truth": result.sse_at_truth,
        "decrement": result.decrement,
        "at_bound": len(result.at_bound),
        "bound_kinds": "+".join(sorted({name.partition("[")[0] for name in result.at_bound})) or "none",
        "starts_agree": result.starts_agree,
        **{name: _short(value) for name, value in errors(study, result.prompts, n, truth).items()},
    }


def _short(value):
    """Nine digits: what a machine's rounding leaves of an error, and half the size of the tables."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _start(study: Study, setting: Setting, n: int, data: Reduced, rng: np.random.Generator) -> Prompts:
    """Near the truth; for `global`, the best of several fits from anywhere in the box on the first rows."""
    if study.start == "near":
        return near(setting.target(n), study.fitted, rng)
    starts = anywhere(setting.model, study.fitted, study.box, rng, GLOBAL_STARTS)
    rows = data.head(min(GLOBAL_ROWS, data.n))
    return fit_reduced(setting.model, rows, starts, study.box, explore=False, max_iterations=60).prompts
