"""Every code name in NOTATION.md exists, in the file that its row names."""

import importlib
import inspect
import re

import pytest

from common.paths import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "NOTATION.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and "`" in line
]


def is_module(parts: list[str]) -> bool:
    return ROOT.joinpath(*parts).with_suffix(".py").is_file()


def resolve(name: str):
    """The object of a dotted name, and its module; fields and constructor arguments of a class count as attributes."""
    parts = name.split(".")
    depth = next(n for n in (3, 2) if is_module(parts[:n]))
    module = importlib.import_module(".".join(parts[:depth]))
    found = module
    for part in parts[depth:]:
        if not hasattr(found, part) and part in inspect.signature(found).parameters:
            return inspect.signature(found).parameters[part], module
        found = getattr(found, part)
    return found, module


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_row(row):
    symbol, code, _, files, statement = row
    names = re.findall(r"`([\w.]+)`", code)
    assert symbol
    assert statement
    assert ", ".join(f"`{name}`" for name in names) == code
    modules = dict.fromkeys(resolve(name)[1].__file__ for name in names)
    assert [str(ROOT / file) for file in files.split(", ")] == list(modules)


def test_table_is_there():
    assert len(ROWS) > 30
