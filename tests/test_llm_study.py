"""The study of arms: configuration, resumption, independence of workers, choice of rates, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from common import seals, tables
from common.arguments import CommandError
from common.paths import RESULTS, ROOT
from llm import study as command
from llm.methods import registry
from llm.world import folder as bases
from llm.world import pretraining, rates, runs, study
from llm.world.experiments import ARMS, FULL, LARGE, MAIN, QUICK, Cell, ablations, rate, sample_efficiency, tuning
from llm.world.folder import Pretraining
from llm.world.tables import CLAIMS, COLUMNS, CURVE, KEY, SCORES, TABLES, Table, key
from llm.world.world import World

WORLD = World(train=20, validation=3, test=5, asked=8)
TINY = replace(
    QUICK, steps=3, batch_size=4, fractions=(0.5, 1.0), arms=("linear", "random_init"), exponents=(-2.0, -1.0)
)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """A tiny base with random weights."""
    folder = tmp_path_factory.mktemp("worlds")
    settings = Pretraining(hidden=16, layers=3, heads=2)
    bases.write(pretraining.build(WORLD, settings).to(torch.bfloat16), WORLD, settings, [], folder / "0")
    return folder


def plain(path):
    """Rows without their times."""
    return [{c: v for c, v in row.items() if c != "seconds"} for row in tables.read(path, COLUMNS)]


def test_configurations_are_consistent():
    for experiment in (FULL, QUICK, LARGE):
        assert set(experiment.arms) | set(experiment.matched) <= set(ARMS)
        assert set(MAIN) == set(experiment.arms)
        assert not set(experiment.tuning_seeds) & {*experiment.seeds, *experiment.ablation_seeds}
        assert experiment.tuning_fraction in experiment.fractions or experiment is QUICK
    assert len(FULL.seeds) >= 5
    assert FULL.fractions == (0.01, 0.1, 0.3, 0.5, 1.0)
    cells = [*sample_efficiency(FULL), *ablations(FULL)]
    rates = dict.fromkeys((*ARMS, "common"), 0.1)
    assert len({key(study._with_rate(c, rates)) for c in cells}) == len(cells)


def test_matched_arms_have_as_many_parameters():
    count = {}
    for name in ("linear", "nonlinear", "linear_matched", "nonlinear_matched"):
        base = pretraining.build(World(), Pretraining())
        count[name] = registry.counts(registry.apply(base, ARMS[name].method, ARMS[name].options))["trainable"]
    assert count["linear_matched"] == pytest.approx(count["nonlinear"], rel=0.005)
    assert count["nonlinear_matched"] == pytest.approx(count["linear"], rel=0.01)


def test_every_ablation_trains(worlds):
    """One cell of each setting of each ablation, but for worlds, which this test has one of."""
    seen = {}
    for cell in ablations(FULL):
        options = {k: min(v, 3) if k == "layers" else v for k, v in cell.options.items()}
        seen.setdefault((cell.ablation, cell.setting, cell.arm), replace(cell, options=options, world=0))
    for cell in seen.values():
        row, curve = runs.run(replace(cell, learning_rate=0.01, fraction=0.1), TINY, str(worlds))
        assert row["status"] == "finished", (cell, row)
        assert 0 <= row["multiple_choice"] <= 1
        assert bool(curve) == (cell.epochs is not None)
        if cell.epochs:
            assert [point["epoch"] for point in curve] == [1, 2, 3, 4, 5]


def test_a_gate_that_is_off_does_not_train(worlds):
    gate, other = (
        runs.run(Cell("linear", 1.0, 0, 0.1, ablation="gate", setting=s, gate=g), TINY, str(worlds))[0]
        for s, g in (("on", None), ("off", 1.0))
    )
    assert other["trainable"] == gate["trainable"] - 2 * 1
    assert other["held_out_loss"] != gate["held_out_loss"]


def test_rows_do_not_depend_on_workers_and_resume(worlds, tmp_path, capsys):
    def run(folder, workers, wanted=TABLES):
        folder.mkdir(exist_ok=True)
        with runs.Runner(TINY, folder, worlds, workers, "cpu") as runner:
            study.study(TINY, folder, runner, wanted)

    run(tmp_path / "one", 1)
    first = {name: plain(tmp_path / "one" / f"{name}.csv") for name in ("tuning", "sample_efficiency")}
    assert [len(rows) for rows in first.values()][1] == 8
    assert len(first["tuning"]) >= 8
    # The second folder has been stopped in the middle of either table.
    (tmp_path / "two").mkdir()
    tables.write(
        tmp_path / "two" / "tuning.csv",
        tables.read(tmp_path / "one" / "tuning.csv", COLUMNS)[::2],
        COLUMNS,
    )
    run(tmp_path / "two", 2)
    for name, rows in first.items():
        assert plain(tmp_path / "two" / f"{name}.csv") == rows
    before = (tmp_path / "two" / "sample_efficiency.csv").read_bytes()
    run(tmp_path / "two", 2)
    assert (tmp_path / "two" / "sample_efficiency.csv").read_bytes() == before
    assert "learning rates: linear" in capsys.readouterr().out


def row_of(cell, **changes):
    """The row of a run that nobody made."""
    scores = {"accuracy": 0.5, "multiple_choice": 0.5, "held_out_loss": 1.0, "train_loss": 1.0, "status": "finished"}
    sizes = {"steps": TINY.steps, "trainable": 9, "seconds": 1.0, "rows": 7}
    return {c: getattr(cell, c) for c in KEY} | scores | sizes | changes


def fake(table, accuracies):
    """Rows of a tuning with these accuracies of (arm, rate)."""
    for (arm, learning_rate), (accuracy, loss) in accuracies.items():
        for seed in (100, 101):
            table.add(row_of(Cell(arm, 0.3, seed, learning_rate), accuracy=accuracy, held_out_loss=loss))


def test_best_rate_and_common_rate(tmp_path):
    table = Table(tmp_path, "tuning")
    curve = {("linear", 0.01): (0.5, 1.0), ("linear", 0.1): (0.7, 0.9), ("linear", 1.0): (0.7, 0.8)}
    other = {("lora", 0.01): (0.9, 0.1), ("lora", 0.1): (0.3, 1.0), ("lora", 1.0): (0.1, 2.0)}
    fake(table, curve | other)
    assert rates.best(table.rows.values(), "linear") == (1.0, True)  # a tie of accuracies, decided by the loss
    assert rates.best(table.rows.values(), "lora") == (0.01, True)
    assert rates.best(table.rows.values(), "full") is None
    assert rates.common_rate(table.rows.values(), ["linear", "lora"]) == 0.01
    table.add(row_of(Cell("linear", 0.3, 102, 1.0), status="diverged", **dict.fromkeys(SCORES, float("nan"))))
    assert rates.best(table.rows.values(), "linear") == (0.1, False)


def test_grid_is_widened_until_no_best_is_at_its_edge(worlds, tmp_path):
    class Faked:
        def fill(self, table, cells, name):
            fake(table, {(c.arm, c.learning_rate): (1 - abs(c.learning_rate - 31.6) / 1000, 1.0) for c in cells})

    experiment = replace(TINY, arms=("linear",))
    table = Table(tmp_path, "tuning")
    Faked().fill(table, tuning(experiment, experiment.exponents, "linear"), "")
    study._widen(experiment, table, Faked(), experiment.arms)
    assert rates.best(table.rows.values(), "linear") == (rate(1.5), False)
    assert max(rates._rates(table.rows.values(), "linear")) == rate(2.0)


def test_a_run_of_the_main_study_is_not_made_again(tmp_path):
    earlier, table = Table(tmp_path, "sample_efficiency"), Table(tmp_path, "ablations")
    fake(earlier, {("linear", 0.1): (0.5, 1.0)})
    cells = [
        Cell("linear", 0.3, seed, r, ablation=name, setting="x")
        for seed, r, name in ((100, 0.1, "common_rate"), (100, 0.2, "common_rate"), (101, 0.1, "layers"))
    ]
    study._reuse(table, earlier, cells)
    study._reuse(table, earlier, cells)
    assert list(table.rows) == [key(cells[0])]
    assert [r["accuracy"] for r in tables.read(table.path, COLUMNS)] == ["0.5"]


def test_a_diverged_run_is_a_row_without_a_score(worlds):
    row, _ = runs.run(Cell("full", 1.0, 0, 1e38), TINY, str(worlds))
    assert row["status"] == "diverged"
    assert row["accuracy"] != row["accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--tables", "nonsense"], "invalid choice: 'nonsense'"),
        (["--device", "cuda"], "needs a GPU"),
        (["--worlds", "nowhere"], "python llm/pretrain.py --out"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(arguments, message, capsys, tmp_path):
    if arguments[0] == "--device" and torch.cuda.is_available():
        pytest.skip("there is a GPU here, so asking for one is no error")
    try:
        code = command.main([*arguments, "--out", str(tmp_path)])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_of_another_configuration_is_refused(worlds, tmp_path):
    study.claim(TINY, tmp_path, worlds)
    study.claim(TINY, tmp_path, worlds)
    with pytest.raises(CommandError, match=r"another configuration \(steps 3 instead of 4\)"):
        study.claim(replace(TINY, steps=4), tmp_path, worlds)
    with pytest.raises(CommandError, match=r"another configuration \(device cpu instead of cuda\)"):
        study.claim(TINY, tmp_path, worlds, "cuda")
    record = json.loads((tmp_path / "study.json").read_text())
    record["bases"]["0"] = "other"
    (tmp_path / "study.json").write_text(seals.sealed(record))
    with pytest.raises(CommandError, match=r"another configuration \(base of world 0 other instead of"):
        study.claim(TINY, tmp_path, worlds)
    study.claim(replace(TINY, steps=4), tmp_path, worlds, fresh=TABLES)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("tuning", {"accuracy": -1}, "accuracy must be a finite number of at least 0 and at most 1 or 'nan'; got '-1'"),
        ("tuning", {"accuracy": 1.5}, "accuracy must be"),
        ("tuning", {"accuracy": float("inf")}, "accuracy must be"),
        ("tuning", {"train_loss": float("nan")}, "train_loss of a run that finished must be a number"),
        ("tuning", {"status": "diverged"}, "accuracy of a run that diverged must be nan"),
        ("tuning", {"status": "ended"}, "status must be one of 'diverged', 'finished'"),
        ("tuning", {"arm": "none"}, "arm must be one of "),
        ("tuning", {"arm": "lora"}, "no run of this study has world 0, arm lora, fraction 0.3, seed 100"),
        ("tuning", {"seed": 7}, "no run of this study has .*, seed 7"),
        ("tuning", {"seed": "1e308"}, "seed must be an integer of at least 0; got '1e308'"),
        ("tuning", {"fraction": 0.5}, "no run of this study has .*, fraction 0.5"),
        ("tuning", {"world": 1}, "no run of this study has world 1"),
        ("tuning", {"learning_rate": 0}, "learning_rate must be"),
        ("tuning", {"ablation": "gate", "setting": "no tanh"}, "no run of this study has .*, ablation gate"),
        ("tuning", {"steps": 4}, "steps must be 3; got 4"),
        ("sample_efficiency", {}, "no run of this study has .*, seed 100"),  # the table of another name
        ("ablations", {}, "no run of this study has"),
    ],
)
def test_rows_that_this_study_cannot_have_are_refused(name, changes, message, tmp_path):
    cell = Cell("linear", 0.3, 100, 0.1)
    Table(tmp_path, name).add(row_of(cell))
    if name == "tuning":
        Table(tmp_path, name, [TINY])
    tables.write(tmp_path / f"{name}.csv", [row_of(cell, **changes)], COLUMNS)
    with pytest.raises(tables.TableError, match=rf"{name}\.csv has a wrong line 2: {message}"):
        Table(tmp_path, name, [TINY])


def test_tables_without_their_record_and_changed_ones_are_refused(worlds, tmp_path):
    table = Table(tmp_path, "sample_efficiency")
    table.add(row_of(Cell("linear", 0.5, 0, 0.1)))
    with pytest.raises(CommandError, match=r"must tell the configuration of sample_efficiency\.csv beside it"):
        study.claim(TINY, tmp_path, worlds)
    table.path.unlink()
    study.claim(TINY, tmp_path, worlds)
    table.add(row_of(Cell("linear", 0.5, 0, 0.1)))
    study._write_sorted(tmp_path)
    table.path.write_text(table.path.read_text().replace("0.5,0,0.5", "0.5,0,0.6"))
    with pytest.raises(seals.Changed, match=r"sample_efficiency\.csv is not as it was finished"):
        Table(tmp_path, "sample_efficiency", [TINY])
    path = tmp_path / "study.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": 5'))
    with pytest.raises(seals.Changed, match=r"study\.json must be the record of a study, and is not as it was written"):
        study.claim(TINY, tmp_path, worlds)
    study.claim(TINY, tmp_path, worlds, fresh=TABLES)
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


def test_committed_tables_are_those_of_their_study():
    experiments = study._recorded(RESULTS / "llm")
    if not experiments:
        pytest.skip("results/llm has no study yet")
    counts = [len(Table(RESULTS / "llm", name, experiments).rows) for name in TABLES]
    assert counts[1:] == [len(sample_efficiency(FULL)), len(ablations(FULL))]
    for name, columns in {"curves": CURVE, "claims": CLAIMS}.items():
        assert tables.read(RESULTS / "llm" / f"{name}.csv", columns)
    for name in (*TABLES, "curves", "claims"):
        assert seals.beside(RESULTS / "llm" / f"{name}.csv").is_file()


def test_fresh_removes_the_named_tables_and_only_when_they_can_be_made_again(worlds, tmp_path):
    study.claim(TINY, tmp_path, worlds)
    names = [f"{name}.csv" for name in TABLES]
    for name in (*names, "mine.csv"):
        (tmp_path / name).write_text("")
    with pytest.raises(FileNotFoundError):
        study.claim(TINY, tmp_path, tmp_path / "nowhere", fresh=TABLES)
    assert all((tmp_path / name).exists() for name in names)
    study.claim(TINY, tmp_path, worlds, fresh=["ablations"])
    assert [name for name in (*names, "mine.csv") if (tmp_path / name).exists()] == [*names[:2], "mine.csv"]


def test_claims_see_the_rows_of_this_experiment_alone(tmp_path):
    cells = [Cell("linear", 0.3, seed, 0.1) for seed in (0, 1)]
    table = Table(tmp_path, "sample_efficiency")
    for cell in (*cells, replace(cells[0], learning_rate=0.2), replace(cells[0], seed=9)):
        table.add(row_of(cell))
    asked = [replace(cell, learning_rate=None) for cell in (*cells, replace(cells[0], seed=5))]
    found = study._rows_of(tmp_path, "sample_efficiency", asked, {"linear": 0.1})
    assert [(r["seed"], r["learning_rate"]) for r in found] == [("0", "0.1"), ("1", "0.1")]


def test_a_study_may_grow_and_names_every_code_that_went_on_with_it(worlds, tmp_path, monkeypatch):
    def recorded():
        return json.loads((tmp_path / "study.json").read_text())

    study.claim(TINY, tmp_path, worlds)
    study.claim(TINY, tmp_path, worlds)
    assert recorded()["continued"] == []
    longer = replace(TINY, seeds=(*TINY.seeds, 77))
    study.claim(longer, tmp_path, worlds)
    assert recorded()["experiment"]["seeds"] == [*TINY.seeds, 77]
    (grown,) = recorded()["continued"]
    assert grown["experiment before"]["seeds"] == list(TINY.seeds)
    assert grown["commit"] == recorded()["provenance"]["commit"]
    for _ in range(2):
        monkeypatch.setattr(study, "provenance", lambda: {"time": "later", "commit": "another"})
        study.claim(longer, tmp_path, worlds)
    assert recorded()["continued"] == [grown, {"time": "later", "commit": "another"}]


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes(tmp_path):
    command = [sys.executable, str(ROOT / "llm" / "study.py"), "--out", str(tmp_path), "--workers", "2"]
    for seconds in (15, 25, 35):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        tables.read(tmp_path / "sample_efficiency.csv", COLUMNS)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run([*command[:-4], "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    assert plain(tmp_path / "sample_efficiency.csv") == plain(tmp_path / "whole" / "sample_efficiency.csv")
