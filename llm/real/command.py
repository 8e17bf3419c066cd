"""`llm/study.py --base`: the paper's comparison on a real pre-trained base.

Without --full the quick version: linear and non-linear prompts on the whole sample, held-out loss and 200 items of
ARC-easy, at the rates that the full study found. docs/real.md has the protocol. Every finished run is a row of a table
at once; a study that was stopped goes on where it was, and rows do not depend on the number of workers.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common import arguments as commands
from common import tables
from common.arguments import CommandError, Parser, run
from common.paths import RESULTS, SCRATCH
from common.records import only_writer
from llm.options import check_least
from llm.real.protocol import FULL, QUICK, TABLES, Protocol

EXAMPLES = """examples:
  python llm/base.py smollm2                                          once
  python llm/study.py --base smollm2 --data DIR                       quick version, to results/scratch/llm/smollm2
  python llm/study.py --base smollm2 --data DIR --full                everything, to results/llm/smollm2
  python llm/study.py --base smollm2 --data DIR --full --tables tuning
  python llm/study.py --base smollm2 --full --device cuda --epochs 5 --seeds 5 --sample 52000 --whole-benchmarks \\
      --out results/llm/smollm2-large                                 data from the hub, at the paper's size
"""
DATA = "tatsu-lab/alpaca"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="study.py", description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--base", required=True, metavar="BASE", help="smollm2, or a folder in Hugging Face format")
    parser.add_argument(
        "--data", type=commands.folder, metavar="DIR", help="folder of alpaca*.json and benchmarks (the hub)"
    )
    parser.add_argument("--full", action="store_true", help="the full study instead of the quick version")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, metavar="TABLE", help=" ".join(TABLES))
    parser.add_argument("--workers", type=int, metavar="W", help="processes, one thread each (one a core; 1 on a GPU)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--sample", type=int, metavar="N", help=f"rows to train on ({FULL.sample})")
    parser.add_argument("--epochs", type=int, metavar="E", help=f"passes over them ({FULL.steps} steps)")
    parser.add_argument("--seeds", type=int, metavar="S", help=f"how many ({len(FULL.seeds)})")
    parser.add_argument("--whole-benchmarks", action="store_true", help="all items instead of the first ones")
    parser.add_argument("--out", type=commands.folder, metavar="DIR", help="folder of the tables")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of these tables")
    a = parser.parse_args(argv)
    check_least(parser, a, 1, "workers", "sample", "epochs", "seeds")
    protocol, name = _sized(FULL if a.full else QUICK, a), Path(a.base).name
    committed = RESULTS / "llm" / name
    folder = a.out or (committed if a.full else SCRATCH / "llm" / name)
    workers = a.workers or ((os.cpu_count() or 1) if a.device == "cpu" else 1)

    def work() -> None:
        import torch

        from common import workers as processes
        from llm.methods.loading import quiet
        from llm.real.base import find
        from llm.real.runs import Place
        from llm.real.study import Study, claim

        quiet()
        if a.device != "cpu" and not torch.cuda.is_available():
            raise CommandError(f"--device {a.device} needs a GPU, and torch sees none; leave --device out")
        trained = SCRATCH / "llm" / f"{folder.name}-{'full' if a.full else 'quick'}" / "trained"
        place = Place(str(find(a.base)), _instructions(a.data), a.device, str(trained))
        trained.mkdir(parents=True, exist_ok=True)
        data = None if a.data is None else str(a.data)
        with only_writer(folder):
            claim(folder, protocol, place, data, a.tables if a.fresh else ())
            with processes.pool(workers) as pool:
                Study(name, protocol, place, data, folder, pool, None if a.full else committed).fill(a.tables)
        print(table(folder))

    return run(parser.prog, work)


def table(folder: Path) -> str:
    """Held-out loss and scores of a study for people: means over seeds."""
    from llm.real.tables import COLUMNS

    found: dict[tuple[str, ...], list[float]] = {}
    for row in tables.read(folder / "study.csv", COLUMNS["study"]):
        key = row["arm"], row["share"], row["rate_rule"], row["learning_rate"], row["initial_scale"]
        found.setdefault(key, []).append(float(row["held_out_loss"]))
    lines = [f"{'arm':24}{'share':>6}  {'rate rule':10}{'rate':>9}{'scale':>7}{'seeds':>6}{'held-out loss':>15}"]
    for (arm, share, rule, rate, scale), losses in found.items():
        mean, share = sum(losses) / len(losses), f"{float(share):g}"
        rate = f"{float(rate):g}" if rate else ""
        lines.append(f"{arm:24}{share:>6}  {rule:10}{rate:>9}{scale:>7}{len(losses):>6}{mean:15.4f}")
    scored: dict[tuple[str, ...], list[float]] = {}
    for row in tables.read(folder / "scores.csv", COLUMNS["scores"]):
        scored.setdefault((row["arm"], row["task"], row["protocol"], row["n"]), []).append(float(row["score"]))
    lines += ["", f"{'arm':24}{'task':16}{'protocol':10}{'n':>6}{'seeds':>6}{'score':>9}"]
    for (arm, task, protocol, n), values in scored.items():
        mean = 100 * sum(values) / len(values)
        lines.append(f"{arm:24}{task:16}{protocol:10}{n:>6}{len(values):>6}{mean:9.2f}")
    return "\n".join(lines)


def _sized(protocol: Protocol, a) -> Protocol:
    changes = {"sample": a.sample, "epochs": a.epochs, "seeds": None if a.seeds is None else tuple(range(a.seeds))}
    if a.whole_benchmarks:
        changes |= {n: tuple((task, None) for task, _ in getattr(protocol, n)) for n in ("benchmarks", "generated")}
    return replace(protocol, **{name: value for name, value in changes.items() if value is not None})


def _instructions(data: Path | None) -> str:
    """The largest alpaca*.json, .jsonl or .parquet below a folder; without one, the hub's."""
    if data is None:
        return DATA
    found = [path for path in data.rglob("alpaca*") if path.suffix in (".json", ".jsonl", ".parquet")]
    if not found:
        raise CommandError(f"{data} must have the instructions, in a file alpaca*.json, in any folder below it")
    return str(max(found, key=lambda path: path.stat().st_size))
