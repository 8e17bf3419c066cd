"""Small random problems and a literal model in torch, shared by the tests of the theory part."""

import numpy as np
import torch

from common.streams import stream
from theory.model import MoERegression, Prompts

SIGMA = {
    "identity": lambda p: p,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": torch.nn.functional.gelu,
    "leaky_relu": lambda p: torch.nn.functional.leaky_relu(p, 0.1),
    "softplus": torch.nn.functional.softplus,
}


def random_problem(gate="zero_init", activation="identity", d=3, d_out=3, L=3, m=None, seed=0, scale=1.0):
    """A model of orthonormal B and C (where square) and prompts for it."""
    rng, m = stream(seed, "problem", gate, activation, d, d_out, L), m or d
    model = MoERegression(
        0.3 * rng.standard_normal((2, d, d)),
        0.3 * rng.standard_normal(2),
        rng.standard_normal((2, d_out, d)),
        np.linalg.qr(rng.standard_normal((max(d, m), max(d, m))))[0][:d, :m],
        np.linalg.qr(rng.standard_normal((max(d_out, m), max(d_out, m))))[0][:d_out, :m],
        activation,
        gate,
    )
    b = 0.3 * rng.standard_normal(L)
    prompts = Prompts(
        scale * rng.standard_normal((L, m)),
        b - b.mean(),
        None if model.joint else 0.8,
        scale * rng.standard_normal((L, m)) if model.unshared else None,
    )
    return model, prompts


def literal_residual(model: MoERegression, layout, x, y):
    """theta -> flattened y - f(x), in torch, from the definition of the model."""
    X, Y = torch.tensor(x), torch.tensor(y)
    A, a, eta, B, C = (torch.tensor(v) for v in (model.A, model.a, model.eta, model.B, model.C))
    pre = torch.einsum("ni,jik,nk->nj", X, A, X) + a
    experts = torch.einsum("jod,nd->njo", eta, X)
    if model.activation.name == "mlp":
        W1, W2, c = (torch.tensor(v) for v in (model.activation.W1, model.activation.W2, model.activation.c))

        def sigma(p):
            return torch.tanh(p @ W1.T + c) @ W2.T
    else:
        sigma = SIGMA[model.activation.name]

    def residual(theta):
        key, value = sigma(theta[layout.atoms[0]]), sigma(theta[layout.atoms[-1]])
        scores, values = X @ (B @ key.T) + theta[layout.b], (value @ C.T).expand(len(X), -1, -1)
        if model.joint:
            w = torch.softmax(torch.cat([pre, scores], 1), 1)
            f = torch.einsum("nj,njo->no", w, torch.cat([experts, values], 1))
        else:
            f = torch.einsum("nj,njo->no", torch.softmax(pre, 1), experts)
            f = f + torch.tanh(theta[-1]) * torch.einsum("nj,njo->no", torch.softmax(scores, 1), values)
        return (Y - f).ravel()

    return residual
