"""The study `training`: descent by gradients from the method's own start, against other starts.

A run draws three prompts N(0, scale^2) with b = 0, and follows full-batch gradients of SSE / (2 n) at a constant rate.
Nothing is computed here. Arms differ in the gate and in where it starts:

    zero_init     a softmax of their own, alpha = 0: LLaMA-Adapter
    random_gate   the same model, alpha ~ N(0, 1): is it the zero that helps, or the softmax?
    random_init   one softmax, no alpha: "vanilla" attention

Each arm learns a truth of its own model, with the same prompts, inputs and noise. docs/training.md has the protocol.
"""

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import NamedTuple

from common.tables import Column

ARMS = {"zero_init": ("zero_init", 0.0), "random_gate": ("zero_init", 1.0), "random_init": ("joint", 0.0)}
"""Arm -> gate, and standard deviation of alpha at the start."""
OPTIMISERS = {"gd": (-2.0, 2.0), "adam": (-3.0, 0.5)}
"""Optimiser -> first and last exponent of its grid of rates, half decades."""
ACTIVATIONS = {"identity": (-2.0, 2.0), "tanh": (-1.3, 1.3)}
"""sigma -> range of the true prompts."""
HALF = 10**0.5
WIDEN = 4  # half decades by which a grid is widened while the best rate is at its edge


Setting = tuple[str, str, str]
"""activation, arm, optimiser: each has a rate of its own."""


class Cell(NamedTuple):
    """The runs from all starts of one setting.

    `factor` is the rate over the arm's own best one.
    """

    activation: str
    arm: str
    optimiser: str
    scale: float
    factor: float
    rate: float
    truth: int


@dataclass(frozen=True)
class Training:
    """One frozen configuration; a quick twin has fewer truths, starts and steps.

    Attributes
    ----------
    n, d, L : int
        Rows, inputs and outputs, prompts.
    noise, apart : float
        Standard deviation of the noise; least distance of two true prompts.
    scales : tuple of float
        Standard deviations of the prompts at the start; 1 is the published one.
    factors : tuple of float
        Further rates, at scale 1, over the arm's own best one.
    marks : tuple of int
        Steps that have a row. Runs at a further rate have the first and the last alone.
    truths, starts : int
    seed : int
    tuning_seed, tuning_truths : int
        What the rates are chosen on, which the study never uses.
    """

    n: int = 200
    d: int = 2
    L: int = 3
    noise: float = 0.1
    apart: float = 1.5
    scales: tuple[float, ...] = (0.01, 0.1, 1.0, 3.0)
    factors: tuple[float, ...] = (0.1, 1 / HALF, HALF, 10.0)
    marks: tuple[int, ...] = (0, 10, 30, 100, 300, 1000, 3000)
    truths: int = 10
    starts: int = 8
    seed: int = 0
    tuning_seed: int = 100
    tuning_truths: int = 2

    def configuration(self) -> dict:
        """Everything that the numbers depend on."""
        return asdict(self) | {"arms": ARMS, "optimisers": OPTIMISERS, "activations": ACTIVATIONS}

    def settings(self) -> list[Setting]:
        """All settings."""
        return list(product(ACTIVATIONS, ARMS, OPTIMISERS))

    def cells(self, rates: dict[Setting, float]) -> list[Cell]:
        """All cells of the study at these rates."""
        ways = [(scale, 1.0) for scale in self.scales] + [(1.0, factor) for factor in self.factors]
        return [
            Cell(*setting, scale, factor, rates[setting] * factor, truth)
            for setting, (scale, factor), truth in product(rates, ways, range(self.truths))
        ]

    def rows_of(self, cell: Cell) -> int:
        """Rows of a cell."""
        return self.starts * (len(self.marks) if cell.factor == 1 else 2)


FULL = Training()
QUICK = replace(FULL, truths=2, starts=3, marks=(0, 10, 30, 100, 300), tuning_truths=1, scales=(0.1, 1.0))

_COUNT, _POSITIVE = Column("integer", 0), Column("number", 0)
_LOSS = Column("number", also=("inf",))
SETTING = {"activation": Column(words=ACTIVATIONS), "arm": Column(words=ARMS), "optimiser": Column(words=OPTIMISERS)}
ROWS = SETTING | {
    "scale": _POSITIVE,
    "factor": _POSITIVE,
    "rate": _POSITIVE,
    "truth": _COUNT,
    "start": _COUNT,
    "step": _COUNT,
    "excess": _LOSS,  # (SSE - SSE of least squares) / nu^2; inf once a run is lost
    "at_truth": Column("number"),  # the same at the true prompts
    "peak": Column("number", 1, also=("inf",)),  # largest loss so far over that at the start
    "gating_error": Column("number", 0, also=("", "inf")),
    "prompt_error": Column("number", 0, also=("inf",)),
    "polished": Column("number", also=("", "inf")),  # in the last row: the excess of the local minimum below it
}
KEY = ("activation", "arm", "optimiser", "scale", "factor", "truth", "start", "step")
RATES = SETTING | {"rate": _POSITIVE, "score": _POSITIVE, "lost": Column("number", 0, 1), "runs": Column("integer", 1)}
QUANTITIES = ("reached", "robust", "smooth", "global")
VERDICTS = ("holds", "does not hold", "not resolved")
CLAIMS = {
    "activation": Column(words=ACTIVATIONS),
    "optimiser": Column(words=OPTIMISERS),
    "against": Column(words=("random_init", "random_gate")),
    "quantity": Column(words=QUANTITIES),
    "zero_init": Column("number", 0, 1),
    "other": Column("number", 0, 1),
    "difference": Column("number", -1, 1),
    "low": Column("number"),
    "high": Column("number"),
    "verdict": Column(words=VERDICTS),
}
