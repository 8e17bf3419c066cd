"""One frozen configuration of a study: what is true, what is fitted, at which sizes, and what theory says of it."""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np

from common import seals
from theory import heads
from theory.arrays import real
from theory.box import Box
from theory.identifiability import Report, require
from theory.model import MoERegression, Prompts
from theory.theorems import THEORY, Rate
from theory.truths import MOVES, SPLITS, Setting, draw_model, draw_prompts

BOX = Box(prompt=4.0, bias=3.0, alpha=2.0)
STARTS = ("near", "global")
LEAST_NOISE, MOST_NOISE = 1e-9, 1e3


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
    sizes : tuple of int
        Sample sizes.
    replicates, large_replicates : int
        Replicates for each truth and size; from n = large_n on, large_replicates.
    quick_sizes, quick_replicates : int
        The quick twin: the first so many sizes and replicates, of the first truth.
    first_n : int
        Smallest n that enters the slopes.
    box : Box
    seed : int
    expect : tuple of str
        Identifiability conditions that this study is about, by the names of `theory.identifiability`.
    theory_of : str
        Key of `theory.theorems.THEORY`: what theory says of its quantities.
    fewer : int
        How many prompts fewer than the true ones are fitted.
    moving : str
        How the truth moves with n, a key of `theory.truths.MOVES`; empty if it does not.
    truths : int
        Number of truths, each with a model and prompts of its own; of a seed, truth 0 is the same for any number.
    large_n : int
        From here on there are large_replicates.
    head : str, optional
        The real head whose model every truth has, by the name of its model in `theory.heads`; d and d_out are its own.

    Raises
    ------
    ValueError
        If a number is out of its range, a word is unknown, or true prompts cannot be as far `apart` as that.
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
    large_replicates: int = 1600
    quick_sizes: int = 4
    quick_replicates: int = 40
    first_n: int = 316
    box: Box = BOX
    seed: int = 0
    expect: tuple[str, ...] = ()
    theory_of: str = "exact"
    fewer: int = 0
    moving: str = ""
    truths: int = 1
    large_n: int = 100_000
    head: str | None = None

    def __post_init__(self) -> None:
        least = {"d": 1, "d_out": 1, "L": 1, "extra": 0, "fewer": 0, "truths": 1, "replicates": 1, "seed": 0}
        for name, bound in (least | {"large_replicates": 1, "quick_sizes": 1, "quick_replicates": 1}).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < bound:
                raise ValueError(f"{name} must be a whole number of {bound} or more; got {value!r}")
        if self.fewer and (self.extra or self.fewer >= self.L):
            raise ValueError(
                f"fewer must leave a prompt, and stand without extra; got fewer {self.fewer} of {self.L}, "
                f"extra {self.extra}"
            )
        noise, spread, apart = (real(name, getattr(self, name)) for name in ("noise", "spread", "apart"))
        if noise.ndim or not LEAST_NOISE <= noise <= MOST_NOISE:  # also refuses nan
            raise ValueError(
                f"noise must lie between {LEAST_NOISE:g} and {MOST_NOISE:g}, so that neither y - f nor f is lost in "
                f"rounding; got {self.noise!r}"
            )
        for name, known in {"start": STARTS, "moving": MOVES, "theory_of": THEORY}.items():
            if getattr(self, name) not in list(known):
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {getattr(self, name)!r}")
        if (
            not isinstance(self.sizes, tuple)
            or not self.sizes
            or any(not isinstance(n, int) or n < 1 for n in self.sizes)
        ):
            raise ValueError(f"sizes must be whole numbers of 1 or more; got {self.sizes!r}")
        if any(m >= n for m, n in pairwise(self.sizes)):
            raise ValueError(f"sizes must increase; got {self.sizes}")
        finite = spread.shape == (2,) and apart.ndim == 0 and np.isfinite([*spread, apart]).all()
        if not finite or spread[0] >= spread[1] or apart < 0:
            raise ValueError(f"spread must increase and apart be 0 or more; got {self.spread!r} and {self.apart!r}")
        for number in range(0 if self.head else self.truths):  # a head's file is read when it is needed
            self.drawn(number)

    def drawn(self, number: int) -> tuple[MoERegression, Prompts]:
        """Model and true prompts of this number, before they move."""
        if self.head:
            model = heads.load(heads.path_of(self.head)).model(self.activation, self.gate)
            if (model.d, model.d_out) != (self.d, self.d_out):
                raise ValueError(
                    f"d and d_out of head {self.head} are {model.d}, {model.d_out}; got {self.d}, {self.d_out}"
                )
        else:
            model = draw_model(self.d, self.d_out, self.activation, self.gate, self.seed, number)
        return model, draw_prompts(model, self.L, self.spread, self.apart, self.seed, number)

    def setting(self, number: int = 0) -> Setting:
        """Model and truth of this number."""
        return _setting(self, number)

    @property
    def model(self) -> MoERegression:
        """Model of the first truth."""
        return self.setting().model

    @property
    def truth(self) -> Prompts:
        """The first truth, at the first n if it moves."""
        return self.setting().at(self.sizes[0])

    @property
    def fitted(self) -> int:
        """L', the number of fitted prompts."""
        return self.L + (self.moving in SPLITS) + self.extra - self.fewer

    @property
    def theory(self) -> dict[str, Rate]:
        """Theory slope of each quantity that has one, and its kind."""
        return THEORY[self.theory_of]

    def tasks(self) -> list[tuple[int, int, int]]:
        """All (n, replicate, truth) of the study."""
        return [
            (n, r, k)
            for n in self.sizes
            for r in range(self.replicates if n < self.large_n else self.large_replicates)
            for k in range(self.truths)
        ]

    def quick(self) -> "Study":
        """The quick twin."""
        count = min(self.replicates, self.quick_replicates)
        sizes = self.sizes[: self.quick_sizes]
        return replace(self, sizes=sizes, replicates=count, large_replicates=count, truths=1)

    def identify(self) -> list[Report]:
        """Raise IdentifiabilityError if a truth breaks a condition that this study is not about."""
        settings = [self.setting(k) for k in range(self.truths)]
        return [require(s.model, s.whole, self.extra, self.box.prompt, self.expect) for s in settings]

    def chosen(self) -> dict:
        """Every field."""
        return asdict(self) | {"sizes": list(self.sizes)}

    def configuration(self) -> dict:
        """Everything that its numbers depend on, the first truth included."""
        truth = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self.truth).items()}
        head = {"head_sha256": seals.digest(heads.path_of(self.head))} if self.head else {}
        return self.chosen() | {"truth": truth} | head


@lru_cache(maxsize=256)
def _setting(study: Study, number: int) -> Setting:
    model, whole = study.drawn(number)
    at = MOVES[study.moving](model, whole, study.noise)
    if not study.fewer:
        return Setting(model, whole, at, at)
    from theory.misspecified import projection  # here and not above: it fits, and figures do not

    best = projection(model, whole, study.fitted, study.box)
    return Setting(model, whole, at, lambda n: best)
