"""transformers.Trainer whose checkpoints hold the adapter instead of the whole base.

The plain Trainer trains adapted models too, but writes the base into every checkpoint and refuses a quantised base,
whose adapter it does not know as PEFT's. `AdapterTrainer` is the plain one otherwise.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from zeroinit import files
from zeroinit.families import owner
from zeroinit.model import attached, save

ARGUMENTS_NAME = "training_args.bin"  # as the plain Trainer calls it


class LightTrainer(Trainer):
    """Trainer that accepts a quantised base; how the model is saved is left to subclasses."""

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        top: Any = owner(model)
        # Trainer lets a quantised model pass if this says that it has an adapter; left on, it would make the model
        # save and checkpoint itself as PEFT's.
        before = top._hf_peft_config_loaded
        top._hf_peft_config_loaded = True
        try:
            super().__init__(model, *args, **kwargs)
        finally:
            top._hf_peft_config_loaded = before

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
        If the model has no adapter, nothing of it trains, or more than that trains; or if the output folder holds a
        whole model, which an adapter must not be written beside.
    """

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        own = {id(p) for p in attached(model).parameters()}
        if others := [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]:
            raise ValueError(
                f"AdapterTrainer saves the adapter alone, and {len(others)} other tensors train too ({others[0]}), "
                "which its checkpoints would lose; freeze them, or train by a loop that saves them too"
            )
        _check_that_it_trains(model)
        super().__init__(model, *args, **kwargs)
        files.check_target(str(self.args.output_dir))  # now, not when all is trained

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, as the plain Trainer does."""
        _check_that_it_trains(self._unwrapped())
        return super().train(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = str(output_dir or self.args.output_dir)
        save(self._unwrapped(), folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, ARGUMENTS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self._unwrapped() if model is None else model
        config, shape, state = files.read(resume_from_checkpoint)
        active = attached(model).active_adapter
        if (config, shape) != (active.config, active.shape):
            raise ValueError(
                f"the checkpoint {Path(resume_from_checkpoint)} must have the configuration of the active adapter, "
                f"{active.config}; it has {config}; attach an adapter of that configuration to resume it"
            )
        active.load_state_dict(state)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


def _check_that_it_trains(model: nn.Module) -> None:
    adapters = attached(model)
    if not any(p.requires_grad for p in adapters.active_adapter.parameters()):
        raise ValueError(
            f"nothing trains: the active adapter is frozen, by peft.prepare_model_for_kbit_training, get_peft_model or "
            f"load(..., trainable=False); call zeroinit.activate(model, {adapters.current()!r}) after them"
        )
