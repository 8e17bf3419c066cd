#!/usr/bin/env python
"""Pre-train the base model of a small world, and write it with its tokenizer and its instruction set.

The committed bases under results/llm/worlds were made by this command. It shows progress, can be killed at any moment
and goes on from its last checkpoint.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from common.arguments import Parser
from common.paths import RESULTS, SCRATCH
from common.records import provenance, write_atomic
from llm.data import Collator
from llm.world import World

CHECKPOINT_EVERY = 500
WORLDS = RESULTS / "llm" / "worlds"
CONFIG_NAME, INSTRUCTIONS_NAME = "world.json", "instructions.json"
EXAMPLES = """examples:
  python llm/pretrain.py                          world 0, to results/llm/worlds/0
  python llm/pretrain.py --seed 1                 another world
  python llm/pretrain.py --train 4000 --validation 200 --test 500 --asked 2000 --hidden 512 --layers 12 --heads 8
      --steps 20000 --out results/llm/worlds/large/0  the world of the GPU tier (about 40 million parameters)
"""


@dataclass(frozen=True)
class Pretraining:
    """Shape of the base, and its training: AdamW, warm-up over 5 %, half cosine to 0, gradients of norm at most 1."""

    hidden: int = 128
    layers: int = 6
    heads: int = 4
    steps: int = 2500
    batch_size: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if isinstance(field.default, int) else 0
            if not getattr(self, field.name) >= least:
                raise ValueError(f"{field.name} must be at least {least}; got {getattr(self, field.name)}")
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden must be a multiple of twice heads, {2 * self.heads}; got {self.hidden}")


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


def pretrain(world: World, settings: Pretraining, folder: Path, fresh: bool = False) -> list[dict]:
    """Train and write the base to `folder`: Hugging Face model in bfloat16, tokenizer, instructions, world.json.

    Checkpoints lie in results/scratch until the base is written. Returns the logged losses.
    """
    # A base of other numbers must not go on from these checkpoints.
    scratch = SCRATCH / "pretrain" / _name(world, settings)
    if fresh:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    for checkpoint in scratch.glob("checkpoint-*"):
        if not (checkpoint / TRAINER_STATE_NAME).is_file():  # written last: a kill has cut this one short
            shutil.rmtree(checkpoint)
    tokenizer: Any = world.tokenizer()
    documents: Any = examples(world, settings.steps * settings.batch_size)  # Trainer's type asks for a Dataset
    trainer = Trainer(
        build(world, settings),
        TrainingArguments(
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
            save_total_limit=1,
            report_to="none",
        ),
        train_dataset=documents,
        data_collator=Collator(tokenizer.pad_token_id),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pin_memory.*")
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(scratch)))
    curve = [{k: row[k] for k in ("step", "loss")} for row in trainer.state.log_history if "loss" in row]
    model: Any = trainer.model
    write(model.to(torch.bfloat16), world, settings, curve, folder)
    shutil.rmtree(scratch)
    return curve


def write(model, world: World, settings: Pretraining, curve: list[dict], folder: Path) -> None:
    """Write a base folder; world.json, which `read` looks for, comes last."""
    model.save_pretrained(folder)
    world.tokenizer().save_pretrained(folder)
    write_atomic(folder / INSTRUCTIONS_NAME, json.dumps(world.instructions(), indent=0) + "\n")
    text = {"world": asdict(world), "pretraining": asdict(settings), "curve": curve, "provenance": provenance()}
    write_atomic(folder / CONFIG_NAME, json.dumps(text, indent=1) + "\n")


def fingerprint(folder: Path) -> str:
    """Which weights a base folder has; errors as of `read`."""
    read(folder)
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read(folder: Path) -> World:
    """The world whose base lies in `folder`.

    Raises
    ------
    FileNotFoundError
        If there is none, with the command that makes one.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `python llm/pretrain.py --out {folder}` makes a world's base (--help: a larger one)"
        )
    return World(**json.loads(path.read_text())["world"])


def _name(world: World, settings: Pretraining) -> str:
    return "-".join(str(v) for v in (*asdict(world).values(), *asdict(settings).values()))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="pretrain.py", description=__doc__, epilog=EXAMPLES)
    for kind in (World, Pretraining):
        for field in fields(kind):
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, type=type(field.default), default=field.default, help=f"{field.default}")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results/llm/worlds/SEED")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of from the last checkpoint")
    arguments = parser.parse_args(argv)
    try:
        world = World(**{f.name: getattr(arguments, f.name) for f in fields(World)})
        settings = Pretraining(**{f.name: getattr(arguments, f.name) for f in fields(Pretraining)})
    except ValueError as error:
        parser.error(str(error))
    folder = arguments.out or WORLDS / str(world.seed)
    made = {"world": asdict(world), "pretraining": asdict(settings)}
    if (folder / CONFIG_NAME).is_file() and not arguments.fresh:
        known = json.loads((folder / CONFIG_NAME).read_text())
        if any(known.get(part) != made[part] for part in made):
            parser.error(f"{folder} has the base of other settings; name another --out, or replace it with --fresh")
        print(f"{folder} is there already; --fresh makes it anew")
        return 0
    curve = pretrain(world, settings, folder, arguments.fresh)
    print(f"{folder}: loss {curve[-1]['loss']:.4f} after {settings.steps} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
