"""Trained models at work: a base with what was trained on it, from folders or the hub, and facts about it."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from torch import nn
from transformers.utils import logging as transformers_logging

from common.memory import out_of_memory
from llm.methods import registry
from llm.methods.bases import read_model, read_tokenizer
from zeroinit.adapter import Adapters
from zeroinit.config import GATE_ACTIVATIONS
from zeroinit.families import owner


def load_base(model: str | Path, precision: str = "auto", device: str | None = None) -> tuple[Any, Any]:
    """A base in evaluation mode and its tokenizer, from a folder or the Hugging Face hub.

    Parameters
    ----------
    model : str or Path
        Folder with config.json, weights and tokenizer, or a hub id.
    precision : one of `llm.methods.names.PRECISIONS`
        auto: as saved.
    device : str, optional
        None: a GPU if there is one.

    Raises
    ------
    FileNotFoundError
        If a folder or a file in it is missing.
    ConnectionError
        If the hub does not give the model.
    ValueError
        If the files are not those of one causal language model, need a package that is not installed, or bring code.
    """
    base, tokenizer = read_model(model, precision), read_tokenizer(model)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return base.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        if out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"the device must be one of this machine, such as cpu or cuda; got {device!r} ({reason})"
        ) from error


def load(
    model: str | Path,
    adapter: str | Path | None = None,
    *,
    gate_activation: str | None = None,
    precision: str = "auto",
    device: str | None = None,
) -> tuple[Any, Any]:
    """A base with the method saved in the folder `adapter`, if any, and its tokenizer.

    `gate_activation` replaces the adapter's own: the published evaluation of ARC, MMLU and TruthfulQA multiplies by the
    raw gate ("identity"), training and HellaSwag by its tanh.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        As `load_base` and `llm.methods.registry.load`, or if there is no gate whose activation could be replaced.
    """
    base, tokenizer = load_base(model, precision, device)
    loaded: Any = base if adapter is None else registry.load(base, adapter)
    if gate_activation is not None:
        set_gate_activation(loaded, gate_activation)
    return loaded.eval(), tokenizer


def set_gate_activation(model: nn.Module, name: str) -> None:
    """Make tanh(g) or the raw g (one of GATE_ACTIVATIONS) the factor of the active adapter's prompts."""
    adapters = next((m for m in model.modules() if isinstance(m, Adapters)), None)
    if adapters is None or adapters.active_adapter.joint:
        kind = "no adapter" if adapters is None else "random_init prompts, which have none"
        raise ValueError(f"a gate activation needs an adapter with gates; the model has {kind}; leave the option out")
    if name not in GATE_ACTIVATIONS:
        raise ValueError(f"gate_activation must be one of {', '.join(GATE_ACTIVATIONS)}; got {name!r}")
    adapters.active_adapter.config = replace(adapters.active_adapter.config, gate_activation=name)


def quiet() -> None:
    """For commands: errors only, without the bars and warnings of transformers and of the hub's client."""
    for library in (transformers_logging, hub_logging):
        library.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def check_length(config: Any, length: int) -> None:
    """ValueError if rows of this length are longer than what the model of a configuration was made for."""
    limit = config.get_text_config().max_position_embeddings
    if length > limit:
        raise ValueError(f"length must be at most what the model was made for, {limit}; got {length}")


def context_length(model: nn.Module) -> int:
    """Most tokens of prompt and answer together that the model was made for."""
    return owner(model).config.get_text_config().max_position_embeddings - virtual_tokens(model)


def virtual_tokens(model: nn.Module) -> int:
    """Number of tokens that PEFT's prompt tuning puts before the text."""
    return getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None) or 0


def vocabulary_size(model: nn.Module) -> int:
    """Number of token ids that a model takes: rows of its embedding."""
    embedding: Any = owner(model).get_input_embeddings()
    return embedding.weight.shape[0]


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that change with any training: of names, shapes, and a sample of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().flatten()
        sample = values[:: max(1, len(values) // 1024)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
