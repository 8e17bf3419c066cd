"""The parity tests on a GPU, in half precision, with the kernels that only a GPU has. Skipped where there is none."""

import importlib.util

import pytest
import torch

from tests.llm_helpers import MAIN, adapted, adapter_of, configuration, tiny, tokens
from zeroinit.config import AdapterConfig
from zeroinit.model import attach, load, save
from zeroinit.trainer import AdapterTrainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}


def kernels() -> list:
    missing = pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs the flash-attn package")
    return ["eager", "sdpa", pytest.param("flash_attention_2", marks=missing)]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("family", MAIN)
@torch.no_grad()
def test_zero_gate_is_the_base_bit_for_bit(family, dtype):
    model, ids = tiny(family, HALF[dtype]).cuda(), tokens().cuda()
    base = model(ids).logits
    attach(model)
    assert {p.device.type for p in adapter_of(model).parameters()} == {"cuda"}
    assert torch.equal(model(ids).logits, base)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("prompt", ["linear", "nonlinear", "random_init"])
@pytest.mark.parametrize("kernel", kernels())
@torch.no_grad()
def test_half_precision_agrees_with_float64(kernel, prompt, dtype):
    """Error against float64 on the CPU at most twice the base's own, and not above 2 percent of the logits' scale."""
    exact = adapted(tiny(dtype=torch.float64, **SIZES), prompt=prompt).double()
    half = tiny(dtype=torch.float64, **SIZES).to(HALF[dtype]).cuda()
    half.set_attn_implementation(kernel)
    adapted(half, prompt=prompt)
    adapter_of(half).load_state_dict(adapter_of(exact).state_dict())
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[0, :3] = 0
    for case in ({"input_ids": tokens()}, {"input_ids": tokens(), "attention_mask": mask}):
        seen = case.get("attention_mask", torch.ones(2, 11)).bool()
        expected = exact(**case).logits[seen]
        got = half(**{k: v.cuda() for k, v in case.items()}).logits.cpu().double()[seen]
        assert (got - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@pytest.mark.parametrize("kernel", kernels())
def test_generation_with_cache_equals_without(kernel, prompt):
    model = tiny(dtype=torch.bfloat16, **SIZES).cuda()
    model.set_attn_implementation(kernel)
    adapted(model, prompt=prompt)
    past, out, ids = None, [], tokens().cuda()
    with torch.no_grad():
        for piece in [ids[:, :2], *ids[:, 2:].split(1, 1)]:
            result = model(piece, past_key_values=past, use_cache=True)
            past = result.past_key_values
            out.append(result.logits)
        whole = model(ids).logits
    assert (torch.cat(out, 1) - whole).norm() / whole.norm() < 0.03


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("prompt", ["linear", "nonlinear", "nonlinear_shared", "random_init"])
def test_training_stays_finite(prompt, dtype):
    model, ids = tiny(dtype=HALF[dtype], **SIZES).cuda().train(), tokens().cuda()
    attach(model, configuration(prompt))
    optimizer = torch.optim.AdamW(adapter_of(model).parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(p.isfinite().all() for p in adapter_of(model).parameters())
    assert losses[-1] < losses[0]


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs the bitsandbytes package")
def test_a_4_bit_base_trains_with_the_trainer(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments

    tiny(**SIZES).save_pretrained(tmp_path / "base")
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=options, device_map={"": 0})
    attach(model, AdapterConfig(layers=2))
    rows = [{"input_ids": row.tolist(), "labels": row.tolist()} for row in tokens(12, 9)]
    arguments = TrainingArguments(str(tmp_path / "run"), max_steps=3, per_device_train_batch_size=2, report_to=[])
    AdapterTrainer(model, arguments, train_dataset=rows).train()
    assert adapter_of(model).gate.abs().min() > 0
    save(model, tmp_path / "adapter")
    load(tiny(**SIZES), tmp_path / "adapter")
