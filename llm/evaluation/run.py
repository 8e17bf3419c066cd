"""One evaluation: tasks by a protocol, their results kept as they come; the command is llm/evaluate.py."""

import argparse
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common import journal
from common.paths import label
from llm.evaluation import protocol, tasks
from llm.evaluation.settings import DECODINGS, Decoding
from llm.methods import loading


def evaluate(a: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Evaluate as the arguments say; results by task, also in OUT/PROTOCOL.json with their provenance.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        If the model, the adapter or the data cannot be had, or OUT holds a run of another configuration.
    """
    # A wrong folder shows before the model is loaded.
    data = {name: tasks.fingerprint(name, a.data) if a.data else "hub" for name in a.tasks}
    files = {name: tasks.local_file(name, a.data) if a.data else None for name in a.tasks}
    model, tokenizer = loading.load(
        a.model, a.adapter, gate_activation=a.gate_activation, precision=a.precision, device=a.device
    )
    record_path, folder = a.out / f"{a.protocol}.json", a.out / a.protocol
    configuration = _configuration(a, model)
    if journal.known(record_path, configuration) is None and folder.exists():
        raise ValueError(f"{folder} must be new, or of this command, which keeps {record_path.name} beside it")
    if a.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    record = journal.claim(record_path, configuration, a.fresh)
    for task in a.tasks:
        name = f"{task}-shuffled" if task == "truthfulqa" and a.truthfulqa_order == "shuffled" else task
        if known := record["results"].get(name):
            if known["data"] != data[task]:
                raise ValueError(f"{record_path} has {name} of other data; name another --out, or begin with --fresh")
            continue
        if files[task]:
            print(f"{task} is read from {files[task]} in {a.data}", file=sys.stderr)
        began = time.monotonic()
        found = _evaluate(a, model, tokenizer, task, folder / f"{name}.jsonl")
        seconds = round(time.monotonic() - began, 1)
        record["results"][name] = found | {"limit": a.limit, "data": data[task], "file": files[task]}
        record["results"][name]["seconds"] = seconds
        journal.save(record_path, record)
        for responses in folder.glob(f"{name}.jsonl.*"):  # of the harness; every item's are in its record now
            responses.unlink()
    return record["results"]


def _evaluate(a: argparse.Namespace, model: Any, tokenizer: Any, task: str, path: Path) -> dict[str, Any]:
    if a.protocol == "harness" or task == "hellaswag":
        from llm.evaluation import harness  # lm-eval takes seconds to import

        return harness.evaluate(model, tokenizer, task, path, data=a.data, limit=a.limit, batch_size=a.batch_size)
    items = tasks.items(task, a.data)
    preface = ""
    if task == "truthfulqa":
        preface = a.preface
        items = tasks.shuffled(items, a.seed) if a.truthfulqa_order == "shuffled" else items
    items = tasks.limited(items, a.limit)
    return protocol.evaluate(
        model, tokenizer, items, path, _decoding(a), preface=preface, batch_size=a.batch_size, name=task
    )


def _decoding(a: argparse.Namespace) -> Decoding:
    return replace(DECODINGS[a.decoding], max_new_tokens=a.max_new_tokens, seed=a.seed)


def _configuration(a: argparse.Namespace, model: Any) -> dict[str, Any]:
    found = model_configuration(a, model) | {"limit": a.limit}
    if a.protocol == "harness":
        return found
    return found | {"decoding": asdict(_decoding(a)), "truthfulqa_preface": a.preface}


def model_configuration(a: argparse.Namespace, model: Any) -> dict[str, Any]:
    """What the numbers of a model depend on; of folders, no more than their names."""
    return {
        "model": label(a.model),
        "adapter": label(a.adapter) if a.adapter else None,
        "weights": loading.fingerprint(model),
        "gate_activation": a.gate_activation or "as trained",
        "precision": a.precision,
    }
