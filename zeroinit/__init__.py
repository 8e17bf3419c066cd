"""Zero-initialised attention: the prompts and gates of LLaMA-Adapter on transformers models.

    import zeroinit

    model = AutoModelForCausalLM.from_pretrained(...)
    zeroinit.attach(model, zeroinit.AdapterConfig(prompt="nonlinear"))
    ...                                        # train it with any loop; only prompts and gates require gradients
    zeroinit.save(model, "my-adapter")

Names are imported on first use, so `import zeroinit` costs nothing by itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeroinit.config import AdapterConfig
    from zeroinit.families import supports
    from zeroinit.model import activate, attach, delete, detach, disabled, load, save, trainable_parameters
    from zeroinit.trainer import AdapterTrainer

__version__ = "1.0.0"
__all__ = [
    "AdapterConfig",
    "AdapterTrainer",
    "activate",
    "attach",
    "delete",
    "detach",
    "disabled",
    "load",
    "save",
    "supports",
    "trainable_parameters",
]
_HOME = {
    "AdapterConfig": "config",
    "AdapterTrainer": "trainer",
    "supports": "families",
}  # the others live in zeroinit.model


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'zeroinit' has no attribute {name!r}")
    value = getattr(import_module(f"zeroinit.{_HOME.get(name, 'model')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
