"""Instruction data: templates, token ids and labels, splits, and batches of rows that `read` (`llm.rows`) gives.

A row is a dict of strings `instruction`, `input` (may be empty) and `output`. As published, the template with the
output right behind it is tokenised as one text with an end-of-sequence token, and cut at `length` tokens; the loss is
on what lies behind the prompt's own tokens, the end included.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common.streams import stream
from llm.rows import Row, read

__all__ = [
    "FRACTIONS",
    "IGNORED",
    "PROMPT_WITHOUT_INPUT",
    "PROMPT_WITH_INPUT",
    "Collator",
    "Encoded",
    "Example",
    "Report",
    "Row",
    "encode",
    "fraction",
    "hold_out",
    "pack",
    "prompt",
    "read",
]

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
FRACTIONS = (0.01, 0.1, 0.3, 0.5, 1.0)  # the paper's shares of the training rows
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


def encode(rows: Sequence[Row], tokenizer: Any, length: int = 512) -> Encoded:
    """Token ids and labels of rows; what is cut, skipped or empty is counted.

    Parameters
    ----------
    rows : sequence of Row
    tokenizer : a tokenizer of transformers
        Its own rule says whether a text starts with a begin-of-sequence token.
    length : int
        Most tokens of an example; published 512.

    Raises
    ------
    ValueError
        If the tokenizer has no end-of-sequence token, or no row fits.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise ValueError("the tokenizer must have an eos_token, which ends every response; set tokenizer.eos_token")
    prompts = [prompt(row["instruction"], row["input"]) for row in rows]
    starts = _token_ids(tokenizer, prompts)
    wholes = _token_ids(tokenizer, [text + row["output"] for text, row in zip(prompts, rows, strict=True)])
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
    kept = len(examples)
    names = ("truncated", "empty", "merged", "tokens", "labels")
    report = Report(length, len(rows), kept, len(rows) - kept, **{name: count[name] for name in names})
    return Encoded(examples, report)


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found = tokenizer(texts, verbose=False)["input_ids"] if texts else []
    for ids in found:
        while ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text, prompts too
            ids.pop()
    return found


def hold_out(rows: Sequence[Row], count: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Disjoint training and validation rows, in their order; rows of one instruction and input stay together.

    Raises
    ------
    ValueError
        If `count` is negative or leaves no row to train on, or repeated rows do not allow this very count.
    """
    if not 0 <= count < len(rows):
        raise ValueError(
            f"the validation rows must be at least 0 and fewer than the {len(rows)} rows there are; got {count}"
        )
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row["instruction"], row["input"]), []).append(index)
    held: set[int] = set()
    members = list(groups.values())
    for number in stream(seed, "hold-out").permutation(len(members)):
        if len(held) + len(members[number]) <= count:
            held.update(members[number])
    if len(held) < count:
        raise ValueError(
            f"{count} validation rows must not share an instruction and input with training rows; rows repeat so much "
            f"that this draw holds out {len(held)}; ask for that many, or remove repeated rows"
        )
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


def check_fraction(share: float) -> None:
    """ValueError unless a share is in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"the fraction must be above 0 and at most 1; got {share}; a tenth of the rows is 0.1")


def fraction(rows: Sequence[Any], share: float, seed: int) -> list[Any]:
    """A random share of rows in their order, rounded half up and at least one; a smaller share is a subset of a larger.

    Raises
    ------
    ValueError
        If the share is not in (0, 1], or there are no rows.
    """
    check_fraction(share)
    if not rows:
        raise ValueError("there must be at least one row to take a fraction of")
    # 0.29 of 50 rows is 14.5 rows, though not in binary.
    count = max(1, int(Fraction(str(share)) * len(rows) + Fraction(1, 2)))
    chosen = stream(seed, "fraction").permutation(len(rows))[:count]
    return [rows[index] for index in sorted(chosen)]


def pack(examples: Sequence[Example], length: int = 512) -> list[Example]:
    """Put examples together into rows of at most `length` tokens; each goes where it fits most tightly, longest first.

    `position_ids` start anew with every example, from which transformers keeps examples from seeing each other (see
    `Collator`), and no label is across a border: the loss of a row is the sum of the losses of its examples.

    Raises
    ------
    ValueError
        If an example is longer.
    """
    longest = max((len(example["input_ids"]) for example in examples), default=0)
    if longest > length:
        raise ValueError(
            f"the length of packed rows must be at least that of the longest example, {longest}; got {length}"
        )
    rows: list[list[Example]] = []
    open_rows: list[list[int]] = [[] for _ in range(length + 1)]  # by the room they have left
    for example in sorted(examples, key=lambda example: -len(example["input_ids"])):
        size = len(example["input_ids"])
        room = next((room for room in range(size, length + 1) if open_rows[room]), None)
        if room is None:
            room, number = length, len(rows)
            rows.append([])
        else:
            number = open_rows[room].pop()
        rows[number].append(example)
        open_rows[room - size].append(number)
    return [_packed(row) for row in rows]


def _packed(row: list[Example]) -> Example:
    return {
        "input_ids": [token for example in row for token in example["input_ids"]],
        "labels": [label for example in row for label in [IGNORED, *example["labels"][1:]]],
        "position_ids": [position for example in row for position in range(len(example["input_ids"]))],
    }


@dataclass(frozen=True)
class Collator:
    """Batches, padded on the right, of examples or of packed rows.

    A batch of examples has input_ids, attention_mask and labels. A batch of packed rows has input_ids, labels and
    position_ids, and no attention_mask: transformers reads the borders off the positions only without one, and only
    without a cache (`use_cache=False`, as `llm.loss.response_loss` does).

    Attributes
    ----------
    pad_token_id : int
        Any token will do: padding is neither seen nor scored.
    pad_to_multiple_of : int
        Rows are as long as the longest, rounded up to a multiple of this.
    length : int or None
        Instead, rows of this length, as published.
    """

    pad_token_id: int = 0
    pad_to_multiple_of: int = 1
    length: int | None = None

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tensors (batch, length); ValueError if an example is longer than the length asked for."""
        longest = max(len(example["input_ids"]) for example in examples)
        if self.length is not None and longest > self.length:
            raise ValueError(f"examples must have at most {self.length} tokens, the length of the batch; got {longest}")
        size = self.length or -(-longest // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {
            "input_ids": self._padded(examples, "input_ids", [self.pad_token_id] * size),
            "labels": self._padded(examples, "labels", [IGNORED] * size),
        }
        if "position_ids" in examples[0]:
            # Padding counts from 0 too: a sequence of its own, which no example sees.
            return batch | {"position_ids": self._padded(examples, "position_ids", list(range(size)))}
        ones = [{"attention_mask": [1] * len(example["input_ids"])} for example in examples]
        return batch | {"attention_mask": self._padded(ones, "attention_mask", [0] * size)}

    @staticmethod
    def _padded(examples: Sequence[Example], name: str, padding: list[int]) -> Tensor:
        return torch.tensor([example[name] + padding[: len(padding) - len(example[name])] for example in examples])
