"""The Voronoi loss against hand-made cases and its defining properties."""

import numpy as np
import pytest

from theory.model import Prompts
from theory.voronoi import voronoi_loss


def test_by_hand():
    """Two cells: one prompt at distance 0.5, two at distances 0.1 and 0.2; raw weights of a joint softmax."""
    truth = Prompts([[0.0], [10.0]], np.log([2.0, 1.0]))
    fitted = Prompts([[0.5], [10.1], [9.8]], np.log([2.5, 0.3, 0.4]))
    loss = voronoi_loss(fitted, truth)
    assert loss.cells == (1, 2)
    assert loss.weight == pytest.approx(0.5 + 0.3)
    assert loss.exact == pytest.approx(2.5 * 0.5)
    assert loss.over == pytest.approx(0.3 * 0.01 + 0.4 * 0.04)
    assert loss.total == pytest.approx(loss.weight + loss.exact + loss.over)
    assert loss.exact_prompt_error == pytest.approx(0.5)
    assert loss.over_prompt_error == pytest.approx((0.3 * 0.1 + 0.4 * 0.2) / 0.7)
    assert loss.over_prompt_error_unweighted == pytest.approx(0.15)
    assert np.isnan(loss.gating)


def test_gauge_and_gate():
    """With a softmax of its own a shift of b is nothing; alpha's error stands beside D; without, a shift counts."""
    p = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    b = np.array([0.1, -0.3, 0.2])
    shifted = voronoi_loss(Prompts(p, b + 7, 0.5), Prompts(p, b, 0.8))
    assert shifted.total == pytest.approx(0, abs=1e-15)
    assert shifted.gating == pytest.approx(0.3)
    assert voronoi_loss(Prompts(p, b + 0.1), Prompts(p, b)).total == pytest.approx(np.exp(b).sum() * np.expm1(0.1))


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_zero_exactly_for_equal_measures(alpha):
    """Split atoms of one place count as that place; anything moved, reweighted or missing does not give zero."""
    truth = Prompts([[0.0, 1.0], [3.0, -1.0]], np.log([1.0, 2.0]), alpha)
    split = Prompts([[3.0, -1.0], [0.0, 1.0], [3.0, -1.0]], np.log([0.5, 1.0, 1.5]), alpha)
    assert voronoi_loss(split, truth).total == pytest.approx(0, abs=1e-15)
    for p, w in (
        ([[3.0, -1.0], [0.0, 1.1], [3.0, -1.0]], [0.5, 1.0, 1.5]),
        ([[3.0, -1.0], [0.0, 1.0], [3.0, -1.01]], [0.5, 1.0, 1.5]),
        ([[3.0, -1.0], [0.0, 1.0], [3.0, -1.0]], [0.5, 1.0, 1.6]),
    ):
        assert voronoi_loss(Prompts(p, np.log(w), alpha), truth).total > 1e-6


def test_relabelling_and_empty_cells():
    rng = np.random.default_rng(0)
    truth = Prompts(rng.normal(size=(3, 2)), rng.normal(size=3), 0.5)
    fitted = Prompts(rng.normal(size=(5, 2)), rng.normal(size=5), 0.4)
    order, relabelled = rng.permutation(5), rng.permutation(3)
    there, again = voronoi_loss(fitted, truth), voronoi_loss(fitted.take(order), truth.take(relabelled))
    assert again.total == pytest.approx(there.total, rel=1e-13)
    assert sorted(again.cells) == sorted(there.cells)
    far = Prompts([[0.0], [100.0]], np.log([1.0, 1.0]))
    loss = voronoi_loss(Prompts([[0.0]], np.log([1.0])), far)
    assert loss.cells == (1, 0)
    assert loss.total == pytest.approx(1.0)


def test_copies_in_the_truth_are_one_place():
    truth = Prompts([[0.0], [0.0], [5.0]], np.log([1.0, 1.0, 1.0]))
    assert voronoi_loss(Prompts([[0.0], [5.0]], np.log([2.0, 1.0])), truth).total == pytest.approx(0, abs=1e-15)


def test_pairs_of_key_and_value():
    """The cell is that of the pair: keys alone would put both fitted prompts to the first."""
    truth = Prompts([[0.0], [1.0]], np.zeros(2), None, [[0.0], [9.0]])
    fitted = Prompts([[0.0], [0.4]], np.zeros(2), None, [[0.0], [9.0]])
    loss = voronoi_loss(fitted, truth)
    assert loss.cells == (1, 1)
    assert loss.exact == pytest.approx(0.6)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"one gate and one length.*length 2 with alpha.*length 3 without alpha"):
        voronoi_loss(Prompts(np.zeros((1, 2)), [0.0], 0.1), Prompts(np.zeros((1, 3)), [0.0]))
