#!/usr/bin/env python
"""Kill and interrupt commands at random moments, fill the disk, forbid to write, start two at once.

After each, what is in the folder must be whole rows only, and the same command must go on to the end that an
undisturbed run has. Writes results/reliability.json.
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import psutil
from tqdm import tqdm

from common.arguments import CommandError, Parser, run
from common.streams import stream
from fuzz import report
from fuzz.judge import Tally
from fuzz.nonsense import Random
from fuzz.runs import JOBS, PATIENCE, Job, finish, reference, start

AT_ONCE = 2  # trials
Trial = Callable[[Job, Path, Random], str | None]


def killed(job: Job, folder: Path, rng: Random, writing: bool = False) -> str | None:
    """SIGKILL at a random moment, or, from then on, as soon as some file is being written."""
    process, (_, seconds) = start(job, folder), reference(job)
    threading.Thread(target=process.communicate, daemon=True).start()  # what it says must not fill its pipe
    moment = time.monotonic() + rng.uniform(0.2, 0.95) * seconds
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.001)
    while writing and process.poll() is None and not any(p.name.endswith((".tmp", ".part")) for p in folder.rglob("*")):
        pass  # a file has such a name before it takes its place
    children = _children(process)
    process.kill()
    if psutil.wait_procs(children, timeout=20)[1]:
        return "workers outlive a killed command"
    process.wait(PATIENCE)
    return _partly(job, folder) or _goes_on(job, folder)


def killed_writing(job: Job, folder: Path, rng: Random) -> str | None:
    """SIGKILL while a file is written."""
    return killed(job, folder, rng, writing=True)


def interrupted(job: Job, folder: Path, rng: Random) -> str | None:
    """Ctrl-C twice at a random moment: to all processes, as a terminal does."""
    process = start(job, folder)
    time.sleep(rng.uniform(0.3, 0.9) * reference(job)[1])
    children, began = _children(process), time.monotonic()
    for _ in range(2):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.4)
    done, seconds = finish(process), time.monotonic() - began
    # 130 is what the command says; a process that was at its end already dies of the signal, which a shell calls 130.
    if "Traceback" in done.stderr or "leaked" in done.stderr or done.returncode not in (0, 130, -signal.SIGINT):
        return f"exit code {done.returncode} after {done.stderr[-300:]!r}"
    if psutil.wait_procs(children, timeout=5)[1] or seconds > 10:
        return f"takes {seconds:.0f} s to end, or leaves workers"
    return _partly(job, folder) or _goes_on(job, folder)


def full(job: Job, folder: Path, rng: Random) -> str | None:
    """A disk that is full; then one that is not."""
    done = finish(start(job, folder, limit=int(2 ** rng.uniform(8, 15))))
    if done.returncode == 0:  # it wrote no file as long as that
        return _goes_on(job, folder)
    return _refused(done) or _partly(job, folder) or _goes_on(job, folder) or "refused"


def read_only(job: Job, folder: Path, rng: Random) -> str | None:
    """A folder that may not be written; then one that may."""
    folder.chmod(0o555)
    done = finish(start(job, folder, powerless=True))
    left = os.listdir(folder)
    folder.chmod(0o755)
    return _refused(done) or (f"{left} are written" if left else None) or _goes_on(job, folder) or "refused"


def two(job: Job, folder: Path, rng: Random) -> str | None:
    """The same command twice at once: one of them may be refused, and the end is that of one."""
    processes = [start(job, folder) for _ in range(2)]
    ends = [finish(process) for process in processes]
    failed = [end for end in ends if end.returncode]
    if len(failed) == 2:
        return f"both are refused: {ends[0].stderr[-300:]!r}"
    wrong = _refused(failed[0]) if failed else None
    return wrong or _goes_on(job, folder) or ("refused" if failed else None)


def _children(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _refused(done: subprocess.CompletedProcess) -> str | None:
    """What is wrong with how a command refuses: one line, exit code 2."""
    said = [line for line in done.stderr.replace("\r", "\n").split("\n") if ": error: " in line]
    if done.returncode != 2 or "Traceback" in done.stderr or len(said) != 1:
        return f"exit code {done.returncode} after {done.stderr[-300:]!r}"
    return None


def _partly(job: Job, folder: Path) -> str | None:
    """What is wrong with what a stopped command has left."""
    try:
        job.results(folder)
    except ValueError as error:
        return f"a file is not whole: {error}"
    return None


def _goes_on(job: Job, folder: Path) -> str | None:
    """What is wrong when the same command goes on to its end."""
    done = finish(start(job, folder))
    if done.returncode:
        return f"does not go on: exit code {done.returncode} after {done.stderr[-300:]!r}"
    return None if job.results(folder) == reference(job)[0] else "ends with other results than an undisturbed run"


TRIALS: dict[str, tuple[Trial, int]] = {
    "SIGKILL": (killed, 10),
    "SIGKILL while a file is written": (killed_writing, 10),
    "Ctrl-C twice": (interrupted, 10),
    "full disk": (full, 3),
    "read-only folder": (read_only, 1),
    "two writers": (two, 2),
}


def tried(job: Job, name: str, number: int, seed: int) -> str:
    """One trial, in a folder of its own: right, refused (and right afterwards), or what is wrong."""
    with tempfile.TemporaryDirectory(prefix=f"{job.name}-", ignore_cleanup_errors=True) as place:
        try:
            return TRIALS[name][0](job, Path(place), stream(seed, "kills", job.name, name, number)) or "right"
        except subprocess.TimeoutExpired:
            return f"hangs for {PATIENCE} s"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="kills.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="entries with one of these; nothing is written")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="S", help="of the trials; below 1 (1) none is written"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(0)")
    a = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # if it is ignored here, commands would ignore it too

    def work() -> None:
        began, tallies = time.monotonic(), dict[str, Tally]()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            trials = {}
            for job in JOBS:
                names = {name: f"kills: {job.name}, {name}" for name in TRIALS}
                chosen = {n: e for n, e in names.items() if not a.only or any(word in e for word in a.only)}
                if chosen:
                    reference(job)
                for name, entry in chosen.items():
                    for number in range(max(1, round(a.share * TRIALS[name][1]))):
                        trials[pool.submit(tried, job, name, number, a.seed)] = entry, number
            for future in tqdm(as_completed(trials), total=len(trials), unit="trial"):
                entry, number = trials[future]
                tally = tallies.setdefault(entry, Tally(entry))
                tally.add(f"trial {number}", future.result())
        report.show(tallies.values())
        if not a.only and a.share == 1:
            report.write("kills", [*tallies.values()], a.seed, time.monotonic() - began)
        if failures := sum(len(tally.failures) for tally in tallies.values()):
            raise CommandError(f"{failures} failures")

    return run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
