"""What real models see of a prompt: dimensions, ranks and conditioning of their key and value weights.

MODEL is a folder with config.json and, where weights are to be measured, *.safetensors; a config.json alone; or a name
on the Hugging Face hub (its configuration alone, unless --weights). Without a MODEL the table has the models of
theory/shapes.py, counted from their dimensions.

    python -m theory.real
    python -m theory.real results/scratch/models/smollm2 huggyllama/llama-7b
"""

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common import arguments, journal, seals, tables
from common.arguments import CommandError, Parser
from common.paths import RESULTS
from common.sources import fetch, why_local
from common.streams import stream
from common.tables import Column
from theory.shapes import NETWORK, SHAPES, Shape, counted

FULL_RANK = 1e-10  # singular values below this share of the largest count as 0
_NAME = re.compile(r"layers\.(\d+)\.self_attn\.(k_proj|v_proj|qkv_proj)\.weight$")
_COUNT, _SOME = Column("integer", 0), Column("integer", 0, also=("",))
_CONDITION = Column("number", 1, also=("",))
MEASURED = {
    "network_rank": _SOME,
    "condition_low": _CONDITION,
    "condition_high": _CONDITION,
    "head_rank": _SOME,
    "head_condition_low": _CONDITION,
    "head_condition_high": _CONDITION,
}
COLUMNS = {
    "model": Column(),
    "family": Column(),
    **dict.fromkeys(("layers", "hidden", "heads", "kv_heads", "head_dim"), Column("integer", 1)),
    "keys_normalised": Column(words=("yes", "no")),
    **dict.fromkeys(("seen", "invisible", "value_numbers", "value_free_of_key"), _COUNT),
    **dict.fromkeys(("network_seen", "network_value_free_of_key", "prompt_numbers", "saved"), _COUNT),
    "source": Column(words=("dimensions", "weights")),
    **MEASURED,
}


def shape_of(path: Path, name: str) -> Shape:
    """Dimensions from a configuration, by transformers; no code of the folder runs.

    Raises
    ------
    CommandError
        If it is none of a decoder that transformers knows.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        text = config.get_text_config()
        heads, hidden = text.num_attention_heads, text.hidden_size
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head_dim = getattr(text, "head_dim", None) or hidden // heads
        return Shape(name, text.model_type, text.num_hidden_layers, hidden, heads, kv_heads, head_dim)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(
            f"{path} must hold the configuration of a decoder that transformers knows ({reason})"
        ) from error


def projections(folder: Path, shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """W_k and W_v of each layer, (kv_heads head_dim, hidden) each; nothing if the folder has no *.safetensors.

    Raises
    ------
    CommandError
        If weights of a layer are missing, or of another shape than the configuration says.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        return
    from safetensors import SafetensorError, safe_open

    places: dict[int, dict[str, tuple[Path, str]]] = defaultdict(dict)
    try:
        for file in files:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118  (not a dict)
                    if found := _NAME.search(name):
                        places[int(found[1])][found[2]] = file, name
        for layer in range(shape.layers):
            here = {}
            for part, (file, name) in places[layer].items():
                with safe_open(file, "pt") as tensors:
                    here[part] = tensors.get_tensor(name).double().numpy()
            yield _pair(here, shape, f"layer {layer} of {folder}")
    except SafetensorError as error:
        raise CommandError(f"{folder} has a damaged *.safetensors file ({error}); fetch it again") from error


def _pair(here: dict[str, np.ndarray], shape: Shape, where: str) -> tuple[np.ndarray, np.ndarray]:
    if "qkv_proj" in here:
        here = dict(zip(("k_proj", "v_proj"), np.split(here["qkv_proj"][-2 * shape.values :], 2), strict=True))
    for part in ("k_proj", "v_proj"):
        if part not in here or here[part].shape != (shape.values, shape.hidden):
            got = here[part].shape if part in here else "none"
            raise CommandError(
                f"{where} must have a self_attn.{part}.weight of shape {(shape.values, shape.hidden)}; got {got}"
            )
    return here["k_proj"], here["v_proj"]


def rank_and_condition(matrix: np.ndarray) -> tuple[int, float]:
    """Rank, and largest singular value over the smallest that counts."""
    singular = np.linalg.svd(matrix, compute_uv=False)
    rank = int((singular > FULL_RANK * singular[0]).sum())
    return rank, float(singular[0] / singular[max(rank - 1, 0)])


def measure(shape: Shape, W_k: np.ndarray, W_v: np.ndarray) -> dict[str, float]:
    """Ranks and condition numbers of one layer.

    Where keys are normalised, W_k is replaced by the derivative of k / |k| up to scale, (I - k k' / |k|^2) W_k head by
    head, at a random prompt. `network_rank` is the rank of key and value in the 64 numbers of a random last linear map
    of the published non-linear prompts.
    """
    found = {"linear": rank_and_condition(np.vstack([W_k, W_v]))[0]}
    if shape.normalised:
        key = (W_k @ stream(0, "prompt").standard_normal(shape.hidden)).reshape(shape.kv_heads, -1, 1)
        unit = key / np.linalg.norm(key, axis=1, keepdims=True)
        heads = W_k.reshape(shape.kv_heads, shape.head_dim, shape.hidden)
        W_k = (heads - unit @ (np.swapaxes(unit, 1, 2) @ heads)).reshape(W_k.shape)
    both = np.vstack([W_k, W_v])
    rank, condition = rank_and_condition(both)
    network = stream(0, "network").standard_normal((shape.hidden, NETWORK))
    found |= {"seen": rank, "keys": rank_and_condition(W_k)[0], "condition": condition}
    found["network_rank"] = rank_and_condition(both @ network)[0]
    cut = (W.reshape(shape.kv_heads, shape.head_dim, shape.hidden) for W in (W_k, W_v))
    each = [rank_and_condition(np.vstack(pair)) for pair in zip(*cut, strict=True)]
    found |= {"head_rank": min(r for r, _ in each)}
    return found | {"head_low": min(c for _, c in each), "head_high": max(c for _, c in each)}


def row_of(shape: Shape, folder: Path | None) -> dict:
    """A row of the table: the lowest rank of any layer, the range of condition numbers."""
    layers = [measure(shape, *pair) for pair in projections(folder, shape)] if folder else []
    if not layers:
        return counted(shape) | {"source": "dimensions"} | dict.fromkeys(MEASURED)
    low, high = ({name: pick(found[name] for found in layers) for name in layers[0]} for pick in (min, max))
    return counted(shape, (int(low["seen"]), int(low["keys"]), int(low["linear"]))) | {
        "source": "weights",
        "network_rank": low["network_rank"],
        "condition_low": round(low["condition"], 2),
        "condition_high": round(high["condition"], 2),
        "head_rank": low["head_rank"],
        "head_condition_low": round(low["head_low"], 2),
        "head_condition_high": round(high["head_high"], 2),
    }


def words(row: dict) -> str:
    """A row in words."""
    binding = "free of each other" if row["value_free_of_key"] == row["value_numbers"] else "bound to each other"
    text = (
        f"{row['model']} ({row['family']}, {row['layers']} layers): a layer has {row['kv_heads']} key-value heads of "
        f"size {row['head_dim']} and sees {row['seen']} of a prompt's {row['hidden']} numbers ({row['source']}); "
        f"key and value of a linear prompt are {binding}; of a non-linear one {row['network_seen']} numbers are seen"
    )
    if row["keys_normalised"] == "yes":
        text += "; keys are normalised"
    if row["source"] == "weights":
        text += f"; condition {row['condition_low']:g} to {row['condition_high']:g}, of single heads "
        text += f"{row['head_condition_low']:g} to {row['head_condition_high']:g}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    parser = Parser(prog="python -m theory.real", description=__doc__)
    parser.add_argument("model", nargs="*", metavar="MODEL", help="folders, config.json files or names on the hub")
    parser.add_argument("--weights", action="store_true", help="fetch the weights of names on the hub, too")
    parser.add_argument(
        "--out",
        type=arguments.folder,
        default=RESULTS / "theory",
        metavar="DIR",
        help="folder of real_models.csv, whose other rows stay (results/theory)",
    )
    a = parser.parse_args(argv)

    def work() -> None:
        path, digests = a.out / "real_models.csv", {}
        every = {r["model"]: r for r in tables.read(path, COLUMNS, ("model",))}
        found = [] if a.model else [row_of(shape, None) for shape in SHAPES]
        for source in a.model:
            folder = Path(source).expanduser()
            if not why_local(source):
                folder = fetch(source, "config.json", *(("*.safetensors",) if a.weights else ()))
            elif not folder.exists():
                raise CommandError(f"MODEL must be a folder, a config.json or a name on the hub; there is no {source}")
            name = folder.parent.name if folder.is_file() else Path(source).name
            shape = shape_of(folder, name)
            found.append(row_of(shape, folder))
            digests[name] = {f.name: seals.digest(f) for f in sorted(folder.glob("*.safetensors"))}
        order = [s.model for s in SHAPES]
        every |= {row["model"]: row for row in found}
        record = journal.claim(a.out / "real_models.json", {"table": path.name})
        record["results"] |= {name: digest for name, digest in digests.items() if digest}
        journal.save(a.out / "real_models.json", record)
        known = sorted(every, key=lambda m: (order.index(m) if m in order else len(order), m))
        tables.finish(path, [every[m] for m in known], COLUMNS)
        print("\n".join(map(words, found)))

    return arguments.run(parser.prog, work, stopped="")


if __name__ == "__main__":
    sys.exit(main())
