"""Freed memory stays with the process once the kernels are loaded, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import tally

FAULTS = """
import resource
import numpy as np
import kernels.cpu
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def make_and_drop():
    np.empty(3_000_000, np.uint8).fill(1)
for _ in range(3):
    make_and_drop()
before = faults()
for _ in range(10):
    make_and_drop()
print(faults() - before)
"""


def faults(**environment):
    """Page faults of making, filling and dropping three megabytes ten times over."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_freed_memory_is_used_again_and_the_environment_can_forbid_it():
    if platform.libc_ver()[0] != "glibc":
        tally.not_run("freed memory: the C library is not glibc")
        pytest.skip("the C library is not glibc")
    kept = faults(GNOMON_MALLOC="")
    assert kept < 100
    assert faults(GNOMON_MALLOC="system", MALLOC_MMAP_THRESHOLD_="1000000") > 10 * max(kept, 100), "the law would not see what it is about"
