"""How well a model answers the questions of a world."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from llm.data.alpaca import IGNORED, encode
from llm.data.batches import Collator
from llm.world.world import Question


@dataclass(frozen=True)
class Score:
    """What a model answers.

    Attributes
    ----------
    accuracy : float
        Share of questions to which greedy decoding gives exactly the answer, and then ends.
    multiple_choice : float
        Share to which, of the values of the attribute, the right one is the most probable.
    loss : float
        Mean of -log p over the tokens of the answers, ends included.
    """

    accuracy: float
    multiple_choice: float
    loss: float


@torch.no_grad()
def score(model: nn.Module, tokenizer: Any, questions: Sequence[Question], batch_size: int = 250) -> Score:
    """Score a model on questions in the Alpaca template.

    Greedy decoding gives an answer exactly if every token of it, the end included, is the most probable one after those
    before it, so one pass over questions with their answers tells all three numbers.

    Raises
    ------
    ValueError
        If a choice is not one token of the tokenizer: it is not that of the world.
    """
    choices = {c: tokenizer(c, add_special_tokens=False)["input_ids"] for q in questions for c in q.choices}
    if broken := [c for c, ids in choices.items() if len(ids) != 1 or ids[0] == tokenizer.unk_token_id]:
        raise ValueError(f"every answer must be one word of the tokenizer; {broken[0]!r} is not: is it of this world?")
    device = next(model.parameters()).device
    examples = encode([q.row for q in questions], tokenizer).examples
    order = sorted(range(len(questions)), key=lambda i: len(examples[i]["input_ids"]))  # little padding
    collate, training = Collator(tokenizer.pad_token_id), model.training
    model.eval()
    right = chosen = 0
    loss, tokens = 0.0, 0
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch = {k: v.to(device) for k, v in collate([examples[i] for i in part]).items()}
        labels = batch.pop("labels")[:, 1:]
        # PEFT's prompt tuning gives logits for its own tokens in front, too.
        logits = model(**batch, use_cache=False).logits[:, -labels.shape[1] - 1 : -1].float()
        scored = labels != IGNORED
        right += int(((logits.argmax(-1) == labels) | ~scored).all(1).sum())
        loss += float(F.cross_entropy(logits[scored], labels[scored], reduction="sum"))
        tokens += int(scored.sum())
        first = logits[torch.arange(len(part)), scored.int().argmax(1)]
        for row, i in zip(first, part, strict=True):
            answer = questions[i].answer
            best = max(questions[i].choices, key=lambda c, row=row: float(row[choices[c][0]]))
            chosen += best == answer
    model.train(training)
    return Score(right / len(questions), chosen / len(questions), loss / tokens)


def chance(questions: Sequence[Question]) -> float:
    """Multiple-choice accuracy of guessing."""
    return sum(1 / len(q.choices) for q in questions) / len(questions)
