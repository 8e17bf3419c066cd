"""Public functions of `zeroinit`: what they take and must not take, and results by another route."""

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import zeroinit
from fuzz.nonsense import NO_COUNT, NO_NAME, NO_OBJECT, Entry, Random
from fuzz.samples import LAYERS, adapted, base, config, logits, opened, untouched
from zeroinit import convert, gates
from zeroinit.config import AdapterConfig
from zeroinit.published import from_published, to_published


def _adapter(model: Any) -> Any:
    return model.zero_init_adapters["default"]


def _attached(given: dict[str, Any], model: Any) -> str | None:
    """At the published start, gates are 0 and nothing changes; detached, nothing is left."""
    if given["config"].attention == "zero_init" and not torch.equal(logits(model), logits(untouched())):
        return "a gate of 0 changes the logits"
    count = zeroinit.trainable_parameters(model)
    if count != sum(p.numel() for n, p in model.named_parameters() if "zero_init_adapters" in n):
        return f"{count} parameters are trainable"
    return None if torch.equal(logits(zeroinit.detach(model)), logits(untouched())) else "detach leaves something"


def _detached(given: dict[str, Any], model: Any) -> str | None:
    """Nothing is left, and everything trains again."""
    free = all(parameter.requires_grad for parameter in model.parameters())
    same = torch.equal(logits(model), logits(untouched()))
    return None if free and same and not hasattr(model, "zero_init_adapters") else "detach leaves something"


def _two(rng: Random) -> dict[str, Any]:
    """A model with two adapters, of which the second is active."""
    model = zeroinit.attach(adapted(rng), AdapterConfig(**config(rng)), "second")
    return {"model": opened(model, rng), "name": "default"}


def _chosen(given: dict[str, Any], model: Any) -> str | None:
    """The first one is active again and alone trains: the logits are those of a model that has no other."""
    alone = zeroinit.attach(base(), _adapter(model).config)
    _adapter(alone).load_state_dict(_adapter(model).state_dict())
    training = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    same = torch.equal(logits(model), logits(alone)) and training == {"default"}
    return None if same else f"other logits than with this adapter alone, or {training} train"


def _without(model: Any) -> torch.Tensor:
    with zeroinit.disabled(model):
        return logits(model)


def _round_trip(model: Any, name: Any = None) -> Any:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(model, Path(place), name)
        return zeroinit.load(base(), place)


def _same_logits(given: dict[str, Any], again: Any) -> str | None:
    return None if torch.equal(logits(given["model"]), logits(again)) else "the loaded adapter gives other logits"


def _near_logits(given: dict[str, Any], again: Any) -> str | None:
    error = float((logits(given["model"]) - logits(again)).abs().max())
    return None if error < 1e-5 else f"logits differ by {error}"


def _published(model: Any, **options: Any) -> Any:
    """To the published file and back."""
    ours = _adapter(model).config
    kept = {"prompt_length": ours.prompt_length, "layers": ours.adapted_layers(LAYERS), "activation": ours.activation}
    with tempfile.TemporaryDirectory() as place:
        one, file, other = Path(place, "a"), Path(place, "a.pth"), Path(place, "b")
        zeroinit.save(model, one)
        to_published(one, file)
        from_published(file, other, **{**kept, "random_init": ours.joint, **options})
        return zeroinit.load(base(), other)


def _linear(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(model, Path(place, "a"))
        convert.nonlinear_to_linear(Path(place, "a"), Path(place, "b"))
        return zeroinit.load(base(), Path(place, "b"))


def _equal_heads(rng: Random) -> dict[str, Any]:
    """What PEFT can compute: one gate a layer."""
    model = adapted(rng, attention="zero_init", gate="head", prompt="linear", gate_activation="identity")
    gate = _adapter(model).gate
    gate.data = gate.data[:, :1].repeat(1, gate.shape[1])
    return {"model": model}


def _peft(model: Any, **options: Any) -> Any:
    """To a folder of PEFT and back."""
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(model, Path(place, "a"))
        convert.to_peft(Path(place, "a"), Path(place, "b"))
        convert.from_peft(Path(place, "b"), Path(place, "c"), base(), **options)
        return zeroinit.load(base(), Path(place, "c"))


def _read(model: Any, folder: Any = None) -> Any:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(model, place)
        return gates.table(gates.read(place if folder is None else folder))


def _table(given: dict[str, Any], rows: list[dict[str, Any]]) -> str | None:
    """A row a head, whose mass of prompts is what the model's own attention has."""
    model, adapter = given["model"], _adapter(given["model"])
    if len(rows) != adapter.layers * 2:
        return f"{len(rows)} rows"
    if rows[0]["prompt_mass"] is None:
        return None
    mass = gates.prompt_mass(model, torch.tensor([[1, 5, 6, 7]])).flatten().tolist()
    wrong = [(row["prompt_mass"], m) for row, m in zip(rows, mass, strict=True) if abs(row["prompt_mass"] - m) > 1e-6]
    return f"masses {wrong}" if wrong else None


def _trainer(model: Any, frozen: bool = False) -> Any:
    """Two steps of the Trainer."""
    from transformers import TrainingArguments

    if frozen:
        model.requires_grad_(False)
    rows = [{"input_ids": [1, 5, 6, 7], "labels": [1, 5, 6, 7]}] * 4
    with tempfile.TemporaryDirectory() as place:
        silent = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no", "logging_steps": 9999}
        arguments = TrainingArguments(place, max_steps=2, learning_rate=0.1, **silent)
        trainer = zeroinit.AdapterTrainer(model, arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model()
        return zeroinit.load(base(), place)


FIT = {"attention": "zero_init", "prompt": "nonlinear"}
ENTRIES = (
    Entry("zeroinit.AdapterConfig", AdapterConfig, config, {
        **{name: NO_NAME for name in ("prompt", "attention", "activation", "gate", "gate_activation")},
        "prompt_length": (0, *NO_COUNT), "hidden_width": NO_COUNT, "layers": (0, *NO_COUNT),
        "layer_width": (0, *NO_COUNT), "initial_scale": (0.0, -1.0, math.nan, math.inf, "x", [1.0], 1e300),
    }, lambda given, made: None if {k: getattr(made, k) for k in given} == given else f"{made}"),
    Entry("zeroinit.supports", zeroinit.supports, lambda rng: {"config": base().config}, {"config": NO_OBJECT},
          lambda given, found: None if found == (True, f"{LAYERS} layers of LlamaAttention") else f"{found}",
          weight=0.2),
    Entry("zeroinit.attach", zeroinit.attach, lambda rng: {"model": base(), "config": AdapterConfig(**config(rng))}, {
        "model": NO_OBJECT, "name": ("", "a.b", 3, None, "keys", "training"),
        "config": lambda rng, given: [replace(given["config"], layers=9), "linear", 3, {}, []][rng.integers(5)],
    }, _attached),
    Entry("zeroinit.detach, trainable_parameters", zeroinit.detach, lambda rng: {"model": adapted(rng)},
          {"model": lambda rng, given: base()}, _detached, weight=0.5),
    Entry("zeroinit.save, load", _round_trip, lambda rng: {"model": adapted(rng)}, {
        "model": lambda rng, given: base(), "name": ("other", 3, "", ["default"], {}),
    }, _same_logits),
    Entry("zeroinit.activate", zeroinit.activate, _two,
          {"model": lambda rng, given: base(), "name": ("other", "", None, 3, ["default"], {})}, _chosen),
    Entry("zeroinit.delete", zeroinit.delete, lambda rng: _two(rng) | {"name": "second"},
          {"model": lambda rng, given: base(), "name": ("other", "", None, 3, ["second"])}, _chosen),
    Entry("zeroinit.disabled", _without, lambda rng: {"model": adapted(rng)}, {"model": lambda rng, given: base()},
          lambda given, found: None if torch.equal(found, logits(untouched())) else "not the base's logits",
          weight=0.5),
    Entry("zeroinit.AdapterTrainer", _trainer, lambda rng: {"model": adapted(rng)},
          {"model": lambda rng, given: base(), "frozen": (True,)}, _same_logits, weight=0.2),
    Entry("zeroinit.published", _published, lambda rng: {"model": adapted(rng, gate_activation="tanh")},
          {"prompt_length": (0, *NO_COUNT), "layers": (0, 9, *NO_COUNT), "activation": NO_NAME}, _same_logits,
          weight=0.5),
    Entry("zeroinit.convert.nonlinear_to_linear", _linear, lambda rng: {"model": adapted(rng, **FIT)},
          {"model": lambda rng, given: adapted(rng, prompt="linear")}, _near_logits, weight=0.5),
    Entry("zeroinit.convert.to_peft, from_peft", _peft, _equal_heads, {
        "model": lambda rng, given: adapted(rng, attention="random_init"), "gate_activation": ("relu", "", None, 3),
    }, _near_logits, weight=0.5),
    Entry("zeroinit.gates", _read, lambda rng: {"model": adapted(rng)},
          {"folder": ("/no/such/place", "/dev/null", "./none")}, _table, weight=0.5),
)  # fmt: skip
