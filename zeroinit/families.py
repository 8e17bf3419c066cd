"""Which attention classes of transformers are known, and how their prompts become keys and values.

A class is known when its path from hidden states to keys and values has been checked; every other one is refused.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass(frozen=True)
class KeyPath:
    """How an attention class makes keys and queries of what its projections give, up to the rotation.

    `norm` names the normalisation of keys, used where the module has it; it acts on all heads at once ("flat"), or on
    (tokens, heads, head_dim) or (heads, tokens, head_dim). A `gated_query` shares its projection with an output gate.
    """

    norm: str = "k_norm"
    query_norm: str = "q_norm"
    order: str = "tokens"
    gated_query: bool = False


_PLAIN, _FLAT, _GATED = KeyPath(), KeyPath(order="flat"), KeyPath(gated_query=True)
_PATHS = {
    _PLAIN: (
        "Apertus Arcee BitNet Cohere Cohere2 Cohere2Moe Cwm Dots1 Ernie4_5 Ernie4_5_Moe Exaone4 ExaoneMoe FalconH1 "
        "Gemma Gemma2 Gemma3 Glm Glm4 Glm4Moe GptOss Granite GraniteMoe GraniteMoeShared GraniteSWA Helium HyperCLOVAX "
        "Jais2 Kolibri1 Llama Mellum Ministral Ministral3 Mistral Mixtral NanoChat Nemotron Olmo Phi3 Phimoe Qwen2 "
        "Qwen2Moe Qwen3 Qwen3Moe SeedOss SmolLM3 SolarOpen Starcoder2 VaultGemma"
    ),
    _FLAT: "FlexOlmo MiniMaxM2 Olmo2 Olmo3 Olmoe",
    _GATED: "Qwen3Next Qwen3_5 Qwen3_5Moe",
    KeyPath("k_layernorm", "q_layernorm"): "Lfm2 Phi",
    KeyPath("k_layernorm", "q_layernorm", order="heads"): "StableLm",
    KeyPath("key_layernorm", "query_layernorm"): "HunYuanDenseV1 HunYuanMoEV1",
}
# Attention classes of transformers whose way from hidden states to prompt keys and values is known. A class that is not
# here may do something else in between, so it is refused instead of being silently wrong. tests/test_llm_families.py
# and tests/test_llm_more_families.py check every entry against the keys and values of the class's own forward.
FAMILIES = {f"{name}Attention": path for path, names in _PATHS.items() for name in names.split()}
# Why others are refused, where more can be said than that they are unknown.
_LATENT = "its keys and values come from a shared latent vector, which has no projection that prompts could take"
_SHARED = "some of its layers use the keys and values of an earlier layer, so prompts have no projection of their own"
_LATENT_CLASSES = ("DeepseekV2", "DeepseekV3", "DeepseekV32", "Glm4MoeLite", "GlmMoeDsa")
REFUSED = {
    **dict.fromkeys((f"{name}Attention" for name in _LATENT_CLASSES), _LATENT),
    **dict.fromkeys(("Gemma3nTextAttention", "Gemma4TextAttention"), _SHARED),
    "DiffLlamaAttention": "it takes the difference of two softmaxes",
    "DogeAttention": "it masks keys by their values",
    "GPT2Attention": "queries, keys and values share one transposed projection",
    "GPTNeoXAttention": "queries, keys and values are interleaved in one projection",
    "Llama4TextAttention": "three of four layers rotate keys and normalise them afterwards",
}
_RECURRENT = ("linear_attention", "conv", "mamba", "recurrent")  # layer types without attention


def owner(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside wrappers such as PeftModel.

    Raises
    ------
    ValueError
        If there is none.
    """
    modules = model.modules() if isinstance(model, nn.Module) else ()
    found = next((m for m in modules if isinstance(m, PreTrainedModel)), None)
    if found is None:
        raise ValueError(
            f"the model must be a transformers model (PreTrainedModel) or wrap one; got {type(model).__name__}"
        )
    return found


def project_prompts(module: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Keys P W_k and values P W_v of prompts (L, hidden_size): two tensors (key_value_heads, L, head_dim)."""
    path, prompts = FAMILIES[type(module).__name__], prompts[None]
    if hasattr(module, "qkv_proj"):
        size = module.num_key_value_heads * module.head_dim
        keys, values = module.qkv_proj(prompts)[..., -2 * size :].split(size, -1)
    else:
        keys, values = module.k_proj(prompts), module.v_proj(prompts)
    keys = _as_heads(module, keys, path.norm, path.order) * getattr(module, "key_multiplier", 1)
    return keys[0].transpose(0, 1), _as_heads(module, values, None, path.order)[0].transpose(0, 1)


def query_before_rotation(module: Any, query: Tensor) -> Tensor:
    """Queries (batch, tokens, heads, head_dim) of the output of the query projection."""
    path, size = FAMILIES[type(module).__name__], module.head_dim
    if path.gated_query:
        query = query.unflatten(-1, (-1, 2 * size))[..., :size].flatten(-2)
    else:
        query = query[..., : module.config.num_attention_heads * size]
    return _as_heads(module, query, path.query_norm, path.order)


def _as_heads(module: Any, flat: Tensor, norm: str | None, order: str) -> Tensor:
    """(batch, tokens, heads, head_dim), clipped and normalised as the class does it."""
    normalise = None if norm is None else getattr(module, norm, None)
    if normalise is not None and order == "flat":
        flat = normalise(flat)
    clip = getattr(module.config, "clip_qkv", None)
    if clip is not None:
        flat = flat.clamp(-clip, clip)
    heads = flat.unflatten(-1, (-1, module.head_dim))
    if normalise is None or order == "flat":
        return heads
    return normalise(heads) if order == "tokens" else normalise(heads.transpose(1, 2)).transpose(1, 2)


def query_projection(module: Any) -> nn.Module:
    """The module whose output holds the queries before rotation."""
    return module.qkv_proj if hasattr(module, "qkv_proj") else module.q_proj


def supports(config: Any) -> tuple[bool, str]:
    """Whether `attach` takes the causal language model of this configuration, and why (one line).

    The model is built without weights (on the meta device), so the answer costs no memory and no download.

    Raises
    ------
    TypeError
        If config is not a configuration of transformers.
    """
    from transformers import AutoModelForCausalLM, PreTrainedConfig

    if not isinstance(config, PreTrainedConfig):
        raise TypeError(
            f"config must be a configuration of transformers; got an object of class {type(config).__name__}"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return False, f"transformers has no causal language model for {type(config).__name__}"
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(copy.deepcopy(config), trust_remote_code=False)
        modules = attention_modules(model)
    except (
        Exception
    ) as error:  # of sizes that do not fit, or a package; model classes were seen to raise nearly anything
        return False, (str(error).partition("\n")[0] or type(error).__name__)[:199]
    return True, f"{len(modules)} layers of {type(modules[0][1]).__name__}"


def attention_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and attention modules of the decoder, lowest layer first.

    Raises
    ------
    ValueError
        If the model is not one of transformers on its attention interface, or its attention is not a known one.
    """
    top = owner(model)
    name = type(top).__name__
    named: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if type(m).__name__.endswith("Attention")]
    known = [(n, m) for n, m in named if _is_known(m)]
    found = {type(m).__name__ for _, m in named}
    for kind in sorted(found & REFUSED.keys()):
        raise ValueError(f"{name} is refused, because of {kind}: {REFUSED[kind]}")
    if not top._can_set_attn_implementation():
        raise ValueError(f"{name} does not use the attention interface of transformers, which the adapter plugs into")
    config = top.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["attention"] * config.num_hidden_layers
    depth = sum(kind not in _RECURRENT for kind in kinds)
    if not known or len(known) != depth:
        shown = ", ".join(sorted(found)[:2]) or "none"
        raise ValueError(
            f"{name} has {depth} attention layers, {depth - len(known)} of them of an unknown kind (found: {shown}); "
            "docs/llm.md lists the known families"
        )
    return sorted(known, key=lambda item: item[1].layer_idx)


def _is_known(module: Any) -> bool:
    kind = type(module)
    return kind.__name__ in FAMILIES and kind.__module__.startswith("transformers.models.")
