"""The Voronoi loss between mixing measures, equation (15).

    D = sum_j | sum_{i in V_j} pi_i - pi*_j |
        + sum_{|V_j| = 1} pi_i |p_i - p*_j|  +  sum_{|V_j| > 1} sum_{i in V_j} pi_i |p_i - p*_j|^2

V_j holds the fitted prompts nearest to the true prompt j. Weights pi are softmax(b) where the prompts have a softmax
of their own and exp(b) in a joint one, as `Prompts.weights` says; the paper writes exp(b) throughout, but with a
softmax of their own a common shift of b changes D and not the function. D leaves the gate out; it stands beside D.
"""

from dataclasses import dataclass

import numpy as np

from theory.arrays import instance
from theory.model import Prompts


@dataclass(frozen=True)
class VoronoiLoss:
    """D of equation (15), its terms, and the errors that the theorems bound.

    Attributes
    ----------
    total : float
        D = weight + exact + over.
    weight : float
        Missing or surplus weight, summed over cells; an empty cell misses all of its weight.
    exact, over : float
        Prompt terms of cells with one fitted prompt (first power) and with several (second power).
    gating : float
        |alpha^ - alpha*|; nan for the joint gates.
    exact_prompt_error, over_prompt_error : float
        Mean of |p_i - p*_j| under the weights pi_i, over cells with one and with several; nan where there is none.
    exact_prompt_error_unweighted, over_prompt_error_unweighted : float
        The same without weights: a prompt whose weight vanishes counts, though nothing makes it converge.
    cells : tuple of int
        Number of fitted prompts of each true one.
    """

    total: float
    weight: float
    exact: float
    over: float
    gating: float
    exact_prompt_error: float
    over_prompt_error: float
    exact_prompt_error_unweighted: float
    over_prompt_error_unweighted: float
    cells: tuple[int, ...]


def voronoi_loss(fitted: Prompts, truth: Prompts) -> VoronoiLoss:
    """The loss of `fitted` against `truth`; zero exactly when their mixing measures are equal.

    Order does not matter, and prompts at one place count as one prompt of their total weight. For the unshared gates a
    prompt is the pair (p, p_value).

    Raises
    ------
    TypeError
        If one of the two is no Prompts.
    ValueError
        If the two are not parameters of one gate, prompts differ in length, or a number or the loss is not finite.
    """
    for name, prompts in (("fitted", fitted), ("truth", truth)):
        instance(name, prompts, Prompts)
        if not all(np.isfinite(array).all() for array in vars(prompts).values() if array is not None):
            raise ValueError(f"{name} prompts must be finite, but they have NaN or infinite values")
    if (kinds := [_kind(prompts) for prompts in (fitted, truth)])[0] != kinds[1]:
        raise ValueError(f"fitted and true prompts must be of one gate and one length; got {' and '.join(kinds)}")
    with np.errstate(over="ignore", invalid="ignore"):
        loss = _loss(fitted, truth)
    if not np.isfinite(loss.total):
        largest = max(np.abs(part).max() for p in (fitted, truth) for part in (p.atoms, p.b))
        raise ValueError(f"prompts or weights are too large: the loss is {loss.total}; |p| or |b| is {largest:.3g}")
    return loss


def _kind(prompts: Prompts) -> str:
    shared = "shared" if prompts.p_value is None else "unshared"
    return f"{shared} prompts of length {prompts.p.shape[1]} {'without' if prompts.alpha is None else 'with'} alpha"


def _loss(fitted: Prompts, truth: Prompts) -> VoronoiLoss:
    places, weights = _distinct(truth)
    distance = np.linalg.norm(fitted.atoms[:, None] - places, axis=-1)
    cell = distance.argmin(1)
    distance = distance[np.arange(len(cell)), cell]
    pi = fitted.weights
    # Fitted prompts at one place are one atom: a cell is crowded by places, not by copies.
    atoms = np.unique(fitted.atoms, axis=0, return_inverse=True)[1].ravel()
    count = np.array([len(np.unique(atoms[cell == j])) for j in range(len(places))])
    single = count[cell] == 1
    weight = np.abs(np.bincount(cell, pi, len(places)) - weights).sum()
    exact, over = pi[single] @ distance[single], pi[~single] @ distance[~single] ** 2
    return VoronoiLoss(
        total=float(weight + exact + over),
        weight=float(weight),
        exact=float(exact),
        over=float(over),
        gating=float("nan") if truth.alpha is None or fitted.alpha is None else abs(fitted.alpha - truth.alpha),
        exact_prompt_error=_mean(distance[single], pi[single]),
        over_prompt_error=_mean(distance[~single], pi[~single]),
        exact_prompt_error_unweighted=_mean(distance[single], np.ones(single.sum())),
        over_prompt_error_unweighted=_mean(distance[~single], np.ones((~single).sum())),
        cells=tuple(int(c) for c in np.bincount(cell, minlength=len(places))),
    )


def _distinct(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Places of the mixing measure and their weights, copies added up."""
    places, index = np.unique(prompts.atoms, axis=0, return_inverse=True)
    if len(places) == len(prompts):  # keep the order, so that cells are those of the true prompts as given
        return prompts.atoms, prompts.weights
    return places, np.bincount(index.ravel(), prompts.weights)


def _mean(error: np.ndarray, weight: np.ndarray) -> float:
    return float(weight @ error / weight.sum()) if len(error) else float("nan")
