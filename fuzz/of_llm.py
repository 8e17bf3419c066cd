"""Public functions of `llm`: what they take and must not take, and results by another route."""

import json
import math
import tempfile
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from fuzz.nonsense import NO_COUNT, NO_NAME, NO_NUMBER, Entry, Random, pick
from fuzz.samples import LAYERS, adapted, base, rows, tokenizer
from llm.data.alpaca import encode, prompt
from llm.data.batches import Batches, Collator, pack
from llm.data.splits import fraction, hold_out
from llm.evaluation import protocol, tasks
from llm.evaluation.decoding import Answer, generate
from llm.evaluation.settings import DECODINGS, Decoding
from llm.evaluation.tasks import Item
from llm.methods import registry, tensors
from llm.methods.names import METHODS, PROMPTS
from llm.training.settings import Training
from llm.training.train import train
from llm.world.claims import interval
from llm.world.folder import Pretraining
from llm.world.world import World


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


def _lengths(rng: Random) -> dict[str, Any]:
    lengths = [int(n) for n in rng.integers(1, 9, size=int(rng.integers(1, 40)))]
    return {"lengths": lengths, "size": int(rng.integers(1, 9)), "seed": 1}


def _parts(given: dict[str, Any], found: tuple[list, list]) -> str | None:
    train, held_out = found
    whole = sorted(map(json.dumps, [*train, *held_out])) == sorted(map(json.dumps, given["rows"]))
    return None if whole and len(held_out) == given["count"] else "rows are lost, or others"


def _share(given: dict[str, Any], found: list) -> str | None:
    expected = max(1, round(given["share"] * len(given["rows"])))
    inside = not Counter(map(json.dumps, found)) - Counter(map(json.dumps, given["rows"]))
    return None if inside and abs(len(found) - expected) <= 1 else f"{len(found)} rows of {len(given['rows'])}"


WORDS = "the cat red Paris blue 42 dog house of a in B C".split()


def _words(rng: Random, most: int = 4) -> str:
    return " ".join(pick(rng, WORDS) for _ in range(int(rng.integers(1, most + 1))))


def _answer(rng: Random) -> dict[str, Any]:
    options: list[str] = []
    while len(options) < 2:
        options = list(dict.fromkeys(_words(rng) for _ in range(4)))
    return {"text": _words(rng, 9), "options": options, "gold": int(rng.integers(len(options)))}


def _scored(given: dict[str, Any], found: Any) -> str | None:
    """Only one option is right; and its own text is, unless it contains another."""
    options, text = given["options"], given["text"]
    right = [n for n in range(len(options)) if protocol.score(text, options, n).right]
    answer = options[given["gold"]]
    alone = not any(other.lower() in answer.lower() for other in options if other != answer)
    exact = protocol.score(answer, options, given["gold"])
    consistent = found.right == (given["gold"] in right) and (exact.right or not alone)
    return None if consistent else f"{found}; right options {right}; the answer itself: {exact}"


def _items(rng: Random) -> list[Item]:
    count = int(rng.integers(1, 9))
    return [
        Item(id=str(n), question=_words(rng), options=("a", "b", "c"), gold=int(rng.integers(3))) for n in range(count)
    ]


def _shuffled(given: dict[str, Any], found: list[Item]) -> str | None:
    for before, after in zip(given["found"], found, strict=True):
        if sorted(after.options) != sorted(before.options) or after.options[after.gold] != before.options[before.gold]:
            return f"{before} became {after}"
    return None


def _prompts(rng: Random) -> dict[str, Any]:
    ids = [[1, *map(int, rng.integers(3, len(tokenizer()), size=rng.integers(1, 9)))] for _ in range(3)]
    decoding = replace(DECODINGS[pick(rng, list(DECODINGS))], max_new_tokens=4)
    return {"model": adapted(rng), "prompts": ids, "decoding": decoding, "keys": ["a", "b", "c"]}


def _generated(model: Any, prompts: Any, **options: Any) -> list[Answer]:
    return generate(model, tokenizer(), prompts, **options)


def _alone(given: dict[str, Any], found: list[Answer]) -> str | None:
    """The answers of a batch are those that each prompt has alone."""
    one = {"model": given["model"], "decoding": given["decoding"]}
    alone = [_generated(prompts=[p], keys=[k], **one)[0] for p, k in zip(given["prompts"], given["keys"], strict=True)]
    return None if found == alone else f"{found} in a batch, {alone} alone"


def _training(rng: Random) -> dict[str, Any]:
    return {
        "learning_rate": float(10 ** rng.uniform(-4, 0)),
        "epochs": int(rng.integers(1, 9)),
        "seed": 3,
        "warmup": 0.1,
    }


def _trained(method: str, rate: float, stop: int | None, examples: Any = None) -> dict[str, torch.Tensor]:
    """What training ends with; `stop`: its folder is then as if it had been killed after so many steps."""
    settings = Training(rate, steps=3, batch_size=2, checkpoint_every=1, length=8)
    examples = (
        [{"input_ids": [1, 5, 6, n], "labels": [-100, -100, 6, n]} for n in range(3, 9)]
        if examples is None
        else examples
    )
    with tempfile.TemporaryDirectory() as place:
        model = registry.apply(base(), method)
        train(model, examples, [], settings, Path(place), device="cpu")
        if stop is not None:
            for later in range(stop + 1, 4):
                (Path(place) / f"checkpoint-{later}" / "manifest.json").unlink(missing_ok=True)
            model = registry.apply(base(), method)
            train(model, examples, [], settings, Path(place), resume=True, device="cpu")
        return {name: tensor.clone() for name, tensor in tensors.trained(model).items()}


def _resumed(given: dict[str, Any], found: dict[str, torch.Tensor]) -> str | None:
    whole = _trained(given["method"], given["rate"], None)
    same = whole.keys() == found.keys() and all(torch.equal(whole[name], found[name]) for name in whole)
    return None if same else "a resumed run ends with other tensors than one in a piece"


def _by_scipy(given: dict[str, Any], found: tuple[float, float, float]) -> str | None:
    values = given["values"]
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return None if np.allclose(found, (np.mean(values), *expected)) else f"{found} instead of {expected}"


ENTRIES = (
    Entry("llm.methods.registry.apply", registry.apply, _method, {
        "method": NO_NAME,
        "options": ({"none": 1}, {"layers": -1}, {"r": "x"}, {"prompt_length": 0}, {"layers": LAYERS + 1}),
    }, _trains, weight=0.5),
    Entry("llm.data.alpaca.encode", encode, lambda rng: {"rows": rows(rng), "tokenizer": tokenizer(), "length": 128},
          {"length": (0, 1, *NO_COUNT), "vocabulary": (3,)}, _encoded),
    Entry("llm.data.batches.pack", pack, lambda rng: {"examples": _examples(rng), "length": 32},
          {"length": (0, 2, *NO_COUNT)}, _packed),
    Entry("llm.data.batches.Collator", lambda examples, length=None: Collator(length=length)(examples),
          lambda rng: {"examples": _examples(rng)}, {"length": (2,)}, _collated),
    Entry("llm.data.batches.Batches", Batches, _lengths, {"lengths": ([],), "size": (0, *NO_COUNT)}, _epoch),
    Entry("llm.data.splits.hold_out", hold_out, lambda rng: {"rows": rows(rng), "count": 1, "seed": 0},
          {"count": (10**6, *NO_COUNT)}, _parts),
    Entry("llm.data.splits.fraction", fraction,
          lambda rng: {"rows": rows(rng), "share": float(rng.uniform(0.1, 1)), "seed": 0},
          {"share": (0.0, 1.5, *NO_NUMBER)}, _share),
    Entry("llm.evaluation.protocol.score", protocol.score, _answer, {
        "gold": (None, -1, 99, "a", 1.5, True, math.nan), "options": ([], None, "ab", ["a"], [1, 2]),
        "text": (None, 3, ["a"], b"a"),
    }, _scored),
    Entry("llm.evaluation.tasks.shuffled", tasks.shuffled,
          lambda rng: {"found": _items(rng), "seed": int(rng.integers(99))}, {"seed": NO_COUNT}, _shuffled, weight=0.5),
    Entry("llm.evaluation.Decoding", lambda **changes: replace(DECODINGS["published"], **changes),
          lambda rng: {"max_new_tokens": int(rng.integers(1, 99))}, {
        "max_new_tokens": (0, *NO_COUNT), "seed": NO_COUNT,
        "temperature": (-0.1, *NO_NUMBER), "top_p": (0.0, 1.1, *NO_NUMBER),
    }, lambda given, made: None if isinstance(made, Decoding) else "no"),
    Entry("llm.evaluation.generate", _generated, _prompts,
          {"prompts": ([[10**6]], [[1] * 500], [[]]), "keys": (["a"], [])}, _alone, weight=0.5),
    Entry("llm.training.Training", Training, _training, {
        "learning_rate": (0.0, -1.0, *NO_NUMBER), "epochs": (0, *NO_COUNT), "steps": (0, *NO_COUNT), "seed": NO_COUNT,
        "warmup": (1.0, -0.1, *NO_NUMBER), "batch_size": (0, *NO_COUNT), "micro_batch_size": (0, *NO_COUNT),
        "length": (1, *NO_COUNT), "weight_decay": (-1.0, *NO_NUMBER), "batching": NO_NAME, "precision": NO_NAME,
        "betas": ((1.0, 0.9), (-0.1, 0.9), (0.9,), None, "ab", (math.nan, 0.9)),
        "gradient_checkpointing": ("yes", None, 2), "evaluate_every": NO_COUNT, "checkpoint_every": (0, *NO_COUNT),
    }),
    Entry("llm.training.train", _trained, lambda rng: {
        "method": pick(rng, [m for m in METHODS if m != "bitfit"]), "rate": float(10 ** rng.uniform(-4, -1)),
        "stop": int(rng.integers(0, 4)),
    }, {"examples": ([], [{"input_ids": [1, 10**6], "labels": [-100, 10**6]}])}, _resumed, share=0.8, weight=0.2),
    Entry("llm.world.World", World, lambda rng: {"seed": int(rng.integers(9)), "train": 9, "asked": 4}, {
        **{name: (0, *NO_COUNT, True) for name in ("train", "validation", "test", "asked")},
        "seed": (*NO_COUNT, True), "test": (10**6, 0),
    }, lambda given, made: None if made.people == World(**given).people and asdict(made)["train"] == 9 else "another"),
    Entry("llm.world.Pretraining", Pretraining, lambda rng: {"steps": 3}, {
        **{name: (0, *NO_COUNT) for name in ("hidden", "layers", "heads", "steps", "batch_size")},
        **{name: (-1.0, *NO_NUMBER) for name in ("learning_rate", "weight_decay")},
    }),
    Entry("llm.world.claims.interval", interval,
          lambda rng: {"values": rng.standard_normal(rng.integers(2, 30)) * 10.0 ** rng.integers(-9, 9)}, {},
          _by_scipy),
)  # fmt: skip
