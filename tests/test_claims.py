"""The lines of a quick run: the rule, on errors made to order, and the words."""

from dataclasses import replace

import numpy as np
import pytest

from theory.claims import CLAIMS, Claim, judge, judge_all, lines
from theory.constants import prediction
from theory.studies import STUDIES
from theory.tables import QUANTITIES

STUDY = replace(STUDIES["exact-linear"], sizes=(316, 1000, 10_000), replicates=50)
CONSTANT, SLOPE = Claim("c", "exact-linear"), Claim("s", "exact-linear", "voronoi", (-0.25, 0.0))


def rows(factor=1.0, power=0.5, spread=0.2):
    """Errors n^-power times the predicted constant times a factor, by turns above and below."""
    of = prediction(STUDY, 0, 256)
    assert of is not None
    names = ("function_error", "voronoi")
    return [
        {"n": n, "replicate": r, "truth": 0}
        | {q: of(n)[q] * n ** (0.5 - power) * factor * (1 + spread * (-1) ** r) for q in names}
        for n, r, _ in STUDY.tasks()
    ]


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [(1.0, 0.2, "holds"), (1.2, 0.2, "fails"), (0.85, 0.2, "fails"), (1.0, 0.9, "too few rows")],
)
def test_constants(factor, spread, verdict):
    """Interval of 100 errors at n of 1,000 and more, by hand."""
    made = rows(factor, spread=spread)
    found = judge(CONSTANT, STUDY, made)
    of = prediction(STUDY, 0, 256)
    assert of is not None
    ratio = np.array([r["function_error"] / of(r["n"])["function_error"] for r in made if r["n"] >= 1000])
    half = 1.96 * ratio.std(ddof=1) / 10
    assert (found.measured, found.low, found.high) == pytest.approx(
        (ratio.mean(), ratio.mean() - half, ratio.mean() + half)
    )
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("power", "spread", "verdict"), [(0.5, 0.2, "holds"), (0.25, 0.2, "fails"), (0.5, 0.9, "holds")]
)
def test_slopes(power, spread, verdict):
    found = judge(SLOPE, STUDY, rows(1.0, power, spread))
    assert found.verdict == verdict
    assert found.measured == pytest.approx(-power, abs=1e-9)


def test_faster_than_a_bound_holds():
    study = replace(STUDY, theory_of="exact in q only")
    made = [
        {"n": n, "replicate": r, "truth": 0, "voronoi_q": n**-0.7 * (1 + 0.1 * (-1) ** r)} for n, r, _ in STUDY.tasks()
    ]
    claim = Claim("s", "exact-linear", "voronoi_q", (-0.25, 0.0))
    assert judge(claim, study, made).verdict == "holds"
    assert judge(claim, study, [r | {"voronoi_q": r["voronoi_q"] * r["n"] ** 0.4} for r in made]).verdict == "fails"


def test_too_few_rows_are_said_in_words():
    few = [r for r in rows() if r["n"] < 1000]
    found = judge_all({"exact-linear": (STUDY, few)})
    assert [j.verdict for j in found] == ["too few rows from n = 1000 on"]
    assert "too few rows from n = 1000 on" in lines(found)
    assert lines([]) == ""


def test_over_specified_constants_lie_between_two_laws():
    """Errors 5 % above the first law hold where the second is as far above it, and fail at 1.3."""
    study = replace(STUDIES["over-linear"], sizes=(1000, 10_000))
    of = prediction(study, 0, 256)
    assert of is not None
    for factor, verdict in ((1.04, "holds"), (1.3, "fails"), (0.9, "fails")):
        made = [
            {
                "n": n,
                "replicate": r,
                "truth": 0,
                "function_error": of(n)["function_error"] * (factor + 0.01 * (-1) ** r),
            }
            for n, r, _ in study.tasks()
        ]
        found = judge(Claim("over", "over-linear"), study, made)
        assert found.theory[0] == 1.0
        assert 1.02 < found.theory[1] < 1.15
        assert found.verdict == verdict


def test_claims_are_about_what_there_is():
    for claim in CLAIMS:
        study = STUDIES[claim.study]
        assert claim.quantity in QUANTITIES
        if claim.rivals:
            assert study.theory[claim.quantity].kind != "uniform"
            assert study.theory[claim.quantity].slope not in claim.rivals
