"""Pre-training of the base of a small world; the command is llm/pretrain.py."""

import shutil
import warnings
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from common.paths import SCRATCH
from llm.data.batches import Collator
from llm.training import checkpoints
from llm.world.folder import Pretraining, write
from llm.world.world import World

CHECKPOINT_EVERY = 500


def build(world: World, settings: Pretraining) -> LlamaForCausalLM:
    """A Llama with random weights and the vocabulary of the world."""
    tokenizer: Any = world.tokenizer()
    torch.manual_seed(world.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden,
            intermediate_size=settings.hidden * 43 // 16,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def examples(world: World, count: int) -> list[dict[str, list[int]]]:
    """The first `count` documents, every token a label."""
    tokenizer = world.tokenizer()
    found = []
    for text in islice(world.documents(), count):
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        found.append({"input_ids": ids, "labels": ids})
    return found


def pretrain(
    world: World, settings: Pretraining, folder: Path, fresh: bool = False, other_rounding: bool = False
) -> list[dict]:
    """Train and write the base to `folder`: Hugging Face model in bfloat16, tokenizer, instructions, world.json.

    Checkpoints lie in results/scratch until the base is written; `llm.training.checkpoints` says which are gone on
    from. Returns the logged losses.
    """
    # A base of other numbers must not go on from these checkpoints.
    scratch = SCRATCH / "pretrain" / _name(world, settings)
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    tokenizer: Any = world.tokenizer()
    documents: Any = examples(world, settings.steps * settings.batch_size)  # Trainer's type asks for a Dataset
    arguments = TrainingArguments(
        str(scratch),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        lr_scheduler_type="cosine",
        warmup_steps=settings.steps // 20,
        seed=world.seed,
        logging_steps=min(100, settings.steps),
        save_steps=CHECKPOINT_EVERY,
        save_total_limit=2,  # the last one may be cut short
        report_to="none",
    )
    run = {"world": asdict(world), "pretraining": asdict(settings)}
    known = None if other_rounding else checkpoints.rounding(arguments)
    checkpoint = checkpoints.resumable(scratch, settings.steps, run, known, checkpoints.say)
    checkpoints.remove(scratch, keep=checkpoint)
    trainer = Trainer(
        build(world, settings),
        arguments,
        train_dataset=documents,
        data_collator=Collator(tokenizer.pad_token_id),
        callbacks=[checkpoints.Sealing(run)],
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pin_memory.*")
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    curve = [{k: row[k] for k in ("step", "loss")} for row in trainer.state.log_history if "loss" in row]
    model: Any = trainer.model
    write(model.to(torch.bfloat16), world, settings, curve, folder)
    shutil.rmtree(scratch)
    return curve


def _name(world: World, settings: Pretraining) -> str:
    return "-".join(str(v) for v in (*asdict(world).values(), *asdict(settings).values()))
