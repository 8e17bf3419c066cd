"""Instruction data in the Alpaca templates: token ids and labels of rows that `llm.data.rows.read` gives.

A row is a dict of strings `instruction`, `input` (may be empty) and `output`. As published, the template with the
output right behind it is tokenised as one text with an end-of-sequence token, and cut at `length` tokens; the loss is
on what lies behind the prompt's own tokens, the end included.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from common import checks
from llm.data.rows import Row
from llm.data.tokens import check_ids, ids_of_texts

# Stanford Alpaca's templates, which the paper trains with.
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
PROMPT_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
IGNORED = -100  # label of a token without loss, transformers' and PyTorch's

Example = dict[str, list[int]]


def prompt(instruction: str, input: str = "") -> str:
    """The published template around an instruction; it ends in "### Response:", and the response follows at once."""
    template = PROMPT_WITH_INPUT if input else PROMPT_WITHOUT_INPUT
    return template.format(instruction=instruction, input=input)


@dataclass(frozen=True)
class Report:
    """What became of the rows; `str` gives it in one line for a log.

    Attributes
    ----------
    length : int
        Most tokens of an example.
    rows, kept : int
        Rows given, examples made.
    skipped : int
        Rows whose prompt leaves no room for a response.
    truncated : int
        Kept rows that were cut, which always costs them their end-of-sequence token.
    empty : int
        Kept rows with an empty output: the loss is on the end-of-sequence token.
    merged : int
        Kept rows where one token joins the end of the prompt to the start of the response. As published it counts as
        the prompt's.
    tokens, labels : int
        Tokens of the examples, and those of them with a loss.
    """

    length: int
    rows: int
    kept: int
    skipped: int
    truncated: int
    empty: int
    merged: int
    tokens: int
    labels: int

    def __str__(self) -> str:
        n = {field.name: f"{getattr(self, field.name):,}" for field in fields(self)}
        return (
            f"{n['rows']} rows: {n['kept']} kept, {n['skipped']} skipped (prompt of {n['length']} tokens or more), "
            f"{n['truncated']} cut at {n['length']} tokens (without an end), {n['empty']} with an empty output, "
            f"{n['merged']} whose response starts inside a token; {n['tokens']} tokens, {n['labels']} with a loss"
        )


class Encoded(NamedTuple):
    """Examples for training, each with lists `input_ids` and `labels` of one length, and what became of the rows."""

    examples: list[Example]
    report: Report


def encode(rows: Sequence[Row], tokenizer: Any, length: int = 512, vocabulary: int | None = None) -> Encoded:
    """Token ids and labels of rows; what is cut, skipped or empty is counted.

    Parameters
    ----------
    rows : sequence of Row
    tokenizer : a tokenizer of transformers
        Its own rule says whether a text starts with a begin-of-sequence token.
    length : int
        Most tokens of an example; published 512.
    vocabulary : int, optional
        Size of the model's embedding; ids that it has no row for are refused. None: not known yet.

    Raises
    ------
    ValueError
        If the tokenizer has no end-of-sequence token, no row fits, or a token is not in the model's vocabulary.
    """
    checks.whole("length", length, 2)
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer must have an eos_token, which ends every response; set tokenizer.eos_token")
    prompts = [prompt(row["instruction"], row["input"]) for row in rows]
    starts = ids_of_texts(tokenizer, prompts)
    wholes = ids_of_texts(tokenizer, [text + row["output"] for text, row in zip(prompts, rows, strict=True)])
    examples, count = [], Counter()
    for row, start, whole in zip(rows, starts, wholes, strict=True):
        ids = [*whole, end][:length]
        if len(start) >= len(ids):
            continue
        labels = [IGNORED] * len(start) + ids[len(start) :]
        examples.append({"input_ids": ids, "labels": labels})
        count["truncated"] += len(whole) >= length
        count["empty"] += not row["output"]
        count["merged"] += whole[: len(start)] != start
        count["tokens"] += len(ids)
        count["labels"] += len(ids) - len(start)
    if not examples:
        raise ValueError(
            f"at least one row must have a prompt shorter than {length} tokens; none of {len(rows)} has; "
            "raise the length"
        )
    if vocabulary is not None:
        check_ids((example["input_ids"] for example in examples), tokenizer, vocabulary)
    kept = len(examples)
    names = ("truncated", "empty", "merged", "tokens", "labels")
    report = Report(length, len(rows), kept, len(rows) - kept, **{name: count[name] for name in names})
    return Encoded(examples, report)
