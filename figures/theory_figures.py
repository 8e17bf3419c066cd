"""Rates drawn: tables of studies -> log-log plots with bands, fitted and theory lines, and the numbers in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

from figures.style import BLACK, BLUE, COLUMN, GRAY, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILION, Mark, figure
from figures.theory_tables import Measured, verdicts
from theory.rates import MARGIN
from theory.tables import QUANTITIES

LOOK = {
    "function_error": Mark(r"$\|\hat{f}-f^*\|$, function", BLACK, "o"),
    "voronoi": Mark(r"$D$, Voronoi loss", BLUE, "s"),
    "gating_error": Mark(r"$|\hat{\alpha}-\alpha^*|$, gate", ORANGE, "^"),
    "weight_error": Mark(r"$\Sigma_j|\hat{\pi}(V_j)-\pi_j^*|$, weights", GREEN, "D", True),
    "exact_prompt_error": Mark(r"$|\hat{p}-p^*|$, cells $|V_j|=1$", SKY, "v"),
    "over_prompt_error": Mark(r"$|\hat{p}-p^*|$, cells $|V_j|>1$", VERMILION, "X"),
    "moving_prompt_error": Mark(r"$|\hat{p}-p^*|$, the two halves", VERMILION, "P"),
    "value_error": Mark(r"$|\hat{p}^V-p^V|$, values of the halves", PURPLE, ">"),
    "over_prompt_error_unweighted": Mark(r"the same without weights", VERMILION, "x"),
    "sqrt_over_term": Mark(r"$(\Sigma\pi|\hat{p}-p^*|^2)^{1/2}$, cells $|V_j|>1$", PURPLE, "d"),
    "gated_prompt_error": Mark(r"$\tanh(\alpha^*)\,|\hat{p}-p^*|$", PURPLE, "h"),
    "merged_error": Mark(r"$D$ after merging", BLUE, "s", True),
    "voronoi_q": Mark(r"$D$ in $q=\sigma(p)$", BLUE, "p", True),
    "exact_prompt_error_q": Mark(r"$|\hat{q}-q^*|$, cells $|V_j|=1$", SKY, "v", True),
}
ENDS = {
    "function_error": "function",
    "voronoi": "$D$",
    "gating_error": "gate",
    "weight_error": "weights",
    "exact_prompt_error": "prompts",
    "over_prompt_error": "shared cell",
    "moving_prompt_error": "halves",
    "value_error": "values",
    "over_prompt_error_unweighted": "unweighted",
    "sqrt_over_term": "over term",
    "gated_prompt_error": r"tanh$\cdot$prompts",
    "merged_error": "merged $D$",
    "voronoi_q": "$D$ in $q$",
    "exact_prompt_error_q": "prompts in $q$",
}
"""The names of the lines at their ends."""
STUDY_LOOK = {
    "exact-linear": Mark("exact, linear", BLACK, "o", True),
    "exact-tanh": Mark("exact, tanh", VERMILION, "^", True),
    "exact-gelu": Mark("exact, GELU", PURPLE, "v", True),
    "exact-mlp": Mark("exact, MLP", GREEN, "D", True),
    "exact-linear-global": Mark("exact, linear, far starts", SKY, "s", True),
    "over-linear": Mark("over, linear", BLUE, "s"),
    "over-tanh": Mark("over, tanh", ORANGE, "P"),
    "over-linear-two": Mark("over by two, linear", PURPLE, "X"),
}
TITLES = {name: mark.label for name, mark in STUDY_LOOK.items()} | {
    "over-joint": "over, one softmax",
    "over-joint-unshared": "over, one softmax, unshared",
    "over-zero-init-unshared": "over, unshared",
    "exact-relu": "exact, ReLU",
    "under": "one prompt too few",
    "quarter-rate": r"weights held: $|b|\leq 1$",
    "quarter-rate-3": r"as over-linear: $|b|\leq 3$",
    "quarter-rate-6": r"wide: $|b|\leq 6$",
    "moving-quarter": r"zero-init, shared, $c\,n^{-1/4}$",
    "moving-sixth": r"zero-init, shared, $c\,n^{-1/6}$",
    "moving-sixth-joint": r"vanilla, shared, $c\,n^{-1/6}$",
    "moving-unshared": r"vanilla, unshared, keys $c\,n^{-1/2}$",
    "moving-unshared-zero": r"zero-init, unshared, keys $c\,n^{-1/2}$",
    "vanishing-gate": r"$\alpha_n=0.8\,(n/316)^{-1/4}$",
}
"""Of the panels."""
GATE_LOOK = {
    "over-linear": Mark("zero-init, shared", BLUE, "s"),
    "over-zero-init-unshared": Mark("zero-init, unshared", SKY, "D", True),
    "over-joint": Mark("vanilla, shared", BLACK, "o"),
    "over-joint-unshared": Mark("vanilla, unshared", VERMILION, "X"),
}

MINUS = "\N{MINUS SIGN}"
FRACTIONS = {-0.5: f"{MINUS}1/2", -0.25: f"{MINUS}1/4", round(-1 / 6, 6): f"{MINUS}1/6", 0.0: "0"}
DASHES, DOTS = (0, (4, 2)), (0, (1, 1.5))


def curve(ax: Axes, measured: Measured, quantity: str, mark: Mark, predicted: Mapping[int, float] = {}) -> list[dict]:
    """Points, band, fitted line, and the theory line (dashed, on top) of one quantity; the numbers of the picture.

    The theory line has the theorem's slope and goes through the middle of the fitted line; with a `predicted` error at
    each n it is the prediction, which nothing is fitted to.
    """
    n, mean, low, high = measured.bands[quantity]
    rate = measured.rates[quantity]
    middle = np.log(n).mean(), np.log(mean).mean()
    fitted, theory = (np.exp(middle[1] + slope * (np.log(n) - middle[0])) for slope in (rate["slope"], rate["theory"]))
    if predicted:
        theory = np.array([predicted.get(int(m), np.nan) for m in n])
    ax.fill_between(n, low, high, color=mark.colour, alpha=0.25, linewidth=0)
    ax.plot(n, fitted, color=mark.colour, linewidth=0.6)
    ax.plot(n, theory, color=mark.colour, linestyle=DASHES, linewidth=1.2, zorder=4)
    ax.plot(n, mean, linestyle="", zorder=3, **mark.points)
    ax.set(xscale="log", yscale="log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    names = {"study": measured.study.name, "quantity": quantity}
    line = {"slope": rate["slope"], "slope_low": rate["low"], "slope_high": rate["high"], "rate": rate["theory"]}
    points = pd.DataFrame({"n": n, "mean": mean, "low": low, "high": high, "fitted": fitted, "theory": theory})
    return [names | point | line for point in points.to_dict("records")]


def slope_in_words(row: Mapping) -> str:
    """Slope and, in brackets, theory slope."""
    text = f"{row['slope']:.2f}".replace("-", MINUS)
    return text if np.isnan(row["rate"]) else f"{text} ({FRACTIONS[round(row['rate'], 6)]})"


def label_ends(
    ax: Axes, numbers: Iterable[Mapping], word: Callable[[Mapping], str], colour: Callable, size=6.5
) -> None:
    """Names and slopes at the right ends of the lines, moved apart where they would overlap."""
    ends = {(r["study"], r["quantity"]): r for r in numbers}  # the last n of each
    if not ends:
        return
    bottom, top = np.log10(ax.get_ylim())
    height = ax.bbox.height * 72 / ax.figure.dpi  # before layout, in points
    step = 1.15 * size / height
    order = sorted(ends.values(), key=lambda r: r["mean"])
    places = [(np.log10(r["mean"]) - bottom) / (top - bottom) for r in order]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + step)
    places = [place - max(0.0, places[-1] - 1) for place in places]
    for r, place in zip(order, places, strict=True):
        text = f"{word(r)} {slope_in_words(r)}"
        ax.text(1.02, place, text, transform=ax.transAxes, color=colour(r), fontsize=size, va="center", clip_on=False)


def key(target: Axes | Figure, marks: Iterable[Mark], lines: Iterable[str] = (), **kwargs) -> None:
    """Names of the series; of the lines, if asked for, `fitted`, `theory`, `predicted` or `constant`."""
    handles = [Line2D([], [], linestyle="", label=m.label, **m.points) for m in marks]
    words = {
        "fitted": ("fitted: slope at its end", "-", 0.6),
        "theory": ("theory: slope in brackets", DASHES, 1.2),
        "predicted": ("predicted, or theory slope", DASHES, 1.2),
        "constant": ("predicted, without a fit", DASHES, 1.2),
    }
    for line in lines:
        text, dash, width = words[line]
        handles.append(Line2D([], [], color=GRAY, linestyle=dash, linewidth=width, label=text))
    target.legend(handles=handles, **kwargs)


def by_study(
    measured: Mapping[str, Measured],
    names: Sequence[str],
    quantities: Sequence[str] = QUANTITIES,
    predicted: Mapping[tuple[str, str], Mapping[int, float]] = {},
) -> tuple[Figure, list[dict]]:
    """A panel for each study, quantities as lines, predictions dashed where there are any, else theory slopes."""
    rows, below = -(-len(names) // 2), len(names) % 2 == 0
    drawn, axes = figure(PAGE, 2.4 * rows + 0.5 * below, rows, 2)
    numbers: list[dict] = []
    for ax, name in zip(axes, names, strict=False):
        if name not in measured:
            note(ax, name)
            continue
        m = measured[name]
        mine = [r for q in quantities if q in m.rates for r in curve(ax, m, q, LOOK[q], predicted.get((name, q), {}))]
        ax.set(title=TITLES.get(name, name), xlabel="$n$")
        label_ends(ax, mine, lambda r: ENDS[r["quantity"]], lambda r: LOOK[r["quantity"]].colour)
        numbers += mine
    blank(axes[len(names) :])
    shown = [LOOK[q] for q in QUANTITIES if any(r["quantity"] == q for r in numbers)]
    lines = ("fitted", "predicted" if predicted else "theory")
    place = {"loc": "outside lower center", "ncols": 3} if below else {"loc": "center", "labelspacing": 0.5}
    key(drawn if below else axes[-1], shown, lines, **place)
    for ax in axes[::2]:
        ax.set_ylabel("mean error")
    return drawn, numbers


def by_quantity(
    measured: Mapping[str, Measured], marks: Mapping[str, Mark], quantities: Sequence[str], columns: int = 2
) -> tuple[Figure, list[dict]]:
    """A panel for each quantity, studies as lines."""
    rows = -(-len(quantities) // columns)
    drawn, axes = figure(PAGE, 0.5 + 2.5 * rows, rows, columns)
    numbers = []
    for ax, q in zip(axes, quantities, strict=False):
        mine = [r for name, m in measured.items() if q in m.rates for r in curve(ax, m, q, marks[name])]
        ax.set(title=LOOK[q].label, xlabel="$n$")
        label_ends(ax, mine, lambda r: "", lambda r: marks[r["study"]].colour)
        numbers += mine
    blank(axes[len(quantities) :])
    for ax in axes[::columns]:
        ax.set_ylabel("mean error")
    key(drawn, [marks[name] for name in measured], ("fitted", "theory"), loc="outside lower center", ncols=3)
    return drawn, numbers


def slopes(measured: Mapping[str, Measured], marks: Mapping[str, Mark]) -> tuple[Figure, list[dict]]:
    """Slopes with intervals, quantity by quantity; the band is the theory value plus or minus the verdicts' margin."""
    numbers = verdicts(measured)
    if not numbers:
        drawn, (ax,) = figure(COLUMN, 0.9)
        note(ax, "these studies")
        return drawn, numbers
    table = pd.DataFrame(numbers)
    names = [q for q in QUANTITIES if any(q in m.rates for m in measured.values())]
    step = 0.8 / len(measured)
    drawn, (ax,) = figure(COLUMN, 0.9 + len(names) * (0.12 + 0.11 * len(measured)))
    for i, q in enumerate(names):
        mine = table[table["quantity"] == q]
        for theory in mine["theory"].dropna().unique()[:1]:
            ax.fill_betweenx([i - 0.46, i + 0.46], theory - MARGIN, theory + MARGIN, color="0.88", linewidth=0)
            ax.plot([theory, theory], [i - 0.46, i + 0.46], color=GRAY, linewidth=0.7, linestyle=(0, (4, 2)))
        for j, name in enumerate(measured):
            y = i + (j + 0.5) * step - 0.4
            for r in mine[mine["study"] == name].to_dict("records"):
                ax.plot([r["low"], r["high"]], [y, y], color=marks[name].colour)
                ax.plot(r["slope"], y, linestyle="", **marks[name].points)
    ax.set(yticks=range(len(names)), yticklabels=[LOOK[q].label.replace(", ", "\n", 1) for q in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="slope of log mean error on log $n$")
    ax.tick_params(axis="y", length=0)
    key(drawn, [marks[name] for name in measured], loc="outside lower center", ncols=2)
    return drawn, numbers


def intervals(ax: Axes, x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, mark: Mark) -> None:
    """Points with upright segments."""
    ax.vlines(x, low, high, color=mark.colour, linewidth=0.8)
    ax.plot(x, y, linestyle="", **mark.points)


def note(ax: Axes, name: str) -> None:
    """A panel of a study without rows."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"{name}: not run", transform=ax.transAxes, ha="center", va="center", color=GRAY)


def blank(axes: Iterable[Axes]) -> None:
    """Panels without anything."""
    for ax in axes:
        ax.set_axis_off()
