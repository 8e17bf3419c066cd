"""Worker processes that end with the main one, however that ends."""

import os
import signal
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from multiprocessing.process import BaseProcess

from tqdm import tqdm


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
        executor.end(set(active_children()) - others)
        raise


class _Pool(ProcessPoolExecutor):
    """Its workers never see the Ctrl-C that the terminal sends to all processes: the main one ends them."""

    def submit(self, fn, /, *args, **kwargs):
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        # Workers are started here: the main process must not be stopped in the midst of it, and they inherit the mask,
        # so that not even one that is still starting is interrupted.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self, processes: Collection[BaseProcess]) -> None:
        """Give up all work at once; workers have nothing to save, for the main process writes."""
        self.shutdown(wait=False, cancel_futures=True)
        # Its thread must have forgotten the cancelled work first: that of Python 3.11 fails on finding it when workers
        # are dead.
        for _ in range(100 if processes else 0):
            if not getattr(self, "_cancel_pending_futures", False):
                break
            time.sleep(0.01)
        for process in processes:
            process.kill()
        for process in processes:
            process.join(1)


def _end_with_parent() -> None:
    """In a worker: end when the main process does, which a kill would not tell it; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    tqdm.set_lock(threading.RLock())  # its usual one is a semaphore, which a killed worker leaves behind
    parent = parent_process()
    if parent is not None:

        def watch() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
