"""Pair coordinates: each has the moment it is made for, and their Jacobian is the derivative of the move."""

import numpy as np
import pytest
from problems import random_problem

from theory.coordinates import Layout
from theory.model import GATES


@pytest.mark.parametrize("gate", GATES)
def test_pack_and_unpack(gate):
    model, prompts = random_problem(gate, L=4)
    layout = Layout(model, 4)
    again = layout.unpack(layout.pack(prompts))
    assert len(layout.names) == layout.size
    np.testing.assert_array_equal(again.atoms, prompts.atoms)
    np.testing.assert_array_equal(again.b, prompts.b)
    assert again.alpha == prompts.alpha


@pytest.mark.parametrize("gate", GATES)
def test_jacobian_is_the_derivative_of_the_move(gate):
    model, prompts = random_problem(gate, L=5)
    layout = Layout(model, 5)
    theta, pairs = layout.pack(prompts), [(1, 3), (0, 4)]
    J = layout.pair_jacobian(theta, pairs)
    for k, direction in enumerate(np.eye(layout.size)):
        plus, minus = (layout.move(theta, s * 1e-5 * direction, pairs) for s in (1, -1))
        np.testing.assert_allclose((plus - minus) / 2e-5, J[:, k], atol=1e-8)
    np.testing.assert_allclose(layout.move(theta, np.zeros(layout.size), pairs), theta, atol=1e-14)


def test_each_coordinate_moves_one_moment():
    """eps moves the second moment only, s the third only, beta the weight only, mu the mean only."""
    model, prompts = random_problem("joint", L=3)
    layout = Layout(model, 3)
    theta, (i, j) = layout.pack(prompts), (0, 2)

    def moments(theta):
        p, w = theta[layout.atoms[0][[i, j]]], np.exp(theta[layout.b[[i, j]]])
        rho = w / w.sum()
        centred = p - rho @ p
        third = np.einsum("a,ai,aj,ak->ijk", rho, centred, centred, centred)
        return w.sum(), rho @ p, np.einsum("a,ai,aj->ij", rho, centred, centred), third

    before = moments(theta)
    moved = {layout.b[i]: 0, layout.atoms[0][i][0]: 1, layout.b[j]: 3}
    for position, changes in moved.items():
        step = np.zeros(layout.size)
        step[position] = 0.3
        after = moments(layout.move(theta, step, [(i, j)]))
        for k in range(4):
            same = np.allclose(before[k], after[k], rtol=0, atol=1e-12)
            assert same == (k != changes), (position, k)


def test_pairs_are_disjoint_near_and_free():
    model, prompts = random_problem("zero_init", L=4)
    layout = Layout(model, 4)
    theta = layout.pack(prompts)
    theta[layout.atoms[0]] = [[0, 0, 0], [0.1, 0, 0], [3, 3, 3], [3.2, 3, 3]]
    none = np.zeros(layout.size, bool)
    assert layout.pairs(theta, none) == [(0, 1), (2, 3)]
    held = none.copy()
    held[layout.b[1]] = True
    assert layout.pairs(theta, held) == [(2, 3)]
