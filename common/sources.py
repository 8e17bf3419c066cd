"""Where models, data and adapters come from: a path on this machine, or the Hugging Face hub. One rule for all."""

import os
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


def why_local(source: str | os.PathLike) -> str | None:
    """Why a source is a path on this machine; None if it is a name on the hub.

    A name on the hub is text of two parts, OWNER/NAME. Whatever looks like a path is none, so that a mistyped path is
    never looked up in the network: what exists, in whole or in its first part; what starts with `.`, `/` or `~`; what
    ends as files do.
    """
    text = str(source)
    parts = text.split("/")
    if not isinstance(source, str) or text.startswith((".", "/", "~")) or "\\" in text:
        return "it is a path"
    try:
        if Path(text).exists():
            return "it is here"
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


def fetch(name: str, *patterns: str, but: str | None = None) -> Path:
    """A folder on this machine with the files of a name on the hub that match one of these patterns.

    Raises
    ------
    ConnectionError
        If the hub does not give them, and they are not here from an earlier time.
    """
    from huggingface_hub import snapshot_download

    tell_hub(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=but))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"there is no folder {name}, and the hub does not give one of this name ({reason}); without a network "
            "download it elsewhere and give the path of its folder"
        ) from error
