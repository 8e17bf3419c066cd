"""The studies: frozen configurations, one for each claim of the theorems, fixed before anything was run.

Every configuration names the truth, noise, sizes, first n of the slope, box and seed. Its quick twin is the first sizes
and replicates of the same study, so a quick run computes rows that the committed full run has as well.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np

from common.streams import stream
from theory.identifiability import Report, require
from theory.model import MoERegression, Prompts
from theory.problem import Box

SQUARE_ROOT = {"function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error"}
THEOREM = dict.fromkeys(SQUARE_ROOT, -0.5) | {"over_prompt_error": -0.25}
THEORY = {
    "zero_init": THEOREM,  # Theorems 4.2 and 4.4
    # Shared prompts in one softmax: the same rates by the same group's work on prefix tuning, cited by the paper.
    "joint": {name: rate for name, rate in THEOREM.items() if name != "gating_error"},
    # Separate key and value prompts: slower than any power of n (cited by the paper as O(1 / log^tau n)).
    "joint_unshared": {"function_error": -0.5, "voronoi": 0.0, "over_prompt_error": 0.0},
    "zero_init_unshared": {"function_error": -0.5},
}
BOX = Box(prompt=4.0, bias=3.0, alpha=2.0)
QUANTITIES = ("function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error", "over_prompt_error")


def decades(first: float, last: float) -> tuple[int, ...]:
    """Sizes two a decade from 10^first to 10^last."""
    return tuple(round(10**e) for e in np.arange(first, last + 0.25, 0.5))


@dataclass(frozen=True)
class Study:
    """One frozen configuration.

    Attributes
    ----------
    name, about : str
    gate, activation : str
    d, d_out, L, extra : int
        Input and output dimension, true prompts, and how many more are fitted.
    spread : tuple of float
        True prompts are uniform between these, at least `apart` from each other.
    start : {'near', 'global'}
    noise : float
        nu, standard deviation of the noise.
    sizes, replicates, large_replicates : int
        Sample sizes; replicates up to n = 1e5, and beyond.
    quick_sizes, quick_replicates : int
        The quick twin: the first so many sizes and replicates.
    first_n : int
        Smallest n that enters the slopes.
    box : Box
    seed : int
    expect : tuple of str
        Identifiability conditions that this study is about, by the names of `theory.identifiability`.
    """

    name: str
    about: str
    gate: str = "zero_init"
    activation: str = "identity"
    d: int = 2
    d_out: int = 2
    L: int = 3
    extra: int = 0
    spread: tuple[float, float] = (-2.0, 2.0)
    apart: float = 1.5
    start: str = "near"
    noise: float = 0.1
    sizes: tuple[int, ...] = decades(2.5, 5.5)
    replicates: int = 400
    large_replicates: int = 400
    quick_sizes: int = 4
    quick_replicates: int = 40
    first_n: int = 316
    box: Box = BOX
    seed: int = 0
    expect: tuple[str, ...] = ()

    @cached_property
    def model(self) -> MoERegression:
        """Pre-trained part: two experts of random weights; B and C with orthonormal columns.

        Keyed by dimensions and seed, not by name: studies of equal dimensions share it, whatever their gate.
        """
        rng = stream(self.seed, "model", self.d, self.d_out)
        d, d_out, N = self.d, self.d_out, 2
        return MoERegression(
            A=0.3 * rng.standard_normal((N, d, d)),
            a=0.3 * rng.standard_normal(N),
            eta=rng.standard_normal((N, d_out, d)),
            B=np.linalg.qr(rng.standard_normal((d, d)))[0],
            C=np.linalg.qr(rng.standard_normal((d_out, d)))[0],
            activation=self.activation,
            gate=self.gate,
        )

    @cached_property
    def truth(self) -> Prompts:
        """True prompts, keyed like the model; alpha* = 0.8 where there is a gate."""
        rng = stream(self.seed, "truth", self.d, self.L)
        while True:
            unit = rng.uniform(size=(2, self.L, self.d))
            p, value = self.spread[0] + (self.spread[1] - self.spread[0]) * unit
            distance = np.linalg.norm(p[:, None] - p, axis=-1)[np.triu_indices(self.L, 1)]
            if distance.min() >= self.apart:
                break
        b = 0.3 * rng.standard_normal(self.L)
        gated = not self.model.joint
        return Prompts(p, b - b.mean(), 0.8 if gated else None, value if self.model.unshared else None)

    @property
    def fitted(self) -> int:
        """L', the number of fitted prompts."""
        return self.L + self.extra

    @property
    def theory(self) -> dict[str, float]:
        """Theory slope of each quantity that has one."""
        return THEORY[self.gate]

    def tasks(self) -> list[tuple[int, int]]:
        """All (n, replicate) of the study."""
        return [(n, r) for n in self.sizes for r in range(self.replicates if n <= 100_000 else self.large_replicates)]

    def quick(self) -> "Study":
        """The quick twin."""
        count = min(self.replicates, self.quick_replicates)
        return replace(self, sizes=self.sizes[: self.quick_sizes], replicates=count, large_replicates=count)

    def identify(self) -> Report:
        """Raise IdentifiabilityError if the truth breaks a condition that this study is not about."""
        return require(self.model, self.truth, self.extra, self.box.prompt, self.expect)

    def configuration(self) -> dict:
        """Everything that its numbers depend on, truth included."""
        truth = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.truth).items()}
        return asdict(self) | {"sizes": list(self.sizes), "truth": truth}


def _over(**kwargs) -> Study:
    defaults = {
        "sizes": decades(2, 5),
        "first_n": 100,
        "extra": 1,
        "replicates": 100,
        "large_replicates": 40,
        "quick_replicates": 20,
    }
    return Study(**defaults | kwargs)


STUDIES: dict[str, Study] = {
    s.name: s
    for s in (
        Study("exact-linear", "Theorem 4.2's rates with as many fitted prompts as true ones", d=4, d_out=4),
        Study(
            "exact-tanh",
            "Theorem 4.4's rates, sigma = tanh, output longer than input",
            activation="tanh",
            d=4,
            d_out=8,
            spread=(-1.3, 1.3),
        ),
        Study(
            "exact-gelu",
            "Theorem 4.4's rates, sigma = GELU where it is one-to-one",
            activation="gelu",
            spread=(0.1, 2.3),
            apart=1.0,
            sizes=decades(2, 5),
            first_n=100,
            expect=("injective sigma",),
        ),
        Study(
            "exact-mlp",
            "sigma = a fixed two-layer network, outside Theorem 4.4 only by not being elementwise",
            activation="mlp",
            d=8,
            d_out=8,
            L=2,
            spread=(-1.3, 1.3),
            sizes=decades(2, 5),
            first_n=100,
        ),
        Study(
            "exact-linear-global",
            "exact-linear from starts that know nothing of the truth",
            d=4,
            d_out=4,
            start="global",
            sizes=decades(2, 5),
            first_n=100,
        ),
        _over(
            name="over-linear",
            about="Theorem 4.2: one prompt more than the truth has",
            sizes=decades(3, 6),
            first_n=1000,
        ),
        _over(
            name="over-tanh",
            about="Theorem 4.4: one prompt more, sigma = tanh",
            activation="tanh",
            spread=(-1.3, 1.3),
            sizes=decades(3, 6),
            first_n=1000,
        ),
        _over(name="over-joint", about="vanilla attention: one softmax, shared prompts", gate="joint"),
        _over(
            name="over-joint-unshared",
            about="vanilla attention: one softmax, separate key and value prompts",
            gate="joint_unshared",
            expect=("value trade",),
        ),
        _over(
            name="over-zero-init-unshared",
            about="control: a softmax of their own, separate key and value prompts",
            gate="zero_init_unshared",
            expect=("value trade",),
        ),
        _over(name="over-linear-two", about="Theorem 4.2: two prompts more than the truth has", extra=2),
    )
}
