"""Learning rates of the arms: an arm's best of the tuning, and the best single one for several arms."""

from collections.abc import Iterable

from llm.world.tables import Table


def best(table: Table, arm: str, grid: Iterable[float] | None = None) -> tuple[float, bool] | None:
    """The rate of an arm's highest mean accuracy in the tuning (ties: lower loss), and whether it is at an edge.

    Of the rates of a grid; None: of all that were run.
    """
    means = {r: _mean(table, arm, r) for r in (_rates(table, arm) if grid is None else grid)}
    if not means:
        return None
    top = max(means, key=lambda r: means[r])
    return top, top in (min(means), max(means))


def common_rate(table: Table, arms: Iterable[str]) -> float:
    """The rate of the tuning grid with the highest accuracy averaged over these arms: the fairest single one."""
    shared = set.intersection(*(set(_rates(table, arm)) for arm in arms))
    return max(sorted(shared), key=lambda r: sum(_mean(table, arm, r)[0] for arm in arms))


def _rates(table: Table, arm: str) -> list[float]:
    return sorted({float(row["learning_rate"]) for row in table.rows.values() if row["arm"] == arm})


def _mean(table: Table, arm: str, learning_rate: float) -> tuple[float, float]:
    rows = [r for r in table.rows.values() if r["arm"] == arm and float(r["learning_rate"]) == learning_rate]
    if any(row["status"] != "finished" for row in rows):
        return float("-inf"), float("-inf")
    return sum(float(r["accuracy"]) for r in rows) / len(rows), -sum(float(r["held_out_loss"]) for r in rows) / len(
        rows
    )
