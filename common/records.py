"""Result files: where their numbers come from, and writing that leaves an old file or a new one, never half of one."""

import errno
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.paths import ROOT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LIBRARIES = ("numpy", "scipy", "numba", "torch", "transformers", "peft")


def provenance() -> dict:
    """Everything but the configuration that a number may depend on; of the machine, no name, user or folder.

    Returns
    -------
    dict
        time (UTC), commit (None outside a git checkout), dirty (whether code or pins differ from that commit; None
        without one), python, libraries (installed ones only), cpu, cores (that this process may use) and
        platform.
    """
    status = _git("status", "--porcelain", "--", "*.py", "requirements.txt")
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "python": platform.python_version(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name))},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when all is written: a reader sees the old file or the new one.

    Missing folders are made. What was written goes to disk before it takes its place; a failure leaves the old file.

    Raises
    ------
    OSError
        Naming the file and the reason, if it cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_atomic(path: str | Path, text: str) -> None:
    """Write a text file in one step (`whole`)."""
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def append_whole(path: str | Path, data: bytes) -> None:
    """Add to a file by one system call, which a kill does not cut in two within a page of memory (4 KB, longer than the
    rows of tables); a full disk takes the part back.

    Raises
    ------
    OSError
        Naming the file and the reason, if it cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
    try:
        size = os.fstat(handle).st_size
        try:
            written = os.write(handle, data)
        except OSError as error:
            raise type(error)(f"cannot write {path}: {error.strerror or error}") from error
        if written != len(data):
            os.ftruncate(handle, size)
            raise OSError(f"cannot write {path}: the disk is full")
    finally:
        os.close(handle)


@contextmanager
def only_writer(folder: str | Path) -> Iterator[None]:
    """Hold a folder, made if missing, so that no other process that asks for it writes there at the same time.

    The system frees it when the process ends, however that ends. Where it cannot lock a folder (some network file
    systems, Windows), nothing is held.

    Raises
    ------
    BlockingIOError
        If another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process is writing in {folder}; wait for its end, or name another --out"
            ) from None
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                raise
        yield
    finally:
        os.close(handle)


def _git(*arguments: str) -> str | None:
    try:
        run = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
