"""What an adapter learnt: gates, attention mass on prompts, and norms of prompts, per layer and head.

    python -m zeroinit.gates FOLDER [--out FOLDER]        writes gates.csv and gates.png

The mass of the prompts of a head is their share of all absolute attention weights of a query. In zero_init text weights
sum to 1 and prompt weights to tanh(g), so it is |tanh(g)| / (1 + |tanh(g)|), whatever the input; in random_init, and
with the input-dependent gate, it is a mean over the tokens of a text and needs the model.
"""

import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zeroinit import files
from zeroinit.adapter import Adapter
from zeroinit.command import Parser, path
from zeroinit.model import attached

COLUMNS: tuple[str, ...] = ("layer", "head", "gate", "effective_gate", "prompt_mass", "prompt_norm")
EXAMPLES = """examples:
  python -m zeroinit.gates my-adapter                      my-adapter/gates.csv and my-adapter/gates.png
  python -m zeroinit.gates my-adapter --out pictures       beside other pictures
"""


def read(folder: str | os.PathLike) -> Adapter:
    """The adapter saved in `folder`, without a model; errors as in `zeroinit.load`."""
    config, shape, state = files.read(folder)
    adapter = Adapter(config, shape)
    adapter.load_state_dict(state)
    return adapter


@torch.no_grad()
def table(adapter: Adapter, mass: Tensor | None = None) -> list[dict[str, Any]]:
    """One row per adapted layer and head.

    Parameters
    ----------
    adapter : Adapter
        From `read`, or of a model in memory.
    mass : Tensor, (K, heads), or None
        Measured by `prompt_mass`; None: from the gates where they determine it, else left out (None).

    Returns
    -------
    list of dict
        layer (of the base), head, gate g (norm of g for the input-dependent gate), effective_gate tanh(g) (None where
        it depends on the input), prompt_mass, prompt_norm (mean Euclidean norm of the layer's prompts).
    """
    rows = []
    for row in range(adapter.layers):
        layer = adapter.first + row
        norm = adapter.prompts_of(layer).norm(dim=-1).mean().item()
        for head in range(adapter.shape.num_attention_heads):
            gate = effective = share = None
            if not adapter.joint:
                gate = (
                    adapter.gate[row, head].norm().item() if adapter.input_dependent else adapter.gate[row, head].item()
                )
            if not adapter.joint and not adapter.input_dependent:
                effective = adapter.gate_of(layer)[head].item()
                share = abs(effective) / (1 + abs(effective))
            if mass is not None:
                share = mass[row, head].item()
            rows.append(dict(zip(COLUMNS, (layer, head, gate, effective, share, norm), strict=True)))
    return rows


@torch.no_grad()
def prompt_mass(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Measured share of attention on the active adapter's prompts, mean over all tokens of the texts: (K, heads)."""
    adapter = attached(model).active_adapter
    heads, seen = adapter.shape.num_attention_heads, torch.ones_like(input_ids)
    seen = (seen if attention_mask is None else attention_mask).bool()
    if not adapter.joint and not adapter.input_dependent:
        gates = torch.stack([adapter.gate_of(adapter.first + row) for row in range(adapter.layers)]).abs()
        return gates / (1 + gates)
    masses: dict[int, Tensor] = {}  # (batch, tokens, heads) by layer
    with attached(model).override(masses=masses):
        model(input_ids, attention_mask=attention_mask)
    mass = torch.stack([masses[layer][seen].double().mean(0) for layer in sorted(masses)])
    assert mass.shape == (adapter.layers, heads)
    return mass


def write_csv(rows: list[dict[str, Any]], file: str | os.PathLike) -> None:
    """Write a table; what is not determined stays empty."""
    with files.whole(Path(file)) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as text:
        table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def heat_map(rows: list[dict[str, Any]], file: str | os.PathLike, column: str = "effective_gate") -> None:
    """Draw one column of a table over layers and heads.

    Raises
    ------
    ValueError
        If the column is unknown or has no value for this kind of adapter.
    """
    from matplotlib.figure import Figure

    if column not in COLUMNS[2:]:
        raise ValueError(f"column must be one of {', '.join(COLUMNS[2:])}; got {column!r}")
    if any(row[column] is None for row in rows):
        raise ValueError(f"{column} depends on the input for this adapter; measure it, or choose another column")
    layers = sorted({row["layer"] for row in rows})
    values = torch.tensor([row[column] for row in rows]).view(len(layers), -1)
    signed = column in ("gate", "effective_gate")
    limit = max(values.abs().max().item(), 1e-12)
    figure = Figure(figsize=(1.5 + 0.25 * values.shape[1], 1.5 + 0.2 * len(layers)), layout="constrained")
    axes = figure.subplots()
    colours, low = ("RdBu_r", -limit) if signed else ("viridis", 0)
    image = axes.imshow(values.numpy(), cmap=colours, vmin=low, vmax=limit, aspect="auto", origin="lower")
    axes.set_yticks(range(len(layers)), layers)
    axes.set(xlabel="head", ylabel="layer")
    figure.colorbar(image, label=column.replace("_", " "))
    with files.whole(Path(file)) as unfinished:
        figure.savefig(unfinished, dpi=150, format=Path(file).suffix[1:] or "png")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: a table and a heat map for a saved adapter."""
    parser = Parser(
        prog="python -m zeroinit.gates",
        description="Gates and prompts of a saved adapter, as gates.csv and gates.png.",
        epilog=EXAMPLES,
    )
    parser.add_argument("folder", type=path, help="adapter folder")
    parser.add_argument("--out", type=path, metavar="DIR", help="where to write (default: the adapter folder)")
    options = parser.parse_args(argv)
    try:
        rows, out = table(read(options.folder)), options.out or options.folder
        out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, out / "gates.csv")
        heat_map(rows, out / "gates.png", "prompt_norm" if rows[0]["effective_gate"] is None else "effective_gate")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except ImportError:
        parser.error("gates.png needs matplotlib; gates.csv is written; pip install matplotlib")
    print(f"{len(rows)} heads: {out / 'gates.csv'}, {out / 'gates.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
