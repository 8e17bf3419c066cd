"""How to train: `Training`. Nothing here imports torch."""

from dataclasses import dataclass

from common.checks import number, whole

BATCHING = ("grouped", "padded", "packed")
PRECISIONS = ("float32", "bf16", "fp16")
FREE = ("checkpoint_every", "micro_batch_size", "gradient_checkpointing")  # no more than rounding depends on them


@dataclass(frozen=True)
class Training:
    """How to train. The published choices are the defaults, but for batching, whose steps are of similar length.

    Attributes
    ----------
    learning_rate : float
        The peak; published, for prompts: 2.25e-3 (9e-3 x 64 / 256).
    epochs : int
        Passes over the data; as published, a last batch that is not full is left out.
    steps : int or None
        Optimiser steps instead of epochs.
    warmup : float
        Share of all steps with a rising learning rate; published: 2 of 5 epochs.
    batch_size : int
        Examples of a step, over all processes; fewer rows than that make one batch.
    micro_batch_size : int or None
        Most examples computed at once in a process; None: no limit. It bounds memory and does not change the result.
    weight_decay : float
    betas : pair of float
    length : int
        Most tokens of an example; width of padded and packed rows.
    batching : {'grouped', 'padded', 'packed'}
        Steps of examples of similar length; random ones, padded to `length` as published; random ones, packed.
    precision : {'float32', 'bf16', 'fp16'}
        Of the computation (autocast); what trains stays as it is.
    seed : int
        Order of the data, and dropout if the model has any.
    evaluate_every : int
        Steps between rows of the curve; 0: a row per epoch. The last step always has one.
    checkpoint_every : int
        Steps between checkpoints, if there is a folder for them. The last step always has one.
    gradient_checkpointing : bool
        Compute activations twice instead of keeping them.

    Raises
    ------
    ValueError
        If a number is out of range or a name unknown.
    """

    learning_rate: float = 2.25e-3
    epochs: int = 5
    steps: int | None = None
    warmup: float = 0.4
    batch_size: int = 64
    micro_batch_size: int | None = None
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    length: int = 512
    batching: str = "grouped"
    precision: str = "float32"
    seed: int = 0
    evaluate_every: int = 0
    checkpoint_every: int = 200
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        least = {"epochs": 1, "steps": 1, "batch_size": 1, "micro_batch_size": 1, "length": 2, "seed": 0}
        for name, low in (least | {"evaluate_every": 0, "checkpoint_every": 1}).items():
            value = getattr(self, name)
            if value is None and name in ("steps", "micro_batch_size"):
                continue
            whole(name, value, low)
        for name, allowed in {"batching": BATCHING, "precision": PRECISIONS}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        number("learning_rate", self.learning_rate, strictly=True)
        number("warmup", self.warmup, below=1)
        number("weight_decay", self.weight_decay)
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise ValueError(f"betas must be a pair of numbers; got {self.betas!r}")
        for beta in self.betas:
            number("betas", beta, below=1)
        if not isinstance(self.gradient_checkpointing, bool):
            raise ValueError(f"gradient_checkpointing must be True or False; got {self.gradient_checkpointing!r}")
