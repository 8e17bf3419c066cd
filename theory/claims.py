"""What the theorems promise, one line each: measured, predicted, and whether it holds.

A claim is a constant (mean error over the one that theory predicts, without a fit) or a slope. The rule, fixed before
any run: a claim holds if its 95 % interval, widened by 0.02, meets the theory value and leaves its rivals out; it fails
if the widened interval misses the theory value; otherwise the rows are too few to decide. Rivals are what the claim
would be mistaken for: for a constant, 15 % off; for a slope, the next rates. Where theory has an upper bound, faster
meets it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from theory.constants import prediction
from theory.study import Study
from theory.summary import errors_of, slope_of_study

WIDER = 0.02
OFF = 0.15
LEAST = 1000  # n from which constants are taken
LIGHT = 1 << 8  # draws of a quick prediction: right to 1 %


@dataclass(frozen=True)
class Claim:
    """One line: words, study and quantity, and the rival slopes; a claim without rivals is one about a constant."""

    words: str
    study: str
    quantity: str = "function_error"
    rivals: tuple[float, ...] = ()


CLAIMS = (
    Claim("exact fits: error of f is c / sqrt(n), linear prompts", "exact-linear"),
    Claim("the same, sigma = tanh", "exact-tanh"),
    Claim("the same, sigma = GELU", "exact-gelu"),
    Claim("the same, sigma = a two-layer network", "exact-mlp"),
    Claim("the same from starts that know nothing of the truth", "exact-linear-global"),
    Claim("one prompt too many: error of f, linear", "over-linear"),
    Claim("the same, sigma = tanh", "over-tanh"),
    Claim("the same in one softmax (vanilla attention)", "over-joint"),
    Claim("the same in a box that keeps weights off 0", "quarter-rate"),
    Claim("one prompt too few: error to the best fit", "under"),
    Claim("the spare prompt learns its place at n^-1/4", "quarter-rate", "over_prompt_error_unweighted", (-0.5, 0.0)),
    Claim("D's over term, its root, falls at n^-1/4", "quarter-rate", "sqrt_over_term", (-0.5, 0.0)),
    Claim("near true prompts, shared: n^-1/6, as predicted", "moving-sixth", "moving_prompt_error"),
    Claim("near true prompts, shared, falls at n^-1/6", "moving-sixth", "moving_prompt_error", (-0.5, 0.0)),
    Claim("separate values of near keys: never learned", "moving-unshared", "value_error", (-0.5, -0.25)),
    Claim("although f is learned", "moving-unshared", "function_error", (-0.25, 0.0)),
    Claim("a gate that closes: prompts fall at n^-1/4", "vanishing-gate", "exact_prompt_error", (-0.5, 0.0)),
    Claim("tanh(alpha) times their error at n^-1/2", "vanishing-gate", "gated_prompt_error", (-0.25, 0.0)),
    Claim("sigma = ReLU: q = sigma(p) is learned, n^-1/2 or faster", "exact-relu", "voronoi_q", (-0.25, 0.0)),
)


@dataclass(frozen=True)
class Judged:
    """A claim with its numbers: 95 % interval, range of theory values; `holds`, `fails`, `too few rows` or a reason."""

    claim: Claim
    measured: float
    low: float
    high: float
    theory: tuple[float, float]
    verdict: str


def judge(claim: Claim, study: Study, rows: Sequence[dict]) -> Judged:
    """Measure a claim on the rows of its study.

    Raises
    ------
    ValueError
        If the study has no prediction or theory value of the quantity, or as `theory.rates.slope`.
    """
    if claim.rivals:
        every = errors_of(study, rows, claim.quantity, study.first_n)
        if not every or len(every[0]) < 2:
            raise ValueError("too few rows")
        slope = slope_of_study(study, every, claim.quantity)
        value = study.theory[claim.quantity].slope
        measured, low, high, theory, rivals = slope.slope, slope.low, slope.high, (value, value), claim.rivals
    else:
        measured, low, high, upper = constant(study, rows, claim.quantity)
        theory, rivals = (1.0, upper), (1 - OFF, upper + OFF)
    faster = claim.rivals and study.theory[claim.quantity].kind == "bound"
    met = low - WIDER <= theory[1] and (faster or high + WIDER >= theory[0])
    sharp = not any(low - WIDER <= rival <= high + WIDER for rival in rivals)
    verdict = "fails" if not met else "holds" if sharp else "too few rows"
    return Judged(claim, measured, low, high, theory, verdict)


def constant(study: Study, rows: Sequence[dict], quantity: str) -> tuple[float, float, float, float]:
    """Mean error over its prediction, all n from 1000 on: ratio, interval, and the second law over the first."""
    every = errors_of(study, rows, quantity, LEAST)
    if not every or not every[0]:
        raise ValueError(f"too few rows from n = {LEAST} on")
    of = [prediction(study, number, LIGHT) for number in range(len(every))]
    ratios, second = [], []
    for errors, predicted in zip(every, of, strict=True):
        if predicted is None:
            raise ValueError(f"{study.name} has no prediction of {quantity}")
        known = {n: predicted(n) for n in errors}
        ratios.append(np.concatenate([e[~np.isnan(e)] / known[n][quantity] for n, e in errors.items()]))
        second += [k.get(f"{quantity}_free", k[quantity]) / k[quantity] for k in known.values()]
    if len(ratios) > 1:
        means = np.array([r.mean() for r in ratios])
        half = stdtrit(len(means) - 1, 0.975) * means.std(ddof=1) / np.sqrt(len(means))
    else:
        means, half = ratios[0], 1.96 * ratios[0].std(ddof=1) / np.sqrt(len(ratios[0]))
    middle = float(means.mean())
    return middle, middle - float(half), middle + float(half), float(np.mean(second))


def lines(judged: Sequence[Judged]) -> str:
    """The claims for people."""
    wide = max((len(j.claim.words) for j in judged), default=0)
    found = []
    for j in judged:
        theory = f"{j.theory[0]:.2f}" + ("" if j.theory[0] == j.theory[1] else f" to {j.theory[1]:.2f}")
        what = "slope" if j.claim.rivals else "measured / predicted"
        interval = f"[{j.low:.2f}, {j.high:.2f}]"
        found.append(
            f"{j.claim.words:{wide}}  {what:20} {j.measured:5.2f} {interval:15} theory {theory:12} {j.verdict}"
        )
    return "\n".join(found)


def judge_all(done: Mapping[str, tuple[Study, Sequence[dict]]]) -> list[Judged]:
    """The claims about these studies, by name: study as it was run, and its rows."""
    found, nan = [], float("nan")
    for claim in CLAIMS:
        if claim.study in done:
            try:
                found.append(judge(claim, *done[claim.study]))
            except ValueError as reason:
                found.append(Judged(claim, nan, nan, nan, (nan, nan), str(reason)))
    return found
