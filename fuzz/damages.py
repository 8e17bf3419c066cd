"""How a file is damaged, and what reading it must give: one line that refuses it, or what was in it before."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fuzz.judge import Case
from fuzz.nonsense import Random, pick
from fuzz.samples import logits


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name : str
    make : callable
        Writes a sample into a folder.
    read : callable
        What the package makes of that folder; comparable by ==, or by the logits of a model.
    exact : bool
        Whether every change must show: there are checksums. Without (files of other projects), another number is
        another number.
    grows : bool
        Whether the part of a last line is cut off, as after a kill.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    exact: bool = False
    grows: bool = False


def flip(rng: Random, data: bytes) -> bytes:
    """One bit."""
    changed = bytearray(data)
    if changed:
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def scramble(rng: Random, data: bytes) -> bytes:
    """Sixteen bytes at random."""
    start = int(rng.integers(max(1, len(data))))
    return data[:start] + rng.bytes(16) + data[start + 16 :]


def digits(rng: Random, data: bytes) -> bytes:
    """A digit for another."""
    places = [i for i, byte in enumerate(data) if byte in b"0123456789"]
    if not places:
        return data + b"1"
    place = pick(rng, places)
    return data[:place] + str((int(chr(data[place])) + 1) % 10).encode() + data[place + 1 :]


DAMAGES: dict[str, Callable[[Random, bytes], bytes | None]] = {
    "bit": flip,
    "scrambled": scramble,
    "digit": digits,
    "cut": lambda rng, data: data[: int(rng.integers(max(1, len(data))))],
    "empty": lambda rng, data: b"",
    "absent": lambda rng, data: None,
    "NUL": lambda rng, data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :],
    "UTF-16": lambda rng, data: data.decode("latin-1").encode("utf-16"),
    "CRLF": lambda rng, data: data.replace(b"\n", b"\r\n"),
    "twice": lambda rng, data: data + data,
    "nested": lambda rng, data: b"[" * 100_000,
    "infinite": lambda rng, data: b'{"seed": Infinity}',
    "types": lambda rng, data: pick(
        rng, (b"[]", b"null", b"3", b'"a"', b"{}", b'{"configuration": 3}', b"[[]]", b"[{}]")
    ),
    "zip": lambda rng, data: b"PK\x03\x04" + rng.bytes(200),
    "noise": lambda rng, data: rng.bytes(300),
}


def case(kind: Kind, rng: Random) -> Case:
    """A sample with one file damaged, and what reading it must give."""
    place = Path(tempfile.mkdtemp())
    original, damaged = sample(kind), place / "sample"
    shutil.copytree(original, damaged)
    files = sorted(path for path in damaged.rglob("*") if path.is_file())
    path, (name, damage) = pick(rng, files), pick(rng, list(DAMAGES.items()))
    before = path.read_bytes()
    data = damage(rng, before)
    path.unlink() if data is None else path.write_bytes(data)

    def read() -> Any:
        try:
            return kind.read(damaged)
        finally:
            kept = path.read_bytes() if path.exists() else None
            shutil.rmtree(place)
            part = kind.grows and data is not None and data.startswith(kept or b"")
            if kept != data and not part:
                raise RuntimeError("reading has changed the file")

    def check(found: Any) -> str | None:
        if isinstance(found, torch.nn.Module) and not logits(found).isfinite().all():
            return "the model that was read gives no numbers"
        if kind.exact and data not in (before, None) and not same(found, kind.read(original)):
            return "a damaged file is read as something else"
        return None

    return Case(f"{path.name}: {name}", read, "either", check)


def same(one: Any, other: Any) -> bool:
    """Whether two results are equal, models by what they compute."""
    if isinstance(one, torch.nn.Module):
        return torch.equal(logits(one), logits(other))
    return one == other


@cache
def sample(kind: Kind) -> Path:
    """A folder with a sample of a kind, made once a process."""
    path = Path(tempfile.mkdtemp())
    kind.make(path)
    return path
