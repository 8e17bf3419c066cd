#!/usr/bin/env python
"""Pre-train the base model of a small world, and write it with its tokenizer and its instruction set.

The committed bases under results/llm/worlds were made by this command. It shows progress, can be killed at any moment
and goes on from its last checkpoint.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

from collections.abc import Sequence
from dataclasses import asdict, fields

from common import arguments as commands
from common import seals
from common.arguments import CommandError, Parser
from common.records import only_writer
from llm.world.folder import CONFIG_NAME, WORLDS, Pretraining
from llm.world.world import World

EXAMPLES = """examples:
  python llm/pretrain.py                          world 0, to results/llm/worlds/0
  python llm/pretrain.py --seed 1                 another world
  python llm/pretrain.py --train 4000 --validation 200 --test 500 --asked 2000 --hidden 512 --layers 12 --heads 8
      --steps 20000 --out results/llm/worlds/large/0  the world of the GPU tier (about 40 million parameters)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="pretrain.py", description=__doc__, epilog=EXAMPLES)
    for kind in (World, Pretraining):
        for field in fields(kind):
            option = "--" + field.name.replace("_", "-")
            parser.add_argument(option, type=type(field.default), default=field.default, help=f"{field.default}")
    parser.add_argument("--out", type=commands.folder, metavar="DIR", help="results/llm/worlds/SEED")
    parser.add_argument("--other-rounding", action="store_true", help="go on though this machine rounds otherwise")
    parser.add_argument("--fresh", action="store_true", help="start anew instead of from the last checkpoint")
    arguments = parser.parse_args(argv)

    def work() -> None:
        world = World(**{f.name: getattr(arguments, f.name) for f in fields(World)})
        settings = Pretraining(**{f.name: getattr(arguments, f.name) for f in fields(Pretraining)})
        folder = arguments.out or WORLDS / str(world.seed)
        made = {"world": asdict(world), "pretraining": asdict(settings)}
        with only_writer(folder):
            if (folder / CONFIG_NAME).is_file() and not arguments.fresh:
                known = seals.unsealed(folder / CONFIG_NAME, "what a base was made from")
                if any(known.get(part) != made[part] for part in made):
                    raise CommandError(
                        f"{folder} has the base of other settings; name another --out, or replace it with --fresh"
                    )
                print(f"{folder} is there already; --fresh makes it anew")
                return
            from llm.world.pretraining import pretrain  # torch is not needed before

            curve = pretrain(world, settings, folder, arguments.fresh, arguments.other_rounding)
            print(f"{folder}: loss {curve[-1]['loss']:.4f} after {settings.steps} steps")

    return commands.run(parser.prog, work)


if __name__ == "__main__":
    sys.exit(main())
