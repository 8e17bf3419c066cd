"""The commands that `fuzz.kills` disturbs, small enough to end in seconds, and how it disturbs them."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from common import tables
from common.paths import ROOT
from common.texts import parse_json

TIME = ("seconds", "time", "history", "checksum", "provenance")  # what two equal runs may differ in
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
        Folder -> what must be the same in the end, without times.
    """

    name: str
    words: Callable[[Path], list[str]]
    results: Callable[[Path], Any]


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table, every one of which must be whole."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as file:
        columns = file.readline().rstrip("\n").split(",")
    return [{name: cell for name, cell in row.items() if name not in TIME} for row in tables.read(path, columns)]


def _without_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_time(part) for name, part in value.items() if name not in TIME}
    return [_without_time(part) for part in value] if isinstance(value, list) else value


def _json(path: Path) -> Any:
    return _without_time(parse_json(path.read_text(encoding="utf-8"), path)) if path.exists() else None


@cache
def base() -> Path:
    """A tiny base with its world, its instructions and three questions of ARC."""
    sys.path[:0] = [str(ROOT)]
    from fuzz.lines import places

    made = places()
    folder = Path(made["BASE"])
    shutil.copytree(made["TASKS"], folder / "tasks")
    text = (folder / "tasks" / "ARC-Easy-Test.jsonl").read_text().splitlines()[0]
    items = [json.dumps(json.loads(text) | {"id": f"q{n}"}) for n in range(60)]
    (folder / "tasks" / "ARC-Easy-Test.jsonl").write_text("\n".join(items) + "\n")
    worlds = folder.parent / "worlds"
    shutil.copytree(folder, worlds / "0")
    return folder


def _simulate(folder: Path) -> list[str]:
    sizes = ["--sizes", "50", "100", "200", "--replicates", "30", "--workers", "2"]
    return ["theory/simulate.py", "exact-linear", *sizes, "--out", str(folder / "out")]


def _finetune(folder: Path) -> list[str]:
    words = [
        "--model",
        str(base()),
        "--data",
        str(base() / "instructions.json"),
        "--set",
        "layers=2",
        "--validation",
        "4",
    ]
    words += ["--steps", "60", "--batch-size", "4", "--checkpoint-every", "5", "--evaluate-every", "20"]
    return [
        "llm/finetune.py",
        "mini-nonlinear",
        *words,
        "--out",
        str(folder / "out"),
        "--result",
        str(folder / "r.json"),
    ]


def _evaluate(folder: Path) -> list[str]:
    words = ["--model", str(base()), "--data", str(base() / "tasks"), "--protocol", "paper", "--tasks", "arc_easy"]
    return [
        "llm/evaluate.py",
        *words,
        "--max-new-tokens",
        "30",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--out",
        str(folder / "out"),
    ]


def _study(folder: Path) -> list[str]:
    """The quick twin takes minutes; this one has its arms and steps cut by `fuzz.small_study`."""
    return ["fuzz/small_study.py", str(base().parent / "worlds"), str(folder / "out")]


def _adapter(folder: Path) -> Any:
    path = folder / "out" / "adapter" / "adapter_model.safetensors"
    return path.read_bytes() if path.exists() else None


JOBS = (
    Job("simulate", _simulate, lambda folder: _rows(folder / "out" / "exact-linear.csv")),
    Job("finetune", _finetune, lambda folder: (_adapter(folder), _json(folder / "out" / "run.json"))),
    Job("evaluate", _evaluate, lambda folder: _json(folder / "out" / "paper.json")),
    Job("study", _study, lambda folder: [_rows(folder / "out" / f"{n}.csv") for n in ("tuning", "sample_efficiency")]),
)


def start(job: Job, folder: Path, limit: int | None = None) -> subprocess.Popen:
    """Start it in a group of its own; `limit`: no file may become longer, as on a full disk."""

    def before() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails with an error
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *job.words(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )


def finish(process: subprocess.Popen) -> subprocess.CompletedProcess:
    """Wait for its end."""
    _, error = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, "", error)


def ended(job: Job, folder: Path, limit: int | None = None) -> subprocess.CompletedProcess:
    """Run it to its end."""
    return finish(start(job, folder, limit))


@cache
def reference(job: Job) -> tuple[Any, float]:
    """What an undisturbed run ends with, and the seconds that it takes."""
    folder, began = Path(tempfile.mkdtemp(prefix=f"{job.name}-whole-")), time.monotonic()
    process = ended(job, folder)
    if process.returncode:
        raise RuntimeError(f"{job.name} fails by itself: {process.stderr[-500:]}")
    return job.results(folder), time.monotonic() - began


def disturbed(job: Job, folder: Path, rng, inside: bool) -> str | None:
    """SIGKILL once at a random moment of its time, or as soon as some file is being written; what is wrong then."""
    process, seconds = start(job, folder), reference(job)[1]
    watch = threading.Thread(target=process.communicate, daemon=True)
    watch.start()
    end = time.monotonic() + rng.uniform(0.1, 0.95) * seconds
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    while inside and process.poll() is None and not any(folder.rglob("*.tmp")) and time.monotonic() < end + seconds:
        pass  # a file is written under this name before it takes its place
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    watch.join(60)
    if psutil.wait_procs(children, timeout=20)[1]:
        return "workers outlive a killed command"
    return _whole(job, folder)


def interrupted(job: Job, folder: Path, rng) -> str | None:
    """Ctrl-C twice at a random moment; what is wrong with its end."""
    process = start(job, folder)
    time.sleep(rng.uniform(0.3, 0.9) * reference(job)[1])
    if process.poll() is not None:
        finish(process)
        return None
    children, began = psutil.Process(process.pid).children(recursive=True), time.monotonic()
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.4)
    done = finish(process)
    seconds = time.monotonic() - began
    if "Traceback" in done.stderr or "leaked" in done.stderr or done.returncode not in (0, 130):
        return f"exit code {done.returncode} after {done.stderr[-300:]!r}"
    if psutil.wait_procs(children, timeout=5)[1] or seconds > 10:
        return f"takes {seconds:.0f} s to end, or leaves workers"
    return _whole(job, folder)


def both(job: Job, folder: Path) -> Sequence[subprocess.CompletedProcess]:
    """Two at once."""
    processes = [start(job, folder) for _ in range(2)]
    return [finish(process) for process in processes]


def left(folder: Path) -> dict[str, int]:
    """Files and their sizes."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def wrong(job: Job, folder: Path) -> str | None:
    """What is wrong when the same command goes on to its end."""
    process = ended(job, folder)
    if process.returncode:
        return f"does not go on: exit code {process.returncode} after {process.stderr[-300:]!r}"
    return None if job.results(folder) == reference(job)[0] else "ends with other results than an undisturbed run"


def _whole(job: Job, folder: Path) -> str | None:
    try:
        job.results(folder)
    except ValueError as error:
        return f"a file is not whole: {error}"
    return None
