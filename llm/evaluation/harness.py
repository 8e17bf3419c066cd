"""Evaluation by lm-evaluation-harness: its tasks, prompts and metrics, on the hub's data or on local files.

Prompts, few-shot examples and scores are the harness's own. What is added: local files (`llm.evaluation.tasks`) are
given to the built-in tasks in the columns that these read; responses are kept as they come, so that a killed run
resumes; and items that do not fit the model's context, whose prompts the harness cuts on the left, are counted.
"""

import copy
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import datasets
import lm_eval
from jinja2 import UndefinedError
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models import huggingface
from lm_eval.models.utils_hf import stop_sequences_criteria
from lm_eval.tasks import TaskManager
from lm_eval.tasks.qasper.metrics import f1_abstractive, normalize_answer
from tqdm import tqdm

from common import journal
from common.records import write_atomic
from common.sources import tell_hub
from llm.data.tokens import check_ids, padding_id
from llm.evaluation import definitions, prefix, tasks
from llm.evaluation.decoding import Settings, ends
from llm.evaluation.definitions import SHOTS
from llm.evaluation.protocol import mean, standard_error
from llm.evaluation.published import file_names
from llm.methods.loading import context_length, vocabulary_size

# The number that tables quote; every metric is reported.
METRIC = {"hellaswag": "acc_norm", "record": "f1", "nq_open": "exact_match"}
RESPONSES = ".responses"
PIECE = 256  # requests whose responses are kept together


def evaluate(
    model: Any,
    tokenizer: Any,
    task: str,
    path: Path,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    shots: int | None = None,
) -> dict[str, Any]:
    """Run one task, and write a record of every item.

    Parameters
    ----------
    model, tokenizer
        The model as an object, adapters included.
    task : str
        A key of `llm.evaluation.definitions.DEFINITIONS`.
    path : Path
        JSON lines, written at the end: id, task, target, responses (log-likelihood and whether it is the greedy text,
        per option; or the generated text), fits, and the metrics. PATH.responses, from which a killed run goes on,
        may be removed when the returned numbers are safe.
    data : path, optional
        Local folder; None: the hub.
    limit : int, optional
        Only the first items; of every subject, for MMLU.
    batch_size : int
    shots : int, optional
        Examples in the prompt; None: as the paper (`SHOTS`).

    Returns
    -------
    dict
        n, metric (which), accuracy, standard_error, not_fitting, accuracy_fitting, metrics (all of them), subjects
        (accuracies, MMLU), shots, and where the examples come from, if there are any. An item that does not fit is
        scored as the harness does, on what is left of it.

    Raises
    ------
    FileNotFoundError, ConnectionError, ValueError
        As `llm.evaluation.tasks.rows`.
    """
    responses = path.with_name(path.name + RESPONSES)
    shots = SHOTS.get(task, 0) if shots is None else shots
    if data is None:
        tell_hub(f"the data of {task}")
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        specs = definitions.built_in(task) if data is None else definitions.local(task, data, Path(folder))
        own = data is None or (Path(folder) / f"{task}_train.parquet").is_file()
        lm = _Resumed(model, tokenizer, batch_size, responses, task)
        try:
            with _squad_metrics():
                loaded: Any = TaskManager(include_defaults=False).load([str(spec) for spec in specs])
            for definition in loaded["tasks"].values():
                definition.set_config("num_fewshot", shots)
                definition.set_fewshot_seed(DEFAULT_OTHER_SEED)
            # Not simple_evaluate, which does the same, and calls pip and git for a description of the machine.
            found: Any = lm_eval.evaluate(cast(Any, lm), loaded, limit=limit, bootstrap_iters=0)
        except ConnectionError as error:
            reason = str(error).partition("\n")[0]
            raise ConnectionError(
                f"the hub does not give the data of {task} ({reason}); without a network put its files into a folder "
                f"and give that with --data; {task} is read from {file_names(tasks.source(task))}"
            ) from error
        except (UndefinedError, LookupError, TypeError) as error:
            if data is None:
                raise
            raise ValueError(f"{task} cannot be scored by the harness: {type(error).__name__}: {error}") from error
    records = [
        {
            "id": sample["doc_id"],
            "task": name,
            "target": sample["target"],
            "responses": sample["filtered_resps"],
            "fits": lm.fit(sample["arguments"]),
            **{metric: sample[metric] for metric in sample["metrics"]},
        }
        for name, samples in found["samples"].items()
        for sample in samples
    ]
    write_atomic(path, "".join(json.dumps(record, default=float) + "\n" for record in records))
    examples = {"examples": "training set" if own else "other test items"} if shots else {}
    return _summary(task, records, found["results"]) | {"shots": shots, **examples}


_HFLM: Any = huggingface.HFLM  # without types of its own


class _Resumed(_HFLM):
    """HFLM that keeps responses piece by piece, finds them again, and notes which requests do not fit."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, path: Path, name: str):
        self.vocabulary = vocabulary_size(model)
        if (padding := padding_id(tokenizer, self.vocabulary)) != tokenizer.pad_token_id:
            tokenizer = copy.deepcopy(tokenizer)  # the harness pads with whatever the tokenizer says, or adds a token
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=context_length(model))
        self.path, self.name = path, name
        self.known = {row["key"]: row["responses"] for row in journal.read(path)}
        self.unfit: set[tuple[str, ...]] = set()

    def fit(self, arguments: Sequence[tuple[str, Any]]) -> bool:
        """Whether all requests of an item were within the context."""
        return not any(self.unfit & {(context,), (context, str(what))} for context, what in arguments)

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None):
        check_ids((context + continuation for _, context, continuation in requests), self.tokenizer, self.vocabulary)
        most = self.max_length
        for number, (texts, context, continuation) in enumerate(requests):
            if len(context) + len(continuation) > most + 1:
                self.unfit.add(texts)
                requests[number] = (texts, context, continuation[-most:])  # longer ones the harness does not bear
        # Trees leave out what the options of an item share; models that take no such mask are computed as ever.
        alone, trees = super()._loglikelihood_tokens, prefix.possible(self.model)

        def compute(piece: list[Any]) -> list[tuple[float, bool]]:
            pairs = [(context, continuation) for _, context, continuation in piece]
            return prefix.loglikelihoods(self.model, pairs, most) if trees else alone(piece, disable_tqdm=True)

        found = self._in_pieces(requests, compute, lambda request: request[0])
        return [(likelihood, greedy) for likelihood, greedy in found]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False):
        for context, settings in (request.args for request in requests):
            if (room := settings.get("max_gen_toks", self.max_gen_toks)) >= self.max_length:
                raise ValueError(f"{self.name} needs a model of more than {room} tokens; this has {self.max_length}")
            ids = self.tok_encode(context)
            check_ids([ids], self.tokenizer, self.vocabulary)
            if len(ids) > self.max_length - settings.get("max_gen_toks", self.max_gen_toks):
                self.unfit.add((context,))
        compute = super().generate_until
        return self._in_pieces(requests, lambda piece: compute(piece, disable_tqdm=True), lambda request: request.args)

    def _model_generate(self, context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        """The task's generation, on which the model's own generation_config has no say but for its ends."""
        inputs = {"input_ids": context, "attention_mask": options.pop("attention_mask", None)}
        if not options.get("temperature"):  # the harness's way to say greedy
            options |= {"temperature": None, "do_sample": False}
        ending = sorted(ends(self.model, self.tokenizer)) or None
        options |= {"max_length": max_length, "pad_token_id": self.tokenizer.pad_token_id, "eos_token_id": ending}
        criteria = stop_sequences_criteria(self.tokenizer, stop, context.shape[1], context.shape[0])
        return self.model.generate(**inputs, generation_config=Settings(**options), stopping_criteria=criteria)

    def _in_pieces(self, requests: list[Any], compute: Callable, content: Callable) -> list[Any]:
        """Responses to all requests; a piece is known by the texts in it, so no other run's can be taken for it."""
        found = []
        with tqdm(total=len(requests), desc=self.name, unit="request", mininterval=1) as bar:
            for start in range(0, len(requests), PIECE):
                piece = requests[start : start + PIECE]
                key = hashlib.sha256(json.dumps([content(request) for request in piece]).encode()).hexdigest()
                if key not in self.known:
                    self.known[key] = compute(piece)
                    journal.append(self.path, [{"key": key, "responses": self.known[key]}])
                found += self.known[key]
                bar.update(len(piece))
        return found


def _summary(task: str, records: list[dict[str, Any]], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    metric = METRIC.get(task, "acc")
    values = [float(record[metric]) for record in records]
    first = next(iter(results.values()))
    metrics: dict[str, float | None] = {
        key.partition(",")[0]: float(value) for key, value in first.items() if "," in key and "_stderr" not in key
    }
    if len(results) > 1:
        metrics = {name: mean([float(record[name]) for record in records]) for name in metrics}
    return {
        "n": len(records),
        "metric": metric,
        "accuracy": mean(values),
        "standard_error": standard_error(values),
        "not_fitting": sum(not record["fits"] for record in records),
        "accuracy_fitting": mean([v for v, record in zip(values, records, strict=True) if record["fits"]]),
        "metrics": metrics,
        "subjects": {name.removeprefix("mmlu_"): r["acc,none"] for name, r in results.items() if task == "mmlu"},
    }


@contextmanager
def _squad_metrics() -> Iterator[None]:
    """The module of transformers 4 that the harness's ReCoRD imports, made of the harness's own functions."""
    module: Any = ModuleType("squad_metrics")
    module.compute_exact = lambda one, other: int(normalize_answer(one) == normalize_answer(other))
    module.compute_f1 = lambda one, other: f1_abstractive([one], [other])
    module.squad_metrics = module
    names = ("transformers.data.metrics", "transformers.data.metrics.squad_metrics")
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names, module))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log of every request that it cuts, and without bars for reading files."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
