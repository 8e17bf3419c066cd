"""One attention head computed by plain attention equals the regression model it is said to be."""

import numpy as np
import pytest

from common.streams import stream
from theory.attention import head_prompts, head_to_model, ranks, rotations

D, SIZE = 6, 4


def rotate_half(x):
    """Hugging Face's rotation of one vector, without its matrix."""
    half = len(x) // 2
    return np.concatenate([-x[half:], x[:half]])


def rope(x, position, theta=10000.0):
    """x cos + rotate_half(x) sin, as in transformers' apply_rotary_pos_emb."""
    frequency = 1 / theta ** (np.arange(0, len(x), 2) / len(x))
    angle = np.concatenate([position * frequency] * 2)
    return x * np.cos(angle) + rotate_half(x) * np.sin(angle)


def softmax(scores):
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


def head_output(tokens, query, prompts, alpha, W_q, W_k, W_v, positions):
    """Plain attention of one sequence at one query token, one number at a time; alpha None: one softmax for all."""
    turn = (lambda v, j: v) if positions is None else (lambda v, j: rope(v, positions[j]))
    q = turn(W_q.T @ tokens[query], query)
    scores = [q @ turn(W_k.T @ tokens[j], j) / np.sqrt(len(q)) for j in range(query + 1)]
    values = [W_v.T @ tokens[j] for j in range(query + 1)]
    prompt_scores = [q @ (W_k.T @ p) / np.sqrt(len(q)) for p in prompts]
    prompt_values = [W_v.T @ p for p in prompts]
    if alpha is None:
        weights = softmax(scores + prompt_scores)
        return sum(w * v for w, v in zip(weights, values + prompt_values, strict=True))
    own = sum(w * v for w, v in zip(softmax(scores), values, strict=True))
    added = sum(w * v for w, v in zip(softmax(prompt_scores), prompt_values, strict=True))
    return own + np.tanh(alpha) * added


def weights(rng, heads=1):
    """W_q, W_k, W_v for each head; gain chosen so that scores are of size 1."""
    return rng.standard_normal((heads, 3, D, SIZE)) / np.sqrt(D)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.7, -3.0])
@pytest.mark.parametrize("roped", [False, True])
@pytest.mark.parametrize(("tokens", "query", "L"), [(1, 0, 1), (4, 3, 3), (5, 2, 10)])
def test_head_equals_model(tokens, query, L, roped, alpha):
    rng = stream(1, "attention", tokens, L)
    W_q, W_k, W_v = weights(rng)[0]
    x, P = rng.standard_normal((8, tokens, D)), rng.standard_normal((L, D))
    positions = np.arange(tokens) + 3 if roped else None
    R = None if positions is None else rotations(positions, SIZE)
    gate = "joint" if alpha is None else "zero_init"
    model = head_to_model(W_q, W_k, W_v, tokens, query, R, gate=gate)
    plain = [head_output(s, query, P, alpha, W_q, W_k, W_v, positions) for s in x]
    np.testing.assert_allclose(model(x.reshape(8, -1), head_prompts(P, alpha)), plain, rtol=0, atol=1e-12)


def test_zero_gate_is_the_base_head():
    rng = stream(1, "zero gate")
    model = head_to_model(*weights(rng)[0], 3, rotation=rotations(range(3), SIZE))
    x = rng.standard_normal((5, 3 * D))
    assert (model(x, head_prompts(rng.standard_normal((2, D)), 0.0)) == model.pretrained(x)[0]).all()


def test_layer_of_several_heads():
    """Heads share the prompts and have a gate each; their outputs, concatenated, go through W_o."""
    rng = stream(1, "heads")
    heads, tokens, alpha = weights(rng, 3), 4, [0.3, -1.0, 2.0]
    x, P, W_o = rng.standard_normal((6, tokens, D)), rng.standard_normal((5, D)), rng.standard_normal((3 * SIZE, D))
    R = rotations(range(tokens), SIZE)
    layer = np.zeros((6, D))
    for h, W in enumerate(heads):
        f = head_to_model(*W, tokens, rotation=R)(x.reshape(6, -1), head_prompts(P, alpha[h]))
        layer += f @ W_o[h * SIZE : (h + 1) * SIZE]
    plain = [
        np.concatenate([head_output(s, 3, P, a, *W, range(4)) for W, a in zip(heads, alpha, strict=True)]) @ W_o
        for s in x
    ]
    np.testing.assert_allclose(layer, plain, rtol=0, atol=1e-12)


def test_nonlinear_prompts():
    """With sigma, the head sees sigma(P)."""
    rng = stream(1, "nonlinear")
    W, x, P = weights(rng)[0], rng.standard_normal((4, 2, D)), rng.standard_normal((3, D))
    model = head_to_model(*W, 2, activation="mlp")
    plain = [head_output(s, 1, model.activation(P), 0.5, *W, None) for s in x]
    np.testing.assert_allclose(model(x.reshape(4, -1), head_prompts(P, 0.5)), plain, rtol=0, atol=1e-12)


def test_rotations():
    R = rotations(range(7), 8, theta=500.0)
    x = stream(1, "rope").standard_normal(8)
    np.testing.assert_allclose(R @ x, [rope(x, t, 500.0) for t in range(7)], atol=1e-14)
    np.testing.assert_allclose(R[6].T @ R[2], R[4].T, atol=1e-14)  # only the distance between positions counts
    with pytest.raises(ValueError, match="head_size must be even"):
        rotations(range(3), 5)


def test_ranks_of_a_head_break_theorem_4_2():
    """Rank B and rank C are the head size, 2 < 6; null B and null C meet in 6 - 2 * 2 directions."""
    W_q, W_k, W_v = stream(1, "ranks").standard_normal((3, D, 2))
    report = ranks(head_to_model(W_q, W_k, W_v, 2))
    assert (report.B, report.C, report.m, len(report.failing)) == (2, 2, D, 4)
    assert "does not cover this head" in str(report)
    assert "share 2 null directions" in str(report)
    assert "key and value of a prompt move independently" in str(report)


def test_ranks_of_a_wide_head_hold():
    W_q, W_k, W_v = stream(1, "ranks").standard_normal((3, D, D))
    report = ranks(head_to_model(W_q, W_k, W_v, 2))
    assert report.failing == ()
    assert "both conditions of Theorem 4.2 hold" in str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W_k": np.zeros((D, 3))}, r"W_k \(6, 3\)"),
        ({"W_v": np.zeros((5, SIZE))}, r"W_v \(5, 4\)"),
        ({"query": 4}, "from 0 to 3; got 4"),
        ({"rotation": np.zeros((2, SIZE, SIZE))}, r"\(4, 4, 4\); got \(2, 4, 4\)"),
    ],
)
def test_bad_shapes_are_named(change, message):
    W = np.zeros((D, SIZE))
    with pytest.raises(ValueError, match=message):
        head_to_model(**{"W_q": W, "W_k": W, "W_v": W, "tokens": 4, **change})
