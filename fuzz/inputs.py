#!/usr/bin/env python
"""Give generated inputs to public functions and commands, and damaged files to whatever reads them.

Writes results/reliability.json. Every case is a function of seed, entry and number, so that a
failure can be tried again: `python fuzz/inputs.py --only ENTRY --case NUMBER`.
"""

import os
import sys
import time
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a wrong device is one that is not there

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any

from tqdm import tqdm

from common.arguments import CommandError, Parser, run
from common.streams import stream
from common.workers import pool
from fuzz import report
from fuzz.judge import Case, Tally, judge

FUNCTIONS, COMMANDS, FILES = 500, 400, 200  # cases of an entry
PIECE = 20  # cases of one piece of work


def sources() -> dict[str, tuple[int, Callable[[Any], Case]]]:
    """Entries by name: how many cases, and a case of a random generator."""
    from fuzz import damages, lines, of_commands, of_common, of_files, of_llm, of_studies, of_theory, of_zeroinit

    found: dict[str, tuple[int, Callable[[Any], Case]]] = {}
    rooms = of_zeroinit, of_theory, of_studies, of_llm, of_common
    for entry in (entry for room in rooms for entry in room.ENTRIES):
        found[entry.name] = round(FUNCTIONS * entry.weight), entry.case
    for command in of_commands.COMMANDS:
        found[command.name] = COMMANDS, lambda rng, command=command: lines.case(command, rng)
    for kind in of_files.KINDS:
        found[f"file: {kind.name}"] = FILES, lambda rng, kind=kind: damages.case(kind, rng)
    return found


def tried(entry: str, numbers: Sequence[int], seed: int) -> Tally:
    """Some cases of one entry."""
    import torch

    from llm.methods.loading import quiet

    quiet()
    tally, (_, case) = Tally(entry), sources()[entry]
    for number in numbers:
        torch.manual_seed(number)
        one = case(stream(seed, "fuzz", entry, number))
        tally.add(f"case {number}, {one.words}", judge(one))
    return tally


def all_of(names: Sequence[str], share: float, seed: int, workers: int) -> Iterator[Tally]:
    """Every case of these entries, in pieces, as they end."""
    counts = {name: max(1, round(share * count)) for name, (count, _) in sources().items() if name in names}
    pieces = [
        (name, range(start, min(start + PIECE, count)))
        for name, count in counts.items()
        for start in range(0, count, PIECE)
    ]
    with pool(workers) as executor, tqdm(total=sum(counts.values()), unit="case", mininterval=1) as bar:
        for future in as_completed([executor.submit(tried, name, numbers, seed) for name, numbers in pieces]):
            tally = future.result()
            bar.update(tally.cases)
            yield tally


def summed(tallies: Iterator[Tally]) -> list[Tally]:
    """One tally for each entry."""
    found: dict[str, Tally] = {}
    for one in tallies:
        total = found.setdefault(one.entry, Tally(one.entry))
        total.cases, total.refused, total.right = (
            getattr(total, name) + getattr(one, name) for name in ("cases", "refused", "right")
        )
        total.failures = sorted(total.failures + one.failures)
    return list(found.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="inputs.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="entries whose names start so; nothing is written")
    parser.add_argument("--case", type=int, metavar="NUMBER", help="one case, with its traceback; with --only")
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="S", help="of the cases; below 1 (1) none is written"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), metavar="W", help="processes (all cores)")
    a = parser.parse_args(argv)

    def work() -> None:
        names = [n for n in sources() if not a.only or n.startswith(tuple(a.only))]
        if not names:
            raise CommandError(f"no entry starts with {a.only}; there are {', '.join(sources())}")
        if a.case is not None:
            case = sources()[names[0]][1](stream(a.seed, "fuzz", names[0], a.case))
            print(case.words, case.expected)
            print(case.call())
            return
        began = time.monotonic()
        tallies = summed(all_of(names, a.share, a.seed, a.workers))
        report.show(tallies)
        if not a.only and a.share == 1:
            report.write("inputs", tallies, a.seed, time.monotonic() - began)
        if failures := sum(len(tally.failures) for tally in tallies):
            raise CommandError(f"{failures} failures")

    return run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
