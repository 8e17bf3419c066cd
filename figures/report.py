#!/usr/bin/env python
"""The tables of README.md and docs/, written from results/: numbers in prose come from files."""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from common.arguments import Parser, run
from common.paths import RESULTS, ROOT
from common.records import write_atomic
from common.texts import read_json
from figures.frames import hours, table
from figures.llm_tables import judged, runs
from figures.reliability import reliability
from figures.theory_practice import real_models_table, training_table
from figures.theory_report import certificates, constants, more_rates, quick, rates
from llm.world.claims import ORDER, interval
from llm.world.experiments import MAIN

ARM_WORDS = {"linear": "linear", "nonlinear": "non-linear", "random_init": "random-init"}
PAIRS = [(first, second) for first, second, _ in ORDER]
NO_STUDY = "Not run: `python llm/study.py --full`."


def benchmarks() -> str:
    """The estimator beside its peers."""
    path = RESULTS / "benchmarks" / "estimator.json"
    if not path.exists():
        return "Not run: `make bench`."
    record = _record(path)
    lines = []
    for r in record["rows"]:
        ours, peer = (f"{r[k] * 1e3:.3g} ms" for k in ("ours_seconds", "peer_seconds"))
        lines.append((r["case"], ours, r["peer"], peer, f"{r['ratio']:.3g}", r["note"]))
    m = record["memory"]
    return table("| | ours | peer | | ours / peer | |", lines) + (
        f"\n\nPeak memory of a fit at n = {m['n']:,}, d = {m['d']}: {m['peak_gb']} GB, {m['seconds']} s."
        f"\nOne thread of {record['provenance']['cpu']}."
    )


def attention() -> str:
    """The adapter beside PEFT's and beside the base model: every ratio, with its limit where one was set."""
    path = RESULTS / "benchmarks" / "llm_attention_cpu.json"
    if not path.exists():
        return "Not run: `make bench`."
    record = _record(path)
    lines = []
    for r in record["rows"]:
        if r["unit"] == "ratio":
            spread = "" if r["low"] is None else f"{r['low']:.3f} to {r['high']:.3f}"
            verdict = "" if r["limit"] is None else "yes" if r["met"] else "**no**"
            limit = "" if r["limit"] is None else r["limit"]
            lines.append((r["what"], str(r["shape"]), f"{r['value']:.3f}", spread, str(limit), verdict))
    where = f"{record['provenance']['cpu']}, {record['provenance']['cores']} cores."
    return table("| | shape | measured | middle half | limit | met |", lines) + f"\n\n{where}"


def arms() -> str:
    """Test accuracy of every arm at every fraction, its rate and size."""
    rows = runs(RESULTS / "llm", "sample_efficiency")
    record = RESULTS / "llm" / "study.json"
    if rows.empty or not record.exists():
        return NO_STUDY
    fractions = sorted(rows["fraction"].unique())
    lines = []
    for name in MAIN:
        own = rows[rows["arm"] == name]
        if not own.empty:
            first = own.iloc[0]
            lines.append((name, f"{first['trainable']:,}", f"{first['learning_rate']:g}", *_accuracies(own, fractions)))
    untuned = _record(record)["untuned"]
    head = "| arm | parameters | rate | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"
    return table(head, lines) + (
        f"\n\nThe base before tuning: {untuned['accuracy']:.3f} (multiple choice: {untuned['multiple_choice']:.3f}, "
        f"chance {untuned['chance']:.3f}). {rows['seed'].nunique()} seeds, "
        f"{rows['steps'].iloc[0]} steps a run, {hours(rows):.1f} core hours."
    )


def claims() -> str:
    """The paper's claims with their verdicts, those of world 0 first."""
    rows = judged(RESULTS / "llm")
    if rows.empty:
        return NO_STUDY
    lines = []
    for r in rows.to_dict("records"):
        unit = " per tenfold" if r["quantity"] == "growth" else ""
        lines.append((r["claim"], r["rates"], str(r["world"]), _interval(r) + unit, r["verdict"]))
    return table("| claim | rates | world | difference of accuracy | verdict |", lines)


def verdicts() -> str:
    """The gains and their verdicts, a line for each way to choose the rates and each world."""
    rows = judged(RESULTS / "llm")
    if rows.empty:
        return NO_STUDY
    gains = rows[rows["quantity"] == "gain"].to_dict("records")
    cells = {(r["rates"], r["world"], r["first"], r["second"]): f"{r['verdict']}: {_interval(r)}" for r in gains}
    ways = dict.fromkeys((r["rates"], r["world"]) for r in gains)
    lines = [(way[0], str(way[1]), *(cells.get((*way, *pair), "") for pair in PAIRS)) for way in ways]
    words = [
        f"{r['claim'].capitalize()}: {r['verdict']}: {_interval(r)}."
        for r in gains
        if "matched" in r["first"] + r["second"]
    ]
    head = "| rates | world | " + " | ".join(f"{ARM_WORDS[a]} over {ARM_WORDS[b]}" for a, b in PAIRS) + " |"
    return "\n".join([table(head, lines), "", *words])


def _interval(row: dict) -> str:
    return f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def ablations() -> str:
    """Mean test accuracy of every setting of every ablation, a column for each fraction."""
    rows = runs(RESULTS / "llm", "ablations")
    if rows.empty:
        return NO_STUDY
    fractions = sorted(rows["fraction"].unique())
    lines = []
    for (ablation, setting, world, arm), own in rows.groupby(["ablation", "setting", "world", "arm"], sort=False):
        start = (ablation, setting, str(world), arm, f"{own['learning_rate'].iloc[0]:g}", str(own["seed"].nunique()))
        lines.append((*start, *_accuracies(own, fractions)))
    head = "| ablation | setting | world | arm | rate | seeds | " + " | ".join(f"{f:.0%}" for f in fractions) + " |"
    return table(head, lines) + f"\n\n{len(rows)} runs, {hours(rows):.1f} core hours."


def _accuracies(rows: pd.DataFrame, fractions: Sequence[float]) -> list[str]:
    """Mean and half-width of the interval at every fraction."""
    values = {fraction: v.to_numpy() for fraction, v in rows.groupby("fraction")["accuracy"]}
    intervals = [interval(values.get(fraction, np.array([]))) for fraction in fractions]
    return ["" if np.isnan(mean) else f"{mean:.3f} ± {(high - low) / 2:.3f}" for mean, low, high in intervals]


def batches() -> str:
    """Tokens and time of an epoch in batches of similar length and in packed ones, over padding to 512."""
    path = RESULTS / "benchmarks" / "llm_data.json"
    if not path.exists():
        return "Not run: `make bench`."
    lines = []
    for r in _record(path)["rows"]:
        size = r["value"]
        value = (f"{size:,.0f}" if size >= 1e4 else f"{size:.4g}") + ("" if r["unit"] == "ratio" else f" {r['unit']}")
        spread = "" if r["low"] is None else f"{r['low']:.4g} to {r['high']:.4g}"
        limit = "" if r["limit"] is None else f"{r['sense']} {r['limit']:g}"
        met = "" if r["met"] is None else "yes" if r["met"] else "**no**"
        lines.append((r["what"], value, spread, limit, met, r["detail"]))
    return table("| | measured | lowest and highest | limit | met | |", lines)


def real() -> str:
    """A really pre-trained small model, tuned on real Alpaca rows and evaluated on real items by both protocols."""
    folders = {name: RESULTS / "llm" / f"stories-{name}" for name in ("linear", "nonlinear")}
    paths = [*(f.with_suffix(".json") for f in folders.values()), *(f / "harness.json" for f in folders.values())]
    paths += [f / "paper.json" for f in folders.values()]
    if not all(path.exists() for path in paths):
        return "Not run: the commands above."
    (one, other), harness, paper = ([_record(p)["results"] for p in paths[i : i + 2]] for i in (0, 2, 4))
    data, losses = one["data"], [r["curve"][-1] for r in (one, other)]
    held_out = ", ".join(f"{row['held_out_loss']:.3f} ({name})" for name, row in zip(folders, losses, strict=True))
    lines = []
    for protocol, (first, second) in (("harness", harness), ("paper", paper)):
        for task, r in first.items():
            scores = [f"{100 * x['accuracy']:.2f} ± {100 * x['standard_error']:.2f}" for x in (r, second[task])]
            ceiling = f"{100 * r['oracle_ceiling']:.2f}" if "oracle_ceiling" in r else ""
            lines.append((protocol, task, f"{r['n']:,}", f"{r['not_fitting']:,}", *scores, ceiling))
    return (
        f"{data['rows']:,} rows to train on: {data['kept']:,} kept, {data['skipped']} skipped (prompt too long), "
        f"{data['truncated']:,} cut. Held-out loss after an epoch: {held_out}.\n\n"
    ) + table("| protocol | task | items | do not fit | linear | non-linear | oracle ceiling |", lines)


def _record(path: Path) -> dict:
    return read_json(path, "a record of results")


THEORY = (quick, rates, more_rates, constants, certificates, training_table, real_models_table)
OF_LLM = (arms, verdicts, claims, ablations, batches, real)
BLOCKS = {f.__name__: f for f in (*THEORY, benchmarks, attention, *OF_LLM, reliability)}


def filled(text: str) -> str:
    """The text with every block between `<!-- NAME -->` and `<!-- /NAME -->` written anew."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            block = make()
            text = pattern.sub(lambda m, block=block: m[1] + block + "\n" + m[2], text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="report.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is not up to date")
    check = parser.parse_args(argv).check
    stale = 0

    def work() -> None:
        nonlocal stale
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            text = path.read_text(encoding="utf-8")
            new = filled(text)
            if new == text:
                continue
            stale += 1
            name = path.relative_to(ROOT)
            if check:
                print(f"{name} does not say what results/ says; run `python figures/report.py`", file=sys.stderr)
            else:
                write_atomic(path, new)
                print(f"updated {name}")

    return run(parser.prog, work, stopped="") or int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
