"""Figures of the language-model study: its claims counted by another route, its accounts, and the published numbers."""

import csv

import numpy as np
import pytest

from common import tables
from figures import llm_tables, paper_tables
from figures.frames import show
from figures.paper_numbers import ACCURACY, GAPS, TEST_SIZES, published_gaps
from llm.training import counts
from llm.world import claims
from llm.world.experiments import FULL, PROMPT_ARMS, QUICK
from llm.world.rates import common_rate
from llm.world.tables import COLUMNS
from tests.llm_helpers import data
from tests.llm_studies import best, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, FULL)
    return folder


@pytest.fixture
def measured(folder, monkeypatch):
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(folder))
    return llm_tables.load()


def change(source, target, row=0, **cells):
    """A copy of a study with other cells in one row of the main table."""
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    rows = tables.read(target / "sample_efficiency.csv", COLUMNS)
    rows[row] |= cells
    tables.write(target / "sample_efficiency.csv", rows, COLUMNS)


def test_claims_by_another_route(measured):
    again = llm_tables.recount(measured)
    assert len(again) == len(measured.claims) > 20
    for c in measured.claims.to_dict("records"):
        mine = again[c["rates"], c["world"], c["first"], c["second"], c["quantity"]]
        np.testing.assert_allclose(
            [mine[k] for k in ("value", "low", "high")], [c[k] for k in ("value", "low", "high")]
        )
        assert mine["verdict"] == c["verdict"]


def test_recount_sees_a_changed_accuracy(folder, tmp_path, monkeypatch):
    change(folder, tmp_path, accuracy="0.1")
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(tmp_path))
    measured = llm_tables.load()
    again = llm_tables.recount(measured)
    keys = ("rates", "world", "first", "second", "quantity")
    wrong = [
        c
        for c in measured.claims.to_dict("records")
        if not np.isclose(again[tuple(c[k] for k in keys)]["value"], c["value"])
    ]
    assert {(c["rates"], c["world"]) for c in wrong} == {("own best", 0)}


def test_a_run_that_diverged_makes_its_claims_incomplete(folder, tmp_path, monkeypatch):
    change(folder, tmp_path, accuracy="nan", status="diverged")
    found = claims.write(
        tmp_path, *(tables.read(tmp_path / f"{n}.csv", COLUMNS) for n in ("sample_efficiency", "ablations"))
    )
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(tmp_path))
    measured = llm_tables.load()
    incomplete = [key for key, claim in llm_tables.recount(measured).items() if claim["verdict"] == "incomplete"]
    assert len(incomplete) == sum(c["verdict"] == "incomplete" for c in found) > 0
    assert llm_tables.accounts(measured)[0]["diverged"] == 1


def test_accounts_of_a_whole_study_and_of_one_with_a_row_less(folder, measured, tmp_path, monkeypatch):
    assert measured.full
    assert all(r["missing"] == r["not asked for"] == 0 < r["runs"] for r in llm_tables.accounts(measured))
    change(folder, tmp_path, seed="77")
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(tmp_path))
    first = llm_tables.accounts(llm_tables.load())[0]
    assert (first["missing"], first["not asked for"]) == (1, 1)


def test_best_rates_are_those_that_the_accuracies_were_made_with(measured):
    found = llm_tables.best_rates(measured.tuning)
    assert {arm: float(r["best rate"]) for arm, r in found.items()} == {arm: best(arm) for arm in found}
    assert common_rate(measured.tuning.to_dict("records"), PROMPT_ARMS) == best("linear")
    assert llm_tables.tuned(measured)
    assert not any(r["at an edge"] for r in found.values())
    low = measured.tuning[measured.tuning["learning_rate"] <= best("linear")]
    assert llm_tables.best_rates(low)["linear"]["at an edge"]


def test_band_is_the_mean_over_seeds_of_the_paired_difference(measured):
    gaps_band = llm_tables.band(measured.efficiency, "nonlinear", minus="linear")
    row = gaps_band[gaps_band["fraction"] == 0.3].iloc[0]
    here = measured.efficiency[(measured.efficiency["fraction"] == 0.3) & (measured.efficiency["world"] == 0)]
    value = here.set_index(["arm", "seed"])["accuracy"].to_dict()
    gaps = [value["nonlinear", s] - value["linear", s] for s in FULL.seeds]
    assert row["value"] == pytest.approx(np.mean(gaps))
    assert row["high"] - row["value"] == pytest.approx(2.7764451 * np.std(gaps, ddof=1) / np.sqrt(5))  # t, 4 degrees


def test_no_study_says_how_to_run_one(tmp_path, monkeypatch):
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"python llm/study\.py --full"):
        llm_tables.load()


def test_quick_twin_says_not_run(tmp_path, monkeypatch):
    write_study(tmp_path, QUICK)
    monkeypatch.setenv("ZIA_LLM_RESULTS", str(tmp_path))
    measured = llm_tables.load()
    assert not measured.full
    assert measured.ablations.empty
    assert [r["runs"] for r in llm_tables.accounts(measured)[1:]] == [0] * 11
    text = show(paper_tables.accuracies(measured))
    assert "not run: `python llm/finetune.py llama-7b-lora`, then `python llm/evaluate.py" in text


def test_averages_of_the_published_tables():
    assert all(e.agrees for e in ACCURACY if e.method != "random_init")
    nonlinear = next(e for e in ACCURACY if (e.size, e.method) == ("7B", "nonlinear"))
    assert nonlinear.recomputed == pytest.approx((54.45, (54.45 + 36.95 + 76.67 + 45.04) / 4))


def test_published_gaps_between_the_prompts_are_differences():
    assert published_gaps("nonlinear", "random_init", "7B") == {1.0: 3.77, 0.5: 4.72}
    assert published_gaps("nonlinear", "linear", "7B") == {1.0: 1.72, 0.5: 2.56}
    assert published_gaps("nonlinear", "linear", "13B") == {0.01: -1.99}
    tables_gap = {e.method: e.arc for e in ACCURACY if e.size == "7B"}
    for first, second, size, fraction, points in GAPS:  # Figure 2 at 100 % is Table 2
        if (size, fraction) == ("7B", 1.0):
            assert tables_gap[first] - tables_gap[second] == pytest.approx(points, abs=0.02)


def test_parameters_of_llama():
    assert paper_tables.trainable("7B", "linear") == 30 * 10 * 4096 + 30 * 32
    assert paper_tables.trainable("13B", "nonlinear") == 3_336_240
    assert paper_tables.number("4.2M") == 4.2e6
    with pytest.raises(LookupError, match=r"no nonsense on 7B; run `python -m llm\.training\.counts`"):
        paper_tables.trainable("7B", "nonsense")


@pytest.mark.parametrize(("size", "method"), [("7b", "lora"), ("7b", "prompt_tuning"), ("13b", "nonlinear")])
def test_committed_counts_are_those_of_the_modules(size, method):
    assert counts.count(size, method)["trainable"] == paper_tables.trainable(size, method)


def test_sizes_are_counted_where_there_is_data(monkeypatch):
    monkeypatch.delenv("ZIA_DATA", raising=False)
    assert all(r["counted"].startswith("not run: `ZIA_DATA=") for r in paper_tables.sizes())
    easy, csv_file = data("arc", "ARC-Easy-Test.jsonl"), data("truthfulqa", "TruthfulQA.csv")
    monkeypatch.setenv("ZIA_DATA", str(easy.parent.parent))
    counted = {r["task"]: r["counted"] for r in paper_tables.sizes()}
    assert counted["arc_easy"] == str(len(easy.read_text().splitlines())) == str(TEST_SIZES["arc_easy"])
    with open(csv_file, newline="", encoding="utf-8-sig") as file:
        assert counted["truthfulqa"] == str(sum(1 for _ in csv.DictReader(file))) == str(TEST_SIZES["truthfulqa"])
    assert counted["mmlu"] == str(TEST_SIZES["mmlu"])
