"""Data in chunks of rows: given as arrays or by an iterable, read once or at every pass, or drawn anew each time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from common.streams import counted
from theory.arrays import real
from theory.model import MoERegression, Prompts

CHUNK = 16_384  # rows at a time of data given as arrays, or drawn


def chunks(data) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chunks of (x, y), from a pair of arrays or from an iterable of pairs of chunks.

    Raises
    ------
    TypeError
        If data are neither, such as an array alone.
    ValueError
        If x and y differ in length.
    """
    pairs = "a pair (x, y) of arrays or an iterable of such pairs of chunks"
    if hasattr(data, "__array__") or isinstance(data, str | bytes | dict) or not isinstance(data, Iterable):
        raise TypeError(f"data must be {pairs}; got one object of class {type(data).__name__}")
    if isinstance(data, tuple | list) and len(data) == 2 and not any(isinstance(part, tuple) for part in data):
        x, y = (real(name, part) for name, part in zip("xy", data, strict=True))
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise ValueError(f"x and y must have the same number of rows; got x {x.shape} and y {y.shape}")
        parts = max(1, len(x) // CHUNK)
        yield from zip(np.array_split(x, parts), np.array_split(y, parts), strict=True)
        return
    for number, pair in enumerate(data):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"data must be {pairs}; chunk {number} is of class {type(pair).__name__}")
        yield pair[0], pair[1]


@dataclass(frozen=True)
class Again:
    """The `chunks` of data that can be read more than once.

    Raises
    ------
    TypeError
        If they cannot, such as those of a generator.
    """

    data: object

    def __post_init__(self) -> None:
        if isinstance(self.data, Iterator):
            raise TypeError(
                "data that are not kept must be arrays, or an iterable that can be read again; "
                f"got an object of class {type(self.data).__name__}"
            )

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return chunks(self.data)


@dataclass(frozen=True)
class Drawn:
    """Rows of a model with true prompts as `MoERegression.sample` draws them, the same ones whenever they are read.

    Nothing is kept: each chunk has a generator of its own, so any of them can be drawn at any time.

    Attributes
    ----------
    model : MoERegression
    prompts : Prompts
    noise : float
    n : int
        Number of rows.
    seed : int
    key : tuple of str or int
        What the rows are for, see `common.streams`.
    """

    model: MoERegression
    prompts: Prompts
    noise: float
    n: int
    seed: int
    key: tuple[str | int, ...]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = counted(self.seed, *self.key)
        for number, start in enumerate(range(0, self.n, CHUNK)):
            rows = min(CHUNK, self.n - start)
            yield from self.model.sample(self.prompts, self.noise, rows, generator(number), CHUNK)
