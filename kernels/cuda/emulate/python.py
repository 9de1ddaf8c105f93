"""A kernel in Python, compiled and run here: for notebooks and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kernels.cuda.emulate.run import Report, run


def emulate(
    kernel: Callable[..., Any],
    *args: Any,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    cc: tuple[Any, ...] = (8, 0),
    counters: bool = True,
    touches: bool = True,
    **options: Any,
) -> Report:
    """Compile a kernel (a plain function, or one that `cuda.jit` was put on) for compute capability `cc`, and run it.

        report = emulate(tiled, a, b, c, grid=(4, 4), block=(16, 16))
        print(report)                   # what it counted
        report.picture()                # who touches which address, a matplotlib figure

    Numbers of Python are as wide as Numba has them, 64 bits. `options` are those of `run`: checks, shared, uninitialised. Raises what `run`
    raises, and MissingKernel where numba-cuda is not installed.
    """
    from kernels.cuda.launch import ptx_of

    function = getattr(kernel, "py_func", kernel)
    numbers = [a if isinstance(a, (np.ndarray, np.generic)) else np.asarray(a)[()] for a in args]
    threads = int(np.prod(block))
    text, entry = ptx_of(function, [kind_of(a) for a in numbers], cc, (threads,))
    names = tuple(inspect.signature(function).parameters)
    return run(text, entry, grid, block, numbers, counters=counters, touches=touches, names=names, **options)


def kind_of(a: Any) -> Any:
    """The Numba type of an argument, whatever its strides."""
    from numba import from_dtype
    from numba.cuda import types

    if isinstance(a, np.ndarray):
        return types.Array(from_dtype(a.dtype), a.ndim, "C" if a.flags.c_contiguous else "A", readonly=not a.flags.writeable)
    return from_dtype(a.dtype)
