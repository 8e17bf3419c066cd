"""Tables of a study as they lie in the results folder: rows, slopes, what became of the fits."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from common import tables
from common.paths import RESULTS
from common.streams import stream
from theory.rates import MARGIN, Slope, bootstrap_means, local_slopes, slope_of
from theory.replicate import COLUMNS
from theory.simulate import RATES
from theory.studies import STUDIES, Study


@dataclass(frozen=True)
class Measured:
    """Rows of a study as it was run, with its slopes from rates.csv."""

    study: Study
    rows: list[dict[str, str]]
    rates: dict[str, dict[str, str]]

    @property
    def full(self) -> bool:
        """Whether this is the frozen full study, and not its quick twin or one by hand."""
        return self.study == STUDIES[self.study.name]

    @property
    def missing(self) -> int:
        """Fits of the configuration that have no row, or rows that it does not ask for."""
        return len(set(self.study.tasks()) ^ {(int(r["n"]), int(r["replicate"])) for r in self.rows})

    @property
    def converged(self) -> float:
        """Share of fits with a certificate."""
        return sum(r["status"] == "converged" for r in self.rows) / len(self.rows)

    def errors(self, quantity: str) -> dict[int, np.ndarray]:
        """Errors of the replicates at each n that enters the slope."""
        every = {n: np.array([float(r[quantity]) for r in self.rows if int(r["n"]) == n]) for n in self.study.sizes}
        return {n: e for n, e in every.items() if n >= self.study.first_n and (~np.isnan(e)).sum() >= 2}

    def slope(self, quantity: str) -> Slope:
        """The slope, computed anew from the rows."""
        return slope_of(self.errors(quantity), self.means(quantity))

    @cached_property
    def bands(self) -> dict[str, tuple[np.ndarray, ...]]:
        """For each quantity n, mean error, and its 95 % percentile bootstrap interval: (K,) each."""
        found = {}
        for quantity in self.rates:
            draws = self.means(quantity)
            sizes = np.array(list(self.errors(quantity)), float)
            found[quantity] = sizes, draws[0], *np.percentile(draws[1:], [2.5, 97.5], axis=0)
        return found

    def means(self, quantity: str) -> np.ndarray:
        """Mean errors under resampling, drawn once."""
        if quantity not in self._means:
            self._means[quantity] = bootstrap_means(self.errors(quantity), self.stream(quantity))
        return self._means[quantity]

    @cached_property
    def _means(self) -> dict[str, np.ndarray]:
        return {}

    def stream(self, quantity: str) -> np.random.Generator:
        """The bootstrap stream that the slopes of rates.csv were computed with."""
        return stream(self.study.seed, self.study.name, quantity, "bootstrap")


def load(*names: str) -> dict[str, Measured]:
    """Studies by name from $ZIA_RESULTS or results/theory.

    Raises
    ------
    FileNotFoundError, ValueError, TableError
        If a study has not been run to its end there, or its rows are of another configuration than the code's.
    """
    folder = Path(os.environ.get("ZIA_RESULTS") or RESULTS / "theory")
    return {name: _load(folder, name) for name in names}


def _load(folder: Path, name: str) -> Measured:
    rows, rates = tables.read(folder / f"{name}.csv", COLUMNS), tables.read(folder / "rates.csv", RATES)
    rates = {r["quantity"]: r for r in rates if r["study"] == name}
    if not rows or not rates:
        raise FileNotFoundError(f"{folder} has no finished study {name}; run `python theory/simulate.py {name}` first")
    former = json.loads((folder / f"{name}.json").read_text())["configuration"]
    free = {k: former[k] for k in ("sizes", "replicates", "large_replicates", "first_n", "noise", "seed")}
    study = replace(STUDIES[name], **free | {"sizes": tuple(free["sizes"])})
    now = json.loads(json.dumps(study.configuration()))
    if differ := [k for k in now if k not in ("about", "quick_sizes", "quick_replicates") and now[k] != former.get(k)]:
        raise ValueError(f"{folder} holds {name} with another {', '.join(differ)} than the code; run it again")
    rows.sort(key=lambda r: (int(r["n"]), int(r["replicate"])))  # the bootstrap is by position
    return Measured(study, rows, rates)


def accounts(measured: Mapping[str, Measured]) -> list[dict]:
    """What became of the fits of each study, for `show`."""
    return [
        {
            "study": name,
            "gate": m.study.gate,
            "sigma": m.study.activation,
            "d, d'": f"{m.study.d}, {m.study.d_out}",
            "L, L'": f"{m.study.L}, {m.study.fitted}",
            "n": f"{m.study.sizes[0]} to {m.study.sizes[-1]}",
            "fits": len(m.rows),
            "missing": m.missing,
            **{s: sum(r["status"] == s for r in m.rows) for s in ("converged", "above_truth")},
            "other": sum(r["status"] not in ("converged", "above_truth") for r in m.rows),
            "on the box": sum(int(r["at_bound"]) > 0 for r in m.rows),
            "configuration": "full" if m.full else "quick or by hand",
        }
        for name, m in measured.items()
    ]


def found(measured: Mapping[str, Measured]) -> list[dict]:
    """Slopes of each study with intervals and verdicts, numbers as numbers; theory is nan where there is no theorem."""
    return [
        {"study": name, "quantity": q}
        | {k: float(r[k] or "nan") for k in ("slope", "low", "high", "theory")}
        | {"verdict": r["verdict"]}
        for name, m in measured.items()
        for q, r in m.rates.items()
    ]


def meets(rate: Mapping) -> bool:
    """Whether an interval of `found` meets the theory value plus or minus the margin of the verdicts."""
    return rate["low"] <= rate["theory"] + MARGIN and rate["high"] >= rate["theory"] - MARGIN


def steps(measured: Mapping[str, Measured], quantities: Iterable[str]) -> list[dict]:
    """Local slopes: between each n and the next, with intervals."""
    return [
        {"study": name, "quantity": q, "from": s.n_min, "to": s.n_max, "slope": s.slope, "low": s.low, "high": s.high}
        for name, m in measured.items()
        for q in quantities
        for s in local_slopes(m.errors(q), m.stream(q))
    ]


def show(rows: Iterable[Mapping]) -> str:
    """A table in Markdown; floats with three decimals."""
    rows = list(rows)
    if not rows:
        return "(none)"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(_cell, r.values())) for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value)
