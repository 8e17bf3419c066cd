"""What theory says of each quantity of a study: a slope in the log-log plot, and what kind of statement that is.

    exact     the limit of the error over n^slope is positive and finite, at the truths of this study
    bound     the theorem is an upper bound, and the error may fall faster, over this range of n or at these truths
    uniform   a statement about the worst truth at each n; a fixed truth cannot test it

Only exact ones are counted for coverage.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A theory slope and its kind: `exact`, `bound` or `uniform`."""

    slope: float
    kind: str = "exact"


ROOT, FOURTH, SIXTH, NEVER = Rate(-0.5), Rate(-0.25), Rate(-1 / 6), Rate(0.0)
_EXACT: dict[str, Rate] = dict.fromkeys(
    ("function_error", "voronoi", "gating_error", "weight_error", "exact_prompt_error"), ROOT
)
_Q: dict[str, Rate] = dict.fromkeys(("voronoi_q", "exact_prompt_error_q"), ROOT)
# Theorems 4.2 and 4.4 in a box that keeps every weight above a bound: the spare prompt has no way out, and what it does
# has limits of its own. D's over term sees weight times square.
_TIGHT = _EXACT | {
    "over_prompt_error": FOURTH,
    "over_prompt_error_unweighted": FOURTH,
    "sqrt_over_term": FOURTH,
    "merged_error": ROOT,
}
# In a wider box least squares puts the spare prompt far away with a weight of order n^-1/2, until that meets the box:
# over any range of n that can be had, what sees its place falls from one constant to another. Upper bounds only.
_OVER = _TIGHT | {
    name: Rate(_TIGHT[name].slope, "bound")
    for name in ("voronoi", "weight_error", "over_prompt_error", "sqrt_over_term", "merged_error")
}
del _OVER["over_prompt_error_unweighted"]
_JOINT = {name: rate for name, rate in _OVER.items() if name != "gating_error"}

THEORY: dict[str, dict[str, Rate]] = {
    "exact": _EXACT,
    "exact in q": _EXACT | _Q,
    # Where sigma is constant p is not seen at all, and only q = sigma(p) is. No theorem covers the kink: at small n
    # fits have other coordinates beyond it than the truth has, and errors fall faster until that ends.
    "exact in q only": {name: ROOT for name in ("function_error", "gating_error", "weight_error")}
    | {name: Rate(-0.5, "bound") for name in _Q},
    "over": _OVER,
    "over in q": _OVER | {"voronoi_q": Rate(-0.5, "bound")},
    # Shared prompts in one softmax: the same rates by the same group's work on prefix tuning, cited by the paper.
    "over joint": _JOINT,
    "over in a tight box": _TIGHT,
    # Separate keys and values: O(1 / log^tau n), cited by the paper, is about the worst truth at each n.
    "over unshared": {"function_error": ROOT}
    | {name: Rate(0.0, "uniform") for name in ("voronoi", "over_prompt_error")},
    "function only": {"function_error": ROOT},
    # Least squares converges to the best fit with fewer prompts (White 1981), and so at the usual rate.
    "projection": _EXACT,
    "moving quarter": {"function_error": ROOT, "gating_error": ROOT, "moving_prompt_error": FOURTH},
    # The minimax rate n^-1/(4 (m - m0) + 2) of mixtures with one spare atom (Heinrich and Kahn 2018).
    "moving sixth": {"function_error": ROOT, "gating_error": ROOT, "moving_prompt_error": SIXTH},
    "moving sixth joint": {"function_error": ROOT, "moving_prompt_error": SIXTH},
    "moving values": {"function_error": ROOT, "value_error": NEVER},
    # tanh(alpha) times the prompt error is what f shows.
    "vanishing gate": {
        "function_error": ROOT,
        "gating_error": ROOT,
        "exact_prompt_error": FOURTH,
        "gated_prompt_error": ROOT,
    },
}
