"""What the study on a real base runs: arms, rates, shares, seeds, sizes. Nothing here imports torch.

docs/real.md says why, and was committed before any run.

    tuning   every arm and initial scale at rates of one grid, on rows and a seed that nothing else uses
    study    every arm at its best rate and scale, shares of one sample, seeds paired across arms; held-out loss
    scores   what the study trained on the whole sample, and the base, on benchmarks
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from llm.methods.names import PROMPTS

PUBLISHED_RATE = 2.25e-3  # of all prompts, at batch 64
TABLES = ("tuning", "study", "scores", "claims")
OWN_BEST, COMMON, PUBLISHED = "own_best", "common", "published"  # rules that choose a rate


@dataclass(frozen=True)
class Arm:
    """A method with the initial scales of its prompts that it may have; None: the published start."""

    method: str
    scales: tuple[float | None, ...] = (None,)

    @property
    def attention(self) -> str:
        """zero_init or random_init; empty without prompts in the attention."""
        return PROMPTS[self.method].get("attention", "zero_init") if self.method in PROMPTS else ""

    @property
    def prompt(self) -> str:
        """Kind of prompt; empty without."""
        return PROMPTS[self.method]["prompt"] if self.method in PROMPTS else ""


_VECTORS = (1.0, 0.1, 0.01)  # published: 1
_NETWORK = (None, 0.1, 1.0)  # published: about 5e-6
ARMS = {
    "linear": Arm("linear", _VECTORS),
    "nonlinear": Arm("nonlinear", _NETWORK),
    "random_init": Arm("random_init", (1.0,)),
    "random_init_tuned": Arm("random_init", _VECTORS),
    "random_init_nonlinear": Arm("random_init_nonlinear", _NETWORK),
    **{name: Arm(name) for name in ("lora", "full", "nonlinear_shared", "vera", "ia3", "prompt_tuning", "norms")},
}
MAIN = ("linear", "nonlinear", "random_init", "random_init_tuned", "random_init_nonlinear")
REFERENCES = ("lora", "full")
ONCE = ("nonlinear_shared", "vera", "ia3", "prompt_tuning", "norms")  # one seed, no claim
START = {"linear": 1.0, "nonlinear": None, "random_init": 1.0}  # the paper's own three, at their published scales
COMMON_ARMS = ("linear", "nonlinear", "random_init_tuned")
GENERATED = ("linear", "nonlinear", "random_init", "random_init_tuned")  # scored by the paper's protocol, too
# Rates 10^e of one grid of half decades that a method's tuning starts from; it is widened while the best is at an edge.
EXPONENTS = {
    **dict.fromkeys(("linear", "nonlinear", "random_init", "random_init_nonlinear"), (-2.5, -2.0, -1.5, -1.0)),
    **dict.fromkeys(("nonlinear_shared", "vera", "ia3"), (-2.5, -2.0, -1.5)),
    **{"lora": (-3.0, -2.5, -2.0), "full": (-4.5, -4.0, -3.5), "prompt_tuning": (-2.0, -1.5, -1.0)},
    "norms": (-3.0, -2.5, -2.0),
}

# Zero-shot, the first items of each.
BENCHMARKS = (("arc_easy", 200), ("arc_challenge", 200), ("hellaswag", 200), ("mmlu", 3), ("truthfulqa_mc1", 200))


def rate(exponent: float) -> float:
    """Learning rate 10^exponent, to three digits."""
    return float(f"{10.0**exponent:.3g}")


@dataclass(frozen=True)
class Cell:
    """One training run; a rate of None is that of its rule, by the tuning; a scale of None the published start."""

    arm: str
    share: float
    seed: int
    rate_rule: str
    learning_rate: float | None = None
    initial_scale: float | None = None
    epochs: int | None = None
    steps: int | None = None
    part: str = "study"


@dataclass(frozen=True)
class Protocol:
    """Sizes of the study.

    Attributes
    ----------
    length : int
        Most tokens of a row; longer rows are left out.
    held_out, sample : int
        Rows that every run is scored on, and rows whose shares train.
    tuning_held_out, tuning_sample : int
        The same for the tuning, disjoint from those.
    steps, tuning_steps, batch_size : int
        Of every run, at every share.
    epochs : int or None
        Passes over the share, instead of steps.
    shares, seeds : tuple
        Of the main arms; a seed draws the share, initial values and order.
    tuning_seed : int
    main, references, once : tuple of str
        Arms at all shares; at the whole sample; at the whole sample with the first seed only.
    rules : bool
        Whether the paper's three also run at one common rate and at the published one.
    benchmarks : tuple of (task, number)
        First items of each task of the harness (MMLU: of each subject); None: all.
    generated : tuple of (task, number)
        The same for the paper's protocol.
    new_tokens : int
        Longest answer there.
    """

    length: int = 160
    held_out: int = 300
    sample: int = 480
    tuning_held_out: int = 96
    tuning_sample: int = 240
    steps: int = 60
    tuning_steps: int = 30
    batch_size: int = 8
    epochs: int | None = None
    shares: tuple[float, ...] = (0.05, 0.25, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    tuning_seed: int = 100
    main: tuple[str, ...] = MAIN
    references: tuple[str, ...] = REFERENCES
    once: tuple[str, ...] = ONCE
    rules: bool = True
    benchmarks: tuple[tuple[str, int | None], ...] = BENCHMARKS
    generated: tuple[tuple[str, int | None], ...] = (("arc_challenge", 100),)
    new_tokens: int = 128

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms."""
        return (*self.main, *self.references, *self.once)


FULL = Protocol()
# Two arms at the rates that the full study found, one share, loss and ARC-easy: 25 minutes on two cores.
QUICK = Protocol(
    shares=(1.0,), seeds=(0,), main=("linear", "nonlinear"), references=(), once=(), rules=False,
    benchmarks=(("arc_easy", 200),), generated=(),
)  # fmt: skip


def study(protocol: Protocol) -> list[Cell]:
    """Cells of the study, in their order; rates and scales are those of their rules."""
    return [_sized(cell, protocol) for cell in _study(protocol)]


def _study(protocol: Protocol) -> Iterator[tuple[Any, ...]]:
    shares, seeds = sorted(protocol.shares, reverse=True), protocol.seeds
    for share, seed, arm in product(shares, seeds, protocol.main):
        yield arm, share, seed, OWN_BEST
    for seed, arm in product(seeds, protocol.references):
        yield arm, shares[0], seed, OWN_BEST
    if protocol.rules:
        for seed, arm in product(seeds, START):
            yield arm, shares[0], seed, PUBLISHED
        for seed, arm in product(seeds, COMMON_ARMS):
            yield arm, shares[0], seed, COMMON
    for arm in protocol.once:
        yield arm, shares[0], seeds[0], OWN_BEST


def _sized(cell: tuple[Any, ...], protocol: Protocol) -> Cell:
    return Cell(*cell, epochs=protocol.epochs, steps=None if protocol.epochs else protocol.steps)


def tuning(protocol: Protocol, method: str, exponents: Iterable[float], scale: float | None) -> list[Cell]:
    """Cells of the tuning of a method at one initial scale; their arm is the method."""
    steps, seed = protocol.tuning_steps, protocol.tuning_seed
    return [Cell(method, 1.0, seed, "tuning", rate(e), scale, steps=steps, part="tuning") for e in exponents]
