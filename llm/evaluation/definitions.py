"""Tasks of lm-evaluation-harness: its own definitions, and these over local data, whose types are declared."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import yaml
from lm_eval.tasks.hellaswag.utils import preprocess

from llm.evaluation import tasks
from llm.evaluation.columns import COLUMNS, OPTIONAL, Row

_BUILT_IN = Path(lm_eval.__file__).parent / "tasks"
# Definitions inside lm_eval/tasks.
DEFINITIONS = {
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "mmlu": "mmlu/default/mmlu_*.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    **{name: f"super_glue/{name}/default.yaml" for name in ("boolq", "cb", "copa", "multirc", "record", "rte")},
    **{name: f"super_glue/{name}/default.yaml" for name in ("wic", "wsc")},
    "nq_open": "nq_open/nq_open.yaml",
}
SHOTS = {"hellaswag": 10}  # as the paper; every other task has none


def built_in(task: str) -> list[Path]:
    """Files of the harness's own definitions of a task; MMLU has one for each subject."""
    return sorted(path for path in _BUILT_IN.glob(DEFINITIONS[task]))


def local(task: str, data: str | Path, folder: Path) -> list[Path]:
    """The harness's definitions over local data, as files in `folder`; errors as of `llm.evaluation.tasks.rows`."""
    name = tasks.source(task)
    if name in tasks.HUB:
        tasks.items(name, data)  # refuses what cannot be scored
    rows = tasks.rows(name, data)
    if task == "truthfulqa_mc1" and (wrong := next((n for n, r in enumerate(rows, 1) if not _first_is_right(r)), None)):
        raise ValueError(
            f"row {wrong} of {task} cannot be scored: the harness takes the first option of mc1_targets for the right "
            "one, and it is not"
        )
    changes: dict[str, Any] = {"training_split": None, "validation_split": None, "test_split": "test"}
    parts = {"test": rows}
    if task == "hellaswag":
        parts = {"test": [hellaswag_row(row) for row in rows]}
        with suppress(FileNotFoundError):  # else examples are other test items; the harness leaves out the item itself
            parts["train"] = [hellaswag_row(row) for row in tasks.rows("hellaswag_train", data)]
        if len(parts.get("train", rows[1:])) < SHOTS[task]:
            raise ValueError(f"{task} has {SHOTS[task]} examples in each prompt; {len(rows)} rows are too few for that")
        changes |= {"process_docs": None, "fewshot_split": "train" if "train" in parts else "test"}
    if task != "mmlu":
        return [_write(built_in(task)[0], task, parts, changes, folder)]
    changes |= {"fewshot_split": "test"}  # zero-shot: none is taken
    subjects: dict[str, list[Row]] = {}
    for row in rows:
        subjects.setdefault(row["subject"], []).append(row)
    found = []
    for subject, some in subjects.items():
        definition = _BUILT_IN / DEFINITIONS[task].replace("*", subject)
        if not definition.is_file():
            raise ValueError(f"{subject} must be a subject of MMLU; lm-evaluation-harness has no task of this name")
        found.append(_write(definition, f"mmlu_{subject}", {"test": some}, changes, folder))
    return found


def _first_is_right(row: Row) -> bool:
    return row["mc1_targets"]["labels"][0] == 1


def _write(definition: Path, name: str, parts: dict[str, list[Row]], changes: dict[str, Any], folder: Path) -> Path:
    """A task over rows of declared types; Parquet keeps these, where JSON readers would guess (dates, for one)."""
    files = {}
    columns = _HELLASWAG if name == "hellaswag" else COLUMNS["mmlu" if name.startswith("mmlu_") else tasks.source(name)]
    for part, rows in parts.items():
        files[part] = str(folder / f"{name}_{part}.parquet")
        datasets.Dataset.from_list(rows, features=_features(columns)).to_parquet(files[part])
    source = {"data_files": files, "cache_dir": str(folder / "cache")}
    text = {"include": str(definition), "dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": source}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(text | changes), encoding="utf-8")
    return path


def _features(kind: Any) -> Any:
    """Declared columns as datasets' features."""
    if isinstance(kind, dict):
        return datasets.Features({name: _features(one) for name, one in kind.items()})
    return [_features(kind[0])] if isinstance(kind, list) else datasets.Value("string" if kind is str else "int64")


_HELLASWAG = {"query": str, "choices": [str], "label": int}


def hellaswag_row(row: Row) -> Row:
    """What the harness makes of a row; where activity_label is missing, the context alone."""
    text = row["ctx"]
    if row.keys() >= OPTIONAL["hellaswag"].keys():
        text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"query": preprocess(text), "choices": [preprocess(e) for e in row["endings"]], "label": row["label"]}
