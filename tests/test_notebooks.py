"""Notebooks on the committed results: every assertion in them holds, and they hold no output and little code."""

import csv
import shutil

import nbformat
import numpy as np
import pandas as pd
import pytest

from common.paths import FIGURES, NOTEBOOKS, RESULTS
from figures.draw import DrawError, execute, main
from figures.theory_figures import GATE_LOOK
from llm.world.experiments import QUICK
from tests.llm_studies import write_study
from theory.studies import STUDIES

RESULTS_OF_THEORY, RESULTS_OF_LLM = RESULTS / "theory", RESULTS / "llm"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
OF_LLM = [path for path in PATHS if "figures.llm_tables" in path.read_text()]
OF_THEORY = [path for path in PATHS if "figures.theory_tables" in path.read_text()]
ABSENT = ("exact-mlp", "over-tanh", "over-joint", "quarter-rate-6", "moving-sixth")
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def unfinished(path):
    """Studies that the notebook names and the committed rates do not have yet."""
    source = "".join(cell.source for cell in code(path))
    if "GATE_LOOK" in source:
        source += " ".join(f'"{name}"' for name in GATE_LOOK)
    rates = RESULTS_OF_THEORY / "rates.csv"
    with open(rates, newline="") as file:
        there = {row["study"] for row in csv.DictReader(file)}
    return [name for name in STUDIES if f'"{name}"' in source and name not in there]


@each
def test_notebook_holds_on_the_committed_results(path, tmp_path):
    if missing := unfinished(path):
        pytest.skip(f"results/theory has no finished {', '.join(missing)} yet")
    if path in OF_LLM and not (RESULTS_OF_LLM / "claims.csv").is_file():
        pytest.skip("results/llm has no finished study yet")
    before = path.read_bytes()
    execute(path, RESULTS_OF_THEORY, tmp_path, RESULTS_OF_LLM)
    assert path.read_bytes() == before
    assert_drawn(path, tmp_path)
    for table in tmp_path.glob("*.csv"):
        assert_same_table(table, FIGURES / table.name)


def assert_same_table(drawn, committed):
    """Equal texts, and numbers to 1e-12.

    Predicted constants are difference quotients of step 1e-6, whose rounding, 1e-10, depends on the machine.
    """
    rtol = 1e-9 if drawn.stem.startswith("exact_") else 1e-12
    drawn, committed = (pd.read_csv(path, keep_default_na=False, na_values=["nan"]) for path in (drawn, committed))
    assert list(drawn) == list(committed)
    for column in committed:
        if pd.api.types.is_float_dtype(committed[column]):
            np.testing.assert_allclose(drawn[column], committed[column], rtol=rtol)
        else:
            assert list(drawn[column]) == list(committed[column])


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] * (p.stem != "ablations"), id=p.stem) for p in OF_LLM]
)
def test_notebook_holds_on_a_quick_twin(path, tmp_path):
    """Which has neither a tuning nor ablations."""
    study, out = tmp_path / "study", tmp_path / "out"
    write_study(study, QUICK)
    execute(path, RESULTS_OF_THEORY, out, study)
    assert_drawn(path, out)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem != "over_specified_rates"), id=p.stem) for p in OF_THEORY],
)
def test_notebook_holds_where_studies_are_not_run(path, theory_folder, tmp_path):
    """On rows that no fit has made, with studies and their constants left out."""
    folder, out = tmp_path / "theory", tmp_path / "out"
    left = shutil.ignore_patterns(*(f"{name}.*" for name in ABSENT), "constants.csv")
    shutil.copytree(theory_folder, folder, ignore=left)
    execute(path, folder, out)
    assert_drawn(path, out)


@pytest.mark.slow
@pytest.mark.parametrize("path", OF_THEORY, ids=lambda path: path.stem)
def test_notebook_holds_without_any_rows(path, tmp_path):
    execute(path, tmp_path, tmp_path / "out")
    assert_drawn(path, tmp_path / "out")


def assert_drawn(path, folder):
    """Whatever was drawn is there in all formats, and a picture with the name of the notebook among it."""
    kinds = {suffix: {p.stem for p in folder.glob(f"*{suffix}")} for suffix in (".png", ".pdf", ".csv")}
    assert kinds[".png"]
    assert kinds[".png"] == kinds[".pdf"] == kinds[".csv"]
    assert path.stem in kinds[".png"]
    for picture in folder.glob("*.p*"):
        assert b"CreationDate" not in picture.read_bytes()


@each
def test_notebook_is_committed_without_outputs_and_short(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    for cell in code(path):
        assert cell.outputs == [], f"cell {cell.id} has outputs; clear them before committing"
        assert cell.execution_count is None, f"cell {cell.id} has been run; clear outputs before committing"
    assert sum(bool(line.strip()) for cell in code(path) for line in cell.source.splitlines()) <= 70


def test_there_are_notebooks():
    assert len(PATHS) >= 10
    assert len(OF_THEORY) >= 5
    assert len(OF_LLM) == 5


def test_failure_names_notebook_and_cell(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in ("x = 1", "assert x == 2, 'why'")])
    notebook.cells[1].id = "claim"
    nbformat.write(notebook, tmp_path / "broken.ipynb")
    with pytest.raises(DrawError, match=r"^broken\.ipynb, cell 2 \(claim\): AssertionError: why$"):
        execute(tmp_path / "broken.ipynb", tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no notebook is called nonsense"),
        (["--results", "nowhere"], "nowhere"),
        (["--llm-results", "nowhere"], "nowhere"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(arguments, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
