"""Which examples make up which step: a function of seed and epoch, however a batch is divided among processes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from common.streams import stream


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
