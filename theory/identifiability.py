"""The identifiability gate before a study: what of the truth the regression function shows, and what it hides.

Near the truth, with J = d f / d theta over a fixed sample of X, a direction v is hidden if J v = 0. Far from it, other
prompts may give the same f. Each reason has a name, a sentence, a cure, and a witness: other prompts with the same f.
`theory.equivalents` builds them; this file asks which of them matter to a study. `theory.cases` has named examples.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import null_space, orth
from scipy.optimize import brentq

from common.streams import stream
from theory.arrays import count, instance, number
from theory.coordinates import Layout
from theory.equivalents import TOLERANCE, Finding, equal_keys, families, with_more_prompts
from theory.jacobian import jacobian
from theory.model import MoERegression, Prompts, in_q

SLOPE = 0.2  # slopes of sigma and of tanh(alpha) below this share of the slope at zero count as saturated

CURES = {
    "alpha = 0": "choose alpha* other than 0",
    "L = 1": "use at least two true prompts",
    "rank C": "use C with m independent columns, which needs d' >= m",
    "rank B": "use B with m independent columns, which needs d >= m",
    "equal keys": "move the true prompts apart",
    "doubled prompts": "use more true prompts or fewer fitted ones, or a box too small for them",
    "value trade": "use shared prompts, or as many fitted prompts as true ones",
    "saturated sigma": f"choose true prompts where sigma has at least {SLOPE} of its slope at zero",
    "saturated gate": f"choose alpha* with tanh'(alpha*) at least {SLOPE}, which is |alpha*| <= 1.44",
    "injective sigma": "choose true prompts where sigma is one-to-one, or a box that excludes the others",
    "unnamed": "look at the parameters named; no known condition explains them",
}


class IdentifiabilityError(ValueError):
    """The truth is hidden in a way that the study is not about."""


@dataclass(frozen=True)
class Report:
    """What `check` found: the Jacobian at the truth, the gauges of the gate, and what else is hidden.

    `conditioning` is the smallest singular value that counts over the largest; `remarks` say what the theorems leave
    out although it hides nothing.
    """

    gate: str
    parameters: int
    rank: int
    conditioning: float
    gauges: list[Finding]
    broken: list[Finding]
    remarks: list[str]

    def __str__(self) -> str:
        lines = [f"gate {self.gate}: Jacobian of rank {self.rank} in {self.parameters} parameters"]
        lines += [f"gauge: {g.words}" for g in self.gauges] + [_advice(f) for f in self.broken]
        return "\n  - ".join(lines + [f"remark: {r}" for r in self.remarks])


def _advice(finding: Finding) -> str:
    """The condition, what came, and what to change."""
    return f"{finding.condition}: {finding.words}. To change: {CURES[finding.condition]}"


def require(
    model: MoERegression, truth: Prompts, over: int = 0, bound: float = 10.0, expect: Collection[str] = ()
) -> Report:
    """`check`, but stop if a condition is broken that the study is not about.

    Parameters
    ----------
    model, truth, over, bound
        As in `check`.
    expect : collection of str
        Conditions, by their names in `CURES`, that the study is about: these are allowed.

    Raises
    ------
    IdentifiabilityError
        Naming each broken condition, what came, what is hidden and what to change.
    ValueError
        If `expect` names no condition.
    """
    for name in expect:
        if name not in CURES:
            raise ValueError(f"expect must name conditions out of {', '.join(CURES)}; got {name!r}")
    report = check(model, truth, over, bound)
    stops = [f for f in report.broken if f.condition not in expect]
    if stops:
        names = ", ".join(repr(name) for name in dict.fromkeys(f.condition for f in stops))
        head = f"gate {model.gate}: the truth is not identified (rank {report.rank} of {report.parameters} parameters)"
        last = f"a study about this says expect=({names},)"
        raise IdentifiabilityError("\n  - ".join([head, *(_advice(f) for f in stops), last]))
    return report


def check(model: MoERegression, truth: Prompts, over: int = 0, bound: float = 10.0) -> Report:
    """Everything that keeps this truth from being identified, by name and with a witness.

    Parameters
    ----------
    model : MoERegression
    truth : Prompts
    over : int
        L' - L, fitted prompts beyond the true ones; 0 for exact fits.
    bound : float
        Half-width of the box of prompts: other prompts with the same f count if they have |p| <= bound.

    Raises
    ------
    TypeError, ValueError
        If the prompts do not fit the model, `over` is not a whole number of at least 0, or `bound` not above 0.
    """
    over, bound = count("over", over, 0), number("bound", bound, 0, strictly=True)
    instance("model", model, MoERegression)
    model.check_prompts(truth)
    shown, q = in_q(model, truth)
    if q.alpha is not None:
        q = replace(q, alpha=np.clip(q.alpha, -15, 15))  # beyond, tanh(alpha) is 1 to rounding
    names = Layout(model, len(truth)).names
    x = stream(0, "identifiability").standard_normal((max(200, 4 * len(names) // model.d_out), model.d))
    J: np.ndarray = np.linalg.qr(jacobian(shown, x, q), mode="r")  # type: ignore[assignment]
    singular = np.linalg.svd(jacobian(model, x, truth), compute_uv=False)
    rank = int((singular > TOLERANCE * singular[0]).sum())

    found = families(shown, q) + equal_keys(shown, q, J)
    if over > 0:
        found += with_more_prompts(shown, q, len(q) + over, model.activation, bound)
    f, f0 = shown(x, q), shown.pretrained(x)[0]
    size = np.abs(f - f0).max() or 1.0
    for i, g in enumerate(found):
        if g.witness is not None:
            found[i] = replace(g, change=float(np.abs(shown(x, g.witness) - f).max() / size))
    found += _sigma(model, truth, bound)
    found += _unnamed(J, found, names)
    return Report(
        model.gate,
        len(names),
        rank,
        float(singular[rank - 1] / singular[0]) if rank else 0.0,
        [g for g in found if g.condition not in CURES],
        [g for g in found if g.condition in CURES],
        _remarks(model),
    )


def _unnamed(J: np.ndarray, found: list[Finding], names: list[str]) -> list[Finding]:
    """Null directions of J outside the span of those that have a name."""
    hidden = null_space(J, rcond=TOLERANCE)
    named = orth(np.hstack([np.zeros((len(names), 1)), *(f.directions for f in found)]))
    left, size, _ = np.linalg.svd(hidden - named @ (named.T @ hidden), full_matrices=False)
    left = left[:, size > 0.5]  # the singular values are 0 and 1
    if not left.size:
        return []
    largest = [", ".join(f"{names[k]} {v[k]:+.2f}" for k in np.argsort(-np.abs(v))[:3]) for v in left.T]
    return [Finding("unnamed", f"{len(largest)} null directions, largest in: {'; '.join(largest)}", left)]


def _sigma(model: MoERegression, truth: Prompts, bound: float) -> list[Finding]:
    """Where sigma, or tanh(alpha), is so flat that a small error of q is a large one of p, or takes a value twice."""
    found, none, sigma = [], np.zeros((Layout(model, len(truth)).size, 0)), model.activation
    at_zero = np.linalg.svd(sigma.jacobian(np.zeros((1, model.m)))[0], compute_uv=False)[-1]
    every = truth.atoms.reshape(-1, model.m)
    share = np.linalg.svd(sigma.jacobian(every), compute_uv=False)[:, -1] / at_zero
    if share.min() < SLOPE:
        worst = every[share.argmin()]
        words = f"sigma = {sigma.name} has {share.min():.2g} of its slope at zero, at the true prompt {worst}"
        found.append(Finding("saturated sigma", words, none))
    if truth.alpha is not None and (slope := 1 - np.tanh(truth.alpha) ** 2) < SLOPE:
        words = f"tanh has slope {slope:.2g} at alpha* = {truth.alpha:g}"
        alpha = np.eye(len(none))[:, -1:]
        found.append(Finding("saturated gate", words, alpha if slope < TOLERANCE else none))
    if not sigma.injective:
        grid, pairs = np.linspace(-bound, bound, 4001), []
        for p in np.unique(truth.atoms):
            crossings = np.flatnonzero(np.diff(np.sign(sigma(grid) - sigma(p))))
            others = [brentq(lambda s, p=p: sigma(s) - sigma(p), *grid[k : k + 2], xtol=1e-12) for k in crossings]
            pairs += [f"sigma({p:.6g}) = sigma({other:.6g})" for other in others if abs(other - p) > 1e-6]
        if pairs:
            words = f"sigma = {sigma.name} takes a value of the truth twice: {', '.join(pairs)}"
            found.append(Finding("injective sigma", words, none))
    return found


def _remarks(model: MoERegression) -> list[str]:
    """What the theorems leave out although it hides nothing of this truth."""
    sigma = model.activation
    holds = {"smooth": sigma.smooth, "one-to-one": sigma.injective, "elementwise": sigma.name != "mlp"}
    remarks = [f"sigma = {sigma.name} is not {k}: Theorem 4.4 does not cover it" for k, v in holds.items() if not v]
    if model.gate == "joint" and null_space(model.C).size:
        remarks.append("rank C < m: harmless under gate joint, whose scores show all of B q")
    if not model.unshared and null_space(model.B).size:
        remarks.append("rank B < m: harmless in exact fits, as far as C shows what B hides and keys B q differ")
    if model.gate == "zero_init_unshared":
        remarks.append("keys and values are known up to the gauges: losses are taken between canonical prompts")
    return remarks
