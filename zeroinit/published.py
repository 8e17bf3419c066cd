"""Files of the published code: one .pth with adapter_query.weight, hyperAdapter.* and layers.N.attention.gate.

Prompts live in the hidden space, so no rotary permutation is needed; a vector gate meets queries and is permuted.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from zeroinit import files
from zeroinit.adapter import BaseShape
from zeroinit.config import AdapterConfig, shown

_GATE = "layers.{}.attention.gate"
# Names of the maps of non-linear prompts: ours, theirs.
_NETWORK = (("network.hidden", "linear1"), ("network.output", "prompt"))
# What a published file has besides gates: prompts, or embeddings and a network with and without a hidden layer.
_PUBLISHED_NAMES = [{"adapter_query.weight"}] + [
    {embedding} | {f"{prefix}{name}.{kind}" for name in names for kind in ("weight", "bias")}
    for embedding, prefix in (
        ("hyperAdapter.layer_embed.weight", "hyperAdapter.decoder."),
        ("adapter_query.weight", "hyperAdapter."),
    )
    for names in (("linear1", "prompt"), ("prompt",))
]


def from_published(
    file: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    prompt_length: int = 10,
    layers: int | None = None,
    random_init: bool = False,
    activation: str = "relu",
) -> None:
    """Write the published adapter `file` as a folder. What the file does not record is asked for.

    Parameters
    ----------
    prompt_length, layers, random_init, activation
        The options --adapter_len, --adapter_layer (None: all but two), --random_init and --hid_acti_func it was
        trained with.

    Raises
    ------
    ValueError
        If the file is not such an adapter, or disagrees with the options.
    """
    theirs = _load_published(file)
    gates = [theirs[_GATE.format(n)] for n in range(sum(key.endswith(".attention.gate") for key in theirs))]
    depth, heads = len(gates), gates[0].shape[1]
    asked = AdapterConfig(prompt_length=prompt_length, layers=layers, activation=activation)
    layers = asked.adapted_layers(depth)
    deep = "hyperAdapter.layer_embed.weight" in theirs
    prefix = "hyperAdapter.decoder." if deep else "hyperAdapter."
    shared = not deep and prefix + "prompt.weight" in theirs
    state = {}
    if deep or shared:
        embedding = theirs["hyperAdapter.layer_embed.weight" if deep else "adapter_query.weight"]
        state["prompts.embedding.weight"] = embedding
        for our, their in _NETWORK:
            for kind in ("weight", "bias"):
                if f"{prefix}{their}.{kind}" in theirs:
                    state[f"prompts.{our}.{kind}"] = theirs[f"{prefix}{their}.{kind}"]
        hidden_width = len(state["prompts.network.hidden.bias"]) if "prompts.network.hidden.bias" in state else 0
        hidden_size, rest = divmod(len(state["prompts.network.output.bias"]), prompt_length if deep else 1)
        if rest:
            raise ValueError(
                f"{prefix}prompt.bias must have prompt_length x hidden_size = {prompt_length} x ... numbers; it has "
                f"{len(state['prompts.network.output.bias'])}; pass the prompt_length of the training"
            )
        options = {"activation": activation, "hidden_width": hidden_width, "layer_width": embedding.shape[1]}
        kind = "nonlinear" if deep else "nonlinear_shared"
    else:
        rows, hidden_size = theirs["adapter_query.weight"].shape
        if rows != layers * prompt_length:
            raise ValueError(
                f"adapter_query.weight must have layers x prompt_length = {layers} x {prompt_length} rows; "
                f"it has {rows}; pass the prompt_length and layers of the training"
            )
        state["prompts.weight"] = theirs["adapter_query.weight"].view(layers, prompt_length, hidden_size)
        options, kind = {}, "linear"
    head_dim = hidden_size // heads
    if head_dim * heads != hidden_size or gates[0].shape[2] not in (1, head_dim) or hidden_size % (2 * heads):
        raise ValueError(
            f"gates must have a size of 1 or hidden_size / heads = {hidden_size} / {heads}; got {gates[0].shape[2]}"
        )
    if any(gate.any() for gate in gates[: depth - layers]):
        raise ValueError(f"gates below the last {layers} layers must be zero, as never trained; pass the right layers")
    if not random_init:
        gate = torch.stack(gates[depth - layers :])[:, 0, :, :, 0]  # (K, heads, 1 or head_dim)
        if gate.shape[2] > 1:
            options["gate"] = "adapt"
            # they rotate neighbouring pairs, transformers rotates halves: (pair, which) -> (which, pair)
            gate = gate.unflatten(2, (-1, 2)).transpose(2, 3).flatten(2)
        state["gate"] = gate if gate.shape[2] > 1 else gate[:, :, 0]
    attention = "random_init" if random_init else "zero_init"
    config = AdapterConfig(kind, attention=attention, prompt_length=prompt_length, layers=layers, **options)
    files.check_finite(state, file)
    files.write(folder, config, BaseShape(hidden_size, depth, heads, head_dim), state)


def to_published(folder: str | os.PathLike, file: str | os.PathLike) -> None:
    """Write the adapter of `folder` as a file for the published code, which records no options (gate_activation, ...).

    Raises
    ------
    ValueError
        If that code has no such model: heads x head_dim is not the hidden size.
    """
    config, shape, state = files.read(folder)
    if shape.head_dim * shape.num_attention_heads != shape.hidden_size:
        raise ValueError(f"the published model has heads x head_dim = hidden_size; this base is {shape}")
    theirs, size = {}, shape.head_dim if config.gate == "adapt" else 1
    if "prompts.weight" in state:
        theirs["adapter_query.weight"] = state["prompts.weight"].flatten(0, 1)
    else:
        deep = config.prompt == "nonlinear"
        embedding = "hyperAdapter.layer_embed.weight" if deep else "adapter_query.weight"
        theirs[embedding] = state["prompts.embedding.weight"]
        for our, their in _NETWORK:
            for kind in ("weight", "bias"):
                if f"prompts.{our}.{kind}" in state:
                    key = f"hyperAdapter.{'decoder.' if deep else ''}{their}.{kind}"
                    theirs[key] = state[f"prompts.{our}.{kind}"]
    layers = config.adapted_layers(shape.num_hidden_layers)
    gates = torch.zeros(shape.num_hidden_layers, 1, shape.num_attention_heads, size, 1)
    if "gate" in state:
        gate = state["gate"]
        if config.gate == "adapt":
            gate = gate.unflatten(2, (2, -1)).transpose(2, 3).flatten(2)
        gates[-layers:] = gate.view(layers, 1, shape.num_attention_heads, size, 1)
    theirs |= {_GATE.format(n): gate.clone() for n, gate in enumerate(gates)}
    with files.whole(Path(file)) as unfinished:
        torch.save(theirs, unfinished)


def _load_published(file: str | os.PathLike) -> dict[str, Tensor]:
    """The adapter's tensors of a published file, whose names and dimensions are those of one of its kinds."""
    state = files.read_pickled(file)
    state = inner if isinstance(inner := state.get("model"), dict) else state
    ours = {}
    for name, value in state.items():
        if isinstance(name, str) and (name.startswith(("adapter_query", "hyperAdapter")) or name.endswith(".gate")):
            ours[name] = value
    gates = [name for name in ours if name.endswith(".attention.gate")]
    others = set(ours) - set(gates)
    known = {_GATE.format(n) for n in range(len(gates))} == set(gates) != set() and others in _PUBLISHED_NAMES
    if not known:
        raise ValueError(
            f"{file} must have layers.N.attention.gate for every layer and adapter_query.weight or hyperAdapter.*; "
            f"it has {shown(sorted(map(str, ours or state)), 300)}"
        )
    for name, value in ours.items():
        dimensions = 4 if name in gates else 1 if name.endswith("bias") else 2
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim != dimensions:
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
            raise ValueError(
                f"{name} of {file} must be a tensor of numbers with {dimensions} dimensions; it is {found}"
            )
    sizes = {tuple(ours[name].shape) for name in gates}
    if len(sizes) > 1 or 0 in (size := next(iter(sizes))) or size[0] != 1 or size[3] != 1:
        raise ValueError(f"all gates of {file} must have one shape, (1, heads, 1 or head_dim, 1); they have {sizes}")
    return ours
