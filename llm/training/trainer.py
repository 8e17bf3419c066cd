"""The Trainer of `llm.training.train`: every method, the exact mean loss of a batch, small checkpoints."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainingArguments

from llm.data.alpaca import Example
from llm.data.batches import Batches
from llm.methods import tensors
from llm.training.loss import response_loss
from zeroinit.trainer import LightTrainer

SCHEDULER_NAME = "scheduler.pt"  # as the plain Trainer calls it


class ResponseTrainer(LightTrainer):
    """Trainer of whatever is trainable, by the mean loss over the response tokens of a whole batch.

    Checkpoints hold the trainable tensors, gathered if they are sharded (FSDP 2), and what resuming needs.

    Parameters
    ----------
    model : nn.Module
    arguments : TrainingArguments
    batches : Batches
        Of this process.
    examples : sequence of Example
    collate : callable
        Examples to a batch.
    watch : callable
        Is given (sum of token losses, number of tokens with a loss, tokens computed) of every micro-batch.
    """

    loss_is_scaled_for_ga = True  # for Trainer: micro-batches add up as they are

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        batches: Batches,
        examples: Sequence[Example],
        collate: Callable[[list[Example]], dict[str, Tensor]],
        watch: Callable[[Tensor, int, int], None],
    ):
        rows: Any = examples  # a list will do, though Trainer's type asks for a Dataset
        super().__init__(model, arguments, train_dataset=rows)
        self.batches, self.collate, self.watch = batches, collate, watch
        self.model_accepts_loss_kwargs = True  # for Trainer: count the labels of all micro-batches and processes
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        # Not through accelerate, which would divide the batches among processes once more.
        rows: Any = self.train_dataset
        return DataLoader(rows, batch_sampler=self.batches, collate_fn=self.collate)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        opt_model: Any = self.model if model is None else model
        groups = optimizer_groups(opt_model, self.args.weight_decay)
        betas = (self.args.adam_beta1, self.args.adam_beta2)
        self.optimizer = torch.optim.AdamW(groups, self.args.learning_rate, betas, fused=True)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, count = response_loss(model, inputs)
        self.watch(loss.detach(), count, inputs["input_ids"].numel())
        # Gradients of processes are averaged, and the batch's mean is a sum over them.
        return loss * self.accelerator.num_processes / num_items_in_batch

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # nobody reads it, and counting the parameters at every step takes time

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> None:
        return None  # the same

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        whole = {name: _whole(tensor) for name, tensor in tensors.trained(self._unwrapped()).items()}
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            tensors.write(folder / tensors.NAME, whole)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self._unwrapped() if model is None else model
        tensors.restore(model, tensors.read(Path(resume_from_checkpoint) / tensors.NAME))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Trainer would write the whole base beside it.
        scheduler: Any = self.lr_scheduler
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))


def optimizer_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters with two or more dimensions, which decay, and the others, which do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    decaying = {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay}
    others = {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}
    return [group for group in (decaying, others) if group["params"]]


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
