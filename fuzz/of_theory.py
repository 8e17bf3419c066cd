"""Public functions of `theory`: inputs that they take and must not take, and results by another route."""

from dataclasses import replace
from typing import Any

import numpy as np

from fuzz.nonsense import NO_COUNT, NO_NAME, NO_NUMBER, NO_OBJECT, Entry, Random, not_array, pick
from theory.activations import ACTIVATIONS, activation
from theory.box import Box
from theory.estimate import fit
from theory.identifiability import IdentifiabilityError, require
from theory.jacobian import jacobian
from theory.model import GATES, MoERegression, Prompts
from theory.starts import anywhere, near
from theory.voronoi import voronoi_loss


def parts(rng: Random) -> dict[str, Any]:
    """What a model is made from."""
    d, out, m, N = (int(n) for n in rng.integers(1, 5, size=4))
    names = {"A": (N, d, d), "a": (N,), "eta": (N, out, d), "B": (d, m), "C": (out, m)}
    arrays = {name: 0.5 * rng.standard_normal(shape) for name, shape in names.items()}
    return arrays | {"activation": pick(rng, list(ACTIVATIONS)), "gate": pick(rng, GATES)}


def problem(rng: Random, size: int | None = None) -> tuple[MoERegression, Prompts]:
    """A model and prompts for it."""
    model = MoERegression(**parts(rng))
    return model, prompts_for(model, rng, size or int(rng.integers(1, 4)))


def prompts_for(model: MoERegression, rng: Random, size: int) -> Prompts:
    """Prompts of a model, without a gauge in b."""
    b = 0.3 * rng.standard_normal(size)
    p, value = rng.standard_normal((2, size, model.m))
    return Prompts(p, b - b.mean(), None if model.joint else 0.7, value if model.unshared else None)


def literal(model: MoERegression, x: np.ndarray, prompts: Prompts) -> np.ndarray:
    """f(x) by the definition, row by row."""
    sigma = model.activation
    key, value = (sigma(p) for p in (prompts.p, prompts.p if prompts.p_value is None else prompts.p_value))
    rows = []
    for row in x:
        text = np.array([row @ A @ row for A in model.A]) + model.a
        own = key @ model.B.T @ row + prompts.b
        experts, mine = model.eta @ row, value @ model.C.T
        if prompts.alpha is None:
            w = np.exp(np.r_[text, own] - max(text.max(), own.max()))
            rows.append(w / w.sum() @ np.r_[experts, mine])
        else:
            w, v = np.exp(text - text.max()), np.exp(own - own.max())
            rows.append(w / w.sum() @ experts + np.tanh(prompts.alpha) * (v / v.sum() @ mine))
    return np.array(rows)


def close(found: Any, expected: Any, tolerance: float = 1e-9) -> str | None:
    """What is wrong with a number, or an array of them."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    if found.shape != expected.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    return None if np.allclose(found, expected, rtol=tolerance, atol=tolerance) else f"{found} instead of {expected}"


def _prompts(rng: Random) -> dict[str, Any]:
    size, m = (int(n) for n in rng.integers(1, 5, size=2))
    p, value = rng.standard_normal((2, size, m))
    alpha = pick(rng, (None, 0.5))
    return {"p": p, "b": rng.standard_normal(size), "alpha": alpha, "p_value": pick(rng, (None, value))}


def _kept(given: dict[str, Any], made: Prompts) -> str | None:
    return close(made.p, given["p"]) or (close(made.weights.sum(), 1) if given["alpha"] is not None else None)


def _at(rng: Random) -> dict[str, Any]:
    model, prompts = problem(rng)
    return {"model": model, "x": rng.standard_normal((int(rng.integers(1, 6)), model.d)), "prompts": prompts}


def _other(rng: Random, given: dict[str, Any]) -> Any:
    """Prompts of another model, or none."""
    prompts: Any = given.get("prompts", given.get("truth"))
    wider = Prompts(
        np.hstack([prompts.p, prompts.p[:, :1]]), prompts.b, prompts.alpha,
        None if prompts.p_value is None else np.hstack([prompts.p_value, prompts.p[:, :1]]),
    )  # fmt: skip
    broken = Prompts(prompts.p * np.nan, prompts.b, prompts.alpha, prompts.p_value)
    gate = Prompts(prompts.p, prompts.b, None if prompts.alpha is not None else 0.3, prompts.p_value)
    return pick(rng, (wider, broken, gate, *NO_OBJECT))


def _difference(given: dict[str, Any], found: np.ndarray) -> str | None:
    """The Jacobian against differences of f, coordinate by coordinate."""
    model, x, q = given["model"], given["x"], given["prompts"]
    fields = ["p", *(["p_value"] if model.unshared else []), "b", *([] if model.joint else ["alpha"])]
    columns = []
    for name in fields:
        value = np.atleast_1d(getattr(q, name))
        for place in np.ndindex(value.shape):
            step = np.zeros(value.shape)
            step[place] = 1e-6
            above, below = (model(x, replace(q, **{name: value + s})) for s in (step, -step))
            columns.append((above - below).ravel() / 2e-6)
    # A leaky unit has a corner at 0, which a difference may straddle.
    return close(found, np.stack(columns, 1), 1e-5 * max(1, float(np.abs(found).max())))


def _fit(rng: Random) -> dict[str, Any]:
    model, truth = problem(rng)
    x = rng.standard_normal((int(rng.integers(60, 120)), model.d))
    y = model(x, truth) + 0.1 * rng.standard_normal((len(x), model.d_out))
    return {"model": model, "data": (x, y), "start": near(truth, len(truth), rng), "box": Box(), "truth": truth}


def _least(given: dict[str, Any], found: Any) -> str | None:
    x, y = given["data"]
    again = ((y - given["model"](x, found.prompts)) ** 2).sum()
    if wrong := close(found.sse, again, 1e-6):
        return f"sse {wrong}"
    if found.status != "above_truth" and found.sse > found.sse_at_truth * (1 + 1e-9):
        return f"sse {found.sse} above that at the truth, {found.sse_at_truth}, and status {found.status}"
    bound = np.abs(found.prompts.p).max()
    return None if bound <= given["box"].prompt * (1 + 1e-9) else f"|p| is {bound}, outside the box"


def _bad_data(rng: Random, given: dict[str, Any]) -> Any:
    x, y = given["data"]
    ways = ((not_array(rng, x), y), (x, not_array(rng, y)), (x[:1], y[:1]), (x, y[:-1]), (x * 1e200, y), None, x, 3)
    return pick(rng, ways)


def _loss(rng: Random) -> dict[str, Any]:
    model, truth = problem(rng)
    return {"fitted": prompts_for(model, rng, int(rng.integers(1, 5))), "truth": truth}


def _symmetric(given: dict[str, Any], found: Any) -> str | None:
    order = np.random.default_rng(0).permutation(len(given["fitted"]))
    again = voronoi_loss(given["fitted"].take(order), given["truth"])
    zero = voronoi_loss(given["truth"], given["truth"]).total
    return close(found.total, again.total) or close(zero, 0) or (None if found.total >= 0 else "a negative loss")


def _model_and_box(rng: Random) -> dict[str, Any]:
    model = MoERegression(**parts(rng))
    return {"model": model, "size": int(rng.integers(1, 5)), "box": Box(), "rng": rng, "count": int(rng.integers(1, 4))}


def _inside(given: dict[str, Any], found: list[Prompts]) -> str | None:
    largest = max(np.abs(start.p).max() for start in found)
    return None if len(found) == given["count"] and largest <= given["box"].prompt else f"{found} is outside the box"


def _sample(rng: Random) -> dict[str, Any]:
    model, prompts = problem(rng)
    return {
        "model": model,
        "prompts": prompts,
        "noise": 0.1,
        "n": int(rng.integers(1, 60)),
        "seed": int(rng.integers(99)),
    }


def _sampled(model: Any, prompts: Any, noise: Any, n: Any, seed: int, chunk: Any = 16) -> tuple[np.ndarray, np.ndarray]:
    x, y = zip(*model.sample(prompts, noise, n, np.random.default_rng(seed), chunk), strict=True)
    return np.concatenate(x), np.concatenate(y)


def _noisy(given: dict[str, Any], found: tuple[np.ndarray, np.ndarray]) -> str | None:
    """As many rows as asked for; without noise, f itself."""
    x, y = _sampled(**given | {"noise": 0})
    most = np.abs(found[1] - literal(given["model"], found[0], given["prompts"])).max()
    if len(found[0]) != given["n"] or most > 8 * given["noise"]:
        return f"{len(found[0])} rows, up to {most} from f"
    return close(y, literal(given["model"], x, given["prompts"]))


def _identified(model: Any, truth: Any, **options: Any) -> Any:
    """The report, also where it stops."""
    try:
        return require(model, truth, **options)
    except IdentifiabilityError as error:
        return str(error)


def _ranked(given: dict[str, Any], found: Any) -> str | None:
    """The rank of the Jacobian, by differences in place of the formula."""
    if isinstance(found, str):
        return None if "the truth is not identified" in found and "To change: " in found else found
    model, truth = given["model"], given["truth"]
    gauges = sum(gauge.directions.shape[1] for gauge in found.gauges)
    size = truth.atoms.size + len(truth) + (not model.joint)
    return None if found.rank <= size - gauges else f"rank {found.rank} of {size} with {gauges} gauges"


POSITIVE = (0.0, -1.0, *NO_NUMBER[:6])
ENTRIES = (
    Entry(
        "theory.Prompts",
        Prompts,
        _prompts,
        {"p": ("x", [["a"]], 1j, {}, [[1.0], [2.0, 3.0]], [[[1.0]]]), "b": ("x", 1j, {}, [1.0] * 9, [[[1.0]]])}
        | {"alpha": ("x", [1.0, 2.0], 1j, {}), "p_value": lambda rng, given: given["p"][:, :0]},
        _kept,
    ),
    Entry(
        "theory.MoERegression",
        MoERegression,
        parts,
        {name: lambda rng, given, name=name: not_array(rng, given[name]) for name in ("A", "a", "eta", "B", "C")}
        | {"activation": NO_NAME, "gate": NO_NAME},
    ),
    Entry(
        "theory.MoERegression()",
        lambda model, x, prompts: model(x, prompts),
        _at,
        {"x": lambda rng, given: not_array(rng, given["x"]), "prompts": _other},
        lambda given, found: close(found, literal(**given)),
        share=0.5,
    ),
    Entry("theory.Box", Box, lambda rng: {"prompt": 4.0, "bias": 3.0, "alpha": 1.0},
          {name: POSITIVE for name in ("prompt", "bias", "alpha")}),
    Entry("theory.fit", fit, _fit, {
        "model": NO_OBJECT, "data": _bad_data, "box": ("x", 3, [1]), "max_iterations": (0, *NO_COUNT),
        "start": _other, "truth": lambda rng, given: _other(rng, given) or 3,
    }, _least, share=0.15),
    Entry("theory.voronoi_loss", voronoi_loss, _loss, {"fitted": _other, "truth": _other}, _symmetric),
    Entry("theory.starts.near", near, lambda rng: {"truth": problem(rng)[1], "size": 4, "rng": rng},
          {"truth": NO_OBJECT, "size": (0, *NO_COUNT), "jitter": (-0.1, *NO_NUMBER[:6])},
          lambda given, found: None if len(found) == 4 else f"{len(found)} prompts"),
    Entry("theory.starts.anywhere", anywhere, _model_and_box,
          {"size": (0, *NO_COUNT), "count": (0, *NO_COUNT), "model": NO_OBJECT, "box": NO_OBJECT}, _inside),
    Entry("theory.jacobian", jacobian, _at,
          {"x": lambda rng, given: not_array(rng, given["x"]), "prompts": _other}, _difference),
    Entry("theory.identifiability.require", _identified,
          lambda rng: dict(zip(("model", "truth"), problem(rng), strict=True)),
          {"truth": _other, "over": NO_COUNT, "bound": POSITIVE, "expect": (("none",), ("",))}, _ranked, weight=0.5),
    Entry("theory.activation", activation, lambda rng: {"name": pick(rng, list(ACTIVATIONS)), "m": 3},
          {"name": NO_NAME}, weight=0.2),
    Entry("theory.MoERegression.sample", _sampled, _sample,
          {"prompts": _other, "noise": (-0.1, *NO_NUMBER), "n": (0, *NO_COUNT), "chunk": (0, *NO_COUNT)}, _noisy),
)  # fmt: skip
