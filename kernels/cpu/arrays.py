"""How arrays reach jitted code, and where large ones begin."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from kernels.arrays import beginning_at

LINE = 64  # bytes of a cache line
LARGE = 1 << 18  # bytes from which on it pays to look where a result begins


def dense(x: Any) -> np.ndarray:
    """`x` in C order, aligned and writable, so that one compiled variant serves; a copy only if it is not so already."""
    return x if x.flags.carray else np.array(x, order="C")


def at_a_line(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array that, if it is large, begins at a cache line: a vector written across two lines has each of them fetched first."""
    small = prod(shape) * np.dtype(dtype).itemsize < LARGE
    return np.empty(shape, dtype) if small else beginning_at(LINE, shape, dtype)
