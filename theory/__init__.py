"""The regression model of the paper, its least-squares estimator, and the measurement of its rates.

Names are imported when first used: `import theory` alone loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from theory.box import Box
    from theory.estimate import fit
    from theory.model import MoERegression, Prompts
    from theory.studies import STUDIES
    from theory.voronoi import voronoi_loss

__all__ = ["STUDIES", "Box", "MoERegression", "Prompts", "fit", "voronoi_loss"]

_HOME = {
    "fit": "estimate",
    "Box": "box",
    "MoERegression": "model",
    "Prompts": "model",
    "voronoi_loss": "voronoi",
    "STUDIES": "studies",
}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'theory' has no attribute {name!r}")
    return getattr(import_module(f"theory.{_HOME[name]}"), name)
