"""Prompts of the adapted layers: linear, nonlinear, nonlinear_shared.

    linear            P_l = W_l
    nonlinear         P_l = reshape(W2 sigma(W1 e_l + b1) + b2)          one embedding e_l per layer   ("hypermodel")
    nonlinear_shared  P_li = W2 sigma(W1 e_li + b1) + b2                 one embedding per prompt      ("deepshare")

With hidden width 0 the two-layer network becomes one layer with the activation after it, sigma(W e + b). The network is
shared by all layers. All prompts live in the hidden space of the base model, before its key and value projections.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

# By the names of `zeroinit.config.ACTIVATIONS`.
MODULES = {
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class LinearPrompts(nn.Module):
    """P_l = W_l, the prompts themselves; W ~ N(0, scale^2), published scale 1.

    Parameters
    ----------
    layers, length, hidden_size : int
        K adapted layers, L prompts each, of the base's hidden size.
    scale : float or None
        Standard deviation at the start; None: 1.
    """

    def __init__(self, layers: int, length: int, hidden_size: int, scale: float | None = None):
        super().__init__()
        start = torch.randn(layers, length, hidden_size, dtype=torch.float32)
        self.weight = nn.Parameter(start * (1.0 if scale is None else scale))

    def forward(self, row: int) -> Tensor:
        """Prompts of the adapted layer `row` (0 is the lowest), (L, hidden_size)."""
        return _rows(self.weight, row)


class NonlinearPrompts(nn.Module):
    """P_l = reshape(W2 sigma(W1 e_l + b1) + b2): one embedding per layer of the base, one network for all.

    The published start draws W2 uniformly within 1e-3 sqrt(3 / (hidden_width hidden_size)) and sets b2 = 0, which
    leaves prompts of standard deviation about 7e-6 at 7B size. As published, layers below the adapted ones have an
    embedding too, which is never used.

    Parameters
    ----------
    depth, layers, length, hidden_size : int
        The last `layers` of `depth` layers have `length` prompts of size `hidden_size`.
    activation : str
        One of `zeroinit.config.ACTIVATIONS`.
    hidden_width, width : int
        Sizes of the hidden layer (0: none) and of the embeddings.
    scale : float or None
        Standard deviation of the last linear map's output at the start, reached by scaling that map; None: published.
    """

    def __init__(
        self,
        depth: int,
        layers: int,
        length: int,
        hidden_size: int,
        activation: str = "relu",
        hidden_width: int = 64,
        width: int = 64,
        scale: float | None = None,
    ):
        super().__init__()
        self.first, self.length, self.hidden_size = depth - layers, length, hidden_size
        self.embedding = nn.Embedding(depth, width, dtype=torch.float32)
        self.network = _network(width, hidden_width, length * hidden_size, activation)
        output = _last_linear(self.network)
        bound = 1e-3 * math.sqrt(3 / (output.in_features * hidden_size))
        nn.init.uniform_(output.weight, -bound, bound)
        nn.init.zeros_(output.bias)
        if scale is not None:
            _set_scale(self.network, self.embedding.weight[self.first :], scale)

    def forward(self, row: int) -> Tensor:
        """Prompts of the adapted layer `row` (0 is the lowest), (L, hidden_size)."""
        return self.network(_rows(self.embedding.weight, self.first + row)).view(self.length, self.hidden_size)


class SharedNonlinearPrompts(nn.Module):
    """P_li = W2 sigma(W1 e_li + b1) + b2: one embedding per prompt, one network for all; PyTorch's own start.

    Parameters are those of `NonlinearPrompts`; the published embedding width is 256, and prompts start at 0.25.
    """

    def __init__(
        self,
        layers: int,
        length: int,
        hidden_size: int,
        activation: str = "relu",
        hidden_width: int = 64,
        width: int = 256,
        scale: float | None = None,
    ):
        super().__init__()
        self.length = length
        self.embedding = nn.Embedding(layers * length, width, dtype=torch.float32)
        self.network = _network(width, hidden_width, hidden_size, activation)
        if scale is not None:
            _set_scale(self.network, self.embedding.weight, scale)

    def forward(self, row: int) -> Tensor:
        """Prompts of the adapted layer `row` (0 is the lowest), (L, hidden_size)."""
        return self.network(_rows(self.embedding.weight, slice(row * self.length, (row + 1) * self.length)))


def _rows(weight: Tensor, index: int | slice) -> Tensor:
    # Without gradients a view of a parameter says that it requires one and has no history, on which module hooks
    # (torch's flop counter, for one) stumble; a copy does not.
    return weight[index].clone()


def _network(width: int, hidden_width: int, out: int, activation: str) -> nn.Sequential:
    """The network of non-linear prompts; its linear maps are called hidden and output."""
    net = nn.Sequential()
    if hidden_width == 0:
        net.add_module("output", nn.Linear(width, out, dtype=torch.float32))
        net.add_module("activation", MODULES[activation]())
        return net
    net.add_module("hidden", nn.Linear(width, hidden_width, dtype=torch.float32))
    net.add_module("activation", MODULES[activation]())
    net.add_module("output", nn.Linear(hidden_width, out, dtype=torch.float32))
    return net


def _last_linear(network: nn.Sequential) -> nn.Linear:
    output = network.get_submodule("output")
    assert isinstance(output, nn.Linear)
    return output


@torch.no_grad()
def _set_scale(network: nn.Sequential, inputs: Tensor, scale: float) -> None:
    """Scale the last linear map so that its output on `inputs` has this standard deviation.

    Raises
    ------
    ValueError
        If the output is the same everywhere: every hidden unit is dead, as happens to a few of them by chance.
    """
    output = _last_linear(network)
    # Without a hidden layer the activation comes last, and a bounded one could not reach the scale: measure before it.
    reached = output(inputs) if network[0] is output else network(inputs)
    if not reached.is_meta and not reached.std() > 0:
        raise ValueError(
            f"initial_scale cannot be {scale:g}: every hidden unit of the prompts' network starts dead and gives one "
            "value for all inputs; use a greater hidden_width, another activation, or another seed of torch"
        )
    for tensor in (output.weight, output.bias):
        tensor.mul_(scale / reached.std())
