"""y = f(x), y = f(x1, x2): the first lesson. One function of numbers, `kernels/scalars.py`, is mapped over arrays, one idea at a time.

    x, x1, x2    any shapes that broadcast, any strides; float32 or float64
    y            in C order

What a step down a ladder changes is not the arithmetic but how a thread finds its numbers. Axes along which all arrays go on as before are
taken as one: of most calls one axis is left, and then no index is divided. Docstrings say what was predicted, the table in README.md what
the emulator counted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from kernels.cuda.arrays import MOST, aligned, dense
from kernels.cuda.intrinsics import WORD, lanewise, put_word, word
from kernels.cuda.launch import Kernel, launch
from kernels.registry import rung
from kernels.scalars import ACTIVATIONS, BINARY, UNARY, elu, leaky_relu

u = np.uint32

THREADS = 256
BLOCKS = 4096  # along a row, at most: what is left over a thread takes in strides of the grid
ROOM = 2**31  # numbers of a result: an index may go a stride beyond it

Function = Callable[..., Any]


class Walk(NamedTuple):
    """How arrays are gone through: sizes of axes, the last one first, and what lies between neighbours along them, for each operand."""

    sizes: list[int]
    steps: list[list[int]]  # by axis, then by operand

    @staticmethod
    def of(shape: tuple[int, ...], operands: list[np.ndarray]) -> Walk:
        sizes: list[int] = []
        steps: list[list[int]] = []
        every = [np.broadcast_to(x, shape) for x in operands]
        for axis in reversed(range(len(shape))):
            if shape[axis] == 1:
                continue
            step = [x.strides[axis] // x.itemsize for x in every]
            if sizes and step == [s * sizes[-1] for s in steps[-1]]:
                sizes[-1] *= shape[axis]
            else:
                sizes.append(shape[axis])
                steps.append(step)
        return Walk(sizes or [1], steps or [[1] * len(operands)])

    def table(self, start: int) -> np.ndarray:
        """For a kernel: size and steps of each axis from `start` on."""
        lines = [number for size, step in zip(self.sizes[start:], self.steps[start:], strict=True) for number in (size, *step)]
        return np.array(lines or [1], u)


def ignoring(f: Function) -> Function:
    """A function of two numbers that ignores the second: its loads are dead, and the compiler leaves none of them."""
    f = inlined(f)

    def of_first(x, _):
        return f(x)

    return of_first


def inlined(f: Function) -> Function:
    if f.__module__ == "math":
        return f
    return cuda.jit(device=True, inline="always")(f)


# A kernel takes (x1, x2, y, axes, ...). `axes` is the table of a walk.


@cuda.jit(device=True, inline="always")
def found(axes, count, i):
    """The places in both operands of number i along the axes of a table."""
    a, b, k = u(0), u(0), u(0)
    while k < count:
        size = axes[u(u(3) * k)]
        here = i % size
        i = i // size
        a = u(a + here * axes[u(u(3) * k + u(1))])
        b = u(b + here * axes[u(u(3) * k + u(2))])
        k = u(k + u(1))
    return a, b


@cache
def element_a_thread(f: Function) -> Kernel:
    f = inlined(f)

    def kernel(x1, x2, y, axes, count, n):
        i = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
        if i < n:
            a, b = found(axes, count, i)
            y[i] = f(x1[a], x2[b])

    return kernel


@cache
def rows_strided(f: Function, still: int, wide: int) -> Kernel:
    """Rows go along the last axis. `still`: 1 or 2 if that operand is one number for all of a row. `wide`: numbers in a word, or 1."""
    of_words, f = lanewise(f), inlined(f)

    def kernel(x1, x2, y, axes, count, rows, n):
        row = u(u(cuda.blockIdx.y) * u(cuda.blockDim.y) + u(cuda.threadIdx.y))
        while row < rows:
            a, b = found(axes, count, row)
            p, q = x1[a], x2[b]
            j = u(u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x)) * u(wide))
            while j < n:
                if wide > 1 and u(j + u(wide - 1)) < n:
                    left = p if still == 1 else word(x1, u(a + j))
                    right = q if still == 2 else word(x2, u(b + j))
                    put_word(y, u(row * n + j), of_words(left, right))
                else:
                    for e in range(wide):
                        k = u(j + u(e))
                        if k < n:
                            y[u(row * n + k)] = f(p if still == 1 else x1[u(a + k)], q if still == 2 else x2[u(b + k)])
                j = u(j + u(u(cuda.gridDim.x) * u(cuda.blockDim.x)) * u(wide))
            row = u(row + u(u(cuda.gridDim.y) * u(cuda.blockDim.y)))

    return kernel


def one_by_one(f: Function, x1: np.ndarray, x2: np.ndarray, y: np.ndarray) -> None:
    """Predicted: 4 sectors a request, all of whose bytes are used; but each thread divides its index by each axis."""
    walk = Walk.of(y.shape, [x1, x2])
    flat = [x.reshape(-1) for x in (x1, x2, y)]
    launch(
        element_a_thread(f), (-(-y.size // THREADS),), (THREADS,), *flat, walk.table(0), u(len(walk.sizes)), u(y.size), writes=[flat[2]]
    )  # fmt: skip


def in_rows(words: bool, f: Function, x1: np.ndarray, x2: np.ndarray, y: np.ndarray) -> None:
    walk = Walk.of(y.shape, [x1, x2])
    n, (along_1, along_2) = walk.sizes[0], walk.steps[0]
    rows = prod(walk.sizes[1:])
    still = 1 if along_1 == 0 else 2 if along_2 == 0 else 0
    lanes = WORD // y.itemsize if words else 1
    lanes = lanes if rows == 1 or n % lanes == 0 else 1  # else a row begins in the middle of a word
    across = -(-n // lanes)
    wide = min(THREADS, 1 << (across - 1).bit_length())
    grid = min(-(-across // wide), BLOCKS), min(-(-rows * wide // THREADS), MOST)
    flat = [x.reshape(-1) for x in (x1, x2, y)]
    axes = walk.table(1), u(len(walk.sizes) - 1), u(rows), u(n)
    launch(rows_strided(f, still, lanes), grid, (wide, THREADS // wide), *flat, *axes, writes=[flat[2]])


def strided(*job: Any) -> None:
    """Predicted: no division where one axis is left; where a row is one number of an operand, that is loaded once."""
    in_rows(False, *job)


def by_words(*job: Any) -> None:
    """Predicted: a quarter of the requests, of 16 sectors each; the same bytes."""
    in_rows(True, *job)


RUNGS = (
    (one_by_one, "the definition: an element a thread, which finds its numbers by dividing its index by each axis"),
    (strided, "rows along the last axis, of which only the beginning is looked up; a thread goes on by the width of the grid"),
    (by_words, "words of 128 bits: four numbers of float32 an access"),
)


def mapped(run: Function, f: Function, x1: Any, x2: Any) -> np.ndarray:
    """f on two arrays that broadcast, or one and a Python number, which takes its dtype. Raises ValueError for 2^31 numbers or more."""
    dtype = next(x.dtype for x in (x1, x2) if hasattr(x, "dtype"))
    x1, x2 = [dense(np.asarray(x, dtype)) for x in (x1, x2)]
    y = aligned(np.broadcast_shapes(x1.shape, x2.shape), dtype)
    if y.size >= ROOM:
        raise ValueError(f"a result of shape {y.shape} has 2^31 numbers or more")
    if y.size:
        run(f, x1, x2, y)
    return y


def of_one(run: Function, f: Function) -> Function:
    f = ignoring(f)

    @wraps(run)
    def op(x: Any) -> np.ndarray:
        x = dense(x)
        return mapped(run, f, x, x)

    return op


def of_two(run: Function, f: Function) -> Function:
    @wraps(run)
    def op(x1: Any, x2: Any) -> np.ndarray:
        return mapped(run, f, x1, x2)

    return op


def with_slope(run: Function) -> Function:
    @wraps(run)
    def op(x: Any, *, negative_slope: float = 0.01) -> np.ndarray:
        return mapped(run, leaky_relu, x, negative_slope)

    return op


def with_alpha(run: Function) -> Function:
    @wraps(run)
    def op(x: Any, *, alpha: float = 1.0) -> np.ndarray:
        return mapped(run, elu, x, alpha)

    return op


@cache
def after_sum(activation: str) -> Function:
    act = inlined(ACTIVATIONS[activation])

    def of_sum(x, b):
        return act(x + b)

    return of_sum


def with_bias(run: Function) -> Function:
    @wraps(run)
    def op(x: Any, b: Any, *, axis: int = 1, activation: str = "identity") -> np.ndarray:
        return mapped(run, after_sum(activation), x, b.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim)))

    return op


RTOL = {"float32": 1e-5, "float64": 1e-13}

for _step, (_run, _idea) in enumerate(RUNGS, 1):
    _about: dict[str, Any] = {"step": _step, "idea": _idea, "serves": _step == len(RUNGS), "rtol": RTOL}
    for _op, _f in UNARY.items():
        rung(_op, "cuda", wants="*s", **_about)(of_one(_run, _f))
    for _op, _f in BINARY.items():
        rung(_op, "cuda", wants="..., ...", **_about)(of_two(_run, _f))
    rung("leaky_relu", "cuda", wants="*s", **_about)(with_slope(_run))
    rung("elu", "cuda", wants="*s", **_about)(with_alpha(_run))
    rung("bias_activation", "cuda", wants="*s, k", **_about)(with_bias(_run))
