"""One real attention head as a study's model, kept in the few numbers that the model needs: no weights, no text.

A head reads two neighbouring tokens, normalised hidden states x_0, x_1 of a real model on real text, through

    u = (W_q'x_1, W_k'x_0, W_k'x_1, W_v'x_0, W_v'x_1),   5 D_h numbers,

and answers at x_1. Inputs of the study are Gaussian with the second moments of u: u = R z, z ~ N(0, I), R R' = E[u u'].
(To resample stored hidden states would need thousands of them, and rates would stop at their number.)

A prompt is p = U c, where the D_h columns of U are the main axes of hidden states, as long as their root mean squares.
So c ~ N(0, I) is a typical hidden state in these directions, and key W_k'U c and value W_v'U c are both invertible in
c: the conditions of Theorem 4.2. For prompts of the whole hidden space they do not hold (docs/identifiability.md).

    python -m theory.heads DIR/stories260K --text FILE          makes results/theory/head-stories260K.json
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import arguments, seals
from common.arguments import CommandError, Parser
from common.paths import RESULTS, label
from common.records import provenance, write_atomic
from common.texts import read_text
from theory.attention import rotations
from theory.model import MoERegression

CHUNK = 256  # tokens that the real model reads at a time
KIND = "the record of a real head"


@dataclass(frozen=True)
class Head:
    """What a study needs of a head.

    Attributes
    ----------
    theta : float
        Base of the rotary frequencies.
    root : ndarray, (5 D_h, 5 D_h)
        R, lower triangular.
    key, value : ndarray, (D_h, D_h)
        W_k'U and W_v'U.
    """

    theta: float
    root: np.ndarray
    key: np.ndarray
    value: np.ndarray

    def model(self, activation: str = "identity", gate: str = "zero_init") -> MoERegression:
        """The regression model: x = z, d = 5 D_h, m = d' = D_h; tokens stand at positions 0 and 1."""
        size = len(self.key)
        turn = rotations(range(2), size, self.theta)
        q, k, v = slice(0, size), (size, 2 * size), (3 * size, 4 * size)
        A, eta, B = np.zeros((2, 5 * size, 5 * size)), np.zeros((2, size, 5 * size)), np.zeros((5 * size, size))
        for j in range(2):
            A[j, q, k[j] : k[j] + size] = turn[1].T @ turn[j] / np.sqrt(size)
            eta[j, :, v[j] : v[j] + size] = np.eye(size)
        B[q] = turn[1].T @ self.key / np.sqrt(size)
        R = self.root
        return MoERegression(R.T @ A @ R, np.zeros(2), eta @ R, R.T @ B, self.value, activation, gate)


def seen(W_q: np.ndarray, W_k: np.ndarray, W_v: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """u of pairs of hidden states (n, D): (n, 5 D_h). Weights act as x @ W, (D, D_h)."""
    return np.hstack([after @ W_q, before @ W_k, after @ W_k, before @ W_v, after @ W_v])


def axes(states: np.ndarray, count: int) -> np.ndarray:
    """U: the first main axes of hidden states (n, D), about 0, times their root mean squares; (D, count)."""
    square, vectors = np.linalg.eigh(states.T @ states / len(states))
    U = vectors[:, ::-1][:, :count] * np.sqrt(square[::-1][:count])
    return U * np.sign(U[np.abs(U).argmax(0), np.arange(count)])


def head_of(W_q: np.ndarray, W_k: np.ndarray, W_v: np.ndarray, states: np.ndarray, theta: float) -> Head:
    """The head of weights (D, D_h) on hidden states (texts, tokens, D)."""
    u = seen(W_q, W_k, W_v, *(part.reshape(-1, states.shape[-1]) for part in (states[:, :-1], states[:, 1:])))
    U = axes(states.reshape(-1, states.shape[-1]), W_k.shape[1])
    return Head(theta, np.linalg.cholesky(u.T @ u / len(u)), W_k.T @ U, W_v.T @ U)


def read_model(folder: Path, text: str, layer: int, head: int) -> tuple[Head, int]:
    """The head of a real model on a text, and the number of pairs of tokens.

    Raises
    ------
    CommandError
        If the folder is no LLaMA with a tokenizer, there is no such layer or head, or the text is too short.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        options = {"local_files_only": True, "trust_remote_code": False}
        base = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float64, **options).eval()
        ids = AutoTokenizer.from_pretrained(str(folder), **options)(text, verbose=False)["input_ids"]
        blocks, config = base.model.layers, base.config
        groups, size = config.num_attention_heads // config.num_key_value_heads, blocks[0].self_attn.head_dim
        theta = float(config.rope_parameters["rope_theta"])
    except (OSError, ValueError, AttributeError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(f"{folder} must hold a LLaMA and its tokenizer ({reason})") from error
    for name, value, count in (("--layer", layer, len(blocks)), ("--head", head, config.num_attention_heads)):
        if not 0 <= value < count:
            raise CommandError(f"{name} must be from 0 to {count - 1}; got {value}")
    texts = torch.tensor(ids[: len(ids) // CHUNK * CHUNK]).view(-1, CHUNK)
    if len(texts) * (CHUNK - 1) < 100 * size:
        raise CommandError(f"--text must have {100 * size} tokens or more; it has {len(ids)}")
    states: list[np.ndarray] = []
    blocks[layer].input_layernorm.register_forward_hook(lambda module, given, out: states.append(out.numpy()))
    with torch.no_grad():
        for rows in texts.split(16):
            base.model(rows)
    attention = blocks[layer].self_attn
    places = {"q_proj": head, "k_proj": head // groups, "v_proj": head // groups}
    W_q, W_k, W_v = (
        getattr(attention, name).weight.detach().numpy()[place * size : (place + 1) * size].T
        for name, place in places.items()
    )
    found = np.concatenate(states)
    return head_of(W_q, W_k, W_v, found, theta), len(found) * (CHUNK - 1)


def path_of(name: str) -> Path:
    """Where the head of the model of this name is stored."""
    return RESULTS / "theory" / f"head-{name}.json"


def load(path: Path) -> Head:
    """A stored head.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is not as it was written.
    """
    numbers = seals.unsealed(path, KIND)["numbers"]
    size = len(numbers["key"])
    root = np.zeros((5 * size, 5 * size))
    root[np.tril_indices(5 * size)] = numbers["root"]
    return Head(numbers["theta"], root, np.array(numbers["key"]), np.array(numbers["value"]))


def save(head: Head, path: Path, about: dict) -> None:
    """Write a head, nine digits a number, with what it is and where it was made."""
    root = head.root[np.tril_indices(len(head.root))]
    numbers = {"theta": head.theta, "root": _short(root), "key": _short(head.key), "value": _short(head.value)}
    write_atomic(path, seals.sealed({"about": about, "provenance": provenance(), "numbers": numbers}))


def _short(array: np.ndarray) -> list:
    return np.vectorize(lambda x: float(f"{x:.9g}"))(array).tolist()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.heads", description=__doc__)
    parser.add_argument("model", type=arguments.folder, metavar="DIR", help="folder of a LLaMA and its tokenizer")
    parser.add_argument("--text", type=arguments.file, required=True, metavar="FILE", help="what the model reads")
    parser.add_argument("--layer", type=int, default=2, metavar="L", help="layer, from 0 (2)")
    parser.add_argument("--head", type=int, default=0, metavar="H", help="head of it, from 0 (0)")
    parser.add_argument("--out", type=arguments.file, metavar="FILE", help="results/theory/head-NAME.json")
    a = parser.parse_args(argv)

    def work() -> None:
        head, pairs = read_model(a.model, read_text(a.text, "a text"), a.layer, a.head)
        about = {"model": label(a.model), "text": label(a.text), "layer": a.layer, "head": a.head, "pairs": pairs}
        digests = {file.name: seals.digest(file) for file in (*sorted(a.model.glob("*.safetensors")), a.text)}
        out = a.out or path_of(a.model.resolve().name)
        save(head, out, about | {"sha256": digests})
        conditions = {name: np.linalg.cond(getattr(head, name)) for name in ("root", "key", "value")}
        print(f"{out}: {pairs} pairs, condition " + ", ".join(f"{n} {c:.3g}" for n, c in conditions.items()))

    return arguments.run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
