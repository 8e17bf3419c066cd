"""Random streams keyed by what they are for, so that order and number of workers cannot change a number."""

import zlib

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
    for number in (seed, *(k for k in key if not isinstance(k, str))):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 0:
            raise ValueError(f"seeds and keys of a stream must be words, or integers of at least 0; got {number!r}")
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in key]
    return np.random.default_rng(np.random.SeedSequence([int(seed), *words]))
