#!/usr/bin/env python
"""Draw every figure: execute the notebooks on folders of results, and stop at the first assertion that fails."""

import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parent.parent)]

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from common import arguments as commands
from common.arguments import Parser
from common.paths import FIGURES, NOTEBOOKS, RESULTS

TIMEOUT = 600
# Of a kernel: one thread, since kernels share the cores; and nothing drawn twice, since nobody looks on.
KERNEL = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}


class DrawError(RuntimeError):
    """A notebook that failed: which one, in which cell, and why."""


def execute(notebook: Path, results: Path, out: Path, llm_results: Path = RESULTS / "llm") -> None:
    """Execute a notebook on folders of results; figures and their numbers go to `out`, the notebook stays as it is.

    Raises
    ------
    DrawError
        Naming the notebook, the cell and the error, if a cell fails.
    """
    import nbformat  # here and not above, for a --help without delay
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        content,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        extra_arguments=["--log-level=ERROR"],  # it warns of plain TCP, which is that of this machine to itself
    )
    folders = {"ZIA_RESULTS": results, "ZIA_LLM_RESULTS": llm_results, "ZIA_FIGURES": out}
    try:
        client.execute(env=os.environ | KERNEL | {name: str(folder.resolve()) for name, folder in folders.items()})
    except CellExecutionError as error:
        raise DrawError(f"{notebook.name}, {_failed(content)}: {error.ename}: {error.evalue}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        raise DrawError(f"{notebook.name}: {str(error).strip().splitlines()[0]}") from error


def _failed(content: Any) -> str:
    for number, cell in enumerate(content.cells, 1):
        if any(output["output_type"] == "error" for output in cell.get("outputs", ())):
            return f"cell {number} ({cell.id})"
    return "before the first cell"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see `--help`."""
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser = Parser(prog="draw.py", description=__doc__)
    parser.add_argument("notebook", nargs="*", metavar="NOTEBOOK", help=f"all of them if none is named: {names}")
    parser.add_argument(
        "--results", type=commands.folder, default=RESULTS / "theory", metavar="DIR", help="results/theory"
    )
    parser.add_argument(
        "--llm-results", type=commands.folder, default=RESULTS / "llm", metavar="DIR", help="results/llm"
    )
    parser.add_argument("--out", type=commands.folder, default=FIGURES, metavar="DIR", help="figures/out")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), metavar="W", help="notebooks at once (all cores)"
    )
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.notebook if name not in names]:
        parser.error(f"no notebook is called {unknown[0]}; there are {', '.join(names)}")
    if arguments.workers < 1:
        parser.error(f"--workers must be at least 1; got {arguments.workers}")
    for option, folder in (("--results", arguments.results), ("--llm-results", arguments.llm_results)):
        if not folder.is_dir():
            parser.error(f"{option} must be a folder of results; {folder} is not a folder")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out must be a folder that can be written: {error}")
    began = time.perf_counter()
    with ThreadPoolExecutor(arguments.workers) as pool:
        started = {
            pool.submit(
                execute, NOTEBOOKS / f"{name}.ipynb", arguments.results, arguments.out, arguments.llm_results
            ): name
            for name in arguments.notebook or names
        }
        for future in as_completed(started):
            try:
                future.result()
            except DrawError as error:
                pool.shutdown(cancel_futures=True)
                print(f"draw.py: error: {error}", file=sys.stderr)
                return 1
            print(f"{started[future]}: drawn after {time.perf_counter() - began:.0f} s", flush=True)
    print(f"figures and the numbers in them are in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
