"""Fewer prompts and back: the same function, the right direction, and the crawl that it ends."""

import numpy as np
import pytest
from problems import random_problem
from test_estimate import BOX, data

from theory.box import Box
from theory.coordinates import Layout
from theory.descent import descend
from theory.estimate import fit
from theory.jacobian import jacobian
from theory.merging import _joined, _slope_and_effect, additions, double, merge, nearest
from theory.model import GATES
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.starts import anywhere, near


@pytest.mark.parametrize("gate", GATES)
def test_double_and_merge_undo_each_other(gate):
    """Exactly: two halves in one place are the one prompt, for the model and for `merge`."""
    model, prompts = random_problem(gate, L=3)
    x = np.random.default_rng(0).standard_normal((50, 3))
    twice = double(prompts, 1)
    np.testing.assert_allclose(model(x, twice), model(x, prompts), rtol=0, atol=1e-14)
    assert nearest(twice) == (0.0, 1, 3)
    once = merge(twice, 1, 3)
    np.testing.assert_allclose(once.atoms[[0, 2, 1]], prompts.atoms, rtol=0, atol=1e-15)
    np.testing.assert_allclose(once.b[[0, 2, 1]], prompts.b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("gate", GATES)
def test_fall_promised_for_one_prompt_more(gate):
    """a and h are the first and second derivatives of SSE in the weight of the new prompt, the others moving freely."""
    model, truth = random_problem(gate, d=2, d_out=3, L=3)
    x, y, rng = data(model, truth, 900, 0.3, "more", gate)
    layout = Layout(model, 2)
    fewer = LeastSquares(model, reduce(model, [(x, y)]), layout)
    lower, upper = BOX.bounds(layout)
    end = descend(fewer, layout.pack(near(truth.take(np.array([0, 1])), 2, rng)), BOX.bounds, 300)
    assert end.status == "converged"
    free = (end.theta > lower + 1e-10) & (end.theta < upper - 1e-10)
    tried = anywhere(model, 6, Box(1, 3, 2), rng, 1)[0]
    a, D = _slope_and_effect(fewer, end.theta, tried, free)
    J = jacobian(model, x, layout.unpack(end.theta))[:, free]
    f, weight = model(x, layout.unpack(end.theta)), 1e-5
    for i in range(6):
        more = _joined(layout.unpack(end.theta), tried.take(np.array([i])), np.log(weight))
        effect = (model(x, more) - f).ravel() / weight
        assert a[i] == pytest.approx(effect @ (y - f).ravel(), rel=1e-3, abs=1e-3 * np.linalg.norm(effect))
        off = effect - J @ np.linalg.lstsq(J, effect)[0]
        assert (D[i] @ D[i]) == pytest.approx(off @ off, rel=2e-3)


@pytest.mark.parametrize("gate", GATES)
def test_one_prompt_more_where_it_is_missing(gate):
    """Without noise, with one of three true prompts taken away: the best place leads back to it."""
    model, truth = random_problem(gate, d=2, d_out=2, L=3, scale=1.5)
    x, y, _ = data(model, truth, 1000, 0.0, "missing", gate)
    layouts = [Layout(model, L) for L in (2, 3)]
    fewer, problem = (LeastSquares(model, reduce(model, [(x, y)]), layout) for layout in layouts)
    end = descend(fewer, layouts[0].pack(truth.take(np.array([0, 1]))), BOX.bounds, 300)
    more = additions(fewer, end.theta, BOX.bounds, 3)
    ends = [descend(problem, layouts[1].pack(start), BOX.bounds, 300) for start in more]
    assert 1 <= len(ends) <= 3
    assert min(e.sse for e in ends) < 1e-12 * end.sse


def test_prompts_that_want_to_be_one():
    """Here least squares has two prompts in one place: a descent by itself still crawls after a thousand passes."""
    model, truth = random_problem("zero_init", "tanh", d=2, d_out=2, seed=1)
    x, y, rng = data(model, truth, 500, 0.1, "zero_init", "tanh", 1, 0)
    start = near(truth, 4, rng)
    alone = fit(model, (x, y), start, BOX, truth, explore=False, max_iterations=1000)
    assert alone.status == "max_iterations"
    both = fit(model, (x, y), start, BOX, truth)
    assert both.status == "converged"
    assert both.sse < alone.sse


def test_needed_prompts_are_left_alone():
    """Where every prompt is needed, exploring finds the same minimum."""
    model, truth = random_problem(d=2, d_out=2, seed=5, scale=1.5)
    x, y, rng = data(model, truth, 2000, 0.1, "needed")
    start = near(truth, 3, rng)
    plain, explored = (fit(model, (x, y), start, BOX, truth, explore=e) for e in (False, True))
    assert explored.sse == pytest.approx(plain.sse, abs=1e-4 * 0.01)  # each within its certificate
