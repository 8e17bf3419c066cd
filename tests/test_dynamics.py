"""Training from zero: steps against autograd and by hand, rates by their rule, kills and resumption, claims by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from common import tables
from theory import dynamics, stability
from theory.dynamics import LOST, data_of, main, rate_of, run_cell, score, starts, study, train
from theory.training import ARMS, CLAIMS, FULL, HALF, KEY, QUICK, RATES, ROWS, Cell

TINY = replace(FULL, n=40, truths=2, starts=2, marks=(0, 2, 5), scales=(0.1, 1.0), factors=(HALF,), tuning_truths=1)


def literal_loss(problem, x, y, theta):
    """SSE / (2 n) of the model by torch, from its definition."""
    model, L = problem.model, problem.layout.L
    p, rest = theta[: L * model.m].reshape(L, model.m), theta[L * model.m :]
    b = rest[:L]
    q = torch.tanh(p) if model.activation.name == "tanh" else p
    x, y = torch.tensor(x), torch.tensor(y)
    A, a, eta, B, C = (torch.tensor(v) for v in (model.A, model.a, model.eta, model.B, model.C))
    before = torch.einsum("ni,jik,nk->nj", x, A, x) + a
    experts = torch.einsum("joi,ni->njo", eta, x)
    scores = x @ B @ q.T + b
    if model.joint:
        w = torch.softmax(torch.cat([before, scores], 1), 1)
        f = torch.einsum("nj,njo->no", w[:, : len(a)], experts) + w[:, len(a) :] @ q @ C.T
    else:
        f = torch.einsum("nj,njo->no", torch.softmax(before, 1), experts)
        f = f + torch.tanh(rest[-1]) * torch.softmax(scores, 1) @ q @ C.T
    return ((y - f) ** 2).sum() / (2 * len(x))


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("optimiser", ["gd", "adam"])
def test_steps_against_torch(activation, arm, optimiser):
    """Five steps of torch's own optimisers on the literal loss, from two starts at once."""
    problem, true, _, at_truth = data_of(replace(TINY, seed=3), activation, ARMS[arm][0], 0)
    rng = dynamics.stream(3, "training", 0, "data")
    x, y = next(iter(problem.model.sample(true, TINY.noise, TINY.n, rng)))
    first = np.array([problem.layout.pack(s) for s in starts(replace(TINY, seed=3), arm, 1.0, 0)])
    truth = torch.tensor(problem.layout.pack(true))
    assert 2 * TINY.n * float(literal_loss(problem, x, y, truth)) == pytest.approx(at_truth, rel=1e-10)
    ends = [theta for _, theta, _, _ in train(problem, first, optimiser, 0.3, (0, 5))]
    for k, begin in enumerate(first):
        theta = torch.tensor(begin, requires_grad=True)
        kind = torch.optim.SGD if optimiser == "gd" else torch.optim.Adam
        step = kind([theta], lr=0.3)
        for _ in range(5):
            step.zero_grad()
            literal_loss(problem, x, y, theta).backward()
            step.step()
        np.testing.assert_allclose(ends[1][k], theta.detach().numpy(), rtol=1e-8, atol=1e-9)
        np.testing.assert_array_equal(ends[0][k], begin)


def test_the_start_is_the_methods_own():
    zero, gate, joint = (starts(TINY, arm, 0.1, 1) for arm in ARMS)
    assert [s.alpha for s in zero] == [0.0, 0.0]
    assert [s.alpha for s in joint] == [None, None]
    assert gate[0].alpha not in (0.0, gate[1].alpha)
    for a, b, c in zip(zero, gate, joint, strict=True):
        np.testing.assert_array_equal(a.p, b.p)
        np.testing.assert_array_equal(a.p, c.p)
    np.testing.assert_allclose(starts(TINY, "zero_init", 1.0, 1)[0].p, 10 * zero[0].p)
    problem = data_of(TINY, "identity", "zero_init", 1)[0]
    moved = [theta for _, theta, _, _ in train(problem, np.array([problem.layout.pack(zero[0])]), "gd", 1.0, (0, 1))]
    assert np.flatnonzero(moved[1][0] - moved[0][0]).tolist() == [
        problem.layout.size - 1
    ]  # the gate moves first, alone


def test_a_lost_run_stays_lost_and_leaves_the_others():
    problem = data_of(TINY, "identity", "joint", 0)[0]
    good = problem.layout.pack(starts(TINY, "random_init", 0.1, 0)[0])

    def ends(*first):
        return list(train(problem, np.array(first), "gd", 1.0, (0, 3, 20)))

    bad = good.copy()
    bad[: 3 * 2] = 1e160  # its gradient is no number
    both, alone = ends(good, bad), ends(good)
    assert not np.isfinite(both[-1][2][1])
    for pair, single in zip(both, alone, strict=True):
        np.testing.assert_array_equal(pair[1][0], single[1][0])
    wild = run_cell(TINY, Cell("identity", "random_init", "gd", 1.0, 1.0, 1e5, 0))
    last = [r for r in wild if r["step"] == 5]
    assert {r["excess"] for r in last} == {np.inf} == {r["polished"] for r in last}
    assert LOST > 1


def test_rows_of_a_cell():
    """Excess and errors of a row by their definitions; at the truth both are known."""
    cell = Cell("tanh", "zero_init", "adam", 1.0, 1.0, 0.05, 1)
    rows = run_cell(TINY, cell)
    problem, true, least, at_truth = data_of(TINY, "tanh", "zero_init", 1)
    first = np.array([problem.layout.pack(s) for s in starts(TINY, "zero_init", 1.0, 1)])
    sse = problem.at_each(first)[0]
    for k in (0, 1):
        row = next(r for r in rows if (r["start"], r["step"]) == (k, 0))
        assert row["excess"] == pytest.approx((sse[k] - least) / 0.01, rel=1e-4)
        assert row["at_truth"] == pytest.approx((at_truth - least) / 0.01, rel=1e-4)
        assert (row["gating_error"], row["peak"], row["polished"]) == (0.8, 1.0, None)
        p = first[k][:6].reshape(3, 2)
        every = [
            np.linalg.norm(p[list(order)] - true.p, axis=1).mean()
            for order in ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
        ]
        assert row["prompt_error"] == pytest.approx(min(every), rel=1e-4)
    ends = [r for r in rows if r["step"] == 5]
    assert all(r["polished"] <= r["excess"] + 1e-6 for r in ends)


def test_long_training_reaches_least_squares():
    rows = run_cell(replace(TINY, marks=(0, 3000)), Cell("identity", "random_init", "adam", 1.0, 1.0, 0.03, 0))
    assert min(r["excess"] for r in rows if r["step"] == 3000) < 1e-3


def test_the_rate_has_the_lowest_score(tmp_path):
    """And a grid is widened while its best is at an edge: scores fall towards 10^1.5 here, which no grid holds."""
    tried = []

    def each(work, todo, what):
        for setting, rate in todo:
            tried.append(rate)
            row = dict(zip(KEY[:3], setting, strict=True))
            yield row | {"rate": rate, "score": abs(np.log10(rate) - 1.5), "lost": 0.0, "runs": 1}

    rates = dynamics.tune(TINY, tmp_path / "rates.csv", each)
    assert set(rates.values()) == {rate_of(1.5)}
    assert max(tried) == rate_of(2.0)
    before = len(tried)
    assert dynamics.tune(TINY, tmp_path / "rates.csv", each) == rates
    assert len(tried) == before


def test_score_by_hand():
    setting = ("identity", "zero_init", "adam")
    found = score(TINY, setting, 0.1)
    excess = []
    for scale in TINY.scales:
        rows = run_cell(replace(TINY, seed=100), Cell(*setting, scale, 1.0, 0.1, 0))
        excess += [r["excess"] for r in rows if r["step"] == 5]
    assert found["score"] == pytest.approx(np.log10(1 + np.array(excess)).mean(), rel=1e-4)
    assert (found["lost"], found["runs"]) == (0.0, 4)
    lost = score(TINY, ("identity", "random_init", "gd"), 1e5)
    assert lost["lost"] == 1.0


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    return folder, study(TINY, folder)


def test_killed_and_resumed_rows_are_the_same(done, tmp_path, monkeypatch):
    """Killed within a cell's rows, and in the midst of a line's cell; only what is missing runs again."""
    folder, claims = done
    names = ("training.csv", "training_rates.csv", "training_claims.csv")
    for name in ("training.csv", "training_rates.csv", "training.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / "training.csv").read_text().splitlines(keepends=True)
    (tmp_path / "training.csv").write_text("".join(lines[:-9]))
    calls = []

    def counted(experiment, cell):
        calls.append(cell)
        return run_cell(experiment, cell)

    monkeypatch.setattr(dynamics, "run_cell", counted)
    assert [list(map(str, c.values())) for c in study(TINY, tmp_path)] == [list(map(str, c.values())) for c in claims]
    assert 0 < len(calls) < 5
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    record = json.loads((tmp_path / "training.json").read_text())
    assert len(record["history"]) == 2
    with pytest.raises(ValueError, match=r"is of a run with noise 0.1 \(now 0.2\); use --fresh to replace it"):
        study(replace(TINY, noise=0.2), tmp_path)


def test_tables_are_whole(done):
    folder, _ = done
    rows = tables.read(folder / "training.csv", ROWS, KEY)
    chosen = json.loads((folder / "training.json").read_text())["results"]["rates"]
    rates = {tuple(setting.split()): rate for setting, rate in chosen.items()}
    cells = TINY.cells(rates)
    assert len(rows) == sum(TINY.rows_of(c) for c in cells) == 12 * 2 * 2 * (3 + 3 + 2)
    assert all((r["polished"] != "") == (r["step"] == "5") for r in rows)
    assert all((r["gating_error"] == "") == (r["arm"] == "random_init") for r in rows)
    scores = tables.read(folder / "training_rates.csv", RATES)
    for setting, rate in rates.items():
        mine = {float(r["rate"]): float(r["score"]) for r in scores if tuple(r[c] for c in KEY[:3]) == setting}
        assert mine[rate] == min(mine.values())


def test_claims_by_hand():
    """Two truths: zero_init is good on both, the others on one; Student's interval of two numbers."""
    rows = []
    for activation in ("identity", "tanh"):
        for optimiser in ("gd", "adam"):
            for arm in ARMS:
                for truth in (0, 1):
                    for factor in (0.1, 1.0, HALF):
                        good = arm == "zero_init" or truth
                        rows.append(
                            {
                                "activation": activation,
                                "arm": arm,
                                "optimiser": optimiser,
                                "scale": "1.0",
                                "factor": factor,
                            }
                            | {
                                "truth": truth,
                                "step": 5,
                                "excess": 3.0 if good and factor >= 1 else 30.0,
                                "at_truth": 10.0,
                            }
                            | {"peak": 1.0 if good else 1.02, "polished": 0.05 if good else 0.2}
                        )
    found = stability.judge(TINY, rows)
    assert len(found) == 2 * 2 * 2 * 4
    for c in found:
        assert (c["zero_init"], c["other"], c["difference"], c["verdict"]) == (1.0, 0.5, 0.5, "not resolved")
        assert (c["low"], c["high"]) == pytest.approx((0.5 - 12.7062 * 0.5, 0.5 + 12.7062 * 0.5), rel=1e-4)
    assert (
        stability.verdict(found, "random_init")
        == "against random_init: refuted (0 of 12 claims hold, in 0 zero_init is worse)"
    )
    sure = [c | {"verdict": "holds"} for c in found]
    assert stability.verdict(sure, "random_gate").startswith("against random_gate: confirmed (12 of 12")
    sure[0] |= {"high": -0.1, "verdict": "does not hold"}
    assert stability.verdict(sure, "random_init").startswith("against random_init: mixed (11 of 12")


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dynamics, "QUICK", TINY)
    assert main(["--quick", "--workers", "1", "--out", str(tmp_path)]) == 0
    assert "zero-initialisation stabilises training, against random_init: " in capsys.readouterr().out
    assert len(tables.read(tmp_path / "training_claims.csv", CLAIMS)) == 32
    (tmp_path / "training.csv").write_text("a,b\n")
    (tmp_path / "training.csv.sha256").unlink()
    assert main(["--quick", "--workers", "1", "--out", str(tmp_path)]) == 2
    assert "training.csv is not a table of this command: its header must be activation,arm" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--workers", "0"])
    assert capsys.readouterr().err == "python -m theory.dynamics: error: --workers must be at least 1; got 0\n"


def test_quick_is_a_smaller_study():
    assert QUICK.truths < FULL.truths
    assert QUICK.seed == FULL.seed
    assert FULL.tuning_seed != FULL.seed
