"""Methods: `apply` makes the tensors of one trainable, `save` and `load` go by the folder alone.

`apply` prepares a model in place; PEFT's methods wrap it. `llm.methods.names` lists the methods. Whatever trains is
float32 beside a half-precision base, except in full fine-tuning, where it is the base.
"""

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

import zeroinit
from common.memory import out_of_memory
from common.records import write_atomic
from common.seals import digest
from common.sources import fetch, why_local
from common.texts import read_json
from llm.methods import neighbours, tensors
from llm.methods.bases import read_model
from llm.methods.names import COMBINED, METHODS, OWN, PEFT, PROMPTS
from zeroinit.config import AdapterConfig
from zeroinit.families import owner
from zeroinit.files import check_finite

MARKER, TENSORS = "method.json", tensors.NAME
# Files of an adapter on the hub.
FILES = ("*.json", "adapter_model.*", TENSORS, "prompts/*", "peft/*")


def apply(model: nn.Module, method: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> nn.Module:
    """Make the tensors of a method, and nothing else, trainable.

    Parameters
    ----------
    model : transformers model
        Prepared in place; on the meta device too, for counts.
    method : str
        One of `llm.methods.names.METHODS`.
    options : mapping, optional
        Fields of `AdapterConfig` (but prompt and attention, which the method is), of PEFT's configuration, or of both
        for a combination; None: the published choices.
    seed : int
        Of the initial values; torch's generator is left as it was.

    Returns
    -------
    The model, or PEFT's wrapper of it.

    Raises
    ------
    ValueError
        If the method or an option is unknown, or the model has no tensor of this kind.
    """
    prompts, other = _configurations(method, dict(options or {}), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if other is not None:
            with _options_in_words(method, options):
                model = neighbours.wrap(model, other)
        if prompts is not None:
            zeroinit.attach(model, prompts)
    if method in OWN:
        tensors.train_only(model, method)
    return _remember(model, method)


def save(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write what the model's method has trained, and a file that says which method it is.

    A full model is written as a transformers folder, which can be given as a model by itself.

    Raises
    ------
    ValueError
        If no method was applied to the model.
    """
    method, folder = _method_of(model), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    if method in COMBINED:
        zeroinit.save(model, folder / "prompts")
        neighbours.save(model, folder / "peft")
    elif method in PROMPTS:
        zeroinit.save(model, folder)
    elif method in PEFT:
        neighbours.save(model, folder)
    elif method == "full":
        owner(model).save_pretrained(folder)
    else:
        tensors.write(folder / TENSORS, tensors.trained(model))
    files = {} if method == "full" else _digests(folder)  # a full model may have more bytes than one reads twice
    write_atomic(folder / MARKER, json.dumps({"method": method, "version": 1, "files": files}, indent=1) + "\n")


def load(model: nn.Module, source: str | os.PathLike) -> nn.Module:
    """The model with what `save` wrote; folders of `zeroinit.save`, `zeroinit.convert` and PEFT are loaded as well.

    Prompts and single tensors go into `model` in place, PEFT's methods wrap it, and a full model replaces it, in the
    precision and on the device of `model`. `source` is a folder, or a name on the Hugging Face hub.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ConnectionError
        If the hub does not give the adapter.
    ValueError
        If a file is damaged, or was made for another base.
    """
    folder = Path(source).expanduser() if why_local(source) else fetch(os.fspath(source), *FILES)
    if not (folder / MARKER).is_file():
        method = neighbours.method_of(folder)
        return zeroinit.load(model, folder) if method is None else _remember(neighbours.load(model, folder), method)
    method = saved_method(folder)
    _check_files(folder)
    if method in COMBINED:
        model = zeroinit.load(neighbours.load(model, folder / "peft"), folder / "prompts")
    elif method in PROMPTS:
        zeroinit.load(model, folder)
    elif method in PEFT:
        model = neighbours.load(model, folder)
    elif method == "full":
        model = _load_full(model, folder)
    else:
        apply(model, method)
        found = tensors.read(folder / TENSORS)
        check_finite(found, folder / TENSORS)
        tensors.restore(model, found)
    return _remember(model, method)


def saved_method(folder: str | os.PathLike) -> str:
    """The method of a folder that `save` wrote."""
    path = Path(folder) / MARKER
    try:
        return _known(read_json(path, "the name of a method").get("method"))
    except ValueError as error:
        raise ValueError(f"{path} must name a method: {error}") from error


def _digests(folder: Path) -> dict[str, str]:
    """Checksums of what an adapter folder holds, by file."""
    found = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()} - {folder / MARKER})
    return {path.relative_to(folder).as_posix(): digest(path) for path in found}


def _check_files(folder: Path) -> None:
    """ValueError if a file that is there is not as `save` wrote it; folders of earlier versions have no checksums."""
    known, now = read_json(folder / MARKER, "the name of a method").get("files", {}), _digests(folder)
    if not isinstance(known, dict):
        raise ValueError(f"files in {folder / MARKER} must be checksums by name; got {known!r}")
    if changed := [name for name in now if known.get(name, now[name]) != now[name]]:
        raise ValueError(
            f"{folder / changed[0]} is not the file that was saved with {MARKER}: damaged or replaced; restore it, or "
            f'remove "files" from {MARKER} if you changed it yourself'
        )


def counts(model: nn.Module) -> dict[str, int]:
    """Numbers of trainable parameters and of all of them, frozen base included."""
    return {"trainable": zeroinit.trainable_parameters(model), "all": sum(p.numel() for p in model.parameters())}


def _remember(model: nn.Module, method: str) -> nn.Module:
    base: Any = owner(model)
    base.trained_method = method
    return model


def _method_of(model: nn.Module) -> str:
    method = getattr(owner(model), "trained_method", None)
    if method is None:
        raise ValueError("the model must have been prepared by apply or load of llm.methods.registry; call one of them")
    return method


def _known(method: Any) -> str:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    return method


def _configurations(method: str, options: dict[str, Any], seed: int) -> tuple[AdapterConfig | None, Any]:
    """Configuration of the prompts, and that of PEFT, each None where the method has none."""
    prompt = COMBINED.get(_known(method), method if method in PROMPTS else None)
    prompts, peft_name = None, "lora" if method in COMBINED else method
    names: list[str] = []
    if prompt is not None:
        own = [f.name for f in fields(AdapterConfig) if f.name not in ("prompt", "attention")]
        prompts = AdapterConfig(**PROMPTS[prompt], **{name: options.pop(name) for name in own if name in options})
        names += own
    config_class, chosen = None, {}
    if peft_name in PEFT:
        import peft

        class_name, chosen = copy.deepcopy(PEFT[peft_name])
        config_class = getattr(peft, class_name)
        names += [f.name for f in fields(config_class)]
        chosen |= {"task_type": "CAUSAL_LM"} | ({"projection_prng_key": seed} if peft_name == "vera" else {})
    if unknown := [name for name in options if name not in names]:
        raise ValueError(
            f"{method} has no option {unknown[0]!r}; it has {', '.join(names) if names else 'no options at all'}"
        )
    if config_class is None:
        return prompts, None
    with _options_in_words(method, options):
        return prompts, config_class(**(chosen | options))


@contextmanager
def _options_in_words(method: str, options: Mapping[str, Any] | None) -> Iterator[None]:
    """PEFT checks few of its options; what goes wrong with one of them is said in a line."""
    try:
        yield
    except (TypeError, AttributeError, NotImplementedError, ArithmeticError, RuntimeError) as error:
        # Each of them was seen to come from PEFT, for a wrong type, a wrong name, a zero or a negative number.
        if not options or out_of_memory(error):
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ValueError(f"{method} cannot be made with {given}: {error}") from error


def _load_full(model: nn.Module, folder: Path) -> nn.Module:
    base: Any = owner(model)
    loaded = read_model(folder, base.dtype, attn_implementation=base.config._attn_implementation)
    if type(loaded) is not type(base):
        raise ValueError(
            f"{folder} must hold a {type(base).__name__}, as the base is; it holds a {type(loaded).__name__}"
        )
    return loaded.to(base.device).train(model.training)
