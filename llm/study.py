#!/usr/bin/env python
"""The paper's comparison on a small world: sample efficiency of every arm, and what it depends on.

With --base the same on a real pre-trained model; `llm/study.py --base smollm2 --help` has its options.

Without arguments the quick twin, in minutes. Every finished run is a row of a table at once; a study that was stopped
goes on where it was. Rows depend neither on the number of workers nor on the order.
"""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # workers share the cores; one thread each also fixes the order of every sum

from collections.abc import Sequence

from common import arguments as commands
from common.arguments import CommandError, Parser, run
from common.paths import RESULTS, SCRATCH
from common.records import only_writer
from llm.real.command import main as real
from llm.world.experiments import FULL, LARGE, QUICK
from llm.world.folder import WORLDS
from llm.world.tables import TABLES

COMMITTED = RESULTS / "llm"
EXAMPLES = """examples:
  python llm/study.py                                 quick twin, to results/scratch/llm
  python llm/study.py --full                          everything, to results/llm (hours; resumes)
  python llm/study.py --full --tables tuning          the learning rates only
  python llm/study.py --size large --workers 1 --device cuda
                                                      on a larger world, to results/llm/large
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    given = sys.argv[1:] if argv is None else list(argv)
    if any(argument.partition("=")[0] == "--base" for argument in given):
        return real(given)
    parser = Parser(prog="study.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--full", action="store_true", help="the full study instead of the quick twin")
    parser.add_argument("--size", choices=("small", "large"), default="small", help="large: the world of the GPU tier")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=" ".join(TABLES))
    parser.add_argument("--workers", type=int, metavar="W", help="processes, one thread each (one a core; 1 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--worlds", type=commands.folder, default=WORLDS, metavar="DIR", help="results/llm/worlds")
    parser.add_argument("--out", type=commands.folder, metavar="DIR", help="results/scratch/llm; --full: results/llm")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of these tables")
    arguments = parser.parse_args(given)
    count = (os.cpu_count() or 1) if arguments.device == "cpu" else 1
    count = count if arguments.workers is None else arguments.workers
    if count < 1:
        parser.error(f"--workers must be at least 1; got {count}")
    large = arguments.size == "large"
    full = arguments.full or large
    folder = arguments.out or (COMMITTED / "large" if large else COMMITTED if full else SCRATCH / "llm")
    experiment = LARGE if large else FULL if full else QUICK
    worlds = arguments.worlds / "large" if large else arguments.worlds

    def work() -> None:
        import torch

        from llm.world.runs import Runner
        from llm.world.study import claim, study

        if arguments.device != "cpu" and not torch.cuda.is_available():
            raise CommandError(f"--device {arguments.device} needs a GPU, and torch sees none; leave --device out")
        with only_writer(folder):
            claim(experiment, folder, worlds, arguments.device, arguments.tables if arguments.fresh else ())
            with Runner(experiment, folder, worlds, count, arguments.device) as runner:
                study(experiment, folder, runner, arguments.tables, None if full else COMMITTED)

    return run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
