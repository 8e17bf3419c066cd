"""Named configurations of `llm/finetune.py`: mini-*, llama-7b-* and llama-13b-*, one for each method.

mini-* train on the instruction set of the committed small world, on its base, as the study does: 400 steps of 8 rows,
in a minute on a CPU. llama-* follow the published protocol: Alpaca, batch 64, 5 epochs of which 2 warm up, length 512,
prompts on the last 30 of 32 (38 of 40) layers, peak rate 2.25e-3; but batches of rows of similar length, where the
published ones are random and padded to 512 (`--padded`). For the other methods the paper gives no rates;
theirs are customary ones.

The published bases were float16; here they are bfloat16, and what trains is float32 as published. Full fine-tuning
keeps the whole base in float32, because steps of its small rate would be lost in the rounding of bfloat16. 200 rows are
held out, of which training sees none, unlike in the published code: an epoch has 809 steps instead of 812.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from common.paths import RESULTS, label
from llm.data.rows import Row, read
from llm.data.splits import fraction, hold_out
from llm.methods.names import COMBINED, METHODS, PROMPTS
from llm.training.settings import FREE, Training

WORLD = RESULTS / "llm" / "worlds" / "0"


@dataclass(frozen=True)
class Preset:
    """What to train, on what, and how.

    Attributes
    ----------
    name : str
    model, data : str
        A folder or file, or a hub id.
    method : str
        One of `llm.methods.names.METHODS`.
    training : Training
    options : mapping
        Of the method, as `llm.methods.registry.apply` takes them.
    validation : int
        Rows held out.
    shape : mapping
        Of a LLaMA whose folder is not at hand, for estimates.
    size : pair of int
        Of data that is not at hand, for estimates: rows, and tokens of a row.
    """

    name: str
    model: str
    data: str
    method: str
    training: Training
    options: Mapping[str, Any] = field(default_factory=dict)
    validation: int = 200
    shape: Mapping[str, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)

    @property
    def base_precision(self) -> str:
        """How the base is loaded."""
        names = {"float32": "float32", "bf16": "bfloat16", "fp16": "float16"}
        return "float32" if self.method == "full" else names[self.training.precision]

    def configuration(self, share: float) -> dict[str, Any]:
        """What the result depends on, model and data by their labels."""
        training = {name: value for name, value in asdict(self.training).items() if name not in FREE}
        names = {"preset": self.name, "model": label(self.model), "data": label(self.data), "fraction": share}
        return names | {"validation": self.validation, "method": self.method, "options": dict(self.options), **training}

    def split(self, share: float) -> tuple[list[Row], list[Row]]:
        """Training rows, a share of those not held out, and validation rows, the same for every share and seed."""
        rows, validation = hold_out(read(self.data), self.validation, seed=0)
        return fraction(rows, share, self.training.seed), validation


# Peak learning rates. LLaMA: the published one for prompts, Alpaca-LoRA's for LoRA, those of their papers for VeRA and
# IA3, Stanford Alpaca's for the whole model. The small world: near the best of the study's grid (llm/study.py).
RATES = {
    "llama": {
        **dict.fromkeys((*PROMPTS, *COMBINED), 2.25e-3),
        **{"lora": 3e-4, "vera": 4e-3, "ia3": 3e-3, "prompt_tuning": 3e-2, "full": 2e-5, "bitfit": 1e-3, "norms": 1e-3},
    },
    "mini": {
        **{
            "linear": 1e-1,
            "nonlinear": 1e-2,
            "nonlinear_shared": 1e-2,
            "random_init": 3e-1,
            "random_init_nonlinear": 1e-2,
        },
        **{"linear+lora": 3e-3, "nonlinear+lora": 3e-3, "lora": 3e-3, "vera": 3e-2, "ia3": 3e-2},
        **{"prompt_tuning": 3e-1, "full": 3e-4, "bitfit": 1e-2, "norms": 3e-2},
    },
}
LLAMA = {
    "7b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008},
    "13b": {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824},
}


def _layers(method: str, count: int) -> dict[str, int]:
    return {"layers": count} if method in PROMPTS or method in COMBINED else {}


def _mini(method: str) -> Preset:
    rate = RATES["mini"][method]
    training = Training(rate, steps=400, batch_size=8, length=128, evaluate_every=100, checkpoint_every=50)
    name, data = f"mini-{method}", str(WORLD / "instructions.json")
    return Preset(name, str(WORLD), data, method, training, validation=100)


def _llama(size: str, method: str) -> Preset:
    training = Training(RATES["llama"][method], micro_batch_size=16, precision="bf16")
    shape = {"vocab_size": 32000} | LLAMA[size]
    options = _layers(method, shape["num_hidden_layers"] - 2)
    name, model, data = f"llama-{size}-{method}", f"huggyllama/llama-{size}", "tatsu-lab/alpaca"
    return Preset(name, model, data, method, training, options, shape=shape, size=(52_002, 110))


PRESETS = {
    preset.name: preset
    for preset in (
        *(_mini(method) for method in METHODS),
        *(_llama(size, method) for size in LLAMA for method in METHODS),
    )
}
