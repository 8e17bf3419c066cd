"""Which rows train: rows held out, and shares of the others."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from common.streams import stream
from llm.data.rows import Row

FRACTIONS = (0.01, 0.1, 0.3, 0.5, 1.0)  # the paper's shares of the training rows


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Disjoint training and validation rows, in their order; rows of one instruction and input stay together.

    Raises
    ------
    ValueError
        If `count` is no whole number, is negative or leaves no row to train on, or repeated rows do not allow this very
        count.
    """
    if not isinstance(count, int) or not 0 <= count < len(rows):
        raise ValueError(
            f"the validation rows must be at least 0 and fewer than the {len(rows)} rows there are; got {count}"
        )
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row["instruction"], row["input"]), []).append(index)
    held: set[int] = set()
    members = list(groups.values())
    for number in stream(seed, "hold-out").permutation(len(members)):
        if len(held) + len(members[number]) <= count:
            held.update(members[number])
    if len(held) < count:
        raise ValueError(
            f"{count} validation rows must not share an instruction and input with training rows; rows repeat so much "
            f"that this draw holds out {len(held)}; ask for that many, or remove repeated rows"
        )
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


def check_fraction(share: float) -> None:
    """ValueError unless a share is in (0, 1]."""
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"the fraction must be above 0 and at most 1; got {share!r}; a tenth of the rows is 0.1")


def fraction(rows: Sequence[Any], share: float, seed: int) -> list[Any]:
    """A random share of rows in their order, rounded half up and at least one; a smaller share is a subset of a larger.

    Raises
    ------
    ValueError
        If the share is not in (0, 1], or there are no rows.
    """
    check_fraction(share)
    if not rows:
        raise ValueError("there must be at least one row to take a fraction of")
    # 0.29 of 50 rows is 14.5 rows, though not in binary.
    count = max(1, int(Fraction(str(share)) * len(rows) + Fraction(1, 2)))
    chosen = stream(seed, "fraction").permutation(len(rows))[:count]
    return [rows[index] for index in sorted(chosen)]
