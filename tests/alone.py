"""Code in a process of its own, on a tier of the CPU: Numba compiles for one a process, and keeps what it compiled for each of them."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import tally

ROOT = Path(__file__).resolve().parent.parent


def run_alone(code, **environment):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, timeout=300)


def available_tiers():
    from kernels.cpu.features import available

    return available()


def on_tier(tier, code):
    """What the code prints on a tier. Where the machine does not have it, the test is skipped."""
    if tier not in available_tiers():
        tally.not_run(f"the machine does not have {tier}")
        pytest.skip(f"the machine does not have {tier}")
    done = run_alone(code, GNOMON_CPU=tier)
    assert done.returncode == 0, done.stderr
    return done.stdout
