"""How arrays reach a kernel: in C order, flat, at 16 bytes; and how a product of two stacks of matrices is cut into launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any

import numpy as np

from kernels import arrays
from kernels.cuda.launch import launch

ALIGNED = 16  # bytes: what a load of 128 bits wants
MOST = 65535  # blocks along the second and third axis of a grid


def dense(x: Any) -> np.ndarray:
    """`x` in C order, at a multiple of 16 bytes; a copy only if it is not so already."""
    if x.flags.carray and x.__array_interface__["data"][0] % ALIGNED == 0:
        return x
    y = aligned(x.shape, x.dtype)
    y[...] = x
    return y


aligned = partial(arrays.beginning_at, ALIGNED)
result = partial(arrays.result, make=aligned)


def multiply(
    kernel: Any, a: Any, b: Any, out: np.ndarray | None, *,
    tile: tuple[int, int], block: tuple[int, ...], dtype: Any = None, flat: bool = True,
) -> np.ndarray:  # fmt: skip
    """c = a b of stacks of matrices, of `dtype` or that of a, by a kernel of one block for each `tile` (rows, columns) of a matrix of c.

    The kernel is called with flat arrays and uint32: (a, b, c, m, n, k, a_step, b_step), in which a step is what lies between two
    matrices of a stack: 0 if one serves all. With flat=False, with the three-dimensional arrays instead of all that. Blocks lie along
    (columns, rows, matrices).

    Raises ValueError where an operand has 2^32 numbers or more, which a uint32 does not count.
    """

    def run(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
        (many, m, n), k = z.shape, x.shape[2]
        grid = -(-n // tile[1]), -(-m // tile[0]), many
        if not flat:
            launch(kernel, grid, block, x, y, z, writes=[z])
            return
        counted(x, y, z)
        sizes = map(np.uint32, (m, n, k, step(x), step(y)))
        z = z.reshape(-1)
        launch(kernel, grid, block, x.reshape(-1), y.reshape(-1), z, *sizes, writes=[z])

    return by_pieces(run, a, b, out, a.dtype if dtype is None else dtype, tile[0])


def counted(*arrays: np.ndarray) -> None:
    """Raises ValueError if one of them has more numbers than a uint32 counts."""
    most = max(x.size for x in arrays)
    if most >= 2**32:
        raise ValueError(f"an array of {most} numbers, in a kernel that counts them with 32 bits")


def step(x: np.ndarray) -> int:
    """What lies between two matrices of a stack; 0 if one serves all."""
    return 0 if len(x) == 1 else x.shape[1] * x.shape[2]


def by_pieces(run: Callable[..., None], a: Any, b: Any, out: np.ndarray | None, dtype: Any, tall: int) -> np.ndarray:
    """c = a b, of `dtype`, by run(x, y, z) for pieces (s, m, k), (s or 1, k, n), (s, m, n) that fit a grid with a block for `tall` rows."""
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = result((*leading, m, n), dtype, out, a, b)
    if c.size == 0:
        return c
    place = dense(c)  # c itself, or what is copied to it in the end
    a, b, matrices = stack(a, leading), stack(b, leading), place.reshape(-1, m, n)
    if len(b) == 1 and len(a) > 1:  # one matrix serves all: one product, not one for each
        a, matrices = a.reshape(1, len(a) * m, k), matrices.reshape(1, -1, n)
    for x, y, z in parts(a, b, matrices, tall):
        run(x, y, z)
    if place is not c:
        c[...] = place
    return c


def stack(x: Any, leading: tuple[int, ...]) -> np.ndarray:
    """`x` as (s, m, n) in C order: s is 1 if one matrix serves all of c, else the number of matrices in c."""
    if x.shape[:-2] != leading and prod(x.shape[:-2]) != 1:
        x = np.broadcast_to(x, leading + x.shape[-2:])
    return dense(x).reshape(prod(x.shape[:-2]), *x.shape[-2:])


def parts(a: np.ndarray, b: np.ndarray, c: np.ndarray, tall: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pieces of a product that fit a grid: not more than MOST matrices, nor MOST tiles of rows."""
    if len(c) > MOST:
        for s in range(0, len(c), MOST):
            piece = slice(s, s + MOST)
            yield from parts(a if len(a) == 1 else a[piece], b if len(b) == 1 else b[piece], c[piece], tall)
    elif c.shape[1] > MOST * tall:
        for s in range(len(c)):
            for i in range(0, c.shape[1], MOST * tall):
                rows, one = slice(i, i + MOST * tall), slice(s, s + 1)
                yield a[:1, rows] if len(a) == 1 else a[one, rows], b[:1] if len(b) == 1 else b[one], c[one, rows]
    else:
        yield a, b, c
