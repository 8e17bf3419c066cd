"""Public functions of `theory` around the estimator: rates and verdicts, studies, attention heads as models."""

import math
from typing import Any

import numpy as np
from scipy import special, stats

from fuzz.nonsense import NO_COUNT, NO_NAME, NO_NUMBER, Entry, Random, not_array, pick
from fuzz.of_theory import close
from theory.attention import head_prompts, head_to_model, ranks, rotations
from theory.model import GATES
from theory.rates import Slope, slope, slope_over_truths, verdict
from theory.studies import STUDIES
from theory.study import Study


def _errors(rng: Random) -> dict[str, Any]:
    rate, sizes = rng.uniform(-1, 0.2), np.unique(rng.integers(10, 10**6, size=5))
    noise = np.exp(0.1 * rng.standard_normal(6))
    if len(sizes) < 2:
        sizes = np.array([10, 100])
    return {"errors": {int(n): float(n) ** rate * noise for n in sizes}, "rate": rate}


def _slope(errors: Any, rate: float = 0) -> Any:
    return slope(errors, np.random.default_rng(1))


def _bad_errors(rng: Random, given: dict[str, Any]) -> Any:
    errors = given["errors"]
    first = next(iter(errors))
    ways = [
        {first: errors[first]},
        errors | {first: errors[first] * pick(rng, (0.0, -1.0, np.inf))},
        errors | {first: [1.0]},
    ]
    return pick(
        rng, [{}, None, 3, "x", errors | {first: "x"}, errors | {-5: errors[first]}, errors | {1.5: None}, *ways]
    )


def _truths(rng: Random) -> dict[str, Any]:
    sizes, rates = (100, 1000, 10_000), rng.uniform(-1, 0.2, size=3)
    return {"truths": [{n: n**rate * np.ones(3) for n in sizes} for rate in rates], "rates": rates}


def _bad_truths(rng: Random, given: dict[str, Any]) -> Any:
    one, *rest = given["truths"]
    return pick(rng, ([one], [], None, [{100: one[100]}, *rest], [{n: -v for n, v in one.items()}, *rest], [3, *rest]))


def _over_truths(given: dict[str, Any], found: Any) -> str | None:
    expected = stats.t.interval(0.95, 2, given["rates"].mean(), stats.sem(given["rates"]))
    return close((found.slope, found.low, found.high), (given["rates"].mean(), *expected))


def _measured(rng: Random) -> dict[str, Any]:
    middle, half = float(rng.uniform(-1, 0)), float(rng.uniform(0, 0.2))
    return {"slope": middle, "low": middle - half, "high": middle + half, "theory": -0.5}


def _verdict(slope: Any, low: Any, high: Any, theory: Any) -> str:
    return verdict(Slope(slope, low, high, 10, 100, 5), theory)


def _word(given: dict[str, Any], found: str) -> str | None:
    """An interval that lies within theory +- 0.05 is consistent; one wholly outside says on which side."""
    low, high = given["low"] - given["theory"], given["high"] - given["theory"]
    expected = (
        "consistent"
        if max(-low, high) <= 0.05
        else "faster"
        if high < -0.05
        else "slower"
        if low > 0.05
        else "not resolved"
    )
    return None if found == expected else f"{found} instead of {expected}"


def _head(rng: Random) -> dict[str, Any]:
    heads = {name: rng.standard_normal((6, 2)) for name in ("W_q", "W_k", "W_v")}
    return heads | {"tokens": int(rng.integers(1, 4)), "seed": int(rng.integers(99))}


def _of_head(seed: int = 0, P: Any = None, alpha: Any = 0.5, **head: Any) -> Any:
    """The model of a head at random tokens, with its prompts, and its ranks."""
    rng = np.random.default_rng(seed)
    model = head_to_model(**head)
    tokens, P = rng.standard_normal((2, head["tokens"], 6)), rng.standard_normal((3, 6)) if P is None else P
    return tokens, P, model(tokens.reshape(2, -1), head_prompts(P, alpha)), ranks(model)


def _attention(given: dict[str, Any], found: Any) -> str | None:
    """Equation (5) as a transformer computes it: softmax of q'k / sqrt(D_h), times values, for the last token."""
    tokens, P, f, _ = found
    query, scale = tokens[:, -1] @ given["W_q"], np.sqrt(2)
    text = np.einsum("nd,ntd->nt", query, tokens @ given["W_k"]) / scale
    own = query @ (P @ given["W_k"]).T / scale
    values = tokens @ given["W_v"]
    expected = np.einsum("nt,ntd->nd", special.softmax(text, 1), values)
    return close(f, expected + np.tanh(0.5) * special.softmax(own, 1) @ (P @ given["W_v"]))


def _study(rng: Random) -> dict[str, Any]:
    drawn = {"L": int(rng.integers(1, 4)), "seed": int(rng.integers(99)), "truths": int(rng.integers(1, 3))}
    counts = {"sizes": (50, 100), "replicates": 2, "large_replicates": 2}
    return {"name": "a", "about": "", "gate": pick(rng, GATES), "noise": 0.1} | drawn | counts


def _tasks(given: dict[str, Any], study: Study) -> str | None:
    tasks = set(study.tasks())
    count = len(given["sizes"]) * given["replicates"] * given["truths"]
    gap = min((np.linalg.norm(p - o) for i, p in enumerate(study.truth.p) for o in study.truth.p[:i]), default=math.inf)
    return None if len(tasks) == count and gap >= study.apart else f"{len(tasks)} tasks, true prompts {gap} apart"


ENTRIES = (
    Entry("theory.rates.slope", _slope, _errors, {"errors": _bad_errors},
          lambda given, found: close(found.slope, given["rate"], 1e-8)),
    Entry("theory.rates.slope_over_truths", lambda truths, rates=None: slope_over_truths(truths), _truths,
          {"truths": _bad_truths}, _over_truths),
    Entry("theory.rates.verdict", _verdict, _measured, {
        **{name: (math.nan, math.inf, -math.inf, "x") for name in ("slope", "low", "high")}, "theory": ("x", [1.0]),
    }, _word),
    Entry("theory.attention.rotations", rotations,
          lambda rng: {"positions": np.arange(3), "head_size": 4}, {"head_size": (0, 3, *NO_COUNT)},
          lambda given, found: close(np.einsum("nij,nkj->nik", found, found), np.eye(4)[None].repeat(3, 0))),
    Entry("theory.attention.head_to_model", _of_head, _head,
          {name: lambda rng, given, name=name: not_array(rng, given[name]) for name in ("W_q", "W_k")}
          | {"W_v": ("x", [[1j] * 2] * 6, [1.0, 2.0], [[math.nan] * 2] * 6, [[1.0, 2.0]] * 5, None),
             "tokens": (0, *NO_COUNT), "query": (99, *NO_COUNT), "activation": NO_NAME, "gate": NO_NAME,
             "P": lambda rng, given: not_array(rng, np.ones((3, 6))), "alpha": ("x", [1.0, 2.0], 1j, {}, math.nan)},
          _attention),
    Entry("theory.study.Study", Study, _study, {
        **{name: (0, *NO_COUNT) for name in ("d", "d_out", "L", "truths", "replicates", "large_replicates")},
        **{name: NO_COUNT for name in ("extra", "fewer", "seed")}, "noise": (0.0, -1.0, 1e200, *NO_NUMBER),
        **{name: NO_NAME for name in ("gate", "activation", "start", "theory_of")}, "moving": NO_NAME[1:],
        "sizes": ((), (100, 50), (0, 10), (10, 10), ("x",), (2.5,), None, 7), "apart": (100.0, -1.0, *NO_NUMBER),
        "spread": ((2.0, -2.0), (1.0, 1.0), (0.0, math.inf), (0.0,), None, ("a", "b")),
    }, _tasks, weight=0.5),
    Entry("theory.STUDIES", lambda name: STUDIES[name].quick(), lambda rng: {"name": pick(rng, list(STUDIES))}, {},
          lambda given, study: None if study.name == given["name"] else study.name, weight=0.1),
)  # fmt: skip
