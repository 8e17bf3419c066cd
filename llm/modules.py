"""What to attach (`AdapterConfig`), what it must know of its base (`BaseShape`), and its parameters (`Adapter`)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llm.attention import attention_modules
from llm.prompts import ACTIVATIONS, LinearPrompts, NonlinearPrompts, SharedNonlinearPrompts

PROMPTS = ("linear", "nonlinear", "nonlinear_shared", "random_init")
GATES = ("head", "adapt")
GATE_ACTIVATIONS = {"tanh": torch.tanh, "identity": lambda g: g}


@dataclass(frozen=True)
class AdapterConfig:
    """What to attach. Published choices are the defaults.

    Attributes
    ----------
    prompt : {'linear', 'nonlinear', 'nonlinear_shared', 'random_init'}
        Kind of prompt (`llm.prompts`); random_init has linear prompts in one softmax with the text, and no gate.
    prompt_length : int
        Prompts per layer, L.
    layers : int or None
        Adapt the last K layers. None: all but two (at least one).
    initial_scale : float or None
        Standard deviation of the prompts at the start. None: the published start, about 1 for linear, 7e-6 for
        nonlinear (at 7B size), 0.25 for nonlinear_shared.
    activation : {'relu', 'leaky_relu', 'gelu', 'tanh', 'sigmoid'}
        sigma of the non-linear prompts.
    hidden_width : int
        Width of their hidden layer; 0: no hidden layer, the activation comes last.
    layer_width : int or None
        Width of their embeddings. None: 64 for nonlinear, 256 for nonlinear_shared.
    gate : {'head', 'adapt'}
        One number g_h per head, or a vector per head and the input-dependent q_h' g_h, with q before rotation.
    gate_activation : {'tanh', 'identity'}
        The published training and HellaSwag evaluation use tanh, its other evaluations use the raw gate.

    Raises
    ------
    ValueError
        If a name is unknown or a number out of range.
    """

    prompt: str = "linear"
    prompt_length: int = 10
    layers: int | None = None
    initial_scale: float | None = None
    activation: str = "relu"
    hidden_width: int = 64
    layer_width: int | None = None
    gate: str = "head"
    gate_activation: str = "tanh"

    def __post_init__(self) -> None:
        names = {"prompt": PROMPTS, "activation": ACTIVATIONS, "gate": GATES, "gate_activation": GATE_ACTIVATIONS}
        for name, allowed in names.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name, least in {"prompt_length": 1, "layers": 1, "hidden_width": 0, "layer_width": 1}.items():
            value = getattr(self, name)
            if value is None and name in ("layers", "layer_width"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}")
        scale = self.initial_scale
        if scale is not None and not (isinstance(scale, int | float) and 0 < scale < math.inf):
            raise ValueError(f"initial_scale must be a positive number, or None for the published start; got {scale!r}")

    def adapted_layers(self, depth: int) -> int:
        """How many of `depth` layers are adapted; ValueError if more are asked for than there are."""
        if self.layers is not None and self.layers > depth:
            raise ValueError(f"layers must be at most the base's depth, {depth}; got {self.layers}")
        return max(depth - 2, 1) if self.layers is None else self.layers


@dataclass(frozen=True)
class BaseShape:
    """What an adapter must know of its base: it fits every model of this shape."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int

    @classmethod
    def of(cls, model: nn.Module) -> "BaseShape":
        """Read off the attention modules of `model`, whose configuration may leave head_dim unsaid."""
        modules = attention_modules(model)
        config = modules[0][1].config
        return cls(config.hidden_size, len(modules), config.num_attention_heads, modules[0][1].head_dim)


class Adapter(nn.Module):
    """Prompts and gates of the last K layers of a base.

    Raises
    ------
    ValueError
        If the configuration asks for more layers than the base has.
    """

    def __init__(self, config: AdapterConfig, shape: BaseShape):
        super().__init__()
        depth, hidden, length = shape.num_hidden_layers, shape.hidden_size, config.prompt_length
        layers = config.adapted_layers(depth)
        self.config, self.shape, self.layers, self.first = config, shape, layers, depth - layers
        self.joint = config.prompt == "random_init"
        self.input_dependent = not self.joint and config.gate == "adapt"
        network = {"activation": config.activation, "hidden_width": config.hidden_width, "scale": config.initial_scale}
        if config.prompt == "nonlinear":
            self.prompts = NonlinearPrompts(depth, layers, length, hidden, width=config.layer_width or 64, **network)
        elif config.prompt == "nonlinear_shared":
            self.prompts = SharedNonlinearPrompts(layers, length, hidden, width=config.layer_width or 256, **network)
        else:
            self.prompts = LinearPrompts(layers, length, hidden, config.initial_scale)
        if not self.joint:
            size = (shape.head_dim,) if self.input_dependent else ()
            self.gate = nn.Parameter(torch.zeros(layers, shape.num_attention_heads, *size, dtype=torch.float32))

    def prompts_of(self, layer: int) -> Tensor:
        """Prompts of layer `layer` of the base, (L, hidden_size)."""
        return self.prompts(layer - self.first)

    def gate_of(self, layer: int) -> Tensor:
        """tanh(g), or g itself if `gate_activation` says so, for the heads of layer `layer`: (heads,)."""
        return GATE_ACTIVATIONS[self.config.gate_activation](self.gate[layer - self.first])

    def input_gate(self, layer: int, query: Tensor) -> Tensor:
        """tanh(q_h' g_h), (batch, queries, heads), for queries (batch, queries, heads, head_dim) before rotation."""
        gate = self.gate[layer - self.first].to(query.device)
        return GATE_ACTIVATIONS[self.config.gate_activation]((query.to(gate.dtype) * gate).sum(-1))


class Adapters(nn.ModuleDict):
    """The adapters of one model by name, which of them is active, and what `detach` must put back.

    `texts` counts forward passes that begin a text: no prompt keys and values are kept from one text to the next.
    """

    def __init__(self):
        super().__init__()
        self.active, self.enabled, self.texts = "", True, 0
        self.hooks, self.configs, self.frozen = [], [], []

    @property
    def active_adapter(self) -> Adapter:
        adapter: Any = self[self.active]  # a ModuleDict knows its values as modules only
        return adapter
