"""Workers of a Dask cluster, for independent pieces of work.

dask scheduler                                        on one machine
dask worker ADDRESS --nworkers 8 --nthreads 1         on each, in the project's folder
"""

import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from contextlib import contextmanager

from common.arguments import CommandError
from common.records import provenance

PATIENCE = 20  # seconds in which scheduler and a first worker must answer
SAME = ("commit", "python", "libraries")  # of the provenance: what numbers depend on


@contextmanager
def cluster(address: str) -> Iterator[tuple[Executor, dict]]:
    """An executor on the cluster of a running scheduler, and what its workers add to the provenance of a run.

    A worker that is killed costs nothing but time: the scheduler gives its work to another.

    Raises
    ------
    CommandError
        If Dask is not installed, no scheduler or worker answers, a worker has another state of the project or several
        threads, or the scheduler gives up.
    """
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
        from distributed.scheduler import KilledWorker  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise CommandError(
            "a cluster needs the package distributed: run `pip install -r requirements-dev.txt`"
        ) from None
    for name in ("distributed.client", "distributed.utils"):  # whose tracebacks would stand above our one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CommandError(f"no scheduler answers at {address}; start one by `dask scheduler` ({reason})") from None
    with client:
        try:
            yield client.get_executor(), _workers(client, address)
        except (KilledWorker, CancelledError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise CommandError(f"the cluster gave up ({reason}); the same command resumes") from None


def _workers(client, address: str) -> dict:
    """Number of workers and their processors, once it is sure that they compute what this process would."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise CommandError(
            f"the scheduler at {address} has no worker; start some by `dask worker {address} --nthreads 1`"
        ) from None
    here = provenance()
    try:
        every = client.run(provenance)
    except Exception as error:  # what a worker raises without the project's modules, whatever its class
        raise CommandError(f"workers must run in the project's folder, by its Python; one fails ({error})") from None
    for worker, there in every.items():
        if differ := [name for name in SAME if there[name] != here[name]]:
            raise CommandError(
                f"workers must have what this process has; {worker} has another {differ[0]}: {there[differ[0]]}, not "
                f"{here[differ[0]]}"
            )
    threads = {name: info["nthreads"] for name, info in client.scheduler_info(n_workers=-1)["workers"].items()}
    if busy := [worker for worker, count in threads.items() if count > 1]:
        raise CommandError(f"workers must have one thread each, by `--nthreads 1`; {busy[0]} has {threads[busy[0]]}")
    return {"cluster": {"workers": len(every), "cpu": sorted({there["cpu"] for there in every.values()})}}
