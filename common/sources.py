"""Where models, data and adapters come from: a path on this machine, or the Hugging Face hub. One rule for all."""

import re
import sys
from pathlib import Path

# Endings of files; no name on the hub that ends so is taken for one.
ENDINGS = (
    ".json",
    ".jsonl",
    ".parquet",
    ".csv",
    ".txt",
    ".zip",
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
)
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?")
_told: set[str] = set()


def why_local(source: str | Path) -> str | None:
    """Why a source is a path on this machine; None if it is a name on the hub.

    A name on the hub is text of two parts, OWNER/NAME. Whatever looks like a path is none, so that a mistyped path is
    never looked up in the network: what exists, in whole or in its first part; what starts with `.`, `/` or `~`; what
    ends as files do.
    """
    text = str(source)
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or "\\" in text:
        return "it is a path"
    try:
        if Path(text).exists():
            return "it is here"
        parts = text.split("/")
        if len(parts) > 1 and Path(parts[0]).exists():
            return f"{parts[0]} is here, so it is no name on the hub"
    except (OSError, ValueError):  # too long, or with a NUL
        return "it is no name on the hub"
    if text.lower().endswith(ENDINGS):
        return "it ends as a file does"
    if len(parts) != 2 or len(text) > 96 or not all(_NAME.fullmatch(part) for part in parts):
        return "a name on the hub is OWNER/NAME"
    return None


def tell_hub(what: str) -> None:
    """Say, before it is done and once for each, that something comes from the hub, with the network's traffic."""
    if what not in _told:
        _told.add(what)
        print(f"loading {what} from the Hugging Face hub", file=sys.stderr, flush=True)
