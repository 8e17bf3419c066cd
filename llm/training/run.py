"""One fine-tuning run: from a preset to a saved method and its record; the command is llm/finetune.py."""

import hashlib
import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from common import journal
from common.records import only_writer
from llm.data.alpaca import encode
from llm.methods import loading, registry, tensors
from llm.training import checkpoints
from llm.training.presets import Preset
from llm.training.train import train


def finetune(
    preset: Preset, share: float, out: Path, result: Path, fresh: bool = False, other_rounding: bool = False
) -> dict[str, Any]:
    """Train as a preset says on a share of its data, or go on with that; the record of the run.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        If model or data cannot be had, do not fit, or `out` or `result` is of another configuration.
    TrainingError
        If the loss is not finite, or memory does not suffice.
    CheckpointError
        If the checkpoints of the run are damaged.
    """
    first, settings = int(os.environ.get("RANK", "0")) == 0, preset.training
    rows, validation = preset.split(share)
    model, tokenizer = _base(preset)
    vocabulary = loading.vocabulary_size(model)
    encoded = encode(rows, tokenizer, settings.length, vocabulary)
    held_out = encode(validation, tokenizer, settings.length, vocabulary) if validation else None
    configuration = preset.configuration(share) | {
        "weights": loading.fingerprint(model),
        "examples": hashlib.sha256(json.dumps(encoded.examples).encode()).hexdigest()[:16],
    }
    model = registry.apply(model, preset.method, preset.options, settings.seed)
    with only_writer(out) if first else nullcontext():
        if first:
            record = _claim(preset, configuration, out, result, fresh)
            print(f"{preset.name}: {registry.counts(model)['trainable']:,} trainable parameters\n{encoded.report}")
        curve = train(
            model,
            encoded.examples,
            held_out.examples if held_out else [],
            settings,
            out,
            resume=not fresh,
            progress=first,
            configuration=configuration,
            other_rounding=other_rounding,
        )
        if not first:
            return {}
        record["results"] = {
            "data": asdict(encoded.report),
            "validation": asdict(held_out.report) if held_out else None,
            "counts": registry.counts(model),
            "curve": curve,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "processes": int(os.environ.get("WORLD_SIZE", "1")),
        }
        _save(preset, model, tokenizer, out)
        journal.save(out / "run.json", record)
        journal.save(result, record)
    return record


def _save(preset: Preset, model: Any, tokenizer: Any, out: Path) -> None:
    """Write what was trained to the folder of the run."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        # The model is in pieces now; its checkpoint is whole.
        model = registry.apply(_base(preset)[0], preset.method, preset.options, preset.training.seed)
        checkpoint = checkpoints.last(out)
        assert checkpoint is not None
        tensors.restore(model, tensors.read(checkpoint / tensors.NAME))
    folder = out / ("model" if preset.method == "full" else "adapter")
    registry.save(model, folder)
    if preset.method == "full":
        tokenizer.save_pretrained(folder)


def _base(preset: Preset) -> tuple[Any, Any]:
    model, tokenizer = loading.load_base(preset.model, preset.base_precision, "cpu")
    loading.check_length(model.config, preset.training.length)
    return model, tokenizer


def _claim(preset: Preset, configuration: dict[str, Any], out: Path, result: Path, fresh: bool) -> dict[str, Any]:
    """The record of this run, after making sure that nothing in folder and result belongs to somebody else."""
    here = journal.known(out / "run.json", configuration)
    journal.known(result, configuration)
    made = [out / "adapter", out / "model", *sorted(out.glob("checkpoint-*"))]
    if here is None and (foreign := next((path for path in made if path.exists()), None)):
        raise ValueError(f"{out} has {foreign.name}, and no run.json of this command; name another --out")
    if here and fresh:
        trained = made[here["configuration"]["method"] == "full"]
        if Path(preset.model).resolve() == trained.resolve():
            raise ValueError(f"--fresh would remove the base, {trained}; name another --out")
        for path in (trained, *made[2:]):  # what the run made, and nothing else that may lie there
            shutil.rmtree(path, ignore_errors=True)
    if fresh:
        result.unlink(missing_ok=True)
    elif result.exists():
        journal.claim(result, configuration)
    return journal.claim(out / "run.json", configuration, fresh)
