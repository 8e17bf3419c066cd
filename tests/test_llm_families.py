"""Every family: at zero gate the base bit for bit, else in agreement with two oracles, or refused by name."""

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import zeroinit.attention
from tests.llm_helpers import FAMILIES, MAIN, adapted, adapter_of, literal_logits, tiny, tokens
from zeroinit import families
from zeroinit.config import AdapterConfig
from zeroinit.families import attention_modules
from zeroinit.model import attach


def padded(rows: int = 2, length: int = 11, padding: int = 3) -> dict:
    """Token ids with the first row left-padded."""
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, :padding] = 0
    return {"input_ids": tokens(rows, length).masked_fill(mask == 0, 0), "attention_mask": mask}


def precision(family: str) -> float:
    """Some families normalise keys, rotate, or take their eager softmax in float32 even in a float64 model."""
    return 5e-6 if family in ("qwen3", "qwen3-moe", "gemma3", "gemma2", "ernie4_5") else 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_zero_gate_is_the_base_bit_for_bit(family, dtype):
    model = tiny(family, dtype)
    cases = [{"input_ids": tokens()}, padded()]
    before = [model(**case).logits for case in cases]
    for prompt in ("linear", "nonlinear", "nonlinear_shared"):
        adapted(model, None, prompt, name=prompt)
        for case, logits in zip(cases, before, strict=True):
            assert torch.equal(model(**case).logits, logits)


@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_agrees_with_the_literal_attention(family, prompt):
    # The literal attention caps scores, which sdpa in earlier versions of transformers silently leaves out.
    eager = "eager" if family == "gemma2" else None
    model = adapted(tiny(family, torch.float64, eager), prompt=prompt).double()
    adapter = adapter_of(model)
    prompts = {layer: adapter.prompts_of(layer) for layer in (2, 3)}
    gates = None if adapter.joint else {layer: adapter.gate[layer - 2] for layer in (2, 3)}
    # In float64 the eager attention of Gemma 2 has no number for a row that is all padding, with or without adapters.
    case = padded(padding=0 if family == "gemma2" else 3)
    expected = literal_logits(family, prompts, gates, case)
    seen = case["attention_mask"].bool()
    torch.testing.assert_close(model(**case).logits[seen], expected[seen], rtol=0, atol=precision(family))


@pytest.mark.parametrize("family", MAIN)
@torch.no_grad()
def test_random_init_is_prompts_as_past_key_values(family):
    # A sliding window of the unmodified model would count prompts as text, so it is made longer than both together.
    changes = {"sliding_window": 64} if "sliding_window" in FAMILIES[family][1] else {}
    base = tiny(family, torch.float64, **changes)
    model = adapted(tiny(family, torch.float64, **changes), prompt="random_init", layers=4).double()
    ids, past = tokens(), DynamicCache()
    for layer, (_, module) in enumerate(attention_modules(base)):
        keys, values = families.project_prompts(module, adapter_of(model).prompts_of(layer))
        past.update(keys.expand(2, -1, -1, -1), values.expand(2, -1, -1, -1), layer)
    expected = base(
        ids,
        past_key_values=past,
        attention_mask=torch.ones(2, 5 + 11, dtype=torch.long),
        position_ids=torch.arange(11).expand(2, -1),
    ).logits
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=precision(family))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_prompts_take_the_path_of_text(family, monkeypatch):
    """The attention module's own forward, with the rotation made an identity, gives the same keys and values."""
    model, seen = tiny(family, torch.float64), []
    module = attention_modules(model)[1][1]

    def record(module, query, key, value, mask, **kwargs):
        seen.extend([key[0], value[0]])
        return torch.zeros(1, query.shape[2], query.shape[1], query.shape[3], dtype=query.dtype), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "record", record)
    module.config._attn_implementation_internal = "record"
    prompts = torch.randn(5, 48, dtype=torch.float64)
    still = (
        torch.ones(1, 5, module.head_dim, dtype=torch.float64),
        torch.zeros(1, 5, module.head_dim, dtype=torch.float64),
    )
    module(prompts[None], position_embeddings=still, attention_mask=None)
    for ours, theirs in zip(families.project_prompts(module, prompts), seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=precision(family))


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=97), "GPT2Attention"),
        (transformers.GPTNeoXConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=97,
                                    intermediate_size=32), "GPTNeoXAttention: .* interleaved in one projection"),
        (transformers.DogeConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=97,
                                 intermediate_size=32), "masks keys by their values"),
        (transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=2, vocab_size=97), "attention interface"),
    ],
    ids=["gpt2", "gpt-neox", "doge", "bloom"],
)  # fmt: skip
def test_other_families_are_refused_by_name(config, named):
    model = transformers.AutoModelForCausalLM.from_config(config)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=named):
        attach(model)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_class_of_the_same_name_elsewhere_is_refused():
    model = tiny()
    for _, module in attention_modules(model):
        module.__class__ = type("LlamaAttention", (type(module),), {"__module__": "someone.elses"})
    with pytest.raises(ValueError, match="LlamaAttention"):
        attach(model)


@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@torch.no_grad()
def test_eager_and_sdpa_agree(family, prompt):
    one, two = (adapted(tiny(family, attention=kind), prompt=prompt) for kind in ("eager", "sdpa"))
    case = padded()
    seen = case["attention_mask"].bool()
    torch.testing.assert_close(one(**case).logits[seen], two(**case).logits[seen], rtol=1e-5, atol=1e-5)
    assert one.config._attn_implementation == "zero_init_eager"
    weights = one.model(**case, output_attentions=True).attentions
    prompts = 5 if prompt == "random_init" else 0
    assert [w.shape[-1] for w in weights] == [11, 11, 11 + prompts, 11 + prompts]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3"])
@torch.no_grad()
def test_packed_sequences_are_those_alone(family, prompt, attention):
    """Two texts in one row, told apart by positions that start again: each sees the prompts and itself."""
    model = adapted(tiny(family, attention=attention), prompt=prompt)
    texts = [tokens(1, length, seed=length) for length in (9, 8)]
    positions = torch.cat([torch.arange(9), torch.arange(8)])[None]
    packed = model(torch.cat(texts, 1), position_ids=positions, use_cache=False).logits
    alone = torch.cat([model(text, use_cache=False).logits for text in texts], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@torch.no_grad()
def test_flash_attention_is_asked_for_what_it_knows(prompt, monkeypatch):
    """Flash attention needs a GPU; a stand-in with its conventions (2D mask, causal from the last key) checks ours."""

    def flash(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **kwargs):
        assert module.config._attn_implementation == "flash_attention_2"
        assert module.is_causal
        assert sliding_window is None
        queries, keys = query.shape[2], key.shape[2]
        visible = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
        if attention_mask is not None:
            visible = visible & attention_mask[:, None, None, :].bool()
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, visible, scale=scaling)
        return out.transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    expected = adapted(tiny(), prompt=prompt)
    model = tiny()
    model.config._attn_implementation_internal = "flash_attention_2"
    adapted(model, prompt=prompt)
    assert model.config._attn_implementation == "zero_init_flash_attention_2"
    for case in (padded(), {"input_ids": tokens()}):
        seen = case.get("attention_mask", torch.ones(2, 11)).bool()
        torch.testing.assert_close(model(**case).logits[seen], expected(**case).logits[seen], rtol=1e-5, atol=1e-5)
    start, rest = tokens()[:, :6], tokens()[:, 6:]
    past = model(start, use_cache=True).past_key_values
    torch.testing.assert_close(
        model(rest, past_key_values=past).logits, expected(tokens()).logits[:, 6:], rtol=1e-5, atol=1e-5
    )


def test_random_init_with_flash_refuses_what_it_cannot_mask():
    model = tiny("mistral")
    model.config._attn_implementation_internal = "flash_attention_2"
    adapted(model, prompt="random_init")
    with pytest.raises(ValueError, match="sliding window"):
        zeroinit.attention._let_prompts_through(
            attention_modules(model)[3][1], None, torch.zeros(2, 4, 3, 12), torch.zeros(2, 2, 3, 12), 5,
            "flash_attention_2", {"sliding_window": 6},
        )  # fmt: skip
    with pytest.raises(ValueError, match="packed"):
        zeroinit.attention._let_prompts_through(
            attention_modules(model)[3][1], None, torch.zeros(1, 4, 4, 12), torch.zeros(1, 2, 4, 12), 5,
            "flash_attention_2", {"position_ids": torch.tensor([[0, 1, 0, 1]])},
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' own use of the compiler warns in several places
@pytest.mark.parametrize("prompt", ["linear", "random_init"])
@torch.no_grad()
def test_flex_attention_agrees(prompt):
    expected, model = adapted(tiny(), prompt=prompt), adapted(tiny(attention="flex_attention"), prompt=prompt)
    assert model.config._attn_implementation == "zero_init_flex_attention"
    case = padded()
    seen = case["attention_mask"].bool()
    torch.testing.assert_close(model(**case).logits[seen], expected(**case).logits[seen], rtol=1e-4, atol=1e-4)


def test_config_names_are_the_published_defaults():
    published = {"prompt_length": 10, "layers": None, "initial_scale": None, "activation": "relu", "hidden_width": 64}
    published |= {"layer_width": None, "gate": "head", "gate_activation": "tanh", "attention": "zero_init"}
    assert AdapterConfig() == AdapterConfig("linear", **published)
