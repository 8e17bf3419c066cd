#!/usr/bin/env python
"""Evaluate a model, with what was trained on it, on the benchmarks of the paper.

Two protocols:

  harness   lm-evaluation-harness: likelihood of the options, without examples; HellaSwag with ten. Also SuperGLUE and
            Natural Questions.
  paper     generated answers, matched with the options as text (llm/protocol.py); HellaSwag as above. The oracle
            ceiling is what the matching would give a model that always writes the right option.

Data come from the Hugging Face hub, or from local files (--data), of which llm/tasks.py has the names; HellaSwag's ten
examples then come from its training file, or, where there is none, from the other test items. Answers are kept
as they come: a run that was stopped goes on where it was, with the same scores. Items whose prompts do not fit the
model's context are counted; the harness scores them on what is left of the prompt, the paper protocol as wrong, and
both also give the accuracy without them.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from common.arguments import Parser
from common.paths import SCRATCH, label
from llm import inference, journal, protocol, tasks
from llm.decoding import DECODINGS, Decoding
from llm.memory import out_of_memory
from llm.modules import GATE_ACTIVATIONS

SUPER_GLUE = ("boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc")
PUBLISHED = {
    "harness": ("arc_easy", "arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc1", "truthfulqa_mc2"),
    "paper": (*protocol.TASKS, "hellaswag"),
}
TASKS = {"harness": (*PUBLISHED["harness"], *SUPER_GLUE, "nq_open"), "paper": PUBLISHED["paper"]}
EXAMPLES = """examples:
  python llm/evaluate.py --model huggyllama/llama-7b --adapter runs/nonlinear/adapter
  python llm/evaluate.py --model models/llama-7b --adapter runs/nonlinear/adapter --protocol paper --data data
  python llm/evaluate.py --model models/llama-7b --adapter runs/nonlinear/adapter --protocol paper --data data \\
      --tasks truthfulqa --truthfulqa-order shuffled
  python llm/evaluate.py --model models/llama-7b --adapter runs/nonlinear/adapter --protocol paper --data data \\
      --tasks arc_easy arc_challenge mmlu truthfulqa --decoding published --gate-activation identity \\
      --out results/llm/published-evaluation    # HellaSwag was evaluated with tanh: a run of its own
  python llm/evaluate.py --model models/llama-7b --tasks boolq copa nq_open
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    a = _arguments(argv)
    inference.quiet()
    try:
        results = run(a)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _fail("out of memory; use a smaller --batch-size, or --precision bfloat16")
    except (ValueError, OSError) as error:
        return _fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        print("evaluate.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(table(results))
    return 0


def run(a: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Evaluate as the arguments say; results by task, also in OUT/PROTOCOL.json with their provenance.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        If the model, the adapter or the data cannot be had, or OUT holds a run of another configuration.
    """
    # A wrong folder shows before the model is loaded.
    data = {name: tasks.fingerprint(name, a.data) if a.data else "hub" for name in a.tasks}
    model, tokenizer = inference.load(
        a.model, a.adapter, gate_activation=a.gate_activation, precision=a.precision, device=a.device
    )
    record_path, folder = a.out / f"{a.protocol}.json", a.out / a.protocol
    configuration = _configuration(a, model)
    if journal.known(record_path, configuration) is None and folder.exists():
        raise ValueError(f"{folder} must be new, or of this command, which keeps {record_path.name} beside it")
    if a.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    record = journal.claim(record_path, configuration, a.fresh)
    for task in a.tasks:
        name = f"{task}-shuffled" if task == "truthfulqa" and a.truthfulqa_order == "shuffled" else task
        if known := record["results"].get(name):
            if known["data"] != data[task]:
                raise ValueError(f"{record_path} has {name} of other data; name another --out, or begin with --fresh")
            continue
        began = time.monotonic()
        found = _evaluate(a, model, tokenizer, task, folder / f"{name}.jsonl")
        seconds = round(time.monotonic() - began, 1)
        record["results"][name] = found | {"limit": a.limit, "data": data[task], "seconds": seconds}
        journal.save(record_path, record)
        for responses in folder.glob(f"{name}.jsonl.*"):  # of the harness; every item's are in its record now
            responses.unlink()
    return record["results"]


def _evaluate(a: argparse.Namespace, model: Any, tokenizer: Any, task: str, path: Path) -> dict[str, Any]:
    if a.protocol == "harness" or task == "hellaswag":
        from llm import harness

        return harness.evaluate(model, tokenizer, task, path, data=a.data, limit=a.limit, batch_size=a.batch_size)
    items = tasks.items(task, a.data)
    preface = ""
    if task == "truthfulqa":
        preface = a.preface
        items = tasks.shuffled(items, a.seed) if a.truthfulqa_order == "shuffled" else items
    items = tasks.limited(items, a.limit)
    return protocol.evaluate(
        model, tokenizer, items, path, _decoding(a), preface=preface, batch_size=a.batch_size, name=task
    )


def _decoding(a: argparse.Namespace) -> Decoding:
    return replace(DECODINGS[a.decoding], max_new_tokens=a.max_new_tokens, seed=a.seed)


def _configuration(a: argparse.Namespace, model: Any) -> dict[str, Any]:
    found = model_configuration(a, model) | {"limit": a.limit}
    if a.protocol == "harness":
        return found
    return found | {"decoding": asdict(_decoding(a)), "truthfulqa_preface": a.preface}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Results for people; accuracies in per cent."""
    head = (
        f"{'task':22}{'n':>7}{'metric':>13}{'accuracy':>10}{'s.e.':>7}{'ceiling':>9}{'not fitting':>13}{'without':>9}"
    )
    lines = [head, "-" * len(head)]
    for name, r in results.items():
        percent = [r["accuracy"], r["standard_error"], r.get("oracle_ceiling"), r["accuracy_fitting"]]
        accuracy, error, ceiling, fitting = ("" if x is None else f"{100 * x:.2f}" for x in percent)
        lines.append(
            f"{name:22}{r['n']:7}{r['metric']:>13}{accuracy:>10}{error:>7}{ceiling:>9}{r['not_fitting']:>13}{fitting:>9}"
        )
    return "\n".join(lines)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    p = Parser(prog="evaluate.py", description=__doc__, epilog=EXAMPLES)
    add_model_arguments(p)
    p.add_argument("--protocol", choices=TASKS, default="harness", help="see above (harness)")
    p.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help=f"harness: {', '.join(TASKS['harness'])}; paper: {', '.join(TASKS['paper'])} (those of the paper)",
    )
    p.add_argument("--data", type=Path, metavar="DIR", help="folder with local data files (the hub)")
    p.add_argument("--limit", type=int, metavar="N", help="only the first N items of a task, or of a subject of MMLU")
    p.add_argument(
        "--decoding",
        choices=DECODINGS,
        default="greedy",
        help="paper: greedy, or sampling at temperature 0.1 with top-p 0.75 as published (greedy)",
    )
    p.add_argument("--max-new-tokens", type=int, default=512, metavar="T", help="paper: longest answer (512)")
    p.add_argument(
        "--truthfulqa-order",
        choices=("published", "shuffled"),
        default="published",
        help="paper: options as published, the right one always first, or in a random order (published)",
    )
    p.add_argument("--preface", default="", metavar="TEXT", help="paper: a sentence before each TruthfulQA question")
    p.add_argument("--batch-size", type=int, default=16, metavar="B", help="prompts at once (16)")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="paper: of sampling and of shuffling (0)")
    p.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (results/scratch/llm/evaluation/...)")
    p.add_argument("--fresh", action="store_true", help="remove earlier results of this protocol in that folder first")
    a = p.parse_args(argv)
    a.tasks = list(dict.fromkeys(a.tasks or PUBLISHED[a.protocol]))
    if unknown := [name for name in a.tasks if name not in TASKS[a.protocol]]:
        p.error(f"the {a.protocol} protocol has no task {unknown[0]!r}; it has {', '.join(TASKS[a.protocol])}")
    for name in ("limit", "max_new_tokens", "batch_size"):
        value = getattr(a, name)
        if value is not None and value < 1:
            p.error(f"--{name.replace('_', '-')} must be at least 1; got {value}")
    if a.seed < 0:
        p.error(f"--seed must not be negative; got {a.seed}")
    if a.out is None:
        parts = [label(source).replace("/", "-") for source in (a.model, a.adapter) if source]
        a.out = SCRATCH / "llm" / "evaluation" / "+".join(parts)
    return a


def model_configuration(a: argparse.Namespace, model: Any) -> dict[str, Any]:
    """What the numbers of a model depend on; of folders, no more than their names."""
    return {
        "model": label(a.model),
        "adapter": label(a.adapter) if a.adapter else None,
        "weights": inference.fingerprint(model),
        "gate_activation": a.gate_activation or "as trained",
        "precision": a.precision,
    }


def add_model_arguments(p: argparse.ArgumentParser) -> None:
    """Options that say which model; for every command that uses a trained one."""
    p.add_argument("--model", required=True, metavar="PATH", help="folder in Hugging Face format, or hub id")
    p.add_argument("--adapter", metavar="DIR", help="folder with what was trained on it (none: the model as it is)")
    p.add_argument(
        "--gate-activation",
        choices=GATE_ACTIVATIONS,
        help="tanh(g) or the raw g as the factor of the prompts; published: identity for ARC, MMLU and TruthfulQA, "
        "tanh for HellaSwag (as trained)",
    )
    p.add_argument("--precision", choices=inference.PRECISIONS, default="auto", help="of the model (auto: as saved)")
    p.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, ... (a GPU if there is one)")


def _fail(message: str) -> int:
    print(f"evaluate.py: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
