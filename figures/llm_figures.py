"""The study on the small world drawn: accuracy against data, rates and options, with intervals over seeds."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, PercentFormatter

from figures.llm_tables import COMMANDS, MATCHED_PAIRS, Measured, band, best_rates
from figures.paper_numbers import LOSS, published_gaps
from figures.style import BLACK, BLUE, GRAY, GREEN, ORANGE, PAGE, PURPLE, SKY, VERMILION, Mark, figure
from llm.world.claims import interval
from llm.world.experiments import PROMPT_ARMS, PUBLISHED_RATE
from llm.world.rates import common_rate

LOOK = {
    "nonlinear": Mark("non-linear", VERMILION, "o"),
    "linear": Mark("linear", BLUE, "s"),
    "random_init": Mark("random-init", BLACK, "X"),
    "nonlinear_shared": Mark("non-linear, shared", PURPLE, "D", True),
    "lora": Mark("LoRA", GREEN, "^", True),
    "full": Mark("full fine-tuning", ORANGE, "v", True),
    "vera": Mark("VeRA", SKY, "<", True),
    "ia3": Mark("IA3", GRAY, "p", True),
    "prompt_tuning": Mark("prompt tuning", BLACK, "d", True),
    "linear_matched": Mark("linear, matched", SKY, "s", True),
    "nonlinear_matched": Mark("non-linear, matched", ORANGE, "o", True),
}
DASHED = (0, (4, 2))
RATE_COLUMNS = ["arm", "learning_rate", "seed", "accuracy", "held_out_loss", "status"]


def lines(ax: Axes, rows: pd.DataFrame, arms: Sequence[str], quantity: str = "accuracy") -> list[dict]:
    """A line for each arm against the fraction of the data, with intervals; the numbers of the picture."""
    numbers = []
    for i, arm in enumerate(arms):
        mine = band(rows, arm, quantity)
        _line(ax, mine, LOOK[arm], i - (len(arms) - 1) / 2)
        numbers += [{"quantity": quantity, "arm": arm, "minus": ""} | r for r in mine.to_dict("records")]
    _axis_of_data(ax, numbers)
    return numbers


def gaps(ax: Axes, rows: pd.DataFrame, pairs: Sequence[tuple[str, str]], marks: Sequence[Mark]) -> list[dict]:
    """Accuracy of a first arm minus that of a second, paired by seed, against the fraction."""
    ax.axhline(0, color=GRAY, linewidth=0.7)
    numbers = []
    for i, ((first, second), mark) in enumerate(zip(pairs, marks, strict=True)):
        mine = band(rows, first, minus=second)
        _line(ax, mine, mark, i - (len(pairs) - 1) / 2)
        numbers += [{"quantity": "accuracy", "arm": first, "minus": second} | r for r in mine.to_dict("records")]
    _axis_of_data(ax, numbers)
    return numbers


def stars(ax: Axes, first: str, second: str, size: str, colour: str, separator: str = ", ") -> None:
    """Published gaps of one pair; the legend has their values in points, with the share of the data in brackets.

    They are of LLaMA on ARC, so their sign and order may be compared and not their size.
    """
    at, points = zip(*sorted(published_gaps(first, second, size).items()), strict=True)
    words = separator.join(
        f"{y:+.2f} ({100 * x:g})".replace("-", "\N{MINUS SIGN}") for x, y in zip(at, points, strict=True)
    )
    look = {"marker": "*", "markersize": 6.5, "markerfacecolor": "white", "markeredgewidth": 0.7}
    ax.set_xticks(sorted({*ax.get_xticks(), *at}))
    ax.plot(at, np.array(points) / 100, color=colour, linestyle="", zorder=5, label=f"{size}: {words}", **look)


def sample_efficiency(measured: Measured) -> tuple[Figure, list[dict]]:
    """Every arm at its own best rate: exact answers, multiple choice, and the paired gaps to random-init."""
    drawn, (left, middle, right) = figure(PAGE, 3.5, 1, 3)
    numbers = []
    for ax, quantity, title in ((left, "accuracy", "exact answer"), (middle, "multiple_choice", "multiple choice")):
        numbers += lines(ax, measured.efficiency, measured.arms, quantity)
        ax.axhline(measured.untuned["chance"], color=GRAY, linewidth=0.8, linestyle=":")
        ax.axhline(measured.untuned[quantity], color=GRAY, linewidth=0.8, linestyle=DASHED)
        ax.set(title=title, ylim=(-0.03, 1.03))
    left.set_ylabel("accuracy on held-out people, %")
    zero_init = [arm for arm in ("nonlinear", "linear", "nonlinear_shared") if arm in measured.arms]
    pairs = [(arm, "random_init") for arm in zero_init]
    numbers += gaps(right, measured.efficiency, pairs, [LOOK[a] for a in zero_init])
    for arm in ("nonlinear", "linear"):
        stars(right, arm, "random_init", "7B", LOOK[arm].colour)
    right.set(title="minus random-init, points")
    _room_above(right, 0.3)
    _published_key(right)
    extra = [
        Line2D([], [], color=GRAY, linewidth=0.8, linestyle=DASHED, label="base, untuned"),
        Line2D([], [], color=GRAY, linewidth=0.8, linestyle=":", label="guessing"),
    ]
    key(drawn, measured.arms, extra)
    return drawn, numbers


def fairness(measured: Measured) -> tuple[Figure, list[dict]]:
    """The prompt arms at their own best rates, at one rate, and with as many parameters; below, non-linear - linear."""
    drawn, axes = figure(PAGE, 5.0, 2, 4, sharey="row")
    matched = ("linear_matched", "nonlinear_matched")
    equal = measured.ablation("matched")
    both = equal if equal.empty else pd.concat([measured.efficiency, equal])
    columns = [
        ("own best rates", measured.efficiency, PROMPT_ARMS, [("nonlinear", "linear")]),
        ("best common rate", measured.ablation("common_rate"), PROMPT_ARMS, [("nonlinear", "linear")]),
        ("published rate", measured.ablation("published_rate"), PROMPT_ARMS, [("nonlinear", "linear")]),
        ("equal parameters", both, ("linear", "nonlinear", *matched), MATCHED_PAIRS),
    ]
    numbers, marks = [], [LOOK["nonlinear"], LOOK["nonlinear_matched"]]
    for upper, lower, (title, rows, arms, pairs) in zip(axes[:4], axes[4:], columns, strict=True):
        upper.set(title=title, ylim=(-0.03, 1.03))
        if rows.empty:
            for ax in (upper, lower):
                not_run(ax, "ablations")
            continue
        numbers += [{"panel": title} | r for r in lines(upper, rows, arms)]
        numbers += [{"panel": title} | r for r in gaps(lower, rows, pairs, marks[: len(pairs)])]
    for size, colour in (("7B", VERMILION), ("13B", BLACK)):
        stars(axes[4], "nonlinear", "linear", size, colour, ",\n")
    _room_above(axes[4], 0.5)
    _published_key(axes[4])
    if not equal.empty:
        names = [f"{LOOK[a].label}\n\N{MINUS SIGN} {LOOK[b].label}" for a, b in MATCHED_PAIRS]
        handles = [Line2D([], [], label=n, **m.points) for n, m in zip(names, marks, strict=True)]
        axes[7].legend(handles=handles, loc="upper left", fontsize=7)
    for ax in axes:  # narrow ones, in which 30 and 50 would run together
        ax.set_xticks([tick for tick in ax.get_xticks() if tick != 0.5])
    axes[0].set_ylabel("exact answers, %")
    axes[4].set_ylabel("non-linear minus linear, points")
    key(drawn, ("nonlinear", "linear", "random_init", *matched), columns=3)
    return drawn, numbers


def learning_rates(measured: Measured) -> tuple[Figure, list[dict]]:
    """Validation accuracy of every arm against the rate: stars the best, lines the common and the published rate."""
    rates = best_rates(measured.tuning)
    best = {arm: rates[arm] for arm in LOOK if arm in rates}
    if not best:
        drawn, (ax,) = figure(PAGE, 1.5)
        not_run(ax, "tuning")
        return drawn, [{"arm": "", "learning_rate": np.nan, "status": "not run"}]
    rows = -(-len(best) // 4)
    drawn, axes = figure(PAGE, 0.3 + 1.7 * rows, rows, 4, sharex=True, sharey=True)
    numbers = []
    shared = common_rate(measured.tuning.to_dict("records"), PROMPT_ARMS) if set(PROMPT_ARMS) <= set(best) else None
    for ax, arm in zip(axes, best, strict=False):
        mine = measured.tuning[measured.tuning["arm"] == arm]
        mean = mine.groupby("learning_rate")["accuracy"].mean()
        if shared is not None:
            ax.axvline(shared, color=GRAY, linewidth=0.7, linestyle=DASHED)
        if arm in PROMPT_ARMS:
            ax.axvline(PUBLISHED_RATE, color=GRAY, linewidth=0.7, linestyle=":", ymax=0.85)
        ax.plot(mine["learning_rate"], mine["accuracy"], ".", color=GRAY, markersize=3)
        ax.plot(mean, **LOOK[arm].points)
        top = float(best[arm]["best rate"])
        ax.plot(top, best[arm]["accuracy"], "*", color=LOOK[arm].colour, markersize=9, markeredgecolor="white")
        ax.text(0.03, 0.97, f"best {top:g}", transform=ax.transAxes, va="top")
        ax.set(xscale="log", title=LOOK[arm].label, ylim=(-0.03, 1.25))
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(FixedLocator([0, 0.5, 1]))
        ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        numbers += mine[RATE_COLUMNS].assign(best=mine["learning_rate"] == top).to_dict("records")
    for ax in axes[len(best) :]:
        ax.set_axis_off()
    drawn.supxlabel("peak learning rate", size=8)
    drawn.supylabel("exact answers on validation people, %", size=8)
    return drawn, numbers


def loss_curves(measured: Measured) -> tuple[Figure, list[dict]]:
    """Mean training loss of each epoch, published and here, each on a scale of its own."""
    drawn, (left, right) = figure(PAGE, 2.9, 1, 2)
    numbers = []
    epochs = np.arange(1, 6)
    for arm, loss in LOSS.items():
        left.plot(epochs, loss, label=LOOK[arm].label, **LOOK[arm].points)
        numbers += [
            {"source": "published", "arm": arm, "epoch": int(e), "value": x, "low": np.nan, "high": np.nan}
            for e, x in zip(epochs, loss, strict=True)
        ]
    whole = measured.curves[measured.curves["fraction"] == 1.0]
    for arm, curves in whole.groupby("arm", sort=False):
        lines = [
            (round(rows["epoch"].iloc[0]), *interval(rows["train_loss"].to_numpy()))
            for _, rows in curves.groupby("step")
        ]
        mine = pd.DataFrame(lines, columns=["epoch", "value", "low", "high"])
        right.vlines(mine["epoch"], mine["low"], mine["high"], color=LOOK[str(arm)].colour, linewidth=0.8)
        right.plot(mine["epoch"], mine["value"], **LOOK[str(arm)].points)
        numbers += [{"source": "small world", "arm": arm} | r for r in mine.to_dict("records")]
    left.set(title="published: LLaMA-7B, Alpaca", ylabel="mean training loss")
    right.set_title("small world, other scale")
    if whole.empty:
        not_run(right, "ablations")
    for ax in (left,) if whole.empty else (left, right):
        ax.set(xlabel="epoch", yscale="log", xticks=epochs)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
        ax.yaxis.set_major_formatter("{x:g}")
    key(drawn, tuple(LOSS))
    return drawn, numbers


def not_run(ax: Axes, table: str) -> None:
    """An empty panel that says what fills it."""
    words = COMMANDS[table].replace(" --full", "\n--full")
    ax.text(0.5, 0.5, f"not run:\n{words}", transform=ax.transAxes, ha="center", va="center", color=GRAY, size=7)
    ax.set_axis_off()


def key(drawn: Figure, arms: Sequence[str], extra: Sequence[Line2D] = (), columns: int = 4) -> None:
    """Names of the arms, and of further lines, below the panels."""
    handles = [Line2D([], [], label=LOOK[arm].label, **LOOK[arm].points) for arm in arms]
    drawn.legend(handles=[*handles, *extra], loc="outside lower center", ncols=columns)


def _line(ax: Axes, points: pd.DataFrame, mark: Mark, place: float) -> None:
    if points.empty:
        return
    x = points["fraction"] * 1.05**place  # side by side, or intervals hide one another
    ax.vlines(x, points["low"], points["high"], color=mark.colour, linewidth=0.8)
    ax.plot(x, points["value"], zorder=3, **mark.points)


def _axis_of_data(ax: Axes, numbers: Iterable[dict]) -> None:
    fractions = sorted({r["fraction"] for r in numbers})
    ax.set(xscale="log", xlabel="share of the data, %")
    ax.xaxis.set_major_locator(FixedLocator(fractions))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(PercentFormatter(1, symbol="", decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1, symbol="", decimals=0))


def _room_above(ax: Axes, share: float) -> None:
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + share * (top - bottom))


def _published_key(ax: Axes) -> None:
    title = "published,\nLLaMA on ARC"
    ax.legend(loc="upper left", title=title, alignment="left", handlelength=0.8, fontsize=7)
