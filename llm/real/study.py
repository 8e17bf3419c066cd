"""The study on a real base: tuning, runs, scores and claims, row by row; the command is llm/study.py --base."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common import journal, tables
from common.arguments import CommandError
from common.paths import label
from llm.evaluation import tasks
from llm.real import claims, rates, runs, scores
from llm.real.base import WEIGHTS_NAME, sha256
from llm.real.protocol import ARMS, EXPONENTS, TABLES, Cell, Protocol, study, tuning
from llm.real.runs import Place
from llm.real.tables import COLUMNS, KEYS, PARTS, Table, append, finish, keep

WIDEN = 8  # an arm whose best is then still at an edge has no best rate in reach


class Study:
    """The tables of one study in a folder, and the processes that fill them.

    Parameters
    ----------
    name : str
        Of the base, for claims.
    protocol : Protocol
    place : Place
    data : str or None
        Folder of the benchmarks; None: the hub.
    folder : Path
    pool : ProcessPoolExecutor
    tuned : Path, optional
        Folder of a study whose tuning gives the rates; none is run then.
    """

    def __init__(
        self,
        name: str,
        protocol: Protocol,
        place: Place,
        data: str | None,
        folder: Path,
        pool: ProcessPoolExecutor,
        tuned: Path | None = None,
    ):
        self.name, self.protocol, self.place, self.data = name, protocol, place, data
        self.folder, self.pool, self.tuned = folder, pool, tuned
        self.tuning = Table(tuned or folder, "tuning")

    def fill(self, wanted: Sequence[str] = TABLES, say: Callable[[str], None] = print) -> None:
        """Run what the wanted tables lack, in the order of `TABLES`."""
        if "tuning" in wanted and self.tuned is None:
            self._tune()
        if {"study", "scores"} & {*wanted}:
            cells = self._cells(say)
            if "study" in wanted:
                self._study(cells)
            if "scores" in wanted:
                self._score(cells)
        for name in KEYS:
            finish(self.folder, name)
        if "claims" in wanted:
            for claim in claims.write(self.name, self.folder, self.protocol):
                words = "{value:+.4f} [{low:+.4f}, {high:+.4f}]  {verdict:<20}  {claim} ({measure}, {rates})"
                say(words.format(**claim))

    def _tune(self) -> None:
        pairs = dict.fromkeys((ARMS[arm].method, scale) for arm in self.protocol.arms for scale in ARMS[arm].scales)
        cells = [cell for m, scale in pairs for cell in tuning(self.protocol, m, EXPONENTS[m], scale)]
        self._train(self.tuning, cells, "tuning")
        # Rows beyond the grid may be there from a run that was stopped; the way does not depend on them.
        for _ in range(WIDEN):
            wider = [cell for arm in self.protocol.arms if (cell := self._beyond(arm)) is not None]
            if not wider:
                return
            self._train(self.tuning, list(dict.fromkeys(wider)), "tuning, wider")
        raise CommandError(f"no best rate of {', '.join(a for a in self.protocol.arms if self._beyond(a))} is in reach")

    def _beyond(self, arm: str) -> Cell | None:
        """The cell half a decade beyond the edge that an arm's best is at, if it is at one."""
        side = rates.edge(self.tuning, arm)
        if side == 0:
            return None
        rate, scale = rates.best(self.tuning, arm) or (0.0, None)
        exponent = next(e / 2 for e in range(-20, 20) if f"{10.0 ** (e / 2):.3g}" == f"{rate:.3g}")
        return tuning(self.protocol, ARMS[arm].method, [exponent + side / 2], scale)[0]

    def _cells(self, say: Callable[[str], None]) -> list[Cell]:
        """Cells of the study with their rates and scales."""
        choices = {arm: found for arm in self.protocol.arms if (found := rates.best(self.tuning, arm)) is not None}
        if missing := [arm for arm in self.protocol.arms if arm not in choices]:
            command = f"python llm/study.py --base {self.name} --full --tables tuning"
            raise CommandError(f"{self.tuning.path} has no rows of {', '.join(missing)}; `{command}` makes them")
        say("rates (and scales): " + ", ".join(f"{arm} {r:g} ({s})" for arm, (r, s) in choices.items() if r))
        cells = []
        for cell in study(self.protocol):
            rate, scale = rates.chosen(self.tuning, cell)
            cells.append(replace(cell, learning_rate=rate, initial_scale=scale))
        return cells

    def _study(self, cells: list[Cell]) -> None:
        table = Table(self.folder, "study")
        for name in PARTS:
            keep(self.folder, name, table.rows)
        if "base" not in {row["arm"] for row in table.rows.values()}:
            self._add(table, *self.pool.submit(runs.untuned, self.protocol, self.place).result())
        first: dict[tuple, Cell] = {}  # cells that are the same run under another name are run once
        for cell in cells:
            first.setdefault(_run_of(cell), cell)
        self._train(table, [cell for cell in cells if first[_run_of(cell)] is cell], "study")
        for cell in cells:
            if cell not in table:
                self._copy(table, first[_run_of(cell)], cell)

    def _train(self, table: Table, cells: Sequence[Cell], name: str) -> None:
        """Run the cells that the table has no row of."""
        missing = [cell for cell in cells if cell not in table]
        if not missing:
            return
        futures = [self.pool.submit(runs.run, cell, self.protocol, self.place) for cell in missing]
        for found in self._done(futures, name, len(cells)):
            self._add(table, *found)

    def _add(self, table: Table, row: dict, losses: list[dict], curve: list[dict]) -> None:
        if table.path.stem == "study":
            append(self.folder, "rows_loss", losses)
            append(self.folder, "curves", curve)
        table.add(row)

    def _copy(self, table: Table, source: Cell, cell: Cell) -> None:
        row = table.rows[table.key(asdict(source))]
        names, parts = {"arm": cell.arm, "rate_rule": cell.rate_rule}, []
        for name in PARTS:
            found = tables.read(self.folder / f"{name}.csv", COLUMNS[name])
            parts.append([part | names for part in found if table.key(part) == table.key(row)])
        self._add(table, row | names, *parts)

    def _score(self, cells: list[Cell]) -> None:
        table, trained = Table(self.folder, "scores"), Table(self.folder, "study")
        if missing := [cell for cell in cells if cell not in trained and runs.is_scored(cell, self.protocol)]:
            raise CommandError(f"{trained.path} has no row of {missing[0].arm}, seed {missing[0].seed}; fill it first")
        todo = [job for job in scores.jobs(self.protocol, cells) if table.key(job.key()) not in table.rows]
        gone = {j.cell for j in todo if j.cell and not runs.folder_of(_source(j.cell, cells), self.place).is_dir()}
        again = [self.pool.submit(runs.run, _source(cell, cells), self.protocol, self.place) for cell in gone]
        for _ in self._done(again, "training again", len(again)):
            pass  # what was trained is there again; its rows are those that are there already
        folder = _answers(self.place)
        futures = [
            self.pool.submit(scores.score, job, _source(job.cell, cells), self.protocol, self.place, self.data, folder)
            for job in todo
        ]
        for row in self._done(futures, "scores", len(todo)):
            table.add(row)

    def _done(self, futures: Sequence[Any], name: str, total: int) -> Iterable[Any]:
        with tqdm(total=total, initial=total - len(futures), desc=name, unit="run", smoothing=0.1) as bar:
            for future in as_completed(futures):
                yield future.result()
                bar.update()


def _run_of(cell: Cell) -> tuple:
    """What a training run depends on: cells of two arms or rules may be the same one."""
    numbers = cell.learning_rate, cell.initial_scale, cell.steps, cell.epochs
    return ARMS[cell.arm].method, cell.share, cell.seed, *numbers


def _source(cell: Cell | None, cells: list[Cell]) -> Any:
    """The first cell of the same run."""
    return None if cell is None else next(other for other in cells if _run_of(other) == _run_of(cell))


def claim(folder: Path, protocol: Protocol, place: Place, data: str | None, fresh: Sequence[str] = ()) -> None:
    """Make the folder this study's, or stop if it is another's; tables named in `fresh` are removed.

    Raises
    ------
    ValueError
        If the folder has a study of another configuration.
    """
    parts = runs.examples(place, protocol)
    configuration = {
        "protocol": {name: value for name, value in asdict(protocol).items()},
        "base": {"name": label(place.base), "weights": sha256(Path(place.base) / WEIGHTS_NAME)},
        "rows": {name: _digest(rows) for name, rows in vars(parts).items()},
        "benchmarks": {
            task: "hub" if data is None else tasks.fingerprint(task, data)
            for task in dict(protocol.benchmarks) | dict(protocol.generated)
        },
        "device": place.device,
        "precision": "float32",
    }
    path = folder / "study.json"
    journal.claim(path, configuration, fresh={*fresh} >= {*TABLES})
    for name in fresh:
        for part in (name, *(PARTS if name == "study" else ())):
            tables.remove(folder / f"{part}.csv")
    if {"study", "scores"} & {*fresh}:
        shutil.rmtree(_answers(place), ignore_errors=True)


def _answers(place: Place) -> Path:
    """Where answers of models that are being scored are kept."""
    return Path(place.trained).parent / "scores"


def _digest(rows: Any) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
