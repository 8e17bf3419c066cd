"""Adapters: attach to a model in place, switch, count, save and load.

The base stays one untouched set of modules: its attention classes look the implementation up in their configuration,
so `attach` gives the model its own copy of that configuration with `zero_init_<base>` in it (see `zeroinit.attention`),
and one module, `zero_init_adapters`, with everything trainable, in float32 whatever the dtype of the base.
"""

import copy
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from zeroinit import files
from zeroinit.adapter import Adapter, Adapters, BaseShape, check_size, skeleton
from zeroinit.attention import BASES, PREFIX, Link, keep_query
from zeroinit.calls import ARGUMENT
from zeroinit.config import AdapterConfig
from zeroinit.families import attention_modules, owner, query_projection

_ATTRIBUTE = "zero_init_adapters"


def attach(model: nn.Module, config: AdapterConfig | None = None, name: str = "default") -> nn.Module:
    """Attach an adapter in place, freeze the base, and make the adapter the active, trainable one.

    A LoRA of PEFT that the model has already stays trainable; one added later freezes everything else, after which
    `activate` makes the adapter trainable again. Works on the meta device.

    Parameters
    ----------
    model : transformers model, or a wrapper (PeftModel) of one
    config : AdapterConfig
    name : str
        Any name not yet taken; several adapters share one base.

    Returns
    -------
    The same model.

    Raises
    ------
    TypeError
        If `config` is something else.
    ValueError
        If the name is taken, the model's attention is unknown, its implementation is not one of
        `zeroinit.attention.BASES`, or the configuration does not fit.
    """
    config = AdapterConfig() if config is None else config
    if not isinstance(config, AdapterConfig):
        raise TypeError(f"config must be an AdapterConfig, such as AdapterConfig(prompt='linear'); got {config!r}")
    modules = [module for _, module in attention_modules(model)]
    adapters = _find(model)
    if adapters is not None and name in adapters:
        raise ValueError(f"an adapter named {name!r} is attached already ({', '.join(adapters)}); choose another name")
    if not isinstance(name, str) or not name or "." in name or hasattr(Adapters, name) or name in vars(Adapters()):
        raise ValueError(f"name must be a non-empty string without dots, and no word of torch's modules; got {name!r}")
    base = str(modules[0].config._attn_implementation).removeprefix(PREFIX)
    if base not in BASES:
        raise ValueError(
            f"the attention implementation must be one of {', '.join(BASES)}; the model uses {base!r}; "
            "call model.set_attn_implementation first"
        )
    device, shape = _device(modules[0]), BaseShape.of(model)
    if device.type == "meta":
        adapter = skeleton(config, shape)
    else:
        check_size(config, shape)
        with torch.device("cpu"):  # whose generator gives the initial values, so that they do not depend on the device
            adapter = Adapter(config, shape).to(device)
    if adapters is None:
        adapters = _plug_in(model, modules, base)
    adapters[name] = adapter.train(modules[0].training)
    activate(model, name)
    return model


def detach(model: nn.Module) -> nn.Module:
    """Remove all adapters: configuration, hooks and requires_grad are again what they were before the first attach.

    Under adapters of PEFT the base stays frozen, also if they came later.
    """
    adapters, top = attached(model), owner(model)
    for _, module in attention_modules(model):
        del module.zero_init
    for hook in adapters.hooks:
        hook.remove()
    for module, config in adapters.configs:
        module.config = config
    if not hasattr(top, "peft_config"):
        for name in adapters.frozen:
            top.get_parameter(name).requires_grad_(True)
    delattr(top, _ATTRIBUTE)
    return model


def delete(model: nn.Module, name: str) -> nn.Module:
    """Remove one adapter. If it was the active one, the first of the others becomes active; the last one is detached.

    Raises
    ------
    ValueError
        If no adapter has this name.
    """
    adapters = attached(model)
    _check_name(adapters, name)
    if len(adapters) == 1:
        return detach(model)
    current = adapters.current()
    del adapters[name]
    adapters.kept_frozen.discard(name)
    adapters.changes += 1
    if adapters.active == name:
        adapters.active = next(iter(adapters))
    return activate(model, adapters.active if current == name else current)


def activate(model: nn.Module, name: str) -> nn.Module:
    """Make this adapter the active one in this thread and, alone among the adapters, trainable.

    One that was loaded with `trainable=False` stays frozen. A warning names an adapter whose training this stops.

    Threads that have activated none themselves use what the thread that attached the first adapter activated last.
    Call it again after adding PEFT layers to a model with an adapter: they freeze it.

    Raises
    ------
    ValueError
        If no adapter has this name, or PEFT has wrapped maps of the adapter itself.
    """
    adapters = attached(model)
    _check_name(adapters, name)
    if any(hasattr(module, "base_layer") for module in adapters.modules()):
        raise ValueError(
            "PEFT has put its layers into the adapter too, which no adapter folder can hold; start again with "
            'exclude_modules=r".*zero_init_adapters.*" in its configuration, or add PEFT before attach'
        )
    adapters.choose(name)
    adapters.changes += 1
    for other, adapter in adapters.items():
        trains = other == name and name not in adapters.kept_frozen
        if not trains and any(p.requires_grad and p.grad is not None for p in adapter.parameters()):
            warnings.warn(
                f"the adapter {other!r} was being trained and is frozen now, because {name!r} is active; its optimiser "
                f"does nothing until zeroinit.activate(model, {other!r})",
                stacklevel=2,
            )
        adapter.requires_grad_(trains)
    for _, module in attention_modules(model):
        _watch_queries(module, adapters)
    return model


@contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """Within this block, and in this thread alone, the model computes what its base computes."""
    with attached(model).override(enabled=False):
        yield model


def trainable_parameters(model: nn.Module) -> int:
    """Number of trainable parameters of the model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def save(model: nn.Module, folder: str | os.PathLike, name: str | None = None) -> None:
    """Write adapter_config.json and adapter_model.safetensors of one adapter (None: the active one), nothing else."""
    adapters = attached(model)
    name = adapters.current() if name is None else name
    _check_name(adapters, name)
    adapter = adapters[name]
    assert isinstance(adapter, Adapter)
    files.write(folder, adapter.config, adapter.shape, adapter.state_dict())


def load(model: nn.Module, folder: str | os.PathLike, name: str = "default", *, trainable: bool = True) -> nn.Module:
    """Attach the adapter saved in `folder`; everything is checked before the model is touched.

    It becomes the active adapter, and the trainable one too, unless `trainable` is False: then it stays frozen whenever
    it is active. Other adapters are frozen either way, until `activate` names them.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file is damaged or not of this method, or the adapter was made for a base of another shape.
    """
    config, shape, state = files.read(folder)
    ours = BaseShape.of(model)
    if shape != ours:
        wrong = [f for f, value in asdict(shape).items() if value != getattr(ours, f)]
        raise ValueError(
            f"the adapter in {folder} was made for a base with "
            + ", ".join(f"{f} {getattr(shape, f)} (this model: {getattr(ours, f)})" for f in wrong)
            + "; load it on the model that it was trained on"
        )
    attach(model, config, name)
    adapters = attached(model)
    adapters[name].load_state_dict(state)
    if not trainable:
        adapters.kept_frozen.add(name)
        adapters[name].requires_grad_(False)
    return model


def _find(model: nn.Module) -> Adapters | None:
    return next((m for m in model.modules() if isinstance(m, Adapters)), None)


def attached(model: nn.Module) -> Adapters:
    """The adapters of the model; ValueError if it has none."""
    adapters = _find(model)
    if adapters is None:
        raise ValueError("the model has no adapter; call zeroinit.attach or load first")
    return adapters


def _check_name(adapters: Adapters, name: str) -> None:
    if not isinstance(name, str) or name not in adapters:
        raise ValueError(f"no adapter is named {name!r}; attached: {', '.join(adapters)}")


def _device(module: nn.Module) -> torch.device:
    """Where the module computes. Weights that accelerate has moved away are on meta in between."""
    device = getattr(getattr(query_projection(module), "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def _plug_in(model: nn.Module, modules: list[Any], base: str) -> Adapters:
    """Own configuration, links from attention modules to adapters, frozen base."""
    top, adapters = owner(model), Adapters()
    copies: dict[int, object] = {}
    copy.deepcopy(top.config, copies)
    module: Any
    for module in model.modules():
        if id(shared := module.__dict__.get("config")) in copies:
            adapters.configs.append((module, shared))
            module.config = copies[id(shared)]
    modules[0].config._attn_implementation = PREFIX + base
    for layer, module in enumerate(modules):
        module.zero_init = Link(adapters, layer)
    if not hasattr(top, "peft_config"):  # else PEFT has frozen the base, and what is left belongs to its adapters
        # By name: a model that leaves the meta device, or is offloaded, has new parameters afterwards.
        adapters.frozen += [name for name, p in top.named_parameters() if p.requires_grad]
        top.requires_grad_(False)
    setattr(top, _ATTRIBUTE, adapters)
    decoder = _decoder(top, modules)
    adapters.hooks.append(decoder.register_forward_pre_hook(partial(_begin, adapters, modules[0]), with_kwargs=True))
    lowest = top.get_submodule(attention_modules(top)[0][0].rpartition(".")[0])
    adapters.hooks.append(lowest.register_forward_pre_hook(_let_gradients_through))
    return adapters


def _decoder(top: nn.Module, modules: list[Any]) -> nn.Module:
    """The innermost model of transformers around all attention modules: its keyword arguments reach them."""
    models = [m for m in top.modules() if isinstance(m, PreTrainedModel)]  # outer ones first
    wanted = set(map(id, modules))
    return [m for m in models if wanted <= set(map(id, m.modules()))][-1]


def _begin(adapters: Adapters, attention: Any, decoder: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Decide on the adapter of this forward pass and hand the decision down."""
    call = adapters.begin(kwargs.get("past_key_values"))
    implementation = str(attention.config._attn_implementation)
    if call.adapter is not None and not implementation.startswith(PREFIX):
        raise ValueError(
            f"the model has adapters, but its attention implementation was set to {implementation!r}, which ignores "
            f'them; call model.set_attn_implementation("{PREFIX}{implementation}"), or detach(model)'
        )
    return args, kwargs if not implementation.startswith(PREFIX) else {**kwargs, ARGUMENT: call}


def _let_gradients_through(layer: Any, args: tuple) -> None:
    # Reentrant checkpointing passes gradients only through inputs that require them, and the base is frozen.
    if getattr(layer, "gradient_checkpointing", False) and layer.training and torch.is_grad_enabled():
        options = getattr(layer._gradient_checkpointing_func, "keywords", {})
        if options.get("use_reentrant", True) and not args[0].requires_grad:
            args[0].requires_grad_(True)


def _watch_queries(module: Any, adapters: Adapters) -> None:
    """Keep the query projection's output for the input-dependent gate, if an adapter has one."""
    link: Link = module.zero_init
    projection = query_projection(module)
    if link.watched is not projection and any(adapter.input_dependent for adapter in adapters.values()):
        link.watched = projection
        adapters.hooks.append(projection.register_forward_hook(keep_query))
