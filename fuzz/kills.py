#!/usr/bin/env python
"""Kill and interrupt commands at random moments, fill the disk, forbid to write, start two at once.

After each, what is in the folder must be whole rows only, and the same command must go on to the end that an undisturbed
run has. Writes results/reliability.json and docs/reliability.md.
"""

import os
import sys
import time
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import shutil
import tempfile
from collections.abc import Callable, Sequence

from tqdm import tqdm

from common.arguments import CommandError, Parser, run
from common.streams import stream
from fuzz import report
from fuzz.judge import Tally
from fuzz.runs import JOBS, Job, both, disturbed, ended, interrupted, left, wrong

KILLS, INTERRUPTS = 20, 10


def killed(job: Job, rng, inside: bool) -> str | None:
    """SIGKILL at a random moment, or inside the writing of a file, until it ends by itself; what is wrong then."""
    with _place(job) as folder:
        process = disturbed(job, folder, rng, inside)
        return process or wrong(job, folder)


def interrupt(job: Job, rng) -> str | None:
    """Ctrl-C twice at a random moment; then the same command again."""
    with _place(job) as folder:
        return interrupted(job, folder, rng) or wrong(job, folder)


def full(job: Job, rng) -> str | None:
    """A disk that is full; then one that is not."""
    with _place(job) as folder:
        kept = left(folder)
        process = ended(job, folder, limit=int(rng.integers(1, 40)) * 1024)
        if process.returncode != 0 and (reason := _refusal(process)):
            return reason
        if lost := [name for name in kept if name not in left(folder)]:
            return f"{lost} are lost"
        return wrong(job, folder)


def read_only(job: Job, rng) -> str | None:
    """A folder that cannot be written, by being a file's."""
    with _place(job) as folder:
        (folder / "file").write_text("of somebody")
        process = ended(job, folder / "file" / "below")
        kept = (folder / "file").read_text() == "of somebody"
        return _refusal(process) or (None if kept else "a file of somebody is changed")


def two(job: Job, rng) -> str | None:
    """The same command twice at once: one of them may be refused, and the end is that of one."""
    with _place(job) as folder:
        for process in both(job, folder):
            if process.returncode != 0 and (reason := _refusal(process)):
                return reason
        return wrong(job, folder)


class _place:
    """A folder with what a command needs, removed afterwards."""

    def __init__(self, job: Job):
        self.folder = Path(tempfile.mkdtemp(prefix=f"{job.name}-"))

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _refusal(process) -> str | None:
    """What is wrong with how a command refuses: one line, exit code 2."""
    said = [line for line in process.stderr.replace("\r", "\n").split("\n") if ": error: " in line]
    if process.returncode != 2 or "Traceback" in process.stderr or len(said) != 1:
        return f"exit code {process.returncode} after {process.stderr[-300:]!r}"
    return None


def trials(share: float) -> list[tuple[str, Callable[..., str | None], Job, tuple]]:
    """Every disturbance of every command."""

    def times(count: int) -> range:
        return range(max(1, round(share * count)))

    found: list[tuple[str, Callable[..., str | None], Job, tuple]] = []
    for job in JOBS:
        found += [(f"SIGKILL: {job.name}", killed, job, (n % 2 == 1,)) for n in times(KILLS)]
        found += [(f"Ctrl-C twice: {job.name}", interrupt, job, ()) for _ in times(INTERRUPTS)]
        found += [(f"disk full: {job.name}", full, job, ()) for _ in times(3)]
        found += [(f"not to be written: {job.name}", read_only, job, ())]
        found += [(f"two writers: {job.name}", two, job, ())]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="kills.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="entries with these words; nothing is written")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="S", help="of the trials (1); else nothing is written"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(0)")
    a = parser.parse_args(argv)

    def work() -> None:
        began, tallies = time.monotonic(), dict[str, Tally]()
        chosen = [t for t in trials(a.share) if not a.only or any(word in t[0] for word in a.only)]
        for number, (name, try_it, job, more) in enumerate(tqdm(chosen, unit="trial")):
            reason = try_it(job, stream(a.seed, "kills", name, number), *more)
            tally = tallies.setdefault(name, Tally(name))
            tally.cases += 1
            if reason:
                tally.failures.append(f"trial {number}: {reason}")
                tqdm.write(f"{name}: {reason}")
            else:
                tally.right += 1
        for tally in tallies.values():
            print(f"{tally.entry:36}{tally.cases:6} cases{tally.right:6} right{len(tally.failures):6} failures")
        if not a.only and a.share == 1:
            report.write("kills", tallies.values(), time.monotonic() - began)
        if failures := sum(len(tally.failures) for tally in tallies.values()):
            raise CommandError(f"{failures} failures")

    return run(parser.prog, work)


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.exit(main())
