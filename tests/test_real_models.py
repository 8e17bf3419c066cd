"""What real models see of a prompt: counted, measured on weights, and against derivatives of attention itself."""

import json

import numpy as np
import pytest
import torch
from llm_helpers import data
from transformers import AutoConfig, AutoModelForCausalLM

from common import tables
from common.arguments import CommandError
from common.paths import RESULTS, SCRATCH
from theory.real import COLUMNS, main, projections, rank_and_condition, row_of, shape_of
from theory.shapes import SHAPES, Shape, counted

TINY = {"vocab_size": 50, "hidden_size": 40, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}


def save(folder, family, **options):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY | options)).save_pretrained(folder)
    return folder


def test_published_counts():
    seen = {s.model: (s.seen, s.hidden) for s in SHAPES}
    assert seen["SmolLM2-135M"] == (384, 576)
    assert seen["Llama-3-8B"] == seen["Mistral-7B"] == (2048, 4096)
    assert seen["Qwen2.5-7B"] == (1024, 3584)
    assert seen["LLaMA-7B"] == (4096, 4096)
    row = counted(next(s for s in SHAPES if s.model == "SmolLM2-135M"))
    assert (row["value_free_of_key"], row["value_numbers"]) == (192, 192)
    assert (row["prompt_numbers"], row["saved"]) == (10 * 28 * 576, 10 * 28 * 192)
    assert (row["network_seen"], row["network_value_free_of_key"]) == (64, 0)


@pytest.mark.parametrize(
    ("family", "model"),
    [("llama", "LLaMA-7B"), ("mistral", "Mistral-7B"), ("gemma2", "Gemma-2-2B"), ("phi3", "Phi-3-mini")],
)
def test_dimensions_are_the_defaults_of_transformers(family, model, tmp_path):
    """Families whose default configuration is that model."""
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    assert shape_of(tmp_path, model) == next(s for s in SHAPES if s.model == model)


@pytest.mark.parametrize(
    ("family", "options", "seen", "free"),
    [
        ("llama", {"num_key_value_heads": 1, "head_dim": 10}, 20, 10),
        ("llama", {"num_key_value_heads": 4, "head_dim": 10}, 40, 0),
        ("qwen2", {"num_key_value_heads": 2}, 40, 20),
        ("qwen3", {"num_key_value_heads": 2, "head_dim": 8}, 30, 16),
        ("gemma3_text", {"num_key_value_heads": 1, "head_dim": 16}, 31, 16),
        ("phi3", {"num_key_value_heads": 1, "pad_token_id": 0}, 20, 10),
    ],
)
def test_ranks_against_derivatives_of_the_attention_module(family, options, seen, free, tmp_path):
    """Key and value of a prompt by the module's own projections and norms, and their Jacobian by autograd."""
    folder = save(tmp_path, family, **options)
    shape = shape_of(folder, "tiny")
    row = row_of(shape, folder)
    assert (row["seen"], row["value_free_of_key"], row["source"]) == (seen, free, "weights")
    assert (shape.seen, shape.seen - shape.keys) == (seen, free)
    assert row["saved"] == counted(shape)["saved"] == 10 * (40 - min(40, 2 * shape.values))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    for layer in model.model.layers:
        attention = layer.self_attn

        def of(p, attention=attention):
            size = shape.values
            if hasattr(attention, "qkv_proj"):
                key, value = attention.qkv_proj(p)[-2 * size :].split(size)
            else:
                key, value = attention.k_proj(p), attention.v_proj(p)
            if hasattr(attention, "k_norm"):
                key = attention.k_norm(key.view(-1, shape.head_dim)).flatten()
            return torch.cat([key, value])

        # Large prompts, for the normalisation adds 1e-6 to the square, which lets a little of the size through.
        p = 1e4 * torch.randn(shape.hidden, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        J = torch.autograd.functional.jacobian(of, p).numpy()
        J[: shape.values] *= np.linalg.norm(J[shape.values :]) / np.linalg.norm(J[: shape.values])
        assert np.linalg.matrix_rank(J, tol=1e-6 * np.linalg.norm(J, 2)) == seen
        assert seen - np.linalg.matrix_rank(J[: shape.values], tol=1e-6 * np.linalg.norm(J, 2)) == free


def test_condition_by_hand(tmp_path):
    """Weights with known singular values: layers 2 and 8, heads alike."""
    folder = save(tmp_path, "llama", num_key_value_heads=1, head_dim=10)
    shape = shape_of(folder, "tiny")
    rng = np.random.default_rng(0)
    state = AutoModelForCausalLM.from_pretrained(folder)
    Q = np.linalg.qr(rng.standard_normal((40, 20)))[0].T
    for scale, layer in zip((2.0, 8.0, 4.0), state.model.layers, strict=True):
        rows = torch.tensor(Q * np.linspace(1, scale, 20)[:, None], dtype=torch.float32)
        layer.self_attn.k_proj.weight.data, layer.self_attn.v_proj.weight.data = rows[:10].clone(), rows[10:].clone()
    state.save_pretrained(folder)
    row = row_of(shape, folder)
    assert (row["condition_low"], row["condition_high"]) == (2.0, 8.0)
    assert (row["head_rank"], row["head_condition_high"], row["network_rank"]) == (20, 8.0, 20)
    assert rank_and_condition(np.diag([3.0, 1.0, 1e-11])) == (2, 3.0)


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--out", str(out)]) == 0
    assert (
        "Qwen3-8B (qwen3, 36 layers): a layer has 8 key-value heads of size 128 and sees 2040 of"
        in capsys.readouterr().out
    )
    folder = save(tmp_path / "tiny", "qwen2", num_key_value_heads=1)
    assert main([str(folder), "--out", str(out)]) == 0
    assert "tiny (qwen2, 3 layers): a layer has 1 key-value heads of size 10 and sees 20 of" in capsys.readouterr().out
    rows = tables.read(out / "real_models.csv", COLUMNS, ("model",))
    assert [r["model"] for r in rows] == [*(s.model for s in SHAPES), "tiny"]
    assert json.loads((out / "real_models.json").read_text())["results"]["tiny"].keys() == {"model.safetensors"}
    assert main([str(folder / "config.json"), "--out", str(out)]) == 0  # the same name, without weights
    assert tables.read(out / "real_models.csv", COLUMNS)[-1]["source"] == "dimensions"
    capsys.readouterr()
    (folder / "model.safetensors").write_bytes(b"no")
    assert main([str(folder), "--out", str(out)]) == 2
    assert "has a damaged *.safetensors file" in capsys.readouterr().err
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    assert main([str(folder), "--out", str(out)]) == 2
    assert "must hold the configuration of a decoder that transformers knows" in capsys.readouterr().err
    assert main(["./nowhere", "--out", str(out)]) == 2
    assert "there is no ./nowhere" in capsys.readouterr().err


def test_weights_of_another_shape(tmp_path):
    folder = save(tmp_path, "llama", num_key_value_heads=1)
    shape = Shape("tiny", "llama", 3, 40, 4, 2, 10)
    with pytest.raises(CommandError, match=r"must have a self_attn.k_proj.weight of shape \(20, 40\); got"):
        list(projections(folder, shape))


def test_stories260k():
    """Real weights: every layer sees all of a prompt, keys and values free of each other, badly conditioned."""
    folder = data("stories260K", "model.safetensors").parent
    row = row_of(shape_of(folder, "stories260K"), folder)
    assert (row["seen"], row["hidden"], row["value_free_of_key"], row["head_rank"]) == (64, 64, 32, 16)
    assert row["condition_high"] > 100


@pytest.mark.real
def test_smollm2():
    """The committed row of SmolLM2, measured again."""
    folder = SCRATCH / "models" / "smollm2"
    if not folder.exists():
        pytest.skip("needs SmolLM2: python llm/base.py smollm2")
    committed = next(r for r in tables.read(RESULTS / "theory" / "real_models.csv", COLUMNS) if r["model"] == "smollm2")
    row = row_of(shape_of(folder, "smollm2"), folder)
    for name, value in row.items():
        assert committed[name] == str(value) or float(committed[name]) == pytest.approx(value, rel=1e-3), name
