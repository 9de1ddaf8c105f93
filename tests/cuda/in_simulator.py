"""Run by test_simulator.py in a process in which Numba's simulator stands for CUDA: each rung that it can run, against NumPy."""

import sys

import numpy as np
from numba import cuda

from kernels.cuda.launch import on
from kernels.registry import ladder

CASES = [("float32", (3, 4), (4, 5)), ("float64", (2, 3, 5), (5, 2))]
STEPS = [1, 2, 3, 4, 5, 6]  # the others load 16 bytes at a time, for which the simulator has no word


def run(rung, a, b):
    """What a rung would launch is launched on the simulator; it writes into the rung's own result."""
    with on("recorded") as device:
        c = rung.run(a, b)
    for launch in device.launches:
        cuda.jit(launch.function)[launch.grid, launch.block](*launch.args)
    return c


for rung in ladder("matmul", "cuda"):
    if rung.step in STEPS:
        dtype, first, second = CASES[rung.step % len(CASES)]
        rng = np.random.default_rng(rung.step)
        a, b = rng.normal(size=first).astype(dtype), rng.normal(size=second).astype(dtype)
        np.testing.assert_allclose(run(rung, a, b), a @ b, rtol=1e-5, atol=1e-5)
        print(rung.name)
sys.exit(0)
