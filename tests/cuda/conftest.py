"""What needs numba-cuda is marked `numba_cuda`. Where it is missing, each such test is counted as not run, with the reason."""

from importlib.util import find_spec

import pytest
import tally

HAS_NUMBA_CUDA = find_spec("numba_cuda") is not None


def pytest_runtest_setup(item):
    if item.get_closest_marker("numba_cuda") and not HAS_NUMBA_CUDA:
        reason = "numba-cuda is not installed (pip install 'gnomon[cuda]')"
        tally.not_run(f"cuda: {reason}")
        pytest.skip(reason)
