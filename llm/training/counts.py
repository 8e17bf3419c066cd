"""Parameters that each method trains on LLaMA of 7B and 13B, counted on the real modules, without weights.

    python -m llm.training.counts        writes results/llm/parameters.csv, and beside it where it was counted

To read the table imports no torch.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from common import tables
from common.arguments import Parser
from common.paths import RESULTS, label
from common.records import provenance, write_atomic
from llm.methods.names import METHODS
from llm.training.presets import LLAMA, PRESETS

COLUMNS = ("size", "method", "trainable", "all")
TABLE = RESULTS / "llm" / "parameters.csv"


def count(size: str, method: str) -> dict[str, int]:
    """Parameters that a method trains on LLaMA of a size, `7b` or `13b`, and all of them, frozen base included."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llm.methods import registry

    preset = PRESETS[f"llama-{size}-{method}"]
    shape: dict[str, Any] = dict(preset.shape)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**shape))
        return registry.counts(registry.apply(model, method, preset.options))


def main(argv: Sequence[str] | None = None) -> int:
    """Count, and write the table and its provenance."""
    Parser(prog="python -m llm.training.counts", description=__doc__).parse_args(argv)
    methods = [method for method in METHODS if method != "bitfit"]  # LLaMA has no biases
    rows = [{"size": size, "method": method} | count(size, method) for size in LLAMA for method in methods]
    tables.finish(TABLE, rows, COLUMNS)
    record = {"shapes": LLAMA, "provenance": provenance()}
    write_atomic(TABLE.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
    print(f"{len(rows)} counts are in {label(TABLE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
