"""A real head as a study's model: against attention on tokens, against the real model, and its file."""

import json
from dataclasses import replace

import numpy as np
import pytest
from llm_helpers import data

from theory.attention import head_prompts, head_to_model, rotations
from theory.heads import axes, head_of, load, main, path_of, read_model, save, seen
from theory.identifiability import check
from theory.model import Prompts
from theory.studies import STUDIES


@pytest.fixture(scope="module")
def drawn():
    """Weights (D, D_h) and hidden states (texts, tokens, D) of no model."""
    rng = np.random.default_rng(3)
    weights = [rng.standard_normal((12, 4)) for _ in range(3)]
    return weights, rng.standard_normal((50, 20, 12)) @ rng.standard_normal((12, 12)) / 3


@pytest.mark.parametrize("gate", ["zero_init", "joint"])
def test_model_is_the_head_on_tokens(drawn, gate):
    """f of z, where R z = u(x), is that of `theory.attention.head_to_model` on x with prompts U c; both gates."""
    weights, states = drawn
    head = head_of(*weights, states=states, theta=500.0)
    whole = head_to_model(*weights, tokens=2, rotation=rotations(range(2), 4, 500.0), gate=gate)
    before, after = states[:7, 3], states[:7, 4]
    z = np.linalg.solve(head.root, seen(*weights, before=before, after=after).T).T
    c = np.random.default_rng(1).standard_normal((3, 4))
    U, alpha = axes(states.reshape(-1, 12), 4), 0.7 if gate == "zero_init" else None
    expected = whole(np.hstack([before, after]), head_prompts(c @ U.T, alpha))
    np.testing.assert_allclose(head.model("identity", gate)(z, Prompts(c, np.zeros(3), alpha)), expected, rtol=1e-9)


def test_inputs_have_the_moments_of_hidden_states(drawn):
    weights, states = drawn
    head = head_of(*weights, states=states, theta=500.0)
    pairs = np.concatenate([seen(*weights, before=text[:-1], after=text[1:]) for text in states])
    np.testing.assert_allclose(head.root @ head.root.T, np.mean([np.outer(u, u) for u in pairs], axis=0), rtol=1e-9)
    flat = states.reshape(-1, 12)
    U = axes(flat, 4)
    c = flat @ np.linalg.pinv(U).T
    np.testing.assert_allclose(c.T @ c / len(c), np.eye(4), atol=1e-9)
    assert np.linalg.norm(flat - c @ U.T) < np.linalg.norm(flat)


def test_file(drawn, tmp_path):
    weights, states = drawn
    head = head_of(*weights, states=states, theta=500.0)
    save(head, tmp_path / "head.json", {"model": "none"})
    back = load(tmp_path / "head.json")
    for name in ("theta", "root", "key", "value"):
        np.testing.assert_allclose(getattr(back, name), getattr(head, name), rtol=1e-8)
    record = json.loads((tmp_path / "head.json").read_text())
    record["numbers"]["key"][0][0] += 1e-3
    (tmp_path / "head.json").write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"must be the record of a real head, and is not as it was written; restore it"
    ):
        load(tmp_path / "head.json")
    with pytest.raises(FileNotFoundError, match="must be the record of a real head"):
        load(tmp_path / "none.json")


def test_study_needs_no_weights():
    """Conditions of Theorem 4.2 hold for every truth of the study; its configuration knows the file."""
    study = STUDIES["real-head"]
    head = load(path_of(study.head or ""))
    assert np.linalg.matrix_rank(head.key) == np.linalg.matrix_rank(head.value) == len(head.key) == study.d_out
    for number in range(study.truths):
        model, truth = study.drawn(number)
        report = check(model, truth)
        assert (report.broken, len(report.gauges), report.rank) == ([], 1, report.parameters - 1)
    assert len(study.configuration()["head_sha256"]) == 64
    assert "head_sha256" not in STUDIES["exact-linear"].configuration()
    with pytest.raises(ValueError, match="d and d_out of head stories260K are 40, 8; got 4, 8"):
        replace(study, d=4).drawn(0)


def test_numbers_of_the_real_model(tmp_path, capsys):
    """stories260K on the first stories: u by the model's own modules; the file of the whole text is near."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = data("stories260K", "model.safetensors").parent
    text = data("text", "tinystories_sample.txt").read_text()[:40_000]
    head, pairs = read_model(folder, text, 2, 5)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.tensor(AutoTokenizer.from_pretrained(folder)(text, verbose=False)["input_ids"])
    rows = ids[: len(ids) // 256 * 256].view(-1, 256)
    layer = base.model.layers[2]
    with torch.no_grad():
        x = layer.input_layernorm(base.model(rows, output_hidden_states=True).hidden_states[2])
        q, k, v = (getattr(layer.self_attn, f"{name}_proj")(x) for name in "qkv")
        q, k, v = q[..., 40:48], k[..., 16:24], v[..., 16:24]  # head 5 has key-value head 2
        u = torch.cat([q[:, 1:], k[:, :-1], k[:, 1:], v[:, :-1], v[:, 1:]], -1).reshape(-1, 40)
        total = u.T @ u / len(u)
    assert pairs == len(u)
    np.testing.assert_allclose(head.root @ head.root.T, total.numpy(), rtol=1e-8, atol=1e-10)
    out = tmp_path / "head.json"
    (tmp_path / "text.txt").write_text(text)
    assert main([str(folder), "--text", str(tmp_path / "text.txt"), "--out", str(out)]) == 0
    part, stored = load(out), load(path_of("stories260K"))
    difference = part.root @ part.root.T - stored.root @ stored.root.T
    assert np.linalg.norm(difference) < 0.1 * np.linalg.norm(stored.root @ stored.root.T)
    capsys.readouterr()
    for words, message in {
        ("--layer", "5"): "--layer must be from 0 to 4; got 5",
        ("--head", "8"): "--head must be from 0 to 7; got 8",
    }.items():
        assert main([str(folder), "--text", str(tmp_path / "text.txt"), *words]) == 2
        assert capsys.readouterr().err == f"python -m theory.heads: error: {message}\n"
    assert main([str(tmp_path), "--text", str(tmp_path / "text.txt")]) == 2
    assert "must hold a LLaMA and its tokenizer" in capsys.readouterr().err
