"""Trained models at work: loading a base with what was trained on it, and generating answers in batches.

A generated text is a function of the model, the prompt and its own seed. It does not depend on the rest of its batch,
but for the rounding of sums: sampling draws one uniform number per token from a stream of the prompt's own, and inverts
the distribution function of the tokens that top-p leaves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from huggingface_hub.utils import logging as hub_logging
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from common.streams import stream
from llm import methods
from llm.adapter import owner
from llm.modules import GATE_ACTIVATIONS, Adapters

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen; temperature 0 is greedy.

    Attributes
    ----------
    temperature, top_p : float
        Of the tokens by falling probability, those are kept before which less than `top_p` lies, as published.
    max_new_tokens : int
        Length at which an answer without an end is cut.
    seed : int
        Of the sampling.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0


DECODINGS = {"greedy": Decoding(), "published": Decoding(temperature=0.1, top_p=0.75)}


class Answer(NamedTuple):
    """A generated text, and whether it was cut for its length."""

    text: str
    cut: bool


def load_base(model: str | Path, precision: str = "auto", device: str | None = None) -> tuple[Any, Any]:
    """A base in evaluation mode and its tokenizer, from a folder or the Hugging Face hub.

    Parameters
    ----------
    model : str or Path
        Folder with config.json, weights and tokenizer, or a hub id.
    precision : one of PRECISIONS
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
        If the files are not those of one causal language model.
    """
    folder = Path(model).expanduser()
    local = folder.exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1
    if local:
        _check_folder(folder)
    source = folder if local else str(model)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=precision, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        if local:
            raise FileNotFoundError(f"{folder} must hold a model and its tokenizer: {reason}") from error
        raise ConnectionError(
            f"there is no folder {model}, and the hub does not give a model of this name ({reason}); without a network "
            "download it elsewhere and give the path of its folder"
        ) from error
    except (RuntimeError, KeyError, TypeError) as error:  # what comes of files that do not belong together
        raise ValueError(f"{model} does not load as a causal language model: {' '.join(str(error).split())}") from error
    base, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights of {model} must be complete; {len(missing)} tensors are missing, {missing[0]} for one; "
            "download or save the model again"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return base.to(device).eval(), tokenizer


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
        As `load_base` and `llm.methods.load`, or if there is no gate whose activation could be replaced.
    """
    base, tokenizer = load_base(model, precision, device)
    loaded: Any = base if adapter is None else methods.load(base, adapter)
    if gate_activation is not None:
        set_gate_activation(loaded, gate_activation)
    return loaded.eval(), tokenizer


def set_gate_activation(model: nn.Module, name: str) -> None:
    """Make tanh(g) or the raw g (a key of GATE_ACTIVATIONS) the factor of the active adapter's prompts."""
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


def context_length(model: nn.Module) -> int:
    """Most tokens of prompt and answer together that the model was made for."""
    prompts = getattr(getattr(model, "active_peft_config", None), "num_virtual_tokens", None)
    return owner(model).config.get_text_config().max_position_embeddings - (prompts or 0)


def fingerprint(model: nn.Module) -> str:
    """Sixteen hexadecimal digits that change with any training: of names, shapes, and a sample of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        values = tensor.detach().flatten()
        sample = values[:: max(1, len(values) // 1024)].cpu().contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a prompt: begin-of-sequence by the tokenizer's own rule, and no end."""
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    decoding: Decoding | None = None,
    keys: Sequence[str | int] | None = None,
    streamer: Any = None,
) -> list[Answer]:
    """Answers to one batch of prompts, padded on the left.

    Parameters
    ----------
    model, tokenizer
    prompts : sequence of list of int
        Token ids; each must leave room in the model's context. An answer is cut where the context ends.
    decoding : Decoding
        None: greedy.
    keys : sequence of str or int
        What the sampling of each prompt is seeded by, beside the seed; None: its place.
    streamer : transformers' TextStreamer
        Prints tokens as they come (one prompt).

    Raises
    ------
    ValueError
        If a prompt fills the context.
    """
    decoding = decoding or Decoding()
    context, sizes = context_length(model), [len(ids) for ids in prompts]
    room = [min(decoding.max_new_tokens, context - size) for size in sizes]
    if min(room) < 1:
        raise ValueError(
            f"a prompt must leave room for an answer in the model's {context} tokens; got {max(sizes)} tokens; "
            "shorten it"
        )
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    width, device = max(sizes), owner(model).device
    tokens = torch.tensor([[padding] * (width - len(ids)) + ids for ids in prompts], device=device)
    seen = torch.tensor([[0] * (width - size) + [1] * size for size in sizes], device=device)
    ends = _ends(model, tokenizer)
    # Every value that a model's own generation_config may set for sampling, so that it cannot.
    settings = GenerationConfig(
        max_new_tokens=max(room),
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        pad_token_id=padding,
        eos_token_id=sorted(ends) or None,
    )
    choice = LogitsProcessorList()
    if decoding.temperature > 0:
        keys = range(len(prompts)) if keys is None else keys
        draws = np.stack([stream(decoding.seed, "sampling", key).random(max(room), np.float32) for key in keys])
        choice.append(Nucleus(torch.from_numpy(draws).to(device), decoding))
    out = model.generate(
        input_ids=tokens, attention_mask=seen, generation_config=settings, logits_processor=choice, streamer=streamer
    )
    found = []
    for ids, new, most in zip(prompts, out[:, width:].tolist(), room, strict=True):
        new = new[:most]
        end = next((i for i, token in enumerate(new) if token in ends), None)
        found.append(Answer(_text_behind(tokenizer, ids, new[:end]), end is None))
    return found


class Nucleus(LogitsProcessor):
    """Leaves one token per row: the one that top-p sampling takes for that row's number of this step.

    Parameters
    ----------
    draws : Tensor, (rows, steps)
        Uniform numbers in [0, 1).
    decoding : Decoding
        Its temperature and top_p.
    """

    def __init__(self, draws: Tensor, decoding: Decoding):
        self.draws, self.decoding, self.step = draws, decoding, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary): 0 for the token taken, else minus infinity."""
        probabilities = (scores.float() / self.decoding.temperature).softmax(-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        behind = ordered.cumsum(-1)
        kept = behind - ordered <= self.decoding.top_p
        last = kept.sum(-1, keepdim=True) - 1
        aim = self.draws[:, self.step, None] * behind.gather(-1, last)
        self.step += 1
        place = torch.minimum((behind <= aim).sum(-1, keepdim=True), last)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens.gather(-1, place), 0.0)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's, and the model's own."""
    own = owner(model).generation_config.eos_token_id  # type: ignore[union-attr]
    every = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return {int(token) for token in every if token is not None}


def _text_behind(tokenizer: Any, start: list[int], new: list[int]) -> str:
    # Decoded alone, the first word would lose its space with SentencePiece, which the published scorer sees.
    head, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (start, start + new))
    return whole[len(head) :]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model folder at {folder}; give a folder in Hugging Face format, or a hub id (huggyllama/llama-7b)"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"a model folder must have config.json; {folder} has none")
    if not any(path for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise FileNotFoundError(
            f"a model folder must have weights ({' or '.join(WEIGHTS)}); {folder} has none; download or save them"
        )
