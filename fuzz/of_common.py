"""Public functions of `common`: random streams, tables, JSON, records with a checksum, sources."""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import journal, seals, tables
from common.checks import number, whole
from common.sources import why_local
from common.streams import counted, stream
from common.tables import Column
from common.texts import parse_json
from fuzz.nonsense import NO_COUNT, NO_NUMBER, Entry, Random, pick


def _cell(rng: Random) -> dict[str, Any]:
    text = "".join(chr(int(rng.integers(32, 1000))) for _ in range(int(rng.integers(0, 6))))
    value = pick(rng, (0.1, math.pi, 1e-300, -0.0, float(rng.standard_normal()) * 10.0 ** int(rng.integers(-20, 20))))
    return {"rows": [{"name": text, "n": int(rng.integers(100)), "x": value}] * int(rng.integers(0, 3))}


def _table(rows: Any) -> list[dict[str, str]]:
    columns = {"name": Column(), "n": Column("integer", 0, 100), "x": Column("number")}
    with tempfile.TemporaryDirectory() as place:
        tables.finish(Path(place, "t.csv"), rows, columns)
        return tables.read(Path(place, "t.csv"), columns)


def _kept(given: dict[str, Any], found: list[dict[str, str]]) -> str | None:
    again = [{"name": r["name"], "n": int(r["n"]), "x": float(r["x"])} for r in found]
    return None if again == given["rows"] else f"{again} instead of {given['rows']}"


BAD_ROWS = (
    [{"name": "a", "n": -1, "x": 0.5}],
    [{"name": "a", "n": 2.5, "x": 0.5}],
    [{"name": "a", "n": 3, "x": math.nan}],
    [{"name": "a", "n": 3, "x": math.inf}],
    [{"name": "a", "n": 10**30, "x": 0.5}],
    [{"name": "a\r\n", "n": 3, "x": 0.5}],
    [{"name": "\0", "n": 3, "x": 0.5}],
)


def _value(rng: Random, depth: int = 3) -> Any:
    plain = (None, True, 3, -1.5, "a", "ä\n", 10**20, "")
    if depth == 0 or rng.random() < 0.4:
        return pick(rng, plain)
    children = [_value(rng, depth - 1) for _ in range(int(rng.integers(0, 4)))]
    return children if rng.random() < 0.5 else {f"k{n}": child for n, child in enumerate(children)}


def _spoilt_json(rng: Random, given: dict[str, Any]) -> str:
    text = json.dumps({"a": given["value"]})
    return pick(rng, (
        text[:-1], text + "]", text.replace('"a"', "'a'", 1), '{"a": NaN}', "[" * 20_000, '{"a": 1, "a": 2}', "",
        '{"a": 1e999}', "9" * 5000, "\ufeff" + text + "x",
    ))  # fmt: skip


def _record(rng: Random) -> dict[str, Any]:
    return {"record": {"configuration": {"a": 1}, "history": [], "results": {"x": _value(rng)}}}


def _sealed(record: Any, change: str = "") -> Any:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "r.json")
        journal.save(path, record)
        if change:
            path.write_text(re.sub(change, "7", path.read_text(), count=1))
        return seals.unsealed(path, "a record")


def _drawn(seed: Any, key: Any) -> np.ndarray:
    return stream(seed, key, 1).standard_normal(3)


def _own(given: dict[str, Any], found: np.ndarray) -> str | None:
    """The same again for the same key, and other numbers for another."""
    again, other = (_drawn(given["seed"], key) for key in (given["key"], given["key"] + "'"))
    return None if np.array_equal(found, again) and not np.isin(found, other).any() else f"{found}, {again}, {other}"


def _block(seed: Any, key: Any, block: int) -> np.ndarray:
    return counted(seed, key)(block).standard_normal(3)


def _own_block(given: dict[str, Any], found: np.ndarray) -> str | None:
    again, other = (_block(given["seed"], given["key"], given["block"] + more) for more in (0, 1))
    return None if np.array_equal(found, again) and not np.isin(found, other).any() else f"{found}, {again}, {other}"


SEEDS, KEYS = (-1, "x", None, 2.5, True, math.nan), (-1, None, [1], 2.5, True)
PATHS = (
    "./a",
    "/a/b",
    "~/a",
    "a",
    "a/b/c",
    "results/b",
    "a\\b",
    "a/b.json",
    "a/b.SAFETENSORS",
    "",
    "a/b\0",
    "a/" + "b" * 99,
)
ENTRIES = (
    Entry("common.streams.stream", _drawn, lambda rng: {"seed": int(rng.integers(9)), "key": "a" * rng.integers(1, 9)},
          {"seed": SEEDS, "key": KEYS}, _own),
    Entry("common.streams.counted", _block,
          lambda rng: {"seed": int(rng.integers(9)), "key": "a", "block": int(rng.integers(99))},
          {"seed": SEEDS, "key": KEYS}, _own_block, weight=0.5),
    Entry("common.tables", _table, _cell, {"rows": BAD_ROWS}, _kept),
    Entry("common.texts.parse_json",
          lambda value, text=None: parse_json(json.dumps(value) if text is None else text, "f"),
          lambda rng: {"value": _value(rng)}, {"text": _spoilt_json},
          lambda given, found: None if found == given["value"] else f"{found}"),
    Entry("common.seals, journal", _sealed, _record, {"change": ("1", '"configuration"', "[0-9a-f]{64}", r"\{")},
          lambda given, found: None if found == given["record"] else f"{found}"),
    Entry("common.checks", lambda count, size: (whole("count", count), number("size", size)),
          lambda rng: {"count": int(rng.integers(1, 9)), "size": float(rng.uniform(0, 9))},
          {"count": (0, True, *NO_COUNT), "size": (-1e-9, True, *NO_NUMBER)}, weight=0.5),
    Entry("common.sources.why_local", why_local, lambda rng: {"source": pick(rng, PATHS)}, {},
          lambda given, reason: None if reason else f"{given['source']!r} would be looked up on the hub", weight=0.2),
)  # fmt: skip
