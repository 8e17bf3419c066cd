"""Trees of tokens give the likelihoods that every sequence has alone."""

import random

import pytest
import torch
from llm_helpers import adapted, tiny

from llm.evaluation import prefix
from llm.evaluation.prefix import loglikelihoods, possible, tree
from llm.methods import registry

KINDS = ("linear", "nonlinear", "nonlinear_shared", "random_init", "random_init_nonlinear")


def pairs(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Items with four options, some of them behind a common instruction, one of them the beginning of another."""
    draw = random.Random(seed)
    shared = [draw.randrange(3, 97) for _ in range(9)]
    found = []
    for item in range(9):
        context = (shared if item % 3 else []) + [draw.randrange(3, 97) for _ in range(item % 4 + 1)]
        found += [(context, [draw.randrange(3, 97) for _ in range(option + 1)]) for option in range(4)]
    return [*found, (found[-1][0], found[-1][1][:2]), found[0]]


def alone(model, context, continuation):
    logs = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)[len(context) - 1 : -1]
    targets = torch.tensor(continuation)
    return logs.gather(1, targets[:, None]).sum().item(), bool((logs.argmax(-1) == targets).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_likelihoods_are_those_of_each_sequence_alone(family, kind):
    model = adapted(tiny(family, torch.float64), prompt=kind)
    found = loglikelihoods(model, pairs(), nodes=40)
    for (context, continuation), (value, greedy) in zip(pairs(), found, strict=True):
        reference, is_greedy = alone(model, context, continuation)
        assert value == pytest.approx(reference, abs=1e-12)
        assert greedy == is_greedy


@torch.no_grad()
def test_greedy_continuations_are_known_and_long_contexts_lose_their_beginning():
    model = tiny(dtype=torch.float64)
    context = list(range(3, 23))
    greedy = model.generate(torch.tensor([context]), max_new_tokens=3, do_sample=False)[0, -3:].tolist()
    assert loglikelihoods(model, [(context, greedy)])[0][1]
    short = loglikelihoods(model, [(context, greedy)], length=8)[0]
    assert short[0] == pytest.approx(alone(model, context[-6:], greedy)[0], abs=1e-12)


def test_every_distinct_prefix_is_one_node():
    inputs = [[5, 6], [5, 6, 7], [5, 8, 7], [9]]
    tokens, depths, seen, paths = tree(inputs)
    assert tokens == [5, 6, 7, 8, 7, 9]
    assert depths == [0, 1, 2, 1, 2, 0]
    assert [[tokens[node] for node in path] for path in paths] == inputs
    assert [row.nonzero().flatten().tolist() for row in seen] == [[0], [0, 1], [0, 1, 2], [0, 3], [0, 3, 4], [5]]


def test_models_that_take_no_mask_of_their_own_are_left_to_the_harness():
    assert possible(tiny())
    assert possible(adapted(tiny()))
    assert possible(registry.apply(tiny(), "lora"))
    assert not possible(tiny("mistral"))  # a sliding window
    assert not possible(tiny(attention="eager"))
    assert not possible(registry.apply(tiny(), "prompt_tuning"))


def test_a_sibling_that_is_seen_shows(monkeypatch):
    """The comparison above can fail: let every node see all before it."""
    model = adapted(tiny(dtype=torch.float64))
    right = loglikelihoods(model, pairs())
    monkeypatch.setattr(prefix, "tree", lambda inputs: (*(t := tree(inputs))[:2], torch.ones_like(t[2]).tril(), t[3]))
    wrong = loglikelihoods(model, pairs())
    assert max(abs(a[0] - b[0]) for a, b in zip(right, wrong, strict=True)) > 1e-3
