"""results/reliability.json: what became of every case, and beside it where and when that was seen."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.paths import RESULTS
from common.records import provenance, write_atomic
from common.texts import read_json
from fuzz.judge import Tally

RECORD = RESULTS / "reliability.json"
KILLS = "kills: "  # how their entries begin


def show(tallies: Iterable[Tally]) -> None:
    """Print a line for each entry, and every failure."""
    for t in sorted(tallies, key=lambda t: t.entry):
        print(f"{t.entry:48}{t.cases:6} cases{t.refused:6} refused{t.right:6} right{len(t.failures):6} failures")
        print("".join(f"    {text}\n" for text in t.failures), end="")


def write(kind: str, tallies: Iterable[Tally], seed: int, seconds: float, record: Path = RECORD) -> None:
    """Put the entries of a command, `inputs` or `kills`, in the place of its former ones, beside those of the other."""
    entries: list[dict[str, Any]] = read_json(record, "a list of entries", list) if record.exists() else []
    kept = [entry for entry in entries if entry["entry"].startswith(KILLS) != (kind == "kills")]
    new = [
        {"entry": t.entry, "cases": t.cases, "refused": t.refused, "right": t.right, "failures": len(t.failures)}
        for t in tallies
    ]
    entries = sorted([*kept, *new], key=lambda entry: (entry["entry"].startswith(KILLS), entry["entry"]))
    write_atomic(record, json.dumps(entries, indent=1) + "\n")
    runs = record.with_name(f"{record.stem}_runs.json")
    known = read_json(runs, "where the cases were tried") if runs.exists() else {}
    failures = [f"{t.entry}: {text}" for t in tallies for text in t.failures]
    about = {"seed": seed, "seconds": round(seconds), "provenance": provenance(), "failures": failures}
    write_atomic(runs, json.dumps(known | {kind: about}, indent=1) + "\n")
