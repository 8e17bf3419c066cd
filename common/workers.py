"""Worker processes that end with the main one, however that ends."""

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes for independent pieces of work.

    Spawned, not forked: the same on every platform, and no worker inherits a lock or a thread.
    """
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a worker: end when the main process does, which a kill would not tell it."""
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
