"""The ablations drawn: one change at a time beside the main study."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from figures.arms import DASHED, LOOK, key, lines, not_run
from figures.llm import Measured, band
from figures.style import GRAY, PAGE, figure
from llm.claims import interval
from llm.experiments import PROMPT_ARMS

# One thing changed, at one fraction: its name, and what the main study has.
OPTIONS = {
    "initial_scale": ("initial scale of the prompts", "published"),
    "prompt_length": ("prompts a layer", "10"),
    "layers": ("adapted layers", "all but 2"),
    "activation": (r"activation $\sigma$", "relu"),
    "gate": ("gate", "tanh"),
    "equal_epochs": ("training, all the data", "400 steps"),
    "world": ("world", "world 0"),
}


def ablations(measured: Measured) -> tuple[Figure, list[dict]]:
    """A panel for each ablation: options in columns beside the main study, and the others against the data."""
    parts = list(measured.parts().items())[1:]
    drawn, axes = figure(PAGE, 2.4 * -(-len(parts) // 3), -(-len(parts) // 3), 3)
    numbers = []
    for ax in axes[len(parts) :]:
        ax.set_axis_off()
    for ax, (name, rows) in zip(axes, parts, strict=False):
        if not rows:
            not_run(ax, "ablations")
            ax.set_title(OPTIONS[name][0] if name in OPTIONS else name.replace("_", " "))
            new = [
                {"arm": "", "setting": "not run", "fraction": np.nan, "value": np.nan, "low": np.nan, "high": np.nan}
            ]
        else:
            new = _options(ax, measured, name) if name in OPTIONS else _against_data(ax, measured, name)
        columns = ("arm", "setting", "fraction", "value", "low", "high", "seeds")
        numbers += [{"ablation": name} | {c: r.get(c, 0) for c in columns} for r in new]
    for ax in axes[::3]:
        ax.set_ylabel("exact answers, %")
    key(drawn, (*PROMPT_ARMS, "linear_matched", "nonlinear_matched"), columns=3)
    return drawn, numbers


def effects(measured: Measured) -> list[dict]:
    """Accuracy with an option changed minus that of the main study at the same seeds, in points, for `show`."""
    found = []
    main = {(r["arm"], r["seed"], r["fraction"]): r["accuracy"] for r in measured.efficiency}
    for name, (title, usual) in OPTIONS.items():
        if name == "world":  # another base: nothing to pair with
            continue
        changed: dict[tuple[str, str], list[float]] = {}
        for r in sorted(measured.ablation(name), key=_order):
            gap = r["accuracy"] - main.get((r["arm"], r["seed"], r["fraction"]), np.nan)
            changed.setdefault((r["setting"], r["arm"]), []).append(100 * gap)
        for (setting, arm), gaps in changed.items():
            value, low, high = interval(np.array(gaps))
            found.append(
                {
                    "option": title,
                    "main study": usual,
                    "here": setting,
                    "arm": LOOK[arm].label,
                    "points": f"{value:+.1f}",
                    "95 % interval": f"{low:+.1f} to {high:+.1f}",
                    "seeds": len(gaps),
                }
            )
    return found


def _options(ax: Axes, measured: Measured, name: str) -> list[dict]:
    """Settings in columns, the main study's first; small points are seeds."""
    rows, (title, usual) = measured.ablation(name), OPTIONS[name]
    fraction = rows[0]["fraction"]
    arms = [arm for arm in PROMPT_ARMS if arm in {r["arm"] for r in rows}]
    reference = [r | {"setting": usual} for r in measured.efficiency if r["fraction"] == fraction and r["arm"] in arms]
    settings = [*dict.fromkeys(r["setting"] for r in sorted(rows, key=_order))]
    found = []
    for column, setting in enumerate((usual, *settings)):
        for i, arm in enumerate(arms):
            some = reference if column == 0 else rows
            values = np.array([r["accuracy"] for r in some if (r["arm"], r["setting"]) == (arm, setting)])
            x = column + 0.22 * (i - (len(arms) - 1) / 2)
            value, low, high = interval(values)
            ax.plot(np.full(len(values), x + 0.07), values, ".", color=GRAY, markersize=2)
            ax.vlines(x, low, high, color=LOOK[arm].colour, linewidth=0.8)
            ax.plot(x, value, linestyle="", **LOOK[arm].points)
            found.append(
                {"arm": arm, "setting": setting, "fraction": fraction, "value": value, "low": low, "high": high}
            )
            found[-1]["seeds"] = len(values)
    ax.axvline(0.5, color=GRAY, linewidth=0.7, linestyle=":")
    ax.set(title=title, xlim=(-0.5, len(settings) + 0.5), ylim=(-0.03, 1.03))
    ax.set_xticks(range(len(settings) + 1), [usual, *settings], rotation=25, ha="right", rotation_mode="anchor", size=7)
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
    return found


def _order(row: dict) -> tuple[float, str]:
    try:
        return float(row["setting"]), ""
    except ValueError:
        return float("inf"), row["setting"]


def _against_data(ax: Axes, measured: Measured, name: str) -> list[dict]:
    """Arms against the data; thin dashed lines are the main study."""
    rows = measured.ablation(name)
    titles = {"matched": "equal parameters", "common_rate": "best common rate", "published_rate": "published rate"}
    arms = [arm for arm in LOOK if arm in {r["arm"] for r in rows}]
    found = []
    there = {r["fraction"] for r in rows}
    for arm in PROMPT_ARMS[:2] if name == "matched" else arms:
        main = [r for r in band(measured.efficiency, arm) if r["fraction"] in there]
        style = {"color": LOOK[arm].colour, "linewidth": 0.7, "linestyle": DASHED}
        ax.plot([r["fraction"] for r in main], [r["value"] for r in main], **style)
        found += [{"arm": arm, "setting": "main study"} | r for r in main]
    found += [{"setting": titles[name]} | r for r in lines(ax, rows, arms)]
    ax.set(title=titles[name], ylim=(-0.03, 1.03))
    return found
