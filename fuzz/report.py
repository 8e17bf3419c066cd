"""results/reliability.json and docs/reliability.md: what became of every case."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.paths import RESULTS, ROOT
from common.records import provenance, write_atomic
from common.texts import read_json
from fuzz.judge import Tally

RECORD, PAGE = RESULTS / "reliability.json", ROOT / "docs" / "reliability.md"
HEAD = """# Reliability

Two commands try what goes wrong, from fixed seeds: `make fuzz` gives generated inputs to public functions and commands and
damaged files to whatever reads them; `make fuzz-kills` kills and interrupts commands at random moments, fills the disk, and
starts two at once. This page is written by them, from `results/reliability.json`.

A case is *refused* (one line says what is wrong; nothing is changed) or *right* (the result agrees with another route, or a
resumed run ends with the same numbers as one in a piece). Anything else is a *failure*: a traceback from inside, a hang, a wrong
number, a lost row, or nonsense accepted.

| entry point | cases | refused | right | failures |
|---|---|---|---|---|
"""


def write(kind: str, tallies: Iterable[Tally], seconds: float, record: Path = RECORD, page: Path = PAGE) -> None:
    """Put the entries of a command, `inputs` or `kills`, beside those of the other."""
    entries: list[dict[str, Any]] = read_json(record, "a list of entries", list) if record.exists() else []
    kept = [entry for entry in entries if entry["kind"] != kind]
    place = provenance()
    about = {"kind": kind, "seconds": round(seconds), "time": place["time"], "commit": place["commit"]}
    new = [
        {"entry": t.entry, "cases": t.cases, "refused": t.refused, "right": t.right, "failures": len(t.failures)}
        | about
        | ({"texts": t.failures} if t.failures else {})
        for t in sorted(tallies, key=lambda t: t.entry)
    ]
    entries = sorted([*kept, *new], key=lambda entry: (entry["kind"], entry["entry"]))
    write_atomic(record, json.dumps(entries, indent=1) + "\n")
    counts = ("cases", "refused", "right", "failures")
    rows = [(e["entry"], *(e[name] for name in counts)) for e in entries]
    rows.append(("**all**", *(sum(e[name] for e in entries) for name in counts)))
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    failures = [f"- {e['entry']}: {text}" for e in entries for text in e.get("texts", ())]
    write_atomic(page, HEAD + "\n".join(lines) + "\n" + ("\n## Failures\n\n" if failures else "") + "\n".join(failures))
