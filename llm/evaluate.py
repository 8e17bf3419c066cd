#!/usr/bin/env python
"""Evaluate a model, with what was trained on it, on the benchmarks of the paper.

Two protocols:

  harness   lm-evaluation-harness: likelihood of the options, without examples; HellaSwag with ten. Also SuperGLUE and
            Natural Questions.
  paper     generated answers, matched with the options as text (llm/evaluation/protocol.py); HellaSwag as above. The
            oracle ceiling is what the matching would give a model that always writes the right option.

Data come from the Hugging Face hub, or from local files (--data) as their authors publish them, of which
llm/evaluation/published.py has the names; HellaSwag's ten examples then come from its training file, or, where there is
none, from the other test items. Answers are kept as they come: a run that was stopped goes on where it was, with the
same scores. Items whose prompts do not fit the model's context are counted; the harness scores them on what is left of
the prompt, the paper protocol as wrong, and both also give the accuracy without them.
"""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import argparse
from collections.abc import Sequence
from typing import Any

from common.arguments import Parser, folder, run
from common.paths import SCRATCH, label
from llm.evaluation.settings import DECODINGS, PUBLISHED, TASKS
from llm.options import MEMORY, add_model_arguments, check_least

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

    def work() -> None:
        from llm.evaluation.run import evaluate  # torch is not needed before
        from llm.methods.loading import quiet

        quiet()
        print(table(evaluate(a)))

    return run("evaluate.py", work, memory=MEMORY)


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
    p.add_argument("--data", type=folder, metavar="DIR", help="folder with local data files (the hub)")
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
    p.add_argument(
        "--out", type=folder, metavar="DIR", help="folder of the results (results/scratch/llm/evaluation/...)"
    )
    p.add_argument("--fresh", action="store_true", help="remove earlier results of this protocol in that folder first")
    a = p.parse_args(argv)
    a.tasks = list(dict.fromkeys(a.tasks or PUBLISHED[a.protocol]))
    if unknown := [name for name in a.tasks if name not in TASKS[a.protocol]]:
        p.error(f"the {a.protocol} protocol has no task {unknown[0]!r}; it has {', '.join(TASKS[a.protocol])}")
    check_least(p, a, 1, "limit", "max_new_tokens", "batch_size")
    check_least(p, a, 0, "seed")
    if a.out is None:
        parts = [label(source).replace("/", "-") for source in (a.model, a.adapter) if source]
        a.out = SCRATCH / "llm" / "evaluation" / "+".join(parts)
    return a


if __name__ == "__main__":
    sys.exit(main())
