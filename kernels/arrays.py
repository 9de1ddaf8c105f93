"""Where a result is written, on every backend."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np


def beginning_at(multiple: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new array that begins at a multiple of so many bytes, which NumPy does not promise."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + multiple, np.uint8)
    start = -room.__array_interface__["data"][0] % multiple
    return room[start : start + size].view(dtype).reshape(shape)


def result(shape: tuple[int, ...], dtype: Any, out: np.ndarray | None, *inputs: np.ndarray, make: Any = np.empty) -> np.ndarray:
    """Room for a result: `out` if it is given and fits, else what is made for it. What stands in it is not defined.

    Raises ValueError for an `out` of another shape, dtype or layout, or one that shares memory with one of the inputs.
    """
    if out is None:
        return make(shape, dtype)
    if type(out) is not np.ndarray or out.shape != shape or out.dtype != dtype or not out.flags.carray:
        given = f"{out.shape} {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out is a NumPy array {shape} {np.dtype(dtype)} in C order and writable; given {given}")
    if any(np.may_share_memory(out, x) for x in inputs):
        raise ValueError("out shares memory with an argument, which would be written over while it is read")
    return out
