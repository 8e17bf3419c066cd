"""Theory met by practice: training from zero, and what real models see of a prompt."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import stdtrit

from common.paths import RESULTS
from figures.frames import read, show
from figures.style import BLACK, BLUE, COLUMN, GRAY, PAGE, SKY, VERMILION, Mark, figure
from theory.training import ACTIVATIONS, ARMS, CLAIMS, OPTIMISERS, ROWS, SETTING

ARM_LOOK = {
    "zero_init": Mark(r"zero-init, $\alpha = 0$", BLUE, "s"),
    "random_gate": Mark(r"the same, $\alpha$ random", SKY, "D", True),
    "random_init": Mark("random-init (one softmax)", BLACK, "o"),
}
NAMES = {"identity": "linear", "tanh": "tanh", "gd": "gradient descent", "adam": "Adam"}
SHARED = {
    "free": Mark("key and value free of each other", VERMILION, "X"),
    "bound": Mark("key and value bound together", BLUE, "s"),
}
OTHERS = ("random_init", "random_gate")
SAME = 0.1  # noise variances: a local minimum so near least squares is taken for it


def folder() -> Path:
    """$ZIA_RESULTS or results/theory."""
    return Path(os.environ.get("ZIA_RESULTS") or RESULTS / "theory")


def load_training() -> pd.DataFrame:
    """Rows of the study `training`, one a run and step.

    Raises
    ------
    FileNotFoundError
        If it has not been run there.
    """
    return _there("training.csv", ROWS, tuple(SETTING), "python -m theory.dynamics")


def load_claims() -> pd.DataFrame:
    """Claims of the study `training`."""
    words = (*SETTING, "against", "quantity", "verdict")
    return _there("training_claims.csv", CLAIMS, [w for w in words if w in CLAIMS], "python -m theory.dynamics")


def load_models() -> pd.DataFrame:
    """Rows of real_models.csv, one a model."""
    from theory.real import COLUMNS  # which reads weights

    words = ("model", "family", "keys_normalised", "source")
    return _there("real_models.csv", COLUMNS, words, "python -m theory.real")


def _there(name: str, columns, words, command: str) -> pd.DataFrame:
    table = read(folder() / name, columns, words)
    if not len(table):
        raise FileNotFoundError(f"{folder() / name} must have rows; `{command}` makes them")
    return table


def curves(rows: pd.DataFrame) -> pd.DataFrame:
    """1 + excess along the steps, each arm at its own rate: median and quartiles of all runs."""
    own = rows[rows["factor"] == 1].assign(value=lambda r: 1 + r["excess"].clip(lower=0))
    by = own.groupby([*SETTING, "step"], sort=False)["value"]
    return by.agg(low=_quarter(0.25), value="median", high=_quarter(0.75)).reset_index()


def _quarter(share: float):
    return lambda values: np.quantile(values, share)


def basins(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of runs above whose end least squares is the nearest minimum, by initial scale; 95 % over truths."""
    last = rows[(rows["factor"] == 1) & (rows["step"] == rows["step"].max())]
    last = last.assign(value=(last["polished"] <= SAME).astype(float))
    shares = last.groupby([*SETTING, "scale", "truth"], sort=False)["value"].mean()
    found = shares.groupby([*SETTING, "scale"], sort=False).agg(["mean", "std", "count"]).reset_index()
    half = stdtrit(found["count"] - 1, 0.975) * found["std"] / np.sqrt(found["count"])
    return found[[*SETTING, "scale"]].assign(value=found["mean"], low=found["mean"] - half, high=found["mean"] + half)


def training(rows: pd.DataFrame) -> tuple[Figure, list[dict]]:
    """Above, 1 + excess over least squares along the steps; below, the share in its basin by initial scale."""
    drawn, axes = figure(PAGE, 4.4, 2, 4, sharey="row")
    settings = [(a, o) for a in ACTIVATIONS for o in OPTIMISERS]
    numbers = []
    for (activation, optimiser), above, below in zip(settings, axes[:4], axes[4:], strict=True):
        for i, (arm, mark) in enumerate(ARM_LOOK.items()):
            for ax, table, x in ((above, curves(rows), "step"), (below, basins(rows), "scale")):
                mine = table[(table["activation"] == activation) & (table["optimiser"] == optimiser)]
                mine = mine[mine["arm"] == arm].sort_values(x)
                if ax is above:
                    ax.fill_between(mine[x], mine["low"], mine["high"], color=mark.colour, alpha=0.2, linewidth=0)
                    ax.plot(mine[x], mine["value"], **mark.points)
                else:
                    place = mine[x] * 1.12 ** (i - 1)
                    ax.vlines(place, mine["low"], mine["high"], color=mark.colour, linewidth=0.8)
                    ax.plot(place, mine["value"], linestyle="", **mark.points)
                names = {"activation": activation, "optimiser": optimiser, "arm": arm, "along": x}
                points = mine[[x, "value", "low", "high"]].set_axis(["x", "value", "low", "high"], axis=1)
                numbers += [names | point for point in points.to_dict("records")]
        above.set(yscale="log", title=f"{NAMES[activation]}, {NAMES[optimiser]}", xlabel="step")
        above.set_xscale("symlog", linthresh=10)
        above.set(xlim=(-1.5, 5000), xticks=[0, 10, 100, 1000], xticklabels=["0", "10", "100", "1,000"])
        below.set(xscale="log", xlabel="initial scale", ylim=(0, 1.08))
    axes[0].set_ylabel(r"1 + excess / $\nu^2$")
    axes[4].set_ylabel("share in the global minimum")
    handles = [Line2D([], [], label=mark.label, **mark.points) for mark in ARM_LOOK.values()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(ARMS))
    return drawn, numbers


def real_models(rows: pd.DataFrame) -> tuple[Figure, list[dict]]:
    """Share of a prompt's numbers that a layer sees; a star says that the keys are normalised."""
    table = rows.assign(share=rows["seen"] / rows["hidden"])
    table["prompts"] = np.where(table["value_free_of_key"] == table["value_numbers"], "free", "bound")
    table = table.sort_values(["share", "model"], kind="stable", ignore_index=True)
    drawn, (ax,) = figure(COLUMN + 1.2, 0.8 + 0.19 * len(table))
    for i, r in enumerate(table.to_dict("records")):
        mark = SHARED[r["prompts"]]
        ax.hlines(i, 0, r["share"], color=mark.colour, linewidth=0.8)
        ax.plot(r["share"], i, linestyle="", **mark.points)
        ax.text(1.06, i, f"{r['seen']:,} of {r['hidden']:,}", va="center", color=GRAY)
    stars = np.where(table["keys_normalised"] == "yes", "*", "")
    measured = np.where(table["source"] == "weights", " (weights)", "")
    ax.set(yticks=range(len(table)), yticklabels=table["model"] + measured + stars)
    ax.set(xlim=(0, 1.5), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel="share of a prompt that a layer sees")
    ax.tick_params(axis="y", length=0)
    handles = [Line2D([], [], linestyle="", label=mark.label, **mark.points) for mark in SHARED.values()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=1)
    columns = ["model", "seen", "hidden", "share", "prompts", "keys_normalised", "source"]
    return drawn, table[columns].to_dict("records")


def training_table() -> str:
    """Every claim of the study `training` in Markdown, and what they say together."""
    from theory.stability import verdict  # scipy.stats takes a second

    claims = load_claims()
    lines = []
    for (activation, optimiser, quantity), pair in claims.groupby(["activation", "optimiser", "quantity"], sort=False):
        line = {"prompts": NAMES[str(activation)], "descent": NAMES[str(optimiser)], "share of runs": quantity}
        line["zero_init"] = f"{pair['zero_init'].iloc[0]:.2f}"
        for c in pair.to_dict("records"):
            line[c["against"]] = f"{c['other']:.2f}"
            line[f"less {c['against']}"] = f"{c['difference']:+.2f} [{c['low']:+.2f}, {c['high']:+.2f}] {c['verdict']}"
        lines.append(line)
    sums = [f"Zero-initialisation stabilises training, {verdict(claims.to_dict('records'), arm)}." for arm in OTHERS]
    return "\n\n".join([show(lines), *sums])


def real_models_table() -> str:
    """What real models see of a prompt, in Markdown."""
    lines = []
    for r in load_models().to_dict("records"):
        low, high = r["condition_low"], r["condition_high"]
        lines.append(
            {
                "model": r["model"] + (" (weights)" if r["source"] == "weights" else ""),
                "keys normalised": r["keys_normalised"],
                "kv heads x size": f"{r['kv_heads']} x {r['head_dim']}",
                "seen of hidden": f"{r['seen']:,} of {r['hidden']:,}",
                "value free of key": f"{r['value_free_of_key']:,} of {r['value_numbers']:,}",
                "non-linear: seen, value free": f"{r['network_seen']}, {r['network_value_free_of_key']}",
                "linear prompts train": f"{r['prompt_numbers']:,}",
                "could be left out": f"{r['saved']:,}",
                "condition": "" if np.isnan(low) else f"{low:,.0f} to {high:,.0f}",
            }
        )
    return show(lines)
