"""Generated answers: greedy, or by the published sampling, in batches.

A generated text is a function of the model, the prompt and its own seed. It does not depend on the rest of its batch,
but for the rounding of sums: sampling draws one uniform number per token from a stream of the prompt's own, and inverts
the distribution function of the tokens that top-p leaves. What a model's own generation_config says is not followed,
but for the tokens that end a text: scores depend on the protocol only.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from common.streams import stream
from llm.data.tokens import check_ids, padding_id
from llm.evaluation.settings import Decoding
from llm.methods.loading import context_length, virtual_tokens, vocabulary_size
from zeroinit.families import owner


class Answer(NamedTuple):
    """A generated text, and whether it was cut for its length."""

    text: str
    cut: bool


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
        If a prompt is empty or fills the context, has a token that the model has not, or keys are not as many.
    """
    decoding = decoding or Decoding()
    context, sizes = context_length(model), [len(ids) for ids in prompts]
    keys = list(range(len(prompts))) if keys is None else keys
    if len(keys) != len(prompts):
        raise ValueError(f"there must be a key for each of the {len(prompts)} prompts; got {len(keys)}")
    if virtual_tokens(model) and len(set(sizes)) > 1:
        # PEFT puts them before the padding, whose length would change their distance from the text.
        found: dict[int, Answer] = {}
        for size in set(sizes):
            some = [n for n, other in enumerate(sizes) if other == size]
            answers = generate(model, tokenizer, [prompts[n] for n in some], decoding, [keys[n] for n in some])
            found |= dict(zip(some, answers, strict=True))
        return [found[n] for n in range(len(prompts))]
    room = [min(decoding.max_new_tokens, context - size) for size in sizes]
    if not all(sizes):
        raise ValueError("a prompt must have at least one token; got none")
    if min(room) < 1:
        raise ValueError(
            f"a prompt must leave room for an answer in the model's {context} tokens; got {max(sizes)} tokens; "
            "shorten it"
        )
    size = vocabulary_size(model)
    check_ids(prompts, tokenizer, size)
    padding = padding_id(tokenizer, size)
    ending = ends(model, tokenizer)
    settings = Settings(
        max_new_tokens=max(room), do_sample=False, pad_token_id=padding, eos_token_id=sorted(ending) or None
    )
    width, device = max(sizes), owner(model).device
    tokens = torch.tensor([[padding] * (width - len(ids)) + ids for ids in prompts], device=device)
    seen = torch.tensor([[0] * (width - size) + [1] * size for size in sizes], device=device)
    choice = LogitsProcessorList()
    if decoding.temperature > 0:
        draws = np.stack([stream(decoding.seed, "sampling", key).random(max(room), np.float32) for key in keys])
        choice.append(Nucleus(torch.from_numpy(draws).to(device), decoding))
    inputs = {"input_ids": tokens, "attention_mask": seen}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Position ids are not supported")  # PEFT's, of virtual tokens
        out = model.generate(**inputs, generation_config=settings, logits_processor=choice, streamer=streamer)
    answers = []
    for ids, new, most in zip(prompts, out[:, width:].tolist(), room, strict=True):
        new = new[:most]
        end = next((i for i, token in enumerate(new) if token in ending), None)
        answers.append(Answer(_text_behind(tokenizer, ids, new[:end]), end is None))
    return answers


class Settings(GenerationConfig):
    """Settings of `model.generate` that the model's own generation_config does not complete.

    What is not set here has transformers' neutral default, not the model's: no beams, penalties, forced or suppressed
    tokens, other caches, limits of time, or other forms of output.
    """

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        """As in transformers, which offers the model's own settings (and only them) with `allow_custom_entries`."""
        return {} if allow_custom_entries else super().update(defaults_only, **kwargs)


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


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's, and the model's own."""
    base: Any = owner(model)
    own = base.generation_config.eos_token_id
    every = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return {int(token) for token in every if token is not None}


def _text_behind(tokenizer: Any, start: list[int], new: list[int]) -> str:
    # Decoded alone, the first word would lose its space with SentencePiece, which the published scorer sees.
    head, whole = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (start, start + new))
    return whole[len(head) :]
