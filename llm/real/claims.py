"""The paper's claims on a real base, judged by a rule that was fixed before any run.

A claim says that one arm is better than another; its value is positive if it is so:

    held_out_loss   loss of the second minus loss of the first, nats per token: sum over rows / sum of their tokens
    accuracy        accuracy of the first minus that of the second, item by item

each averaged over seeds, which are paired. Quantities: `gain` at the whole sample, and for losses `growth`, the
least-squares slope of the difference against -log10(share). There are two intervals of 95 %:

    low, high             crossed bootstrap: rows (or items) and seeds are drawn anew, each with replacement
    seed_low, seed_high   Student's t over seeds; three seeds make it wide, and the bootstrap's too narrow

**Rule**: *gain* if both lie above 0; *no gain of M* if both lie below M, which is 0.01 nats or 2 points; else
*unresolved*. The resolution is half the width of the wider one: a smaller difference cannot be told from none here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common import tables
from common.streams import stream
from llm.real.protocol import COMMON, OWN_BEST, PUBLISHED, Protocol
from llm.real.tables import COLUMNS, Table
from llm.world.claims import growth, interval

MARGIN = {"held_out_loss": (0.01, "no gain of 0.01 nats"), "accuracy": (0.02, "no gain of 2 points")}
DRAWS = 10_000
# First arm, arm it should beat, in words.
ORDER = (
    ("linear", "random_init", "linear prompts beat random-initialised attention at its published scale"),
    ("linear", "random_init_tuned", "linear prompts beat random-initialised attention at its best scale"),
    ("nonlinear", "random_init", "non-linear prompts beat random-initialised attention at its published scale"),
    ("nonlinear", "random_init_tuned", "non-linear prompts beat random-initialised attention at its best scale"),
    (
        "nonlinear",
        "random_init_nonlinear",
        "zero-initialised attention beats random-initialised with non-linear prompts",
    ),
    ("nonlinear", "linear", "non-linear prompts beat linear prompts"),
    ("lora", "nonlinear", "LoRA beats non-linear prompts"),
    ("full", "nonlinear", "full fine-tuning beats non-linear prompts"),
)
Rows = Mapping[tuple[str, ...], Mapping[str, str]]


def judge(base: str, folder: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """Every claim that the tables in a folder have the runs of."""
    losses = _losses(folder)
    rights = _rights(Table(folder, "scores").rows)
    whole = (max(protocol.shares),)
    found = []
    for first, second, words in ORDER:
        known = {"base": base, "first": first, "second": second}
        for rule in (OWN_BEST, COMMON, PUBLISHED):
            for quantity, shares in (("gain", whole), ("growth", tuple(sorted(protocol.shares)))):
                pair = _loss_pair(losses, first, second, rule, shares, protocol.seeds)
                if pair is None or (quantity == "growth" and len(shares) < 2):
                    continue
                text = words if quantity == "gain" else f"{words}, by more with less data"
                claim = known | {"claim": text, "measure": "held_out_loss", "quantity": quantity, "rates": rule}
                found.append(claim | _judged(*pair, shares, "held_out_loss"))
        for measure in sorted({task for _, _, task in rights}):
            pair = _right_pair(rights, first, second, measure, protocol.seeds)
            if pair is not None:
                claim = known | {"claim": words, "measure": measure, "quantity": "gain", "rates": OWN_BEST}
                found.append(claim | _judged(*pair, whole, "accuracy"))
    return found


def write(base: str, folder: Path, protocol: Protocol) -> list[dict[str, Any]]:
    """Judge and write claims.csv."""
    found = judge(base, folder, protocol)
    tables.finish(folder / "claims.csv", found, COLUMNS["claims"])
    return found


def verdict(intervals: Sequence[tuple[float, float]], kind: str) -> str:
    """The rule in the head of this file."""
    margin, words = MARGIN[kind]
    if np.isnan(intervals).any():
        return "unresolved"
    if min(low for low, _ in intervals) > 0:
        return "gain"
    return words if max(high for _, high in intervals) < margin else "unresolved"


def crossed_bootstrap(differences: np.ndarray, weights: np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """95 % percentile interval of sum_rs d_rs / (seeds sum_r w_r), rows r and seeds s drawn independently.

    Parameters
    ----------
    differences : ndarray (seeds, rows)
    weights : ndarray (rows,)
    draws : int
    """
    seeds, rows = differences.shape
    random = stream(0, "crossed bootstrap")
    values = np.empty(draws)
    for draw in range(draws):
        chosen = np.bincount(random.integers(rows, size=rows), minlength=rows)
        some = np.bincount(random.integers(seeds, size=seeds), minlength=seeds)
        values[draw] = some @ differences @ chosen / (seeds * (weights @ chosen))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _judged(differences: np.ndarray, weights: np.ndarray, shares: Sequence[float], kind: str) -> dict[str, Any]:
    value, seed_low, seed_high = interval(differences.sum(1) / weights.sum())
    low, high = crossed_bootstrap(differences, weights)
    return {
        **{"value": value, "low": low, "high": high, "seed_low": seed_low, "seed_high": seed_high},
        "resolution": max(high - low, seed_high - seed_low) / 2,
        "verdict": verdict([(low, high), (seed_low, seed_high)], kind),
        **{"shares": " ".join(f"{share:g}" for share in shares), "seeds": len(differences)},
    }


def _losses(folder: Path) -> dict[tuple[str, str, str, str], np.ndarray]:
    """(arm, share, seed, rule): rows x (sum of losses, tokens)."""
    found: dict[tuple[str, str, str, str], list] = {}
    for row in tables.read(folder / "rows_loss.csv", COLUMNS["rows_loss"]):
        key = row["arm"], row["share"], row["seed"], row["rate_rule"]
        tokens = int(row["tokens"])
        found.setdefault(key, []).append((int(row["row"]), float(row["loss"]) * tokens, tokens))
    return {key: np.array(sorted(rows))[:, 1:] for key, rows in found.items()}


def _loss_pair(
    losses: Mapping, first: str, second: str, rule: str, shares: Sequence[float], seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Differences (seeds, rows), for several shares their slopes, and tokens of the rows; None unless all are there."""
    keys = [[(str(share), str(seed), rule) for share in shares] for seed in seeds]
    if any((arm, *key) not in losses for arm in (first, second) for some in keys for key in some):
        return None
    table = np.array(
        [[losses[second, *key][:, 0] - losses[first, *key][:, 0] for key in some] for some in keys]
    )  # seeds, shares, rows
    weights = losses[first, *keys[0][0]][:, 1]
    if len(shares) == 1:
        return table[:, 0], weights
    return np.stack([growth(shares, by_share.T) for by_share in table]), weights


def _rights(rows: Rows) -> dict[tuple[str, str, str], np.ndarray]:
    """(arm, seed, task): whether each item is right."""
    found = {}
    for row in rows.values():
        task = row["task"] if row["protocol"] == "harness" else f"{row['task']} ({row['protocol']})"
        found[row["arm"], row["seed"], task] = np.array([int(c) for c in row["right"]], float)
    return found


def _right_pair(
    rights: Mapping, first: str, second: str, task: str, seeds: Sequence[int]
) -> tuple[np.ndarray, np.ndarray] | None:
    keys = [(str(seed), task) for seed in seeds]
    if any((arm, *key) not in rights for arm in (first, second) for key in keys):
        return None
    table = np.array([rights[first, *key] - rights[second, *key] for key in keys])
    return table, np.ones(table.shape[1])
