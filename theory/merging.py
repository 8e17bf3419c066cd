"""Over-specified fits: estimates with fewer prompts than asked for, and where a spare prompt pays.

Two prompts of one place are seen through their total weight and their moments. Let them stand at q +- eps with equal
weights: SSE = SSE(eps = 0) + 2 eps' K eps + O(|eps|^3), with no linear term. If K is positive definite for every
prompt, the least-squares measure has its two prompts in one place, a descent in (p_i, p_j) crawls towards it, and its
Gauss-Newton decrement, a ratio of two numbers that go to 0, does not. So the pair is merged, the problem with one
prompt less is solved, which is regular, and K says, prompt by prompt, in which direction the spare one pays most.
"""

import numpy as np

from theory.model import Prompts

PROBE = 1e-3  # distance at which K is measured by differences of gradients
SIZES = (1.6, 0.8, 0.4, 0.2)  # distances tried along the direction in which SSE falls fastest
LIGHT = 0.08  # share of the lighter of the two: SSE tells the two sides apart by their third moment


def nearest(prompts: Prompts) -> tuple[float, int, int]:
    """Distance of the nearest two prompts, and which two."""
    distance = np.linalg.norm(prompts.atoms[:, None] - prompts.atoms, axis=-1) + np.diag([np.inf] * len(prompts))
    i, j = divmod(int(distance.argmin()), len(prompts))
    return float(distance[i, j]), i, j


def merge(prompts: Prompts, i: int, j: int) -> Prompts:
    """One prompt less: i and j in one, the last, at their weighted mean and with both weights."""
    rho = 1 / (1 + np.exp(prompts.b[j] - prompts.b[i]))
    rest = np.delete(np.arange(len(prompts)), [i, j])

    def joined(a: np.ndarray) -> np.ndarray:
        return np.vstack([a[rest], rho * a[i] + (1 - rho) * a[j]])

    b = np.append(prompts.b[rest], np.logaddexp(prompts.b[i], prompts.b[j]))
    value = None if prompts.p_value is None else joined(prompts.p_value)
    return Prompts(joined(prompts.p), b, prompts.alpha, value)


def double(prompts: Prompts, i: int) -> Prompts:
    """The same measure with one prompt more: i in two halves, the second one last."""
    more = prompts.take(np.append(np.arange(len(prompts)), i))
    b = more.b.copy()
    b[[i, -1]] -= np.log(2)
    return Prompts(more.p, b, more.alpha, more.p_value)


def partings(problem, prompts: Prompts, inside) -> list[np.ndarray]:
    """Ways to spend one prompt more: each prompt in two along the lowest eigenvector of K, the lighter on either side.

    Parameters
    ----------
    problem : theory.problem.LeastSquares
        The problem with one prompt more than `prompts`.
    prompts : Prompts
        A stationary point of the problem with one prompt less.
    inside : callable
        Parameter vector -> nearest one of the box.

    Returns
    -------
    list of ndarray
        Parameter vectors, at the distance of least SSE among SIZES; lowest SSE first.
    """
    layout, found = problem.layout, []
    for i in range(len(prompts)):
        theta = layout.pack(double(prompts, i))
        first, second = (np.concatenate([a[j] for a in layout.atoms]) for j in (i, -1))

        def apart(eps, share=0.5, theta=theta, i=i, first=first, second=second):
            new = theta.copy()
            new[first], new[second] = new[first] + share * eps, new[second] - (1 - share) * eps
            new[layout.b[[i, -1]]] += np.log([2 * (1 - share), 2 * share])
            return new

        slopes = [problem(apart(2 * PROBE * e))[1] for e in np.eye(len(first))]
        K = np.array([slope[first] - slope[second] for slope in slopes]) / (2 * PROBE)
        lowest = np.linalg.eigh((K + K.T) / 2)[1][:, 0]
        for side in (1, -1):
            tried = [inside(apart(side * size * lowest, LIGHT)) for size in SIZES]
            found.append(min(((problem(t)[0], t) for t in tried), key=lambda pair: pair[0]))
    return [theta for _, theta in sorted(found, key=lambda pair: pair[0])]


def probes(prompts: Prompts) -> int:
    """Passes over the data that `partings` takes."""
    return len(prompts) * (prompts.atoms.shape[1] + 2 * len(SIZES))
