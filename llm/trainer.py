"""transformers.Trainer whose checkpoints hold what was trained instead of the whole base.

The plain Trainer trains adapted models too, but writes the base into every checkpoint and refuses a quantised base,
whose adapter it does not know as PEFT's. `AdapterTrainer` is the plain one otherwise; `ResponseTrainer` is that of
`llm.training`, for every method.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from llm import adapter, files, tensors
from llm.batches import Batches
from llm.data import Example
from llm.loss import response_loss

ARGUMENTS_NAME, SCHEDULER_NAME = "training_args.bin", "scheduler.pt"  # as the plain Trainer calls them


class LightTrainer(Trainer):
    """Trainer that accepts a quantised base; how the model is saved is left to subclasses."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        owner: Any = adapter.owner(model)
        # Trainer lets a quantised model pass if this says that it has an adapter; left on, it would make the model
        # save and checkpoint itself as PEFT's.
        before = owner._hf_peft_config_loaded
        owner._hf_peft_config_loaded = True
        try:
            super().__init__(model, *args, **kwargs)
        finally:
            owner._hf_peft_config_loaded = before

    def _unwrapped(self) -> nn.Module:
        return self.accelerator.unwrap_model(self.model)


class AdapterTrainer(LightTrainer):
    """Trainer for models with an adapter: same arguments; checkpoints, resume and best model by adapter files.

    Parameters
    ----------
    model : nn.Module
        A model with an active adapter; quantised bases are accepted.

    Raises
    ------
    ValueError
        If the model has no adapter, or trains more than that.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        own = {id(p) for p in adapter.attached(model).parameters()}
        if others := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]:
            raise ValueError(
                f"AdapterTrainer saves the adapter alone, and {len(others)} other tensors train too ({others[0]}), "
                "which its checkpoints would lose; freeze them, or use llm.methods (linear+lora), llm.training.train"
            )
        super().__init__(model, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = str(output_dir or self.args.output_dir)
        adapter.save(self._unwrapped(), folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, ARGUMENTS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self._unwrapped() if model is None else model
        config, shape, state = files.read(resume_from_checkpoint)
        active = adapter.attached(model).active_adapter
        if (config, shape) != (active.config, active.shape):
            raise ValueError(
                f"the checkpoint {Path(resume_from_checkpoint)} must have the configuration of the active adapter, "
                f"{active.config}; it has {config}; attach an adapter of that configuration to resume it"
            )
        active.load_state_dict(state)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


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
