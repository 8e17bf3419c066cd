"""One thread for every library: sums in one order, and no fight over the cores between tests and workers."""

import os

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session")
def theory_folder(tmp_path_factory):
    """A folder of theory rows that no fit has made."""
    from tests import theory_rows  # here and not above: after the threads are set

    folder = tmp_path_factory.mktemp("theory")
    theory_rows.write(folder)
    return folder
