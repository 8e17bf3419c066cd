"""The ablations drawn: one change at a time beside the main study."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures.llm_figures import DASHED, LOOK, key, lines, not_run
from figures.llm_tables import Measured, band
from figures.style import GRAY, PAGE, figure
from llm.world.claims import interval
from llm.world.experiments import FULL, PROMPT_ARMS, PUBLISHED_RATE

# All three arms, or their equals in size, in another way: ablation and its setting (None: all of them), and a title.
WAYS = {
    ("common_rate", None): "best common rate",
    ("published_rate", None): "published rate",
    ("matched", None): "equal parameters",
    ("equal_epochs", None): "5 epochs, as published",
    ("all_layers", "own best"): "every layer, own best rates",
    ("all_layers", f"{PUBLISHED_RATE:g}"): "every layer, published rate",
}
# One thing changed, at one fraction: its name, and what the main study has.
OPTIONS = {
    "layers": ("adapted layers", "all but 2"),
    "prompt_length": ("prompts a layer", "10"),
    "initial_scale": ("initial scale of the prompts", "published"),
    "activation": (r"activation $\sigma$", "relu"),
    "gate": ("gate", "tanh"),
}


def ablations(measured: Measured) -> tuple[Figure, list[dict]]:
    """A panel for each ablation: other ways against the data, and options in columns beside the main study."""
    count = len(WAYS) + len(OPTIONS)
    drawn, axes = figure(PAGE, 2.3 * -(-count // 3), -(-count // 3), 3)
    numbers = []
    for ax in axes[count:]:
        ax.set_axis_off()
    for ax, ((name, setting), title) in zip(axes, WAYS.items(), strict=False):
        numbers += _named(name, _against_data(ax, measured, measured.ablation(name, setting), title))
    for ax, name in zip(axes[len(WAYS) :], OPTIONS, strict=False):
        numbers += _named(name, _options(ax, measured, name))
    for ax in axes[::3]:
        ax.set_ylabel("exact answers, %")
    key(drawn, (*PROMPT_ARMS, "linear_matched", "nonlinear_matched"), columns=3)
    return drawn, numbers


def worlds(measured: Measured) -> tuple[Figure, list[dict]]:
    """The three arms against the data in every world: at the rates that are best in the first, and as published."""
    others = measured.experiment.worlds or FULL.worlds
    drawn, axes = figure(PAGE, 4.4, 2, 1 + len(others), sharey=True)
    numbers = []
    for column, world in enumerate((0, *others)):
        main = measured.efficiency[measured.efficiency["arm"].isin(PROMPT_ARMS)]
        own = main if world == 0 else measured.ablation("world", world=world)
        published = measured.ablation("published_rate", world=world)
        for row, rows, rates in ((0, own, "own best rates"), (1, published, "published rate")):
            ax = axes[row * (1 + len(others)) + column]
            numbers += _named(
                f"world {world}", _against_data(ax, measured, rows, f"world {world}, {rates}", main=False)
            )
    for ax in axes[:: 1 + len(others)]:
        ax.set_ylabel("exact answers, %")
    key(drawn, PROMPT_ARMS)
    return drawn, numbers


def _named(name: str, numbers: list[dict]) -> list[dict]:
    columns = ("arm", "setting", "fraction", "value", "low", "high", "seeds")
    return [{"ablation": name} | {c: r[c] for c in columns} for r in numbers]


def _nothing(ax: Axes, title: str) -> list[dict]:
    not_run(ax, "ablations")
    ax.set_title(title)
    empty = dict.fromkeys(("fraction", "value", "low", "high"), np.nan)
    return [{"arm": "", "setting": f"{title}: not run", "seeds": 0} | empty]


def effects(measured: Measured) -> list[dict]:
    """Accuracy with an option changed minus that of the main study at the same seeds, in points, for `show`."""
    pair, lines = ["arm", "seed", "fraction"], []
    main = measured.efficiency[[*pair, "accuracy"]]
    for name, (title, usual) in (OPTIONS | {"equal_epochs": ("training", "400 steps")}).items():
        both = _in_order(measured.ablation(name)).merge(main, "left", pair, suffixes=("", "_main"))
        both["gap"] = 100 * (both["accuracy"] - both["accuracy_main"])
        for (setting, arm, fraction), gaps in both.groupby(["setting", "arm", "fraction"], sort=False)["gap"]:
            value, low, high = interval(gaps.to_numpy(float))
            lines.append(
                {
                    "option": title,
                    "main study": usual,
                    "here": setting,
                    "arm": LOOK[str(arm)].label,
                    "data": f"{fraction:.0%}",
                    "points": f"{value:+.1f}",
                    "95 % interval": f"{low:+.1f} to {high:+.1f}",
                    "seeds": len(gaps),
                }
            )
    return lines


def _options(ax: Axes, measured: Measured, name: str) -> list[dict]:
    """Settings in columns, the main study's first; small points are seeds."""
    rows, (title, usual) = _in_order(measured.ablation(name)), OPTIONS[name]
    if rows.empty:
        return _nothing(ax, title)
    fraction, main = rows["fraction"].iloc[0], measured.efficiency
    arms = [arm for arm in PROMPT_ARMS if arm in set(rows["arm"])]
    reference = main[(main["fraction"] == fraction) & main["arm"].isin(arms)].assign(setting=usual)
    settings = [usual, *rows["setting"].unique()]
    both, numbers = pd.concat([reference, rows]), []
    for (column, setting), (i, arm) in product(enumerate(settings), enumerate(arms)):
        values = both.loc[(both["setting"] == setting) & (both["arm"] == arm), "accuracy"].to_numpy()
        x = column + 0.22 * (i - (len(arms) - 1) / 2)
        value, low, high = interval(values)
        ax.plot(np.full(len(values), x + 0.07), values, ".", color=GRAY, markersize=2)
        ax.vlines(x, low, high, color=LOOK[arm].colour, linewidth=0.8)
        ax.plot(x, value, linestyle="", **LOOK[arm].points)
        line = {"arm": arm, "setting": setting, "fraction": fraction, "value": value, "low": low, "high": high}
        numbers.append(line | {"seeds": len(values)})
    ax.axvline(0.5, color=GRAY, linewidth=0.7, linestyle=":")
    ax.set(title=title, xlim=(-0.5, len(settings) - 0.5), ylim=(-0.03, 1.03))
    ax.set_xticks(range(len(settings)), settings, rotation=25, ha="right", rotation_mode="anchor", size=7)
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    return numbers


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Settings that are numbers first, by size; then words."""
    number = pd.to_numeric(rows["setting"], errors="coerce")
    return rows.assign(number=number).sort_values(["number", "setting"], kind="stable", na_position="last")


def _against_data(ax: Axes, measured: Measured, rows: pd.DataFrame, title: str, main: bool = True) -> list[dict]:
    """Arms against the data; thin dashed lines are the main study."""
    if rows.empty:
        return _nothing(ax, title)
    arms = [arm for arm in LOOK if arm in set(rows["arm"])]
    numbers = []
    for arm in PROMPT_ARMS if main else ():
        if arm not in arms and f"{arm}_matched" not in arms:
            continue
        points = band(measured.efficiency, arm)
        points = points[points["fraction"].isin(rows["fraction"])]
        style = {"color": LOOK[arm].colour, "linewidth": 0.7, "linestyle": DASHED}
        ax.plot(points["fraction"], points["value"], **style)
        numbers += [{"arm": arm, "setting": "main study"} | r for r in points.to_dict("records")]
    numbers += [{"setting": title} | r for r in lines(ax, rows, arms)]
    ax.set(title=title, ylim=(-0.03, 1.03))
    return numbers
