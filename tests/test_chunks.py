"""Data that are read at every pass: the same sums and fits as of kept ones, in memory that does not grow."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from problems import random_problem

from common import seals, tables
from common.paths import ROOT
from common.streams import counted, stream
from theory import reduction, replicate
from theory.chunks import CHUNK, Again, Drawn
from theory.coordinates import Layout
from theory.estimate import fit
from theory.model import GATES
from theory.problem import LeastSquares
from theory.reduction import Anew, reduce
from theory.starts import near
from theory.studies import STUDIES
from theory.tables import SCALING

STUDY = STUDIES["over-linear"]
SETTING = STUDY.setting(0)


def drawn(n, seed=0):
    return Drawn(SETTING.model, SETTING.target(n), 0.1, n, seed, ("a", 1))


def test_blocks_of_a_counted_stream_do_not_depend_on_order():
    """They depend on block, seed and key alone; its state tells that Philox counts from 2^128 times the block."""
    forth = [counted(0, "a", 1)(block).standard_normal(5) for block in range(3)]
    generator = counted(0, "a", 1)
    back = [generator(block).standard_normal(5) for block in (2, 1, 0)]
    np.testing.assert_array_equal(forth, back[::-1])
    others = [counted(0, "a", 2)(0), counted(1, "a", 1)(0), counted(0, "b", 1)(0), generator(1)]
    assert all(not np.array_equal(forth[0], other.standard_normal(5)) for other in others)
    state = generator(3).bit_generator.state
    assert state["bit_generator"] == "Philox"
    assert list(state["state"]["counter"]) == [0, 0, 3, 0]


def test_drawn_rows_are_the_same_at_every_reading():
    """And rows of the model: residuals are normal of standard deviation 0.1; 4 standard errors fail with 6e-5."""
    data = drawn(CHUNK + 100)
    first, again = list(data), list(data)
    assert [len(x) for x, _ in first] == [CHUNK, 100]
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    assert not np.isin(first[1][0], first[0][0]).any()
    noise = np.concatenate([(y - SETTING.model(x, data.prompts)).ravel() for x, y in first]) / 0.1
    assert abs((noise**2).mean() - 1) < 4 * np.sqrt(2 / len(noise))


@pytest.mark.parametrize("gate", GATES)
def test_features_made_anew_give_the_sums_of_kept_ones(gate, monkeypatch):
    """Bit for bit, and so do heads, kept or made anew, that end in a chunk, between two or beyond the last."""
    model, prompts = random_problem(gate, d_out=5)
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((rows, 3)), rng.standard_normal((rows, 5))) for rows in (70, 30, 50)]
    layout = Layout(model, len(prompts))
    kept, anew = reduce(model, data), reduce(model, Again(data), keep=False)
    assert anew.constant == kept.constant
    for most in (0, 1000):  # rows of a head that are kept
        monkeypatch.setattr(reduction, "KEPT", most)
        for rows in (1, 70, 100, 120, 150, 200):
            one, other = kept.head(rows), anew.head(rows)
            assert isinstance(other.blocks, Anew) == (most == 0)
            assert other.n == one.n == min(rows, 150)
            pair = [LeastSquares(model, head, layout)(layout.pack(prompts)) for head in (one, other)]
            for a, b in zip(*pair, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [900, 6000, 40_000])
def test_a_fit_that_keeps_nothing_is_that_of_kept_rows(n, monkeypatch):
    """Over-specified, search included, in each of its three regimes: every number, and the count of passes."""
    monkeypatch.setattr(reduction, "KEPT", 500)
    data = drawn(n)
    start = near(data.prompts, STUDY.fitted, stream(0, "start"))
    arrays = np.concatenate([x for x, _ in data]), np.concatenate([y for _, y in data])
    found = [
        fit(SETTING.model, rows, start, STUDY.box, data.prompts, keep=keep)
        for rows, keep in ((data, True), (data, False), (list(data), False), (arrays, False))
    ]
    with np.printoptions(floatmode="unique"):
        assert repr(found[0]) == repr(found[1]) == repr(found[2])
    assert found[3].sse == pytest.approx(found[0].sse, rel=1e-9)  # other chunks: another order of sums


def test_what_is_read_once_must_be_kept():
    with pytest.raises(TypeError, match=r"must be arrays, or an iterable that can be read again; got .* generator"):
        fit(SETTING.model, iter(drawn(500)), SETTING.target(500), keep=False)


def test_memory_does_not_grow_with_rows(monkeypatch):
    """Peak of what a fit allocates at 2^16 and 2^18 rows; kept ones would take 8 MB more."""
    monkeypatch.setattr(reduction, "KEPT", 1000)

    def peak(n):
        data = drawn(n)
        start = near(data.prompts, len(data.prompts), stream(0, "start"))
        tracemalloc.start()
        fit(SETTING.model, data, start, STUDY.box, keep=False)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1 << 14)
    assert peak(1 << 18) < peak(1 << 16) + 1e6


def test_large_replicates_draw_their_rows_anew(monkeypatch):
    """The row of the table is the one that kept rows of the same stream would give."""
    n, made = 2000, []

    def reduced(model, chunks, keep=True):
        made.append((type(chunks), keep))
        return reduce(model, chunks, keep)

    monkeypatch.setattr(replicate, "reduce", reduced)
    monkeypatch.setattr(replicate, "LARGE", n)
    row = replicate.replicate(STUDY, n, 0)
    replicate.replicate(STUDY, n - 1, 0)
    assert made[0] == (Drawn, False)
    assert made[1][1]
    monkeypatch.setattr(replicate, "reduce", lambda model, chunks, keep: reduce(model, chunks))
    again = replicate.replicate(STUDY, n, 0)
    assert repr(row | {"seconds": 0}) == repr(again | {"seconds": 0})  # not ==, for nan


@pytest.mark.slow
def test_the_command_of_scaling(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "scaling.py"), "--out", str(tmp_path)]
    done = subprocess.run([*command, "--decades", "3.5"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = tables.read(tmp_path / "scaling.csv", SCALING, ["n"])
    assert [r["n"] for r in rows] == ["1000", "3162"]
    assert seals.unsealed(tmp_path / "scaling.json", "a record")["study"]["name"] == "exact-linear"
    done = subprocess.run([*command, "--decades", "12"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "scaling.py: error: --decades must lie between 3 and 9; got 12\n")
