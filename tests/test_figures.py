"""Every figure shows the numbers that it returns, on the committed results; and a value drawn elsewhere is seen."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from common.paths import FIGURES, ROOT
from figures import llm_ablations, llm_figures, llm_tables, method_diagram, paper_tables, theory_figures, theory_tables
from figures.llm_ablations import OPTIONS, WAYS
from figures.llm_figures import LOOK
from figures.paper_numbers import ACCURACY, published_gaps
from tests.artists import assert_same, bands, curves, intervals, level_intervals, levels, points
from theory.rates import MARGIN
from theory.tables import QUANTITIES

BESIDE = 0.25  # a place on a logarithmic axis, in log: less than half the way from one to the next


def logged(rows):
    """A copy whose first column, a place on a logarithmic axis, is its logarithm."""
    rows = np.array(rows, float)
    rows[:, 0] = np.log(rows[:, 0])
    return rows


# theory ---------------------------------------------------------------------------------------------------------------


def check_curves(axes, table, by):
    for ax, (_, rows) in zip(axes, table.groupby(by, sort=False), strict=False):
        assert_same(points(ax), rows[["n", "mean"]])
        assert_same(bands(ax), rows[["n", "low", "high"]])
        drawn = [rows[["n", column]].to_numpy() for column in ("fitted", "theory")]
        assert_same(curves(ax), np.concatenate([line[np.isfinite(line).all(1)] for line in drawn]))
    for ax in axes[table[by].nunique() :]:
        assert len(ax.lines) == len(ax.collections) == 0


def check_by_study(axes, table, measured):
    check_curves(axes, table, "study")


def check_by_quantity(axes, table, measured):
    check_curves(axes, table, "quantity")


def check_ratios(axes, table, measured):
    for ax, (_, rows) in zip(axes, table.groupby("study", sort=False), strict=False):
        assert_same(logged(points(ax)), logged(rows[["n", "ratio"]]), BESIDE)
        assert_same(logged(intervals(ax)), logged(rows[["n", "low", "high"]]), BESIDE)
        assert levels(ax) == [1]


def check_local(axes, table, measured):
    middle = table.assign(n=np.sqrt(table["from"] * table["to"]))
    for ax, (_, rows) in zip(axes, middle.groupby("study", sort=False), strict=True):
        assert_same(logged(points(ax)), logged(rows[["n", "slope"]]), BESIDE)
        assert_same(logged(intervals(ax)), logged(rows[["n", "low", "high"]]), BESIDE)


def check_slopes(axes, table, measured):
    (ax,) = axes
    rows = table.assign(y=[QUANTITIES.index(q) for q in table["quantity"]])
    assert_same(points(ax)[:, ::-1], rows[["y", "slope"]], 0.45)
    ends = curves(ax).reshape(-1, 2, 2)
    level = ends[:, 0, 1] == ends[:, 1, 1]
    assert_same(np.column_stack([ends[level, 0, 1], ends[level, :, 0]]), rows[["y", "low", "high"]], 0.45)
    theory = rows.dropna(subset="theory").groupby("y")["theory"].first()
    assert_same(
        np.column_stack([ends[~level].mean(1)[:, 1], ends[~level][:, :, 0]]), np.c_[theory.index, theory, theory]
    )
    edges = np.repeat(np.c_[theory.index, theory - MARGIN, theory + MARGIN], 2, axis=0)
    assert_same(bands(ax), edges, 0.47)


# language model -------------------------------------------------------------------------------------------------------


def check_lines(ax, rows):
    assert_same(logged(points(ax)), logged(rows[["fraction", "value"]]), BESIDE)
    assert_same(logged(intervals(ax)), logged(rows[["fraction", "low", "high"]]), BESIDE)


def check_stars(ax, *pairs):
    published = [(x, y / 100) for pair in pairs for x, y in published_gaps(*pair).items()]
    assert_same(points(ax, "*"), published)


def check_sample_efficiency(axes, table, measured):
    gap = table["minus"] != ""
    for ax, quantity in zip(axes, ("accuracy", "multiple_choice"), strict=False):
        check_lines(ax, table[~gap & (table["quantity"] == quantity)])
        assert levels(ax) == sorted((measured.untuned["chance"], measured.untuned[quantity]))
    check_lines(axes[2], table[gap])
    check_stars(axes[2], *((arm, "random_init", "7B") for arm in ("linear", "nonlinear")))


def check_fairness(axes, table, measured):
    gap = table["minus"] != ""
    for above, below in zip(axes[:4], axes[4:], strict=True):
        here = table["panel"] == above.get_title(loc="left")
        check_lines(above, table[here & ~gap])
        check_lines(below, table[here & gap])
    check_stars(axes[4], *(("nonlinear", "linear", size) for size in ("7B", "13B")))


def check_learning_rates(axes, table, measured):
    for ax, (arm, rows) in zip(axes, table.groupby("arm", sort=False), strict=False):
        assert ax.get_title(loc="left") == LOOK[arm].label
        assert_same(points(ax, "."), rows[["learning_rate", "accuracy"]])
        means = rows.groupby("learning_rate", as_index=False)["accuracy"].mean()
        assert_same(points(ax, LOOK[arm].marker), means)
        assert_same(points(ax, "*"), means[means["learning_rate"].isin(rows["learning_rate"][rows["best"]])])


def check_loss_curves(axes, table, measured):
    left, right = axes
    ours = table["source"] == "small world"
    assert_same(points(left), table.loc[~ours, ["epoch", "value"]])
    assert_same(points(right), table.loc[ours, ["epoch", "value"]])
    assert_same(intervals(right), table.loc[ours, ["epoch", "low", "high"]])


def check_ablations(axes, table, measured):
    for ax, ((name, _), title) in zip(axes, WAYS.items(), strict=False):
        rows = table[table["ablation"] == name].drop_duplicates()
        check_lines(ax, rows[rows["setting"] == title])
        assert_same(curves(ax), rows.loc[rows["setting"] == "main study", ["fraction", "value"]])
    for ax, name in zip(axes[len(WAYS) :], OPTIONS, strict=False):
        rows = table[(table["ablation"] == name) & (table["seeds"] > 0)]
        settings = [label.get_text() for label in ax.get_xticklabels()]
        rows = rows.assign(x=[settings.index(setting) for setting in rows["setting"]])
        seeds = points(ax, ".")
        assert_same(points(ax), rows[["x", "value"]], 0.45)
        assert_same(intervals(ax), rows[["x", "low", "high"]], 0.45)
        assert len(seeds) == rows["seeds"].sum()
        means = pd.DataFrame(seeds).groupby(0)[1].mean().reset_index()
        assert_same(means, rows[["x", "value"]], 0.45)


def check_worlds(axes, table, measured):
    for ax in axes:
        check_lines(ax, table[table["setting"] == ax.get_title(loc="left")])


def check_accuracy(axes, table, measured):
    left, right = axes
    models = [(e.size, e.method) for e in ACCURACY]
    rows = table.assign(y=[models.index(model) for model in zip(table["size"], table["method"], strict=True)])
    ours = rows["source"] == "small world"
    printed = rows[~ours].assign(percent=100 * rows["accuracy"])
    assert_same(points(left), printed[["percent", "y"]])
    assert_same(points(right), rows.loc[ours, ["accuracy", "y"]])
    assert_same(level_intervals(right), rows.loc[ours, ["y", "low", "high"]])


def check_diagram(axes, table, measured):
    (ax,) = axes
    boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)][: len(table)]
    trained = [to_hex(patch.get_facecolor()).upper() == method_diagram.TRAINED for patch in boxes]
    assert trained == list(table["trained"])


# --------------------------------------------------------------------------------------------------------------------


def constants():
    table = pd.read_csv(FIGURES / "exact_constants.csv")
    return {study: dict(zip(r["quantity"], r["constant"], strict=True)) for study, r in table.groupby("study")}


EXACT = ("exact-linear", "exact-tanh", "exact-gelu", "exact-mlp", "exact-linear-global")
OVER = ("over-linear", "over-tanh", "over-linear-two")
GATES = tuple(theory_figures.GATE_LOOK)
PAIRS = ("exact-linear", "exact-tanh", "over-linear", "over-tanh")
NAMES = ("function_error", "voronoi", "exact_prompt_error", "over_prompt_error")
LOCAL = ("function_error", "exact_prompt_error", "over_prompt_error")
f, g = theory_figures, llm_figures
# name: studies (none: those of the language model), how to draw, how to check, what is drawn with
CASES = {
    "by_study": (EXACT, lambda m: f.by_study(m, constants()), check_by_study, ("plot", "fill_between")),
    "ratios": (EXACT, lambda m: f.ratios(m, constants()), check_ratios, ("plot", "vlines")),
    "over_specified": (OVER, f.over_specified, check_by_study, ("plot", "fill_between")),
    "local": (OVER, lambda m: f.local(m, LOCAL), check_local, ("plot", "vlines")),
    "by_quantity": (
        GATES,
        lambda m: f.by_quantity(m, f.GATE_LOOK, QUANTITIES[:2]),
        check_by_quantity,
        ("plot", "fill_between"),
    ),
    "slopes": (PAIRS, lambda m: f.slopes(m, f.STUDY_LOOK), check_slopes, ("plot", "fill_betweenx")),
    "sample_efficiency": ((), g.sample_efficiency, check_sample_efficiency, ("plot", "vlines", "axhline")),
    "fairness": ((), g.fairness, check_fairness, ("plot", "vlines")),
    "learning_rates": ((), g.learning_rates, check_learning_rates, ("plot",)),
    "loss_curves": ((), g.loss_curves, check_loss_curves, ("plot", "vlines")),
    "ablations": ((), llm_ablations.ablations, check_ablations, ("plot", "vlines")),
    "worlds": ((), llm_ablations.worlds, check_worlds, ("plot", "vlines")),
    "tables": ((), paper_tables.accuracy_figure, check_accuracy, ("plot", "hlines")),
    "method": ((), lambda m: method_diagram.attention(), check_diagram, ()),
}


@pytest.fixture
def draw(monkeypatch):
    """Draw a figure from the committed results: its axes, its numbers, and the results."""
    from matplotlib import pyplot as plt

    for name in ("ZIA_RESULTS", "ZIA_LLM_RESULTS"):
        monkeypatch.delenv(name, raising=False)

    def draw(name):
        studies, function, *_ = CASES[name]
        measured = theory_tables.load(*studies) if studies else llm_tables.load()
        drawn, numbers = function(measured)
        return drawn.axes, pd.DataFrame(numbers), measured

    yield draw
    plt.close("all")


@pytest.mark.parametrize("name", CASES)
def test_a_figure_shows_its_numbers(name, draw):
    CASES[name][2](*draw(name))


@pytest.mark.parametrize(("name", "method"), [(name, m) for name, case in CASES.items() for m in case[3]])
def test_values_drawn_elsewhere_are_seen(name, method, draw, monkeypatch):
    """With 0.3 added to what one method of the axes draws, the check above fails."""
    original = getattr(Axes, method)
    which = 0 if name == "slopes" else -1  # its values are on the axis of x

    def shifted(ax, *arguments, **options):
        moved = list(arguments)
        place = [i for i, a in enumerate(moved) if not isinstance(a, str)][which if method == "plot" else -1]
        moved[place] = np.asarray(moved[place], float) + 0.3
        return original(ax, *moved, **options)

    monkeypatch.setattr(Axes, method, shifted)
    drawn = draw(name)
    with pytest.raises(AssertionError):
        CASES[name][2](*drawn)


@pytest.mark.parametrize("path", sorted((ROOT / "figures").glob("*.py")), ids=lambda path: path.stem)
def test_figures_import_nothing_that_computes(path):
    """Nor pyplot, nor scipy.stats: whoever reads a table waits for neither."""
    heavy = ("torch", "transformers", "peft", "datasets", "lm_eval", "numba", "scipy.stats", "matplotlib.pyplot")
    code = f"import sys, figures.{path.stem}; print(*(name for name in {heavy} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
