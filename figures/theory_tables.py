"""Tables of the theory studies as they lie in the results folder: rows, slopes, outcomes of the fits."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from common import seals
from common.paths import RESULTS
from common.streams import stream
from figures.frames import read
from theory.rates import MARGIN, Slope, bootstrap_means, slope_of, slope_over_truths, verdict
from theory.studies import STUDIES, Study
from theory.summary import errors_of
from theory.tables import COLUMNS, CONSTANTS, RATES

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

    def errors(self, quantity: str) -> list[dict[int, np.ndarray]]:
        """For each truth, errors of the replicates at each n that enters the slope."""
        return errors_of(self.study, self._records, quantity, self.study.first_n)

    def pooled(self, quantity: str) -> dict[int, np.ndarray]:
        """Errors of the replicates of all truths at each n that enters the slope."""
        every = self.errors(quantity)
        return {n: np.concatenate([errors[n] for errors in every]) for n in every[0]}

    def slope(self, quantity: str) -> Slope:
        """The slope, computed anew from the rows."""
        every = self.errors(quantity)
        return slope_over_truths(every) if len(every) > 1 else slope_of(every[0], self._means(quantity))

    @cached_property
    def bands(self) -> dict[str, tuple[np.ndarray, ...]]:
        """For each quantity n, mean error, and its 95 % interval: (K,) each; `band`."""
        return {quantity: self._band(quantity) for quantity in self.rates}

    def _band(self, quantity: str) -> tuple[np.ndarray, ...]:
        every = self.errors(quantity)
        sizes = np.array(list(every[0]), float)
        if len(every) > 1:
            return sizes, *over_truths([[np.nanmean(e) for e in errors.values()] for errors in every])
        draws = self._means(quantity)
        return sizes, draws[0], *np.percentile(draws[1:], [2.5, 97.5], axis=0)

    def _means(self, quantity: str) -> np.ndarray:
        """Mean errors of the one truth under resampling, drawn once."""
        if quantity not in self._drawn:
            self._drawn[quantity] = bootstrap_means(self.errors(quantity)[0], self.stream(quantity))
        return self._drawn[quantity]

    @cached_property
    def _drawn(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _records(self) -> list[dict]:
        return self.rows.to_dict("records")

    def stream(self, quantity: str) -> np.random.Generator:
        """The bootstrap stream that the slopes of rates.csv were computed with."""
        return stream(self.study.seed, self.study.name, quantity, "bootstrap")


def over_truths(means: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over truths of mean errors, (T, K), and its 95 % interval: Student's t over truths, on the log scale."""
    means = np.asarray(means, float)
    middle = means.mean(0)
    half = stdtrit(len(means) - 1, 0.975) * means.std(0, ddof=1) / np.sqrt(len(means)) / middle
    return middle, middle * np.exp(-half), middle * np.exp(half)


def results() -> Path:
    """The folder of results: $ZIA_RESULTS or results/theory."""
    return Path(os.environ.get("ZIA_RESULTS") or RESULTS / "theory")


def load(*names: str) -> dict[str, Measured]:
    """Studies by name from `results()`, without those that have not been run to their end there; see `absent`.

    Raises
    ------
    ValueError, TableError, Changed
        If rows are of another configuration than the code's, or a file is damaged or was changed.
    """
    rates = read_rates(results())
    found = {name: _load(results(), name, rates[rates["study"] == name]) for name in names}
    return {name: measured for name, measured in found.items() if measured is not None}


def absent(measured: Mapping[str, Measured], names: Iterable[str]) -> str:
    """A sentence for readers on the studies that have no rows; empty if all have."""
    missing = [name for name in names if name not in measured]
    return f"Not run: `python theory/simulate.py {' '.join(missing)} --full`." if missing else ""


def read_constants(folder: Path) -> pd.DataFrame:
    """constants.csv, which `python -m theory.constants` writes; without rows if it has not been written."""
    return read(folder / "constants.csv", CONSTANTS, ("study", "quantity"))


def read_rows(folder: Path, study: str) -> pd.DataFrame:
    """Fits of a study."""
    return read(folder / f"{study}.csv", COLUMNS, ("study", "status", "cells", "bound_kinds"))


def read_rates(folder: Path) -> pd.DataFrame:
    """rates.csv."""
    return read(folder / "rates.csv", RATES, ("study", "quantity", "verdict", "kind"))


def _load(folder: Path, name: str, rates: pd.DataFrame) -> Measured | None:
    rows = read_rows(folder, name)
    if rows.empty or rates.empty:
        return None
    former = seals.unsealed(folder / f"{name}.json", "the record of a study")["configuration"]
    free = {k: former[k] for k in FREE}
    study = replace(STUDIES[name], **free | {"sizes": tuple(free["sizes"])})
    now = json.loads(json.dumps(study.chosen()))
    if differ := [k for k in now if k not in ("about", "quick_sizes", "quick_replicates") and now[k] != former.get(k)]:
        raise ValueError(f"{folder} holds {name} with another {', '.join(differ)} than the code; run it again")
    rows = rows.sort_values(["n", "replicate", "truth"], ignore_index=True)  # the bootstrap is by position
    return Measured(study, rows, {r["quantity"]: r for r in rates.to_dict("records")})


def predictions(measured: Mapping[str, Measured], constants: pd.DataFrame) -> dict[tuple[str, str], dict[int, float]]:
    """Predicted mean error at each n by (study, quantity), of those studies that are measured."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for r in constants.to_dict("records"):
        study = measured[r["study"]].study if r["study"] in measured else None
        if study and r["quantity"] in study.theory:
            slope = study.theory[r["quantity"]].slope
            found.setdefault((r["study"], r["quantity"]), {})[r["n"]] = r["predicted"] * r["n"] ** slope
    return found


def at_bound(kinds: str) -> bool:
    """Whether a fit has a weight at its bound, by its cell of `bound_kinds`."""
    return "b" in kinds.split("+")


def scaled(m: Measured, quantity: str, rate: float) -> list[dict]:
    """n^rate times the mean error at each n: of all fits, of those with a weight at its bound, and of the others.

    With several truths, mean of the truths' means and Student's interval over those that have two such fits; with one,
    the normal interval over fits. A group without two fits has no line.
    """
    bound = m.rows["bound_kinds"].map(at_bound)
    found = []
    for group, rows in (("all", m.rows), ("at a bound", m.rows[bound]), ("free", m.rows[~bound])):
        here = rows.dropna(subset=[quantity])
        for n in [n for n in m.study.sizes if n >= m.study.first_n]:
            every = [v.to_numpy(float) for _, v in here[here["n"] == n].groupby("truth")[quantity]]
            values = [v * n**rate for v in every if len(v) > 1]
            if not values:
                continue
            if len(values) > 1:
                middle, low, high = over_truths([[v.mean()] for v in values])
            else:
                half = 1.96 * values[0].std(ddof=1) / np.sqrt(len(values[0]))
                middle, low, high = ([values[0].mean() + side] for side in (0, -half, half))
            found.append(
                {"study": m.study.name, "quantity": quantity, "fits": group, "n": n, "mean": middle[0]}
                | {"low": low[0], "high": high[0], "count": sum(map(len, values)), "truths": len(values)}
            )
    return found


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


def verify(measured: Mapping[str, Measured]) -> None:
    """Raise AssertionError unless rows are complete, and slopes and verdicts are what the rows say."""
    for name, m in measured.items():
        assert m.missing == 0, f"{name}: {m.missing} fits of the configuration are missing"
        for quantity, rate in m.rates.items():
            again = m.slope(quantity)
            written = [float(rate[k]) for k in ("slope", "low", "high")]
            np.testing.assert_allclose([again.slope, again.low, again.high], written, rtol=1e-9)
            assert rate["verdict"] == verdict(again, m.study.theory.get(quantity)), (name, quantity)


def verdicts(measured: Mapping[str, Measured]) -> list[dict]:
    """Slopes of each study with intervals and verdicts; theory is NaN where there is no theorem."""
    columns = ("slope", "low", "high", "theory", "kind", "verdict")
    return [
        {"study": name, "quantity": q} | {k: r[k] for k in columns}
        for name, m in measured.items()
        for q, r in m.rates.items()
    ]


def meets(rate: Mapping) -> bool:
    """Whether an interval of `verdicts` meets the theory value plus or minus the margin of the verdicts."""
    return rate["low"] <= rate["theory"] + MARGIN and rate["high"] >= rate["theory"] - MARGIN
