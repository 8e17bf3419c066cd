"""The paper's own evaluation: ARC, MMLU and TruthfulQA by generated answers, matched with the options as text.

A question is put in the Alpaca form, without examples and without letters, and answered freely; `score` decides which
option the answer means. Its rules can fail a right answer ("110 m" contains the option "10 m"): `ceiling` is the
accuracy of a model that always answers with the text of the right option. HellaSwag is scored by likelihood with ten
examples in the prompt, which is `llm.evaluation.harness`.
"""

import difflib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from common import journal
from llm.data.tokens import check_ids, token_ids
from llm.evaluation.decoding import Answer, Decoding, generate
from llm.evaluation.questions import MARKER, prompt
from llm.evaluation.tasks import Item
from llm.methods.loading import context_length, vocabulary_size

# Why an answer is right or wrong, in the order in which the rules apply.
SEVERAL, SIMILAR, CONTAINED, NEITHER = (
    "contains several options",
    "most similar to the right option",
    "contains the right option only",
    "neither most similar to the right option nor containing it alone",
)
UNFIT = "not asked: the prompt and any of its options must fit the model's context"


class Score(NamedTuple):
    """Whether an answer is right, and the rule that says so."""

    right: bool
    reason: str


def score(text: str, options: Sequence[str], gold: int) -> Score:
    """The published matching of a generated text with the options.

    Only what lies behind the last "### Response:" counts. More than one option contained, ignoring case (an option that
    ends in "." also without it), is wrong. Else the answer is right if the most similar option (`difflib` ratio above
    zero, the first of equals) is the right one, or if the right option is the only one contained.

    Raises
    ------
    ValueError
        If there are no two options, all of them text, `gold` is not the place of one, or the answer is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"the answer must be text; got {text!r}")
    if not isinstance(options, list | tuple) or len(options) < 2 or not all(isinstance(one, str) for one in options):
        raise ValueError(f"options must be at least two texts; got {options!r}")
    if not isinstance(gold, int | np.integer) or isinstance(gold, bool) or not 0 <= gold < len(options):
        raise ValueError(f"gold must be the place of the right option, from 0 to {len(options) - 1}; got {gold!r}")
    text = text.rpartition(MARKER)[2]
    lower = text.lower()
    contained = [
        number
        for number, option in enumerate(options)
        if option.lower() in lower or (option.endswith(".") and option[:-1].lower() in lower)
    ]
    if len(contained) > 1:
        return Score(False, SEVERAL)
    if most_similar(text, options) == gold:
        return Score(True, SIMILAR)
    if contained == [gold]:
        return Score(True, CONTAINED)
    return Score(False, NEITHER)


def most_similar(text: str, options: Sequence[str]) -> int | None:
    """Place of the first option with the largest similarity ratio; None if all are zero."""
    matcher = difflib.SequenceMatcher(None, b=text)  # prepares b once, and the ratio is not symmetric in a and b
    best, highest = None, 0.0
    for number, option in enumerate(options):
        matcher.set_seq1(option)
        if (ratio := matcher.ratio()) > highest:
            best, highest = number, ratio
    return best


def ceiling(items: Sequence[Item]) -> float:
    """Accuracy of answers that are the text of the right option, which is the most that the matching allows."""
    return float(np.mean([score(item.options[item.gold], item.options, item.gold).right for item in items]))


def evaluate(
    model: Any,
    tokenizer: Any,
    items: Sequence[Item],
    path: Path,
    decoding: Decoding | None = None,
    *,
    preface: str = "",
    batch_size: int = 16,
    name: str = "",
) -> dict[str, Any]:
    """Answer and score items, keeping every answer in a file as it comes; items that the file has are not asked again.

    Batches are the same in an uninterrupted run and in one that goes on after a kill, and so are the answers.

    Parameters
    ----------
    model, tokenizer
    items : sequence of Item
    path : Path
        JSON lines: key, id, subject, fits, answer, cut, right, reason.
    decoding : Decoding
        None: greedy.
    preface : str
        See `prompt`.
    batch_size : int
    name : str
        Of the progress bar.

    Returns
    -------
    dict
        n, accuracy (an item that does not fit is wrong), standard_error, not_fitting, accuracy_fitting, cut (answers
        that ended for their length), oracle_ceiling, reasons (how often each rule decided), subjects (accuracies).
    """
    decoding = decoding or Decoding()
    texts = [prompt(item, preface) for item in items]
    keys = [_key(item, text) for item, text in zip(items, texts, strict=True)]
    prompts = [token_ids(tokenizer, text) for text in texts]
    check_ids(prompts, tokenizer, vocabulary_size(model))  # before the first answer
    fits = [_fits(model, tokenizer, ids, item) for ids, item in zip(prompts, items, strict=True)]
    done = {row["key"] for row in journal.read(path)}
    unfit = [n for n, fit in enumerate(fits) if not fit and keys[n] not in done]
    journal.append(path, [_record(keys[n], items[n]) for n in unfit])
    order = sorted((n for n, fit in enumerate(fits) if fit), key=lambda n: -len(prompts[n]))  # memory runs out at once
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with tqdm(total=len(order), desc=name, unit="item", mininterval=1) as bar:
        for batch in batches:
            if not done.issuperset(keys[n] for n in batch):
                seeds = [items[n].id for n in batch]
                answers = generate(model, tokenizer, [prompts[n] for n in batch], decoding, seeds)
                new = [_record(keys[n], items[n], answer) for n, answer in zip(batch, answers, strict=True)]
                journal.append(path, new)
            bar.update(len(batch))
    known = {row["key"]: row for row in journal.read(path)}
    records = [known[key] for key in keys]
    journal.replace(path, records)  # in the order of the items, and each once
    return summary(items, records)


def summary(items: Sequence[Item], records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of `evaluate` from the record of every item."""
    right = [float(record["right"]) for record in records]
    subjects = sorted({item.subject for item in items} - {""})
    by_subject = {s: mean([r for r, item in zip(right, items, strict=True) if item.subject == s]) for s in subjects}
    return {
        "n": len(records),
        "metric": "matched",
        "accuracy": mean(right),
        "standard_error": standard_error(right),
        "not_fitting": sum(not record["fits"] for record in records),
        "accuracy_fitting": mean([float(record["right"]) for record in records if record["fits"]]),
        "oracle_ceiling": ceiling(items),
        "cut": sum(record["cut"] for record in records),
        "reasons": dict(Counter(record["reason"] for record in records)),
        "subjects": by_subject,
    }


def mean(values: Sequence[float]) -> float | None:
    """Mean; None of nothing."""
    return float(np.mean(values)) if values else None


def standard_error(values: Sequence[float]) -> float | None:
    """Sample standard deviation over the square root of the number; None of fewer than two values."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def _fits(model: Any, tokenizer: Any, prompt_ids: list[int], item: Item) -> bool:
    """Whether the context holds the prompt and any of its options behind it."""
    longest = max(len(tokenizer(option, add_special_tokens=False)["input_ids"]) for option in item.options)
    return len(prompt_ids) + max(longest, 1) <= context_length(model)


def _key(item: Item, text: str) -> str:
    """Known by all that an answer and its score depend on: other data in the same file cannot be taken for it."""
    return hashlib.sha256(json.dumps([item.id, text, item.options, item.gold]).encode()).hexdigest()[:16]


def _record(key: str, item: Item, answer: Answer | None = None) -> dict[str, Any]:
    text, cut = answer or Answer("", False)
    right, reason = score(text, item.options, item.gold) if answer else Score(False, UNFIT)
    known = {"key": key, "id": item.id, "subject": item.subject, "fits": answer is not None}
    return known | {"answer": text, "cut": cut, "right": right, "reason": reason}
