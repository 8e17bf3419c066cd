"""CPU seconds from the shell to an answer: --help of every command, --list, tables of figures imported, figures drawn.

    python benchmarks/startup.py                     this checkout
    python benchmarks/startup.py --against FOLDER    beside it, a checkout of another commit
    python benchmarks/startup.py --idle              on an idle machine: wall seconds too

Seconds are user and system time of a process and its children, the median of runs after a first one that compiles. Both
checkouts are run as copies in a temporary folder, by the Python that runs this script, so nothing is written into them.
Rows go to results/benchmarks/startup.csv and .json, with where and when.
"""

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from common import tables
from common.arguments import Parser
from common.paths import RESULTS, ROOT
from common.records import provenance, write_atomic

TABLES = ("figures.theory_tables", "figures.llm_tables", "figures.paper_tables")
FORMER = ("figures.measured", "figures.llm", "figures.comparison")  # of the same tables, before they were renamed
SCRIPTS = (
    *(f"llm/{name}.py" for name in ("finetune", "evaluate", "generate", "pretrain", "study")),
    *("theory/simulate.py", "figures/draw.py", "figures/report.py"),
)
MODULES = {  # names now and in former commits
    "zeroinit.convert": ("zeroinit.convert", "llm.convert"),
    "zeroinit.gates": ("zeroinit.gates", "llm.gates"),
    "llm.training.counts": ("llm.training.counts",),
    "theory.cases": ("theory.cases", "theory.identifiability"),
}
COLUMNS = ("command", *(f"{kind}_seconds_{when}" for kind in ("cpu", "wall") for when in ("before", "after")))
DRAW = "figures/draw.py"
IGNORED = shutil.ignore_patterns(".git", ".venv", "__pycache__", "scratch")


def commands(folder: Path) -> dict[str, list[str]]:
    """Command by its name now -> arguments of Python in this checkout, for what it has."""
    names = TABLES if _path(folder, TABLES[0]).is_file() else FORMER
    found = {
        "import the tables of figures": ["-c", f"import {', '.join(names)}"],
        "llm/finetune.py --list": ["llm/finetune.py", "--list"],
    } | {f"{script} --help": [script, "--help"] for script in SCRIPTS}
    for module, candidates in MODULES.items():
        there = (name for name in candidates if _path(folder, name).is_file())
        commands = (name for name in there if "__main__" in _path(folder, name).read_text())
        if name := next(commands, None):
            found[f"python -m {module} --help"] = ["-m", name, "--help"]
    return found | {DRAW: [DRAW, "--out", "drawn"]}


def _path(folder: Path, module: str) -> Path:
    return folder / f"{module.replace('.', '/')}.py"


def measure(folder: Path, repeats: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each command, printed as well, in a copy of the checkout."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(folder, Path(temporary) / "copy", ignore=IGNORED)
        (copy / "drawn").mkdir()
        return {
            name: _median(copy, arguments, 1 if name == DRAW else repeats)
            for name, arguments in commands(folder).items()
        }


def _median(folder: Path, arguments: list[str], repeats: int) -> tuple[float, float]:
    runs = [_seconds(folder, arguments) for _ in range(1 + repeats)][1:]
    cpu, wall = (statistics.median(seconds) for seconds in zip(*runs, strict=True))
    print(f"{cpu:8.2f} {wall:8.2f}  {' '.join(arguments)}", flush=True)
    return cpu, wall


def _seconds(folder: Path, arguments: list[str]) -> tuple[float, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, time.perf_counter() - began


def main() -> None:
    """Command line; see `--help`."""
    parser = Parser(prog="startup.py", description=__doc__)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another commit")
    parser.add_argument("--repeats", type=int, default=3, metavar="R", help="runs of a command after the first (3)")
    parser.add_argument("--idle", action="store_true", help="nothing else runs on this machine: keep wall seconds")
    arguments = parser.parse_args()
    if arguments.against and not (arguments.against / DRAW).is_file():
        parser.error(f"--against must be a checkout of this project; {arguments.against} has no {DRAW}")
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1; got {arguments.repeats}")
    before = measure(arguments.against.resolve(), arguments.repeats) if arguments.against else {}
    after = measure(ROOT, arguments.repeats)
    rows = []
    for name in after:
        then, now = (seconds.get(name, (None, None)) for seconds in (before, after))
        row = {"command": name, "cpu_seconds_before": then[0], "cpu_seconds_after": now[0]}
        wall = {"wall_seconds_before": then[1], "wall_seconds_after": now[1]}
        row |= wall if arguments.idle else dict.fromkeys(wall)
        rows.append({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    former = _commit(arguments.against) if arguments.against else None
    folder = RESULTS / "benchmarks"
    tables.write(folder / "startup.csv", rows, COLUMNS)
    record = {"rows": rows, "before": former, "repeats": arguments.repeats, "provenance": provenance()}
    write_atomic(folder / "startup.json", json.dumps(record, indent=1) + "\n")


def _commit(folder: Path) -> str | None:
    run = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return run.stdout.strip() or None


if __name__ == "__main__":
    main()
