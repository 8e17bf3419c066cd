"""The commands that `fuzz.kills` disturbs, small enough to end in seconds: how each is run, and what it leaves."""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common import tables
from common.paths import ROOT
from common.texts import parse_json

FREE = ("seconds", "time", "history", "checksum", "provenance")  # what two equal runs may differ in
PATIENCE = 600  # seconds, after which a run hangs


@dataclass(frozen=True)
class Job:
    """A command, as it is disturbed.

    Attributes
    ----------
    name : str
    words : callable
        Folder -> command line.
    results : callable
        Folder -> what must be the same in the end, without times; ValueError if a file is not whole.
    """

    name: str
    words: Callable[[Path], str]
    results: Callable[[Path], Any]


@cache
def base() -> Path:
    """A tiny base with its world and its instructions, and 60 questions of ARC in `tasks`; worlds are beside it."""
    from fuzz.lines import places  # torch is not needed before

    folder, sources = Path(places()["BASE"]), Path(places()["TASKS"])
    (folder / "tasks").mkdir()
    item = json.loads((sources / "ARC-Easy-Test.jsonl").read_text().splitlines()[0])
    items = [json.dumps(item | {"id": f"q{n}"}) + "\n" for n in range(60)]
    (folder / "tasks" / "ARC-Easy-Test.jsonl").write_text("".join(items))
    shutil.copytree(folder, folder.parent / "worlds" / "0")
    return folder


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table, every one of which must be whole."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split(",")
    return [{name: cell for name, cell in row.items() if name not in FREE} for row in tables.read(path, columns)]


def _json(path: Path) -> Any:
    return _without_time(parse_json(path.read_text(encoding="utf-8"), path)) if path.exists() else None


def _without_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_time(part) for name, part in value.items() if name not in FREE}
    return [_without_time(part) for part in value] if isinstance(value, list) else value


def _adapter(folder: Path) -> Any:
    path = folder / "out" / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.exists() else None


JOBS = (
    Job(
        "simulate",
        lambda folder: (
            f"theory/simulate.py exact-linear --sizes 50 100 200 --replicates 60 --workers 2 --out {folder}/out"
        ),
        lambda folder: (_rows(folder / "out" / "exact-linear.csv"), _rows(folder / "out" / "rates.csv")),
    ),
    Job(
        "finetune",
        lambda folder: (
            f"llm/finetune.py mini-nonlinear --model {base()} --data {base()}/instructions.json --set layers=2 "
            "--validation 4 --steps 60 --batch-size 4 --checkpoint-every 5 --evaluate-every 20 "
            f"--out {folder}/out --result {folder}/r.json"
        ),
        lambda folder: (_adapter(folder), _json(folder / "out" / "run.json"), _json(folder / "r.json")),
    ),
    Job(
        "evaluate",
        lambda folder: (
            f"llm/evaluate.py --model {base()} --data {base()}/tasks --protocol paper --tasks arc_easy "
            f"--max-new-tokens 30 --batch-size 4 --device cpu --out {folder}/out"
        ),
        lambda folder: _json(folder / "out" / "paper.json"),
    ),
    Job(
        "study",
        lambda folder: f"fuzz/small_study.py --workers 1 --worlds {base().parent}/worlds --out {folder}/out",
        lambda folder: [_rows(folder / "out" / f"{n}.csv") for n in ("tuning", "sample_efficiency", "claims")],
    ),
)


def start(job: Job, folder: Path, limit: int | None = None, powerless: bool = False) -> subprocess.Popen:
    """Start it in a session of its own.

    Parameters
    ----------
    job : Job
    folder : Path
    limit : int, optional
        No file may become longer, in bytes, as on a disk that is full.
    powerless : bool
        Without the power of a superuser to write where the mode of a folder forbids it.
    """
    drop = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all"] if powerless and os.geteuid() == 0 else []
    process = subprocess.Popen(
        [*drop, sys.executable, *job.words(folder).split()],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    if limit is not None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return process


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for its end."""
    _, error = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, "", error)


@cache
def reference(job: Job) -> tuple[Any, float]:
    """What an undisturbed run ends with, and the seconds that it takes."""
    with tempfile.TemporaryDirectory() as place:
        began, process = time.monotonic(), finish(start(job, Path(place)))
        if process.returncode:
            raise RuntimeError(f"{job.name} fails by itself: {process.stderr[-500:]}")
        return job.results(Path(place)), time.monotonic() - began
