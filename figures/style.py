"""One look for all figures, for print: sizes in inches at which they are printed, colours that survive grayscale.

Colours are those of Okabe and Ito; every series has a marker of its own as well, so that colour carries nothing alone.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from common import tables
from common.paths import FIGURES

COLUMN, PAGE = 3.25, 6.75  # widths of a column and of a page
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GRAY = "#767676"
RC: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.25,
    "legend.borderaxespad": 0.2,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.0,
    "lines.markersize": 4.0,
    "lines.markeredgewidth": 0.8,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Mark:
    """How a series looks: its name, colour, marker, and whether the marker is hollow."""

    label: str
    colour: str
    marker: str
    hollow: bool = False

    @property
    def points(self) -> dict:
        """Keywords of its points."""
        face = "white" if self.hollow else self.colour
        return {"color": self.colour, "marker": self.marker, "markerfacecolor": face, "markeredgecolor": self.colour}


def figure(width: float, height: float, rows: int = 1, columns: int = 1, **kwargs) -> tuple[Figure, list]:
    """A figure in this style and its axes, row by row.

    Parameters
    ----------
    width, height : float
        Printed size in inches.
    rows, columns : int
    kwargs
        For `matplotlib.pyplot.subplots`.
    """
    mpl.rcParams.update(RC)
    from matplotlib import pyplot as plt  # after the notebook has chosen its backend

    drawn, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **kwargs)
    return drawn, list(axes.flat)


def save(drawn: Figure, name: str, numbers: Sequence[Mapping]) -> None:
    """Write NAME.png, NAME.pdf and NAME.csv, the numbers drawn, to $ZIA_FIGURES or figures/out.

    The files hold no time and no version, so that equal pictures are equal files.
    """
    folder = Path(os.environ.get("ZIA_FIGURES") or FIGURES)
    folder.mkdir(parents=True, exist_ok=True)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf

    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")  # laid out once, not once for each file; `savefig` would draw each file twice
    drawn.set_dpi(RC["savefig.dpi"])
    FigureCanvasAgg(drawn).print_png(folder / f"{name}.png", metadata={"Software": None})
    FigureCanvasPdf(drawn).print_pdf(
        folder / f"{name}.pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None}
    )
    tables.write(folder / f"{name}.csv", numbers, list(numbers[0]) if numbers else ["study"])
