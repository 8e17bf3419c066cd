"""Values that are wrong by their kind, and how an entry makes its cases of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fuzz.judge import Case

Random = np.random.Generator

NO_NUMBER = ("x", None, math.nan, math.inf, -math.inf, [1.0, 2.0], 1j, {}, "1", b"1")
NO_COUNT = (-1, 2.5, math.nan, "3", [2], {}, 1j, -(10**30))
NO_TEXT = (None, 3, 2.5, ["a"], {}, b"a")
NO_OBJECT = (None, 3, "x", [1], {}, math.nan)
NO_NAME = ("", "none of these", 3, None, math.nan, "Linear ", ["linear"])


def not_array(rng: Random, array: np.ndarray) -> Any:
    """An array spoilt: of another type, another shape, or with a number that is none."""
    array = np.array(array, float)
    spoilt = array.copy()
    if spoilt.size:
        spoilt.flat[rng.integers(spoilt.size)] = pick(rng, (math.nan, math.inf, -math.inf))
    ways = [
        lambda: spoilt,
        lambda: array + 1j,
        lambda: np.ma.masked_array(array, np.ones(array.shape, bool)),
        lambda: array.astype(str),
        lambda: array[..., :0],
        lambda: np.concatenate([array, array[..., :1]], -1) if array.ndim else np.array([array, array]),
        lambda: array[None, None, None],
        lambda: [[1.0, 2.0], [3.0]],
        lambda: array.astype(object),
        lambda: {"a": 1},
    ]
    return pick(rng, ways)()


def pick(rng: Random, values: Sequence[Any]) -> Any:
    """One of these."""
    return values[int(rng.integers(len(values)))]


@dataclass(frozen=True)
class Entry:
    """A function, what it may be given, and what it may not.

    Attributes
    ----------
    name : str
    call : callable
        Keywords to a result.
    valid : callable
        rng -> keywords that must be taken.
    wrong : mapping
        Keyword -> values that must be refused there, or (rng, keywords) -> such a value.
    check : callable
        (keywords, result) -> what is wrong with it, or None.
    share : float
        Of the cases, those that are valid.
    weight : float
        How many cases, compared with other entries.
    """

    name: str
    call: Callable[..., Any]
    valid: Callable[[Random], dict[str, Any]]
    wrong: Mapping[str, Any]
    check: Callable[[dict[str, Any], Any], str | None] = lambda given, result: None
    share: float = 0.3
    weight: float = 1.0

    def case(self, rng: Random) -> Case:
        """A case drawn at random."""
        given = self.valid(rng)
        if not self.wrong or rng.random() < self.share:
            words = f"valid {_short(given)}"
            return Case(words, lambda: self.call(**given), "right", lambda result: self.check(given, result))
        name = pick(rng, list(self.wrong))
        values = self.wrong[name]
        value = values(rng, given) if callable(values) else pick(rng, values)
        return Case(f"{name}={_short(value)}", lambda: self.call(**given | {name: value}), "refused")


def _short(value: Any) -> str:
    try:
        return " ".join(repr(value).split())[:160]
    except (ValueError, RecursionError):
        return type(value).__name__
