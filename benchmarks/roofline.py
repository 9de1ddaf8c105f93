"""The limits of this machine, measured: operations a second of the register tile, and bytes a second of each level of memory.

A call that does f operations on b bytes takes at least max(f / peak, b / bandwidth) seconds: the roofline. Bytes are those of the
arrays, each moved once, and the bandwidth is that of the level that holds them all, or of memory where the caches are emptied.

Each thread measures by its own processor time, with arrays of its own, while the others do the same; rates are added up.

Source: Williams, Waterman & Patterson (2009), Roofline, Communications of the ACM 52(4). The bandwidth is that of the triad of McCalpin's
STREAM, a = b + s c, counted as there: three arrays, without the line that is read before it is written.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from threading import Barrier
from time import thread_time
from typing import Any

import numpy as np

REPEATS = 15  # of which the best counts
LONG_ENOUGH = 0.004
MOST = 512 << 20  # bytes of all arrays that measure memory
DEEP = 128  # of a strip of the tile: both factors stay in the first level

Make = Callable[[], tuple[Callable[[int], Any], float]]  # makes a function of a number of repeats, and says the work of one


@dataclass(frozen=True)
class Roof:
    """What a number of threads can do.

    peaks       operations a second by dtype; a dtype whose tile does not exist is not there
    bandwidths  bytes a second by level: 1, 2, 3, and 0 for memory
    holds       bytes that a level holds, for these threads
    """

    threads: int
    peaks: dict[str, float] = field(default_factory=dict)
    bandwidths: dict[int, float] = field(default_factory=dict)
    holds: dict[int, int] = field(default_factory=dict)

    def level(self, moved: int, cold: bool = False) -> int:
        """The level that holds so many bytes; 0 is memory."""
        return 0 if cold else next((level for level, size in sorted(self.holds.items()) if moved <= size), 0)

    def limit(self, dtype: str, flops: int, moved: int, cold: bool = False) -> float | None:
        """The least seconds of a call. None where a peak is not known."""
        if flops and dtype not in self.peaks:
            return None
        return max(flops / self.peaks[dtype] if flops else 0.0, moved / self.bandwidths[self.level(moved, cold)])

    def __str__(self) -> str:
        peaks = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in self.peaks.items())
        levels = ", ".join(f"{f'L{level}' if level else 'memory'} {speed / 1e9:.0f}" for level, speed in self.bandwidths.items())
        return f"limits with {self.threads} thread{'s'[: self.threads > 1]}: GFLOP/s {peaks or 'unknown'}; GB/s {levels}"


@lru_cache(maxsize=8)
def measured(threads: int) -> Roof:
    """The roof for so many threads."""
    from kernels.cpu.features import caches

    sizes = caches()
    holds = {level: sizes[level] * (threads if level < 3 else 1) for level in (1, 2, 3)}
    used = {1: sizes[1] // 2, 2: sizes[2] // 2, 3: min(4 * sizes[2], holds[3] // 2 // threads), 0: min(4 * holds[3], MOST) // threads}
    found = {dtype: together(threads, make) for dtype, make in peaks().items()}
    return Roof(threads, found, {level: together(threads, lambda size=size: triad(size)) for level, size in used.items()}, holds)


def together(threads: int, make: Make) -> float:
    """The sum of the rates of threads that each run what `make` makes."""
    ready = Barrier(threads)

    def rate() -> float:
        run, work = make()
        run(1)  # compiles
        repeats = 1
        while (took := timed(run, repeats)) < LONG_ENOUGH:
            repeats = max(2 * repeats, int(repeats * LONG_ENOUGH / max(took, 1e-6)))
        ready.wait()
        return work * repeats / min(timed(run, repeats) for _ in range(REPEATS))

    with ThreadPoolExecutor(threads) as pool:
        return sum(future.result() for future in [pool.submit(rate) for _ in range(threads)])


def timed(run: Callable[[int], Any], repeats: int) -> float:
    start = thread_time()
    run(repeats)
    return thread_time() - start


def triad(size: int) -> tuple[Callable[[int], Any], float]:
    """a = b + s c over three arrays of `size` bytes together."""
    a, b, c = (np.ones(max(size // 3 // 8, 64)) for _ in range(3))
    run = compiled_triad()
    return lambda repeats: run(a, b, c, repeats), float(a.nbytes + b.nbytes + c.nbytes)


@lru_cache(maxsize=1)
def compiled_triad() -> Any:
    from numba import njit

    @njit("void(f8[::1], f8[::1], f8[::1], i8)", nogil=True)
    def triads(a, b, c, repeats):  # type: ignore[no-untyped-def]
        for turn in range(repeats):
            s = 1.0 / (turn + 2)
            for i in range(a.size):
                a[i] = b[i] + s * c[i]

    return triads


def tile(dtype: Any) -> tuple[Callable[[int], Any], float]:
    """Tiles of a product, down one strip, from packed factors that stay in the caches."""
    from kernels.cpu.features import lanes
    from kernels.cpu.tile import ROWS

    size = np.dtype(dtype).itemsize
    columns, rows = 2 * lanes(8 * size), 2 * ROWS
    a, b, c = np.ones((rows // ROWS, DEEP, ROWS), dtype), np.ones((DEEP, columns), dtype), np.zeros((rows, columns), dtype)
    run = compiled_tile()
    return lambda repeats: run(a, b, c, repeats), 2.0 * rows * columns * DEEP


@lru_cache(maxsize=1)
def compiled_tile() -> Any:
    from numba import njit

    from kernels.cpu.tile import ROWS, tiles
    from kernels.cpu.vector import address

    @njit(nogil=True)
    def strips(a, b, c, repeats):  # type: ignore[no-untyped-def]
        size = a.itemsize
        steps, sizes = (size, ROWS * size, a.shape[1] * ROWS * size), (c.shape[0], a.shape[1], c.shape[1])
        for _ in range(repeats):
            tiles(ROWS, 2, 1, c[0, 0], address(a), address(b), address(c), steps, b.strides[0], c.strides[0], sizes, False)

    return strips


def narrow(sum_dtype: str) -> Make | None:
    """The instructions for narrow numbers alone; None where there are no kernels for them."""
    if find_spec("kernels.cpu.words") is None or find_spec("kernels.cpu.amx") is None:
        return None
    from benchmarks.narrow_peak import instructions

    return lambda: instructions(sum_dtype)


def peaks() -> dict[str, Make]:
    """What measures the peak of each dtype that has kernels."""
    found = {"float32": lambda: tile("float32"), "float64": lambda: tile("float64"), "bfloat16": narrow("float32"), "int8": narrow("int32")}
    return {dtype: make for dtype, make in found.items() if make is not None}
