"""Folders of pre-trained bases: the model, its tokenizer, the instruction set, and what they were made from."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common import seals
from common.checks import number, whole
from common.paths import RESULTS
from common.records import provenance, write_atomic
from llm.world.world import World

WORLDS = RESULTS / "llm" / "worlds"
CONFIG_NAME, INSTRUCTIONS_NAME = "world.json", "instructions.json"


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
            (whole if isinstance(field.default, int) else number)(field.name, getattr(self, field.name))
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden must be a multiple of twice heads, {2 * self.heads}; got {self.hidden}")


def write(model: Any, world: World, settings: Pretraining, curve: list[dict], folder: Path) -> None:
    """Write a base folder; world.json, which `read` looks for, comes last."""
    model.save_pretrained(folder)
    world.tokenizer().save_pretrained(folder)
    write_atomic(folder / INSTRUCTIONS_NAME, json.dumps(world.instructions(), indent=0) + "\n")
    text = {"world": asdict(world), "pretraining": asdict(settings), "curve": curve, "provenance": provenance()}
    write_atomic(folder / CONFIG_NAME, seals.sealed(text | {"files": _digests(folder)}))


def fingerprint(folder: Path) -> str:
    """Which weights a base folder has; errors as of `read`."""
    read(folder)
    digest = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and path.name != CONFIG_NAME)
    return {path.name: seals.digest(path) for path in files}


def read(folder: Path) -> World:
    """The world whose base lies in `folder`.

    Raises
    ------
    FileNotFoundError
        If there is none, with the command that makes one.
    ValueError
        If its world.json, or a file that belongs to it, is not as it was written.
    """
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: `python llm/pretrain.py --out {folder}` makes a world's base (--help: a larger one)"
        )
    record = seals.unsealed(path, "what a base was made from")
    found, names = record.get("world"), {field.name for field in fields(World)}
    if not isinstance(found, dict) or found.keys() != names:
        raise ValueError(f"{path} must have a world with {', '.join(sorted(names))}; restore it")
    written, now = record.get("files"), _digests(folder)
    if not isinstance(written, dict) or (changed := [name for name in written if now.get(name) != written[name]]):
        which = changed[0] if isinstance(written, dict) else "a file"
        raise ValueError(f"{which} in {folder} is missing, or not as {path.name} was written with; restore it")
    return World(**found)
