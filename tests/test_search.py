"""The search among minima against a multi-start of scipy, which knows nothing of how it goes about it."""

import numpy as np
import pytest
import torch
from problems import literal_residual
from test_estimate import scipy_best

from common.streams import stream
from theory.box import Box
from theory.coordinates import Layout
from theory.equivalents import doubled
from theory.estimate import fit
from theory.model import in_q
from theory.starts import anywhere, near
from theory.studies import STUDIES, Study

BOX, NOISE = Box(prompt=4, bias=3, alpha=2), 0.2
KINDS = [
    ("zero_init", "identity", 0),
    ("zero_init", "tanh", 0),
    ("joint", "identity", 0),
    ("joint", "tanh", 0),
    ("zero_init", "identity", 1),
    ("zero_init", "tanh", 1),
]


def problem(gate, activation, extra, seed, n=400):
    """Another model, truth and data set for every seed: d = 2, L = 3, n = 400, noise 0.2."""
    spread = (-2.0, 2.0) if activation == "identity" else (-1.3, 1.3)
    study = Study("search", "", gate=gate, activation=activation, L=3, extra=extra, spread=spread, apart=1.0, seed=seed)
    rng = stream(seed, "search", gate, activation, extra)
    x = rng.standard_normal((n, 2))
    y = study.model(x, study.truth) + NOISE * rng.standard_normal((n, 2))
    return study.model, study.truth, x, y, rng


def gap(gate, activation, extra, seed):
    """(ours from one near start - the best of scipy's eight, three of them near) / nu^2."""
    model, truth, x, y, rng = problem(gate, activation, extra, seed)
    starts = [near(truth, 3 + extra, rng) for _ in range(3)] + anywhere(model, 3 + extra, BOX, rng, 5)
    ours, layout = fit(model, (x, y), starts[0], BOX, truth), Layout(model, 3 + extra)
    literal = literal_residual(model, layout, x, y)(torch.tensor(layout.pack(ours.prompts)))
    assert ours.sse == pytest.approx(float((literal**2).sum()), rel=1e-10)
    return (ours.sse - scipy_best(model, x, y, starts, BOX, layout)) / NOISE**2


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[4]], ids=str)
def test_scipy_finds_no_lower_minimum(kind):
    """One set a kind: SSE / nu^2 is at most 1e-3 above the lowest of eight starts."""
    assert gap(*kind, 0) < 1e-3


@pytest.mark.slow
def test_scipy_finds_a_lower_minimum_in_one_of_120_at_most():
    """The rule, fixed before: over 6 kinds and 20 seeds, at least 119 sets have no gap above 1e-3."""
    gaps = {(*kind, seed): gap(*kind, seed) for kind in KINDS for seed in range(20)}
    assert sum(g > 1e-3 for g in gaps.values()) <= 1, {k: g for k, g in gaps.items() if g > 1e-3}


@pytest.mark.parametrize("n", [400, 6000, 40_000])
def test_a_bad_start_does_not_matter(n):
    """Small, larger, and with parts of parts: started at the doubled prompts, the search still ends at the lowest."""
    model, truth, x, y, rng = problem("zero_init", "identity", 0, 3, n)
    twin = doubled(in_q(model, truth)[1]).take(np.array([0, 3, 5]))
    here, there = (fit(model, (x, y), start, BOX, truth) for start in (near(truth, 3, rng), twin))
    assert there.sse == pytest.approx(here.sse, abs=1e-3 * NOISE**2)
    assert here.status == there.status == "converged"
    plain = fit(model, (x, y), twin, BOX, truth, explore=False)
    assert there.sse <= plain.sse + 1e-3 * NOISE**2


@pytest.mark.parametrize("name", ["quarter-rate", "moving-unshared"])
def test_with_little_noise_a_large_search_never_ends_above_a_plain_descent(name):
    """Noise 3e-4, n = 10,000, where few rows do not tell the minima apart: SSE / nu^2 is at most 0.1 above."""
    study = STUDIES[name]
    for truth in range(3):
        setting, rng = study.setting(truth), stream(0, "search", name, truth)
        (rows,) = setting.model.sample(setting.at(10_000), study.noise, 10_000, rng)
        start = near(setting.target(10_000), study.fitted, rng)
        searched, plain = (fit(setting.model, rows, start, study.box, explore=e) for e in (True, False))
        assert searched.sse <= plain.sse + 0.1 * study.noise**2, truth


def test_starts_agree():
    """One start agrees with itself; of two that end in different places half do; a search tells too."""
    model, truth, x, y, rng = problem("zero_init", "identity", 0, 3)
    start = near(truth, 3, rng)
    alone = fit(model, (x, y), start, BOX, explore=False)
    lost = anywhere(model, 3, BOX, rng, 1)[0]
    pair = fit(model, (x, y), [start, lost], BOX, explore=False, max_iterations=1)
    assert (alone.starts_agree, pair.starts_agree) == (1.0, 0.5)
    assert 0 < fit(model, (x, y), start, BOX).starts_agree <= 1


@pytest.mark.parametrize("n", [400, 6000, 40_000])
def test_the_search_is_the_same_every_time(n):
    """Whatever was fitted before: bit for bit."""
    model, truth, x, y, rng = problem("zero_init", "tanh", 1, 0, n)
    start = near(truth, 4, rng)
    first = fit(model, (x, y), start, BOX)
    fit(model, (x[:300], y[:300]), start, BOX)
    again = fit(model, (x, y), start, BOX)
    assert first.sse == again.sse
    assert first.iterations == again.iterations
    np.testing.assert_array_equal(first.prompts.p, again.prompts.p)
