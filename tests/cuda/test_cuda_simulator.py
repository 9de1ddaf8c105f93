"""The kernels in Numba's own simulator: tiny cases, in a process of their own, for it decides at import what `cuda` is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tally

pytestmark = pytest.mark.numba_cuda
HERE = Path(__file__).resolve().parent


def test_the_rungs_that_the_simulator_can_run():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run([sys.executable, "in_simulator.py"], cwd=HERE, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 6
    tally.ran("cuda", "a rung in Numba's simulator", 6)
