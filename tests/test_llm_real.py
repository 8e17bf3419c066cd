"""The study on a real base, on a tiny random one: rows, tuning, resumption, scores, claims, bad input."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from llm_evaluation import save_items, save_model
from scipy import stats

from common import tables
from common.arguments import CommandError
from llm.real import base, claims, command, protocol, rates, runs
from llm.real.protocol import ARMS, EXPONENTS, FULL, MAIN, QUICK, START, Cell, rate, study, tuning
from llm.real.runs import Place
from llm.real.study import Study, claim
from llm.real.tables import COLUMNS, KEYS, Table

TINY = replace(
    FULL, length=256, held_out=4, sample=8, tuning_held_out=3, tuning_sample=4, steps=2, tuning_steps=1, batch_size=2,
    shares=(0.5, 1.0), seeds=(0, 1), main=("linear", "random_init", "random_init_tuned"), references=(),
    once=("prompt_tuning",), benchmarks=(("arc_easy", 4),), generated=(("arc_easy", 2),), new_tokens=3, rules=False,
)  # fmt: skip
TIMES = ("seconds", "cpu_seconds")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny base, instructions with two rows of one instruction, and items."""
    folder = tmp_path_factory.mktemp("real")
    save_model(folder / "model", context=1024)
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"It is {n}."} for n in range(22)]
    rows += [{**rows[3], "output": "again"}, {"instruction": "long", "input": "", "output": "x" * 300}]
    rows += [{"instruction": "Say nothing.", "input": "", "output": ""}]
    (folder / "alpaca_some.json").write_text(json.dumps(rows))
    save_items(folder / "items")
    (folder / "trained").mkdir()
    return Place(str(folder / "model"), str(folder / "alpaca_some.json"), "cpu", str(folder / "trained"))


@pytest.fixture(autouse=True)
def _short_grids(monkeypatch):
    for method in EXPONENTS:
        monkeypatch.setitem(EXPONENTS, method, (-3.0, -2.5))


def items_of(place):
    return str(Path(place.instructions).parent / "items")


def filled(place, folder, wanted=protocol.TABLES, sizes=TINY, tuned=None):
    items = items_of(place)
    folder.mkdir(exist_ok=True)
    claim(folder, sizes, place, items)
    with ThreadPoolExecutor(1) as pool:
        Study("tiny", sizes, place, items, folder, pool, tuned).fill(wanted, say=lambda line: None)


def plain(folder, name):
    """Rows without their times."""
    return [
        {c: v for c, v in row.items() if c not in TIMES} for row in tables.read(folder / f"{name}.csv", COLUMNS[name])
    ]


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "tables"
    with pytest.MonkeyPatch.context() as patch:
        for method in EXPONENTS:
            patch.setitem(EXPONENTS, method, (-3.0, -2.5))
        patch.setattr("llm.real.study.WIDEN", 30)
        patch.setattr(rates, "edge", lambda table, arm: 0)  # one step of a random base has no best rate
        filled(place, folder)
    return folder


def test_the_protocol_is_consistent():
    for sizes in (FULL, QUICK):
        cells = study(sizes)
        keys = [(cell.arm, cell.share, cell.seed, cell.rate_rule) for cell in cells]
        assert len(set(keys)) == len(keys)
        assert sizes.tuning_seed not in sizes.seeds
        assert {ARMS[arm].method for arm in sizes.arms} <= set(EXPONENTS)
    assert len(study(FULL)) == 5 * 3 * 3 + 2 * 3 + 2 * 3 * 3 + 5
    assert all(START[arm] in ARMS[arm].scales for arm in START)
    assert set(START) <= set(MAIN)
    on_grid = {rate(e / 2) for e in range(-20, 20)}
    assert {cell.learning_rate for m in EXPONENTS for cell in tuning(FULL, m, EXPONENTS[m], None)} <= on_grid
    assert [(ARMS[arm].attention, ARMS[arm].prompt) for arm in ("nonlinear", "random_init_nonlinear", "lora")] == [
        ("zero_init", "nonlinear"), ("random_init", "nonlinear"), ("", "")
    ]  # fmt: skip


def test_parts_are_disjoint_and_leave_out_long_empty_and_repeated_rows(place):
    parts = vars(runs.examples(place, TINY))
    assert [len(part) for part in parts.values()] == [4, 8, 3, 4]
    texts = [tuple(example["input_ids"]) for part in parts.values() for example in part]
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) <= 256
    with pytest.raises(ValueError, match=r"31 rows of at most 256 tokens are needed; .*alpaca_some.json has 22"):
        runs.examples(place, replace(TINY, held_out=16))


def test_every_table_is_whole_and_sealed(done):
    assert len(tables.read(done / "study.csv", COLUMNS["study"])) == 1 + 3 * 2 * 2 + 1
    losses = tables.read(done / "rows_loss.csv", COLUMNS["rows_loss"])
    assert len(losses) == 4 * 14
    scored = {(r["arm"], r["seed"], r["protocol"]) for r in tables.read(done / "scores.csv", COLUMNS["scores"])}
    assert len(scored) == 8 + 7  # the base, three arms twice, and prompt tuning, which is not asked to write
    for row in tables.read(done / "study.csv", COLUMNS["study"]):
        own = [r for r in losses if all(r[c] == row[c] for c in KEYS["study"])]
        total = sum(float(r["loss"]) * int(r["tokens"]) for r in own) / sum(int(r["tokens"]) for r in own)
        assert float(row["held_out_loss"]) == pytest.approx(total)
    assert all((done / f"{name}.csv.sha256").exists() for name in (*KEYS, "claims"))


def test_a_cell_from_scratch_is_the_same_row(place, done):
    row = next(r for r in plain(done, "study") if r["arm"] == "random_init_tuned" and r["share"] == "0.5")
    scale = float(row["initial_scale"])
    cell = Cell(row["arm"], 0.5, int(row["seed"]), "own_best", float(row["learning_rate"]), scale, steps=2)
    again, losses, _ = runs.run(cell, TINY, place)
    assert again["held_out_loss"] == float(row["held_out_loss"])
    assert len(losses) == 4


def test_a_killed_study_goes_on(place, done, tmp_path):
    """Half a row at the end, a run whose losses are there without its row, and a table that lacks its last rows."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for path in done.iterdir():
        if path.suffix == ".csv" or path.name == "study.json":
            (folder / path.name).write_bytes(path.read_bytes())
    whole = (folder / "study.csv").read_text().splitlines(keepends=True)
    (folder / "study.csv").write_text("".join(whole[:-3]) + whole[-3][:20])
    for name in ("scores", "tuning"):
        lines = (folder / f"{name}.csv").read_text().splitlines(keepends=True)
        (folder / f"{name}.csv").write_text("".join(lines[:-1]))
    (folder / "claims.csv").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "edge", lambda table, arm: 0)
        filled(place, folder)
    for name in (*KEYS, "claims"):
        assert plain(folder, name) == plain(done, name), name


def test_the_quick_version_takes_the_rates_of_another_study(place, done, tmp_path):
    quick = replace(TINY, main=("linear",), once=(), seeds=(0,), shares=(1.0,), generated=())
    filled(place, tmp_path / "quick", sizes=quick, tuned=done)
    assert not (tmp_path / "quick" / "tuning.csv").exists()
    (row,) = [r for r in plain(tmp_path / "quick", "study") if r["arm"] == "linear"]
    (other,) = [r for r in plain(done, "study") if (r["arm"], r["share"], r["seed"]) == ("linear", "1.0", "0")]
    assert row == other
    assert "linear" in command.table(tmp_path / "quick")
    with pytest.raises(CommandError, match="has no rows of vera"):
        filled(place, tmp_path / "other", sizes=replace(quick, main=("vera",)), tuned=done)


def test_another_configuration_is_refused(place, done):
    with pytest.raises(ValueError, match="is of a run with protocol"):
        claim(done, replace(TINY, steps=3), place, items_of(place))


def tuned_table(folder, losses):
    """A tuning of given losses by (arm, scale, rate)."""
    folder.mkdir(exist_ok=True)
    table = Table(folder, "tuning")
    for (arm, scale, learning_rate), loss in losses.items():
        status = "finished" if loss is not None else "diverged"
        loss = float("nan") if loss is None else loss
        row = dict.fromkeys(COLUMNS["tuning"], 1.0) | {
            "arm": arm,
            "initial_scale": scale,
            "learning_rate": learning_rate,
        }
        table.add(row | {"attention": "", "prompt": "", "seed": 100, "held_out_loss": loss, "status": status})
    return Table(folder, "tuning")


def test_best_rates_and_scales(tmp_path):
    table = tuned_table(
        tmp_path,
        {
            **{("linear", 1.0, 0.01): 2.0, ("linear", 1.0, 0.1): 1.9, ("linear", 0.1, 0.01): 1.8},
            **{("linear", 0.1, 0.1): 1.85, ("linear", 0.1, 0.00316): 1.95},
            **{("random_init", 1.0, 0.01): 9.0, ("random_init", 1.0, 0.1): 5.0, ("random_init", 1.0, 1.0): None},
            **{("random_init", 0.1, 0.01): 2.2, ("random_init", 0.1, 0.1): 2.6},
            **{("nonlinear", None, 0.01): 1.7, ("nonlinear", None, 0.1): 4.0},
        },
    )
    assert rates.best(table, "linear") == (0.01, 0.1)
    assert rates.best(table, "random_init") == (0.1, 1.0)
    assert rates.best(table, "random_init_tuned") == (0.01, 0.1)
    assert rates.best(table, "nonlinear") == (0.01, None)
    assert rates.best(table, "vera") is None
    assert [rates.edge(table, arm) for arm in ("linear", "random_init", "random_init_tuned")] == [0, 0, -1]
    assert rates.common_rate(table) == 0.01
    assert rates.chosen(table, Cell("random_init", 1.0, 0, "published")) == (0.00225, 1.0)
    assert rates.chosen(table, Cell("linear", 1.0, 0, "common")) == (0.01, 0.1)


def test_the_grid_is_widened_until_the_best_is_inside(tmp_path, place, monkeypatch):
    """Losses that fall to 10^-1 and rise after it, from a grid that ends at 10^-2.5."""
    sizes = replace(TINY, main=("linear",), once=())

    def train(self, table, cells, name):
        for cell in cells:
            if cell not in table:
                loss = 1.0 + (np.log10(cell.learning_rate) + 1.0) ** 2 + cell.initial_scale / 100
                row = dict.fromkeys(COLUMNS["tuning"], 1.0) | asdict(cell) | {"held_out_loss": float(loss)}
                table.add(row | {"attention": "", "prompt": "", "status": "finished"})

    monkeypatch.setattr(Study, "_train", train)
    one = Study("tiny", sizes, place, None, tmp_path, pool=None)
    one._tune()
    assert rates.best(one.tuning, "linear") == (0.1, 0.01)
    assert sorted(rates.losses(one.tuning, "linear", 0.01)) == [0.001, 0.00316, 0.01, 0.0316, 0.1, 0.316]
    assert sorted(rates.losses(one.tuning, "linear", 1.0)) == [0.001, 0.00316]


def test_a_run_of_two_arms_has_the_row_of_both(done):
    """random_init_tuned at the published scale is random_init: its row is taken over, with losses and curve."""
    rows = {(r["arm"], r["share"], r["seed"]): r for r in plain(done, "study")}
    same = [key for key in rows if key[0] == "random_init_tuned" and rows[key]["initial_scale"] == "1.0"]
    for _, share, seed in same:
        first, other = rows["random_init", share, seed], rows["random_init_tuned", share, seed]
        assert first["held_out_loss"] == other["held_out_loss"]


def test_a_run_under_two_names_is_made_once(place, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Study, "_train", lambda self, table, some, name: made.extend(some))
    monkeypatch.setattr(Study, "_copy", lambda self, table, source, cell: made.append((source, cell)))
    cells = [Cell(arm, 0.5, 0, "own_best", 0.1, 1.0, steps=2) for arm in ("random_init", "random_init_tuned", "linear")]
    with ThreadPoolExecutor(1) as pool:
        Study("tiny", TINY, place, None, tmp_path, pool)._study(cells)
    assert made[:2] == [cells[0], cells[2]]
    assert (cells[0], cells[1]) in made


def test_verdicts():
    assert claims.verdict([(0.001, 0.1), (0.002, 0.3)], "held_out_loss") == "gain"
    assert claims.verdict([(0.001, 0.1), (-0.002, 0.3)], "held_out_loss") == "unresolved"
    assert claims.verdict([(-0.1, 0.009), (-0.2, 0.005)], "held_out_loss") == "no gain of 0.01 nats"
    assert claims.verdict([(-0.1, 0.019), (-0.2, 0.005)], "accuracy") == "no gain of 2 points"
    assert claims.verdict([(-0.1, 0.019), (-0.2, 0.021)], "accuracy") == "unresolved"
    assert claims.verdict([(0.1, 0.2), (float("nan"), float("nan"))], "accuracy") == "unresolved"


def test_the_crossed_bootstrap_against_the_normal_interval():
    """With seeds alike, only rows vary: the interval is that of a mean of 400 independent differences.

    Its half width has a standard error of about 1 % over 10,000 draws and of 4 % over the 400 rows, which are given.
    """
    rng = np.random.default_rng(0)
    rows = rng.normal(0.3, 1.0, 400)
    low, high = claims.crossed_bootstrap(np.stack([rows] * 3), np.ones(400))
    half = 1.96 * rows.std() / 20
    assert low == pytest.approx(rows.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(rows.mean() + half, abs=0.1 * half)
    by_seed = np.array([0.0, 1.0, 2.0])[:, None] + np.zeros((3, 400))
    assert claims.crossed_bootstrap(by_seed, np.ones(400)) == (0.0, 2.0)  # 1 of 27 draws is one seed alone: 3.7 %


def test_claims_from_tables(tmp_path):
    """Differences that are put into the tables come out of them: at the whole sample, as a slope, and item by item."""
    sizes = replace(FULL, seeds=(0, 1, 2), shares=(0.1, 1.0))
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.05, (3, 40))
    rows = []
    for seed in range(3):
        for share in (0.1, 1.0):
            for arm, level in (("linear", 2.0 - 0.2 * (share == 0.1)), ("random_init", 2.5), ("nonlinear", 2.1)):
                for row in range(40):
                    known = {"arm": arm, "seed": seed, "row": row, "share": share, "rate_rule": "own_best"}
                    rows.append(known | {"loss": level + (arm == "linear") * noise[seed, row], "tokens": 5 + row % 3})
    tables.write(tmp_path / "rows_loss.csv", rows, COLUMNS["rows_loss"])
    right = {"linear": "1111000000", "random_init": "1100000000", "nonlinear": "1111100000"}
    scored = [
        dict.fromkeys(COLUMNS["scores"], 0.1)
        | {"arm": arm, "seed": seed, "task": "arc_easy", "protocol": "harness", "n": 10, "right": text}
        for arm, text in right.items()
        for seed in range(3)
    ]
    tables.write(tmp_path / "scores.csv", scored, COLUMNS["scores"])
    found = {(c["first"], c["second"], c["measure"], c["quantity"]): c for c in claims.write("tiny", tmp_path, sizes)}
    gain = found["linear", "random_init", "held_out_loss", "gain"]
    weights = np.array([5 + row % 3 for row in range(40)])
    values = 0.5 - noise @ weights / weights.sum()
    assert gain["value"] == pytest.approx(values.mean())
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert gain["seed_low"] == pytest.approx(values.mean() - half)
    assert gain["verdict"] == "gain"
    assert found["linear", "random_init", "held_out_loss", "growth"]["value"] == pytest.approx(0.2)
    assert found["nonlinear", "linear", "held_out_loss", "gain"]["verdict"] == "no gain of 0.01 nats"
    accuracy = found["linear", "random_init", "arc_easy", "gain"]
    assert accuracy["value"] == pytest.approx(0.2)
    assert accuracy["verdict"] == "unresolved"  # two items of ten
    assert tables.read(tmp_path / "claims.csv", COLUMNS["claims"])


def test_no_package_called_llm_is_installed(monkeypatch):
    base.check_packages()
    monkeypatch.setattr(base, "distribution", lambda name: name)
    with pytest.raises(CommandError, match="a distribution called llm is installed"):
        base.check_packages()


def test_a_base_from_a_folder(place, tmp_path, capsys):
    made = base.prepare(place.base, tmp_path / "made")
    assert (made / "config.json").is_file()
    assert f"model.safetensors    {base.sha256(made / 'model.safetensors')}" in capsys.readouterr().out
    assert base.prepare(place.base, tmp_path / "made") == made
    with pytest.raises(ValueError, match="must be of this command and from another"):
        base.prepare("another", tmp_path / "made")
    assert base.find(str(made)) == made
    with pytest.raises(CommandError, match=r"there is no base at .*; `python llm/base.py .*nowhere` makes it"):
        base.find(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="there is no GGUF file at"):
        base.prepare(str(tmp_path / "no.gguf"), tmp_path / "other")
    assert not (tmp_path / "other").exists()
