"""Figures of training and of real models show the numbers that they return; and a value drawn elsewhere is seen."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from figures.theory_practice import basins, load_models, load_training, real_models, training
from tests.artists import assert_same, bands, intervals, level_intervals, points

BESIDE = 0.25  # a place on a logarithmic axis, in log: less than half the way from one to the next


def logged(rows):
    """A copy whose first column, a place on a logarithmic axis, is its logarithm."""
    rows = np.array(rows, float)
    rows[:, 0] = np.log(rows[:, 0])
    return rows


def check_training(axes, table):
    """Panels above hold the curves along the steps, those below the shares by scale."""
    places = table[["activation", "optimiser"]].drop_duplicates().itertuples(index=False)
    for (activation, optimiser), above, below in zip(places, axes[:4], axes[4:], strict=True):
        mine = table[(table["activation"] == activation) & (table["optimiser"] == optimiser)]
        steps, scales = mine[mine["along"] == "step"], mine[mine["along"] == "scale"]
        assert_same(points(above), steps[["x", "value"]])
        assert_same(bands(above), steps[["x", "low", "high"]])
        assert_same(logged(points(below)), logged(scales[["x", "value"]]), BESIDE)
        assert_same(logged(intervals(below)), logged(scales[["x", "low", "high"]]), BESIDE)


def check_models(axes, table):
    (ax,) = axes
    place = np.arange(len(table))
    assert_same(points(ax), np.column_stack([table["share"], place]))
    assert_same(level_intervals(ax), np.column_stack([place, 0 * place, table["share"]]))
    for row, tick, text in zip(table.to_dict("records"), ax.get_yticklabels(), ax.texts, strict=True):
        assert tick.get_text().startswith(row["model"])
        assert tick.get_text().endswith("*") == (row["keys_normalised"] == "yes")
        assert text.get_text() == f"{row['seen']:,} of {row['hidden']:,}"


CASES = {
    "training": (lambda: training(load_training()), check_training, ("plot", "fill_between", "vlines")),
    "real_models": (lambda: real_models(load_models()), check_models, ("plot", "hlines")),
}


@pytest.fixture
def draw(monkeypatch):
    """Draw a figure from the committed results: its axes and its numbers."""
    from matplotlib import pyplot as plt

    monkeypatch.delenv("ZIA_RESULTS", raising=False)

    def draw(name):
        drawn, numbers = CASES[name][0]()
        return drawn.axes, pd.DataFrame(numbers)

    yield draw
    plt.close("all")


@pytest.mark.parametrize("name", CASES)
def test_a_figure_shows_its_numbers(name, draw):
    CASES[name][1](*draw(name))


@pytest.mark.parametrize(("name", "method"), [(name, m) for name, case in CASES.items() for m in case[2]])
def test_values_drawn_elsewhere_are_seen(name, method, draw, monkeypatch):
    """With 0.3 added to the last thing that one method of the axes is given, the check above fails."""
    original = getattr(Axes, method)

    def shifted(ax, *arguments, **options):
        return original(ax, *arguments[:-1], np.asarray(arguments[-1], float) + 0.3, **options)

    monkeypatch.setattr(Axes, method, shifted)
    with pytest.raises(AssertionError):
        CASES[name][1](*draw(name))


def test_shares_by_hand():
    """One cell of the committed rows, and Student's interval of its ten truths."""
    rows = load_training()
    cell = {"activation": "tanh", "optimiser": "adam", "arm": "zero_init", "scale": 1.0}
    mine = rows[(rows["factor"] == 1) & (rows["step"] == 3000)]
    for name, value in cell.items():
        mine = mine[mine[name] == value]
    shares = [np.mean(mine.loc[mine["truth"] == k, "polished"] <= 0.1) for k in range(10)]
    found = basins(rows).merge(pd.DataFrame([cell])).to_dict("records")[0]
    assert found["value"] == pytest.approx(np.mean(shares))
    assert found["high"] - found["value"] == pytest.approx(2.262157 * np.std(shares, ddof=1) / 10**0.5, rel=1e-6)


def test_folder_without_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("ZIA_RESULTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"must have rows; `python -m theory\.dynamics` makes them"):
        load_training()
