"""Limits drawn: errors times the power of n that they fall with, and measured constants over predicted ones."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures.style import BLACK, GRAY, PAGE, SKY, VERMILION, Mark, figure
from figures.theory_figures import DASHES, DOTS, ENDS, LOOK, TITLES, blank, intervals, key, note
from figures.theory_tables import Measured, scaled
from theory.tables import QUANTITIES

FITS = {
    "all": Mark("all fits", BLACK, "o"),
    "at a bound": Mark("a weight at its bound", VERMILION, "s"),
    "free": Mark("no weight at a bound", SKY, "v", True),
}


def ratios(constants: pd.DataFrame, names: Sequence[str]) -> tuple[Figure, list[dict]]:
    """Measured constants over predicted ones against n, a panel for each study; 1 is dashed.

    Dotted, of the function error: what the law with the spare prompt anywhere predicts, over that near a true one.
    """
    rows = -(-(len(names) + 1) // 3)
    drawn, axes = figure(PAGE, 1.7 * rows + 0.3, rows, 3, sharey=True)
    numbers: list[dict] = []
    for ax, name in zip(axes, names, strict=False):
        mine = constants[(constants["study"] == name) & constants["quantity"].isin(LOOK)]
        if mine.empty:
            note(ax, name)
            continue
        ax.axhline(1, color=GRAY, linewidth=0.7, linestyle=DASHES)
        found = [q for q in QUANTITIES if (mine["quantity"] == q).any()]
        for i, q in enumerate(found):
            r = mine[mine["quantity"] == q]
            free = r["predicted_free"] / r["predicted"] if q == "function_error" else r["predicted"] * np.nan
            intervals(ax, r["n"] * 1.45 ** ((i + 0.5) / len(found) - 0.5), r["ratio"], r["low"], r["high"], LOOK[q])
            ax.plot(r["n"], free, color=LOOK[q].colour, linestyle=DOTS)
            columns = ["study", "quantity", "n", "simulated", "predicted", "ratio", "low", "high"]
            numbers += r[columns].assign(free=free).to_dict("records")
        ax.set(xscale="log", title=TITLES.get(name, name), xlabel="$n$", ylim=(0.7, 1.3))
        ax.title.set_fontsize(7)
        ax.xaxis.set_minor_formatter(NullFormatter())
    blank(axes[len(names) :])
    shown = [LOOK[q] for q in QUANTITIES if any(r["quantity"] == q for r in numbers)]
    key(axes[-1] if len(names) < len(axes) else drawn, shown, loc="center", labelspacing=0.3, fontsize=6)
    for ax in axes[::3]:
        ax.set_ylabel("measured / predicted")
    return drawn, numbers


def scaled_errors(
    measured: Mapping[str, Measured],
    names: Sequence[str],
    quantities: Sequence[str],
    constants: pd.DataFrame,
) -> tuple[Figure, list[dict]]:
    """n^1/4 times the error against n, a row for each quantity, a column for each study; the prediction is dashed.

    Where the rate is n^-1/4 the points are level. Fits with a weight at its bound and free ones stand apart.
    """
    drawn, axes = figure(PAGE, 2.1 * len(quantities) + 0.4, len(quantities), len(names), sharey="row")
    numbers: list[dict] = []
    for ax, (q, name) in zip(axes, product(quantities, names), strict=True):
        if name not in measured:
            note(ax, name)
            continue
        mine = pd.DataFrame(scaled(measured[name], q, 0.25))
        known = constants[(constants["study"] == name) & (constants["quantity"] == q)].set_index("n")["predicted"]
        mine["predicted"] = mine["n"].map(known).astype(float)
        for i, (group, mark) in enumerate(FITS.items()):
            r = mine[mine["fits"] == group]
            intervals(ax, r["n"] * 1.12 ** (i - 1), r["mean"], r["low"], r["high"], mark)
        line = mine.drop_duplicates("n")
        ax.plot(line["n"], line["predicted"], color=BLACK, linestyle=DASHES, linewidth=1.2, zorder=4)
        ax.set(xscale="log", yscale="log", title=TITLES.get(name, name), xlabel="$n$")
        ax.xaxis.set_minor_formatter(NullFormatter())
        numbers += mine.to_dict("records")
    for ax, q in zip(axes[:: len(names)], quantities, strict=True):
        ax.set_ylabel(f"$n^{{1/4}}\\times$ {ENDS[q]}")
    key(drawn, FITS.values(), ("constant",), loc="outside lower center", ncols=4)
    return drawn, numbers
