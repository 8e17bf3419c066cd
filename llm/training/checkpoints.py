"""Checkpoints that are whole or not there: a manifest, written last, with the checksum of every file.

manifest.json    step, steps      the step of this checkpoint, and the last one of its run
                 run              what the result depends on (configuration, settings, data, names of tensors)
                 rounding         what its last digits depend on (processes, device, libraries, micro-batches)
                 files            SHA-256 of each file by its name
                 checksum         of all of this
"""

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from common import seals
from common.arguments import CommandError
from common.records import provenance, write_atomic
from common.texts import read_json

NAME = "manifest.json"
KINDS = {"step": int, "steps": int, "run": dict, "rounding": dict, "files": dict}


class CheckpointError(CommandError):
    """A run cannot go on from what is in its folder; the message says what to do."""


def seal(folder: Path, steps: int, run: Mapping[str, Any], rounding: Mapping[str, Any]) -> None:
    """Make a checkpoint whole, after all of its files have been written."""
    step = number(folder)
    manifest = {"step": step, "steps": steps, "run": run, "rounding": rounding, "files": _files(folder)}
    write_atomic(folder / NAME, seals.sealed(manifest))


def rounding(arguments: TrainingArguments) -> dict[str, Any]:
    """What last digits depend on, of machine, libraries and processes."""
    place, on_cpu = provenance(), arguments.device.type == "cpu"
    return {
        "processes": arguments.world_size,
        "device": f"{place['cpu']}, {torch.get_num_threads()} threads" if on_cpu else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": place["libraries"]["transformers"],
    }


def last(folder: Path) -> Path | None:
    """The last checkpoint with a manifest, whatever is in it."""
    return max(_with_manifest(folder), key=number, default=None)


def resumable(
    folder: Path, steps: int, run: Mapping[str, Any], rounding: Mapping[str, Any] | None, say: Callable[[str], None]
) -> Path | None:
    """The last whole checkpoint of a run; None if the run begins.

    Checkpoints without a manifest were cut short by a kill and are passed over. Damaged ones are passed over, and said
    so, if an earlier one is whole.

    Parameters
    ----------
    folder : Path
    steps : int
        The last step of the run.
    run : mapping
        What the result depends on; numbers, texts, lists and mappings.
    rounding : mapping, optional
        What its last digits depend on; None: whatever it was. A run that has ended is not compared.
    say : callable
        Is given a line about each checkpoint that is passed over.

    Raises
    ------
    CheckpointError
        If there are checkpoints and none is whole, or the last whole one is of another run or another rounding.
    """
    wrong = ""
    for path in sorted(_with_manifest(folder), key=number, reverse=True):
        try:
            manifest = _whole(path)
        except (ValueError, OSError) as error:
            wrong = wrong or f"{path} is damaged: {error}"
            continue
        if differing := _differing(manifest["run"] | {"steps": manifest["steps"]}, {**run, "steps": steps}):
            raise CheckpointError(f"{path} is of a run with {differing}; use --fresh to replace it, or another --out")
        before = manifest["rounding"]
        if manifest["step"] < steps and (differing := _differing(before, before if rounding is None else rounding)):
            raise CheckpointError(
                f"{path} was computed with {differing}, and what follows would differ in the last digits from a run "
                "in one piece; go on where it was begun, accept that by --other-rounding, or begin anew with --fresh"
            )
        if wrong:
            say(f"{wrong}; going on from {path.name}")
        return path
    if wrong:
        raise CheckpointError(f"{wrong}, and no earlier checkpoint is whole; restore it, or begin anew with --fresh")
    return None


def remove(folder: Path, keep: Path | None = None) -> None:
    """Remove the checkpoints that come after one to keep, or have no manifest; without one, all of them."""
    for path in folder.glob("checkpoint-*"):
        if keep is None or not (path / NAME).is_file() or (number(path) > number(keep)):
            (path / NAME).unlink(missing_ok=True)  # half of it is then not taken for a damaged one
            shutil.rmtree(path)


def number(checkpoint: Path) -> int:
    """The step that the name of a checkpoint tells."""
    return int(checkpoint.name.rpartition("-")[2])


def say(line: str) -> None:
    """Tell the user, beside a progress bar."""
    print(line, file=sys.stderr)


class Sealing(TrainerCallback):
    """Makes the checkpoints of any Trainer whole."""

    def __init__(self, run: Mapping[str, Any]):
        self.run = run

    def on_save(self, args, state, control, **kwargs):
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        seal(folder, state.max_steps, self.run, rounding(args))


def _with_manifest(folder: Path) -> list[Path]:
    return [path.parent for path in folder.glob(f"checkpoint-*/{NAME}") if path.parent.name[11:].isdecimal()]


def _whole(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after comparing every file with it."""
    manifest = seals.unsealed(folder / NAME, "the manifest of a checkpoint")
    for key, kind in KINDS.items():
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{NAME} must have {key}")
    files = _files(folder)
    for name in sorted(manifest["files"].keys() | files.keys()):
        if name not in files:
            raise ValueError(f"{name} is missing")
        if name not in manifest["files"]:
            raise ValueError(f"{name} is not one of its files")
        if files[name] != manifest["files"][name]:
            raise ValueError(f"{name} is not as it was written")
    state = read_json(folder / TRAINER_STATE_NAME, "the state of a trainer")
    steps = {"its manifest": manifest["step"], TRAINER_STATE_NAME: state.get("global_step")}
    for what, step in steps.items():
        if step != number(folder):
            raise ValueError(f"{what} is of step {step}, so it is another's, copied")
    return manifest


def _files(folder: Path) -> dict[str, str]:
    every = [path for path in folder.rglob("*") if path.is_file() and path != folder / NAME]
    return {path.relative_to(folder).as_posix(): seals.digest(path) for path in sorted(every)}


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return ", ".join(f"{key} {before.get(key)!r} (now {now.get(key)!r})" for key in keys)
