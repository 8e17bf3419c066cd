"""The proof's inequality drawn: least change of f over the loss, against the loss, gate by gate; from results only."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.frames import read
from figures.style import BLACK, BLUE, PAGE, VERMILION, Mark, figure
from theory.tables import PROBE

LOOK = {
    "zero_init": Mark("zero-init, shared", BLUE, "s"),
    "joint": Mark("vanilla, shared", BLACK, "o", True),
    "joint_unshared": Mark("vanilla, unshared", VERMILION, "X"),
}
PANELS = {
    "exact": ("exact-linear", "exact-tanh"),
    "one prompt more": ("over-linear", "over-tanh"),
    "ReLU": ("relu-active", "relu-inactive"),
    "conditions broken": ("no-gauge", "single-prompt", "rank-c", "gate-zero"),
    "doubled prompts": ("doubled",),
    "moving truth": ("moving",),
}
DASHES = ("-", (0, (4, 2)), (0, (1, 1)), (0, (4, 1, 1, 1)))
FLOOR = 1e-8  # ratios below are drawn there: they are rounding


def probes(path: Path) -> pd.DataFrame:
    """The table of `python -m theory.probe`.

    Raises
    ------
    TableError
        If it is not one, or damaged.
    """
    return read(path, PROBE, ("gate", "case"))


def ratios(table: pd.DataFrame) -> tuple[Figure, list[dict]]:
    """A panel for each kind of case, gates as colours, the cases of a panel as kinds of line."""
    drawn, axes = figure(PAGE, 4.4, 2, 3, sharex=True, sharey=True)
    numbers = []
    for ax, (title, cases) in zip(axes, PANELS.items(), strict=True):
        for (case, gate), rows in table[table["case"].isin(cases)].groupby(["case", "gate"], sort=False):
            rows = rows.sort_values("eps").assign(drawn=lambda t: t["ratio"].clip(lower=FLOOR))
            mark = LOOK[str(gate)]
            ax.plot(rows["eps"], rows["drawn"], color=mark.colour, linestyle=DASHES[cases.index(str(case))])
            ax.plot(rows["eps"], rows["drawn"], linestyle="", zorder=3, **mark.points)
            numbers += rows.to_dict("records")
        ax.set(xscale="log", yscale="log", title=title)
    for ax in axes[3:]:
        ax.set_xlabel(r"$\varepsilon = D + |\alpha-\alpha^*|$")
    for ax in axes[::3]:
        ax.set_ylabel(r"least $\|f_G-f_{G^*}\| / \varepsilon$")
    names = [Line2D([], [], linestyle="", label=mark.label, **mark.points) for mark in LOOK.values()]
    drawn.legend(handles=names, loc="outside lower center", ncols=3)
    return drawn, numbers
