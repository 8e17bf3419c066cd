"""A real Dask scheduler and two worker processes on loopback: the same rows, one worker killed in the midst."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from common import tables
from common.arguments import CommandError
from common.cluster import cluster
from common.paths import ROOT
from theory.simulate import main
from theory.tables import COLUMNS

pytest.importorskip("distributed", reason="pip install -r requirements-dev.txt")
pytestmark = pytest.mark.slow
SIZES = ["exact-gelu", "--sizes", "3000", "30000", "--replicates", "40"]
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@contextmanager
def started(*command, cwd=ROOT):
    """A process of Dask, and an end to it and its children."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        cwd=cwd,
        env=os.environ | THREADS | {"PYTHONPATH": str(cwd)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()
        process.wait()


@pytest.fixture
def scheduler(tmp_path):
    file = tmp_path / "scheduler.json"
    with started("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)):
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"]


def worker(address, *more, **options):
    return started("worker", address, "--no-dashboard", "--no-nanny", *more, **options)


def without_time(path):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in tables.read(path, COLUMNS)]


def test_rows_of_a_cluster_with_a_worker_killed_are_those_of_one_process(scheduler, tmp_path):
    """SIGKILL to a worker when some rows are there and it is at work: nothing is lost, the rows are the same."""
    one, table = tmp_path / "one", tmp_path / "many" / "exact-gelu.csv"
    command = [sys.executable, str(ROOT / "theory" / "simulate.py"), *SIZES, "--out", str(table.parent)]
    with worker(scheduler, "--nthreads", "1") as victim, worker(scheduler, "--nthreads", "1"):
        until, workers = time.monotonic() + 60, 0
        while workers < 2 and time.monotonic() < until:  # both are there before the work is dealt out
            with cluster(scheduler) as (_, where):
                workers = where["cluster"]["workers"]
        run = subprocess.Popen([*command, "--scheduler", scheduler], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 120
        while (not table.exists() or len(table.read_bytes().splitlines()) < 9) and time.monotonic() < until:
            assert run.poll() is None, run.communicate()
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        assert len(table.read_bytes().splitlines()) < 60  # the work was not over
        said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert main([*SIZES, "--workers", "1", "--out", str(one)]) == 0
    assert without_time(table) == without_time(one / "exact-gelu.csv")
    assert json.loads(table.with_suffix(".json").read_text())["history"][0]["cluster"]["workers"] == 2


def test_what_is_wrong_with_a_cluster_is_one_line(scheduler, tmp_path, monkeypatch, capsys):
    def refused(address):
        assert main([*SIZES, "--scheduler", address, "--out", str(tmp_path / "rows")]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("simulate.py: error: ")
        return error

    monkeypatch.setattr("common.cluster.PATIENCE", 2)
    assert "no scheduler answers at 127.0.0.1:9; start one by `dask scheduler`" in refused("127.0.0.1:9")
    assert "no scheduler answers at nonsense://x" in refused("nonsense://x")
    assert "has no worker; start some by `dask worker" in refused(scheduler)
    monkeypatch.setattr("common.cluster.PATIENCE", 60)
    with worker(scheduler, "--nthreads", "2"):
        assert "workers must have one thread each, by `--nthreads 1`" in refused(scheduler)
    with worker(scheduler, "--nthreads", "1", cwd=tmp_path):
        assert "workers must run in the project's folder" in refused(scheduler)
    with worker(scheduler, "--nthreads", "1"):
        monkeypatch.setattr("common.records._git", lambda *_: "another")
        assert refused(scheduler).endswith(", not another")
    assert not list((tmp_path / "rows").iterdir())


def test_without_dask(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CommandError, match=r"run `pip install -r requirements-dev\.txt`"), cluster("tcp://x:1"):
        pass
