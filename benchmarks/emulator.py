"""How fast the emulator of CUDA kernels is: seconds of the processor for two products, plain, with all checks, and with counters too.

    python -m benchmarks emulator

A kernel is compiled and its text read before; what a run does itself, from arrays to arrays, is measured, the best of some. "64 tiled" is
the product of 64 by 64 by 64 by tiles of 32 in shared memory, "256 in registers" that of 256 by 256 by 256 with 8 by 8 sums a thread and
loads of 128 bits: the eighth rung of the ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import thread_time
from typing import Any

import numpy as np

TARGETS = {("64 tiled", "plain"): 0.1, ("64 tiled", "checks"): 1.5, ("256 in registers", "plain"): 0.5}  # seconds
MODES: dict[str, dict[str, Any]] = {
    "plain": {"checks": False},
    "checks": {"checks": True},
    "checks and counters": {"checks": True, "counters": True},
}
ROUNDS = 5
DIALECTS = ((8, 0), (10, 0))  # two compilers, with PTX of their own


def cases() -> dict[str, tuple[Callable[..., np.ndarray], int]]:
    """The products, and their size."""
    from kernels.cuda import matmul

    return {"64 tiled": (matmul.squares, 64), "256 in registers": (matmul.square_without_conflicts, 256)}


def seconds(product: Callable[..., np.ndarray], n: int, cc: tuple[int, ...], mode: dict[str, Any]) -> float:
    """The best of some runs; the first, which compiles, does not count. Raises AssertionError for a wrong product."""
    from kernels.cuda.launch import on

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, n)).astype("f4"), rng.normal(size=(n, n)).astype("f4")
    times = []
    with on("emulated", cc=cc, **mode):
        for _ in range(ROUNDS + 1):
            start = thread_time()
            c = product(a, b)
            times.append(thread_time() - start)
    assert np.allclose(c, a.astype("f8") @ b, atol=1e-3), "the emulator is wrong"
    return min(times[1:])


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if a target is missed, 0 where numba-cuda is not installed, which is said."""
    from importlib.util import find_spec

    from benchmarks.job import machine

    if arguments:
        raise SystemExit(f"python -m benchmarks emulator takes no more words; given {' '.join(arguments)}")
    if find_spec("numba_cuda") is None:
        print("not run: numba-cuda is not installed (pip install 'gnomon[cuda]')")
        return 0
    print(f"{machine()}\n\nseconds of the processor, one thread, the best of {ROUNDS}\n")
    print(f"{'product':<20}{'compiled for':<14}{'':<22}{'seconds':>8}{'target':>8}")
    missed = False
    for name, (product, n) in cases().items():
        for cc in DIALECTS:
            for words, mode in MODES.items():
                took, target = seconds(product, n, cc, mode), TARGETS.get((name, words))
                missed |= target is not None and took > target
                print(f"{name:<20}{f'sm_{cc[0]}{cc[1]}':<14}{words:<22}{took:>8.3f}{target if target else '':>8}")
    return int(missed)
