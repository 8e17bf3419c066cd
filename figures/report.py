#!/usr/bin/env python
"""The tables of README.md and docs/, written from results/: numbers in prose come from files.

python figures/report.py          rewrite the blocks between the markers
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import numpy as np
from llm.claims import CLAIMS, ORDER, interval
from llm.experiments import ARMS, MAIN

from common import tables
from common.paths import RESULTS, ROOT
from common.records import write_atomic
from llm.study import COLUMNS as RUNS
from theory.replicate import COLUMNS
from theory.simulate import RATES
from theory.studies import QUANTITIES, STUDIES

HEADS = ("function", "D", "gate", "weights", "prompts, single", "prompts, shared cell")
ARM_WORDS = {"linear": "linear", "nonlinear": "non-linear", "random_init": "random-init"}
PAIRS = [(first, second) for first, second, _ in ORDER]
MARKS = {"consistent": "=", "faster": "<", "slower": ">", "not resolved": "?", "no theorem": ""}


def quick() -> str:
    """What the quick twins print, its last line (seconds and machine) first."""
    path = RESULTS / "quick" / "table.txt"
    if not path.exists():
        return "Not run: `python theory/simulate.py --out results/quick`."
    text = path.read_text()
    return f"In {text.splitlines()[-1]}:\n\n```\n{text}```"


def rates() -> str:
    """One line a study: slope, 95 % interval and verdict of each quantity."""
    found = {(r["study"], r["quantity"]): r for r in tables.read(RESULTS / "theory" / "rates.csv", RATES)}
    lines = ["| study | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for name in STUDIES:
        cells = [_cell(found.get((name, quantity))) for quantity in QUANTITIES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    tested = [r for r in found.values() if r["theory"]]
    covered = sum(float(r["low"]) <= float(r["theory"]) <= float(r["high"]) for r in tested)
    verdicts = Counter(r["verdict"] for r in tested)
    should = round(0.95 * len(tested))
    lines += [
        "",
        f"{covered} of {len(tested)} intervals cover the theory value ({should} should, were it the exact slope); ",
    ]
    lines[-1] += ", ".join(
        f"{verdicts[v]} {v} ({MARKS[v]})" for v in ("consistent", "faster", "slower", "not resolved")
    )
    return "\n".join([*lines[:-1], lines[-1] + "."])


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    mark = MARKS[row["verdict"]]
    return f"{float(row['slope']):.3f} [{float(row['low']):.3f}, {float(row['high']):.3f}]" + (
        f" {mark}" if mark else ""
    )


def certificates() -> str:
    """What became of every fit, and what it cost."""
    lines = ["| study | fits | converged | other | above the truth | restarted | median passes | core hours |"]
    lines.append("|---" * 8 + "|")
    for name in STUDIES:
        rows = tables.read(RESULTS / "theory" / f"{name}.csv", COLUMNS)
        if not rows:
            lines.append(f"| {name} | not run: `python theory/simulate.py {name} --full` |  |  |  |  |  |  |")
            continue
        status = Counter(r["status"] for r in rows)
        other = len(rows) - status["converged"] - status["above_truth"]
        restarted = sum(int(r["restarts"]) > 0 for r in rows)
        passes = sorted(int(r["iterations"]) for r in rows)[len(rows) // 2]
        hours = sum(float(r["seconds"]) for r in rows) / 3600
        lines.append(
            f"| {name} | {len(rows)} | {status['converged']} | {other} | {status['above_truth']} | {restarted} "
            f"| {passes} | {hours:.2f} |"
        )
    return "\n".join(lines)


def benchmarks() -> str:
    """The estimator beside its peers."""
    path = RESULTS / "benchmarks" / "estimator.json"
    if not path.exists():
        return "Not run: `make bench`."
    record = json.loads(path.read_text())
    lines = ["| | ours | peer | | ours / peer | |", "|---" * 6 + "|"]
    for r in record["rows"]:
        lines.append(
            f"| {r['case']} | {r['ours_seconds'] * 1e3:.3g} ms | {r['peer']} | {r['peer_seconds'] * 1e3:.3g} ms "
            f"| {r['ratio']:.3g} | {r['note']} |"
        )
    m = record["memory"]
    lines += ["", f"Peak memory of a fit at n = {m['n']:,}, d = {m['d']}: {m['peak_gb']} GB, {m['seconds']} s."]
    lines += [f"One thread of {record['provenance']['cpu']}."]
    return "\n".join(lines)


def attention() -> str:
    """The adapter beside PEFT's and beside the base model: every ratio, with its limit where one was set."""
    path = RESULTS / "benchmarks" / "llm_attention_cpu.json"
    if not path.exists():
        return "Not run: `make bench`."
    record = json.loads(path.read_text())
    lines = ["| | shape | measured | middle half | limit | met |", "|---" * 6 + "|"]
    for r in record["rows"]:
        if r["unit"] == "ratio":
            spread = "" if r["low"] is None else f"{r['low']:.3f} to {r['high']:.3f}"
            verdict = "" if r["limit"] is None else "yes" if r["met"] else "**no**"
            limit = "" if r["limit"] is None else r["limit"]
            lines.append(f"| {r['what']} | {r['shape']} | {r['value']:.3f} | {spread} | {limit} | {verdict} |")
    return "\n".join([*lines, "", f"{record['provenance']['cpu']}, {record['provenance']['cores']} cores."])


def arms() -> str:
    """Test accuracy of every arm at every fraction, its rate and size."""
    rows = tables.read(RESULTS / "llm" / "sample_efficiency.csv", RUNS)
    record = RESULTS / "llm" / "study.json"
    if not rows or not record.exists():
        return "Not run: `python llm/study.py --full`."
    fractions = sorted({float(r["fraction"]) for r in rows})
    lines = ["| arm | parameters | rate | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"]
    lines.append("|---" * (len(fractions) + 3) + "|")
    for name in MAIN:
        own = [r for r in rows if r["arm"] == name]
        if not own:
            continue
        cells = [_mean_and_half([float(r["accuracy"]) for r in own if float(r["fraction"]) == f]) for f in fractions]
        lines.append(
            f"| {name} | {int(own[0]['trainable']):,} | {float(own[0]['learning_rate']):g} | "
            + " | ".join(cells)
            + " |"
        )
    untuned = json.loads(record.read_text())["untuned"]
    return "\n".join(
        [
            *lines,
            "",
            f"The base before tuning: {untuned['accuracy']:.3f} (multiple choice: {untuned['multiple_choice']:.3f}, "
            f"chance {untuned['chance']:.3f}). {len({r['seed'] for r in rows})} seeds, "
            f"{rows[0]['steps']} steps a run, {_hours(rows):.1f} core hours.",
        ]
    )


def claims() -> str:
    """The paper's claims with their verdicts, those of world 0 first."""
    rows = tables.read(RESULTS / "llm" / "claims.csv", CLAIMS)
    if not rows:
        return "Not run: `python llm/study.py --full`."
    lines = ["| claim | rates | world | difference of accuracy | verdict |", "|---" * 5 + "|"]
    for r in rows:
        unit = " per tenfold" if r["quantity"] == "growth" else ""
        value = f"{float(r['value']):+.3f} [{float(r['low']):+.3f}, {float(r['high']):+.3f}]{unit}"
        lines.append(f"| {r['claim']} | {r['rates']} | {r['world']} | {value} | {r['verdict']} |")
    return "\n".join(lines)


def verdicts() -> str:
    """The gains and their verdicts, a line for each way to choose the rates and each world."""
    rows = [r for r in tables.read(RESULTS / "llm" / "claims.csv", CLAIMS) if r["quantity"] == "gain"]
    if not rows:
        return "Not run: `python llm/study.py --full`."
    found = {(r["rates"], r["world"], r["first"], r["second"]): r for r in rows}
    lines = ["| rates | world | " + " | ".join(f"{ARM_WORDS[a]} over {ARM_WORDS[b]}" for a, b in PAIRS) + " |"]
    lines.append("|---" * (len(PAIRS) + 2) + "|")
    for rates, world in dict.fromkeys((r["rates"], r["world"]) for r in rows):
        cells = [_verdict(found.get((rates, world, *pair))) for pair in PAIRS]
        lines.append(f"| {rates} | {world} | " + " | ".join(cells) + " |")
    lines += [""] + [
        f"{r['claim'].capitalize()}: {_verdict(r)}." for r in rows if "matched" in r["first"] + r["second"]
    ]
    return "\n".join(lines)


def _verdict(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['verdict']}: {float(row['value']):+.3f} [{float(row['low']):+.3f}, {float(row['high']):+.3f}]"


def ablations() -> str:
    """Mean test accuracy of every setting of every ablation, a column for each fraction."""
    rows = tables.read(RESULTS / "llm" / "ablations.csv", RUNS)
    if not rows:
        return "Not run: `python llm/study.py --full`."
    fractions = sorted({float(r["fraction"]) for r in rows})
    groups: dict[tuple, list[dict]] = {}
    for r in rows:
        groups.setdefault((r["ablation"], r["setting"], r["world"], list(ARMS).index(r["arm"])), []).append(r)
    lines = ["| ablation | setting | world | arm | rate | seeds | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"]
    lines.append("|---" * (len(fractions) + 6) + "|")
    for (ablation, setting, world, arm), own in groups.items():
        by = {f: [float(r["accuracy"]) for r in own if float(r["fraction"]) == f] for f in fractions}
        cells = " | ".join(_mean_and_half(values) if values else "" for values in by.values())
        start = f"| {ablation} | {setting} | {world} | {list(ARMS)[arm]} | {float(own[0]['learning_rate']):g} "
        lines.append(f"{start}| {len({r['seed'] for r in own})} | {cells} |")
    return "\n".join([*lines, "", f"{len(rows)} runs, {_hours(rows):.1f} core hours."])


def _mean_and_half(values: list[float]) -> str:
    mean, low, high = interval(np.array(values))
    return f"{mean:.3f} ± {(high - low) / 2:.3f}"


def _hours(rows: list[dict]) -> float:
    return sum(float(r["seconds"]) for r in rows) / 3600


def batches() -> str:
    """Tokens and time of an epoch in batches of similar length and in packed ones, over padding to 512."""
    path = RESULTS / "benchmarks" / "llm_data.json"
    if not path.exists():
        return "Not run: `make bench`."
    lines = ["| | measured | lowest and highest | limit | met | |", "|---" * 6 + "|"]
    for r in json.loads(path.read_text())["rows"]:
        size = r["value"]
        value = (f"{size:,.0f}" if size >= 1e4 else f"{size:.4g}") + ("" if r["unit"] == "ratio" else f" {r['unit']}")
        spread = "" if r["low"] is None else f"{r['low']:.4g} to {r['high']:.4g}"
        limit = "" if r["limit"] is None else f"{r['sense']} {r['limit']:g}"
        met = "" if r["met"] is None else "yes" if r["met"] else "**no**"
        lines.append(f"| {r['what']} | {value} | {spread} | {limit} | {met} | {r['detail']} |")
    return "\n".join(lines)


def real() -> str:
    """A really pre-trained small model, tuned on real Alpaca rows and evaluated on real items by both protocols."""
    folders = {name: RESULTS / "llm" / f"stories-{name}" for name in ("linear", "nonlinear")}
    paths = [*(f.with_suffix(".json") for f in folders.values()), *(f / "harness.json" for f in folders.values())]
    paths += [f / "paper.json" for f in folders.values()]
    if not all(path.exists() for path in paths):
        return "Not run: the commands above."
    (one, other), harness, paper = ([json.loads(p.read_text())["results"] for p in paths[i : i + 2]] for i in (0, 2, 4))
    data, losses = one["data"], [r["curve"][-1] for r in (one, other)]
    lines = [
        f"{data['rows']:,} rows to train on: {data['kept']:,} kept, {data['skipped']} skipped (prompt too long), "
        f"{data['truncated']:,} cut. Held-out loss after an epoch: "
        + ", ".join(f"{row['held_out_loss']:.3f} ({name})" for name, row in zip(folders, losses, strict=True))
        + ".",
        "",
        "| protocol | task | items | do not fit | linear | non-linear | oracle ceiling |",
        "|---" * 7 + "|",
    ]
    for protocol, (first, second) in (("harness", harness), ("paper", paper)):
        for task, r in first.items():
            scores = [f"{100 * x['accuracy']:.2f} ± {100 * x['standard_error']:.2f}" for x in (r, second[task])]
            ceiling = f"{100 * r['oracle_ceiling']:.2f}" if "oracle_ceiling" in r else ""
            cells = (protocol, task, f"{r['n']:,}", f"{r['not_fitting']:,}", *scores, ceiling)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


BLOCKS = {
    f.__name__: f
    for f in (quick, rates, certificates, benchmarks, attention, arms, verdicts, claims, ablations, batches, real)
}


def filled(text: str) -> str:
    """The text with every block between `<!-- NAME -->` and `<!-- /NAME -->` written anew."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            block = make()
            text = pattern.sub(lambda m, block=block: m[1] + block + "\n" + m[2], text)
    return text


def main() -> None:
    """Rewrite the blocks of README.md and docs/."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        if filled(text) != text:
            write_atomic(path, filled(text))
            print(f"updated {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
