"""Each way in which a truth can hide is found, named, and shown by a witness; an innocent truth passes."""

import json

import numpy as np
import pytest

from common.paths import ROOT
from common.streams import stream
from theory import cases
from theory.attention import head_to_model
from theory.coordinates import Layout
from theory.identifiability import CURES, IdentifiabilityError, check, require
from theory.jacobian import jacobian
from theory.model import GATES, MoERegression, Prompts


def of_rank(rng, rows, m, rank):
    return rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, m))


def a_model(gate="zero_init", rank_B=4, rank_C=4, activation="identity", m=4):
    rng = stream(2, "model", gate)
    A, a, eta = rng.standard_normal((2, 4, 4)) / 4, rng.standard_normal(2), rng.standard_normal((2, 5, 4))
    return MoERegression(A, a, eta, of_rank(rng, 4, m, rank_B), of_rank(rng, 5, m, rank_C), activation, gate)


def a_truth(gate="zero_init", L=3, alpha=0.8, m=4):
    rng = stream(2, "truth", gate)
    p, value, b = rng.uniform(-1, 1, (L, m)), rng.uniform(-1, 1, (L, m)), 0.5 * rng.standard_normal(L)
    return Prompts(p, b, None if gate.startswith("joint") else alpha, value if gate.endswith("unshared") else None)


def assert_hidden(model, truth, findings):
    """On new x, every finding's directions are null and its witness, which is not the truth, has the truth's f."""
    x = stream(2, "fresh").standard_normal((300, model.d))
    J, f = jacobian(model, x, truth), model(x, truth)
    for finding in findings:
        if finding.directions.size:
            unit = finding.directions / np.linalg.norm(finding.directions, axis=0)
            assert np.abs(J @ unit).max() < 1e-9 * np.abs(J).max(), finding.condition
        if finding.witness is not None:
            there, here = (Layout(model, len(q)).pack(q) for q in (finding.witness, truth))
            assert there.shape != here.shape or np.abs(there - here).max() > 0.1, finding.condition
            np.testing.assert_allclose(model(x, finding.witness), f, rtol=0, atol=1e-12 * (1 + np.abs(f).max()))
            assert finding.change < 1e-12


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("activation", ["identity", "tanh", "mlp"])
def test_jacobian_against_differences(gate, activation):
    model, truth = a_model(gate, activation=activation), a_truth(gate)
    x, h = stream(2, "x").standard_normal((20, 4)), 1e-4

    layout = Layout(model, len(truth))
    J = jacobian(model, x, truth)
    assert J.shape == (100, layout.size)

    def moved(k, step):
        return model(x, layout.unpack(layout.pack(truth) + step * np.eye(layout.size)[k])).ravel()

    for k in range(J.shape[1]):
        near, far = moved(k, h) - moved(k, -h), moved(k, 2 * h) - moved(k, -2 * h)
        np.testing.assert_allclose(J[:, k], (8 * near - far) / (12 * h), rtol=0, atol=1e-10)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("activation", ["identity", "tanh", "sigmoid", "softplus", "mlp"])
def test_innocent_truth_passes(gate, activation):
    """Nothing is hidden but the gauges: the bias for zero_init, m + 2 directions for its unshared control."""
    model, truth = a_model(gate, activation=activation), a_truth(gate)
    report = require(model, truth)
    assert report.broken == []
    hidden = {"zero_init": 1, "joint": 0, "joint_unshared": 0, "zero_init_unshared": 4 + 2}[gate]
    assert report.parameters - report.rank == sum(g.directions.shape[1] for g in report.gauges) == hidden
    assert report.conditioning > 1e-5
    if activation == "identity":
        assert_hidden(model, truth, report.gauges)


def twice(truth):
    return truth.take(np.array([0, 1, 1, 2]))


def same_key(truth):
    """Two true prompts with one key and two values."""
    p = truth.p.copy()
    p[2] = p[0]
    return Prompts(p, truth.b, truth.alpha, truth.p_value)


def same_score(model, truth):
    """Two shared prompts that differ along null B only."""
    p = truth.p.copy()
    p[2] = p[0] + np.linalg.svd(model.B)[2][-1]
    return Prompts(p, truth.b, truth.alpha)


# condition, gate, ranks of B and C, truth, L' - L, null directions beyond the gauges
BROKEN = [
    ("alpha = 0", "zero_init", 4, 4, a_truth(alpha=0.0), 0, 3 * 4 + 3 - 1),
    ("L = 1", "zero_init", 4, 4, a_truth(L=1), 0, 1),
    ("rank C", "zero_init", 4, 3, a_truth(), 0, 1),
    ("rank C", "zero_init", 4, 2, a_truth(), 0, 2),
    ("rank C", "joint_unshared", 4, 3, a_truth("joint_unshared"), 0, 3),
    ("rank C", "zero_init_unshared", 4, 3, a_truth("zero_init_unshared"), 0, 3),
    ("rank B", "zero_init", 3, 4, a_truth(), 1, 0),
    ("rank B", "joint", 3, 4, a_truth("joint"), 1, 0),
    ("rank B", "joint", 2, 1, a_truth("joint"), 0, 3),
    ("rank B", "joint_unshared", 3, 4, a_truth("joint_unshared"), 0, 3),
    ("rank B", "zero_init_unshared", 3, 4, a_truth("zero_init_unshared"), 0, 2),  # one of 3 is a shift of all keys
    ("equal keys", "zero_init", 4, 4, twice(a_truth()), 0, 5),
    ("equal keys", "joint", 4, 4, twice(a_truth("joint")), 0, 5),
    ("equal keys", "zero_init", 3, 4, same_score(a_model(rank_B=3), a_truth()), 0, 2),
    ("equal keys", "joint_unshared", 4, 4, same_key(a_truth("joint_unshared")), 0, 5),
    ("equal keys", "zero_init_unshared", 4, 4, same_key(a_truth("zero_init_unshared")), 0, 5),
    ("value trade", "joint_unshared", 4, 4, a_truth("joint_unshared"), 1, 0),
    ("value trade", "zero_init_unshared", 4, 4, a_truth("zero_init_unshared"), 2, 0),
    ("doubled prompts", "zero_init", 4, 4, a_truth(L=2), 1, 0),
    ("doubled prompts", "zero_init", 4, 4, a_truth(), 3, 0),
    ("saturated gate", "zero_init", 4, 4, a_truth(alpha=1.5), 0, 0),
    ("saturated gate", "zero_init", 4, 4, a_truth(alpha=40.0), 0, 1),
]


@pytest.mark.parametrize(("name", "gate", "rank_B", "rank_C", "truth", "over", "lost"), BROKEN)
def test_broken_condition_is_named(name, gate, rank_B, rank_C, truth, over, lost):
    model = a_model(gate, rank_B, rank_C)
    report = check(model, truth, over)
    assert {f.condition for f in report.broken} == {name}
    assert report.parameters - report.rank == sum(g.directions.shape[1] for g in report.gauges) + lost
    assert_hidden(model, truth, report.gauges + report.broken)
    with pytest.raises(IdentifiabilityError) as stop:
        require(model, truth, over)
    for text in (f"gate {gate}", f"{name}: ", CURES[name], report.broken[0].words, f"expect=({name!r},)"):
        assert text in str(stop.value)
    assert require(model, truth, over, expect=(name,)).rank == report.rank


def test_attention_head_hides_what_no_condition_of_the_theorem_allows():
    """2 D_h <= D: key and value of a shared prompt are as free as two prompts, so that alpha is hidden too."""
    W_q, W_k, W_v = stream(2, "head").standard_normal((3, 6, 2))
    model = head_to_model(W_q, W_k, W_v, 2)
    truth = Prompts(stream(2, "P").uniform(-1, 1, (3, 6)), np.zeros(3), 0.8)
    report = check(model, truth)
    assert [f.condition for f in report.broken] == ["rank C", "rank B", "rank B"]
    # Effectively unshared: 3 keys and 3 values of size 2, biases and alpha, less shifts of key and b and the scale.
    assert report.rank == 3 * 4 + 3 + 1 - (2 + 1 + 1)
    assert_hidden(model, truth, report.gauges + report.broken)
    assert "alpha against the size of C q" in str(report)


def test_doubled_prompts():
    """Log-partition squared: weights and places of all sums, half the tanh(alpha); L' = 3 is enough for L = 2."""
    truth = a_truth(L=2)
    twin = check(a_model(), truth, over=1).broken[0].witness
    assert twin is not None
    order = np.argsort(-twin.b)
    places = np.array([2 * truth.p[0], truth.p.sum(0), 2 * truth.p[1]])
    weights = np.array([truth.weights[0] ** 2, 2 * truth.weights.prod(), truth.weights[1] ** 2])
    np.testing.assert_allclose(twin.p[order], places[np.argsort(-weights)], atol=1e-14)
    np.testing.assert_allclose(twin.weights[order], np.sort(weights)[::-1], atol=1e-14)
    assert np.isclose(np.tanh(twin.alpha), np.tanh(truth.alpha) / 2)


def test_doubled_prompts_need_room():
    """They need a fitted prompt for each sum, a box and a range of sigma that hold them, and a softmax of their own."""
    pair, line = a_truth(L=2), Prompts(np.arange(3.0)[:, None] * np.full(4, 0.3), [0.0, 0.3, 0.1], 0.8)
    assert check(a_model(), a_truth(L=3), over=2).broken == []
    assert [f.condition for f in check(a_model(), line, over=2).broken] == ["doubled prompts"]
    assert check(a_model(), line, over=1).broken == []
    assert check(a_model(), pair, over=1, bound=1.2).broken == []
    assert check(a_model("joint"), a_truth("joint", L=2), over=1).broken == []
    wide, narrow = (Prompts(size * pair.p / np.abs(pair.p).max(), pair.b, 0.8) for size in (1.0, 0.3))
    assert check(a_model(activation="tanh"), wide, over=1).broken == []
    assert [f.condition for f in check(a_model(activation="tanh"), narrow, over=1).broken] == ["doubled prompts"]


@pytest.mark.parametrize(
    ("activation", "p", "conditions"),
    [
        ("tanh", 1.4, set()),
        ("tanh", 1.5, {"saturated sigma"}),
        ("tanh", 20.0, {"saturated sigma"}),
        ("sigmoid", 3.5, {"saturated sigma"}),
        ("mlp", 6.0, {"saturated sigma"}),
        ("identity", 20.0, set()),
        ("softplus", -3.0, {"saturated sigma"}),
        ("gelu", 0.4, set()),
        ("gelu", -0.3, {"injective sigma"}),
        ("gelu", -0.7517915246935645, {"saturated sigma"}),
        ("leaky_relu", -0.5, set()),
    ],
)
def test_sigma(activation, p, conditions):
    truth = a_truth()
    truth = Prompts(np.abs(truth.p), truth.b, truth.alpha)
    truth.p[1] = p
    assert {f.condition for f in check(a_model(activation=activation), truth).broken} == conditions


def test_twin_of_a_non_injective_sigma():
    truth, model = a_truth(), a_model(activation="gelu")
    truth = Prompts(np.abs(truth.p), truth.b, truth.alpha)
    truth.p[1, 2] = -0.3
    [finding] = check(model, truth).broken
    here, there = (float(part.split(")")[0]) for part in finding.words.split("sigma(")[1:])
    assert here == -0.3
    assert there < -1
    assert np.isclose(model.activation(here), model.activation(there), rtol=0, atol=1e-6)
    assert check(model, truth, bound=-0.99 * there).broken == []


def test_flat_sigma_lowers_the_rank():
    """At |p| = 20 sigma' of tanh is zero to rounding: four columns vanish."""
    truth = a_truth()
    truth.p[1] = 20.0
    report = check(a_model(activation="tanh"), truth)
    assert report.parameters - report.rank == 1 + 4


@pytest.mark.parametrize(
    ("model", "remark"),
    [
        (a_model(activation="leaky_relu"), "not smooth"),
        (a_model(activation="mlp"), "not elementwise"),
        (a_model("joint", rank_C=2), "rank C < m: harmless"),
        (a_model(rank_B=3), "rank B < m: harmless in exact fits"),
        (a_model("zero_init_unshared"), "canonical"),
    ],
)
def test_remarks_stop_nothing(model, remark):
    assert remark in str(require(model, a_truth(model.gate)))


def test_unnamed_directions_name_their_parameters():
    """All C q_j equal, a case without a name of its own: every b is free."""
    model, truth = a_model(rank_C=1), a_truth()
    level = model.C[0]
    truth = Prompts(truth.p + np.outer(1 - truth.p @ level, level) / (level @ level), truth.b, 0.8)
    report = check(model, truth)
    assert {f.condition for f in report.broken} == {"rank C", "unnamed"}
    assert "b[" in report.broken[-1].words
    assert_hidden(model, truth, report.broken)


def test_bad_arguments():
    with pytest.raises(ValueError, match="expect must name conditions out of alpha = 0, L = 1"):
        require(a_model(), a_truth(), expect=("rank D",))
    with pytest.raises(ValueError, match=r"p of prompts must be \(L, 4\), as B says; got \(3, 5\)"):
        check(a_model(), a_truth(m=5))


def test_document_has_the_committed_numbers_and_the_code_gives_them():
    """Tables of docs/identifiability.md are those of the results file; ranks and broken conditions are found again."""
    result = json.loads(cases.FILE.read_text(encoding="utf-8"))
    document = (ROOT / "docs" / "identifiability.md").read_text(encoding="utf-8")
    for table in cases.tables(result).values():
        assert table in document

    def frozen(record):
        broken = [(f["condition"], f["null_directions"]) for f in record.get("broken", [])]
        return [record[key] for key in ("group", "name", "parameters", "rank", "gauges")], broken

    again = cases.measure()
    assert [frozen(record) for record in again] == [frozen(record) for record in result["cases"]]
    assert max(f.get("change", 0.0) for record in again for f in record.get("broken", [])) < 1e-12


def test_least_squares_takes_doubled_prompts():
    """Of 8 data sets some fits are doubled prompts and some are not; the seed is fixed, else false alarm 2^-7."""
    row = cases.least_squares_choice(1000, 8)
    assert 0 < row["doubled"] < 8
