"""Numbers in prose come from files: the tables of README.md and docs/ are what the results say."""

import pytest

from common.paths import ROOT
from figures.report import filled


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_tables_are_those_of_the_results(path):
    """If this fails, run `python figures/report.py`."""
    text = path.read_text()
    assert filled(text) == text
