"""Whether zero-initialisation stabilises training: shares of runs, compared truth by truth.

Of each run of the study `training`:

    reached   at the last step its loss is at most that at the true prompts, which least squares is expected to undercut
    robust    the same, at 10^0.5 and 10 times the arm's own best rate, from prompts of scale 1
    smooth    its loss was never more than 1 % above that at the start
    global    the local minimum below its last step is as low as least squares, to 0.1 nu^2

A claim compares the share of zero_init with that of another arm: the difference, averaged over the truths, with
Student's interval of 95 %. It holds if the interval lies above 0, does not hold if it lies below +0.02, else it is not
resolved: the rule of docs/experiments.md.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import product

import numpy as np
from scipy.stats import t as student

from theory.training import ACTIVATIONS, OPTIMISERS, QUANTITIES, VERDICTS, Training

SMOOTH = 1.01
SAME = 0.1
USELESS = 0.02
HEADLINE = ("reached", "robust", "smooth")
CONFIRMED, REFUTED = 9, 3  # of the 12 headline claims


def judge(study: Training, rows: Iterable[Mapping]) -> list[dict]:
    """All claims, for a study of two truths or more."""
    shares = shares_of(study, rows)
    found = []
    for activation, optimiser, other, quantity in product(
        ACTIVATIONS, OPTIMISERS, ("random_init", "random_gate"), QUANTITIES
    ):
        ours, theirs = (
            np.array([np.mean(shares[activation, arm, optimiser, quantity, truth]) for truth in range(study.truths)])
            for arm in ("zero_init", other)
        )
        gap = ours - theirs
        half = student.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
        low, high = gap.mean() - half, gap.mean() + half
        found.append(
            {"activation": activation, "optimiser": optimiser, "against": other, "quantity": quantity}
            | {"zero_init": float(ours.mean()), "other": float(theirs.mean()), "difference": float(gap.mean())}
            | {
                "low": float(low),
                "high": float(high),
                "verdict": VERDICTS[0 if low > 0 else 1 if high < USELESS else 2],
            }
        )
    return found


def shares_of(study: Training, rows: Iterable[Mapping]) -> dict[tuple, list[bool]]:
    """(activation, arm, optimiser, quantity, truth) -> whether it is so, run by run."""
    shares = defaultdict(list)
    for r in rows:
        if int(r["step"]) != study.marks[-1]:
            continue
        place, truth, factor = (r["activation"], r["arm"], r["optimiser"]), int(r["truth"]), float(r["factor"])
        reached = float(r["excess"]) <= float(r["at_truth"])
        if factor == 1:
            shares[*place, "reached", truth].append(reached)
            shares[*place, "smooth", truth].append(float(r["peak"]) <= SMOOTH)
            shares[*place, "global", truth].append(float(r["polished"]) <= SAME)
        elif factor > 1.01 and float(r["scale"]) == 1:
            shares[*place, "robust", truth].append(reached)
    return shares


def verdict(claims: Iterable[Mapping], against: str) -> str:
    """What the headline claims against an arm say together."""
    mine = [c for c in claims if c["against"] == against and c["quantity"] in HEADLINE]
    holds = sum(c["verdict"] == "holds" for c in mine)
    worse = sum(float(c["high"]) < 0 for c in mine)
    word = "confirmed" if holds >= CONFIRMED and not worse else "refuted" if holds <= REFUTED else "mixed"
    return f"against {against}: {word} ({holds} of {len(mine)} claims hold, in {worse} zero_init is worse)"


def words(claims: list[dict]) -> str:
    """Claims and verdicts, to print."""
    lines = [
        f"{c['activation']:8} {c['optimiser']:4} {c['quantity']:7} zero_init {c['zero_init']:.2f}, {c['against']} "
        f"{c['other']:.2f}: {c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}]  {c['verdict']}"
        for c in claims
    ]
    head = "zero-initialisation stabilises training"
    return "\n".join(lines + [f"{head}, {verdict(claims, arm)}" for arm in ("random_init", "random_gate")])
