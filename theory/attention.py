"""One attention head as a regression model: the paper's central identity, equations (5), (6) and (10).

Tokens x_1..x_T in R^D, stacked in X (d = T D, E_j X = x_j). The head of size D_h at query token i reads tokens 1..i:

    q_i = R_i W_q' x_i,     k_j = R_j W_k' x_j,     v_j = W_v' x_j            R_j rotates by position (RoPE), or is I
    softmax_j(q_i'k_j / sqrt(D_h)) v_j  +  tanh(alpha) softmax_l(q_i' W_k' p_l / sqrt(D_h)) W_v' p_l

Prompt keys W_k' p_l are not rotated. As a function of X this is `MoERegression` with N = i pre-trained experts and

    A_j = E_i' W_q R_i' R_j W_k' E_j / sqrt(D_h),    a_j = 0,    eta_j = W_v' E_j,
    B   = E_i' W_q R_i' W_k' / sqrt(D_h),            C = W_v',   b = 0,    d' = D_h,    m = D.

The identity also shows that Theorem 4.2 does not cover a trained head: see `ranks`.
"""

from dataclasses import dataclass

import numpy as np

from theory.activations import MLP, Activation
from theory.arrays import count, number, real
from theory.model import MoERegression, Prompts


def rotations(positions, head_size: int, theta: float = 10000.0) -> np.ndarray:
    """Rotary position embedding as matrices: R_t turns the pair (i, i + D_h / 2) by the angle t theta^(-2 i / D_h).

    Coordinates are paired in halves, as in Hugging Face's LLaMA; the original code pairs neighbours (2 i, 2 i + 1),
    which permutes the columns of W_q and W_k and leaves every score as it is.

    Parameters
    ----------
    positions : array of int, (T,)
        Position of each token; `range(T)` for a sequence without padding.
    head_size : int
        D_h, even.
    theta : float
        Base of the frequencies, `rope_theta` in LLaMA's configuration.

    Returns
    -------
    ndarray, (T, D_h, D_h)

    Raises
    ------
    ValueError
        If the head size is odd.
    """
    theta = number("theta", theta, 0, strictly=True)
    if count("head_size", head_size) % 2:
        raise ValueError(f"head_size must be even, as coordinates turn in pairs; got {head_size}")
    first = np.arange(head_size // 2)
    second = first + head_size // 2
    angle = np.outer(real("positions", positions), theta ** (-2 * first / head_size))
    R = np.zeros((len(angle), head_size, head_size))
    R[:, first, first] = R[:, second, second] = np.cos(angle)
    R[:, second, first] = np.sin(angle)
    R[:, first, second] = -np.sin(angle)
    return R


def head_to_model(
    W_q,
    W_k,
    W_v,
    tokens: int,
    query: int | None = None,
    rotation=None,
    activation: str | Activation | MLP = "identity",
    gate: str = "zero_init",
) -> MoERegression:
    """The regression model that one attention head is, at one query token.

    The A_j are dense, (query + 1) (T D)^2 numbers in all: for heads small enough to be looked at, not for training.

    Parameters
    ----------
    W_q, W_k, W_v : array, (D, D_h)
        Projections of this head, acting as x @ W; the transpose of the head's rows in `torch.nn.Linear.weight`.
        W_v may have another number of columns, d'.
    tokens : int
        T, tokens in the input; x of the model is the (n, T, D) token array reshaped to (n, T D).
    query : int, optional
        Token whose output is modelled, from 0; it reads the tokens 0..query. The last one when left out.
    rotation : array, (T, D_h, D_h), optional
        One rotation a token, from `rotations`; none when left out.
    activation : str, Activation or MLP
        sigma of the prompts; the published non-linear prompts pass through an MLP.
    gate : str
        'zero_init' is LLaMA-Adapter's attention, 'joint' the random-initialised one (prompts in the tokens' softmax).

    Raises
    ------
    ValueError
        If shapes disagree or there is no such token.
    """
    W_q, W_k, W_v = (real(name, W) for name, W in (("W_q", W_q), ("W_k", W_k), ("W_v", W_v)))
    if W_q.ndim != 2 or W_q.shape != W_k.shape or W_v.ndim != 2 or len(W_v) != len(W_q):
        shapes = f"W_q {W_q.shape}, W_k {W_k.shape} and W_v {W_v.shape}"
        raise ValueError(f"W_q and W_k must be (D, D_h) and W_v (D, d') with one D; got {shapes}")
    D, size = W_q.shape
    tokens = count("tokens", tokens)
    query = tokens - 1 if query is None else count("query", query, 0)
    if not 0 <= query < tokens:
        raise ValueError(f"query must be a token from 0 to {tokens - 1}; got {query}")
    R = np.broadcast_to(np.eye(size), (tokens, size, size)) if rotation is None else real("rotation", rotation)
    if R.shape != (tokens, size, size):
        raise ValueError(f"rotation must be (T, D_h, D_h) = {(tokens, size, size)}; got {R.shape}")

    reader = W_q @ R[query].T / np.sqrt(size)  # x_i -> R_i W_q' x_i / sqrt(D_h), transposed
    rows = slice(query * D, (query + 1) * D)
    A = np.zeros((query + 1, tokens * D, tokens * D))
    eta = np.zeros((query + 1, W_v.shape[1], tokens * D))
    for j in range(query + 1):
        columns = slice(j * D, (j + 1) * D)
        A[j, rows, columns] = reader @ R[j] @ W_k.T
        eta[j, :, columns] = W_v.T
    B = np.zeros((tokens * D, D))
    B[rows] = reader @ W_k.T
    return MoERegression(A, np.zeros(query + 1), eta, B, W_v.T, activation, gate)


def head_prompts(P, alpha: float | None = None) -> Prompts:
    """Adaption prompts of a layer as prompts of the model: p = P, b = 0.

    Parameters
    ----------
    P : array, (L, D)
        Prompt parameters, before sigma.
    alpha : float, optional
        Gating factor of the head, before tanh; none for the joint gate.
    """
    P = np.atleast_2d(real("P", P))
    return Prompts(P, np.zeros(len(P)), alpha)


@dataclass(frozen=True)
class Ranks:
    """Ranks of B and C against the prompt length m, and what they leave of Theorem 4.2.

    Attributes
    ----------
    B, C, m : int
    failing : tuple of str
        The conditions of Theorem 4.2 that do not hold, in words; empty when both ranks are m.
    """

    B: int
    C: int
    m: int
    failing: tuple[str, ...]

    def __str__(self) -> str:
        head = f"rank B = {self.B}, rank C = {self.C}, prompt length m = {self.m}"
        if not self.failing:
            return f"{head}: both conditions of Theorem 4.2 hold"
        return "\n  - ".join([f"{head}: Theorem 4.2 does not cover this head", *self.failing])


def ranks(model: MoERegression) -> Ranks:
    """Ranks of B and C, and which conditions of Theorem 4.2 fail; for a head both are at most D_h < D = m.

    The paper takes B and C square and invertible without saying that no head of a transformer has such B and C. All
    heads of a layer share the prompts, so stacked they may see every direction; but each head has a softmax of its own,
    and the theorem is about one.
    """
    m = model.m
    lost_B, lost_C, lost_both = (
        m - int(np.linalg.matrix_rank(M)) for M in (model.B, model.C, np.vstack([model.B, model.C]))
    )
    failing = []
    if lost_B:
        failing.append(
            f"B is not of full column rank: {lost_B} of {m} directions of a prompt change no score, and a split of one "
            "atom along them at fixed mean costs nothing"
        )
    if lost_C:
        failing.append(
            f"C is not of rank m: {lost_C} of {m} directions of a prompt change no answer, and a common shift of all "
            "prompts along them is invisible behind a softmax of their own"
        )
    if lost_both:
        failing.append(f"B and C share {lost_both} null directions: along these every single prompt is free")
    if lost_B + lost_C - lost_both == m:
        failing.append(
            "rows of B and C are linearly independent: key and value of a prompt move independently, so that sharing "
            "them binds nothing within this head, and tanh(alpha) is not seen apart from the size of the values"
        )
    return Ranks(m - lost_B, m - lost_C, m, tuple(failing))
