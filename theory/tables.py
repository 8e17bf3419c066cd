"""The tables of the theory part: their columns, and what a cell of each may hold. Nothing heavy is imported here.

`rows`: results/theory/STUDY.csv, one line a fit. `rates`: results/theory/rates.csv, one line a study and quantity.
`constants`: results/theory/constants.csv, one line a study, quantity and n.
`probe`: results/theory/probe.csv, one line a gate, case and eps.
"""

import math
from collections.abc import Callable, Iterable, Mapping

from common.tables import Column, TableError

STATUS = ("converged", "max_iterations", "stalled", "above_truth")
COLUMNS = (
    "study", "n", "replicate", "truth", "status", "iterations", "restarts", "seconds", "sse", "sse_at_truth",
    "decrement", "function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error", "over_prompt_error",
    "exact_prompt_error_unweighted", "over_prompt_error_unweighted",
    "voronoi_q", "exact_prompt_error_q", "over_prompt_error_q", "cells", "at_bound",
    "over_term", "moving_prompt_error", "value_error", "gated_prompt_error", "merged_error", "min_weight",
    "bound_kinds", "starts_agree",
)  # fmt: skip
RATES = (
    "study", "quantity", "slope", "low", "high", "theory", "n_min", "n_max", "replicates", "verdict",
    "log_slope", "log_low", "log_high", "kind", "truths", "late_slope", "late_low", "late_high",
)  # fmt: skip
CONSTANTS = (
    "study", "n", "quantity", "simulated", "predicted", "ratio", "low", "high", "predicted_free",
    "replicates", "truths",
)  # fmt: skip
QUANTITIES = (
    "function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error", "over_prompt_error",
    "moving_prompt_error", "value_error", "over_prompt_error_unweighted", "sqrt_over_term", "gated_prompt_error",
    "merged_error", "voronoi_q", "exact_prompt_error_q",
)  # fmt: skip
PROBE_GATES = ("zero_init", "joint", "joint_unshared")
PROBE_CASES = (
    "exact-linear", "exact-tanh", "over-linear", "over-tanh", "no-gauge", "single-prompt", "rank-c", "gate-zero",
    "relu-inactive", "relu-active", "doubled", "moving",
)  # fmt: skip
PROBE = {
    "gate": Column(words=PROBE_GATES),
    "case": Column(words=PROBE_CASES),
    "eps": Column("number", low=0),
    "ratio": Column("number", low=0),
}
KINDS = ("exact", "bound", "uniform")


def error(row: Mapping, quantity: str) -> float:
    """An error of a row; nan where the fit has none of its kind. sqrt_over_term is the root of D's over term."""
    return math.sqrt(float(row["over_term"])) if quantity == "sqrt_over_term" else float(row[quantity])


def _number(least: float, missing: bool = False) -> Callable[[str], bool]:
    def holds(cell: str) -> bool:
        value = float(cell)
        return math.isnan(value) if missing and math.isnan(value) else least <= value < math.inf

    return holds


def _whole(cell: str) -> bool:
    return cell.isascii() and cell.isdecimal()


def _cells(cell: str) -> bool:
    return all(map(_whole, cell.split("-")))


def _kinds(cell: str) -> bool:
    return cell == "none" or set(cell.split("+")) <= {"p", "p_value", "b", "alpha"}


_ERROR = ("must be a number, 0 or more, or nan where the fit has none of its kind", _number(0, missing=True))
_SIZE = ("must be a number, 0 or more", _number(0))
_COUNT = ("must be a whole number", _whole)
DOMAINS: dict[str, tuple[str, Callable[[str], bool]]] = {
    **dict.fromkeys(COLUMNS[COLUMNS.index("voronoi") :], _ERROR),
    **dict.fromkeys(("n", "replicate", "truth", "iterations", "restarts", "at_bound"), _COUNT),
    **dict.fromkeys(("seconds", "sse", "sse_at_truth", "decrement", "function_error", "voronoi", "min_weight"), _SIZE),
    "status": (f"must be one of {', '.join(STATUS)}", STATUS.__contains__),
    "cells": ("must be counts joined by -", _cells),
    "bound_kinds": ("must be none, or some of p, p_value, b, alpha joined by +", _kinds),
    "starts_agree": ("must be a share, from 0 to 1", lambda cell: 0 <= float(cell) <= 1),
}
"""What a cell must hold, in words, and whether it does."""


def check(rows: Iterable[Mapping[str, str]], study: str, path) -> None:
    """Raise TableError, naming line and column, unless every row is one of this study and every cell in its domain."""
    for line, row in enumerate(rows, 2):
        if row["study"] != study:
            raise TableError(
                f"{path} must hold rows of {study} only; line {line} is of {row['study']!r}. "
                "Put the right table in its place, or start anew with --fresh"
            )
        for column, (words, holds) in DOMAINS.items():
            try:
                good = holds(row[column])
            except ValueError:
                good = False
            if not good:
                raise TableError(
                    f"{path} is damaged: {column} {words}; line {line} has {row[column]!r}. "
                    "Restore the file, delete that line to compute it again, or start anew with --fresh"
                )
