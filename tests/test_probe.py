"""The proof's inequality: witnesses in 50 digits, minima by other routes, the committed table, and its figure."""

import json
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pandas as pd
import pytest
from artists import assert_same, points
from scipy.linalg import eigh

from common import seals, tables
from common.paths import RESULTS
from figures import probe_figure
from theory import probe
from theory.coordinates import Layout
from theory.equivalents import doubled
from theory.model import Prompts
from theory.probe import SIZES, Distance, least, main
from theory.probe_cases import at_loss, problem
from theory.tables import PROBE, PROBE_CASES, PROBE_GATES
from theory.voronoi import voronoi_loss

TABLE = RESULTS / "theory" / "probe.csv"
DOUBLED = ("doubled", "zero_init")
mp: Any = mpmath.mp
WITNESSED = [
    (case, gate) for case in PROBE_CASES for gate in PROBE_GATES if problem(case, gate, 0.01).witness is not None
]


def exact_f(model, x, p, b, t, value):
    """f of equation (11), or with one softmax for all where t is None; every number in 50 digits."""
    m, outputs = range(model.m), range(model.d_out)
    sigma: Callable = {"identity": lambda u: u, "tanh": mpmath.tanh, "relu": lambda u: max(u, mpmath.mpf(0))}[
        model.activation.name
    ]
    X = [mpmath.mpf(float(u)) for u in x]
    B, C = (mpmath.matrix(array.tolist()) for array in (model.B, model.C))
    scores = []
    for A, a in zip(model.A, model.a, strict=True):
        form = [X[i] * mpmath.mpf(float(A[i, k])) * X[k] for i in m for k in m]
        scores.append(mpmath.exp(mpmath.fsum([*form, mpmath.mpf(float(a))])))
    experts = [[mpmath.fsum(mpmath.mpf(float(e[o, i])) * X[i] for i in m) for o in outputs] for e in model.eta]
    keys, values = ([[sigma(u) for u in row] for row in rows] for rows in (p, value))
    own = [
        mpmath.exp(mpmath.fsum(X[i] * B[i, k] * key[k] for i in m for k in m) + bias)
        for key, bias in zip(keys, b, strict=True)
    ]
    answers = [[mpmath.fsum(C[o, k] * v[k] for k in m) for o in outputs] for v in values]

    def mean(weights, vectors):
        return [mpmath.fsum(w * v[o] for w, v in zip(weights, vectors, strict=True)) / sum(weights) for o in outputs]

    if t is None:
        return mean([*scores, *own], [*experts, *answers])
    return [u + t * v for u, v in zip(mean(scores, experts), mean(own, answers), strict=True)]


def precise(prompts: Prompts):
    """p, b, tanh(alpha) and values of double precision, as they are."""
    p, value = ([[mpmath.mpf(float(u)) for u in row] for row in a] for a in (prompts.p, prompts.atoms[:, -2:]))
    t = None if prompts.alpha is None else mpmath.tanh(mpmath.mpf(float(prompts.alpha)))
    return [p, [mpmath.mpf(float(u)) for u in prompts.b], t, value]


def largest_change(given, other):
    x = np.random.default_rng(0).standard_normal((4, 2))
    pairs = [(exact_f(given.model, row, *precise(given.truth)), exact_f(given.model, row, *other)) for row in x]
    return float(max(abs(u - v) for here, there in pairs for u, v in zip(here, there, strict=True)))


@pytest.mark.parametrize(("case", "gate"), WITNESSED)
def test_witnesses_in_fifty_digits(case, gate):
    """At loss 1e-3, f changes by no more than the rounding of the witness's own parameters."""
    given = problem(case, gate, 1e-3)
    assert given.witness is not None
    other = at_loss(given, given.witness, 1e-3)
    assert given.loss(other) == pytest.approx(1e-3, rel=1e-9)
    with mp.workdps(50):
        assert largest_change(given, precise(other)) < 1e-14


def test_doubled_prompts_in_fifty_digits():
    """Built in 50 digits, sums q_i + q_j and half the tanh(alpha) have the same f to 45; D is not small."""
    given = problem(*DOUBLED, 0.1)
    with mp.workdps(50):
        p, b, t, _ = precise(given.truth)
        assert t is not None
        pairs = [(0, 0), (0, 1), (1, 1)]
        sums = [[u + v for u, v in zip(p[i], p[j], strict=True)] for i, j in pairs]
        biases = [b[i] + b[j] + (mpmath.log(2) if i != j else 0) for i, j in pairs]
        assert largest_change(given, [sums, biases, t / 2, sums]) < 1e-45
        assert largest_change(given, [sums, biases, t, sums]) > 1e-3  # with the gate of the truth it has another f
    row = probe.twin_row()
    assert row["ratio"] < 1e-14
    loss = voronoi_loss(doubled(given.truth), given.truth)
    assert row["eps"] == pytest.approx(loss.total + loss.gating)
    assert row["eps"] > 0.5


@pytest.mark.parametrize("gate", ["zero_init", "joint"])
def test_one_prompt_against_linear_algebra(gate):
    """L = 1: with v the error of p (and of b), the joint gate's loss is pi |v| + |change of pi|, to first order.

    For every sign of the change of pi and direction of v the least quadratic form is known; a grid of directions.
    """
    given = problem("single-prompt", gate, 1e-4)
    if gate == "zero_init":
        assert least(given, 1e-4) < 1e-10
        return
    pi, distance = float(np.exp(given.truth.b[0])), Distance(given)
    J = distance.derivative(given.truth)
    angle = np.linspace(0, 2 * np.pi, 721)
    sizes = np.linspace(0, 1, 401)
    best = np.inf
    for side in (1, -1):
        for share in sizes:
            v = np.column_stack([np.cos(angle), np.sin(angle), np.full(len(angle), side)])
            v *= np.array([share / pi, share / pi, (1 - share) / pi])
            best = min(best, np.linalg.norm(J @ v.T, axis=0).min())
    assert least(given, 1e-4) == pytest.approx(best, rel=5e-3)


def test_minimum_is_below_random_directions_and_above_the_smallest_singular_value():
    """Exact fits: no direction of 200 is lower; |J v| / loss is near the least singular value or above."""
    given, eps = problem("exact-linear", "zero_init", 1e-4), 1e-4
    found, distance = least(given, eps), Distance(given)
    layout, J = Layout(given.model, 3), Distance(given).derivative(given.truth)
    rng, theta = np.random.default_rng(1), Layout(given.model, 3).pack(given.truth)
    for v in rng.standard_normal((200, layout.size)):
        other = layout.unpack(theta + eps * v)
        assert distance(other) / given.loss(other) > found * 0.999
    values = eigh(J.T @ J, eigvals_only=True)
    assert values[0] < 1e-10 * values[-1] < values[1]  # the gauge of the biases, and nothing else
    longest = max(
        given.loss(layout.unpack(theta + eps * v / np.linalg.norm(v))) / eps
        for v in rng.standard_normal((500, layout.size))
    )
    assert found > 0.1 * np.sqrt(values[1]) / longest


def test_bad_names_are_told():
    with pytest.raises(ValueError, match=r"case and gate must be of exact-linear, .*; got 'none', 'joint'"):
        problem("none", "joint", 0.1)


def test_killed_and_run_again(tmp_path, monkeypatch, capsys):
    """A stop after the first curve loses nothing: the second run computes the others only, and the table is whole."""
    monkeypatch.setattr(probe, "PROBE_CASES", ("no-gauge", "gate-zero"))
    monkeypatch.setattr(probe, "PROBE_GATES", ("zero_init",))
    curve, seen, path = probe.curve, [], tmp_path / "probe.csv"

    def stopping(case, gate):
        seen.append(case)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return curve(case, gate)

    monkeypatch.setattr(probe, "curve", stopping)
    assert main(["--out", str(path)]) == 130
    assert not path.exists()
    assert main(["--out", str(path)]) == 0
    assert seen == ["no-gauge", "gate-zero", "gate-zero"]
    rows = tables.read(path, PROBE, unique=("gate", "case", "eps"))
    assert len(rows) == 2 * len(SIZES)
    assert all(float(r["ratio"]) < 1e-10 for r in rows)
    assert seals.beside(path).exists()
    capsys.readouterr()


# the committed table --------------------------------------------------------------------------------------------------


needs_table = pytest.mark.skipif(not TABLE.exists(), reason="no probe.csv: run `python -m theory.probe`")


def committed():
    rows = tables.read(TABLE, PROBE, unique=("gate", "case", "eps"))
    table = pd.DataFrame(rows).astype({"eps": float, "ratio": float})
    return table.sort_values("eps", ascending=False)


@needs_table
@pytest.mark.parametrize("case", ["exact-linear", "exact-tanh", "over-linear", "over-tanh", "relu-active"])
def test_zero_init_is_bounded_below_where_conditions_hold(case):
    rows = committed().query("case == @case and gate == 'zero_init' and eps <= 1e-3")
    assert rows["ratio"].min() > 1e-4
    assert rows["ratio"].max() < 2 * rows["ratio"].min()


@needs_table
@pytest.mark.parametrize(("case", "gate"), WITNESSED)
def test_broken_conditions_have_ratio_zero(case, gate):
    assert committed().query("case == @case and gate == @gate")["ratio"].max() < 1e-10


@needs_table
@pytest.mark.parametrize("gate", PROBE_GATES)
def test_a_truth_that_moves_takes_the_ratio_to_zero(gate):
    ratios = committed().query("case == 'moving' and gate == @gate")["ratio"].to_numpy()
    assert (np.diff(ratios) < 0).all()
    assert ratios[-1] < 0.05 * ratios[0]


@needs_table
def test_the_record_is_of_this_configuration():
    record = json.loads(TABLE.with_suffix(".json").read_text())
    assert record["configuration"]["eps"] == list(SIZES)
    assert [row for rows in record["results"].values() for row in rows] == [
        r | {"eps": float(r["eps"]), "ratio": float(r["ratio"])} for r in tables.read(TABLE, PROBE)
    ]


def test_the_figure_shows_the_table(tmp_path):
    """Every case and gate with rows of its own; a ratio below the floor is drawn there."""
    names = [(gate, case, eps) for case in PROBE_CASES for gate in PROBE_GATES for eps in SIZES]
    rows = [{"gate": g, "case": c, "eps": e, "ratio": (1 + i) * 1e-9} for i, (g, c, e) in enumerate(names)]
    tables.finish(tmp_path / "probe.csv", rows, PROBE)
    drawn, numbers = probe_figure.ratios(probe_figure.probes(tmp_path / "probe.csv"))
    shown = pd.DataFrame(numbers)
    assert len(shown) == len(rows)
    for ax, cases in zip(drawn.axes, probe_figure.PANELS.values(), strict=True):
        here = shown[shown["case"].isin(cases)]
        assert_same(np.log10(points(ax)), np.log10(here[["eps", "drawn"]].to_numpy(float)))
    assert (shown["drawn"] == shown["ratio"].clip(lower=probe_figure.FLOOR)).all()
    assert (shown["drawn"] > shown["ratio"]).any()
