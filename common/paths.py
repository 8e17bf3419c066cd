"""Absolute folders of the project, so that every command works from any working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SCRATCH = RESULTS / "scratch"
FIGURES = ROOT / "figures" / "out"
NOTEBOOKS = ROOT / "notebooks"
