"""Rates and initial scales by the tuning: a method's best, and one rate for several arms."""

from collections.abc import Iterable

from llm.real.protocol import ARMS, COMMON, COMMON_ARMS, PUBLISHED, PUBLISHED_RATE, START, Cell
from llm.real.tables import Table, text

Choice = tuple[float, float | None]  # rate, initial scale


def losses(table: Table, method: str, scale: float | None) -> dict[float, float]:
    """Held-out loss by rate; infinite where a run diverged."""
    rows = [r for r in table.rows.values() if r["arm"] == method and r["initial_scale"] == text(scale)]
    return {
        float(r["learning_rate"]): float(r["held_out_loss"]) if r["status"] == "finished" else float("inf")
        for r in rows
    }


def best(table: Table, arm: str) -> Choice | None:
    """Rate and scale of the lowest loss among an arm's scales; None if the tuning has none of it."""
    found = [(loss, rate, scale) for scale in ARMS[arm].scales for rate, loss in _of(table, arm, scale).items()]
    return min(found, key=lambda choice: choice[:2])[1:] if found else None


def edge(table: Table, arm: str) -> int:
    """-1 or 1 if an arm's best rate is the lowest or the highest of its scale, else 0."""
    choice = best(table, arm)
    assert choice is not None
    rates = _of(table, arm, choice[1])
    return (choice[0] == max(rates)) - (choice[0] == min(rates))


def common_rate(table: Table, arms: Iterable[str] = COMMON_ARMS) -> float:
    """The rate with the lowest loss averaged over these arms, each at its best scale."""
    by_arm = []
    for arm in arms:
        choice = best(table, arm)
        assert choice is not None
        by_arm.append(_of(table, arm, choice[1]))
    shared = sorted(set.intersection(*map(set, by_arm)))
    return min(shared, key=lambda rate: sum(found[rate] for found in by_arm))


def chosen(table: Table, cell: Cell) -> Choice:
    """Rate and scale of a cell by its rule."""
    if cell.rate_rule == PUBLISHED:
        return PUBLISHED_RATE, START[cell.arm]
    choice = best(table, cell.arm)
    assert choice is not None
    return (common_rate(table), choice[1]) if cell.rate_rule == COMMON else choice


def _of(table: Table, arm: str, scale: float | None) -> dict[float, float]:
    return losses(table, ARMS[arm].method, scale)
