"""The rule for the paper's claims: by hand, against an independent t test, and on made-up tables."""

import numpy as np
import pytest
from scipy import stats

from llm.world import claims


def rows(accuracy, ablation="", world="0", setting=""):
    """Rows from {(arm, fraction, seed): accuracy}."""
    return [
        {"arm": arm, "fraction": str(f), "seed": str(s), "accuracy": str(a), "ablation": ablation, "world": world}
        | {"setting": setting}
        for (arm, f, s), a in accuracy.items()
    ]


def made_up(gain, growth=0.0, noise=0.0, seeds=5, arms=("linear", "random_init")):
    rng = np.random.default_rng(0)
    table = {}
    for f in (0.01, 0.1, 1.0):
        for s in range(seeds):
            common = rng.normal()  # the subset of the data, shared by both arms
            table[arms[1], f, s] = 0.5 + common
            table[arms[0], f, s] = 0.5 + common + gain - growth * np.log10(f) + noise * rng.normal()
    return rows(table)


def test_interval_is_that_of_a_paired_t_test():
    table = made_up(0.1, noise=0.05)
    fractions, seeds, difference = claims.differences(table, "linear", "random_init")
    assert fractions == [0.01, 0.1, 1.0]
    assert seeds == [0, 1, 2, 3, 4]
    value, low, high = claims.interval(difference.mean(1))
    accuracy = {(r["arm"], float(r["fraction"]), int(r["seed"])): float(r["accuracy"]) for r in table}
    first, second = (
        [np.mean([accuracy[arm, f, s] for f in fractions]) for s in seeds] for arm in ("linear", "random_init")
    )
    test = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (low, high) == pytest.approx((test.low, test.high), abs=1e-12)
    assert value == pytest.approx(np.mean(first) - np.mean(second))


def test_growth_is_the_slope_of_a_fitted_line():
    fractions = [0.01, 0.1, 0.3, 0.5, 1.0]
    table = np.random.default_rng(1).normal(size=(4, 5))
    literal = [np.polyfit(-np.log10(fractions), row, 1)[0] for row in table]
    assert claims.growth(fractions, table) == pytest.approx(literal, abs=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.001, 0.5, "holds"),
        (-0.001, 0.5, "not resolved"),
        (-0.1, 0.019, "does not hold"),
        (-0.3, -0.1, "does not hold"),
        (0.001, 0.019, "holds"),
        (float("nan"), float("nan"), "not resolved"),
    ],
)
def test_rule(low, high, expected):
    assert claims.verdict(low, high) == expected


def test_claims_on_made_up_tables():
    def verdicts(table):
        return {(c["quantity"], c["second"]): c["verdict"] for c in claims.judge(table, [])}

    assert verdicts(made_up(0.1, noise=1e-3)) == {
        ("gain", "random_init"): "holds",
        ("growth", "random_init"): "does not hold",
    }
    assert verdicts(made_up(0.0, growth=0.2, noise=1e-3))["growth", "random_init"] == "holds"
    assert verdicts(made_up(0.0, noise=0.3))["gain", "random_init"] == "not resolved"
    assert verdicts(made_up(-0.1, noise=1e-3))["gain", "random_init"] == "does not hold"


def test_a_missing_or_diverged_run_makes_a_claim_incomplete():
    table = made_up(0.1, noise=1e-3)
    assert {c["verdict"] for c in claims.judge(table[1:], [])} == {"incomplete"}
    one_fraction = [r for r in table if r["arm"] != "linear" or r["fraction"] == "0.1"]
    assert {c["verdict"] for c in claims.judge(one_fraction, [])} == {"incomplete"}
    table[3]["accuracy"] = "nan"
    assert {c["verdict"] for c in claims.judge(table, [])} == {"incomplete"}


def test_matched_arms_and_worlds_are_judged_apart():
    pair = made_up(0.1, noise=1e-3, arms=("nonlinear", "linear"))
    matched = [r | {"ablation": "matched"} for r in made_up(0.0, noise=1e-3, arms=("x", "linear_matched"))]
    other = [r | {"ablation": "world", "world": "1"} for r in pair]
    found = claims.judge(pair, [r for r in matched if r["arm"] != "x"] + other)
    assert {(c["first"], c["second"], c["world"]) for c in found} == {
        ("nonlinear", "linear", "0"),
        ("nonlinear", "linear_matched", "0"),
        ("nonlinear", "linear", "1"),
    }


def test_regimes_are_judged_apart():
    pair = made_up(0.1, noise=1e-3, arms=("nonlinear", "linear"))
    settings = [("published_rate", "0.00225", "0"), ("published_rate", "0.00225", "1"), ("gate", "no tanh", "0")]
    settings += [("all_layers", "own best", "0"), ("all_layers", "0.00225", "0"), ("common_rate", "x", "0")]
    table = [r | {"ablation": a, "setting": s, "world": w} for a, s, w in settings for r in pair]
    found = claims.judge([], table)
    assert {(c["rates"], c["world"]) for c in found} == {
        ("as published", "0"),
        ("as published", "1"),
        ("own best, all layers", "0"),
        ("as published, all layers", "0"),
        ("one for all", "0"),
    }
    assert {c["seeds"] for c in found} == {5}


def test_file_has_a_row_per_claim(tmp_path):
    found = claims.write(tmp_path, made_up(0.1, noise=0.01), [])
    lines = (tmp_path / "claims.csv").read_text().splitlines()
    assert lines[0].split(",")[:5] == ["claim", "value", "low", "high", "verdict"]
    assert len(lines) == 1 + len(found) == 3
