"""Columns of the tables of `theory.simulate`. Nothing heavy is imported here, so that readers need no estimator."""

# A row of STUDY.csv: one fit.
COLUMNS = (
    "study", "n", "replicate", "status", "iterations", "restarts", "seconds", "sse", "sse_at_truth", "decrement",
    "function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error", "over_prompt_error",
    "exact_prompt_error_unweighted", "over_prompt_error_unweighted",
    "voronoi_q", "exact_prompt_error_q", "over_prompt_error_q", "cells", "at_bound",
)  # fmt: skip
# A row of rates.csv: one slope.
RATES = (
    "study", "quantity", "slope", "low", "high", "theory", "n_min", "n_max", "replicates", "verdict",
    "log_slope", "log_low", "log_high",
)  # fmt: skip
