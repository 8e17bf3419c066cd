"""The table of docs/reliability.md: what became of every input and every disturbance that was tried."""

from common.paths import RESULTS
from common.texts import read_json
from figures.frames import show

COMMANDS = {"inputs": "make fuzz", "kills": "make fuzz-kills"}
COUNTS = ("cases", "refused", "right", "failures")


def reliability() -> str:
    """A line for each entry, and their sums; when and how long they were tried."""
    path = RESULTS / "reliability.json"
    if not path.exists():
        return "Not run: `make fuzz` and `make fuzz-kills`."
    entries = read_json(path, "a list of entries", list)
    runs = read_json(path.with_name("reliability_runs.json"), "where the cases were tried")
    lines = [
        f"`{COMMANDS[kind]}`, seed {run['seed']}, on {run['provenance']['time'][:10]}: "
        f"{run['seconds'] / 60:.0f} minutes on {run['provenance']['cores']} cores ({run['provenance']['cpu']})."
        for kind, run in runs.items()
    ]
    total = {"entry": "**all**"} | {name: sum(entry[name] for entry in entries) for name in COUNTS}
    return "\n".join(lines) + "\n\n" + show([*entries, total])
