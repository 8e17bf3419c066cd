"""llm/study.py with an experiment that takes seconds: `python fuzz/small_study.py WORLDS OUT`."""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
os.environ["OMP_NUM_THREADS"] = "1"

from dataclasses import replace

from common.arguments import run
from common.records import only_writer
from llm.world.experiments import QUICK

SMALL = replace(
    QUICK, steps=6, batch_size=4, fractions=(0.5, 1.0), arms=("linear", "random_init"), exponents=(-2.0, -1.0)
)


def work() -> None:
    """As the command does."""
    from llm.world.runs import Runner
    from llm.world.study import claim, study

    worlds, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with only_writer(folder):
        claim(SMALL, folder, worlds)
        with Runner(SMALL, folder, worlds, 2, "cpu") as runner:
            study(SMALL, folder, runner)


if __name__ == "__main__":
    sys.exit(run("study.py", work))
