"""sigma, the map from prompt parameters to prompts: q = sigma(p), with its derivative.

Linear prompts are sigma = identity (Theorem 4.2). Theorem 4.4 asks for an elementwise, injective sigma whose first
and second derivatives are uniformly Lipschitz; each activation says which of these hold for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erf, expit, logit


@dataclass(frozen=True)
class Activation:
    """An activation acting on each coordinate of a prompt.

    Attributes
    ----------
    name : str
    function, slope : callable
        sigma and sigma' on arrays of any shape.
    inverse : callable or None
        sigma^-1 on the range of sigma; None where sigma is not one-to-one on the real line.
    smooth : bool
        Whether sigma is twice differentiable with Lipschitz derivatives, as Theorem 4.4 asks.
    """

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray] | None
    smooth: bool = True

    @property
    def injective(self) -> bool:
        """Whether sigma is one-to-one on the real line, as Theorem 4.4 asks."""
        return self.inverse is not None

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """sigma(p), shape of p."""
        return self.function(np.asarray(p, float))

    def jacobian(self, p: np.ndarray) -> np.ndarray:
        """d sigma_i / d p_k for each prompt: (L, m) -> (L, m, m)."""
        return self.slope(p)[..., None] * np.eye(p.shape[-1])


@dataclass(frozen=True)
class MLP:
    """A fixed two-layer network, sigma(p) = W2 tanh(W1 p + c), acting on the whole prompt.

    Both matrices are invertible, so sigma is injective and smooth like the elementwise functions of Theorem 4.4. The
    theorem itself covers elementwise sigma only: this is the network of the trained method, brought under its
    other conditions.
    """

    W1: np.ndarray
    W2: np.ndarray
    c: np.ndarray
    name: str = "mlp"
    inverse: None = None  # one-to-one, but not in each coordinate
    injective: bool = True
    smooth: bool = True

    @classmethod
    def fixed(cls, m: int) -> "MLP":
        """The network used by the studies for prompts of length m: random orthogonal matrices of a fixed seed.

        W1 has gain 1/2, so that prompts of size about 1 stay out of saturation; W2 has gain 2, so that sigma has slope
        of about 1.
        """
        rng = np.random.default_rng(2502_03029)
        orthogonal = [np.linalg.qr(rng.standard_normal((m, m)))[0] for _ in range(2)]
        return cls(0.5 * orthogonal[0], 2.0 * orthogonal[1], 0.2 * rng.standard_normal(m))

    def __call__(self, p: np.ndarray) -> np.ndarray:
        """sigma(p), (L, m) -> (L, m)."""
        return np.tanh(p @ self.W1.T + self.c) @ self.W2.T

    def jacobian(self, p: np.ndarray) -> np.ndarray:
        """d sigma_i / d p_k, (L, m) -> (L, m, m)."""
        hidden = np.tanh(p @ self.W1.T + self.c)
        return np.einsum("ih,lh,hk->lik", self.W2, 1 - hidden**2, self.W1)


def _normal_density(p: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * p * p) / np.sqrt(2 * np.pi)


ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("identity", lambda p: p, np.ones_like, lambda q: q),
        Activation("tanh", np.tanh, lambda p: 1 - np.tanh(p) ** 2, np.arctanh),
        Activation("sigmoid", expit, lambda p: expit(p) * expit(-p), logit),
        # Falls, then rises: one-to-one only above its minimum at -0.7518.
        Activation(
            "gelu",
            lambda p: 0.5 * p * (1 + erf(p / np.sqrt(2))),
            lambda p: 0.5 * (1 + erf(p / np.sqrt(2))) + p * _normal_density(p),
            None,
        ),
        Activation(
            "leaky_relu",
            lambda p: np.where(p > 0, p, 0.1 * p),
            lambda p: np.where(p > 0, 1.0, 0.1),
            lambda q: np.where(q > 0, q, 10 * q),
            smooth=False,
        ),
        # The published one. Flat below 0, where p is not seen; at 0 the slope from above.
        Activation("relu", lambda p: np.maximum(p, 0), lambda p: np.where(p >= 0, 1.0, 0.0), None, smooth=False),
        Activation("softplus", lambda p: np.logaddexp(0, p), expit, lambda q: q + np.log(-np.expm1(-q))),
    )
}


def activation(name: str, m: int) -> Activation | MLP:
    """The activation called `name`, for prompts of length m.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name == "mlp":
        return MLP.fixed(m)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join([*ACTIVATIONS, 'mlp'])}; got {name!r}")
    return ACTIVATIONS[name]
