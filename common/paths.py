"""Absolute folders of the project, so that every command works from any working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SCRATCH = RESULTS / "scratch"
FIGURES = ROOT / "figures" / "out"
NOTEBOOKS = ROOT / "notebooks"


def label(source: str | Path) -> str:
    """What a record calls a source: a hub id as it is, a path by that in the project, or else by its name.

    Folders that finetune.py calls adapter or model, by that of their run as well.
    """
    path = Path(source).expanduser().resolve()
    if not path.exists():
        return str(source)
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).as_posix()
    return f"{path.parent.name}/{path.name}" if path.name in ("adapter", "model") else path.name
