"""What the studies on the small world run: arms, rates, fractions, seeds, ablations.

docs/experiments.md says what of it was fixed before any run, and what was added with results known.

One training run, scored, is a `Cell`, and a row of a table. There are three tables.

    tuning              every arm at every rate of one grid, at one fraction, scored on validation people
    sample_efficiency   every arm at its best rate, five fractions, seeds paired across arms, scored on test people
    ablations           one thing changed at a time, and the same arms at one common rate

Every run has the same number of optimiser steps at every fraction (but in the ablation `equal_epochs`, as published),
so that with less data there is less data and not less training.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from llm.data.splits import FRACTIONS

# Half decades; a grid is widened by further ones until no arm's best is at its edge.
EXPONENTS = (-3.5, -3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0)
PUBLISHED_RATE = 2.25e-3  # of all prompts, at batch 64
PROMPT_ARMS = ("linear", "nonlinear", "random_init")  # the paper's own three
DEPTH = 6  # layers of the small base


def rate(exponent: float) -> float:
    """Learning rate 10^exponent, to three digits."""
    return float(f"{10.0**exponent:.3g}")


@dataclass(frozen=True)
class Arm:
    """A method with its options.

    Attributes
    ----------
    method : str
        One of `llm.methods.names.METHODS`.
    options : mapping
        As `llm.methods.registry.apply` takes them.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


ARMS = {
    "linear": Arm("linear"),
    "nonlinear": Arm("nonlinear"),
    "nonlinear_shared": Arm("nonlinear_shared"),
    "random_init": Arm("random_init"),
    "lora": Arm("lora"),
    "full": Arm("full"),
    "vera": Arm("vera"),
    "ia3": Arm("ia3"),
    "prompt_tuning": Arm("prompt_tuning"),
    # 171 linear prompts a layer have as many parameters as the published non-linear ones on this base (87,568 and
    # 87,760); a network of width 3 has as many as 10 linear prompts (5,166 and 5,136).
    "linear_matched": Arm("linear", {"prompt_length": 171}),
    "nonlinear_matched": Arm("nonlinear", {"hidden_width": 3, "layer_width": 3}),
}
MAIN = ("linear", "nonlinear", "nonlinear_shared", "random_init", "lora", "full", "vera", "ia3", "prompt_tuning")
MATCHED = ("linear_matched", "nonlinear_matched")


@dataclass(frozen=True)
class Cell:
    """One training run and its score.

    A rate of None is the arm's best of the tuning, `common` the best for all. `gate` fixes tanh(g), or g without a
    tanh, at this value instead of training it from 0.
    """

    arm: str
    fraction: float
    seed: int
    learning_rate: float | str | None = None
    ablation: str = ""
    setting: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    gate: float | None = None
    epochs: int | None = None
    world: int = 0
    part: str = "test"


@dataclass(frozen=True)
class Experiment:
    """Sizes of a study.

    Attributes
    ----------
    steps, batch_size : int
        Of every run; the schedule, betas and weight decay are the published ones.
    fractions, seeds : tuple
        Of the main study; a seed draws subset, initial values and order.
    tuning_fraction, tuning_seeds, exponents
        Of the tuning, whose seeds no other table uses.
    arms : tuple of str
        Of the main study.
    ablation_seeds : tuple of int
    ablations : bool
        Whether the ablations are run at all.
    worlds : tuple of int
        Further worlds as a check.
    """

    steps: int = 400
    batch_size: int = 8
    fractions: tuple[float, ...] = FRACTIONS
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_fraction: float = 0.3
    tuning_seeds: tuple[int, ...] = (100, 101)
    exponents: tuple[float, ...] = EXPONENTS
    arms: tuple[str, ...] = MAIN
    matched: tuple[str, ...] = MATCHED
    ablation_seeds: tuple[int, ...] = (0, 1, 2)
    ablations: bool = True
    worlds: tuple[int, ...] = (1, 2)


FULL = Experiment()
QUICK = Experiment(
    steps=150, fractions=(0.1, 1.0), seeds=(0, 1), matched=(), ablations=False, worlds=(), ablation_seeds=()
)
# For the larger world of the GPU tier (llm/pretrain.py --help has the command that makes it).
LARGE = Experiment(
    steps=1000, batch_size=64, seeds=(0, 1, 2), matched=(), ablations=False, worlds=(), ablation_seeds=()
)


def tuning(experiment: Experiment, exponents: Sequence[float], arm: str) -> list[Cell]:
    """Cells of the tuning of one arm."""
    return [
        Cell(arm, experiment.tuning_fraction, seed, rate(e), part="validation")
        for e in exponents
        for seed in experiment.tuning_seeds
    ]


def grid(experiment: Experiment) -> list[Cell]:
    """Cells of the tuning of every arm."""
    arms = (*experiment.arms, *experiment.matched)
    return [cell for arm in arms for cell in tuning(experiment, experiment.exponents, arm)]


def sample_efficiency(experiment: Experiment) -> list[Cell]:
    """Cells of the main study."""
    return [Cell(*cell) for cell in product(experiment.arms, experiment.fractions, experiment.seeds)]


def ablations(experiment: Experiment) -> list[Cell]:
    """Cells of all ablations, in the order of `_ablations`."""
    return list(_ablations(experiment)) if experiment.ablations else []


def _ablations(experiment: Experiment) -> Iterator[Cell]:
    pair, share = ("linear", "nonlinear"), experiment.tuning_fraction
    fractions, seeds, few = experiment.fractions, experiment.seeds, experiment.ablation_seeds
    # As many parameters, each at its own best rate; all arms at one rate; and at the published one.
    for arm, fraction, seed in product(experiment.matched, fractions, seeds):
        yield Cell(arm, fraction, seed, ablation="matched", setting=arm)
    for arm, fraction, seed in product(PROMPT_ARMS, fractions, seeds):
        yield Cell(arm, fraction, seed, "common", ablation="common_rate", setting="one rate for all")
    for arm, fraction, seed in product(PROMPT_ARMS, fractions, seeds):
        yield _at_published_rate(arm, fraction, seed)
    # One change at a time, at the rate that was best without it; the setting without it is in the main study.
    changes: list[tuple[str, tuple[str, ...], tuple]] = [
        ("initial_scale", PROMPT_ARMS, (1e-3, 3e-2)),
        ("initial_scale", ("nonlinear",), (1.0,)),  # the published start of linear prompts
        ("prompt_length", pair, (1, 3, 30)),
        ("layers", pair, (1, 2, DEPTH)),
        ("activation", ("nonlinear",), ("leaky_relu", "sigmoid", "gelu", "tanh")),
    ]
    for option, arms, values in changes:
        for arm, value, seed in product(arms, values, few):
            yield Cell(arm, share, seed, ablation=option, setting=str(value), options={option: value})
    for setting, gate in (("no tanh", None), ("off (fixed at 1)", 1.0)):
        for arm, seed in product(pair, few):
            options = {"gate_activation": "identity"}
            yield Cell(arm, share, seed, ablation="gate", setting=setting, options=options, gate=gate)
    for arm, seed in product(pair, few):
        yield Cell(arm, share, seed, ablation="gate", setting="input-dependent", options={"gate": "adapt"})
    for arm, fraction, seed in product(PROMPT_ARMS, fractions, few):
        yield Cell(arm, fraction, seed, ablation="equal_epochs", setting="5 epochs", epochs=5)
    # Other worlds, at the rates that are best in the first, and at the published one.
    for world, arm, fraction, seed in product(experiment.worlds, PROMPT_ARMS, fractions, seeds):
        yield Cell(arm, fraction, seed, ablation="world", setting=f"world {world}", world=world)
    for world, arm, fraction, seed in product(experiment.worlds, PROMPT_ARMS, fractions, few):
        yield _at_published_rate(arm, fraction, seed, world)
    # Prompts in every layer: "all but the first two" leaves out a sixteenth of LLaMA, and a third of this base.
    for arm, fraction, seed in product(PROMPT_ARMS, fractions, few):
        options = {"layers": DEPTH}
        yield Cell(arm, fraction, seed, ablation="all_layers", setting="own best", options=options)
    for arm, fraction, seed in product(PROMPT_ARMS, fractions, few):
        yield replace(_at_published_rate(arm, fraction, seed), ablation="all_layers", options={"layers": DEPTH})


def _at_published_rate(arm: str, fraction: float, seed: int, world: int = 0) -> Cell:
    setting = f"{PUBLISHED_RATE:g}"
    return Cell(arm, fraction, seed, PUBLISHED_RATE, ablation="published_rate", setting=setting, world=world)
