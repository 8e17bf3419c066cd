"""Numbers in prose come from files: the tables of README.md and docs/ are what the results say."""

import subprocess
import sys

import pytest

from common.paths import ROOT
from figures import report

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_tables_are_those_of_the_results(path):
    """If this fails, run `python figures/report.py`."""
    text = path.read_text()
    assert report.filled(text) == text


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project whose README has one table that is out of date; results are the committed ones."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- rates -->\nold\n<!-- /rates -->\nafter\n")
    (tmp_path / "docs" / "no-table.md").write_text("text\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return tmp_path


def test_check_says_what_differs_and_writes_nothing(folder, capsys):
    before = (folder / "README.md").read_bytes()
    assert report.main(["--check"]) == 1
    assert capsys.readouterr().err == "README.md does not say what results/ says; run `python figures/report.py`\n"
    assert (folder / "README.md").read_bytes() == before


def test_after_writing_there_is_nothing_to_write(folder, capsys):
    assert report.main([]) == 0
    assert capsys.readouterr().out == "updated README.md\n"
    assert "\n| exact-linear | -0.503 [" in (folder / "README.md").read_text()
    assert report.main(["--check"]) == 0
    assert report.main([]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("script", ["report.py", "draw.py"])
def test_help_writes_nothing_and_does_not_wait_for_torch(script):
    """Python's -X importtime lists every module that was imported."""
    command = [sys.executable, "-X", "importtime", f"figures/{script}", "--help"]
    state = {path: path.stat().st_mtime_ns for path in [*DOCUMENTS, *(ROOT / "figures" / "out").iterdir()]}
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"usage: {script}")
    assert not any(line.split()[-1] in ("torch", "transformers", "numba") for line in run.stderr.splitlines())
    assert {path: path.stat().st_mtime_ns for path in state} == state
