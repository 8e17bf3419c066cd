"""The cases of `theory.probe`: a truth, its loss, and prompts with the same f where a condition is broken."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from theory.cases import RELU
from theory.merging import double
from theory.model import MoERegression, Prompts
from theory.tables import PROBE_CASES, PROBE_GATES
from theory.truths import draw_model, draw_prompts, halves
from theory.voronoi import voronoi_loss

SEED = 12
Way = Callable[[float], Prompts]


@dataclass(frozen=True)
class Problem:
    """A model, its true prompts, and how many prompts more are fitted.

    Attributes
    ----------
    model : MoERegression
    truth : Prompts
    extra : int
        L' - L: 0 or 1.
    raw : bool
        Whether the loss compares exp(b) as the paper writes it, without the gauge of the biases.
    pair : tuple of int, or None
        Two true prompts that are halves of one.
    witness : callable or None
        c -> prompts with the f of the truth, as far from it as c says.
    """

    model: MoERegression
    truth: Prompts
    extra: int = 0
    raw: bool = False
    pair: tuple[int, int] | None = None
    witness: Way | None = None

    def loss(self, fitted: Prompts) -> float:
        """D + |alpha - alpha*|; D alone for the joint gates."""
        found = voronoi_loss(fitted, self.truth)
        if self.raw:
            found = replace(
                voronoi_loss(replace(fitted, alpha=None), replace(self.truth, alpha=None)), gating=found.gating
            )
        return found.total + (0.0 if np.isnan(found.gating) else found.gating)


def problem(case: str, gate: str, eps: float) -> Problem:
    """The problem of a case; the truth of `moving` depends on eps: two halves at distance eps^(1/4)."""
    if case not in PROBE_CASES or gate not in PROBE_GATES:
        raise ValueError(f"case and gate must be of {', '.join((*PROBE_CASES, *PROBE_GATES))}; got {case!r}, {gate!r}")
    relu = case.startswith("relu")
    model = draw_model(2, 2, "tanh" if case.endswith("tanh") else "identity", gate, SEED, 0)
    if relu or case == "rank-c":
        C = model.C * [1.0, 0.0] if case == "rank-c" else model.C
        model = MoERegression(model.A, model.a, model.eta, model.B, C, RELU if relu else "identity", gate)
    L = {"single-prompt": 1, "doubled": 2}.get(case, 3)
    truth = draw_prompts(model, L, (0.6, 2.0) if relu else (-1.3, 1.3), 0.6, SEED, 0)
    if case == "relu-inactive":
        p = truth.p.copy()
        p[0, 0] = -0.6
        truth = replace(truth, p=p)
    if case == "gate-zero" and truth.alpha is not None:
        truth = replace(truth, alpha=0.0)
    if case == "moving":
        truth = halves(truth, 0, 0.5 * eps**0.25 * np.eye(2)[0])
    extra = int(case.startswith("over") or case == "doubled")
    pair = (0, L) if case == "moving" else None
    return Problem(model, truth, extra, case == "no-gauge", pair, witness(case, model, truth))


def witness(case: str, model: MoERegression, truth: Prompts) -> Way | None:
    """Prompts at every distance from the truth that have its f, for the broken conditions; None where none is known."""
    first, second = np.eye(2)
    if case == "no-gauge" and not model.joint:
        return lambda c: replace(truth, b=truth.b + c)
    if case == "single-prompt" and not model.joint:
        return lambda c: replace(truth, p=truth.p * (1 + c), alpha=np.arctanh(np.tanh(truth.alpha or 0.0) / (1 + c)))
    if case == "gate-zero" and not model.joint:
        return lambda c: replace(truth, p=truth.p + c)
    if case == "rank-c" and truth.p_value is not None:
        value = truth.p_value
        return lambda c: replace(truth, p_value=value + c * second)
    if case == "rank-c" and not model.joint:
        return lambda c: replace(truth, p=truth.p + c * second)
    if case == "relu-inactive":
        side = np.eye(len(truth))[:, :1] * first
        return lambda c: replace(truth, p=truth.p - c * side)
    if case.startswith("over") or case == "doubled":
        twice = double(truth, 0)
        if twice.p_value is not None:  # two keys in one place: values on both sides of the true one, in sigma's range
            sides = np.eye(len(twice))[0] - np.eye(len(twice))[-1]
            values = model.activation(twice.p_value)
            inverse = np.arctanh if model.activation.name == "tanh" else np.asarray
            return lambda c: replace(twice, p_value=inverse(values + c * sides[:, None] * first))
    return None


def at_loss(given: Problem, path: Way, eps: float) -> Prompts:
    """The prompts of the path at loss eps."""
    high = eps
    while given.loss(path(high)) < eps:
        high *= 1.5
    return path(float(brentq(lambda c: given.loss(path(c)) - eps, 0.0, high, xtol=1e-15, rtol=1e-13)))  # type: ignore[arg-type]
