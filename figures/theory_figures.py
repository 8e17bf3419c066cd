"""Rates drawn: tables of studies -> log-log plots with bands, fitted and theory lines, and the numbers in them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator, NullFormatter
from numpy.typing import ArrayLike

from figures.style import BLACK, BLUE, COLUMN, GRAY, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILION, Mark, figure
from figures.theory_tables import Measured, steps, verdicts
from theory.rates import MARGIN
from theory.tables import QUANTITIES

LOOK = {
    "function_error": Mark(r"$\|\hat{f}-f^*\|$, function", BLACK, "o"),
    "voronoi": Mark(r"$D$, Voronoi loss", BLUE, "s"),
    "gating_error": Mark(r"$|\hat{\alpha}-\alpha^*|$, gate", ORANGE, "^"),
    "weight_error": Mark(r"$\Sigma_j|\hat{\pi}(V_j)-\pi_j^*|$, weights", GREEN, "D", True),
    "exact_prompt_error": Mark(r"$|\hat{p}-p^*|$, cells $|V_j|=1$", SKY, "v"),
    "over_prompt_error": Mark(r"$|\hat{p}-p^*|$, cells $|V_j|>1$", VERMILION, "X"),
}
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
GATE_LOOK = {
    "over-linear": Mark("zero-init, shared", BLUE, "s"),
    "over-zero-init-unshared": Mark("zero-init, unshared", SKY, "D", True),
    "over-joint": Mark("vanilla, shared", BLACK, "o"),
    "over-joint-unshared": Mark("vanilla, unshared", VERMILION, "X"),
}

FRACTIONS = {-0.5: "\N{MINUS SIGN}1/2", -0.25: "\N{MINUS SIGN}1/4", 0.0: "0"}


def curve(ax: Axes, measured: Measured, quantity: str, mark: Mark, constant: float | None = None) -> list[dict]:
    """Points, band, fitted line, and the theory line (dashed) of one quantity; the numbers of the picture.

    The theory line has the theorem's slope and goes through the middle of the fitted line; with a `constant`, it is
    the prediction constant / sqrt(n), which nothing is fitted to.
    """
    n, mean, low, high = measured.bands[quantity]
    rate = measured.rates[quantity]
    middle = np.log(n).mean(), np.log(mean).mean()
    exponent, has_theorem = rate["slope"], not np.isnan(rate["theory"])
    fitted = np.exp(middle[1] + exponent * (np.log(n) - middle[0]))
    theory = np.full(len(n), np.nan)
    if constant is not None:
        theory = constant / np.sqrt(n)
    elif has_theorem:
        theory = np.exp(middle[1] + rate["theory"] * (np.log(n) - middle[0]))
    ax.fill_between(n, low, high, color=mark.colour, alpha=0.25, linewidth=0)
    ax.plot(n, theory, color=mark.colour, linestyle=(0, (4, 2)), linewidth=0.7)
    ax.plot(n, fitted, color=mark.colour)
    label = f"{exponent:.2f} [{rate['low']:.2f}, {rate['high']:.2f}]".replace("-", "\N{MINUS SIGN}")
    if constant is None and has_theorem:
        label += f" ({FRACTIONS[rate['theory']]})"
    ax.plot(n, mean, linestyle="", label=label, zorder=3, **mark.points)
    ax.set(xscale="log", yscale="log")
    ax.xaxis.set_minor_formatter(NullFormatter())
    names = {"study": measured.study.name, "quantity": quantity}
    line = {"slope": exponent, "slope_low": rate["low"], "slope_high": rate["high"]}
    points = pd.DataFrame({"n": n, "mean": mean, "low": low, "high": high, "fitted": fitted, "theory": theory})
    return [names | point | line for point in points.to_dict("records")]


def legend_below(ax: Axes, room: float = 1.0) -> None:
    """Slopes in the lower left corner, under decreasing lines: the axis goes on for `room` decades."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom / 10**room, top)
    ax.legend(loc="lower left", handlelength=1)


def key(target: Axes | Figure, marks: Iterable[Mark], lines: Iterable[str] = (), **kwargs) -> None:
    """Names of the series; of the lines, if asked for, `fitted`, `theory` or `predicted`."""
    handles = [Line2D([], [], linestyle="", label=m.label, **m.points) for m in marks]
    words = {
        "fitted": ("fitted: slope [95 %]", "-", 1.0),
        "theory": ("theory: (slope)", (0, (4, 2)), 0.7),
        "predicted": (r"predicted: $c/\sqrt{n}$", (0, (4, 2)), 0.7),
    }
    for line in lines:
        text, dash, width = words[line]
        handles.append(Line2D([], [], color=GRAY, linestyle=dash, linewidth=width, label=text))
    target.legend(handles=handles, **kwargs)


def by_study(
    measured: Mapping[str, Measured], constants: Mapping[str, Mapping[str, float]]
) -> tuple[Figure, list[dict]]:
    """Exact rates: a panel for each study, quantities as lines, predictions dashed."""
    drawn, axes = figure(PAGE, 4.6, 2, 3)
    numbers = []
    for ax, (name, m) in zip(axes, measured.items(), strict=False):
        for q in m.rates:
            numbers += curve(ax, m, q, LOOK[q], constants[name][q])
        legend_below(ax, 2.2)
        ax.set(title=STUDY_LOOK[name].label.removeprefix("exact, "), xlabel="$n$")
    _blank(axes[len(measured) :])
    marks = [LOOK[q] for q in QUANTITIES if q != "over_prompt_error"]
    key(axes[-1], marks, ("fitted", "predicted"), loc="center", labelspacing=0.6)
    for ax in axes[::3]:
        ax.set_ylabel("mean error")
    return drawn, numbers


def ratios(measured: Mapping[str, Measured], constants: Mapping[str, Mapping[str, float]]) -> tuple[Figure, list[dict]]:
    """Mean error over its prediction constant / sqrt(n), with intervals: 1 where the asymptotic range is reached."""
    drawn, axes = figure(PAGE, 3.6, 2, 3, sharey=True)
    numbers = []
    for ax, (name, m) in zip(axes, measured.items(), strict=False):
        ax.axhline(1, color=GRAY, linewidth=0.7, linestyle=(0, (4, 2)))
        for i, q in enumerate(m.rates):
            n, *band = m.bands[q]
            ratio, low, high = (values * np.sqrt(n) / constants[name][q] for values in band)
            _intervals(ax, n * 1.12 ** (i - 2), ratio, low, high, LOOK[q])
            points = pd.DataFrame({"n": n, "constant": constants[name][q], "ratio": ratio, "low": low, "high": high})
            numbers += [{"study": name, "quantity": q} | point for point in points.to_dict("records")]
        ax.set(xscale="log", title=STUDY_LOOK[name].label.removeprefix("exact, "), xlabel="$n$")
        ax.xaxis.set_minor_formatter(NullFormatter())
    _blank(axes[len(measured) :])
    key(axes[-1], [LOOK[q] for q in QUANTITIES if q != "over_prompt_error"], loc="center", labelspacing=0.6)
    for ax in axes[::3]:
        ax.set_ylabel("measured / predicted")
    return drawn, numbers


def over_specified(measured: Mapping[str, Measured]) -> tuple[Figure, list[dict]]:
    """Quantities as lines, a panel for each of at most three studies."""
    drawn, axes = figure(PAGE, 5.6, 2, 2)
    numbers = []
    for ax, (name, m) in zip(axes, measured.items(), strict=False):
        for q in m.rates:
            numbers += curve(ax, m, q, LOOK[q])
        legend_below(ax, 2.0)
        ax.set(title=STUDY_LOOK[name].label, xlabel="$n$")
    _blank(axes[len(measured) :])
    key(axes[-1], [LOOK[q] for q in QUANTITIES], ("fitted", "theory"), loc="center", labelspacing=0.6)
    for ax in axes[::2]:
        ax.set_ylabel("mean error")
    return drawn, numbers


def local(measured: Mapping[str, Measured], quantities: Sequence[str]) -> tuple[Figure, list[dict]]:
    """Slopes between neighbouring n, with intervals, against n: where the curves are heading."""
    drawn, axes = figure(PAGE, 2.7, 1, len(measured), sharey=True)
    numbers = steps(measured, quantities)
    table = pd.DataFrame(numbers)
    for ax, (name, m) in zip(axes, measured.items(), strict=True):
        for rate in (-0.25, -0.5):
            ax.axhline(rate, color=GRAY, linewidth=0.7, linestyle=(0, (4, 2)))
        ax.yaxis.set_major_locator(MultipleLocator(0.25))
        for i, q in enumerate(quantities):
            mine = table[(table["study"] == name) & (table["quantity"] == q)]
            n = np.sqrt(mine["from"] * mine["to"]) * 1.15 ** (i - 1)
            _intervals(ax, n, mine["slope"], mine["low"], mine["high"], LOOK[q])
        ax.set(xscale="log", title=STUDY_LOOK[name].label, xlabel="$n$", xlim=(m.study.sizes[0], m.study.sizes[-1]))
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("slope between neighbouring $n$")
    key(drawn, [LOOK[q] for q in quantities], loc="outside lower center", ncols=3)
    return drawn, numbers


def by_quantity(
    measured: Mapping[str, Measured], marks: Mapping[str, Mark], quantities: Sequence[str], columns: int = 2
) -> tuple[Figure, list[dict]]:
    """A panel for each quantity, studies as lines."""
    rows = -(-len(quantities) // columns)
    drawn, axes = figure(PAGE, 0.5 + 2.5 * rows, rows, columns)
    numbers = []
    for ax, q in zip(axes, quantities, strict=False):
        for name, m in measured.items():
            if q in m.rates:
                numbers += curve(ax, m, q, marks[name])
        legend_below(ax, 1.6)
        ax.set(title=LOOK[q].label, xlabel="$n$")
    _blank(axes[len(quantities) :])
    for ax in axes[::columns]:
        ax.set_ylabel("mean error")
    key(drawn, [marks[name] for name in measured], ("fitted", "theory"), loc="outside lower center", ncols=3)
    return drawn, numbers


def slopes(measured: Mapping[str, Measured], marks: Mapping[str, Mark]) -> tuple[Figure, list[dict]]:
    """Slopes with intervals, quantity by quantity; the band is the theory value plus or minus the verdicts' margin."""
    numbers = verdicts(measured)
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


def _intervals(ax: Axes, x: ArrayLike, y: ArrayLike, low: ArrayLike, high: ArrayLike, mark: Mark) -> None:
    ax.vlines(x, low, high, color=mark.colour, linewidth=0.8)
    ax.plot(x, y, linestyle="", **mark.points)


def _blank(axes: Iterable[Axes]) -> None:
    for ax in axes:
        ax.set_axis_off()
