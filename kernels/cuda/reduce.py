"""y = the sum, mean, product, largest or smallest of x along axes: the second lesson. Threads work on one number together.

    x    any shape, any strides; float32 or float64
    y    what is left of its axes, in C order

What is reduced at a time are neighbouring axes: x is then (outer, n, inner), and n becomes 1. From the second rung on a block makes one
number of so many, until one is left: a launch for each time. The order depends on sizes alone, so each rung gives the same bits each time.

Let e be 2^-24 in float32 and 2^-53 in float64. A sum by one thread is off by at most (n - 1) e times the sum of absolute values; in a tree
each number goes through as many roundings as the tree is high, and it is off by at most that many e (Higham 2002, Accuracy and stability of
numerical algorithms, section 4.2): 8 for each 256 numbers in the trees of 256, 13 for each 4096 along rows and 8 for each 128 down columns
in the rung that serves. A mean is one rounding more. What is largest is exact, and a nan is larger than all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import inf, nan, prod
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from kernels.cuda.arrays import aligned, dense
from kernels.cuda.elementwise import inlined
from kernels.cuda.intrinsics import WORD, word
from kernels.cuda.launch import Kernel, empty, launch
from kernels.registry import rung
from kernels.scalars import add, maximum, minimum, multiply

u = np.uint32

THREADS = 256
WARP = 32
ALL = 0xFFFFFFFF  # the lanes of a warp
ROOM = 2**31  # numbers in x

Function = Callable[..., Any]


class Reduction(NamedTuple):
    """What is made of two numbers; what changes none; whether the end is divided by how many there were."""

    combine: Function
    neutral: float
    mean: bool = False


REDUCTIONS = {
    "sum": Reduction(add, 0.0),
    "mean": Reduction(add, 0.0, mean=True),
    "prod": Reduction(multiply, 1.0),
    "max": Reduction(maximum, -inf),
    "min": Reduction(minimum, inf),
}


# Kernels: (x, y, n, inner, pieces, count). y is (outer, pieces, inner): each of its numbers is made of one piece of the n that are reduced.
# At the end it is divided by `count`, which is 1 but for a mean.


@cache
def a_thread(of: Reduction) -> Kernel:
    combine = inlined(of.combine)
    neutral = of.neutral

    def kernel(x, y, n, inner, pieces, count):
        i = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
        if i < u(len(y)):
            total = y.dtype.type(neutral)
            at = u(i // inner * n * inner + i % inner)
            end = u(at + n * inner)
            while at < end:
                total = combine(total, x[at])
                at = u(at + inner)
            y[i] = total / count

    return kernel


@cuda.jit(device=True, inline="always")
def number_of(x, n, inner, pieces, neutral):
    """The number of x that this thread brings to its block, and where the block's result goes."""
    block, t = u(cuda.blockIdx.x), u(cuda.threadIdx.x)
    i, piece = block % inner, u(block // inner) % pieces
    outer = block // u(inner * pieces)
    j = u(piece * u(THREADS) + t)
    return x[u(u(outer * n + j) * inner + i)] if j < n else x.dtype.type(neutral)


@cache
def interleaved(of: Reduction) -> Kernel:
    combine, neutral = inlined(of.combine), of.neutral

    def kernel(x, y, n, inner, pieces, count):
        t = u(cuda.threadIdx.x)
        near = cuda.shared.array(THREADS, x.dtype)
        near[t] = number_of(x, n, inner, pieces, neutral)
        cuda.syncthreads()
        apart = u(1)
        while apart < u(THREADS):
            if t % u(apart * u(2)) == u(0):
                near[t] = combine(near[t], near[u(t + apart)])
            cuda.syncthreads()
            apart = u(apart * u(2))
        if t == u(0):
            y[u(cuda.blockIdx.x)] = near[0] / count

    return kernel


@cache
def sequential(of: Reduction) -> Kernel:
    combine, neutral = inlined(of.combine), of.neutral

    def kernel(x, y, n, inner, pieces, count):
        t = u(cuda.threadIdx.x)
        near = cuda.shared.array(THREADS, x.dtype)
        near[t] = number_of(x, n, inner, pieces, neutral)
        cuda.syncthreads()
        apart = u(THREADS // 2)
        while apart > u(0):
            if t < apart:
                near[t] = combine(near[t], near[u(t + apart)])
            cuda.syncthreads()
            apart = u(apart // u(2))
        if t == u(0):
            y[u(cuda.blockIdx.x)] = near[0] / count

    return kernel


@cache
def of_block(combine: Function) -> Function:
    """The numbers of all threads of a block made one, which its first thread then has: by shuffles in warps, then over warps."""
    combine = inlined(combine)

    def run(value, near, neutral):
        warp, lane = u(cuda.threadIdx.x) // u(WARP), u(cuda.threadIdx.x) % u(WARP)
        apart = u(WARP // 2)
        while apart > u(0):
            value = combine(value, cuda.shfl_down_sync(ALL, value, apart))
            apart = u(apart // u(2))
        if u(cuda.blockDim.x) > u(WARP):
            if lane == u(0):
                near[warp] = value
            cuda.syncthreads()
            if warp == u(0):
                value = near[lane] if lane < u(u(cuda.blockDim.x) // u(WARP)) else neutral
                apart = u(WARP // 2)
                while apart > u(0):
                    value = combine(value, cuda.shfl_down_sync(ALL, value, apart))
                    apart = u(apart // u(2))
        return value

    return inlined(run)


@cache
def shuffled(of: Reduction) -> Kernel:
    over_block, neutral = of_block(of.combine), of.neutral

    def kernel(x, y, n, inner, pieces, count):
        near = cuda.shared.array(WARP, x.dtype)
        value = over_block(number_of(x, n, inner, pieces, neutral), near, x.dtype.type(neutral))
        if u(cuda.threadIdx.x) == u(0):
            y[u(cuda.blockIdx.x)] = value / count

    return kernel


WORDS = 4  # words of four numbers that a thread takes first
ALONG = 4 * WORDS * THREADS  # numbers of a row that a block takes


@cuda.jit(device=True, inline="always")
def one_word(x, at, _):
    return word(x, at)


@cuda.jit(device=True, inline="always")
def two_words(x, at, far):
    return word(x, at) + word(x, u(at + far))


@cache
def along_rows(of: Reduction, wide: int, words: bool) -> Kernel:
    """inner is 1. `wide`: numbers in a word; where it is two, a thread takes two at a time. `words`: whether rows begin at words."""
    four = one_word if wide == 4 else two_words
    combine, over_block, neutral = inlined(of.combine), of_block(of.combine), of.neutral

    def kernel(x, y, n, inner, pieces, count):
        zero = x.dtype.type(neutral)
        near = cuda.shared.array(WARP, x.dtype)
        block, threads = u(cuda.blockIdx.x), u(cuda.blockDim.x)
        far = u(2) if wide == 4 else u(threads * u(2))
        row = u(block // pieces * n)
        j = u(u(block % pieces) * threads * u(4 * WORDS) + u(cuda.threadIdx.x) * u(wide))
        a, b, c, d = zero, zero, zero, zero
        for _ in range(WORDS):
            if words and u(j + far + u(1)) < n:
                p, q, r, s = four(x, u(row + j), far)
            else:
                p = x[u(row + j)] if j < n else zero
                q = x[u(row + j + u(1))] if u(j + u(1)) < n else zero
                r = x[u(row + j + far)] if u(j + far) < n else zero
                s = x[u(row + j + far + u(1))] if u(j + far + u(1)) < n else zero
            a, b, c, d = combine(a, p), combine(b, q), combine(c, r), combine(d, s)
            j = u(j + threads * u(4))
        value = over_block(combine(combine(a, b), combine(c, d)), near, zero)
        if u(cuda.threadIdx.x) == u(0):
            y[block] = value / count

    return kernel


ACROSS, DOWN = 32, 8  # threads of a block: columns and rows
EACH = 16  # rows that a thread takes
HIGH = DOWN * EACH
OF_COLUMNS = (DOWN, ACROSS)


@cache
def down_columns(of: Reduction) -> Kernel:
    combine, neutral = inlined(of.combine), of.neutral

    def kernel(x, y, n, inner, pieces, count):
        zero = x.dtype.type(neutral)
        near = cuda.shared.array(OF_COLUMNS, x.dtype)
        tx, ty = u(cuda.threadIdx.x), u(cuda.threadIdx.y)
        across = u(u(inner + u(ACROSS - 1)) // u(ACROSS))
        block = u(cuda.blockIdx.x)
        i = u(block % across * u(ACROSS) + tx)
        piece = u(block // across) % pieces
        outer = u(block // u(across * pieces))
        j = u(piece * u(HIGH) + ty)
        a, b, c, d = zero, zero, zero, zero
        for _ in range(EACH // 4):
            at = u(u(outer * n + j) * inner + i)
            step = u(u(DOWN) * inner)
            p = x[at] if i < inner and j < n else zero
            q = x[u(at + step)] if i < inner and u(j + u(DOWN)) < n else zero
            r = x[u(at + step * u(2))] if i < inner and u(j + u(2 * DOWN)) < n else zero
            s = x[u(at + step * u(3))] if i < inner and u(j + u(3 * DOWN)) < n else zero
            a, b, c, d = combine(a, p), combine(b, q), combine(c, r), combine(d, s)
            j = u(j + u(4 * DOWN))
        near[ty, tx] = combine(combine(a, b), combine(c, d))
        cuda.syncthreads()
        apart = u(DOWN // 2)
        while apart > u(0):
            if ty < apart:
                near[ty, tx] = combine(near[ty, tx], near[u(ty + apart), tx])
            cuda.syncthreads()
            apart = u(apart // u(2))
        if ty == u(0) and i < inner:
            y[u(u(outer * pieces + piece) * inner + i)] = near[0, tx] / count

    return kernel


# From axes to launches.


class Pass(NamedTuple):
    """One launch: its kernel, its blocks for each (outer, inner, pieces), its threads, and into how many pieces n is cut."""

    kernel: Kernel
    blocks: int
    threads: tuple[int, ...]
    pieces: int


def by_threads(of: Reduction, outer: int, n: int, inner: int, lanes: int) -> Pass:
    """Predicted: n loads one after the other; lanes that are rows apart use 4 bytes of each sector of 32."""
    return Pass(a_thread(of), -(-outer * inner // THREADS), (THREADS,), 1)


def by_trees(kernel: Callable[[Reduction], Kernel]) -> Callable[..., Pass]:
    def plan(of: Reduction, outer: int, n: int, inner: int, lanes: int) -> Pass:
        pieces = max(1, -(-n // THREADS))
        return Pass(kernel(of), outer * pieces * inner, (THREADS,), pieces)

    return plan


def by_several(of: Reduction, outer: int, n: int, inner: int, lanes: int) -> Pass:
    """Predicted: words along rows, 32 columns side by side down them; a 16th of the barriers; little goes back to memory."""
    if inner > 1:
        pieces = max(1, -(-n // HIGH))
        return Pass(down_columns(of), outer * pieces * -(-inner // ACROSS), (ACROSS, DOWN), pieces)
    threads = WARP if n <= 4 * WORDS * WARP else THREADS
    pieces = max(1, -(-n // (4 * WORDS * threads)))
    return Pass(along_rows(of, lanes, outer == 1 or n % lanes == 0), outer * pieces, (threads,), pieces)


RUNGS = {  # plan and idea by name
    "one_thread": (by_threads, "the definition: one thread a result, number after number"),
    "tree_interleaved": (by_trees(interleaved), "a block of 256 makes a tree in shared memory: neighbours first, by every second thread"),
    "tree_sequential": (by_trees(sequential), "the tree from its other end: those that work are the first threads, and warps leave whole"),
    "warp_shuffles": (by_trees(shuffled), "lanes of a warp hand each other registers: shared memory and a barrier are for its eight warps"),
    "several_a_thread": (by_several, "sixteen numbers a thread before any meets another: in words along rows, side by side down columns"),
}  # fmt: skip


def axes_of(axis: Any, ndim: int) -> set[int]:
    """Places of axes, from 0 on. Raises ValueError for one that is not there or stands twice."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    places = {a + ndim if a < 0 else a for a in axes}
    if len(places) != len(axes) or not places <= set(range(ndim)):
        raise ValueError(f"axis {axis} of an array with {ndim} axes")
    return places


def groups(shape: tuple[int, ...], axes: set[int]) -> list[tuple[int, bool]]:
    """Neighbouring axes that are reduced, or are not, as one: the size of each, and whether it is."""
    found: list[tuple[int, bool]] = []
    for i, n in enumerate(shape):
        if found and found[-1][1] == (i in axes):
            found[-1] = (found[-1][0] * n, i in axes)
        else:
            found.append((n, i in axes))
    return found


def reduced(plan: Callable[..., Pass], of: Reduction, x: np.ndarray, axis: Any, keepdims: bool) -> np.ndarray:
    """Raises ValueError for the largest of nothing, and for 2^31 numbers or more."""
    axes = axes_of(axis, x.ndim)
    shape = tuple([1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes])
    count = prod([x.shape[i] for i in axes])
    if count == 0 and abs(of.neutral) == inf and prod(shape):
        raise ValueError(f"x of shape {x.shape} has nothing along axis {axis} of which one could be the largest or the smallest")
    if max(x.size, prod(shape)) >= ROOM:
        raise ValueError(f"x of shape {x.shape} has 2^31 numbers or more")
    if count == 0 or prod(shape) == 0:
        return np.full(shape, nan if of.mean else of.neutral, x.dtype)
    if count == 1:
        return np.array(x, order="C").reshape(shape)
    return in_passes(plan, of, dense(x).reshape(-1), groups(x.shape, axes), count).reshape(shape)


def in_passes(plan: Callable[..., Pass], of: Reduction, x: np.ndarray, sizes: list[tuple[int, bool]], count: int) -> np.ndarray:
    """Group by group, the last one first; each until one number is left of it."""
    work = [place for place, (n, is_reduced) in enumerate(sizes) if is_reduced and n > 1]
    for place in reversed(work):
        n, outer = sizes[place][0], prod(size for size, _ in sizes[:place])
        inner = prod(size for size, is_reduced in sizes[place + 1 :] if not is_reduced)
        while n > 1:
            kernel, blocks, threads, pieces = plan(of, outer, n, inner, WORD // x.itemsize)
            divisor = count if of.mean and pieces == 1 and place == work[0] else 1
            size = outer * pieces * inner
            y = aligned((size,), x.dtype) if place == work[0] and pieces == 1 else empty(size, x.dtype)
            launch(kernel, (blocks,), threads, x, y, u(n), u(inner), u(pieces), x.dtype.type(divisor), writes=[y])
            x, n = y, pieces
    return x


def reduction(run_name: str, plan: Callable[..., Pass], of: Reduction) -> Function:
    def op(x: Any, *, axis: Any = None, keepdims: bool = False) -> np.ndarray:
        return reduced(plan, of, x, axis, keepdims)

    op.__name__, op.__doc__ = run_name, plan.__doc__
    return op


for _step, (_name, (_plan, _idea)) in enumerate(RUNGS.items(), 1):
    for _op, _of in REDUCTIONS.items():
        rung(_op, "cuda", step=_step, wants="*s", idea=_idea, serves=_step == len(RUNGS))(reduction(_name, _plan, _of))
