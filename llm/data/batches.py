"""Examples to batches: which of them make up which step, how short ones share a row, and tensors of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from common.checks import whole
from common.streams import stream
from llm.data.alpaca import IGNORED, Example


class Batches(Sampler[list[int]]):
    """Indices of the micro-batches of one process, for the epoch in `epoch`.

    As published, an epoch has floor(rows / size) steps, and the rows left over are other ones in every epoch; fewer
    rows than a batch make one smaller batch, of a multiple of the processes. Steps of full batches consist of the same
    rows for every number of processes and of micro-batches, so that these change neither data order nor loss.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each example.
    size : int
        Examples of a step, over all processes.
    micro : int or None
        Most examples that a process computes at once; None: its whole share.
    grouped : bool
        Put examples of similar length into one step (transformers' grouping), the longest first of all, so that
        memory that does not suffice shows at once.
    seed : int
    process, processes : int
        This process among all.

    Raises
    ------
    ValueError
        If there are no examples, or the size does not divide evenly among the processes.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        size: int,
        micro: int | None = None,
        grouped: bool = False,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
    ):
        if not lengths:
            raise ValueError("there must be at least one example to train on; there is none")
        whole("batch_size", size)
        if size % processes:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {processes}, which share each batch; "
                f"got {size}"
            )
        self.lengths, self.grouped, self.seed = lengths, grouped, seed
        self.process, self.processes, self.epoch = process, processes, 0
        share = min(size, len(lengths)) // processes
        if share == 0:
            raise ValueError(f"{len(lengths)} examples are too few for {processes} processes; start fewer")
        self.size, self.steps = share * processes, len(lengths) // (share * processes)
        self.accumulate = -(-share // min(micro or share, share))

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches():
            own = batch[self.process :: self.processes]
            cuts = [len(own) * part // self.accumulate for part in range(self.accumulate + 1)]
            yield from (own[start:end] for start, end in pairwise(cuts))

    def batches(self) -> list[list[int]]:
        """Rows of every step of the epoch, over all processes; grouped ones longest first."""
        generator = torch.Generator().manual_seed(int(stream(self.seed, "order", self.epoch).integers(2**62)))
        rows = torch.randperm(len(self.lengths), generator=generator)[: self.steps * self.size].tolist()
        if self.grouped:
            lengths = [self.lengths[row] for row in rows]
            rows = [rows[i] for i in get_length_grouped_indices(lengths, self.size, generator=generator)]
        batches = [rows[start : start + self.size] for start in range(0, len(rows), self.size)]
        if self.grouped:
            # Else an epoch would run through its lengths from long to short, several times.
            others = torch.randperm(len(batches) - 1, generator=generator).tolist()
            batches = [batches[0], *(batches[1 + other] for other in others)]
            batches = [sorted(batch, key=lambda row: -self.lengths[row]) for batch in batches]
        return batches


def pack(examples: Sequence[Example], length: int = 512) -> list[Example]:
    """Put examples together into rows of at most `length` tokens; each goes where it fits most tightly, longest first.

    `position_ids` start anew with every example, from which transformers keeps examples from seeing each other (see
    `Collator`), and no label is across a border: the loss of a row is the sum of the losses of its examples.

    Raises
    ------
    ValueError
        If an example is longer, or the length no whole number of at least 1.
    """
    whole("length", length)
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
    without a cache (`use_cache=False`, as `llm.training.loss.response_loss` does).

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
