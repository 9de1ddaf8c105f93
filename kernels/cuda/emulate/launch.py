"""From arguments to the bytes that a kernel finds as its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.cuda.emulate.parse import Function


def parameters(kernel: Function, arguments: list[Any], addresses: list[int]) -> dict[str, np.ndarray]:
    """The bytes of each parameter. An array is seven numbers and more, as Numba passes it:
    meminfo, parent, number of items, bytes of an item, address, shape..., strides...; numbers are passed by value."""
    words = [word for a, address in zip(arguments, addresses, strict=True) for word in words_of(a, address)]
    if len(words) != len(kernel.parameters):
        raise TypeError(
            f"{kernel.name} has {len(kernel.parameters)} parameters, these arguments fill {len(words)}"
            " (an array of n axes fills 5 + 2 n, a number 1)"
        )
    return {p.name: as_bytes(w, p.size) for p, w in zip(kernel.parameters, words, strict=True)}


def words_of(a: Any, address: int) -> list[Any]:
    """What an argument is passed as: an array, a tuple of numbers, a number."""
    if isinstance(a, np.ndarray):
        return [np.int64(v) for v in (0, 0, a.size, a.itemsize, address, *a.shape, *a.strides)]
    return [word for part in a for word in words_of(part, 0)] if isinstance(a, tuple) else [a]


def as_bytes(value: Any, size: int) -> np.ndarray:
    """A number as a parameter of that many bytes."""
    if not isinstance(value, np.generic):
        kind = "f" if isinstance(value, float) else "i"
        value = np.array(value, f"{kind}{size}")[()]
    if value.nbytes != size:
        raise TypeError(f"a number of {value.nbytes} bytes ({value.dtype}) for a parameter of {size}")
    return np.frombuffer(value.tobytes(), np.uint8).copy()
