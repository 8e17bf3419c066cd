"""The command line: rows independent of workers and order, resume after a kill, files it does not touch, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import psutil
import pytest

from common import seals, tables
from common.paths import RESULTS, ROOT
from theory.runs import RunError, load, run
from theory.simulate import main
from theory.studies import STUDIES
from theory.summary import measure
from theory.tables import COLUMNS, KEY, RATES

SMALL = replace(STUDIES["over-linear"], sizes=(60, 120), replicates=4, first_n=60, truths=2)
SCRIPT = str(ROOT / "theory" / "simulate.py")


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_workers_and_order_do_not_matter(tmp_path):
    """Exact: one process, four workers and reversed order give identical rows, in file order too."""
    one = run(SMALL, tmp_path / "one")
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        four = run(SMALL, tmp_path / "pool", pool)
        reverse = run(SMALL, tmp_path / "reverse", pool, tasks=SMALL.tasks()[::-1])
    assert without_time(one) == without_time(four) == without_time(reverse)
    on_disk = [tables.read(tmp_path / k / "over-linear.csv", COLUMNS) for k in ("one", "pool", "reverse")]
    assert without_time(on_disk[0]) == without_time(on_disk[1]) == without_time(on_disk[2])


def kill_and_resume(folder, moments):
    """Start, SIGKILL at a random moment, again; then let it end."""
    command = [sys.executable, SCRIPT, "exact-gelu", "--sizes", "50", "100", "200", "--replicates", "12"]
    command += ["--workers", "1", "--out", str(folder)]
    for moment in moments:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        table = folder / "exact-gelu.csv"
        until = time.monotonic() + 60
        # Moments are counted in rows, so that a slow machine is killed in the midst of its work too.
        rows = len(table.read_bytes().splitlines()) if table.exists() else 0
        while process.poll() is None and time.monotonic() < until:
            if table.exists() and len(table.read_bytes().splitlines()) >= rows + moment[0]:
                break
            time.sleep(0.002)
        time.sleep(moment[1])
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, capture_output=True).returncode == 0
    return tables.read(folder / "exact-gelu.csv", COLUMNS)


def test_killed_run_resumes(tmp_path):
    study = replace(STUDIES["exact-gelu"], sizes=(50, 100, 200), replicates=12, large_replicates=12)
    rng = np.random.default_rng(0)
    moments = [(int(rng.integers(1, 8)), float(rng.uniform(0, 0.02))) for _ in range(3)]
    assert without_time(kill_and_resume(tmp_path / "killed", moments)) == without_time(run(study, tmp_path / "whole"))


def test_workers_end_with_a_killed_run(tmp_path):
    command = [sys.executable, SCRIPT, "exact-gelu", "--sizes", "50000", "100000", "--replicates", "200"]
    process = subprocess.Popen([*command, "--workers", "2", "--out", str(tmp_path)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "exact-gelu.csv").exists() and time.monotonic() < until:
        time.sleep(0.1)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    assert not psutil.wait_procs(workers, timeout=20)[1]


@pytest.mark.slow
def test_run_killed_twenty_times_resumes(tmp_path):
    study = replace(STUDIES["exact-gelu"], sizes=(50, 100, 200), replicates=12, large_replicates=12)
    rng = np.random.default_rng(1)
    moments = [(int(rng.integers(0, 3)), float(rng.uniform(0, 0.03))) for _ in range(20)]
    assert without_time(kill_and_resume(tmp_path / "killed", moments)) == without_time(run(study, tmp_path / "whole"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(SMALL, folder)
    return folder


@pytest.mark.parametrize("damage", ["truncated", "foreign", "empty", "short row"])
def test_damaged_tables_are_refused_and_kept(damage, finished, tmp_path, capsys):
    text = (finished / "over-linear.csv").read_text()
    broken = {
        "truncated": text[:-20],
        "foreign": "a,b\n1,2\n",
        "empty": "",
        "short row": text.replace("\n", "\nover-linear,60\n", 1),
    }[damage]
    (tmp_path / "over-linear.csv").write_text(broken)
    (tmp_path / "over-linear.json").write_bytes((finished / "over-linear.json").read_bytes())
    with pytest.raises(tables.TableError, match=r"truncated|not a table"):
        run(SMALL, tmp_path)
    arguments = ["over-linear", "--sizes", "60", "120", "--replicates", "2", "--workers", "1", "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "over-linear.csv" in capsys.readouterr().err
    assert (tmp_path / "over-linear.csv").read_text() == broken


def test_tables_of_nonsense_are_refused(finished, tmp_path):
    """Each column with a cell outside its domain, rows of another study, of no run, and twice; the file is kept."""
    whole = tables.read(finished / "over-linear.csv", COLUMNS)
    (tmp_path / "over-linear.json").write_bytes((finished / "over-linear.json").read_bytes())

    def refused(rows, match):
        tables.write(tmp_path / "over-linear.csv", rows, COLUMNS)
        before = (tmp_path / "over-linear.csv").read_bytes()
        with pytest.raises(tables.TableError, match=match + r".*Restore it, or start anew"):
            run(SMALL, tmp_path)
        assert (tmp_path / "over-linear.csv").read_bytes() == before

    for column in set(COLUMNS) - {"study"}:
        for cell in ("-1", "inf", "word", "1_0", ""):
            refused([*whole[:3], whole[3] | {column: cell}], f"wrong line 5: {column} must be .*got '{cell}'")
    refused([whole[0] | {"status": "nan"}], "status must be one of")
    refused([whole[0] | {"n": "1e308"}], "n must be an integer of at least 1")
    refused([whole[0] | {"function_error": "nan"}], "function_error must be a finite number of at least 0; got 'nan'")
    refused([whole[0] | {"cells": "1-x"}], "cells must be counts joined by -")
    refused([whole[0] | {"study": "over-joint"}], "line 2: it is of 'over-joint', and .* of over-linear only")
    for task in ({"n": "90"}, {"replicate": "4"}, {"truth": "2"}):
        refused([*whole[:-1], whole[-1] | task], r"no run in over-linear\.json asked for n \d+, replicate")
    refused([*whole, whole[0]], "of the same n, replicate, truth as line 2")


def test_a_changed_table_or_record_is_noticed(tmp_path, finished):
    """One digit of a finished table or of its record: the checksum tells. A record that is gone, or of another kind."""
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    table, record = tmp_path / "over-linear.csv", tmp_path / "over-linear.json"
    whole = table.read_text()
    table.write_text(whole.replace("converged", "stalled", 1))
    with pytest.raises(seals.Changed, match=r"over-linear\.csv is not as it was finished.*restore it, start anew"):
        run(SMALL, tmp_path)
    table.write_text(whole)
    former = record.read_text()
    record.write_text(former.replace('"replicates": 4', '"replicates": 9'))
    with pytest.raises(seals.Changed, match=r"over-linear\.json must be the record of a study, and is not as"):
        run(SMALL, tmp_path)
    record.write_text(seals.sealed({"configuration": {}, "history": [{}]}))
    with pytest.raises(RunError, match="not a record of this command"):
        run(SMALL, tmp_path)
    record.unlink()
    with pytest.raises(RunError, match="is missing; restore it, or move the table away"):
        run(SMALL, tmp_path)
    record.write_text(former)
    assert len(run(SMALL, tmp_path, work=lambda *task: pytest.fail("computed again"))) == len(SMALL.tasks())


def test_a_large_table_is_read_quickly(tmp_path):
    """10,000 rows of distinct numbers in under a second of CPU; they take about a third of one."""
    rng = np.random.default_rng(0)
    numbers = [c for c, column in COLUMNS.items() if column.kind == "number"]
    plain = {"study": "x", "status": "converged", "cells": "1-1", "bound_kinds": "none"}
    rows = [
        dict.fromkeys(COLUMNS, 1) | plain | {"n": i + 1} | dict(zip(numbers, rng.random(len(numbers)), strict=True))
        for i in range(10_000)
    ]
    tables.finish(tmp_path / "x.csv", rows, COLUMNS)
    began = time.process_time()
    assert len(tables.read(tmp_path / "x.csv", COLUMNS, KEY)) == 10_000
    assert time.process_time() - began < 1


def test_a_folder_holds_what_several_runs_asked_for(tmp_path):
    """Rows of other sizes, replicates and truths stay, and come back without work."""
    first = run(SMALL, tmp_path)
    run(replace(SMALL, sizes=(60, 90), truths=1), tmp_path)
    again = run(SMALL, tmp_path, work=lambda *task: pytest.fail(f"{task} was computed again"))
    assert again == first
    assert len(tables.read(tmp_path / "over-linear.csv", COLUMNS)) == len(again) + 4


def test_another_configuration_is_refused(finished, capsys):
    arguments = ["over-linear", "--sizes", "60", "120", "--replicates", "4", "--workers", "1", "--out", str(finished)]
    assert main([*arguments, "--noise", "0.7"]) == 2
    assert "another noise" in capsys.readouterr().err


def test_files_and_table(tmp_path, capsys):
    """Columns, provenance, rates and the printed table of a small run, from another folder and as a module."""
    arguments = ["exact-gelu", "--sizes", "60", "600", "--replicates", "5", "--workers", "1", "--out", str(tmp_path)]
    for command in ([SCRIPT], ["-m", "theory.simulate"]):
        where = tmp_path if command[0] == SCRIPT else ROOT
        done = subprocess.run([sys.executable, *command, *arguments], cwd=where, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "function_error" in done.stdout
        assert "10 fits: 10 converged" in done.stdout
    rates = tables.read(tmp_path / "rates.csv", RATES)
    assert [r["quantity"] for r in rates][:2] == ["function_error", "voronoi"]
    assert all(float(r["low"]) <= float(r["slope"]) <= float(r["high"]) and r["n_min"] == "60" for r in rates)
    record = json.loads((tmp_path / "exact-gelu.json").read_text())
    assert record["configuration"]["sizes"] == [60, 600]
    assert record["configuration"]["truth"]["alpha"] == 0.8
    assert {"commit", "python", "libraries", "cpu"} <= set(record["history"][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-study"], "no study is called no-such-study"),
        (["exact-linear", "--sizes", "500", "400"], "--sizes must increase"),
        (["exact-linear", "--sizes", "10", "400"], "must exceed the 16 parameters"),
        (["exact-linear", "--sizes", "400"], "two or more"),
        (["exact-linear", "--replicates", "1"], "at least 2"),
        (["exact-linear", "--noise", "nan"], "--noise must lie"),
        (["exact-linear", "--noise", "inf"], "--noise must lie"),
        (["exact-linear", "--workers", "0"], "at least 1"),
        (["exact-linear", "--seed", "-1"], "--seed must be a whole number of 0 or more; got -1"),
        (["exact-linear", "--truths", "0"], "--truths must be a whole number of 1 or more; got 0"),
        (["exact-linear", "--noise", "1e200"], "--noise must lie between 1e-09 and 1000"),
        (["exact-linear", "--noise", "-1"], "--noise must lie between 1e-09 and 1000"),
        (["exact-linear", "--out", os.devnull], "folder that can be written"),
        (["exact-linear", "--replicates", "many"], "invalid int value"),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_list_and_names(capsys):
    """The names that others rely on."""
    assert main(["--list"]) == 0
    text = capsys.readouterr().out
    for name in ("exact-linear", "exact-tanh", "over-linear", "over-tanh", "over-joint", "over-joint-unshared"):
        assert f"{name} " in text
    assert "over-zero-init-unshared " in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_identified(name):
    """The gate before every sweep passes, and the sizes span three decades with quick sizes among them."""
    study = STUDIES[name]
    study.identify()
    assert study.sizes[-1] / study.first_n > (99 if study.truths > 1 else 310)
    assert set(study.quick().tasks()) <= set(study.tasks())


def committed(study):
    """Rows of the full results, checked as a run that goes on from them checks them."""
    path = RESULTS / "theory" / f"{study.name}.csv"
    if not path.exists() or path.read_text().partition("\n")[0] != ",".join(COLUMNS):
        pytest.skip(f"results/theory/{study.name}.csv is not there with the columns of today: make results computes it")
    return list(load(study, path.parent)[0].values())


@pytest.mark.parametrize("name", STUDIES)
def test_committed_rows_are_complete_and_their_rates_follow(name):
    """Full results: every fit is there, and rates.csv is what the rows say, but for the rounding of another machine."""
    study = STUDIES[name]
    rows = committed(study)
    assert {(int(r["n"]), int(r["replicate"]), int(r["truth"])) for r in rows} <= set(study.tasks())
    if len(rows) < len(study.tasks()):
        pytest.skip(f"{len(rows)} of {len(study.tasks())} rows of {name} are there: make results goes on from them")
    saved = [r for r in tables.read(RESULTS / "theory" / "rates.csv", RATES) if r["study"] == name]
    recomputed = measure(study, rows)
    words = ("study", "quantity", "verdict", "kind")
    assert [[r[k] for k in words] for r in recomputed] == [[r[k] for k in words] for r in saved]
    for again, before in zip(recomputed, saved, strict=True):
        for k in set(RATES) - set(words):
            assert again[k] is None if before[k] == "" else again[k] == pytest.approx(float(before[k]), rel=1e-9), k


@pytest.mark.parametrize("name", ["exact-linear", "over-linear"])
def test_committed_rows_can_be_computed_again(name):
    """Three rows of the full results, anew: the same numbers. Another machine may differ in rounding."""
    from theory.replicate import replicate

    for row in committed(STUDIES[name])[:3]:
        again = replicate(STUDIES[name], int(row["n"]), int(row["replicate"]), int(row["truth"]))
        assert again["sse"] == pytest.approx(float(row["sse"]), rel=1e-6)
        assert again["function_error"] == pytest.approx(float(row["function_error"]), rel=1e-2)
