"""lm-evaluation-harness's own command line, with one more model: `zero_init`, a transformers model with an adapter.

    python -m zeroinit.lm_eval --model zero_init --model_args pretrained=BASE,adapter=FOLDER --tasks arc_easy

The harness finds no models of other packages by itself, so this module registers one and hands over. All arguments of
its model `hf` work here too. Needs `pip install lm_eval`.
"""

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models import huggingface

import zeroinit

_HFLM: Any = huggingface.HFLM  # without types of its own


class ZeroInitLM(_HFLM):
    """The harness's model `hf` with the adapter of a folder; what `zeroinit.load` refuses ends the command."""

    def __init__(self, pretrained: Any, adapter: str, **kwargs: Any) -> None:
        super().__init__(pretrained=pretrained, **kwargs)
        try:
            zeroinit.load(self._model, adapter, trainable=False)
        except (OSError, ValueError) as error:  # the harness would show where it was raised, not what it says
            raise SystemExit(f"lm_eval: error: {' '.join(str(error).split())}") from error


register_model("zero_init")(ZeroInitLM)  # as a decorator it would hide the class's own type

if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
