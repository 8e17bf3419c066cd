"""Worker processes that end with the main one, however that ends."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for independent pieces of work, which end when the block does: at once, if that is by an exception.

    Spawned, not forked: the same on every platform, and no worker inherits a lock or a thread.
    """
    others = set(active_children())
    executor = _Pool(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        yield executor
        executor.shutdown()
    except BaseException:
        for process in set(active_children()) - others:
            process.kill()  # it has nothing to save: the main process writes
        executor.shutdown(cancel_futures=True)
        raise


class _Pool(ProcessPoolExecutor):
    """Its workers never see the Ctrl-C that the terminal sends to all processes: the main one ends them."""

    def submit(self, fn, /, *args, **kwargs):
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        # Workers are started here and inherit the mask, so that not even one that is still starting is interrupted.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a worker: end when the main process does, which a kill would not tell it; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
