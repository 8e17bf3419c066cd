"""Every kind of file that the package reads: a sample of each, and what reads it."""

import json
import tempfile
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from pyarrow import parquet
from safetensors.torch import load_file

import zeroinit
from common import journal, seals, tables
from fuzz.damages import Kind, sample
from fuzz.nonsense import Random
from fuzz.samples import LAYERS, SMALL, adapted, base, rows, tokenizer
from llm.data.rows import read as read_rows
from llm.evaluation import tasks
from llm.evaluation.answers import instructions
from llm.methods import loading, registry, tensors
from llm.real import tables as real
from llm.training import checkpoints
from llm.training.curve import saved
from llm.training.settings import Training
from llm.training.train import train
from llm.world import folder as worlds
from llm.world import study
from llm.world.experiments import QUICK
from llm.world.folder import Pretraining
from llm.world.tables import CLAIMS, COLUMNS, Table
from theory import heads
from theory.runs import load, run
from theory.studies import STUDIES
from theory.summary import measure, save_rates
from theory.tables import RATES
from zeroinit import convert
from zeroinit.published import from_published, to_published


def _generator() -> Random:
    return np.random.default_rng(0)


def _checkpoint(path: Path) -> None:
    examples = [{"input_ids": [1, 5, 6, n % 9 + 3], "labels": [-100, -100, 6, n % 9 + 3]} for n in range(8)]
    model = registry.apply(base(), "linear", {"layers": 2})
    train(model, examples, [], Training(steps=2, batch_size=4, checkpoint_every=1, length=8), path, device="cpu")


def _resume(path: Path) -> Any:
    """The step that a run goes on from, its rows and its tensors; without a checkpoint, that of a run that begins."""
    manifest = seals.unsealed(sample(CHECKPOINTS) / "checkpoint-2" / checkpoints.NAME, "a manifest")
    found = checkpoints.resumable(path, 2, manifest["run"], manifest["rounding"], lambda line: None)
    if found is None:
        return None
    ours, theirs = (tensors.read(p / found.name / tensors.NAME) for p in (path, sample(CHECKPOINTS)))
    equal = all(torch.equal(ours[name], theirs[name]) for name in theirs)
    return equal and saved(found) == saved(sample(CHECKPOINTS) / found.name)


def _study(path: Path) -> None:
    experiment = QUICK
    record = {"experiment": asdict(experiment), "continued": [], "device": "cpu"}
    (path / "study.json").write_text(seals.sealed(record))
    scores = {"accuracy": 0.5, "multiple_choice": 0.5, "held_out_loss": 1.0, "train_loss": 1.0, "status": "finished"}
    sizes = {"steps": experiment.steps, "trainable": 9, "seconds": 1.0, "rows": 7}
    cells = {"arm": "linear", "learning_rate": 0.1, "world": 0, "ablation": "", "setting": ""}
    found = [cells | scores | sizes | {"fraction": f, "seed": s} for f in (0.1, 1.0) for s in (0, 1)]
    tables.finish(path / "sample_efficiency.csv", found, COLUMNS)


def _read_study(path: Path) -> Any:
    return Table(path, "sample_efficiency", study._recorded(path)).rows


def _journal(path: Path) -> None:
    journal.append(path / "a.jsonl", [{"key": f"k{n}", "responses": [0.5, n]} for n in range(5)])


def _claims(path: Path) -> None:
    row = {"claim": "a", "value": 0.1, "low": 0.0, "high": 0.2, "verdict": "holds", "rates": "own best", "world": 0}
    row |= {"quantity": "gain", "first": "linear", "second": "lora", "fractions": "0.1 1", "seeds": 2}
    tables.finish(path / "claims.csv", [row], CLAIMS)


CHECKPOINTS = Kind("checkpoints", _checkpoint, _resume, exact=True)


def _real(path: Path) -> None:
    found = {"arm": "linear", "share": 1.0, "seed": 0, "rate_rule": "common", "learning_rate": 0.1, "seconds": 1.5}
    real.append(path, "curves", [found | {"step": n, "train_loss": 2.0 / (n + 1)} for n in range(3)])
    real.finish(path, "curves")


def _read_real(path: Path) -> Any:
    return tables.read(path / "curves.csv", real.COLUMNS["curves"])


STUDY = replace(STUDIES["exact-linear"], sizes=(40, 80), replicates=2, large_replicates=2, truths=1)


def _fits(path: Path) -> None:
    """Rows and slopes of a study of the theory, as the command leaves them."""
    save_rates(path, measure(STUDY, run(STUDY, path)))


def _slopes(path: Path) -> Any:
    return load(STUDY, path)[0], tables.read(path / "rates.csv", RATES)


def _head(path: Path) -> None:
    rng = _generator()
    q, k, v = rng.standard_normal((3, 6, 2))
    heads.save(heads.head_of(q, k, v, rng.standard_normal((20, 9, 6)), 10_000.0), path / "head.json", {})


def _load_head(path: Path) -> Any:
    head = heads.load(path / "head.json")
    return head.theta, head.root.tolist(), head.key.tolist(), head.value.tolist()


def _run(path: Path) -> None:
    record = journal.claim(path / "run.json", {"seed": 0})
    journal.save(path / "run.json", record | {"results": {"curve": [{"step": 1, "loss": 0.25}]}})


def _known(path: Path) -> Any:
    return journal.known(path / "run.json", {"seed": 0})


def _published(path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(adapted(_generator()), place)
        to_published(place, path / "a.pth")


def _from_published(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as place:
        config = adapted(_generator()).zero_init_adapters["default"].config
        options = {"prompt_length": config.prompt_length, "layers": config.adapted_layers(LAYERS)}
        from_published(path / "a.pth", place, **options, random_init=config.joint, activation=config.activation)
        return zeroinit.load(base(), place)


def _old_peft(path: Path) -> None:
    """A folder of AdaptionPrompt as PEFT wrote it before 0.7."""
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(zeroinit.attach(base()), place)
        convert.to_peft(place, path)
    torch.save(load_file(path / "adapter_model.safetensors"), path / "adapter_model.bin")
    (path / "adapter_model.safetensors").unlink()


def _from_peft(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as place:
        convert.from_peft(path, place, base())
        return zeroinit.load(base(), place)


def _base(path: Path) -> None:
    worlds.write(base(), SMALL, Pretraining(hidden=16, layers=3, heads=2), [], path)


def _load_base(path: Path) -> Any:
    world, (model, words) = worlds.read(path), loading.load_base(path, "float32", "cpu")
    text = SMALL.instructions()[0]["instruction"]
    return world == SMALL and words(text)["input_ids"] == tokenizer()(text)["input_ids"] and model


def _method(name: str) -> Kind:
    def make(path: Path) -> None:
        registry.save(registry.apply(base(), name), path)

    return Kind(f"folder of {name}", make, lambda path: registry.load(base(), path), exact=name != "full")


def _rows(ending: str) -> Kind:
    def make(path: Path) -> None:
        some = rows(_generator())
        if ending == "json":
            (path / "a.json").write_text(json.dumps(some))
        elif ending == "jsonl":
            journal.replace(path / "a.jsonl", some)
        else:
            parquet.write_table(pyarrow.Table.from_pylist(some), path / "a.parquet", write_page_checksum=True)

    return Kind(
        f"rows .{ending}", make, lambda path: (read_rows(path / f"a.{ending}"), instructions(path / f"a.{ending}"))
    )


CHOICES = {"one": 1, "two": 0}
ARC = {"question": {"stem": "Who?", "choices": [{"text": t, "label": l} for t, l in (("one", "A"), ("two", "B"))]}}
PASSAGE = {"text": "Anna saw Bob.", "entities": [{"start": 0, "end": 3}, {"start": 9, "end": 11}]}
TASKS: dict[str, tuple[str, Any]] = {
    "arc_easy": ("ARC-Easy-Test.jsonl", [ARC | {"id": f"q{n}", "answerKey": "A"} for n in range(3)]),
    "hellaswag": ("hellaswag_val.jsonl", [{"ctx": "He", "endings": ["a", "b"], "label": n} for n in range(2)]),
    "mmlu": ("test/law_test.csv", "".join(f"Which {n}?,one,two,three,four,B\n" for n in range(3))),
    "truthfulqa": ("mc_task.json", [{"question": "Why?", "mc1_targets": CHOICES, "mc2_targets": CHOICES}] * 2),
    "boolq": ("BoolQ/val.jsonl", [{"passage": "A cat.", "question": "a cat?", "label": True}] * 2),
    "record": ("ReCoRD/val.jsonl", [{"passage": PASSAGE, "qas": [{"query": "@ saw.", "answers": [{"text": "Anna"}]}]}]),
    "nq_open": ("NQ-open.dev.jsonl", [{"question": "when?", "answer": ["1999-12-31"]}]),
}


def _task(name: str) -> Kind:
    file, content = TASKS[name]

    def make(path: Path) -> None:
        (path / file).parent.mkdir(exist_ok=True)
        if isinstance(content, str) or file.endswith(".json"):
            (path / file).write_text(content if isinstance(content, str) else json.dumps(content))
        else:
            journal.replace(path / file, content)

    return Kind(f"task {name}", make, lambda path: tasks.rows(name, path))


def _zipped(path: Path) -> None:
    with zipfile.ZipFile(path / "mmlu.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/test/law_test.csv", TASKS["mmlu"][1])


def _truthfulqa(path: Path) -> None:
    head = "Question,Best Answer,Correct Answers,Incorrect Answers"
    (path / "TruthfulQA.csv").write_text(f'{head}\n"Why?",Because,Because; So,"Never; Not, ever"\n')


KINDS = (
    CHECKPOINTS,
    Kind("tables of the llm study", _study, _read_study, exact=True),
    Kind("tables of the real study", _real, _read_real, exact=True),
    Kind("claims.csv", _claims, lambda path: tables.read(path / "claims.csv", CLAIMS), exact=True),
    Kind("tables of a theory study", _fits, _slopes, exact=True),
    Kind("head of a real model", _head, _load_head, exact=True),
    Kind("journal of answers", _journal, lambda path: journal.read(path / "a.jsonl", ["key", "responses"]), grows=True),
    Kind("record of a run", _run, _known, exact=True),
    Kind("adapter folder", lambda path: zeroinit.save(adapted(_generator()), path),
         lambda path: zeroinit.load(base(), path), exact=True),
    Kind("published .pth", _published, _from_published, exact=True),
    Kind("PEFT's adaption prompts, .bin", _old_peft, _from_peft),
    *map(_method, ("lora", "norms", "linear+lora", "full")),
    Kind("base of a world", _base, _load_base, exact=True),
    *map(_rows, ("json", "jsonl", "parquet")),
    *map(_task, TASKS),
    Kind("task mmlu, .zip", _zipped, lambda path: tasks.items("mmlu", path), exact=True),
    Kind("task truthfulqa, .csv", _truthfulqa, lambda path: tasks.items("truthfulqa", path)),
)  # fmt: skip
