"""The attention of the paper, registered with transformers; training and evaluation both run this function.

Per head h, with the rotated query q, the frozen text attention Attn, and prompts P (L x hidden) before the projections:

    zero_init     out_h = Attn(q, k, v) + tanh(g_h) softmax(q (P W_k)' / sqrt(D)) P W_v            g_h = 0 at the start
    random_init   out_h = softmax(q [P W_k; k]' / sqrt(D)) [P W_v; v]                              one softmax, no gate

(arXiv 2502.03029, equations (5) and (6)). Prompt keys are not rotated, and every query sees every prompt,
whatever the causal, padding or sliding-window mask says about the text. They take the path of text keys and values up
to the rotation: projections with whatever wraps them (LoRA, quantisation), slices of a fused projection, and the
normalisation of keys; scores are scaled and soft-capped as the base does it. Attention dropout, where a base has any,
stays with the text in zero_init.

Because zero_init has a softmax of its own, the text attention stays the base implementation, whichever kernel that is,
and at zero gate the output equals the base's bit for bit. Each base implementation X is registered as zero_init_X, with
the mask function of X.
"""

import sys
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from zeroinit.calls import ARGUMENT, Call
from zeroinit.families import FAMILIES, project_prompts, query_before_rotation, query_projection

if TYPE_CHECKING:
    from zeroinit.adapter import Adapter, Adapters

PREFIX = "zero_init_"
BASES = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")


class Link:
    """What an adapted attention module holds: the way to the adapters of its model."""

    def __init__(self, adapters: "Adapters", layer: int):
        self.adapters, self.layer = adapters, layer
        self.watched: nn.Module | None = None  # the query projection whose output the input-dependent gate reads


class _Seen(threading.local):
    """The last output of a watched query projection in this thread, on its way to the attention right after it."""

    def __init__(self) -> None:  # runs in every thread; compiled code watches what it sets
        self.projection: nn.Module | None = None
        self.output: Tensor | None = None


_seen = _Seen()


def keep_query(projection: nn.Module, args: tuple, output: Tensor) -> None:
    """Forward hook of the query projections: their output is what the input-dependent gate reads."""
    _seen.projection, _seen.output = projection, output


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, *, base: str, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    """Text attention by `base` plus the prompts of the module's active adapter (equations in the head of this file).

    Parameters
    ----------
    module : nn.Module
        Attention module of the base; adapted if it has a `zero_init` attribute (a `Link`).
    query : Tensor, (batch, heads, queries, head_dim)
    key, value : Tensor, (batch, key_value_heads, keys, head_dim)
    attention_mask : Tensor, BlockMask or None
        As the base implementation wants it.
    base : str
        Name of the base implementation.
    **kwargs
        What the model passes on to its implementation: scaling, dropout, softcap, sliding_window, ...

    Returns
    -------
    out : Tensor, (batch, queries, heads, head_dim)
    weights : Tensor or None
        As the base gives them: over the text for zero_init, over prompts and text for random_init.
    """
    base_attention = partial(_base_function(module, base), _seen_by(module, base))
    link: Link | None = getattr(module, "zero_init", None)
    # A module that is called by itself has no call handed down.
    call: Call | None = kwargs.pop(ARGUMENT, None) or (link and link.adapters.begin())
    # Taken before the prompts go through the same projection, where it is fused; nothing of a pass stays behind.
    projection, seen = _seen.projection, _seen.output
    _seen.projection = _seen.output = None
    if link is None or call is None or (adapter := call.adapter) is None or link.layer < adapter.first:
        return base_attention(query, key, value, attention_mask, **kwargs)
    gate = None
    if adapter.input_dependent:
        gate = adapter.input_gate(link.layer, _query_before_rotation(module, projection, seen))
    keys, values = _keys_and_values(module, link, call, adapter, query)
    if adapter.joint:
        mask = _let_prompts_through(module, attention_mask, query, key, keys.shape[1], base, kwargs)
        key, value = (
            torch.cat([p.to(t.dtype).expand(len(t), -1, -1, -1), t], 2) for p, t in ((keys, key), (values, value))
        )
        if call.masses is not None:
            # Attention weighs values: with ones for prompts and zeros for text, it gives the prompts' share.
            ones = torch.zeros_like(value)
            ones[:, :, : keys.shape[1]] = 1
            call.masses[link.layer] = base_attention(query, key, ones, mask, **kwargs)[0][..., 0]
        return base_attention(query, key, value, mask, **kwargs)
    out, weights = base_attention(query, key, value, attention_mask, **kwargs)
    term = prompt_attention(query, keys, values, kwargs.get("scaling"), kwargs.get("softcap")).transpose(1, 2)
    if gate is not None:
        term = term * gate[..., None]
        if call.masses is not None:
            call.masses[link.layer] = gate.abs() / (1 + gate.abs())
    return out + term.to(out.dtype), weights


def prompt_attention(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float | None = None, softcap: float | None = None
) -> Tensor:
    """softmax(c(q K' scaling)) V with c(s) = softcap tanh(s / softcap) where the base caps its scores.

    Shapes: query (batch, heads, queries, head_dim), keys and values (heads, prompts, head_dim), result as query.
    """
    if softcap is None:
        keys, values = keys.expand(len(query), -1, -1, -1), values.expand(len(query), -1, -1, -1)
        return F.scaled_dot_product_attention(query, keys, values, scale=scaling)
    scores = query @ keys.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    return scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype) @ values


def _base_function(module: Any, base: str) -> Callable:
    # Every model file has an eager attention of its own (Gemma 2 caps its scores there), under this one name.
    if base == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[base]


def _seen_by(module: Any, base: str) -> Any:
    # Flash attention asks the module's configuration which kernel to load, and knows only the plain names.
    if not base.startswith("flash"):
        return module
    config = SimpleNamespace(**{**vars(module.config), "_attn_implementation": base, "dtype": module.config.dtype})
    return SimpleNamespace(
        config=config, is_causal=module.is_causal, layer_idx=module.layer_idx, modules=module.modules
    )


def _keys_and_values(module: Any, link: Link, call: Call, adapter: "Adapter", query: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt keys and values of this layer, gated; kept with the cache of a text for its decoding steps.

    A pass that begins a text, or over more than one token, always computes them anew. A decoding step (one query, no
    gradients, evaluation mode) takes those kept, unless a parameter that they depend on was updated or replaced since.
    """
    kept = None if torch.is_grad_enabled() or module.training else call.kept
    if kept is not None and query.shape[2] == 1 and link in kept:
        owner, changes, parameters, state, keys, values = kept[link]
        same = owner is adapter and changes == link.adapters.changes
        if same and (keys.dtype, keys.device) == (query.dtype, query.device) and state == _state(parameters):
            return keys, values
    prompts = adapter.prompts_of(link.layer).to(query.device, query.dtype)
    keys, values = (t.to(query.dtype) for t in project_prompts(module, prompts))
    if not adapter.joint:
        groups = query.shape[1] // len(keys)
        keys, values = (t.repeat_interleave(groups, 0) if groups > 1 else t for t in (keys, values))
        if not adapter.input_dependent:
            # tanh(g) softmax(.) V = softmax(.) (tanh(g) V), and V has few rows. The product is float32, because with
            # prompts of the published 7e-6 the gradient of g would underflow in float16.
            gate = adapter.gate_of(link.layer).to(values.device)
            values = (values * gate[:, None, None]).to(query.dtype)
    if kept is not None:
        kept.pop(link, None)
        sources = ("k_proj", "v_proj", "qkv_proj", FAMILIES[type(module).__name__].norm)
        parameters = [*adapter.parameters()]
        parameters += [p for name in sources if hasattr(module, name) for p in getattr(module, name).parameters()]
        if not any(p.is_inference() for p in parameters):  # those have no version to watch
            kept[link] = (adapter, link.adapters.changes, parameters, _state(parameters), keys, values)
    return keys, values


def _state(parameters: list[nn.Parameter]) -> list[tuple[int, int]]:
    """Changes with every in-place update and with every replacement of a parameter's storage."""
    return [(p._version, p.data_ptr()) for p in parameters]


def _query_before_rotation(module: Any, projection: nn.Module | None, query: Tensor | None) -> Tensor:
    """Queries (batch, queries, heads, head_dim) as the projection (and q_norm) gave them."""
    if query is None or projection is not query_projection(module):
        raise ValueError(
            "the input-dependent gate reads the query projection, which was replaced after attach (by PEFT?); call "
            "zeroinit.activate(model, name) once all adapters are in place"
        )
    return query_before_rotation(module, query)


def _let_prompts_through(
    module: Any, mask: Any, query: Tensor, key: Tensor, length: int, base: str, kwargs: dict
) -> Any:
    """The mask with `length` prompts in front of the keys, visible to every query."""
    if base.startswith("flash"):
        positions = kwargs.get("position_ids")
        packed = len(query) == 1 and positions is not None and bool((positions.diff() != 1).any())
        if packed or kwargs.get("sliding_window") is not None or kwargs.get("cu_seq_lens_q") is not None:
            raise ValueError(
                f"random_init cannot put its prompts before a sliding window or packed sequences with {base}, whose "
                'mask is not a tensor; load the model with attn_implementation="sdpa"'
            )
        # Flash attention aligns its causal mask with the last key, so keys in front are seen by all queries.
        return None if mask is None else F.pad(mask, (length, 0), value=1)
    if isinstance(mask, Tensor):
        return F.pad(mask, (length, 0), value=1 if mask.dtype == torch.bool else 0)
    if mask is not None:
        return _block_mask_with_prompts(mask, length)
    is_causal = kwargs.get("is_causal")
    if query.shape[2] == 1 or not (module.is_causal if is_causal is None else is_causal):
        return None
    # Without a mask the base would be causal from the first key on; here the first keys are prompts.
    causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    return F.pad(causal, (length, 0), value=1)[None, None]


def _block_mask_with_prompts(mask: Any, length: int) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def visible(batch, head, q, k):
        return (k < length) | mask.mask_mod(batch, head, q, (k - length).clamp(min=0))

    queries, keys = mask.seq_lengths
    return create_block_mask(visible, mask.shape[0], None, queries, keys + length, device=str(mask.kv_indices.device))


for _base in BASES:
    AttentionInterface.register(PREFIX + _base, partial(attention, base=_base))
    AttentionMaskInterface.register(PREFIX + _base, ALL_MASK_ATTENTION_FUNCTIONS[_base])
