"""What is recorded while a model trains: rows of losses, kept in checkpoints; a loss that is not finite stops it."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm
from transformers import TrainerCallback

from common.records import write_atomic
from common.texts import read_json
from llm.data.alpaca import Example
from llm.training import checkpoints
from llm.training.errors import Diverged
from llm.training.loss import response_loss
from llm.training.trainer import ResponseTrainer

CURVE_NAME = "curve.json"
NOT_FINITE = "what was trained is not finite after step {}; train again with a lower learning_rate (now {:g})"
Collate = Callable[[Sequence[Example]], dict[str, Tensor]]


def saved(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint keeps of the curve: rows, seconds, and sums since the last row."""
    return read_json(checkpoint / CURVE_NAME, "the curve of a checkpoint")


def finite(model: nn.Module) -> bool:
    """Whether all that is trained is."""
    return all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def loss_sum(
    model: nn.Module, examples: Sequence[Example], collate: Collate, size: int, process: int = 0, processes: int = 1
) -> tuple[float, int]:
    """Sum of the response loss over examples, and number of its tokens: the share of one process."""
    order = sorted(range(len(examples)), key=lambda row: -len(examples[row]["input_ids"]))
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    device, training = next(model.parameters()).device, model.training
    total, number = 0.0, 0
    model.eval()
    # A sharded model must be run equally often by all processes, the last time perhaps for nothing.
    for start in range(0, len(batches), processes):
        batch = collate([examples[row] for row in batches[(start + process) % len(batches)]])
        loss, count = response_loss(model, {name: tensor.to(device) for name, tensor in batch.items()})
        if start + process < len(batches):
            total, number = total + loss.item(), number + count
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # some stay whole until a backward pass, which does not come
    model.train(training)
    return total, number


class Curve(TrainerCallback):
    """Rows of the curve of a `ResponseTrainer`; `llm.training.train.train` says what is in them.

    Parameters
    ----------
    validation : sequence of Example
    collate : callable
        Examples to a batch.
    size : int
        Validation examples computed at once.
    every : int
        Steps between rows; 0: a row per epoch.
    bar : tqdm
    run, rounding : mapping
        For the manifests of checkpoints (`llm.training.checkpoints`).
    """

    def __init__(
        self,
        validation: Sequence[Example],
        collate: Collate,
        size: int,
        every: int,
        bar: tqdm,
        run: Mapping[str, Any],
        rounding: Mapping[str, Any],
    ):
        self.validation, self.collate, self.size, self.every, self.bar = validation, collate, size, every, bar
        self.run, self.rounding = run, rounding
        self.rows: list[dict[str, Any]] = []
        self.losses: list[Tensor] = []  # of this step; read at its end, because reading waits for the GPU
        self.loss, self.labels, self.tokens = 0.0, 0, 0  # of this process, since the last row
        self.rate = 0.0

    def start(self, trainer: ResponseTrainer, checkpoint: Path | None) -> None:
        """Before the training of `trainer`, which goes on from a checkpoint or begins."""
        self.trainer: Any = trainer
        trainer.add_callback(self)
        self.began = time.perf_counter()
        if checkpoint is not None:
            state = saved(checkpoint)
            self.rows, self.began = state["rows"], self.began - state["seconds"]
            if trainer.is_world_process_zero():  # they are sums over all processes
                self.loss, self.labels, self.tokens = state["sums"]

    def add(self, loss: Tensor, labels: int, tokens: int) -> None:
        """One micro-batch: sum of its token losses, number of tokens with a loss, tokens computed."""
        self.losses.append(loss)
        self.labels += labels
        self.tokens += tokens

    def on_epoch_begin(self, args, state, control, **kwargs):
        batches = self.trainer.batches
        batches.epoch = state.global_step // batches.steps

    def on_pre_optimizer_step(self, args, state, control, optimizer: Any = None, **kwargs):
        self.rate = optimizer.param_groups[0]["lr"]

    def on_step_end(self, args, state, control, **kwargs):
        self.loss += sum(loss.item() for loss in self.losses)
        self.losses.clear()
        step, per_epoch = state.global_step, self.trainer.batches.steps
        if not math.isfinite(self.loss):
            raise Diverged(
                f"the loss is {self.loss} at step {step} of {state.max_steps}, where the learning rate is "
                f"{self.rate:.3g}; train again with a lower learning_rate (now {args.learning_rate:g})"
                + (" or in precision bf16 or float32" if args.fp16 else "")
            )
        self.bar.update(step - self.bar.n)
        if step % (self.every or per_epoch) == 0 or step == state.max_steps:
            loss, labels, tokens = self._over_processes(self.loss, self.labels, self.tokens)
            before = self.rows[-1]["tokens"] if self.rows else 0
            row = {"epoch": step / per_epoch, "step": step, "train_loss": loss / labels}
            row |= {"held_out_loss": self._held_out(), "learning_rate": self.rate}
            self.rows.append(row | {"seconds": self._seconds(), "tokens": before + int(tokens)})
            self.loss, self.labels, self.tokens = 0.0, 0, 0

    def on_save(self, args, state, control, **kwargs):
        # Waits until all processes have saved.
        *sums, broken = self._over_processes(self.loss, self.labels, self.tokens, not finite(self.trainer.model))
        if broken:
            raise Diverged(
                NOT_FINITE.format(state.global_step, args.learning_rate)
            )  # without a manifest, nobody goes on from these tensors
        if args.should_save:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            text = json.dumps({"rows": self.rows, "seconds": self._seconds(), "sums": sums})
            write_atomic(folder / CURVE_NAME, text + "\n")
            checkpoints.seal(folder, state.max_steps, self.run, self.rounding)

    def _seconds(self) -> float:
        return time.perf_counter() - self.began

    def _held_out(self) -> float | None:
        if not self.validation:
            return None
        accelerator, model = self.trainer.accelerator, self.trainer.model
        share = accelerator.process_index, accelerator.num_processes
        total, count = self._over_processes(*loss_sum(model, self.validation, self.collate, self.size, *share))
        return total / count

    def _over_processes(self, *numbers: float) -> list[float]:
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return list(numbers)
        return accelerator.reduce(torch.tensor(numbers, dtype=torch.float64, device=accelerator.device)).tolist()
