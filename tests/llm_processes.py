"""Functions run in other processes, forked, so that nothing is imported again."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

FORK = multiprocessing.get_context("fork")


def _run(function: Callable, arguments: tuple, environment: dict[str, str], queue: Any) -> None:
    os.environ.update(environment)
    queue.put(function(*arguments))


def together(count: int, function: Callable, *arguments: Any, **environment: str) -> list[Any]:
    """Results of `function` in `count` processes that torch.distributed connects, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queues = [FORK.Queue() for _ in range(count)]
    workers = []
    for rank, queue in enumerate(queues):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
        settings = {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"} | environment
        workers.append(FORK.Process(target=_run, args=(function, arguments, settings, queue)))
        workers[-1].start()
    try:
        return [queue.get(timeout=120) for queue in queues]
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()


def killed(function: Callable, *arguments: Any) -> None:
    """Run `function`, which is expected to kill its process."""
    worker = FORK.Process(target=function, args=arguments)
    worker.start()
    worker.join(120)
    if worker.exitcode != -9:
        worker.kill()
        pytest.fail(f"the process should have been killed; it ended with {worker.exitcode}")
