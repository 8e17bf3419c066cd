"""Methods of PEFT: wrapping a model in one, and folders of them, whoever wrote these."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.memory import out_of_memory
from common.texts import read_json

CONFIG = "adapter_config.json"
METHODS = {"LORA": "lora", "VERA": "vera", "IA3": "ia3", "PROMPT_TUNING": "prompt_tuning"}  # by PEFT's names
LARGEST = 2**20  # of numbers in a configuration; larger ones ask for more memory than any machine has
_EMBEDDING = re.compile(r"embed_tokens|lm_head")  # PEFT adds these of a base with added tokens


def method_of(folder: Path) -> str | None:
    """The method of a folder that PEFT wrote; None if it is none, or holds adaption prompts (`zeroinit.convert`).

    Raises
    ------
    ValueError
        If the folder's configuration is damaged, or of another method of PEFT.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    kind = read_json(path, "the configuration of an adapter").get("peft_type")
    return None if kind in (None, "ADAPTION_PROMPT") else METHODS[_configuration(folder)["peft_type"]]


def wrap(model: nn.Module, config: Any) -> nn.Module:
    """PEFT's model of this configuration, trainable tensors in float32."""
    found, wanted = {name.rpartition(".")[2] for name, _ in model.named_modules()}, _targets(config)
    if missing := sorted(wanted - found):
        raise ValueError(
            f"{type(model).__name__} has no modules {', '.join(missing)}; name its own by the option target_modules "
            "(a family with one fused projection has qkv_proj)"
        )
    with _peft() as peft:
        return _in_float32(peft.get_peft_model(model, config))


def _targets(config: Any) -> set[str]:
    wanted = getattr(config, "target_modules", None)
    return set() if wanted is None or isinstance(wanted, str) else {name.rpartition(".")[2] for name in wanted}


@contextmanager
def _peft() -> Iterator[Any]:
    """The library, without its call of a name that transformers has given up."""
    import peft

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        warnings.filterwarnings("error", "Found missing adapter keys")
        yield peft


def _in_float32(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if ".default" in name:  # PEFT's name of the tensors that it added
            parameter.data = parameter.data.float()
    return model


def save(model: Any, folder: Path) -> None:
    """Write a folder as PEFT does."""
    model.save_pretrained(folder, save_embedding_layers=False)  # else PEFT asks the hub for the size of the base's


def load(model: Any, folder: Path) -> nn.Module:
    """PEFT's model around this one, from a folder of `save` or of PEFT itself; frozen.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged, was made for another base, or asks for code to be run.
    """
    _configuration(folder)
    if not any(folder.glob("adapter_model.*")):
        raise FileNotFoundError(f"{folder / 'adapter_model.safetensors'} is missing")
    try:
        with _peft() as peft:
            weights = peft.utils.load_peft_weights(str(folder), device="cpu")  # .bin files with weights_only
            _check_weights(weights, folder)
            loaded = _in_float32(peft.PeftModel.from_pretrained(model, folder))
            own = peft.utils.get_peft_model_state_dict(loaded, save_embedding_layers=False)
    except Exception as error:  # of files or shapes; PEFT was seen to raise nearly anything
        if out_of_memory(error):
            raise
        raise ValueError(f"{folder} does not fit this model: {' '.join(str(error).split())}") from error
    if unknown := sorted(name for name in weights if name not in own and not _EMBEDDING.search(name)):
        raise ValueError(f"{folder} does not fit this model, which has no place for {unknown[0]}")
    return loaded.requires_grad_(False)  # PEFT leaves virtual tokens trainable


def _configuration(folder: Path) -> dict[str, Any]:
    """The configuration of a PEFT folder, if it is one that can be loaded."""
    path = folder / CONFIG
    config = read_json(path, "the configuration of a PEFT adapter")
    kind, task = config.get("peft_type"), config.get("task_type")
    if not isinstance(kind, str) or kind not in METHODS:
        raise ValueError(f"peft_type in {path} must be one of {', '.join(METHODS)}; got {kind!r}")
    if task not in (None, "CAUSAL_LM"):
        raise ValueError(f"task_type in {path} must be CAUSAL_LM; got {task!r}")
    if config.get("megatron_config"):  # makes PEFT import a module that the folder names
        raise ValueError(f"{path} has a megatron_config; no code that a folder names is run")
    for name, value in config.items():
        if isinstance(value, int | float) and not abs(value) <= LARGEST:
            raise ValueError(f"{name} in {path} must be at most {LARGEST}; got {value}")
    return config


def _check_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    if broken := sorted(name for name, t in weights.items() if not (t.is_floating_point() and t.isfinite().all())):
        raise ValueError(f"all weights in {folder} must be finite floating-point numbers; {broken[0]} is not")
