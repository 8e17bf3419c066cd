"""The tables of the theory part: their columns, and what a cell of each may hold. Nothing heavy is imported here.

`COLUMNS`: results/theory/STUDY.csv, one line a fit. `RATES`: results/theory/rates.csv, one line a study and quantity.
`CONSTANTS`: results/theory/constants.csv, one line a study, quantity and n. `SCALING`: results/theory/scaling.csv, one
line an n.
"""

import math
from collections.abc import Mapping
from itertools import combinations

from common.tables import Column

STATUS = ("converged", "max_iterations", "stalled", "above_truth")
QUANTITIES = (
    "function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error", "over_prompt_error",
    "moving_prompt_error", "value_error", "over_prompt_error_unweighted", "sqrt_over_term", "gated_prompt_error",
    "merged_error", "voronoi_q", "exact_prompt_error_q",
)  # fmt: skip
KINDS = ("exact", "bound", "uniform")
VERDICTS = ("consistent", "faster", "slower", "within bound", "not resolved", "not testable", "no theorem")
PARTS = ("alpha", "b", "p", "p_value")  # of the prompts, any of which may be at a bound

_COUNT, _LEAST, _SIZE = Column("integer", 0), Column("integer", 1), Column("number", 0)
_ERROR = Column("number", 0, also=("nan",))  # nan where a fit has none of its kind
_ANY, _PERHAPS = Column("number"), Column("number", also=("",))
COLUMNS = {
    "study": Column(),
    "n": _LEAST,
    "replicate": _COUNT,
    "truth": _COUNT,
    "status": Column(words=STATUS),
    "iterations": _COUNT,
    "restarts": _COUNT,
    **dict.fromkeys(("seconds", "sse", "sse_at_truth", "decrement", "function_error", "voronoi"), _SIZE),
    **dict.fromkeys(("gating_error", "weight_error", "exact_prompt_error", "over_prompt_error"), _ERROR),
    **dict.fromkeys(("exact_prompt_error_unweighted", "over_prompt_error_unweighted"), _ERROR),
    **dict.fromkeys(("voronoi_q", "exact_prompt_error_q", "over_prompt_error_q"), _ERROR),
    "cells": Column("counts"),
    "at_bound": _COUNT,
    **dict.fromkeys(("over_term", "moving_prompt_error", "value_error", "gated_prompt_error", "merged_error"), _ERROR),
    "min_weight": _SIZE,
    "bound_kinds": Column(words=("none", *("+".join(c) for k in range(1, 5) for c in combinations(PARTS, k)))),
    "starts_agree": Column("number", 0, 1),
}
KEY = ("n", "replicate", "truth")
RATES = {
    "study": Column(),
    "quantity": Column(words=QUANTITIES),
    **dict.fromkeys(("slope", "low", "high"), _ANY),
    "theory": _PERHAPS,
    **dict.fromkeys(("n_min", "n_max", "replicates"), _LEAST),
    "verdict": Column(words=VERDICTS),
    **dict.fromkeys(("log_slope", "log_low", "log_high"), _ANY),
    "kind": Column(words=("", *KINDS)),
    "truths": _LEAST,
    **dict.fromkeys(("late_slope", "late_low", "late_high"), _PERHAPS),
}
CONSTANTS = {
    "study": Column(),
    "n": _LEAST,
    "quantity": Column(words=(*QUANTITIES, "squared_error")),
    **dict.fromkeys(("simulated", "predicted"), _SIZE),
    **dict.fromkeys(("ratio", "low", "high"), _ANY),
    "predicted_free": Column("number", 0, also=("",)),
    **dict.fromkeys(("replicates", "truths"), _LEAST),
}
SCALING = {
    "n": _LEAST,
    "seconds_per_step": _SIZE,  # of CPU, as all seconds here
    "peak_mb": _SIZE,
    "descents": _LEAST,
    "fit_seconds": _SIZE,
    "fit_passes": _LEAST,
    "status": Column(words=STATUS),
    "function_error": _SIZE,
}


def error(row: Mapping, quantity: str) -> float:
    """An error of a row; nan where the fit has none of its kind. sqrt_over_term is the root of D's over term."""
    return math.sqrt(float(row["over_term"])) if quantity == "sqrt_over_term" else float(row[quantity])
