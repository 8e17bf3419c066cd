"""Every kind of file that the package reads, damaged: refused in one line, or read as it was; and left as it is."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zeroinit
from common import journal, seals, tables
from fuzz.judge import Case
from fuzz.nonsense import Random, pick
from fuzz.samples import SMALL, adapted, base, logits, rows
from llm.data.rows import read as read_rows
from llm.methods import loading, registry, tensors
from llm.training import checkpoints
from llm.training.curve import saved
from llm.training.settings import Training
from llm.training.train import train
from llm.world import folder as worlds
from llm.world import study
from llm.world.experiments import QUICK
from llm.world.folder import Pretraining
from llm.world.tables import CLAIMS, COLUMNS, Table
from theory.simulate import RATES
from zeroinit.published import from_published, to_published


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name : str
    make : callable
        Writes a sample, which may be a folder, to a path.
    read : callable
        What the package makes of it; comparable by ==, or by the logits of a model.
    exact : bool
        Whether every change must show: there are checksums. Without, another text is another text.
    grows : bool
        Whether the part of a last line is cut off, as after a kill.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    exact: bool = False
    grows: bool = False


def flip(rng: Random, data: bytes) -> bytes:
    """One bit."""
    changed = bytearray(data)
    if changed:
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def scramble(rng: Random, data: bytes) -> bytes:
    """Sixteen bytes at random."""
    start = int(rng.integers(max(1, len(data))))
    return data[:start] + rng.bytes(16) + data[start + 16 :]


def digits(rng: Random, data: bytes) -> bytes:
    """A digit for another."""
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    if not places:
        return data + b"1"
    place = pick(rng, places)
    return data[:place] + str((int(chr(data[place])) + 1) % 10).encode() + data[place + 1 :]


DAMAGES: dict[str, Callable[[Random, bytes], bytes | None]] = {
    "bit": flip,
    "scrambled": scramble,
    "digit": digits,
    "cut": lambda rng, data: data[: int(rng.integers(max(1, len(data))))],
    "empty": lambda rng, data: b"",
    "absent": lambda rng, data: None,
    "NUL": lambda rng, data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :],
    "UTF-16": lambda rng, data: data.decode("latin-1").encode("utf-16"),
    "CRLF": lambda rng, data: data.replace(b"\n", b"\r\n"),
    "twice": lambda rng, data: data + data,
    "nested": lambda rng, data: b"[" * 100_000,
    "infinite": lambda rng, data: b'{"seed": Infinity}',
    "types": lambda rng, data: pick(
        rng, (b"[]", b"null", b"3", b'"a"', b"{}", b'{"configuration": 3}', b"[[]]", b"[{}]")
    ),
    "zip": lambda rng, data: b"PK\x03\x04" + rng.bytes(200),
    "noise": lambda rng, data: rng.bytes(300),
}


def case(kind: Kind, rng: Random) -> Case:
    """A sample with one file damaged, and what reading it must give."""
    place = Path(tempfile.mkdtemp())
    original, damaged = sample(kind), place / "sample"
    copy(original, damaged)
    files = sorted(p for p in damaged.rglob("*") if p.is_file()) if damaged.is_dir() else [damaged]
    path, (name, damage) = pick(rng, files), pick(rng, list(DAMAGES.items()))
    before = path.read_bytes()
    data = damage(rng, before)
    path.unlink() if data is None else path.write_bytes(data)

    def read() -> Any:
        try:
            return kind.read(damaged)
        finally:
            kept = path.read_bytes() if path.exists() else None
            shutil.rmtree(place)
            part = kind.grows and data is not None and data.startswith(kept or b"")
            if kept != data and not part:
                raise RuntimeError("reading has changed the file")

    def check(found: Any) -> str | None:
        if kind.exact and data not in (before, None) and not same(found, kind.read(original)):
            return "a damaged file is read as something else"
        return None

    return Case(f"{path.name}: {name}", read, "either", check)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, models by what they compute."""
    if isinstance(one, torch.nn.Module):
        return torch.equal(logits(one), logits(other))
    return one == other


def copy(source: Path, target: Path) -> None:
    """A file, with the checksum beside it, or a folder."""
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


@cache
def sample(kind: Kind) -> Path:
    """A sample of a kind, made once a process."""
    path = Path(tempfile.mkdtemp()) / "sample"
    kind.make(path)
    return path


def _folder(make: Callable[[Path], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir(parents=True)
        make(path)

    return write


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


def _claims(path: Path) -> None:
    row = {"claim": "a", "value": 0.1, "low": 0.0, "high": 0.2, "verdict": "holds", "rates": "own best", "world": 0}
    row |= {"quantity": "gain", "first": "linear", "second": "lora", "fractions": "0.1 1", "seeds": 2}
    tables.finish(path / "claims.csv", [row], CLAIMS)


def _rates(path: Path) -> None:
    tables.finish(path / "rates.csv", [dict.fromkeys(RATES, 0.5) | {"study": "over-linear"}], RATES)


def _journal(path: Path) -> None:
    journal.append(path, [{"key": f"k{n}", "responses": [0.5, n]} for n in range(5)])


def _run(path: Path) -> None:
    record = journal.claim(path, {"seed": 0})
    journal.save(path, record | {"results": {"curve": [{"step": 1, "loss": 0.25}]}})


def _published(path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        zeroinit.save(adapted(_generator()), place)
        to_published(place, path)


def _from_published(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as place:
        made = zeroinit.attach(base()).zero_init_adapters["default"].config
        config = adapted(_generator()).zero_init_adapters["default"].config
        options = {"prompt_length": config.prompt_length, "layers": config.adapted_layers(3)}
        from_published(path, place, **options, random_init=config.joint, activation=config.activation)
        return made is not None and zeroinit.load(base(), place)


def _parquet(path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows(_generator())), path, write_page_checksum=True)


def _named(name: str, write: Callable[[Path], Any]) -> Callable[[Path], None]:
    return _folder(lambda path: write(path / name))


def _base(path: Path) -> None:
    model: Any = base()
    worlds.write(model, SMALL, Pretraining(hidden=16, layers=3, heads=2), [], path)


def _load_base(path: Path) -> Any:
    world, (model, _) = worlds.read(path), loading.load_base(path, "float32", "cpu")
    return world == SMALL and model


def _method(name: str) -> Callable[[Path], None]:
    return _folder(lambda path: registry.save(registry.apply(base(), name), path))


CHECKPOINTS = Kind("checkpoints", _folder(_checkpoint), _resume, exact=True)
KINDS = (
    CHECKPOINTS,
    Kind("tables of a study", _folder(_study), _read_study, exact=True),
    Kind("claims.csv", _folder(_claims), lambda path: tables.read(path / "claims.csv", CLAIMS), exact=True),
    Kind("rates.csv", _folder(_rates), lambda path: tables.read(path / "rates.csv", RATES), exact=True),
    Kind("journal of answers", _named("a.jsonl", _journal), lambda path: journal.read(path / "a.jsonl", ["key", "responses"]),
         grows=True),
    Kind("record of a run", _named("run.json", _run), lambda path: journal.known(path / "run.json", {"seed": 0}), exact=True),
    Kind("adapter folder", _folder(lambda path: zeroinit.save(adapted(_generator()), path)),
         lambda path: zeroinit.load(base(), path)),
    Kind("published .pth", _named("a.pth", _published), lambda path: _from_published(path / "a.pth")),
    *(Kind(f"folder of {name}", _method(name), lambda path: registry.load(base(), path)) for name in ("lora", "norms", "linear+lora")),
    Kind("base of a world", _folder(_base), _load_base),
    Kind("rows .json", _named("a.json", lambda path: path.write_text(json.dumps(rows(_generator())))),
         lambda path: read_rows(path / "a.json")),
    Kind("rows .jsonl", _named("a.jsonl", lambda path: journal.replace(path, rows(_generator()))),
         lambda path: read_rows(path / "a.jsonl")),
    Kind("rows .parquet", _named("a.parquet", _parquet), lambda path: read_rows(path / "a.parquet")),
)  # fmt: skip
