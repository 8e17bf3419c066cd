"""Adapter folders: adapter_config.json and adapter_model.safetensors, written whole and checked when read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.records import write_atomic
from llm.modules import Adapter, AdapterConfig, BaseShape

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
METHOD = "zero_initialized_attention"


def write(folder: str | os.PathLike, config: AdapterConfig, shape: BaseShape, state: dict[str, Tensor]) -> None:
    """Write an adapter folder; each file appears whole or not at all."""
    _check(config, shape, state, "the adapter")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = {"method": METHOD, "version": 1, "adapter": asdict(config), "base": asdict(shape)}
    with whole(folder / WEIGHTS_NAME) as unfinished:
        save_file({key: t.detach().cpu().contiguous() for key, t in state.items()}, unfinished, {"format": "pt"})
    write_atomic(folder / CONFIG_NAME, json.dumps(text, indent=2) + "\n")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when all is written; a failure leaves `file` as it was."""
    unfinished = file.with_name(file.name + ".part")
    try:
        yield unfinished
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read(folder: str | os.PathLike) -> tuple[AdapterConfig, BaseShape, dict[str, Tensor]]:
    """Read and check an adapter folder, without a model; errors as in `llm.adapter.load`."""
    folder = Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"an adapter folder must have {CONFIG_NAME} and {WEIGHTS_NAME}; {name} is missing in {folder}"
            )
    try:
        text = json.loads((folder / CONFIG_NAME).read_text())
        if text.get("method") != METHOD:
            raise ValueError(
                f"its method is {text.get('method', text.get('peft_type'))!r}; see llm.convert for other formats"
            )
        shape = BaseShape(**{f.name: int(text["base"][f.name]) for f in fields(BaseShape)})
        config = AdapterConfig(**text["adapter"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG_NAME} is not the configuration of a {METHOD} adapter: {error}") from error
    try:
        state = load_file(folder / WEIGHTS_NAME)
    except SafetensorError as error:
        raise ValueError(
            f"{folder / WEIGHTS_NAME} is damaged or cut short ({error}); restore it or save the adapter again"
        ) from error
    _check(config, shape, state, str(folder / WEIGHTS_NAME))
    if broken := sorted(key for key, t in state.items() if not t.isfinite().all()):
        raise ValueError(f"all weights must be finite; in {folder / WEIGHTS_NAME} these are not: {', '.join(broken)}")
    return config, shape, state


def _check(config: AdapterConfig, shape: BaseShape, state: dict[str, Tensor], what: str) -> None:
    """ValueError unless the names and shapes of the weights are those that the configuration gives an adapter."""
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in Adapter(config, shape).state_dict().items()}
    found = {key: tuple(t.shape) for key, t in state.items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(
            f"{what} does not fit its configuration: "
            + "; ".join(f"{key} must be {expected.get(key, 'absent')}, is {found.get(key, 'absent')}" for key in wrong)
        )
