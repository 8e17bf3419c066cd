"""d f / d theta of the regression model, dense: for identifiability and asymptotics, at one point and a few rows.

The estimator never forms it (`theory.reduction`).
"""

import numpy as np
from scipy.special import logsumexp

from theory.arrays import real
from theory.model import MoERegression, Prompts


def jacobian(model: MoERegression, x: np.ndarray, prompts: Prompts) -> np.ndarray:
    """d f / d (p, [p_value], b, [alpha]) at each row of x.

    With scores s_j, weights w_j, t = tanh(alpha) (1 for joint) and g = sum_j w_j C q_j (f itself for joint),

        df/ds_j = t w_j (C q_j - g),    df/dp_j = df/ds_j x'B sigma'(p_j) + t w_j C sigma'(p_j).

    Parameters
    ----------
    model : MoERegression
    x : ndarray, (n, d)
    prompts : Prompts

    Returns
    -------
    ndarray, (n d', K)
        Rows run over outputs fastest; columns stand in the order of `theory.coordinates.Layout`.

    Raises
    ------
    TypeError, ValueError
        If x or the prompts do not fit the model.
    """
    x = real("x", x)
    f = model(x, prompts)
    key, value = model.keys_and_values(prompts)
    scores = x @ model.B @ key.T + prompts.b
    level = model.pretrained(x)[1] if model.joint else np.full(len(x), -np.inf)
    weight = np.exp(scores - logsumexp(np.column_stack([level, scores]), axis=1, keepdims=True))
    t, g = (1.0, f) if prompts.alpha is None else (np.tanh(prompts.alpha), weight @ value @ model.C.T)
    score = t * weight[:, None, :] * ((value @ model.C.T).T - g[:, :, None])  # (n, d', L)
    by_key = np.einsum("noj,nm,jmk->nojk", score, x @ model.B, model.activation.jacobian(prompts.p))
    answer = prompts.p if prompts.p_value is None else prompts.p_value
    by_value = np.einsum("nj,om,jmk->nojk", t * weight, model.C, model.activation.jacobian(answer))
    blocks = [by_key + by_value] if prompts.p_value is None else [by_key, by_value]
    blocks += [score] if prompts.alpha is None else [score, (1 - t * t) * g]
    return np.concatenate([block.reshape(f.size, -1) for block in blocks], axis=1)
