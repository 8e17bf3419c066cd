"""Log-likelihoods of many continuations, with every shared beginning computed once.

The options of one item share its question, and the items of one task may share an instruction or examples. Sequences
are put into trees of tokens, a node for every distinct prefix; a tree is one row of the model, in which

    node i sees node j   if j is i or an ancestor of i
    position of node i   its depth

so that the hidden state of a node is that of the sequence which ends there, computed alone. Logits are computed only at
the nodes before a token that is scored.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from llm.methods.loading import virtual_tokens
from zeroinit.attention import PREFIX
from zeroinit.families import owner

NODES = 512  # most of a tree, unless one sequence has more: attention grows with their square
Pair = tuple[Sequence[int], Sequence[int]]


def possible(model: nn.Module) -> bool:
    """Whether a model takes a mask of its own, as trees need: sdpa, no window, no virtual tokens in front."""
    config: Any = owner(model).config.get_text_config()
    implementation = str(config._attn_implementation).removeprefix(PREFIX)
    windows = any("full" not in kind for kind in getattr(config, "layer_types", None) or ())
    return (
        implementation == "sdpa"
        and not windows
        and not getattr(config, "sliding_window", None)
        and (virtual_tokens(model) == 0)
    )


@torch.no_grad()
def loglikelihoods(
    model: nn.Module, pairs: Sequence[Pair], length: int | None = None, nodes: int = NODES
) -> list[tuple[float, bool]]:
    """Of every pair (context, continuation) of token ids: log p(continuation | context), and whether it is greedy.

    Parameters
    ----------
    model : transformers model, or a wrapper of one
        One of which `possible` is true, in evaluation mode.
    pairs : sequence of (context, continuation)
        Neither empty.
    length : int, optional
        Most tokens that the model is given; longer contexts lose their beginning, as in lm-evaluation-harness.
    nodes : int
        Most tokens of a row, unless one sequence has more.
    """
    wholes = [[*context, *continuation] for context, continuation in pairs]
    inputs = [whole[:-1] if length is None else whole[-length - 1 : -1] for whole in wholes]
    found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
    for group in _groups(inputs, nodes):
        scored = _score(model, [inputs[n] for n in group], [list(pairs[n][1]) for n in group])
        found = _placed(found, group, scored)
    return found


def _placed(found: list, group: list[int], scored: list) -> list:
    for number, value in zip(group, scored, strict=True):
        found[number] = value
    return found


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _groups(inputs: list[list[int]], nodes: int) -> list[list[int]]:
    """Numbers of the sequences of each tree, in the order of their tokens, which puts shared beginnings together."""
    groups: list[list[int]] = []
    before, size = [], 0
    for number in sorted(range(len(inputs)), key=lambda n: inputs[n]):
        new = len(inputs[number]) - _shared(before, inputs[number])
        if not groups or size + new > nodes:
            groups.append([])
            size, new = 0, len(inputs[number])
        groups[-1].append(number)
        before, size = inputs[number], size + new
    return groups


def tree(inputs: Sequence[Sequence[int]]) -> tuple[list[int], list[int], Tensor, list[list[int]]]:
    """Tokens and depths of the nodes, what each sees (nodes, nodes), and the nodes of each sequence."""
    tokens: list[int] = []
    depths: list[int] = []
    paths: list[list[int]] = []
    seen = torch.zeros(sum(map(len, inputs)), sum(map(len, inputs)), dtype=torch.bool)
    before, path = [], []
    for sequence in inputs:
        shared = _shared(before, sequence)
        start, new = len(tokens), len(sequence) - shared
        path = [*path[:shared], *range(start, start + new)]
        if new:
            rows = slice(start, start + new)
            seen[rows, path[:shared]] = True
            seen[rows, rows] = torch.ones(new, new, dtype=torch.bool).tril()
        tokens += sequence[shared:]
        depths += range(shared, len(sequence))
        paths.append(path)
        before = sequence
    return tokens, depths, seen[: len(tokens), : len(tokens)], paths


def _score(model: nn.Module, inputs: list[list[int]], targets: list[list[int]]) -> list[tuple[float, bool]]:
    tokens, depths, seen, paths = tree(inputs)
    device = owner(model).device
    places = [path[-len(target) :] for path, target in zip(paths, targets, strict=True)]
    kept = sorted({place for some in places for place in some})
    row = {place: number for number, place in enumerate(kept)}
    logits = model(
        input_ids=torch.tensor([tokens], device=device),
        position_ids=torch.tensor([depths], device=device),
        attention_mask=seen[None, None].to(device),
        logits_to_keep=torch.tensor(kept, device=device),
        use_cache=False,
    ).logits[0]
    logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    greedy = logs.argmax(-1).tolist()
    found = []
    for some, target in zip(places, targets, strict=True):
        rows = [row[place] for place in some]
        total = logs[rows, target].sum().item()
        found.append((total, all(greedy[r] == token for r, token in zip(rows, target, strict=True))))
    return found
