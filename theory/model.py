"""The regression model of the paper: frozen pre-trained experts plus a mixture of prompt experts.

    Y = f(X) + eps,   eps ~ N(0, nu^2 I),   X in R^d,   Y in R^d'
    f0(X) = sum_j softmax_j(X' A_j X + a_j) eta_j X                                  pre-trained, N experts

`zero_init` (equations (11), (12)): prompts have a softmax of their own, scaled by the gating factor,

    f(X) = f0(X) + tanh(alpha) sum_j softmax_j((B q_j)' X + b_j) C q_j,              q_j = sigma(p_j)

`joint` (random-initialised, "vanilla" attention): pre-trained and prompt experts share one softmax; no alpha.
The `_unshared` gates score with a key prompt p_j and answer with a value prompt p_value_j.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from theory.activations import MLP, Activation, activation
from theory.arrays import count, instance, number, real

GATES = ("zero_init", "joint", "joint_unshared", "zero_init_unshared")


@dataclass(frozen=True)
class Prompts:
    """L prompts: the parameters that the model estimates.

    Attributes
    ----------
    p : ndarray, (L, m)
        Prompt parameters; for the unshared gates the keys.
    b : ndarray, (L,)
        Biases. Weights of the mixing measure: softmax(b) with a gate alpha, exp(b) without.
    alpha : float or None
        Gating factor, seen through tanh(alpha). None for the joint gates.
    p_value : ndarray, (L, m), or None
        Value prompts, for the unshared gates only.

    Raises
    ------
    TypeError
        If an array is masked or holds anything but real numbers.
    ValueError
        If shapes disagree.
    """

    p: np.ndarray
    b: np.ndarray
    alpha: float | None = None
    p_value: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", np.atleast_2d(real("p", self.p)))
        object.__setattr__(self, "b", np.atleast_1d(real("b", self.b)))
        if self.alpha is not None:
            alpha = real("alpha", self.alpha)
            if alpha.size != 1:
                raise ValueError(f"alpha must be one number; got shape {alpha.shape}")
            object.__setattr__(self, "alpha", alpha.item())
        if self.p_value is not None:
            object.__setattr__(self, "p_value", np.atleast_2d(real("p_value", self.p_value)))
            if self.p_value.shape != self.p.shape:
                raise ValueError(f"p_value must have the shape of p; got {self.p_value.shape} and {self.p.shape}")
        if self.p.ndim != 2 or not self.p.size or self.b.shape != (len(self.p),):
            raise ValueError(f"p must be (L, m) and b (L,), with L, m >= 1; got p {self.p.shape} and b {self.b.shape}")

    def __len__(self) -> int:
        return len(self.p)

    @property
    def weights(self) -> np.ndarray:
        """Weights of the mixing measure, (L,): softmax(b), or exp(b) when there is no gating factor.

        With a softmax of its own a common shift of b changes nothing, so only normalised weights mean something; a
        joint softmax compares exp(b) with the pre-trained experts, so its level counts.
        """
        return np.exp(self.b) if self.alpha is None else softmax(self.b)

    @property
    def atoms(self) -> np.ndarray:
        """Places of the mixing measure: p, or the pair (p, p_value) side by side; (L, m) or (L, 2 m)."""
        return self.p if self.p_value is None else np.hstack([self.p, self.p_value])

    def take(self, index: np.ndarray) -> "Prompts":
        """The prompts at these positions, in this order; repetitions allowed."""
        value = None if self.p_value is None else self.p_value[index]
        return Prompts(self.p[index], self.b[index], self.alpha, value)


class MoERegression:
    """The regression function f, with everything but the prompts fixed.

    Parameters
    ----------
    A : array, (N, d, d)
        Quadratic forms of the pre-trained scores.
    a : array, (N,)
        Pre-trained biases.
    eta : array, (N, d', d)
        Pre-trained experts, h(X, eta_j) = eta_j X.
    B : array, (d, m)
        Prompt keys are B q_j.
    C : array, (d', m)
        Prompt experts are C q_j. B and C may have any rank: `theory.identifiability` says what is lost.
    activation : str, Activation or MLP
        sigma, by name or as an object.
    gate : {'zero_init', 'joint', 'joint_unshared', 'zero_init_unshared'}

    Raises
    ------
    TypeError
        If an array is masked or holds anything but real numbers, or the activation is of another class.
    ValueError
        If a shape disagrees with the others, a number is not finite, or a name is unknown.
    """

    def __init__(self, A, a, eta, B, C, activation: str | Activation | MLP = "identity", gate: str = "zero_init"):
        given = {"A": A, "a": a, "eta": eta, "B": B, "C": C}
        self.A, self.a, self.eta, self.B, self.C = (real(name, array).copy() for name, array in given.items())
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}; got {gate!r}")
        if not all(array.size for array in (self.A, self.a, self.eta, self.B, self.C)):
            raise ValueError("A, a, eta, B and C must not be empty")
        if self.B.ndim != 2 or self.C.ndim != 2 or self.B.shape[1] != self.C.shape[1]:
            raise ValueError(f"B must be (d, m) and C (d', m) with one m; got B {self.B.shape} and C {self.C.shape}")
        (d, self.m), self.d_out, N = self.B.shape, self.C.shape[0], self.a.size
        for name, shape in {"A": (N, d, d), "a": (N,), "eta": (N, self.d_out, d)}.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, as B and C say; got {getattr(self, name).shape}")
        for name in ("A", "a", "eta", "B", "C"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite")
        self.d, self.gate = d, gate
        self.activation = _activation(activation, self.m) if isinstance(activation, str) else activation
        if not isinstance(self.activation, Activation | MLP):
            raise TypeError(f"activation must be a name, an Activation or an MLP; got {type(activation).__name__}")

    @property
    def joint(self) -> bool:
        """One softmax over pre-trained and prompt experts; no gating factor."""
        return self.gate.startswith("joint")

    @property
    def unshared(self) -> bool:
        """Separate key and value prompts."""
        return self.gate.endswith("unshared")

    def with_gate(self, gate: str) -> "MoERegression":
        """The same pre-trained part under another gate."""
        return MoERegression(self.A, self.a, self.eta, self.B, self.C, self.activation, gate)

    def check_prompts(self, prompts: Prompts, name: str = "prompts") -> None:
        """Raise ValueError unless the prompts have the parameters of this gate, all finite; TypeError if no Prompts."""
        instance(name, prompts, Prompts)
        if prompts.p.shape[1] != self.m:
            raise ValueError(f"p of {name} must be (L, {self.m}), as B says; got {prompts.p.shape}")
        if (prompts.p_value is not None) != self.unshared:
            raise ValueError(f"gate {self.gate} {'needs' if self.unshared else 'has no'} p_value; {name} differ")
        if (prompts.alpha is None) != self.joint:
            raise ValueError(f"gate {self.gate} {'has no' if self.joint else 'needs'} alpha; {name} differ")
        for part, array in vars(prompts).items():
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"{part} of {name} must be finite, but it has NaN or infinite values")

    def check_data(self, x: np.ndarray, y: np.ndarray | None = None) -> None:
        """Raise ValueError, naming the array, unless x is (n, d), y is (n, d') and both are finite."""
        shapes = f"x {np.shape(x)}" + ("" if y is None else f" and y {np.shape(y)}")
        if np.ndim(x) != 2 or np.shape(x)[1] != self.d:
            raise ValueError(f"x must be (n, {self.d}); got {shapes}")
        if y is not None and np.shape(y) != (len(x), self.d_out):
            raise ValueError(f"y must be (n, {self.d_out}) with the n of x; got {shapes}")
        for name, array in (("x", x), ("y", y)):
            if array is not None and not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite, but it has NaN or infinite values; got {shapes}")

    def pretrained(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f0(x), (n, d'), and the log of its softmax normaliser, (n,).

        Raises
        ------
        ValueError
            If x is so large that X'AX overflows.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            f0, level = self._pretrained(x)
        if not (np.isfinite(f0).all() and np.isfinite(level).all()):
            raise ValueError(f"x is too large: the pre-trained f0(x) overflows at |x| up to {np.abs(x).max():.3g}")
        return f0, level

    def _pretrained(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        columns = np.ascontiguousarray(x.T)  # long rows: every operation below runs over contiguous numbers
        scores = np.stack([np.einsum("in,in->n", A.T @ columns, columns) for A in self.A]) + self.a[:, None]
        top = scores.max(0)
        weights = np.exp(scores - top)
        total = weights.sum(0)
        f0 = np.zeros((self.d_out, len(x)))
        for weight, eta in zip(weights / total, self.eta, strict=True):
            f0 += weight * (eta @ columns)
        return f0.T, top + np.log(total)

    def keys_and_values(self, prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
        """Keys q^K and values q^V after sigma, both (L, m); the same array for the shared gates."""
        key = self.activation(prompts.p)
        return key, key if prompts.p_value is None else self.activation(prompts.p_value)

    def __call__(self, x: np.ndarray, prompts: Prompts) -> np.ndarray:
        """f(x), (n, d) -> (n, d').

        Raises
        ------
        TypeError, ValueError
            If x or the prompts do not fit this model, are not finite, or are so large that f overflows.
        """
        x = real("x", x)
        self.check_data(x)
        self.check_prompts(prompts)
        f0, level = self.pretrained(x)
        with np.errstate(over="ignore", invalid="ignore"):
            f = self._with_prompts(x, prompts, f0, level)
        if not np.isfinite(f).all():
            raise ValueError(f"x and prompts are too large: f overflows at |x| up to {np.abs(x).max():.3g}")
        return f

    def _with_prompts(self, x, prompts: Prompts, f0: np.ndarray, level: np.ndarray) -> np.ndarray:
        key, value = self.keys_and_values(prompts)
        scores = x @ (self.B @ key.T) + prompts.b
        experts = value @ self.C.T
        if prompts.alpha is not None:
            return f0 + np.tanh(prompts.alpha) * (softmax(scores, 1) @ experts)
        weights = softmax(np.column_stack([level, scores]), 1)
        return weights[:, :1] * f0 + weights[:, 1:] @ experts

    def sample(self, prompts: Prompts, noise: float, n: int, rng: np.random.Generator, chunk: int = 1 << 14):
        """Yield (x, y) in chunks of rows: X ~ N(0, I_d), Y = f(X) + noise * N(0, I_d').

        Raises
        ------
        TypeError, ValueError
            If noise is not at least 0, or n or chunk not a whole number of at least 1.
        """
        noise, n, chunk = number("noise", noise, 0), count("n", n), count("chunk", chunk)
        for start in range(0, n, chunk):
            rows = min(chunk, n - start)
            x = rng.standard_normal((rows, self.d))
            yield x, self(x, prompts) + noise * rng.standard_normal((rows, self.d_out))


_activation = activation


def in_q(model: MoERegression, prompts: Prompts) -> tuple[MoERegression, Prompts]:
    """The same function with sigma = identity, and the prompts as q = sigma(p)."""
    key, value = model.keys_and_values(prompts)
    linear = MoERegression(model.A, model.a, model.eta, model.B, model.C, "identity", model.gate)
    return linear, Prompts(key, prompts.b, prompts.alpha, value if model.unshared else None)


def canonical(model: MoERegression, prompts: Prompts) -> Prompts:
    """The prompts with everything that the model cannot see taken out.

    Biases are centred where the gate has a softmax of its own. For `zero_init_unshared`, key shift and value scale are
    unseen as well: keys become sigma(p) minus their weighted mean, values become tanh(alpha) sigma(p_value), and alpha
    is left as a mark only (1.0). Losses of that gate are taken between canonical prompts.
    """
    if model.joint:
        return prompts
    if not model.unshared or prompts.alpha is None:
        return replace(prompts, b=prompts.b - prompts.b.mean())
    key, value = model.keys_and_values(prompts)
    b = prompts.b - prompts.b.mean()
    return Prompts(key - prompts.weights @ key, b, 1.0, np.tanh(prompts.alpha) * value)
