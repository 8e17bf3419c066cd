"""Adapter folders: adapter_config.json and adapter_model.safetensors, written whole and checked when read."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeroinit.adapter import Adapter, BaseShape
from zeroinit.config import AdapterConfig

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
METHOD = "zero_initialized_attention"


def write(folder: str | os.PathLike, config: AdapterConfig, shape: BaseShape, state: dict[str, Tensor]) -> None:
    """Write an adapter folder; each file appears whole or not at all."""
    _check(config, shape, state, "the adapter")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = {"method": METHOD, "version": 2, "adapter": asdict(config), "base": asdict(shape)}
    with whole(folder / WEIGHTS_NAME) as unfinished:
        save_file({key: t.detach().cpu().contiguous() for key, t in state.items()}, unfinished, {"format": "pt"})
    with whole(folder / CONFIG_NAME) as unfinished:
        unfinished.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when all is written; a failure leaves `file` as it was."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield unfinished
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read(folder: str | os.PathLike) -> tuple[AdapterConfig, BaseShape, dict[str, Tensor]]:
    """Read and check an adapter folder, without a model; errors as in `zeroinit.load`."""
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
                f"its method is {text.get('method', text.get('peft_type'))!r}; see zeroinit.convert for other formats"
            )
        shape = BaseShape(**{f.name: int(text["base"][f.name]) for f in fields(BaseShape)})
        config = _configuration(text["adapter"])
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


def _configuration(fields: dict[str, Any]) -> AdapterConfig:
    # In version 1 random_init was a kind of prompt.
    if fields.get("prompt") == "random_init":
        fields = {**fields, "prompt": "linear", "attention": "random_init"}
    return AdapterConfig(**fields)


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
