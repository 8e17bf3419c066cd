"""Fewer prompts and back: the same function, the right direction, and the crawl that it ends."""

import numpy as np
import pytest
from problems import random_problem
from test_estimate import BOX, data

from theory.coordinates import Layout
from theory.estimate import fit
from theory.merging import double, merge, nearest, partings
from theory.model import GATES, Prompts
from theory.problem import LeastSquares
from theory.reduction import reduce
from theory.starts import near


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


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("gate", ["zero_init", "joint"])
def test_partings_go_along_the_line_between_merged_prompts(gate, side):
    """Two prompts on a line merged, without noise: the best parting is along that line, the lighter on its side."""
    model, apart = random_problem(gate, L=3)
    line = side * np.array([0.6, 0.3, -0.1])
    b = np.append(apart.b[:2], apart.b[1] - 2)
    truth = Prompts(np.vstack([apart.p[:2], apart.p[1] + line]), b, apart.alpha)
    x, y, _ = data(model, truth, 2000, 0.0, "line", gate)
    layout = Layout(model, 3)
    problem = LeastSquares(model, reduce(model, [(x, y)]), layout)
    merged = merge(truth, 1, 2)
    best = partings(problem, merged, lambda theta: theta)[0]
    start = problem(layout.pack(double(merged, 1)))[0]
    assert problem(best)[0] < start
    ends = layout.unpack(best)
    light, heavy = sorted((1, 2), key=lambda k: ends.b[k])
    moved = ends.p[light] - ends.p[heavy]
    assert moved @ line > 0.9 * np.linalg.norm(moved) * np.linalg.norm(line)


def test_prompts_that_want_to_be_one():
    """Here least squares has two prompts in one place: a descent by itself still crawls after a thousand passes."""
    model, truth = random_problem("zero_init", "tanh", d=2, d_out=2, seed=1)
    x, y, rng = data(model, truth, 500, 0.1, "zero_init", "tanh", 1, 0)
    start = near(truth, 4, rng)
    alone = fit(model, (x, y), start, BOX, truth, explore=False, max_iterations=1000)
    assert alone.status == "max_iterations"
    both = fit(model, (x, y), start, BOX, truth)
    assert both.status == "converged"
    assert both.iterations < alone.iterations
    assert both.sse < alone.sse


def test_needed_prompts_are_left_alone():
    """Where every prompt is needed, exploring changes nothing, at the cost of a few passes."""
    model, truth = random_problem(d=2, d_out=2, seed=5, scale=1.5)
    x, y, rng = data(model, truth, 2000, 0.1, "needed")
    start = near(truth, 3, rng)
    plain, explored = (fit(model, (x, y), start, BOX, truth, explore=e) for e in (False, True))
    assert explored.sse == plain.sse
    assert explored.iterations <= plain.iterations + 6
