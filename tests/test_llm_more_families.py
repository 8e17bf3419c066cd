"""Families beyond the main ones: keys and values of the class's own forward, zero gate, caches, gradients.

Zero gate and caches alone prove nothing about keys (they hold with wrong ones), so the first test looks at the keys.
"""

import pytest
import torch
import transformers
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import zeroinit
from common.paths import ROOT
from tests import llm_families_table
from tests.llm_helpers import FAMILIES, MORE, adapted, adapter_of, tiny, tokens
from zeroinit import families
from zeroinit.families import KeyPath, attention_modules


def own_keys_and_values(module, hidden, monkeypatch):
    """What the module's unmodified forward hands to attention, with the rotation made an identity."""
    seen = []

    def record(module, query, key, value, mask, **kwargs):
        seen.extend([key[0], value[0]])
        return torch.zeros(1, query.shape[2], query.shape[1], query.shape[3]), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "record", record)
    module.config._attn_implementation_internal = "record"
    width = getattr(module, "rotary_ndims", module.head_dim)
    still = torch.ones(1, len(hidden), width), torch.zeros(1, len(hidden), width)
    if isinstance(module, transformers.models.gpt_oss.modeling_gpt_oss.GptOssAttention):
        still = tuple(t[..., : width // 2] for t in still)
    with torch.no_grad():
        positions = torch.zeros(1, len(hidden), dtype=torch.long)
        module(hidden[None], position_embeddings=still, attention_mask=None, position_ids=positions)
    return seen


def difference(module, monkeypatch) -> float:
    hidden = torch.randn(5, 48, generator=torch.Generator().manual_seed(2))
    theirs = own_keys_and_values(module, hidden, monkeypatch)
    with torch.no_grad():
        ours = families.project_prompts(module, hidden)
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", MORE)
def test_prompts_take_the_path_of_text(family, monkeypatch):
    assert difference(attention_modules(tiny(family))[1][1], monkeypatch) < 1e-5


@pytest.mark.parametrize("family", ["hunyuan", "olmo2", "phi", "stablelm", "lfm2", "qwen3-next", "cohere"])
def test_a_wrong_path_is_noticed(family, monkeypatch):
    module = attention_modules(tiny(family))[1][1]
    monkeypatch.setitem(families.FAMILIES, type(module).__name__, KeyPath(norm="none"))
    assert difference(module, monkeypatch) > 1e-2


@pytest.mark.parametrize("family", MORE)
@torch.no_grad()
def test_zero_gate_is_the_base_bit_for_bit(family):
    model, ids = tiny(family), tokens()
    before = model(ids).logits
    assert torch.equal(adapted(model, None)(ids).logits, before)
    zeroinit.detach(model)
    assert not torch.equal(adapted(model)(ids).logits, before)


@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@pytest.mark.parametrize("family", MORE)
@torch.no_grad()
def test_cached_is_uncached(family, prompt):
    model, ids = adapted(tiny(family), prompt=prompt), tokens(1, 9)
    whole, past, steps = model(ids, use_cache=False).logits, None, []
    for part in [ids[:, :5], *ids[:, 5:].split(1, 1)]:
        out = model(part, past_key_values=past, use_cache=True)
        past = out.past_key_values
        steps.append(out.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gate", ["head", "adapt"])
@pytest.mark.parametrize("family", MORE)
def test_gradients_reach_prompts_and_gates(family, gate):
    model, ids = adapted(tiny(family), gate=gate).train(), tokens(1, 7)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().max() > 0 for p in adapter_of(model).parameters())


def test_every_known_family_is_tested():
    built = {type(attention_modules(tiny(family))[0][1]).__name__ for family in FAMILIES | MORE}
    assert built == set(families.FAMILIES)


def test_the_table_in_the_docs_is_that_of_the_tests():
    text = (ROOT / "docs" / "llm.md").read_text()
    assert text == llm_families_table.page(text), "run: python -m tests.llm_families_table"


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_supports_says_yes(family):
    works, reason = zeroinit.supports(tiny(family).config)
    assert works, reason


@pytest.mark.parametrize(
    ("name", "reason"), [("DeepseekV3", "latent"), ("GPT2", "one transposed projection"), ("Bloom", "interface"),
                         ("Mamba", "unknown|interface"), ("ViT", "no causal language model")]
)  # fmt: skip
def test_supports_says_why_not(name, reason):
    works, why = zeroinit.supports(getattr(transformers, f"{name}Config")())
    assert not works
    assert len(why) < 200
    assert any(part in why for part in reason.split("|")), why
