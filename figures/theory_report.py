"""The tables of the theory studies for README.md and docs/."""

import numpy as np

from common.paths import RESULTS
from figures.frames import hours, table
from figures.theory_tables import read_constants, read_rates, read_rows
from theory.studies import STUDIES
from theory.summary import coverage

HEADS = {
    "function_error": "function",
    "voronoi": "D",
    "gating_error": "gate",
    "weight_error": "weights",
    "exact_prompt_error": "prompts, single",
    "over_prompt_error": "prompts, shared cell",
}
WORDS = {
    "moving_prompt_error": "prompts, the two halves",
    "value_error": "values of the halves",
    "over_prompt_error_unweighted": "prompts, shared cell, unweighted",
    "sqrt_over_term": "root of D's over term",
    "gated_prompt_error": "tanh(alpha) x prompts",
    "merged_error": "D after merging",
    "voronoi_q": "D in q",
    "exact_prompt_error_q": "prompts in q, single",
}
MARKS = {
    "consistent": "=",
    "faster": "<",
    "slower": ">",
    "within bound": "≤",
    "not resolved": "?",
    "not testable": "",
    "no theorem": "",
}


def quick() -> str:
    """The claims that the quick twins decide, seconds and machine first; slopes stay in the file."""
    path = RESULTS / "quick" / "table.txt"
    if not path.exists():
        return "Not run: `python theory/simulate.py --out results/quick`."
    claims, _, slopes = path.read_text().partition("\n\n")
    where = "All slopes are in [results/quick/table.txt](results/quick/table.txt)."
    return f"In {slopes.splitlines()[-1]}:\n\n```\n{claims}\n```\n\n{where}"


def rates() -> str:
    """One line a study: slope, 95 % interval and verdict of each quantity that every study measures."""
    slopes = read_rates(RESULTS / "theory")
    cells = {(r["study"], r["quantity"]): _slope(r) for r in slopes.to_dict("records")}
    there = [name for name in STUDIES if (slopes["study"] == name).any()]
    lines = [(name, *(cells.get((name, quantity), "") for quantity in HEADS)) for name in there]
    absent = [name for name in STUDIES if name not in there]
    counts = ", ".join(f"{(slopes['verdict'] == word).sum()} {word} ({mark})" for word, mark in MARKS.items() if mark)
    records = slopes.astype(object).where(slopes.notna(), None).to_dict("records")
    return "\n\n".join(
        [
            table("| study | " + " | ".join(HEADS.values()) + " |", lines),
            f"{coverage(records)}; {coverage(records, 'late_', ' without the first n')}. {counts}.",
            *([f"Not run: `python theory/simulate.py {' '.join(absent)} --full`."] if absent else []),
        ]
    )


def more_rates() -> str:
    """Slopes of what only some studies have, a line each."""
    slopes = read_rates(RESULTS / "theory")
    lines = [
        (r["study"], WORDS[r["quantity"]], _slope(r), f"{r['theory']:.3f}", r["kind"])
        for r in slopes[slopes["quantity"].isin(WORDS)].to_dict("records")
    ]
    return table("| study | | slope | theory | kind |", lines) if lines else "Not run: `make results`."


def constants() -> str:
    """Measured constants over predicted ones at the largest n of each study."""
    found = read_constants(RESULTS / "theory")
    if found.empty:
        return "Not run: `python -m theory.constants`."
    last = found[found["n"] == found.groupby("study")["n"].transform("max")]
    words = HEADS | WORDS | {"squared_error": "n x squared error / noise^2"}
    lines = []
    for r in last.to_dict("records"):
        numbers = map(_number, (r["simulated"], r["predicted"]))
        ratio = f"{r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
        lines.append((r["study"], f"{r['n']:,}", words[r["quantity"]], *numbers, ratio, _number(r["predicted_free"])))
    inside = ((last["low"] <= 1) & (last["high"] >= 1)).sum()
    head = "| study | n | | measured | predicted | ratio | predicted, spare prompt anywhere |"
    return table(head, lines) + f"\n\n{inside} of {len(last)} intervals contain 1."


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"


def _slope(row: dict) -> str:
    mark = MARKS[row["verdict"]]
    return f"{row['slope']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" + (f" {mark}" if mark else "")


def certificates() -> str:
    """Outcomes of the fits, and what they cost."""
    head = "| study | fits | converged | other | above the truth | restarted | median passes | core hours |"
    return table(head, map(_certificates, STUDIES))


def _certificates(name: str) -> list[str]:
    rows = read_rows(RESULTS / "theory", name)
    if rows.empty:
        return [name, f"not run: `python theory/simulate.py {name} --full`", *[""] * 6]
    converged, above = ((rows["status"] == word).sum() for word in ("converged", "above_truth"))
    passes = rows["iterations"].quantile(0.5, interpolation="higher")
    counts = (len(rows), converged, len(rows) - converged - above, above, (rows["restarts"] > 0).sum(), passes)
    return [name, *map(str, counts), f"{hours(rows):.2f}"]
