"""What a run will take, before it starts: parameters, memory, time. No weights are loaded, the model is on `meta`.

Of N layers with hidden size h, key-value size k, intermediate size i and matrices of M weights in all (with neither
embedding nor output), K have a backward pass: those from the lowest trainable tensor up. With b bytes per number of the
computation, n tokens at once in rows of T, t trainable tensors and V words:

    weights        bytes of all parameters, as they are loaded
    gradients      4 t                                                      trainable parameters in float32
    Adam           8 t                                                      its two moments
    activations    n K (8 h + b (2 h + 2 k + 3 i))                          both normalised inputs, in float32; queries,
                                                                            keys, values, attention's output; the MLP's
                   + n K b (2 h + i)   if the matrices train                their inputs
                   with gradient checkpointing: n K b h + that of one layer
    logits         n V (b + 8)                                              if every token had a label

    FLOPs of a token    2 M + 4 N h T forward, K / N (2 M + 8 N h T) backward, 2 M more if the matrices train

Activations are those of a fused attention (sdpa), which keeps no scores. Allocators keep 5 to 20 % more than is in use.
Time is FLOPs over a throughput: that of `--throughput`, or 40 % of what this machine does in a matrix product. The
published 7.6 A100-hours for 260,000 rows padded to 512 tokens come to 125 TFLOP/s.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from common import seals
from llm.data.alpaca import encode
from llm.data.batches import Batches
from llm.data.splits import check_fraction
from llm.methods import loading, registry
from llm.methods.bases import read_config, read_tokenizer
from llm.training import checkpoints
from llm.training.curve import saved
from llm.training.presets import PRESETS, Preset
from llm.training.settings import Training
from zeroinit.adapter import Adapters
from zeroinit.families import owner

BYTES = {"float32": 4, "bf16": 2, "fp16": 2}
EFFICIENCY = 0.4  # of a matrix product's throughput, for a whole training step


@dataclass(frozen=True)
class Work:
    """Tokens of an epoch, padding included, and its steps; the most tokens computed at once."""

    tokens: int
    steps: int
    at_once: int

    @classmethod
    def of(cls, lengths: Sequence[int], settings: Training) -> "Work":
        """Of examples, in one process."""
        grouped = settings.batching == "grouped"
        batches = Batches(lengths, settings.batch_size, settings.micro_batch_size, grouped, settings.seed)
        widths = [len(rows) * max(lengths[row] for row in rows) for rows in batches]
        if settings.batching == "padded":
            widths = [len(rows) * settings.length for rows in batches]
        elif settings.batching == "packed":
            widths = [sum(lengths[row] for row in rows) for rows in batches]
        return cls(sum(widths), batches.steps, max(widths))


@dataclass(frozen=True)
class Estimate:
    """Parameters, bytes and FLOPs of a training step's parts; equations in the head of this file."""

    trainable: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    flops_per_token: float

    @property
    def memory(self) -> int:
        """All bytes."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def estimate(model: nn.Module, settings: Training, at_once: int) -> Estimate:
    """Memory and FLOPs of a model that `llm.methods.registry.apply` prepared, for `at_once` tokens at once."""
    base: Any = owner(model)
    config = base.config.get_text_config()
    h, i, depth = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head = getattr(config, "head_dim", None) or h // config.num_attention_heads
    k = head * getattr(config, "num_key_value_heads", config.num_attention_heads)
    layers = _layers_with_gradients(model, depth)
    matrices = [p for n, p in base.named_parameters() if p.ndim == 2 and ".layers." in n and "zero_init" not in n]
    train = base.trained_method == "full"
    b, numbers = BYTES[settings.precision], registry.counts(model)
    kept = 8 * h + b * (2 * h + 2 * k + 3 * i) + (b * (2 * h + i) if train else 0)
    activations = at_once * layers * kept
    if settings.gradient_checkpointing:
        activations = at_once * (layers * b * h + kept)
    products = 2 * sum(p.numel() for p in matrices)
    scores, share = 4 * depth * h * min(settings.length, at_once), layers / depth
    return Estimate(
        trainable=numbers["trainable"],
        parameters=numbers["all"],
        weights=sum(p.numel() * p.element_size() for p in model.parameters()),
        gradients=4 * numbers["trainable"],
        optimizer=8 * numbers["trainable"],
        activations=activations,
        logits=at_once * config.vocab_size * (b + 8),
        flops_per_token=products + scores + share * (products + 2 * scores) + (products if train else 0),
    )


def _layers_with_gradients(model: nn.Module, depth: int) -> int:
    """Those of the active adapter, if nothing else trains."""
    adapters: Adapters | None = getattr(owner(model), "zero_init_adapters", None)
    if adapters is None:
        return depth
    own = {id(p) for p in adapters.parameters()}
    alone = all(id(p) in own for p in model.parameters() if p.requires_grad)
    return adapters.active_adapter.layers if alone else depth


def report(preset: Preset, share: float, out: Path, speed: float | None = None) -> str:
    """Estimates of parameters, memory and time, as text; no weights are loaded, and nothing is written.

    A model or data set that is not at hand is replaced by the shape and the size that its preset knows.
    """
    check_fraction(share)
    settings, lines = preset.training, []
    config = _shape(preset, lines)
    loading.check_length(config, settings.length)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, preset.base_precision))
    model = registry.apply(model, preset.method, preset.options)
    work = Work.of(_lengths(preset, share, lines), settings)
    found = estimate(model, settings, work.at_once)
    steps = settings.steps or settings.epochs * work.steps
    flops = found.flops_per_token * work.tokens / work.steps * steps
    lines += [
        f"parameters   {found.trainable:,} trainable of {found.parameters:,}",
        f"memory       {_gb(found.memory)}: weights {_gb(found.weights)}, gradients {_gb(found.gradients)}, "
        f"Adam {_gb(found.optimizer)}, activations {_gb(found.activations)}, logits {_gb(found.logits)} "
        f"({work.at_once:,} tokens at once)",
        f"work         {steps:,} steps, {work.tokens / work.steps * steps:,.0f} tokens with padding, {flops:.3g} FLOPs",
    ]
    if (checkpoint := _checkpoint(preset, share, out)) is not None:
        done = checkpoints.number(checkpoint)
        seconds, source = saved(checkpoint)["seconds"] / done * steps, f"measured, {done} steps in {out}"
    else:
        source = f"at {speed:.3g} TFLOP/s" if speed else "at 40 % of this machine's matrix products"
        seconds = flops / (speed * 1e12 if speed else throughput(settings.precision))
    return "\n".join([*lines, f"time         {seconds / 3600:.3g} h in one process ({source})"])


def throughput(precision: str, size: int = 1024) -> float:
    """FLOP/s that this machine is assumed to reach in training: a share of those of a matrix product, measured now."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = size * 8 if device == "cuda" else size
    one = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(4):
        began = time.perf_counter()
        _ = (one @ one)[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - began)
    return EFFICIENCY * 2 * size**3 / best


def _checkpoint(preset: Preset, share: float, out: Path) -> Path | None:
    """The last checkpoint in a folder, if it is of this run."""
    record = out / "run.json"
    known = seals.unsealed(record, "the record of a run")["configuration"] if record.is_file() else {}
    wanted = json.loads(json.dumps(preset.configuration(share)))
    return checkpoints.last(out) if all(known.get(key) == value for key, value in wanted.items()) else None


def _shape(preset: Preset, lines: list[str]) -> Any:
    try:
        return read_config(preset.model)
    except (OSError, ValueError) as error:
        # Only the preset's own model is known without its folder.
        if not preset.shape or preset.model != PRESETS[preset.name].model or Path(preset.model).exists():
            raise FileNotFoundError(f"{preset.model} must be a model folder or hub id: {error}") from error
    lines.append(f"model        {preset.model} is not at hand; a LLaMA of its shape")
    shape: dict[str, Any] = dict(preset.shape)
    return LlamaConfig(**shape)


def _lengths(preset: Preset, share: float, lines: list[str]) -> list[int]:
    """Tokens of the examples, or what the preset knows of them."""
    (known, tokens), length = preset.size, preset.training.length
    try:
        rows, _ = preset.split(share)
        count = len(rows)
    except (OSError, ValueError):
        if not known or preset.data != PRESETS[preset.name].data or Path(preset.data).exists():
            raise
        rows, count = [], max(1, round(share * (known - preset.validation)))
    try:
        tokenizer = read_tokenizer(preset.model) if rows else None
    except (OSError, ValueError):
        if not known:
            raise
        tokenizer = None
    if tokenizer is None:
        lines.append(f"data         {preset.data} or tokenizer not at hand; {count:,} rows of about {tokens} tokens")
        return [length, *[min(tokens, length)] * (count - 1)]
    encoded = encode(rows, tokenizer, preset.training.length)
    lines.append(f"data         {encoded.report}")
    return [len(example["input_ids"]) for example in encoded.examples]


def _gb(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
