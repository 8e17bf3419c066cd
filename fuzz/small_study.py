"""llm/study.py with a full study that takes seconds: `python fuzz/small_study.py OPTIONS`."""

import os
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]
os.environ["OMP_NUM_THREADS"] = "1"

from dataclasses import replace

from llm import study
from llm.world.experiments import QUICK

study.FULL = replace(
    QUICK,
    steps=3,
    batch_size=4,
    fractions=(0.5, 1.0),
    tuning_seeds=(100,),
    exponents=(-2.0, -1.0),
    arms=("linear", "random_init"),
)

if __name__ == "__main__":
    sys.exit(study.main(["--full", *sys.argv[1:]]))
