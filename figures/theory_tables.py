"""Tables of the theory studies as they lie in the results folder: rows, slopes, outcomes of the fits."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from common import seals
from common.paths import RESULTS
from common.streams import stream
from figures.frames import read
from theory.rates import MARGIN, Slope, bootstrap_means, local_slopes, slope_of
from theory.studies import STUDIES, Study
from theory.tables import COLUMNS, RATES

FREE = ("sizes", "replicates", "large_replicates", "large_n", "truths", "first_n", "noise", "seed")  # a user may set


@dataclass(frozen=True)
class Measured:
    """A study as it was run.

    Attributes
    ----------
    study : Study
    rows : DataFrame
        One line a fit, sorted by n and replicate.
    rates : dict
        Quantity -> its line of rates.csv; `theory` is NaN where there is no theorem.
    """

    study: Study
    rows: pd.DataFrame
    rates: dict[str, dict]

    @property
    def full(self) -> bool:
        """Whether this is the frozen full study, and not its quick twin or one by hand."""
        return self.study == STUDIES[self.study.name]

    @property
    def missing(self) -> int:
        """Fits of the configuration that have no row, and rows that it does not ask for."""
        return len(
            set(self.study.tasks()) ^ set(self.rows[["n", "replicate", "truth"]].itertuples(index=False, name=None))
        )

    @property
    def converged(self) -> float:
        """Share of fits with a certificate."""
        return float((self.rows["status"] == "converged").mean())

    def errors(self, quantity: str) -> dict[int, np.ndarray]:
        """Errors of the replicates at each n that enters the slope."""
        n = self.rows["n"]
        values = self.rows["over_term"].map(math.sqrt) if quantity == "sqrt_over_term" else self.rows[quantity]
        every = {m: values[n == m].to_numpy(float) for m in self.study.sizes if m >= self.study.first_n}
        return {m: e for m, e in every.items() if (~np.isnan(e)).sum() >= 2}

    def slope(self, quantity: str) -> Slope:
        """The slope, computed anew from the rows."""
        return slope_of(self.errors(quantity), self.means(quantity))

    @cached_property
    def bands(self) -> dict[str, tuple[np.ndarray, ...]]:
        """For each quantity n, mean error, and its 95 % percentile bootstrap interval: (K,) each."""
        bands = {}
        for quantity in self.rates:
            draws = self.means(quantity)
            sizes = np.array(list(self.errors(quantity)), float)
            bands[quantity] = sizes, draws[0], *np.percentile(draws[1:], [2.5, 97.5], axis=0)
        return bands

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
    FileNotFoundError, ValueError, TableError, Changed
        If a study has not been run to its end there, its rows are of another configuration than the code's, or a file
        was changed.
    """
    folder = Path(os.environ.get("ZIA_RESULTS") or RESULTS / "theory")
    rates = read_rates(folder)
    return {name: _load(folder, name, rates[rates["study"] == name]) for name in names}


def read_rows(folder: Path, study: str) -> pd.DataFrame:
    """Fits of a study."""
    return read(folder / f"{study}.csv", COLUMNS, ("study", "status", "cells", "bound_kinds"))


def read_rates(folder: Path) -> pd.DataFrame:
    """rates.csv."""
    return read(folder / "rates.csv", RATES, ("study", "quantity", "verdict", "kind"))


def _load(folder: Path, name: str, rates: pd.DataFrame) -> Measured:
    rows = read_rows(folder, name)
    if rows.empty or rates.empty:
        raise FileNotFoundError(f"{folder} has no finished study {name}; run `python theory/simulate.py {name}` first")
    former = seals.unsealed(folder / f"{name}.json", "the record of a study")["configuration"]
    free = {k: former[k] for k in FREE}
    study = replace(STUDIES[name], **free | {"sizes": tuple(free["sizes"])})
    now = json.loads(json.dumps(study.configuration()))
    if differ := [k for k in now if k not in ("about", "quick_sizes", "quick_replicates") and now[k] != former.get(k)]:
        raise ValueError(f"{folder} holds {name} with another {', '.join(differ)} than the code; run it again")
    rows = rows.sort_values(["n", "replicate", "truth"], ignore_index=True)  # the bootstrap is by position
    return Measured(study, rows, {r["quantity"]: r for r in rates.to_dict("records")})


def accounts(measured: Mapping[str, Measured]) -> list[dict]:
    """Outcomes of the fits of each study, for `show`."""
    return [_account(m) for m in measured.values()]


def _account(m: Measured) -> dict:
    s, status = m.study, m.rows["status"]
    certified, above = (int((status == word).sum()) for word in ("converged", "above_truth"))
    return {
        "study": s.name,
        "gate": s.gate,
        "sigma": s.activation,
        "d, d'": f"{s.d}, {s.d_out}",
        "L, L'": f"{s.L}, {s.fitted}",
        "n": f"{s.sizes[0]} to {s.sizes[-1]}",
        "fits": len(status),
        "missing": m.missing,
        "converged": certified,
        "above_truth": above,
        "other": len(status) - certified - above,
        "on the box": int((m.rows["at_bound"] > 0).sum()),
        "configuration": "full" if m.full else "quick or by hand",
    }


def verdicts(measured: Mapping[str, Measured]) -> list[dict]:
    """Slopes of each study with intervals and verdicts; theory is NaN where there is no theorem."""
    columns = ("slope", "low", "high", "theory", "verdict")
    return [
        {"study": name, "quantity": q} | {k: r[k] for k in columns}
        for name, m in measured.items()
        for q, r in m.rates.items()
    ]


def meets(rate: Mapping) -> bool:
    """Whether an interval of `verdicts` meets the theory value plus or minus the margin of the verdicts."""
    return rate["low"] <= rate["theory"] + MARGIN and rate["high"] >= rate["theory"] - MARGIN


def steps(measured: Mapping[str, Measured], quantities: Iterable[str]) -> list[dict]:
    """Local slopes: between each n and the next, with intervals."""
    return [
        {"study": name, "quantity": q, "from": s.n_min, "to": s.n_max, "slope": s.slope, "low": s.low, "high": s.high}
        for name, m in measured.items()
        for q in quantities
        for s in local_slopes(m.errors(q), m.stream(q))
    ]
