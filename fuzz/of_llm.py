"""Public functions of `zeroinit`, `llm` and `common`: what they take and must not take, and results by another route."""

import copy
import json
import math
import re
import tempfile
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zeroinit
from common import journal, seals, tables
from common.streams import stream
from common.tables import Column
from common.texts import parse_json
from fuzz.nonsense import NO_COUNT, NO_NAME, NO_NUMBER, NO_OBJECT, Entry, Random, pick
from llm.data.alpaca import encode, prompt
from llm.data.batches import Batches, Collator, pack
from llm.data.splits import fraction, hold_out
from llm.evaluation import protocol, tasks
from llm.evaluation.settings import DECODINGS, Decoding
from llm.evaluation.tasks import Item
from llm.methods import registry, tensors
from llm.methods.names import METHODS, PROMPTS
from llm.training.settings import Training
from llm.world.folder import Pretraining
from llm.world.world import World
from zeroinit.config import ACTIVATIONS, GATE_ACTIVATIONS, GATES, AdapterConfig
from zeroinit.published import from_published, to_published

SMALL = World(train=12, validation=1, test=1, asked=6)


@cache
def tokenizer() -> Any:
    """Of the small world."""
    return SMALL.tokenizer()


@cache
def _base() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer()), max_position_embeddings=128, pad_token_id=0, **sizes)
    return LlamaForCausalLM(config).eval()


def base() -> Any:
    """A fresh tiny Llama."""
    return copy.deepcopy(_base())


def config(rng: Random) -> dict[str, Any]:
    """Keywords of an AdapterConfig that fits the base."""
    return {
        "prompt": pick(rng, zeroinit.config.PROMPTS),
        "attention": pick(rng, zeroinit.config.ATTENTIONS),
        "prompt_length": int(rng.integers(1, 6)),
        "layers": pick(rng, (None, 1, 2, 3)),
        "initial_scale": pick(rng, (None, 0.1, 1.0)),
        "activation": pick(rng, ACTIVATIONS),
        "hidden_width": pick(rng, (0, 24)),  # few units may all start dead, which is refused
        "layer_width": pick(rng, (None, 3)),
        "gate": pick(rng, GATES),
        "gate_activation": pick(rng, GATE_ACTIVATIONS),
    }


def adapted(rng: Random) -> Any:
    """A tiny Llama with an adapter whose gates are open."""
    model = zeroinit.attach(base(), AdapterConfig(**config(rng)))
    torch.manual_seed(int(rng.integers(1000)))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.endswith("gate"):
            parameter.data.normal_(std=0.7)
    return model


def logits(model: Any) -> torch.Tensor:
    """Of a fixed text."""
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 6, 7, 8]])).logits


def _attached(given: dict[str, Any], model: Any) -> str | None:
    """At the published start, gates are 0 and nothing changes; detached, nothing is left."""
    if given["config"].attention == "zero_init" and not torch.equal(logits(model), logits(_base())):
        return "a gate of 0 changes the logits"
    count = zeroinit.trainable_parameters(model)
    if count != sum(p.numel() for n, p in model.named_parameters() if "zero_init_adapters" in n):
        return f"{count} parameters are trainable"
    return None if torch.equal(logits(zeroinit.detach(model)), logits(_base())) else "detach leaves something"


def _round_trip(model: Any, folder: Any = None, name: Any = None) -> Any:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(model, Path(place) if folder is None else folder, name)
        return zeroinit.load(base(), place)


def _same_logits(given: dict[str, Any], again: Any) -> str | None:
    return None if torch.equal(logits(given["model"]), logits(again)) else "the loaded adapter gives other logits"


def _published(model: Any, **options: Any) -> Any:
    """To the published file and back."""
    adapter = model.zero_init_adapters["default"].config
    with tempfile.TemporaryDirectory() as place:
        one, file, other = Path(place, "a"), Path(place, "a.pth"), Path(place, "b")
        zeroinit.save(model, one)
        to_published(one, file)
        kept = {"prompt_length": adapter.prompt_length, "layers": len(_layers(model)), "activation": adapter.activation}
        from_published(file, other, **{**kept, "random_init": adapter.joint, **options})
        return zeroinit.load(base(), other)


def _layers(model: Any) -> range:
    return range(model.zero_init_adapters["default"].config.adapted_layers(3))


def _published_model(rng: Random) -> dict[str, Any]:
    given = config(rng) | {"gate_activation": "tanh"}
    model = zeroinit.attach(base(), AdapterConfig(**given))
    return {"model": model}


def _method(rng: Random) -> dict[str, Any]:
    method = pick(rng, [m for m in METHODS if m != "bitfit"])
    return {"model": base(), "method": method, "options": {"layers": 2} if method in PROMPTS else {}, "seed": 3}


def _trains(given: dict[str, Any], model: Any) -> str | None:
    counts = registry.counts(model)
    if not 0 < counts["trainable"] <= counts["all"]:
        return f"counts {counts}"
    again = registry.apply(base(), given["method"], given["options"], given["seed"])
    one, other = tensors.trained(model), tensors.trained(again)
    same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return None if same else "a second call with this seed gives other tensors"


def rows(rng: Random) -> list[dict[str, str]]:
    """Instruction data of the small world."""
    every = SMALL.instructions()
    return [every[i] for i in rng.permutation(len(every))[: int(rng.integers(2, 20))]]


def _encoded(given: dict[str, Any], found: Any) -> str | None:
    for row, example in zip(given["rows"], found.examples, strict=False):
        ids, labels = example["input_ids"], example["labels"]
        text = tokenizer()(prompt(row["instruction"], row["input"]))["input_ids"]
        if ids[: len(text)] != text or set(labels[: len(text)]) != {-100} or labels[len(text) :] != ids[len(text) :]:
            return f"example of {row} is {example}"
    kept = found.report.rows - found.report.skipped
    return None if len(found.examples) == kept else f"{len(found.examples)} examples, and {kept} kept"


def _examples(rng: Random) -> list[dict[str, list[int]]]:
    lengths = rng.integers(3, 20, size=int(rng.integers(1, 30)))
    return [{"input_ids": [1] * int(n), "labels": [-100] + [1] * (int(n) - 1)} for n in lengths]


def _packed(given: dict[str, Any], found: list[dict[str, list[int]]]) -> str | None:
    before = sum(len(example["input_ids"]) for example in given["examples"])
    after = sum(len(example["input_ids"]) for example in found)
    longest = max(len(example["input_ids"]) for example in found)
    return None if before == after and longest <= given["length"] else f"{after} tokens of {before}, {longest} in a row"


def _collated(given: dict[str, Any], batch: dict[str, torch.Tensor]) -> str | None:
    lengths = [len(example["input_ids"]) for example in given["examples"]]
    same = batch["attention_mask"].sum(1).tolist() == lengths and batch["input_ids"].shape == batch["labels"].shape
    return None if same else f"masks of {batch['attention_mask'].sum(1).tolist()}, lengths {lengths}"


def _epoch(given: dict[str, Any], batches: Batches) -> str | None:
    seen = [row for batch in batches for row in batch]
    if len(seen) != len(set(seen)) or not set(seen) <= set(range(len(given["lengths"]))):
        return f"rows {seen}"
    full = min(given["size"], len(given["lengths"]))
    return None if len(seen) % full == 0 and len(given["lengths"]) - len(seen) < full else f"{len(seen)} rows"


def _parts(given: dict[str, Any], found: tuple[list, list]) -> str | None:
    train, held_out = found
    whole = sorted(map(json.dumps, [*train, *held_out])) == sorted(map(json.dumps, given["rows"]))
    return None if whole and len(held_out) == given["count"] else "rows are lost, or others"


def _share(given: dict[str, Any], found: list) -> str | None:
    expected = max(1, round(given["share"] * len(given["rows"])))
    inside = all(row in given["rows"] for row in found)
    return None if inside and abs(len(found) - expected) <= 1 else f"{len(found)} rows of {len(given['rows'])}"


WORDS = "the cat red Paris blue 42 dog house of a in B C".split()


def _words(rng: Random, most: int = 4) -> str:
    return " ".join(pick(rng, WORDS) for _ in range(int(rng.integers(1, most + 1))))


def _answer(rng: Random) -> dict[str, Any]:
    options = list(dict.fromkeys(_words(rng) for _ in range(4)))
    return {"text": _words(rng, 9), "options": options, "gold": int(rng.integers(len(options)))}


def _scored(given: dict[str, Any], found: Any) -> str | None:
    same = protocol.score(**given)
    answer = given["options"][given["gold"]]
    alone = not any(other.lower() in answer.lower() for other in given["options"] if other != answer)
    exact = protocol.score(answer, given["options"], given["gold"])
    return None if same == found and (exact.right or not alone) else f"{found}, then {same}; the answer itself: {exact}"


def _items(rng: Random) -> list[Item]:
    count = int(rng.integers(1, 9))
    return [
        Item(id=str(n), question=_words(rng), options=["a", "b", "c"], gold=int(rng.integers(3))) for n in range(count)
    ]


def _shuffled(given: dict[str, Any], found: list[Item]) -> str | None:
    for before, after in zip(given["found"], found, strict=True):
        if sorted(after.options) != sorted(before.options) or after.options[after.gold] != before.options[before.gold]:
            return f"{before} became {after}"
    return None


def _training(rng: Random) -> dict[str, Any]:
    return {
        "learning_rate": float(10 ** rng.uniform(-4, 0)),
        "epochs": int(rng.integers(1, 9)),
        "seed": 3,
        "warmup": 0.1,
    }


def _cell(rng: Random) -> dict[str, Any]:
    text = "".join(chr(int(rng.integers(32, 1000))) for _ in range(int(rng.integers(0, 6))))
    number = pick(rng, (0.1, math.pi, 1e-300, -0.0, float(rng.standard_normal()) * 10.0 ** int(rng.integers(-20, 20))))
    return {"rows": [{"name": text, "n": int(rng.integers(100)), "x": number}] * int(rng.integers(0, 3))}


def _table(rows: Any) -> list[dict[str, str]]:
    columns = {"name": Column(), "n": Column("integer", 0, 100), "x": Column("number")}
    with tempfile.TemporaryDirectory() as place:
        tables.finish(Path(place, "t.csv"), rows, columns)
        return tables.read(Path(place, "t.csv"), columns)


def _kept(given: dict[str, Any], found: list[dict[str, str]]) -> str | None:
    again = [{"name": r["name"], "n": int(r["n"]), "x": float(r["x"])} for r in found]
    return None if again == given["rows"] else f"{again} instead of {given['rows']}"


BAD_ROWS = (
    [{"name": "a", "n": -1, "x": 0.5}],
    [{"name": "a", "n": 2.5, "x": 0.5}],
    [{"name": "a", "n": 3, "x": math.nan}],
    [{"name": "a", "n": 3, "x": math.inf}],
    [{"name": "a", "n": 10**30, "x": 0.5}],
    [{"name": "a\r\n", "n": 3, "x": 0.5}],
    [{"name": "\0", "n": 3, "x": 0.5}],
)


def _value(rng: Random, depth: int = 3) -> Any:
    plain = (None, True, 3, -1.5, "a", "ä\n", 10**20, "")
    if depth == 0 or rng.random() < 0.4:
        return pick(rng, plain)
    children = [_value(rng, depth - 1) for _ in range(int(rng.integers(0, 4)))]
    return children if rng.random() < 0.5 else {f"k{n}": child for n, child in enumerate(children)}


def _json(rng: Random) -> dict[str, Any]:
    return {"value": _value(rng)}


def _spoilt_json(rng: Random, given: dict[str, Any]) -> str:
    text = json.dumps({"a": given["value"]})
    ways = (text[:-1], text + "]", text.replace('"a"', "'a'", 1), '{"a": NaN}', "[" * 20_000, '{"a": 1, "a": 2}', "",
            '{"a": 1e999}', "9" * 5000, "\ufeff" + text + "x")  # fmt: skip
    return pick(rng, ways)


def _record(rng: Random) -> dict[str, Any]:
    return {"record": {"configuration": {"a": 1}, "history": [], "results": {"x": _value(rng)}}}


def _sealed(record: Any, change: str = "") -> Any:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "r.json")
        journal.save(path, record)
        if change:
            path.write_text(re.sub(change, "7", path.read_text(), count=1))
        return seals.unsealed(path, "a record")


ENTRIES = (
    Entry("zeroinit.AdapterConfig", AdapterConfig, config, {
        **{name: NO_NAME for name in ("prompt", "attention", "activation", "gate", "gate_activation")},
        "prompt_length": (0, *NO_COUNT), "hidden_width": NO_COUNT, "layers": (0, *NO_COUNT),
        "layer_width": (0, *NO_COUNT), "initial_scale": (0.0, -1.0, math.nan, math.inf, "x", [1.0], 1e300),
    }, lambda given, made: None if {k: getattr(made, k) for k in given} == given else f"{made}"),
    Entry("zeroinit.attach", zeroinit.attach, lambda rng: {"model": base(), "config": AdapterConfig(**config(rng))}, {
        "model": NO_OBJECT, "config": ("linear", 3, {}, []), "name": ("", "a.b", 3, None, "keys", "training"),
    }, _attached),
    Entry("zeroinit.save, load", _round_trip, lambda rng: {"model": adapted(rng)}, {
        "model": lambda rng, given: base(), "name": ("other", 3, ""),
    }, _same_logits),
    Entry("zeroinit.activate", zeroinit.activate, lambda rng: {"model": adapted(rng), "name": "default"},
          {"model": lambda rng, given: base(), "name": ("other", "", None, 3)}),
    Entry("zeroinit.delete", zeroinit.delete, lambda rng: {"model": adapted(rng), "name": "default"},
          {"model": lambda rng, given: base(), "name": ("other", "", None, 3)}),
    Entry("zeroinit.published", _published, _published_model, {
        "prompt_length": (0, *NO_COUNT), "layers": (0, 9, *NO_COUNT),
    }, _same_logits, weight=0.5),
    Entry("llm.methods.registry.apply", registry.apply, _method, {
        "method": NO_NAME, "options": ({"none": 1}, {"layers": -1}, {"r": "x"}, {"prompt_length": 0}),
    }, _trains, weight=0.5),
    Entry("llm.data.alpaca.encode", encode, lambda rng: {"rows": rows(rng), "tokenizer": tokenizer(), "length": 128},
          {"length": (0, 1, *NO_COUNT)}, _encoded),
    Entry("llm.data.batches.pack", pack, lambda rng: {"examples": _examples(rng), "length": 32},
          {"length": (0, 2, -1)}, _packed),
    Entry("llm.data.batches.Collator", lambda examples, pad=0: Collator(pad)(examples),
          lambda rng: {"examples": _examples(rng)}, {}, _collated),
    Entry("llm.data.batches.Batches", Batches,
          lambda rng: {"lengths": [int(n) for n in rng.integers(1, 9, size=int(rng.integers(1, 40)))],
                       "size": int(rng.integers(1, 9)), "seed": 1},
          {"lengths": ([],), "size": (0, *NO_COUNT)}, _epoch),
    Entry("llm.data.splits.hold_out", hold_out, lambda rng: {"rows": rows(rng), "count": 1, "seed": 0},
          {"count": (-1, 10**6)}, _parts),
    Entry("llm.data.splits.fraction", fraction, lambda rng: {"rows": rows(rng), "share": float(rng.uniform(0.1, 1)), "seed": 0},
          {"share": (0.0, -1.0, 1.5, math.nan, math.inf)}, _share),
    Entry("llm.evaluation.protocol.score", protocol.score, _answer,
          {"gold": (None, -1, 99, "a", 1.5), "options": ([], None)}, _scored),
    Entry("llm.evaluation.tasks.shuffled", tasks.shuffled, lambda rng: {"found": _items(rng), "seed": int(rng.integers(99))},
          {}, _shuffled, weight=0.5),
    Entry("llm.evaluation.Decoding", lambda **changes: replace(DECODINGS["published"], **changes),
          lambda rng: {"max_new_tokens": int(rng.integers(1, 99))},
          {"max_new_tokens": (0, *NO_COUNT), "seed": NO_COUNT}, lambda given, made: None if isinstance(made, Decoding) else "no"),
    Entry("llm.training.Training", Training, _training, {
        "learning_rate": (0.0, -1.0, *NO_NUMBER), "epochs": (0, *NO_COUNT), "steps": (0, *NO_COUNT), "seed": NO_COUNT,
        "warmup": (1.0, -0.1, *NO_NUMBER), "batch_size": (0, *NO_COUNT), "micro_batch_size": (0, *NO_COUNT),
        "length": (1, *NO_COUNT), "weight_decay": (-1.0, *NO_NUMBER), "batching": NO_NAME, "precision": NO_NAME,
        "betas": ((1.0, 0.9), (-0.1, 0.9), (0.9,), None, "ab", (math.nan, 0.9)),
        "gradient_checkpointing": ("yes", None, 2), "evaluate_every": NO_COUNT, "checkpoint_every": (0, *NO_COUNT),
    }),
    Entry("llm.world.World", World, lambda rng: {"seed": int(rng.integers(9)), "train": 9, "asked": 4}, {
        **{name: (0, *NO_COUNT, True) for name in ("train", "validation", "test", "asked")},
        "seed": (*NO_COUNT, True), "test": (10**6, 0),
    }, lambda given, made: None if made.people == World(**given).people and asdict(made)["train"] == 9 else "another"),
    Entry("llm.world.Pretraining", Pretraining, lambda rng: {"steps": 3}, {
        **{name: (0, *NO_COUNT) for name in ("hidden", "layers", "heads", "steps", "batch_size")},
        **{name: (-1.0, *NO_NUMBER) for name in ("learning_rate", "weight_decay")},
    }),
    Entry("common.streams.stream", lambda seed, key: stream(seed, key, 1).standard_normal(3),
          lambda rng: {"seed": int(rng.integers(9)), "key": "a"}, {"seed": (-1, "x", None), "key": (-1, None, [1])},
          lambda given, found: None if np.array_equal(found, stream(given["seed"], "a", 1).standard_normal(3)) else "other"),
    Entry("common.tables", _table, _cell, {"rows": BAD_ROWS}, _kept),
    Entry("common.texts.parse_json", lambda value, text=None: parse_json(json.dumps(value) if text is None else text, "f"),
          _json, {"text": _spoilt_json}, lambda given, found: None if found == given["value"] else f"{found}"),
    Entry("common.seals, journal", _sealed, _record, {"change": ('1', '"configuration"', "[0-9a-f]{64}", r"\{")},
          lambda given, found: None if found == given["record"] else f"{found}"),
)  # fmt: skip
