"""Starts for the fits: near the truth, the convention of this literature, or anywhere in the box."""

import numpy as np

from theory.arrays import count as whole
from theory.arrays import instance, number
from theory.box import Box
from theory.model import MoERegression, Prompts


def near(truth: Prompts, size: int, rng: np.random.Generator, jitter: float = 0.1) -> Prompts:
    """`size` prompts around the truth: each true prompt once, extra ones at random, and a little Gaussian noise.

    Prompts of one cell share the weight of the true one; p, p_value, b and alpha get N(0, jitter^2) on top.

    Raises
    ------
    TypeError, ValueError
        If `size` is not a whole number of at least that of true prompts, or `jitter` not a number of at least 0.
    """
    size, jitter = whole("size", size), number("jitter", jitter, 0)
    instance("truth", truth, Prompts)
    if size < len(truth):
        raise ValueError(f"a near start must have at least the {len(truth)} true prompts; got size {size}")
    cell = np.r_[np.arange(len(truth)), rng.integers(len(truth), size=size - len(truth))]
    seed = truth.take(cell)

    def shake(a):
        return a + jitter * rng.standard_normal(np.shape(a))

    return Prompts(
        shake(seed.p),
        shake(seed.b - np.log(np.bincount(cell)[cell])),
        None if seed.alpha is None else float(shake(seed.alpha)),
        None if seed.p_value is None else shake(seed.p_value),
    )


def anywhere(model: MoERegression, size: int, box: Box, rng: np.random.Generator, count: int) -> list[Prompts]:
    """`count` starts that know nothing of the truth: prompts and alpha uniform in the box, equal weights.

    Raises
    ------
    TypeError, ValueError
        If `size` or `count` is not a whole number of at least 1, or model or box is of another class.
    """
    instance("model", model, MoERegression)
    instance("box", box, Box)
    shape = (whole("size", size), model.m)
    return [
        Prompts(
            rng.uniform(-box.prompt, box.prompt, shape),
            np.zeros(size),
            None if model.joint else float(rng.uniform(-box.alpha, box.alpha)),
            rng.uniform(-box.prompt, box.prompt, shape) if model.unshared else None,
        )
        for _ in range(whole("count", count))
    ]
