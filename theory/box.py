"""The compact set of parameters in which least squares looks; nothing heavy is imported here."""

from dataclasses import dataclass

import numpy as np

from theory.arrays import number
from theory.coordinates import Layout


@dataclass(frozen=True)
class Box:
    """The compact parameter set Theta x Omega of equation (13).

    Attributes
    ----------
    prompt : float
        Bound on every |p| (and |p_value|) componentwise.
    bias : float
        Bound on |b - mean b|; for the joint gates, whose level of b is identified, on |b|.
    alpha : float
        Bound on |alpha|.

    Raises
    ------
    TypeError, ValueError
        If a bound is not a number above 0.
    """

    prompt: float = 4.0
    bias: float = 3.0
    alpha: float = 3.0

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            number(f"Box.{name}", bound, 0, strictly=True)

    def bounds(self, layout: Layout, sigma=None) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest parameter vector, (size,) each; of sigma(p) in place of p, for an increasing sigma."""
        lower, upper = np.full(layout.size, -self.prompt), np.full(layout.size, self.prompt)
        if sigma is not None:
            lower, upper = sigma(lower), sigma(upper)
        upper[layout.b] = self.bias
        if not layout.joint:
            upper[-1] = self.alpha
        for place in (layout.b, [] if layout.joint else [-1]):
            lower[place] = -upper[place]
        return lower, upper
