"""C = A B on the CPU, one idea at a time.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     float32 or float64, any strides; leading axes broadcast

Each rung takes every size, 0 and ragged ones included, and differs from the one above it by its idea and by nothing else.
It is written for one product; `on_stacks` runs it over the leading axes. From step 3 on the ideas are those of Goto &
van de Geijn (2008), Anatomy of high-performance matrix multiplication, as far as plain loops can carry them.

On every rung each sum runs over p = 0, 1, 2, ... in this order: nothing is reassociated, so a block, a thread or a transposed
operand changes no bit. From step 4 on products are fused with sums (`fastmath={"contract"}`), which rounds once instead of twice.
That is as far as plain loops go; the ladder goes on in `gemm.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import prod
from typing import Any

import numpy as np
from numba import njit

from kernels.arrays import result
from kernels.cpu.arrays import dense
from kernels.registry import rung

BLOCK_BYTES = 2048  # of a row of b or c: four rows of each are 16 KiB, half of a common first-level cache
BLOCK_K = 256  # rows of b in a block: with the above 512 KiB, half of a common second-level cache

WORTH_PACKING = 64  # rows of a that pass over a block before copying the block has paid for itself


def on_stacks(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(a, b, c)`, which adds to a c of zeros, into the product of two stacks of matrices."""

    @wraps(run)
    def matmul(a: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        c, matrices = zeros(a, b, out)
        a, b = stack(a, c), stack(b, c)
        for s in range(len(matrices)):
            run(a[s % len(a)], b[s % len(b)], matrices[s])
        return c

    return matmul


def zeros(a: Any, b: Any, out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """c of zeros, and c again with its leading axes as one."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    c = np.zeros(shape, a.dtype) if out is None else result(shape, a.dtype, out, a, b)
    if out is not None:
        c.fill(0)
    return c, c.reshape(prod(shape[:-2]), *shape[-2:])


def stack(x: Any, c: np.ndarray) -> np.ndarray:
    """`x` as (s, m, n) in C order: s is 1 if one matrix serves all of c, else the number of matrices in c."""
    if x.ndim == 2 and x.flags.carray:
        return x[None]
    leading = x.shape[:-2]
    if leading != c.shape[:-2] and prod(leading) != 1:
        x = np.broadcast_to(x, c.shape[:-2] + x.shape[-2:])
    return dense(x).reshape(prod(x.shape[:-2]), *x.shape[-2:])


@rung("matmul", "cpu", step=1, wants="... m k, ... k n", idea="the definition: one inner product an element")
@on_stacks
@njit(cache=True, nogil=True)
def inner_products(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    for i in range(m):
        for j in range(n):
            for p in range(k):
                c[i, j] += a[i, p] * b[p, j]


@rung("matmul", "cpu", step=2, idea="swap the j and p loops: b and c are then walked along rows, as memory lies")
@on_stacks
@njit(cache=True, nogil=True)
def row_axpy(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    for i in range(m):
        for p in range(k):
            for j in range(n):
                c[i, j] += a[i, p] * b[p, j]


@rung("matmul", "cpu", step=3, idea="cut k and n: a block of b stays in cache while all rows of a pass over it")
@on_stacks
@njit(cache=True, nogil=True)
def cache_blocks(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    width = BLOCK_BYTES // a.itemsize
    for left in range(0, n, width):
        right = min(n, left + width)
        for top in range(0, k, BLOCK_K):
            for i in range(m):
                for p in range(top, min(k, top + BLOCK_K)):
                    for j in range(left, right):
                        c[i, j] += a[i, p] * b[p, j]


@njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def add_4_by_4(
    c0, c1, c2, c3, b0, b1, b2, b3,
    a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33,
):  # fmt: skip
    """Four rows of b into four rows of c: sixteen products for four loads of b, four loads and four stores of c."""
    for j in range(len(c0)):
        x0, x1, x2, x3 = b0[j], b1[j], b2[j], b3[j]
        c0[j] = c0[j] + a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
        c1[j] = c1[j] + a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
        c2[j] = c2[j] + a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
        c3[j] = c3[j] + a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3


@njit(cache=True, nogil=True, fastmath={"contract"})
def add_rows(a, at, step_i, step_p, tall, deep, b, top, left, c, i, start, wide):
    """Add `tall` (up to 4) rows of a times `deep` rows of b to rows of c, in `wide` columns.

    a is flat: the first row begins at `at`, the next is `step_i` on, the next column `step_p`. A transposed a needs no copy.
    b is read from row `top` and column `left`, c from row i and column `start`.
    """
    right, stop = left + wide, start + wide
    for p in range(0, deep - 3, 4):
        r, q0 = top + p, at + p * step_p
        b0, b1, b2, b3 = b[r, left:right], b[r + 1, left:right], b[r + 2, left:right], b[r + 3, left:right]
        if tall == 4:
            q1, q2, q3 = q0 + step_i, q0 + 2 * step_i, q0 + 3 * step_i
            add_4_by_4(
                c[i, start:stop], c[i + 1, start:stop], c[i + 2, start:stop], c[i + 3, start:stop], b0, b1, b2, b3,
                a[q0], a[q0 + step_p], a[q0 + 2 * step_p], a[q0 + 3 * step_p],
                a[q1], a[q1 + step_p], a[q1 + 2 * step_p], a[q1 + 3 * step_p],
                a[q2], a[q2 + step_p], a[q2 + 2 * step_p], a[q2 + 3 * step_p],
                a[q3], a[q3 + step_p], a[q3 + 2 * step_p], a[q3 + 3 * step_p],
            )  # fmt: skip
            continue
        for s in range(tall):
            c0, q = c[i + s, start:stop], q0 + s * step_i
            a0, a1, a2, a3 = a[q], a[q + step_p], a[q + 2 * step_p], a[q + 3 * step_p]
            for j in range(wide):
                c0[j] = c0[j] + a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
    for p in range(deep - deep % 4, deep):
        b0 = b[top + p, left:right]
        for s in range(tall):
            c0, a0 = c[i + s, start:stop], a[at + s * step_i + p * step_p]
            for j in range(wide):
                c0[j] = c0[j] + a0 * b0[j]


@rung(
    "matmul", "cpu", step=4,
    idea="four rows of c from four rows of b at a time: a number loaded is used four times; products are fused with sums (contract)",
)  # fmt: skip
@on_stacks
@njit(cache=True, nogil=True)
def four_by_four(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    width = BLOCK_BYTES // a.itemsize
    for left in range(0, n, width):
        for top in range(0, k, BLOCK_K):
            for i in range(0, m, 4):
                tall, deep, wide = min(4, m - i), min(BLOCK_K, k - top), min(width, n - left)
                add_rows(a.ravel(), i * k + top, k, 1, tall, deep, b, top, left, c, i, left, wide)


@njit(cache=True, nogil=True, inline="always")
def copy(a, i, j, b, to_i, to_j, rows, columns):
    for r in range(rows):
        source, target = a[i + r, j : j + columns], b[to_i + r, to_j : to_j + columns]
        for t in range(columns):
            target[t] = source[t]


@njit(cache=True, nogil=True)
def add_products(a, step_s, step_i, step_p, b, c, stacks, rows, columns):
    """c += a b for the matrices, rows and columns of c in the three ranges; a as for `add_rows`, matrix s of it at s * step_s.

    If b is wide, a block of it is first copied into a panel, whose last four rows hold the rows of c in work.
    """
    k, width = b.shape[1], BLOCK_BYTES // b.itemsize
    packs = rows[1] - rows[0] >= WORTH_PACKING and k >= WORTH_PACKING and b.shape[2] > width
    panel = np.empty((BLOCK_K + 4, width + 16) if packs else (0, 0), b.dtype)  # 16: rows a cache line off a power of two
    for s in range(stacks[0], stacks[1]):
        right, sums = b[s % len(b)], c[s]
        for left in range(columns[0], columns[1], width):
            wide = min(width, columns[1] - left)
            for top in range(0, k, BLOCK_K):
                deep = min(BLOCK_K, k - top)
                if packs:
                    copy(right, top, left, panel, 0, 0, deep, wide)
                for i in range(rows[0], rows[1], 4):
                    tall, at = min(4, rows[1] - i), s * step_s + i * step_i + top * step_p
                    if packs:
                        copy(sums, i, left, panel, BLOCK_K, 0, tall, wide)
                        block, y, x, target, r, z = panel, 0, 0, panel, BLOCK_K, 0
                    else:
                        block, y, x, target, r, z = right, top, left, sums, i, left
                    add_rows(a, at, step_i, step_p, tall, deep, block, y, x, target, r, z, wide)
                    if packs:
                        copy(panel, BLOCK_K, 0, sums, i, left, tall, wide)


@rung(
    "matmul", "cpu", step=5,
    idea="copy a block of a wide b, and the rows of c in work, into a panel: rows a power of two apart evict each other",
)  # fmt: skip
def packed(a: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    c, matrices = zeros(a, b, out)
    many, m, n = matrices.shape
    add_products(*operands(a, b, c), matrices, (0, many), (0, m), (0, n))
    return c


def operands(a: Any, b: Any, c: np.ndarray) -> tuple[Any, ...]:
    """a, its three steps, and b, as `add_products` takes them. A transposed a is read where it is."""
    m, k = a.shape[-2:]
    if not a.flags.carray and a.swapaxes(-1, -2).flags.carray:
        a, step_i, step_p = stack(a.swapaxes(-1, -2), c), 1, m
    else:
        a, step_i, step_p = stack(a, c), k, 1
    return a.reshape(-1), m * k if len(a) > 1 else 0, step_i, step_p, stack(b, c)
