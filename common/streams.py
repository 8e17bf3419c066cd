"""Random streams keyed by what they are for, so that order and number of workers cannot change a number."""

import zlib
from collections.abc import Callable

import numpy as np


def stream(seed: int, *key: str | int) -> np.random.Generator:
    """Independent generator for one piece of work.

    The stream is a function of ``(seed, *key)`` alone, for instance
    ``stream(0, "over-linear", n, replicate, "data")``. Words enter by their CRC-32,
    which, unlike ``hash``, is the same in every process.

    Parameters
    ----------
    seed : int
        Non-negative seed of the study.
    key : str or int
        What the stream is for; integers must be non-negative.

    Raises
    ------
    ValueError
        If one of them is something else.
    """
    return np.random.default_rng(_sequence(seed, key))


def counted(seed: int, *key: str | int) -> Callable[[int], np.random.Generator]:
    """The generator of each block of a piece of work, in any order: counter-based (Philox), 2^128 numbers each."""
    words = _sequence(seed, key).generate_state(2, np.uint64)
    return lambda block: np.random.Generator(np.random.Philox(key=words, counter=[0, 0, block, 0]))


def _sequence(seed: int, key: tuple[str | int, ...]) -> np.random.SeedSequence:
    for number in (seed, *(k for k in key if not isinstance(k, str))):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 0:
            raise ValueError(f"seeds and keys of a stream must be words, or integers of at least 0; got {number!r}")
    return np.random.SeedSequence([int(seed), *(zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in key)])
