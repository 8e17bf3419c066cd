"""Adapter folders: adapter_config.json and adapter_model.safetensors, written whole and checked when read.

Everything that this library reads from others comes through `read_json`, `read_tensors` and `read_pickled`: whatever is
wrong with a file is a ValueError of one line that names it, and nothing in a file is ever run.
"""

import argparse
import hashlib
import json
import math
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from zeroinit.adapter import BaseShape, skeleton
from zeroinit.config import AdapterConfig, shown

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MODEL_NAME = "config.json"  # what transformers calls the configuration of a whole model
METHOD = "zero_initialized_attention"
VERSION = 2
LONGEST = 1_000_000  # bytes of a configuration
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
          "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool"}  # fmt: skip


def write(folder: str | os.PathLike, config: AdapterConfig, shape: BaseShape, state: dict[str, Tensor]) -> None:
    """Write an adapter folder; each file appears whole or not at all.

    Raises
    ------
    ValueError
        If the folder holds a whole model, or the tensors do not fit the configuration.
    """
    state = {key: t.detach().cpu().float().contiguous() for key, t in state.items()}
    _check(config, shape, {key: (tuple(t.shape), "float32") for key, t in state.items()}, "the adapter")
    folder = Path(folder)
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / WEIGHTS_NAME) as unfinished:
        save_file(state, unfinished, {"format": "pt"})
        digest = _sha256(unfinished)
    text = {"method": METHOD, "version": VERSION, "adapter": asdict(config), "base": asdict(shape), "sha256": digest}
    with whole(folder / CONFIG_NAME) as unfinished:
        unfinished.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


def check_target(folder: str | os.PathLike) -> None:
    """ValueError if an adapter must not be written here, because a model could then not be loaded from here."""
    if (Path(folder) / MODEL_NAME).exists():
        raise ValueError(
            f"{folder} holds a whole model ({MODEL_NAME}), and transformers loads no model from a folder that has an "
            f"{CONFIG_NAME} too; save the adapter into a folder of its own, such as {Path(folder) / 'adapter'}"
        )


def check_finite(state: dict[str, Tensor], file: str | os.PathLike) -> None:
    """ValueError that names the tensors with infinite numbers or none."""
    if broken := sorted(key for key, t in state.items() if not t.isfinite().all()):
        raise ValueError(f"all weights must be finite; in {file} these are not: {', '.join(broken)}")


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path to write to, which becomes `file` when all is written; a failure leaves `file` as it was."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield unfinished
        with open(unfinished, "rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    except (SafetensorError, RuntimeError) as error:  # how safetensors and torch say that the disk is full
        raise OSError(f"cannot write {file}: {_line(error)}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def read(folder: str | os.PathLike) -> tuple[AdapterConfig, BaseShape, dict[str, Tensor]]:
    """Read and check an adapter folder, without a model; errors as in `zeroinit.load`."""
    folder = Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"an adapter folder must have {CONFIG_NAME} and {WEIGHTS_NAME}; {name} is missing in {folder}"
            )
    file = folder / WEIGHTS_NAME
    try:
        text = read_json(folder / CONFIG_NAME)
        if text.get("method") != METHOD:
            method = text.get("method", text.get("peft_type"))
            raise ValueError(f"its method is {shown(method)}; see zeroinit.convert for other formats")
        version = text.get("version", 1)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise ValueError(f"its version must be from 1 to {VERSION}; got {shown(version)}; update zeroinit")
        shape, config = _base_shape(text.get("base")), _configuration(text.get("adapter"))
        skeleton(config, shape)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG_NAME} is not the configuration of a {METHOD} adapter: {error}") from error
    _check(config, shape, _header(file), str(file))
    state = read_tensors(file)
    check_finite(state, file)
    if text.get("sha256", digest := _sha256(file)) != digest:  # version 1, and the first of version 2, had none
        raise ValueError(
            f"{file} is not the file that was saved with {CONFIG_NAME}, its SHA-256 differs: damaged or replaced; "
            f'restore it, or remove "sha256" from {CONFIG_NAME} if you changed the weights yourself'
        )
    return config, shape, state


def read_json(file: str | os.PathLike) -> dict[str, Any]:
    """The JSON object in a file, strictly: UTF-8, no name twice, finite numbers, nothing endless.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it holds anything else.
    """
    _is_file(file)
    with open(file, "rb") as stream:
        content = stream.read(LONGEST + 1)
    try:
        if len(content) > LONGEST:
            raise ValueError(f"it must have at most {LONGEST:,} bytes")
        found = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_named_once,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if not isinstance(found, dict):
            raise ValueError(f"it must be an object, {{...}}; got {shown(found)}")
    except RecursionError:
        raise ValueError(f"{file} cannot be read as JSON: it is nested too deep") from None
    except ValueError as error:  # those of decoding and of json among them
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    return found


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {shown(next(n for n in names if names.count(n) > 1))} stands twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > 19:  # what 64 bits hold
        raise ValueError(f"an integer must have at most 19 digits; one has {len(digits)}")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"numbers must be finite; got {digits[:20]}")
    return value


def read_tensors(file: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError if it is none or damaged."""
    _is_file(file)
    with _of_safetensors(file):
        return load_file(file)


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every tensor, before any is read."""
    _is_file(file)
    with _of_safetensors(file), safe_open(file, "pt") as tensors:
        parts = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118  (no mapping)
        return {
            key: (tuple(part.get_shape()), DTYPES.get(str(part.get_dtype()), str(part.get_dtype())))
            for key, part in parts.items()
        }


@contextmanager
def _of_safetensors(file: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # SafetensorError, and what its reader lets through (ValueError, KeyError, ...)
        kind = "" if isinstance(error, SafetensorError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{file} is damaged or cut short ({kind}{_line(error)}); restore it or save the adapter again"
        ) from error


def read_pickled(file: str | os.PathLike) -> dict[str, Any]:
    """What torch.save wrote: tensors and plain values; a dict. Nothing in the file is run.

    Besides what torch allows by itself, argparse.Namespace is allowed: training scripts save their options so.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is damaged, or holds objects of another class.
    """
    _is_file(file)
    archive = zipfile.is_zipfile(file)  # older files of torch are none
    try:
        if archive:
            with zipfile.ZipFile(file) as parts:
                if broken := parts.testzip():  # which torch does not do for mapped files
                    raise ValueError(f"the checksum of its part {broken} is another")
        with torch.serialization.safe_globals([argparse.Namespace]):
            # A training checkpoint may hold the whole base; mapped, it takes no memory.
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # a damaged pickle raises almost anything
        raise ValueError(
            f"{file} cannot be read as weights, it may be damaged or hold more than tensors: "
            f"{type(error).__name__}: {_line(error)[:200]}"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold a dict of tensors; it holds {shown(type(found).__name__)}")
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _is_file(file: str | os.PathLike) -> None:
    """OSError unless the file can be opened: whatever goes wrong afterwards is the content's fault."""
    if Path(file).exists() and not Path(file).is_file():
        raise ValueError(f"{file} must be a file; it is a folder or a device")
    with open(file, "rb"):
        pass


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _base_shape(found: Any) -> BaseShape:
    names = [f.name for f in fields(BaseShape)]
    if not isinstance(found, dict) or not set(names) <= set(found):
        raise ValueError(f"base must have {', '.join(names)}; got {shown(found)}")
    for name in names:
        if type(found[name]) is not int or found[name] < 1:
            raise ValueError(f"base.{name} must be a positive integer; got {shown(found[name])}")
    return BaseShape(**{name: found[name] for name in names})


def _configuration(found: Any) -> AdapterConfig:
    names = [f.name for f in fields(AdapterConfig)]
    if not isinstance(found, dict) or not set(found) <= set(names):
        raise ValueError(f"adapter must have names among {', '.join(names)}; got {shown(found, 200)}")
    # In version 1 random_init was a kind of prompt.
    if found.get("prompt") == "random_init":
        found = {**found, "prompt": "linear", "attention": "random_init"}
    return AdapterConfig(**found)


def _check(config: AdapterConfig, shape: BaseShape, found: dict[str, tuple[tuple[int, ...], str]], what: str) -> None:
    """ValueError unless names, shapes and types of the weights are those that the configuration gives an adapter."""
    expected = {key: (tuple(t.shape), "float32") for key, t in skeleton(config, shape).state_dict().items()}
    if found != expected:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        told = {key: [_told(side.get(key)) for side in (expected, found)] for key in wrong[:4]}
        raise ValueError(
            f"{what} does not fit its configuration: "
            + "; ".join(f"{shown(key)[1:-1]} must be {one}, is {other}" for key, (one, other) in told.items())
            + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        )


def _told(tensor: tuple[tuple[int, ...], str] | None) -> str:
    return "absent" if tensor is None else f"{tensor[1]} {tensor[0]}"
