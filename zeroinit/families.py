"""Which attention classes of transformers are known, and how their prompts become keys and values.

A class is known when its path from hidden states to keys and values has been checked; every other one is refused.
"""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

# Attention classes of transformers whose keys and values go "projection, view as heads, optional k_norm over the head
# dimension, rotation". A class that is not here may do something else in between (normalise before the view, clip, skip
# the rotation), so it is refused instead of being silently wrong. tests/test_llm_families.py checks every entry against
# the class's own forward.
FAMILIES = frozenset(
    f"{family}Attention"
    for family in (
        *("Arcee", "Ernie4_5", "Gemma", "Gemma2", "Gemma3", "Granite", "Llama", "Ministral", "Mistral", "Mixtral"),
        *("Phi3", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "SeedOss", "Starcoder2"),
    )
)


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
    prompts, head_dim = prompts[None], module.head_dim
    if hasattr(module, "qkv_proj"):
        size = module.num_key_value_heads * head_dim
        keys, values = module.qkv_proj(prompts)[0, :, -2 * size :].split(size, -1)
    else:
        keys, values = module.k_proj(prompts)[0], module.v_proj(prompts)[0]
    keys, values = (t.unflatten(-1, (-1, head_dim)).transpose(0, 1) for t in (keys, values))
    return (module.k_norm(keys) if hasattr(module, "k_norm") else keys), values


def query_projection(module: Any) -> nn.Module:
    """The module whose output holds the queries before rotation."""
    return module.qkv_proj if hasattr(module, "qkv_proj") else module.q_proj


def attention_modules(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and attention modules of the decoder, lowest layer first.

    Raises
    ------
    ValueError
        If the model is not one of transformers on its attention interface, or its attention is not a known one.
    """
    top = owner(model)
    if not top._can_set_attn_implementation():
        raise ValueError(
            f"{type(top).__name__} does not use the attention interface of transformers, which this adapter plugs "
            "into; use a model class whose attention calls ALL_ATTENTION_FUNCTIONS"
        )
    named: list[tuple[str, Any]] = [
        (name, m) for name, m in model.named_modules() if type(m).__name__.endswith("Attention")
    ]
    known = [(name, m) for name, m in named if _is_known(m)]
    depth = top.config.get_text_config().num_hidden_layers
    if len(known) != depth:
        found = ", ".join(sorted({type(m).__name__ for _, m in named})) or "none"
        raise ValueError(
            f"{type(top).__name__} has {depth} layers, and the attention of {depth - len(known)} is not a known one "
            f"(found: {found}); docs/llm.md lists the known families"
        )
    return sorted(known, key=lambda item: item[1].layer_idx)


def _is_known(module: Any) -> bool:
    kind = type(module)
    return kind.__name__ in FAMILIES and kind.__module__.startswith("transformers.models.")
