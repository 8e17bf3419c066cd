"""Training as published, on transformers.Trainer: optimiser groups, schedule, exact batch loss, and a curve of it.

    learning rate at step s of S, W = warmup S:    peak s / W                                  while s < W
                                                   peak (1 + cos(pi (s - W) / (S - W))) / 2    after that
    loss of a step    sum of token losses / number of tokens with a loss, both over the whole batch

AdamW with weight decay on the trainable tensors of two or more dimensions (prompts, gates, matrices), no clipping of
gradients. A curve is a function of model, data and settings: the order of the data depends on the seed alone, and
micro-batches and processes change sums only in the last digits.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from transformers import TrainingArguments

from common.memory import out_of_memory
from llm.data.alpaca import Example
from llm.data.batches import Batches, Collator, pack
from llm.methods import tensors
from llm.methods.loading import vocabulary_size
from llm.training import checkpoints
from llm.training.curve import NOT_FINITE, Collate, Curve, finite, loss_sum, saved
from llm.training.errors import Diverged, TrainingError
from llm.training.settings import FREE, Training
from llm.training.trainer import ResponseTrainer
from zeroinit.families import owner


def train(
    model: nn.Module,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: Training,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    device: str | None = None,
    configuration: Mapping[str, Any] | None = None,
    other_rounding: bool = False,
) -> list[dict[str, Any]]:
    """Train what is trainable, in place.

    Sets the global seeds of Python, NumPy and torch. Under torchrun or `accelerate launch` every process calls it with
    the same arguments.

    Parameters
    ----------
    model : nn.Module
        From `llm.methods.registry.apply`.
    examples, validation : sequence of Example
        From `llm.data.alpaca.encode`; without validation rows, held_out_loss is None.
    settings : Training
    folder : Path, optional
        For checkpoints, of which the last two are kept. None: nothing is written anywhere.
    resume : bool
        Go on from the last whole checkpoint in `folder`, if there is one. On a CPU, in one process, the end is then
        bit for bit that of a run without interruption.
    progress : bool
        Show a bar on stderr.
    device : str, optional
        cpu: not on a GPU. None: on one if there is one.
    configuration : mapping, optional
        What the result depends on besides settings, data and names of tensors, to be kept in checkpoints; numbers,
        texts, lists and mappings.
    other_rounding : bool
        Go on from checkpoints of other processes, devices, libraries or micro-batches, too.

    Returns
    -------
    list of dict
        The curve. Since the start: epoch, step, seconds, tokens (computed, padding included). train_loss is the mean
        over the response tokens since the row before, held_out_loss that over the validation rows at this step,
        learning_rate that of this step.

    Raises
    ------
    Diverged
        If the loss, or what was trained, is not finite.
    CheckpointError
        If the checkpoints in `folder` are damaged, or of another run.
    TrainingError
        If memory does not suffice.
    ValueError
        If the batch does not divide among the processes, there are no examples, or one has a token that the model has
        not.
    """
    arguments = _arguments(settings, folder, device)
    size = vocabulary_size(model)
    if wrong := next((i for e in (*examples, *validation) for i in e["input_ids"] if not 0 <= i < size), None):
        raise ValueError(f"tokens must have ids from 0 to {size - 1}, those of the model's vocabulary; got {wrong}")
    lengths = [len(example["input_ids"]) for example in examples]
    grouped, process = settings.batching == "grouped", arguments.process_index
    sizes = settings.batch_size, settings.micro_batch_size
    batches = Batches(lengths, *sizes, grouped, settings.seed, process, arguments.world_size)
    arguments.gradient_accumulation_steps = batches.accumulate
    arguments.max_steps = settings.steps or settings.epochs * batches.steps
    arguments.warmup_steps = round(settings.warmup * arguments.max_steps)
    run, rounding = _identity(model, examples, validation, settings, arguments, configuration)
    checkpoint, steps = None, arguments.max_steps
    if folder is not None:
        said = checkpoints.say if process == 0 else lambda line: None
        known = None if other_rounding else rounding
        checkpoint = checkpoints.resumable(folder, steps, run, known, said) if resume else None
        if process == 0:
            checkpoints.remove(folder, keep=checkpoint)
    done = 0 if checkpoint is None else checkpoints.number(checkpoint)
    if checkpoint is not None and done == steps:
        tensors.restore(model, tensors.read(checkpoint / tensors.NAME))
        if not finite(model):
            raise Diverged(NOT_FINITE.format(done, settings.learning_rate))
        return saved(checkpoint)["rows"]
    bar = tqdm(total=arguments.max_steps, initial=done, unit="step", mininterval=1, disable=not progress)
    with _as_it_was(model), memory_in_words(), bar:
        collate, size = _collate(settings), settings.micro_batch_size or settings.batch_size
        curve = Curve(validation, collate, size, settings.evaluate_every, bar, run, rounding)
        trainer = ResponseTrainer(model, arguments, batches, examples, collate, curve.add)
        curve.start(trainer, checkpoint)
        try:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except UnpicklingError as error:  # Trainer reads with weights_only
            raise checkpoints.CheckpointError(
                f"{checkpoint} has a file that holds more than tensors and numbers; begin anew with --fresh"
            ) from error
    if not finite(model):
        raise Diverged(NOT_FINITE.format(steps, settings.learning_rate))
    return curve.rows


def held_out_loss(model: nn.Module, examples: Sequence[Example], settings: Training) -> float:
    """Mean loss over the response tokens of examples."""
    size = settings.micro_batch_size or settings.batch_size
    total, count = loss_sum(model, examples, _collate(settings), size)
    return total / count


def _arguments(settings: Training, folder: Path | None, device: str | None) -> TrainingArguments:
    """What is known before the data is divided; nothing is logged, and nothing is written without a folder."""
    arguments = TrainingArguments(
        output_dir="." if folder is None else str(folder),  # Trainer makes this folder, and "." is there
        save_strategy="no" if folder is None else "steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,  # the last one may be incomplete
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        max_grad_norm=0.0,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        # On a machine without a GPU too: else processes on CPUs would not know of each other.
        use_cpu=device == "cpu" or not torch.accelerator.is_available(),
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        seed=settings.seed,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs: a process for each, not nn.DataParallel
    return arguments


def _collate(settings: Training) -> Collate:
    if settings.batching == "packed":
        return lambda examples: Collator()(pack(examples, settings.length))
    return Collator(length=settings.length if settings.batching == "padded" else None)


def _identity(
    model: nn.Module,
    examples: Sequence[Example],
    validation: Sequence[Example],
    settings: Training,
    arguments: TrainingArguments,
    configuration: Mapping[str, Any] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a result depends on, and what its last digits depend on, for the manifests of checkpoints."""
    trained = {name: f"{t.dtype} {tuple(t.shape)}" for name, t in tensors.trained(model).items()}
    options = {name: value for name, value in asdict(settings).items() if name not in FREE}
    run = {**(configuration or {}), **options, "rows": _digest([examples, validation]), "tensors": _digest(trained)}
    sizes = {name: getattr(settings, name) for name in ("micro_batch_size", "gradient_checkpointing")}
    return json.loads(json.dumps(run)), sizes | checkpoints.rounding(arguments)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back what Trainer and accelerate change in a model besides its weights."""
    base: Any = owner(model)
    training, cache, own = model.training, base.config.use_cache, model.__dict__.get("forward")
    try:
        yield
    finally:
        model.train(training)
        # accelerate has put autocast around it, and keeps the former one under a name of its own.
        for name in ("forward", "_original_forward"):
            model.__dict__.pop(name, None)
        if own is not None:
            model.forward = own
        base.config.use_cache = cache
        if base.is_activation_checkpointing:
            base.activation_checkpointing_disable()


@contextmanager
def memory_in_words() -> Iterator[None]:
    """Errors of too little memory as a `TrainingError` that says what to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"memory does not suffice ({reason}); lower micro_batch_size (the result stays the same) or length, switch "
            "gradient_checkpointing on, or use precision bf16"
        ) from error
