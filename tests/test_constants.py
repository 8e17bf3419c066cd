"""Predicted constants of over-specified, misspecified and moving fits, against simulated fits and other routes."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from common import tables
from theory.asymptotics import information, lightest, over_specified
from theory.box import Box
from theory.constants import compare, main, mean_asymmetry, prediction
from theory.misspecified import sandwich
from theory.model import Prompts
from theory.replicate import replicate
from theory.runs import run
from theory.studies import STUDIES
from theory.tables import CONSTANTS


def ratio(study, n, count, quantity, predicted, truth=0):
    """Mean error of fits over its prediction, and the standard error of that."""
    values = np.array([replicate(study, n, r, truth)[quantity] for r in range(count)])
    values = values[~np.isnan(values)]
    return values.mean() / predicted, values.std(ddof=1) / np.sqrt(len(values)) / predicted


@pytest.mark.parametrize("seed", [7, 4711])
def test_one_prompt_more_against_fits(seed):
    """60 fits; at 4 standard errors and 4 % for terms left out, each of the six numbers fails with 6e-5."""
    study = replace(STUDIES["quarter-rate"], seed=seed, truths=1)
    constants = over_specified(study.model, study.truth, study.noise, study.box)
    n = 1000
    for quantity, power in {
        "function_error": 0.5,
        "over_prompt_error": 0.25,
        "over_prompt_error_unweighted": 0.25,
    }.items():
        found, error = ratio(study, n, 60, quantity, constants[quantity] * n**-power)
        assert abs(found - 1) < 4 * error + 0.04, (quantity, found, error)
    assert constants["squared_error_free"] > constants["squared_error"]


def test_the_box_decides_which_prompts_can_be_split():
    """Seed 7: a split of either light prompt would lift the heavy one's bias over the bound. By a grid; raw biases."""
    study = replace(STUDIES["quarter-rate"], seed=7)
    truth = study.truth
    shares = [lightest(study.model, truth, study.box, j) for j in range(3)]
    assert shares[1:] == [None, None]
    rho = np.linspace(1e-4, 0.5, 5001)
    b = np.tile(np.append(truth.b, truth.b[0]), (len(rho), 1))
    b[:, 0] += np.log(1 - rho)
    b[:, 3] += np.log(rho)
    inside = np.abs(b - b.mean(1, keepdims=True)).max(1) <= study.box.bias
    assert shares[0] == pytest.approx(rho[inside][0], abs=2e-4)
    joint = study.model.with_gate("joint")
    raw = Prompts(truth.p, truth.b)
    assert lightest(joint, raw, Box(bias=3.0), 1) == pytest.approx(np.exp(-3.0 - truth.b[1]))
    with pytest.raises(ValueError, match=r"the box must leave room to split a prompt; bias 0.1 leaves none"):
        over_specified(study.model, truth, 0.1, Box(bias=0.1))


def test_sandwich_without_misfit():
    """Where the nearest prompts are the true ones: the inverse information times nu^2."""
    study = STUDIES["under"]
    expected = 0.3**2 * np.linalg.pinv(information(study.model, study.truth), rcond=1e-8, hermitian=True)
    found = sandwich(study.model, study.truth, study.truth, 0.3)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


def test_fewer_prompts_against_fits():
    """200 fits at n = 3162; at 4 standard errors and 4 % each of the three numbers fails with 6e-5."""
    study = STUDIES["under"]
    of = prediction(study, 0)
    assert of is not None
    for quantity in ("function_error", "voronoi", "gating_error"):
        found, error = ratio(study, 3162, 200, quantity, of(3162)[quantity])
        assert abs(found - 1) < 4 * error + 0.04, (quantity, found, error)


def test_asymmetry_of_halves_against_quadrature_and_fits():
    def distance(z):
        places = np.array([np.exp(np.arcsinh(z / 2)), -np.exp(-np.arcsinh(z / 2))])
        return (np.abs(places - 1).min() + np.abs(places + 1).min()) / 2 * norm.pdf(z)

    assert mean_asymmetry() == pytest.approx(quad(distance, -8, 8, limit=200)[0], rel=3e-3)
    study = STUDIES["moving-sixth"]
    of = prediction(study, 1)
    assert of is not None
    found, error = ratio(study, 10_000, 100, "moving_prompt_error", of(10_000)["moving_prompt_error"], 1)
    assert abs(found - 1) < 4 * error + 0.04


def test_command(tmp_path, capsys):
    """Rows in, table out: ratios by hand, another study's rows kept, bad input in one line."""
    study = replace(STUDIES["exact-gelu"], sizes=(200, 1000), replicates=5, large_replicates=5)
    rows = run(study, tmp_path)
    assert main(["exact-gelu", "--results", str(tmp_path)]) == 0
    found = {(r["n"], r["quantity"]): r for r in tables.read(tmp_path / "constants.csv", CONSTANTS)}
    of = prediction(study, 0)
    assert of is not None
    mean = np.mean([float(r["voronoi"]) for r in rows if int(r["n"]) == 1000])
    assert float(found["1000", "voronoi"]["ratio"]) == pytest.approx(mean / of(1000)["voronoi"])
    assert float(found["1000", "voronoi"]["simulated"]) == pytest.approx(mean * np.sqrt(1000))
    before = (tmp_path / "constants.csv").read_text()
    assert main(["exact-mlp", "--results", str(tmp_path)]) == 2  # no rows of it: nothing changes
    assert capsys.readouterr().err.endswith(
        "has no rows of exact-mlp; `python theory/simulate.py exact-mlp` makes them\n"
    )
    assert (tmp_path / "constants.csv").read_text() == before
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert capsys.readouterr().err.endswith(
        "theory.constants: error: no study is called nothing; there are " + ", ".join(STUDIES) + "\n"
    )


def test_intervals_over_truths():
    """Two truths whose errors are 0.9 and 1.1 of their predictions: mean 1, Student's interval of two numbers."""
    study = replace(STUDIES["moving-sixth"], truths=2, sizes=(1000, 10_000), replicates=3, large_replicates=3)
    rows = []
    for n, number, truth in study.tasks():
        of = prediction(study, truth)
        assert of is not None
        error = of(n)["moving_prompt_error"] * (0.9, 1.1)[truth]
        rows.append({"n": n, "replicate": number, "truth": truth, "moving_prompt_error": error, "function_error": 1.0})
    for r in compare(study, rows):
        assert (r["ratio"], r["low"], r["high"]) == pytest.approx((1, 1 - 12.7062 * 0.1, 1 + 12.7062 * 0.1), rel=1e-4)
        assert (r["truths"], r["replicates"]) == (2, 3)
