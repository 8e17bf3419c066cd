"""What the study trained, and the base, on benchmarks: the harness's likelihoods, and the paper's generated answers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from common import journal
from llm.evaluation import protocol as generated
from llm.evaluation import tasks
from llm.evaluation.settings import Decoding
from llm.methods import loading
from llm.real.protocol import GENERATED, Cell, Protocol
from llm.real.runs import Place, folder_of, is_scored


@dataclass(frozen=True)
class Job:
    """One model on one task; no cell is the base."""

    cell: Cell | None
    task: str
    protocol: str
    limit: int | None

    def key(self) -> dict[str, Any]:
        """Of its row."""
        arm, seed = ("base", 0) if self.cell is None else (self.cell.arm, self.cell.seed)
        return {"arm": arm, "seed": seed, "task": self.task, "protocol": self.protocol}


def jobs(protocol: Protocol, cells: list[Cell]) -> Iterator[Job]:
    """Every model on every task, the tasks of a model together."""
    for cell in (None, *(cell for cell in cells if is_scored(cell, protocol))):
        for task, limit in protocol.benchmarks:
            yield Job(cell, task, "harness", limit)
        for task, limit in protocol.generated:
            if cell is None or cell.arm in GENERATED:
                yield Job(cell, task, "paper", limit)


def score(
    job: Job, source: Cell | None, protocol: Protocol, place: Place, data: str | None, folder: Path
) -> dict[str, Any]:
    """The row of a job, by what the cell `source` trained; a killed job goes on from the answers below `folder`."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model, tokenizer = _model(place, None if source is None else folder_of(source, place))
    key = job.key()
    path = folder / f"{key['arm']}-{key['seed']}" / f"{job.task}-{job.protocol}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if job.protocol == "harness":
        from llm.evaluation import harness  # lm-eval takes seconds to import

        found = harness.evaluate(model, tokenizer, job.task, path, data=data, limit=job.limit, shots=0)
        name = found["metric"]
    else:
        items = tasks.limited(tasks.items(job.task, data), job.limit)
        decoding = Decoding(max_new_tokens=protocol.new_tokens)
        found, name = generated.evaluate(model, tokenizer, items, path, decoding, name=job.task), "right"
    for responses in path.parent.glob(f"{path.name}.*"):  # what they say is in the records
        responses.unlink()
    records = journal.read(path, [name])
    return {
        **key,
        **{"n": found["n"], "score": found["accuracy"], "stderr": found["standard_error"], "metric": found["metric"]},
        "seconds": round(time.perf_counter() - began, 2),
        "right": "".join(str(int(record[name])) for record in records),
    }


@lru_cache(maxsize=1)
def _model(place: Place, trained: Path | None) -> tuple[Any, Any]:
    return loading.load(place.base, trained, precision="float32", device=place.device)
