"""Every error of a fit: what the columns of a study's table hold."""

from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from common.streams import stream
from theory.merging import merge
from theory.model import Prompts, canonical, in_q
from theory.studies import Study
from theory.truths import SPLITS
from theory.voronoi import VoronoiLoss, voronoi_loss

NAN = float("nan")


def errors(study: Study, fitted: Prompts, n: int, truth: int = 0) -> dict:
    """Every error of fitted prompts. For `zero_init_unshared` between canonical ones, all that the model can see.

    Parameters
    ----------
    study : Study
    fitted : Prompts
    n, truth : int
        Sample size, with which the truth may move, and number of the truth.
    """
    setting = study.setting(truth)
    model, true = setting.model, setting.target(n)
    difference = model(_held_out(study.seed, study.d), fitted) - _at_truth(study, n, truth)
    seen, goal = canonical(model, fitted), canonical(model, true)
    loss = voronoi_loss(seen, goal)
    if study.gate == "zero_init_unshared":
        loss, after = replace(loss, gating=NAN), loss
    else:
        after = voronoi_loss(in_q(model, fitted)[1], in_q(model, true)[1])
    return {
        "function_error": float(np.sqrt((difference**2).sum(1).mean())),
        "voronoi": loss.total,
        "gating_error": loss.gating,
        "weight_error": loss.weight,
        "exact_prompt_error": loss.exact_prompt_error,
        "over_prompt_error": loss.over_prompt_error,
        "exact_prompt_error_unweighted": loss.exact_prompt_error_unweighted,
        "over_prompt_error_unweighted": loss.over_prompt_error_unweighted,
        "voronoi_q": after.total,
        "exact_prompt_error_q": after.exact_prompt_error,
        "over_prompt_error_q": after.over_prompt_error,
        "cells": "-".join(map(str, loss.cells)),
        "over_term": NAN if np.isnan(loss.over_prompt_error) else loss.over,
        **(halves_errors(seen, goal) if study.moving in SPLITS else _NO_HALVES),
        "gated_prompt_error": NAN if true.alpha is None else float(np.tanh(true.alpha)) * loss.exact_prompt_error,
        "merged_error": merged_loss(seen, goal).total,
        "min_weight": float(seen.weights.min()),
    }


def merged_loss(fitted: Prompts, truth: Prompts) -> VoronoiLoss:
    """The Voronoi loss after merging down to as many prompts as the truth has, those two first that it costs least.

    Merging i and j lowers the second moment of the measure by pi_i pi_j / (pi_i + pi_j) |p_i - p_j|^2. Once the number
    of prompts is right, all moments that the data see are first ones, and D has rate n^-1/2 (dendrograms of mixing
    measures, arXiv 2403.01684; of experts, 2510.12744).
    """
    while len(fitted) > len(truth):
        pi, atoms = fitted.weights, fitted.atoms
        cost = {
            (i, j): pi[i] * pi[j] / (pi[i] + pi[j]) * ((atoms[i] - atoms[j]) ** 2).sum()
            for i, j in combinations(range(len(fitted)), 2)
        }
        fitted = merge(fitted, *min(cost, key=cost.__getitem__))
    return voronoi_loss(fitted, truth)


_NO_HALVES = {"moving_prompt_error": NAN, "value_error": NAN}


def halves_errors(fitted: Prompts, truth: Prompts) -> dict:
    """Errors at the two halves of a moving truth, its prompts j and last, where j is the one nearest to the last.

    `moving_prompt_error`: mean distance from the true halves to the nearest fitted prompt, in p or in the pair
    (p, p_value). `value_error`, of unshared prompts: mean distance of the values, after assigning fitted prompts to
    true ones at the least sum of distances.
    """
    keys = np.linalg.norm(truth.p - truth.p[-1], axis=1)
    both = [int(keys[:-1].argmin()), len(truth) - 1]
    distance = np.linalg.norm(fitted.atoms[:, None] - truth.atoms, axis=-1)
    found = {"moving_prompt_error": float(distance[:, both].min(0).mean()), "value_error": NAN}
    if fitted.p_value is not None and truth.p_value is not None:
        to, of = linear_sum_assignment(distance)
        gap = np.linalg.norm(fitted.p_value[to] - truth.p_value[of], axis=1)
        found["value_error"] = float(gap[np.isin(of, both)].mean())
    return found


@lru_cache(maxsize=16)
def _held_out(seed: int, d: int) -> np.ndarray:
    """Fixed inputs on which the function error is taken."""
    return stream(seed, "held-out", d).standard_normal((4096, d))


@lru_cache(maxsize=256)
def _at_truth(study: Study, n: int, truth: int) -> np.ndarray:
    setting = study.setting(truth)
    return setting.model(_held_out(study.seed, study.d), setting.target(n))
