"""What cases are made from: a small world and its tokenizer, a tiny Llama, adapters and rows for it."""

import copy
from functools import cache
from typing import Any

import torch

import zeroinit
from fuzz.nonsense import Random, pick
from llm.world.world import World
from zeroinit.config import ACTIVATIONS, ATTENTIONS, GATE_ACTIVATIONS, GATES, PROMPTS, AdapterConfig

SMALL = World(train=12, validation=1, test=1, asked=6)
LAYERS = 3


@cache
def tokenizer() -> Any:
    """Of the small world."""
    return SMALL.tokenizer()


@cache
def untouched() -> Any:
    """The tiny Llama that copies are made of."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(tokenizer()), max_position_embeddings=128, pad_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


def base() -> Any:
    """A fresh tiny Llama."""
    return copy.deepcopy(untouched())


def config(rng: Random) -> dict[str, Any]:
    """Keywords of an AdapterConfig that fits the base."""
    return {
        "prompt": pick(rng, PROMPTS),
        "attention": pick(rng, ATTENTIONS),
        "prompt_length": int(rng.integers(1, 6)),
        "layers": pick(rng, (None, 1, 2, 3)),
        "initial_scale": pick(rng, (None, 0.1, 1.0)),
        "activation": pick(rng, ACTIVATIONS),
        "hidden_width": pick(rng, (0, 24)),  # few units may all start dead, which is refused
        "layer_width": pick(rng, (None, 3)),
        "gate": pick(rng, GATES),
        "gate_activation": pick(rng, GATE_ACTIVATIONS),
    }


def opened(model: Any, rng: Random) -> Any:
    """The same model, its gates no longer 0."""
    torch.manual_seed(int(rng.integers(1000)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.endswith("gate"):
            parameter.data.normal_(std=0.7)
    return model


def adapted(rng: Random, **changes: Any) -> Any:
    """A tiny Llama with an adapter whose gates are open."""
    return opened(zeroinit.attach(base(), AdapterConfig(**config(rng) | changes)), rng)


def logits(model: Any) -> torch.Tensor:
    """Of a fixed text."""
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 6, 7, 8]])).logits


def rows(rng: Random) -> list[dict[str, str]]:
    """Instruction data of the small world."""
    every = SMALL.instructions()
    return [every[i] for i in rng.permutation(len(every))[: int(rng.integers(2, 20))]]
