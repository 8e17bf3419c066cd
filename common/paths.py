"""Absolute folders of the project, so that every command works from any working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SCRATCH = RESULTS / "scratch"
FIGURES = ROOT / "figures" / "out"
NOTEBOOKS = ROOT / "notebooks"


def label(source: str | Path) -> str:
    """What a record calls a source: a hub id as it is, a path by that in the project, else by its last two names."""
    path = Path(source).expanduser().resolve()
    if not path.exists():
        return str(source)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else "/".join(path.parts[-2:])
