"""What an adapter must know of its base (`BaseShape`), its parameters (`Adapter`), and the adapters of one model."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zeroinit.calls import Switch
from zeroinit.config import AdapterConfig, shown
from zeroinit.families import attention_modules
from zeroinit.prompts import LinearPrompts, NonlinearPrompts, SharedNonlinearPrompts


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
        self.joint = config.joint
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
        return self._activate(self.gate[layer - self.first])

    def input_gate(self, layer: int, query: Tensor) -> Tensor:
        """tanh(q_h' g_h), (batch, queries, heads), for queries (batch, queries, heads, head_dim) before rotation."""
        gate = self.gate[layer - self.first].to(query.device)
        return self._activate((query.to(gate.dtype) * gate).sum(-1))

    def _activate(self, gate: Tensor) -> Tensor:
        return torch.tanh(gate) if self.config.gate_activation == "tanh" else gate


def skeleton(config: AdapterConfig, shape: BaseShape) -> Adapter:
    """The adapter on the meta device, where it takes no memory.

    Raises
    ------
    ValueError
        If the configuration does not fit the base, or asks for tensors that no memory can hold.
    """
    try:
        with torch.device("meta"):
            return Adapter(config, shape)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond 64 bits
        sizes = ("prompt_length", "layers", "hidden_width", "layer_width")
        raise ValueError(
            "no tensor can be as large as these ask for: "
            + ", ".join(f"{name} {shown(getattr(config, name))}" for name in sizes)
            + f", on {shown(shape, 200)}"
        ) from error


def check_size(config: AdapterConfig, shape: BaseShape) -> None:
    """ValueError if the adapter needs more memory than there is."""
    needed = sum(p.numel() * p.element_size() for p in skeleton(config, shape).parameters())
    if needed > (free := free_memory()):
        raise ValueError(
            f"an adapter with prompt_length {config.prompt_length} on {config.adapted_layers(shape.num_hidden_layers)} "
            f"layers of hidden size {shape.hidden_size} takes {needed / 2**30:,.1f} GiB of memory, and "
            f"{free / 2**30:,.1f} GiB are free; choose a smaller prompt_length, layers, hidden_width or layer_width"
        )


def free_memory() -> float:
    """Bytes of memory that are free, infinity where the system does not tell (other systems than Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(float(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return math.inf


class Adapters(Switch):
    """The adapters of one model by name, which of them is active where, and what `detach` must put back."""

    def __init__(self):
        super().__init__()
        self.hooks, self.configs, self.frozen = [], [], []
        self.kept_frozen: set[str] = set()  # names of adapters that were loaded for evaluation only
        self.changes = 0  # grows with every activation: what was kept before is not used after
