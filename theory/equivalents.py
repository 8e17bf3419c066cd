"""Other prompts with the same regression function: each family by name, with its null directions and a witness.

With a softmax of their own, shared prompts q = sigma(p) enter through a log-partition function only,

    f(X) - f0(X) = tanh(alpha) C (grad log Z)(B'X),       Z(u) = sum_j exp(b_j + q_j'u),

since its gradient is the softmax-weighted mean of the q_j. Three things are read off it: Z -> e^c Z (the gauge of the
biases), Z -> exp(c'u) Z with C c = 0 (a common shift where rank C < m), and Z -> Z^2 with tanh(alpha) -> tanh(alpha)/2.
Z^2 has the atoms q_i + q_j: between 2 L - 1 and L (L + 1) / 2 of them. Hence, where L' is that large, and always for
L = 2 and L' = 3, the measure and the gating factor are not identified, whatever B and C are. Theorem 4.2 leaves this
out, as it does the other conditions here; a box that excludes the doubled prompts restores it. (Likewise a truth whose
Z is a square has a root with fewer atoms; of truths drawn from a density none is, so this is not searched for.) A joint
softmax has none of these: the pre-trained scores fix the level of Z, its tilt and its power. docs/identifiability.md
has the proofs.

Everything here is in q, see `theory.model.in_q`. `theory.identifiability` asks which of it matters to a study.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import root

from theory.activations import MLP, Activation
from theory.coordinates import Layout
from theory.model import MoERegression, Prompts

TOLERANCE = 1e-9  # relative size below which a number counts as zero


@dataclass(frozen=True)
class Finding:
    """One reason why prompts are not identified.

    Attributes
    ----------
    condition : str
        A key of `theory.identifiability.CURES`; or 'bias gauge', 'key shift', 'value scale': the gauges, which losses
        normalise away.
    words : str
    directions : ndarray, (K, k)
        Null directions of the Jacobian in the coordinates (q, [q_value], b, [alpha]), q = sigma(p); maybe none.
    witness : Prompts or None
        Other prompts with the same f, as q.
    change : float
        Largest |f(witness) - f(truth)| over the largest |f(truth) - f0|: rounding only.
    """

    condition: str
    words: str
    directions: np.ndarray
    witness: Prompts | None = None
    change: float = np.nan


def families(model: MoERegression, q: Prompts) -> list[Finding]:
    """Continuous families through q that follow from the gate, B, C, L and alpha."""
    (L, m), own, shared = q.p.shape, not model.joint, not model.unshared
    layout, found = Layout(model, L), []
    null_B, null_C, null_both = (null_space(M) for M in (model.B, model.C, np.vstack([model.B, model.C])))
    lost_B, lost_C, lost_both = (N.shape[1] for N in (null_B, null_C, null_both))
    ranks = f"rank B = {m - lost_B}, rank C = {m - lost_C}, m = {m}"

    def each(array, N):
        return lambda c: replace(q, **{array: getattr(q, array) + c.reshape(L, -1) @ N.T})

    def together(N):
        return lambda c: replace(q, p=q.p + N @ c)

    def scaled(array, step):
        t = np.tanh(q.alpha or 0.0)  # steps of size 1 - t^2 keep tanh(alpha) under 1
        return lambda c: replace(
            q,
            **{array: getattr(q, array) + np.expm1(c * (1 - t * t)) * step},
            alpha=np.arctanh(t * np.exp(-c[0] * (1 - t * t))),
        )

    def add(condition, words, k, path):
        """Prompts path(c), c in R^k, all have the f of path(0): k null directions and a witness follow."""
        h = 1e-5
        directions = [(layout.pack(path(h * e)) - layout.pack(path(-h * e))) / (2 * h) for e in np.eye(k)]
        words += f" ({k} null direction{'s' * (k > 1)})"
        found.append(Finding(condition, words, np.array(directions).T, path(np.linspace(0.5, 1.0, k))))

    if own:
        add("bias gauge", "a common shift of all b", 1, lambda c: replace(q, b=q.b + c))
    if own and not shared:
        add("key shift", "a common shift of all keys q^K", m, together(np.eye(m)))
        words = "tanh(alpha) against the size of the values q^V"
        add("value scale", words, 1, scaled("p_value", q.atoms[:, m:]))
    if own and shared and lost_C:
        words = f"{ranks}: a common shift of all prompts along null C"
        add("rank C", words, lost_C, together(null_C))
    if own and shared and (step := _step_that_scales_values(model, q, null_B)) is not None:
        name = "L = 1" if L == 1 else "rank B" if lost_B else "rank C"
        words = f"L = {L}, {ranks}: only tanh(alpha) C q is seen, not alpha against the size of C q"
        add(name, words, 1, scaled("p", step))
    if shared and lost_both:
        words = f"{ranks}: every prompt alone, in null B and null C at once"
        add("rank B", words, L * lost_both, each("p", null_both))
    if not shared and lost_B:
        words = f"{ranks}: every key q^K alone, along null B"
        add("rank B", words, L * lost_B, each("p", null_B))
    if not shared and lost_C:
        words = f"{ranks}: every value q^V alone, along null C"
        add("rank C", words, L * lost_C, each("p_value", null_C))
    if q.alpha is not None and abs(np.tanh(q.alpha)) < TOLERANCE:
        words = f"alpha* = {q.alpha:g}: the prompts vanish from f, every p and b is free"
        elsewhere = each("p", np.eye(m))(np.linspace(0.5, 1.0, L * m))
        found.append(Finding("alpha = 0", words, np.eye(layout.size)[:, :-1], elsewhere))
    return found


def _step_that_scales_values(model: MoERegression, q: Prompts, null_B: np.ndarray) -> np.ndarray | None:
    """Steps s_j of the prompts with C s_j = C q_j and all B s_j equal, (L, m), if there are any.

    They are c + n_j with n_j in null B: always for L = 1 (c = q_1), and wherever the rows of B and C are independent,
    as in an attention head with 2 D_h <= D, where W_k'p and W_v'p are as free as separate key and value prompts.
    """
    L, m = q.p.shape
    steps = np.hstack([np.kron(np.ones((L, 1)), np.eye(m)), np.kron(np.eye(L), null_B)])
    wanted = (q.p @ model.C.T).ravel()
    scaled = np.kron(np.eye(L), model.C) @ steps
    step = np.linalg.lstsq(scaled, wanted)[0]
    if np.abs(scaled @ step - wanted).max() > TOLERANCE * np.abs(wanted).max():
        return None
    return (steps @ step).reshape(L, m)


def equal_keys(model: MoERegression, q: Prompts, J: np.ndarray) -> list[Finding]:
    """Pairs of true prompts with one score: only the sum of their weights and their mean answer are seen.

    If their answers agree as well, small opposite moves of the two keys are hidden to first order. J is the Jacobian
    at q, or the R of its QR factorisation.
    """
    L, layout, found = len(q), Layout(model, len(q)), []
    array = "p_value" if model.unshared else "p"
    scores, values = q.p @ model.B.T, getattr(q, array)
    for i, j in zip(*np.triu_indices(L, 1), strict=True):
        if np.abs(scores[i] - scores[j]).max() > TOLERANCE * (1 + np.abs(scores).max()):
            continue
        pair = np.concatenate([a[[i, j]].ravel() for a in (*layout.atoms, layout.b)])
        directions = np.eye(layout.size)[:, pair] @ null_space(J[:, pair], rcond=TOLERANCE)
        # The witness has 1/4 and 3/4 of the pair's weight, at places on both sides of the same mean.
        total, gap = np.logaddexp(q.b[i], q.b[j]), values[i] - values[j]
        mean = values[j] + np.exp(q.b[i] - total) * gap
        b, moved = q.b.copy(), values.copy()
        b[[i, j]], moved[i], moved[j] = total + np.log([0.25, 0.75]), mean + gap, mean - gap / 3
        words = f"true prompts {i} and {j} have one key B q, so their weights and values can be traded"
        found.append(Finding("equal keys", words, directions, replace(q, **{array: moved}, b=b)))
    return found


def with_more_prompts(
    model: MoERegression, q: Prompts, most: int, sigma: Activation | MLP, bound: float
) -> list[Finding]:
    """Prompts with up to `most` > L atoms and the same f, away from the truth: no null direction shows them.

    Doubled prompts count only if each is sigma(p) of some |p| <= bound.
    """
    L, none, found = len(q), np.zeros((Layout(model, len(q)).size, 0)), []
    more = f"L' = {most} > L = {L}"
    split = q.take(np.r_[0, :L])  # prompt 0 twice, with half its weight each
    split = replace(split, b=split.b - np.log(2) * (np.arange(L + 1) < 2))
    sides = np.r_[1.0, -1.0, np.zeros(L - 1)][:, None]
    null_B = null_space(model.B)
    if split.p_value is not None:
        words = f"{more}: fitted prompts with one key trade their values freely"
        found.append(Finding("value trade", words, none, replace(split, p_value=split.p_value + sides)))
    elif null_B.size:
        words = f"rank B = {model.m - null_B.shape[1]} < m = {model.m}, {more}: atoms split along null B at no cost"
        found.append(Finding("rank B", words, none, replace(split, p=split.p + sides * null_B.sum(1))))
    if q.alpha is not None and L > 1 and not model.unshared:
        twin = doubled(q)
        if len(twin) <= most and all(_in_range(sigma, place, bound) for place in twin.p):
            words = f"{more}: {len(twin)} prompts at the sums q_i + q_j, with half the tanh(alpha), give the same f"
            found.append(Finding("doubled prompts", words, none, twin))
    return found


def doubled(q: Prompts) -> Prompts:
    """Z^2 and tanh(alpha) / 2: atoms at the sums q_i + q_j, i <= j, sums of one place together."""
    i, j = np.triu_indices(len(q))
    sums, logs = q.p[i] + q.p[j], q.b[i] + q.b[j] + np.log(1.0 + (i != j))
    _, first, same = np.unique(np.round(sums, 9), axis=0, return_index=True, return_inverse=True)
    b = logs.max() + np.log(np.bincount(same.ravel(), np.exp(logs - logs.max())))
    return Prompts(sums[first], b, np.arctanh(np.tanh(q.alpha or 0.0) / 2))


def _in_range(sigma: Activation | MLP, place: np.ndarray, bound: float) -> bool:
    """Whether some p with |p| <= bound has sigma(p) = place."""
    solution = root(lambda p: sigma(p[None])[0] - place, 0 * place, jac=lambda p: sigma.jacobian(p[None])[0])
    return bool(solution.success and np.abs(solution.x).max() <= bound)
