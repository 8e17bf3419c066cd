"""What to attach: `AdapterConfig`. Nothing here imports torch."""

from dataclasses import KW_ONLY, dataclass

ATTENTIONS = ("zero_init", "random_init")
PROMPTS = ("linear", "nonlinear", "nonlinear_shared")
ACTIVATIONS = ("relu", "leaky_relu", "gelu", "tanh", "sigmoid")
GATES = ("head", "adapt")
GATE_ACTIVATIONS = ("tanh", "identity")
SCALES = (1e-15, 1e15)  # of prompts: their squares are still numbers in float32


def shown(value: object, length: int = 60) -> str:
    """`value` for an error message: on one line, and not longer than that."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an integer of thousands of digits, a list of thousands of levels
        text = f"a {type(value).__name__} too long to be shown"
    return text if len(text) <= length else text[: length - 4] + " ..."


@dataclass(frozen=True)
class AdapterConfig:
    """What to attach. The defaults are the published choices.

    Attributes
    ----------
    prompt : {'linear', 'nonlinear', 'nonlinear_shared'}
        Kind of prompt (`zeroinit.prompts`).
    attention : {'zero_init', 'random_init'}
        zero_init: prompts have a softmax of their own and a gate that starts at 0. random_init: prompts and text share
        one softmax, and there is no gate (`zeroinit.attention`).
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
    _: KW_ONLY
    attention: str = "zero_init"
    prompt_length: int = 10
    layers: int | None = None
    initial_scale: float | None = None
    activation: str = "relu"
    hidden_width: int = 64
    layer_width: int | None = None
    gate: str = "head"
    gate_activation: str = "tanh"

    def __post_init__(self) -> None:
        if self.prompt == "random_init":
            raise ValueError("random_init is a kind of attention: AdapterConfig('linear', attention='random_init')")
        names = {"prompt": PROMPTS, "attention": ATTENTIONS, "activation": ACTIVATIONS, "gate": GATES}
        for name, allowed in (names | {"gate_activation": GATE_ACTIVATIONS}).items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {shown(value)}")
        for name, least in {"prompt_length": 1, "layers": 1, "hidden_width": 0, "layer_width": 1}.items():
            value = getattr(self, name)
            if value is None and name in ("layers", "layer_width"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}; got {shown(value)}")
        scale = self.initial_scale
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if scale is not None and not (number and SCALES[0] <= scale <= SCALES[1]):
            raise ValueError(
                f"initial_scale must be a positive number, {SCALES[0]:g} to {SCALES[1]:g}, or None for the published "
                f"start; got {shown(scale)}"
            )

    @property
    def joint(self) -> bool:
        """Whether prompts and text share one softmax (random_init)."""
        return self.attention == "random_init"

    def adapted_layers(self, depth: int) -> int:
        """How many of `depth` layers are adapted; ValueError if more are asked for than there are."""
        if self.layers is not None and self.layers > depth:
            raise ValueError(f"layers must be at most the base's depth, {depth}; got {shown(self.layers)}")
        return max(depth - 2, 1) if self.layers is None else self.layers
