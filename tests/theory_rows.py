"""Rows of every study that no fit has made: errors at theory's rates times noise, for tests of what reads them."""

from dataclasses import replace

import numpy as np

from common import tables
from common.streams import stream
from theory.runs import run
from theory.studies import STUDIES
from theory.summary import measure, save_rates
from theory.tables import COLUMNS, CONSTANTS, QUANTITIES

TRUTHS, REPLICATES, SIZES = 3, 5, 4


def write(folder, names=tuple(STUDIES)):
    """Rows, rates and constants of the quick twins of these studies, with few replicates and truths."""
    constants = []
    for name in names:
        study = small(name)
        done = run(study, folder, work=row)
        save_rates(folder, measure(study, done))
        constants += compared(study)
    tables.write(folder / "constants.csv", constants, CONSTANTS)


def small(name):
    study = STUDIES[name]
    truths = min(study.truths, TRUTHS)
    return replace(study, sizes=study.sizes[:SIZES], truths=truths, replicates=REPLICATES, large_replicates=REPLICATES)


def row(study, n, replicate, truth):
    """A fit that was not made; the first of two replicates has a weight at its bound, the other has not."""
    rng = stream(study.seed, study.name, n, replicate, truth)
    names = list(COLUMNS)
    errors = names[names.index("function_error") : names.index("bound_kinds")]
    of = {name: study.theory.get("sqrt_over_term" if name == "over_term" else name) for name in errors}
    found = {
        name: (1 + i) * 0.1 * (1 + truth) * n ** (rate.slope if rate else -0.4) * rng.lognormal(sigma=0.3)
        for i, (name, rate) in enumerate(of.items())
    }
    found["over_term"] **= 2
    return {
        "study": study.name, "n": n, "replicate": replicate, "truth": truth, "status": "converged", "iterations": 7,
        "restarts": 0, "seconds": 0.01, "sse": 1.0, "sse_at_truth": 1.1, "decrement": 1e-6, **found, "cells": "1-2",
        "at_bound": 1, "bound_kinds": ("b", "alpha+b", "p", "none")[replicate % 4], "starts_agree": 1.0,
    }  # fmt: skip


def compared(study):
    """Rows of constants.csv that no theory has predicted."""
    rng = np.random.default_rng(len(study.name))
    found = []
    for n in study.sizes:
        for quantity in [q for q in QUANTITIES if q in study.theory]:
            predicted, ratio = rng.uniform(0.1, 2), rng.uniform(0.9, 1.1)
            free = 1.1 * predicted if study.extra and quantity == "function_error" else None
            found.append(
                {"study": study.name, "n": n, "quantity": quantity, "simulated": ratio * predicted, "ratio": ratio}
                | {"predicted": predicted, "low": ratio - 0.05, "high": ratio + 0.06, "predicted_free": free}
                | {"replicates": REPLICATES, "truths": study.truths}
            )
    return found
