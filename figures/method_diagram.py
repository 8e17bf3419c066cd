"""Zero-initialised attention drawn (the paper's Figure 1): prompts beside a text, two softmaxes, a gate, a sum."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from figures.style import BLACK, BLUE, GRAY, ORANGE, PAGE, VERMILION, figure

TRAINED, FROZEN = "#FBE3D0", "#E4EEF5"


def attention() -> tuple[Figure, list[dict]]:
    """One head of one adapted layer, and what of it is trained; with it the boxes as rows."""
    drawn, (ax,) = figure(PAGE, 3.3)
    ax.set(xlim=(0, 13.5), ylim=(0.1, 6.7))
    ax.set_axis_off()
    boxes = [
        ("prompts", (0.2, 4.9, 2.2, 1.0), "prompts $p_1 \\ldots p_L$", True),
        ("sigma", (3.1, 4.9, 2.3, 1.0), "$P=\\sigma(p)$, or $P=p$", True),
        ("prompt keys and values", (6.1, 4.9, 2.2, 1.0), "keys $P W_K$\nvalues $P W_V$", False),
        ("prompt softmax", (9.0, 4.9, 1.9, 1.0), "softmax over\nprompts", False),
        ("gate", (11.5, 4.9, 1.8, 1.0), "gate $\\tanh(\\alpha)$\n$\\alpha=0$ at start", True),
        ("query", (6.1, 2.85, 2.2, 1.0), "query $x W_Q$", False),
        ("text", (0.2, 0.8, 2.2, 1.0), "text $x_1 \\ldots x_N$", False),
        ("text keys and values", (6.1, 0.8, 2.2, 1.0), "keys $x W_K$\nvalues $x W_V$", False),
        ("text softmax", (9.0, 0.8, 1.9, 1.0), "softmax over\ntext", False),
        ("output", (11.5, 0.8, 1.8, 1.0), "output of\nthe head", False),
    ]
    for _, place, words, trained in boxes:
        _box(ax, place, words, trained)
    for start, end in (
        ((2.4, 5.4), (3.1, 5.4)),
        ((5.4, 5.4), (6.1, 5.4)),
        ((8.3, 5.4), (9.0, 5.4)),
        ((10.9, 5.4), (11.5, 5.4)),
        ((2.4, 1.3), (6.1, 1.3)),
        ((8.3, 1.3), (9.0, 1.3)),
        ((8.3, 3.55), (9.7, 4.9)),
        ((8.3, 3.15), (9.7, 1.8)),
        ((2.4, 1.6), (6.1, 3.2)),
    ):
        _arrow(ax, start, end, BLUE if max(start[1], end[1]) < 4 else VERMILION)
    ax.plot(12.4, 3.35, "o", markersize=15, color="white", markeredgecolor=BLACK, markeredgewidth=0.8)
    ax.text(12.4, 3.33, "+", ha="center", va="center", size=12)
    _arrow(ax, (12.4, 4.9), (12.4, 3.57), VERMILION)
    _arrow(ax, (10.9, 1.55), (12.21, 3.23), BLUE)
    _arrow(ax, (12.4, 3.13), (12.4, 1.8), BLACK)
    for x, colour, words in ((0.2, TRAINED, "trained"), (2.4, FROZEN, "frozen: the base as it is")):
        ax.add_patch(FancyBboxPatch((x, 6.25), 0.35, 0.25, "round,pad=0.02", facecolor=colour, edgecolor=GRAY, lw=0.6))
        ax.text(x + 0.5, 6.37, words, va="center")
    formula = (
        r"$\mathrm{softmax}(xW_Q(xW_K)^\top/\sqrt{d})\,xW_V"
        r"\;+\;\tanh(\alpha)\,\mathrm{softmax}(xW_Q(PW_K)^\top/\sqrt{d})\,PW_V$"
    )
    ax.text(6.75, 0.25, formula, ha="center", va="center")
    return drawn, [{"box": name, "trained": trained} for name, _, _, trained in boxes]


def _box(ax: Axes, place: tuple[float, float, float, float], words: str, trained: bool) -> None:
    x, y, width, height = place
    look = {"facecolor": TRAINED if trained else FROZEN, "edgecolor": ORANGE if trained else BLUE, "linewidth": 0.8}
    ax.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.12", **look))
    ax.text(x + width / 2, y + height / 2, words, ha="center", va="center", linespacing=1.35)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    ax.annotate("", end, start, arrowprops=arrow)
