"""Learning rates of the arms: an arm's best of the tuning, and the best single one for several arms."""

from collections.abc import Collection, Iterable, Mapping

Rows = Collection[Mapping]  # of the tuning, as in the file or as numbers


def best(rows: Rows, arm: str, grid: Iterable[float] | None = None) -> tuple[float, bool] | None:
    """The rate of an arm's highest mean accuracy in the tuning (ties: lower loss), and whether it is at an edge.

    Of the rates of a grid; None: of all that were run.
    """
    means = {r: _mean(rows, arm, r) for r in (_rates(rows, arm) if grid is None else grid)}
    if not means:
        return None
    top = max(means, key=lambda r: means[r])
    return top, top in (min(means), max(means))


def common_rate(rows: Rows, arms: Iterable[str]) -> float:
    """The rate of the tuning grid with the highest accuracy averaged over these arms: the fairest single one."""
    shared = set.intersection(*(set(_rates(rows, arm)) for arm in arms))
    return max(sorted(shared), key=lambda r: sum(_mean(rows, arm, r)[0] for arm in arms))


def _rates(rows: Rows, arm: str) -> list[float]:
    return sorted({float(row["learning_rate"]) for row in rows if row["arm"] == arm})


def _mean(rows: Rows, arm: str, learning_rate: float) -> tuple[float, float]:
    mine = [r for r in rows if r["arm"] == arm and float(r["learning_rate"]) == learning_rate]
    if any(row["status"] != "finished" for row in mine):
        return float("-inf"), float("-inf")
    accuracy, loss = (sum(float(r[c]) for r in mine) / len(mine) for c in ("accuracy", "held_out_loss"))
    return accuracy, -loss
