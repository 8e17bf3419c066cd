"""Tensors of a model by themselves: which ones train, without an adapter, and their files.

    full      all of them, in the precision that they have
    bitfit    biases
    norms     weights (and biases) of normalisations

Biases and normalisations of a half-precision base train in float32 beside it: a parametrisation casts them where they
are used.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import parametrize

from common.records import whole
from zeroinit.families import owner

NAME = "tensors.safetensors"
_ORIGINAL = (".parametrizations.", ".original")


def train_only(model: nn.Module, method: str) -> None:
    """Make the tensors of a method, one of `llm.methods.names.OWN`, trainable, and no others.

    Raises
    ------
    ValueError
        If the model has none of this kind.
    """
    chosen = _chosen(model, method)
    model.requires_grad_(False)
    for module, name in chosen:
        _make_trainable(module, name, keep_dtype=method == "full")


def trained(model: nn.Module) -> dict[str, Tensor]:
    """Trainable tensors by name, as the base names its own."""
    return {_plain(name): p.detach() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors from `trained` back into a model that the same method was applied to.

    Raises
    ------
    ValueError
        If names, shapes or types differ from the model's trainable ones; nothing is changed then.
    """
    own = trained(model)
    found, expected = (
        {name: f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}" for name, t in side.items()}
        for side in (tensors, own)
    )
    if wrong := sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n)):
        raise ValueError(
            "the tensors must be those that the method trains on this model; differing: "
            + ", ".join(f"{n} ({found.get(n, 'absent')}, model: {expected.get(n, 'absent')})" for n in wrong[:3])
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        )
    for name, tensor in own.items():
        value = tensors[name]
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
        tensor.copy_(value)


def write(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, which appears whole or not at all."""
    with whole(file) as unfinished:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished, {"format": "pt"})


def read(file: Path) -> dict[str, Tensor]:
    """Contents of a safetensors file; FileNotFoundError or ValueError in words."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or cut short ({error}); restore it or train again") from error


def _chosen(model: nn.Module, method: str) -> list[tuple[nn.Module, str]]:
    """Parameters of the base that a method trains, each as its module and its name there."""
    every = [(module, name) for module in model.modules() for name, _ in module.named_parameters(recurse=False)]
    if method == "full":
        return every
    if method == "norms":
        return [(module, name) for module, name in every if type(module).__name__.endswith("Norm")]
    biases = [(module, name) for module, name in every if name == "bias"]
    if not biases:
        raise ValueError(
            f"bitfit trains biases, and {type(owner(model)).__name__} has none; use the method norms, which trains the "
            "weights of its normalisations, or a family with biases (Qwen2)"
        )
    return biases


class _Cast(nn.Module):
    """A float32 parameter as its module computes with it."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype)


def _make_trainable(module: nn.Module, name: str, keep_dtype: bool) -> None:
    parameter: nn.Parameter = getattr(module, name)
    if not keep_dtype and parameter.dtype != torch.float32:
        dtype = parameter.dtype
        parameter.data = parameter.data.float()
        parametrize.register_parametrization(module, name, _Cast(dtype), unsafe=True)  # unsafe: it changes the dtype
    parameter.requires_grad_(True)


def _plain(name: str) -> str:
    """Name of a parameter without what its parametrisation adds."""
    middle, end = _ORIGINAL
    if middle not in name:
        return name
    module, _, rest = name.rpartition(middle)
    return f"{module}.{rest.removesuffix(end)}"
