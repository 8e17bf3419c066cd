"""Tiny random models of many families, and slow literal references, for the tests of `llm`."""

import functools
import os
from pathlib import Path

import torch
import transformers

from common.paths import ROOT
from llm.methods.names import PROMPTS
from zeroinit.config import AdapterConfig
from zeroinit.model import attach

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
# name: (configuration class, model class, what differs from SIZES)
FAMILIES = {
    "llama": ("Llama", {}),
    "llama-head-dim": ("Llama", {"head_dim": 20, "attention_bias": True}),
    "mistral": ("Mistral", {"head_dim": 12, "sliding_window": 6}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": (
        "Gemma2",
        {"head_dim": 16, "sliding_window": 6, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 9},
    ),
    "gemma3": ("Gemma3", {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 9}),
    "phi3": ("Phi3", {}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "qwen2-moe": ("Qwen2Moe", MOE),
    "qwen3-moe": ("Qwen3Moe", MOE | {"head_dim": 16}),
    "granite": ("Granite", {"attention_multiplier": 0.2}),
    "starcoder2": ("Starcoder2", {"sliding_window": None}),
    "ministral": ("Ministral", {"head_dim": 12}),
    "arcee": ("Arcee", {"head_dim": 12}),
    "seed-oss": ("SeedOss", {"head_dim": 12}),
    "ernie4_5": ("Ernie4_5", {"head_dim": 12}),
}
SMALL_MOE = {"moe_intermediate_size": 32, "num_local_experts": 4, "n_routed_experts": 4, "num_experts": 4,
             "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}  # fmt: skip
HYBRID = SMALL_MOE | {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"] * 2,
          "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
          "shared_expert_intermediate_size": 32}  # fmt: skip
# Families that tests/test_llm_more_families.py checks, against the keys and values of the class's own forward.
MORE = {
    "apertus": ("Apertus", {}),
    "bitnet": ("BitNet", {}),
    "cohere": ("Cohere", {"use_qk_norm": True}),
    "cohere2": ("Cohere2", {"sliding_window": 6}),
    "cohere2-moe": ("Cohere2Moe", SMALL_MOE),
    "cwm": ("Cwm", {"head_dim": 12}),
    "dots1": ("Dots1", SMALL_MOE | {"n_shared_experts": 1}),
    "ernie4_5-moe": ("Ernie4_5_Moe", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}),
    "exaone4": ("Exaone4", {"sliding_window": 6}),
    "exaone-moe": ("ExaoneMoe", SMALL_MOE),
    "falcon-h1": ("FalconH1", {"key_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8,
                               "mamba_d_state": 8, "mamba_n_groups": 1}),
    "flex-olmo": ("FlexOlmo", SMALL_MOE),
    "glm": ("Glm", {"head_dim": 12, "attention_bias": True}),
    "glm4": ("Glm4", {"head_dim": 12}),
    "glm4-moe": ("Glm4Moe", SMALL_MOE | {"head_dim": 12, "use_qk_norm": True}),
    "gpt-oss": ("GptOss", SMALL_MOE | {"head_dim": 12, "sliding_window": 6}),
    "granite-moe": ("GraniteMoe", {"num_local_experts": 4}),
    "granite-moe-shared": ("GraniteMoeShared", {"num_local_experts": 4, "shared_intermediate_size": 32}),
    "granite-swa": ("GraniteSWA", {}),
    "helium": ("Helium", {"head_dim": 12}),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 12}),
    "hunyuan-moe": ("HunYuanMoEV1", {"head_dim": 12, "num_experts": 4, "moe_topk": 2}),
    "hyperclovax": ("HyperCLOVAX", {"attention_multiplier": 0.2}),
    "jais2": ("Jais2", {}),
    "kolibri1": ("Kolibri1", SMALL_MOE),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention"] * 2}),
    "mellum": ("Mellum", SMALL_MOE),
    "minimax-m2": ("MiniMaxM2", SMALL_MOE | {"head_dim": 12}),
    "ministral3": ("Ministral3", {"head_dim": 12}),
    "nanochat": ("NanoChat", {}),
    "nemotron": ("Nemotron", {}),
    "olmo": ("Olmo", {"clip_qkv": 0.5}),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", {"sliding_window": 6}),
    "olmoe": ("Olmoe", SMALL_MOE | {"clip_qkv": 0.5}),
    "phi": ("Phi", {"qk_layernorm": True}),
    "phimoe": ("Phimoe", SMALL_MOE),
    "qwen3-next": ("Qwen3Next", HYBRID),
    "qwen3_5": ("Qwen3_5Text", HYBRID),
    "qwen3_5-moe": ("Qwen3_5MoeText", HYBRID),
    "smollm3": ("SmolLM3", {}),
    "solar-open": ("SolarOpen", SMALL_MOE),
    "stablelm": ("StableLm", {"qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "vaultgemma": ("VaultGemma", {"head_dim": 12, "sliding_window": 6}),
}  # fmt: skip
MAIN = ("llama", "llama-head-dim", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32, attention: str | None = None, **changes):
    """A random model of this family, in evaluation mode, with weights that make attention far from uniform."""
    name, own = (FAMILIES | MORE)[family]
    config_class = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    config = config_class(**(SIZES | own | changes))
    config._experts_implementation = "eager"  # the fused experts of transformers have no float64
    torch.manual_seed(0)
    options = {} if attention is None else {"attn_implementation": attention}
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, **options).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif "norm" in key:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            else:
                parameter.normal_(std=0.3)
    return model


def checkpointing(model, reentrant: bool) -> None:
    """Switch checkpointing of layers on, by the name that this version of transformers has for it."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})


@functools.cache
def passes_of_a_text_that_project() -> int:
    """2 where the first pass of `generate` is handed no cache, with which prompts could be kept; 1 since 5.x."""
    seen, model = [], tiny()
    model.model.register_forward_pre_hook(lambda m, a, kw: seen.append(kw.get("past_key_values")), with_kwargs=True)
    model.generate(tokens(1, 3), max_new_tokens=1, do_sample=False)
    return 1 if seen[0] is not None else 2


def multimodal():
    """Gemma 3 with a vision tower around its text decoder."""
    text = tiny("gemma3").config.to_dict()
    vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return transformers.Gemma3ForConditionalGeneration(config).eval()


def configuration(kind: str, **options) -> AdapterConfig:
    """What to attach for a kind of prompt, or for one of the methods whose attention is random_init."""
    return AdapterConfig(**PROMPTS.get(kind, {"prompt": kind}), **options)


def adapted(model, gates: float | None = 0.7, prompt: str = "linear", name: str = "default", **options):
    """Attach to the last two layers, prompts of scale 1 and random gates (None: leave them at zero)."""
    attach(model, configuration(prompt, **({"layers": 2, "prompt_length": 5, "initial_scale": 1.0} | options)), name)
    if gates is not None:
        randomise_gates(model, gates)
    return model


def randomise_gates(model, scale: float = 0.7) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(".gate") and "zero_init_adapters" in key:
                parameter.normal_(std=scale)


def adapter_of(model, name: str = "default"):
    return model.get_submodule("zero_init_adapters")[name]


def tokens(rows: int = 2, length: int = 11, seed: int = 1, vocab: int = 97) -> torch.Tensor:
    return torch.randint(3, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def data(*parts: str) -> Path:
    """A file of real data; the test is skipped where it is absent."""
    import pytest

    root = Path(os.environ.get("ZIA_DATA", ROOT.parent / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} in the folder that ZIA_DATA names")
    return path


def literal_projection(module, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of prompts by explicit weights: (key_value_heads, L, head_dim) twice."""
    config, size = module.config, module.head_dim
    kv = config.num_key_value_heads
    if hasattr(module, "qkv_proj"):
        weight = module.qkv_proj.weight
        start = config.num_attention_heads * size
        parts = weight[start : start + kv * size], weight[start + kv * size : start + 2 * kv * size]
        keys, values = (prompts @ part.T for part in parts)
    else:
        keys, values = prompts @ module.k_proj.weight.T, prompts @ module.v_proj.weight.T
        if module.k_proj.bias is not None:
            keys = keys + module.k_proj.bias
        if module.v_proj.bias is not None:
            values = values + module.v_proj.bias
    keys = torch.stack([keys[:, h * size : (h + 1) * size] for h in range(kv)])
    values = torch.stack([values[:, h * size : (h + 1) * size] for h in range(kv)])
    if hasattr(module, "k_norm"):
        norm = module.k_norm
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        weight = norm.weight + 1 if "Gemma" in type(norm).__name__ else norm.weight
        keys = keys / torch.sqrt((keys * keys).mean(-1, keepdim=True) + epsilon) * weight
    return keys, values


class Literal:
    """The equations of both attentions, written out head by head, as an attention implementation for tests.

    `prompts[layer]` is (L, hidden), `gates[layer]` (heads,) or None for one softmax over prompts and text.
    """

    def __init__(self, prompts: dict, gates: dict | None):
        self.prompts, self.gates = prompts, gates

    def __call__(self, module, query, key, value, attention_mask, scaling, dropout=0.0, softcap=None, **kwargs):
        groups = query.shape[1] // key.shape[1]
        cap = (lambda s: s) if softcap is None else (lambda s: softcap * torch.tanh(s / softcap))
        rows = []
        for b in range(len(query)):
            heads = []
            for h in range(query.shape[1]):
                q, k, v = query[b, h], key[b, h // groups], value[b, h // groups]
                scores = cap(q @ k.T * scaling) + attention_mask[b, 0]
                if module.layer_idx not in self.prompts:
                    heads.append(_softmax(scores) @ v)
                    continue
                keys, values = literal_projection(module, self.prompts[module.layer_idx])
                pk, pv = keys[h // groups], values[h // groups]
                own = cap(q @ pk.T * scaling)
                if self.gates is None:
                    heads.append(_softmax(torch.cat([own, scores], 1)) @ torch.cat([pv, v]))
                else:
                    gate = self.gates[module.layer_idx][h]
                    heads.append(_softmax(scores) @ v + torch.tanh(gate) * (_softmax(own) @ pv))
            rows.append(torch.stack(heads, 1))
        return torch.stack(rows), None


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    weights = torch.exp(scores - scores.max(-1, keepdim=True).values)
    return weights / weights.sum(-1, keepdim=True)


def literal_logits(family: str, prompts: dict, gates: dict | None, inputs: dict, attention: str | None = None):
    """Logits of the family's unmodified float64 model whose attention is `Literal`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("literal", Literal(prompts, gates))
    AttentionMaskInterface.register("literal", eager_mask)
    model = tiny(family, torch.float64, attention)
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = "literal"
    return model(**inputs).logits
