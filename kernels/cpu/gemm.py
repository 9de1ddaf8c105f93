"""C = A B on the CPU, second part of the ladder: a tile of c that stays in registers (`tile.py`), and how a and b are brought to it.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     float32 or float64, any strides; leading axes broadcast

    K rows of b and WIDE columns, panel after panel of two vectors, are copied to where they are read in one line (third-level cache);
    so are some rows of a, tile after tile (second level); a panel of b then passes by the tiles of a (first level).

The structure is Goto & van de Geijn's (2008), with the loops' names as in Van Zee & van de Geijn (2015), BLIS. Each sum runs over
p = 0, 1, 2, ... in blocks of K, whose sums are added in order: neither a tile, a copy nor a thread changes a bit. (Inner products
along k, rung 7, have an order of their own, as sizes and strides decide.) Products are fused with sums where the machine can, so
an error is at most about (K + k / K) half units in the last place, relative to the product of absolute values.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any

import numpy as np
from numba import config, njit, types
from numpy import bool_, empty, int64, ndarray  # the names cost time in a small product; a literal would be a type of its own

from kernels.arrays import result
from kernels.cpu.cache import stamped
from kernels.cpu.eager import given
from kernels.cpu.features import BITS, caches, tier
from kernels.cpu.threads import share, threads
from kernels.cpu.tile import BROAD, FEW, LESS_BROAD, ROWS, copy, dots, finished_tiles, gather, lines, shift, transpose
from kernels.cpu.unit import unit
from kernels.cpu.vector import address, allocate, release, size_of
from kernels.registry import rung

VECTOR = BITS[tier()] // 8  # bytes
HALVES = VECTOR == 64  # vectors half as wide are done faster than whole ones: there are more units for them
K = 512  # a sum is cut into blocks of so many products, on every machine alike: the bits depend on it
BLOCK = caches()[2] // 2  # bytes of a in a block: half of the second-level cache
PANELS = max(1 << 20, caches()[3] // 8)  # bytes of b in a block: the third-level cache belongs to other cores as well
LINE = 1 << 14  # bytes of a row of c that stay in the first-level cache while rows of b pass
DOTS = 4  # columns up to which vectors along k are better than vectors along n

TALL = 20 * ROWS  # rows of a strip of c: each lies in a page of its own, and a processor remembers where some hundred pages are
WORTH_COPYING_A, WORTH_COPYING_B = caches()[2] // 3, caches()[2] // 10  # bytes of a factor from which on it pays to copy it, if
MANY_COLUMNS, MANY_ROWS = 240, 120  # the other one has so many columns or rows
FEW_BLOCKS = 3 * 4  # blocks of rows, times bytes of a number, up to which each copies b for itself: 3 of float32, 1 of float64
WORTH_A_THREAD = 4_000_000  # flops in a piece: about 40 microseconds, the cost of handing it over


@unit
def half(like, a, b, c, a_i, a_p, a_tile, b_p, c_i, m, k, n, add, bias, relu):
    finished_tiles(ROWS, 1, 2, like, a, b, c, (a_i, a_p, a_tile), b_p, c_i, (m, k, n), add != 0, bias, relu != 0, 0)


@unit
def one(like, a, b, c, a_i, a_p, a_tile, b_p, c_i, m, k, n, add, bias, relu):
    finished_tiles(ROWS, 1, 1, like, a, b, c, (a_i, a_p, a_tile), b_p, c_i, (m, k, n), add != 0, bias, relu != 0, 0)


@unit
def two(like, a, b, c, a_i, a_p, a_tile, b_p, c_i, m, k, n, add, bias, relu, room):
    finished_tiles(ROWS, 2, 1, like, a, b, c, (a_i, a_p, a_tile), b_p, c_i, (m, k, n), add != 0, bias, relu != 0, room)


@unit
def broad(like, a, b, c, a_i, a_p, a_tile, b_p, c_i, m, k, n, add, bias, relu):
    finished_tiles(FEW, BROAD, 1, like, a, b, c, (a_i, a_p, a_tile), b_p, c_i, (m, k, n), add != 0, bias, relu != 0, 0)


@unit
def less_broad(like, a, b, c, a_i, a_p, a_tile, b_p, c_i, m, k, n, add, bias, relu):
    finished_tiles(FEW, LESS_BROAD, 1, like, a, b, c, (a_i, a_p, a_tile), b_p, c_i, (m, k, n), add != 0, bias, relu != 0, 0)


@unit
def pack_a(like, a, a_i, a_p, to, m, k):
    """Tiles of a, one after the other: ROWS numbers for p = 0, then for p = 1, ... A square is written past its rows, so the lower ones
    come first, and what they spill over is written again."""
    size = size_of(like)
    lanes, tall = VECTOR // size, ROWS * size
    for i in range(0, m, ROWS):
        rows = min(ROWS, m - i)
        if a_p != size:
            gather(like, a + i * a_i, (a_p, a_i), to + i * k * size, (tall, size), k, rows)
            continue
        for p in range(0, k, lanes):
            for h in range((rows - 1) // lanes * lanes, -1, -lanes):
                source, target = a + (i + h) * a_i + p * size, to + i * k * size + p * tall + h * size
                transpose(like, source, a_i, min(lanes, rows - h), min(lanes, k - p), target, tall)


@unit
def pack_b(like, b, b_p, b_j, to, k, n):
    """Panels of b, two vectors wide, one after the other, row after row. Lanes behind the last column hold anything."""
    size = size_of(like)
    lanes, wide = VECTOR // size, 2 * VECTOR
    few = lanes if b_j == size else max(1, k)  # rows of b at a time: few enough that each is read on where it was left
    for top in range(0, k, few):
        rows = min(few, k - top)
        for j in range(0, n, 2 * lanes):
            columns = min(2 * lanes, n - j)
            source, target = b + top * b_p + j * b_j, to + j * k * size + top * wide
            if b_j == size:
                copy(like, source, b_p, target, wide, rows, columns)
            elif b_p != size:
                gather(like, source, (b_p, b_j), target, (wide, size), rows, columns)
            else:
                for h in range(0, columns, lanes):
                    for p in range(0, k, lanes):
                        start = source + h * b_j + p * size
                        transpose(like, start, b_j, min(lanes, columns - h), min(lanes, k - p), target + h * size + p * wide, wide)


@unit
def strips(like, a, a_i, a_p, a_tile, b, b_p, panel, room, c, c_i, m, k, n, add, bias, relu):
    """All of c, strip after strip; the next panel of b begins `panel` bytes behind. `bias`: 0, or an address: then c is finished.
    `room`: 0, or an address where a panel of b may be copied to while it is in work."""
    size = size_of(like)
    step = size if bias else 0
    lanes, j = VECTOR // size, 0
    if m <= FEW and panel == 2 * VECTOR:  # b lies as it came
        while n - j > LESS_BROAD * lanes:
            broad(
                like, a, b + j * size, c + j * size, a_i, a_p, a_tile, b_p, c_i, m, k, min(BROAD * lanes, n - j), add, bias + j * step, relu
            )
            j += BROAD * lanes
        if n - j > LESS_BROAD // 2 * lanes:
            less_broad(like, a, b + j * size, c + j * size, a_i, a_p, a_tile, b_p, c_i, m, k, n - j, add, bias + j * step, relu)
            j = n
    while j < n:
        columns, place = min(2 * lanes, n - j), b + j // (2 * lanes) * panel + j % (2 * lanes) * size
        if columns > lanes and not (HALVES and columns <= lanes + lanes // 2):
            two(like, a, place, c + j * size, a_i, a_p, a_tile, b_p, c_i, m, k, columns, add, bias + j * step, relu, room)
            j += 2 * lanes
        elif HALVES and columns <= lanes // 2:
            half(like, a, place, c + j * size, a_i, a_p, a_tile, b_p, c_i, m, k, columns, add, bias + j * step, relu)
            j += lanes
        else:
            one(like, a, place, c + j * size, a_i, a_p, a_tile, b_p, c_i, m, k, min(lanes, columns), add, bias + j * step, relu)
            j += lanes


@njit(nogil=True, inline="always")
def even(m, most):
    """Rows of a block: as many in each, whole tiles, and up to a fifth more than the most, so that no small one is left over."""
    blocks = max(1, (5 * m + 6 * most - 1) // (6 * most))
    return min(m, (m + blocks * ROWS - 1) // (blocks * ROWS) * ROWS)


@unit
def multiply(like, a, a_i, a_p, b, b_p, b_j, c, c_i, m, k, n, packs_a, packs_b, bias, relu):
    """c = a b in blocks, and with the last block of k what `finished_tiles` does; whether factors are copied changes no bit."""
    size = size_of(like)
    lanes = VECTOR // size
    deep = min(K, k)
    broadest = min(n, PANELS // (K * size) // (2 * lanes) * (2 * lanes))
    tallest = even(m, max(1, BLOCK // (K * size * ROWS)) * ROWS if packs_a else TALL)
    reads = b_j == size and m * size <= FEW_BLOCKS * tallest  # then panels of b are copied as they are read
    bytes_b = (deep + lanes) * ((0 if reads else broadest) + 2 * lanes) * size if packs_b else 0
    bytes_a = (deep + lanes) * (tallest + ROWS + lanes) * size if packs_a else 0
    room = allocate(bytes_a + bytes_b + 64) if bytes_a + bytes_b > 0 else 0
    block_b = (room + 63) // 64 * 64  # a cache line
    block_a = block_b + bytes_b
    for left in range(0, n, broadest):
        columns = min(broadest, n - left)
        for top in range(0, max(1, k), K):
            depth = min(K, k - top)
            right, right_p, panel = b + top * b_p + left * b_j, b_p, 2 * VECTOR
            last = bias + left * size if bias and top + K >= k else 0
            if packs_b and not reads:
                pack_b(like, right, b_p, b_j, block_b, depth, columns)
                right, right_p, panel = block_b, 2 * VECTOR, 2 * VECTOR * depth
            copies = block_b if packs_b and reads else 0
            for i in range(0, m, tallest):
                rows, part = min(tallest, m - i), a + i * a_i + top * a_p
                steps = (a_i, a_p, ROWS * a_i)
                if packs_a:
                    pack_a(like, part, a_i, a_p, block_a, rows, depth)
                    part, steps = block_a, (size, ROWS * size, ROWS * size * depth)
                to = c + i * c_i + left * size
                strips(like, part, *steps, right, right_p, panel, copies, to, c_i, rows, depth, columns, top > 0, last, relu)
    if room:
        release(room)


@unit
def inner_columns(like, a, a_i, b, b_p, b_j, c, c_i, c_j, m, k, n):
    """c = a b by inner products along k; a is contiguous along k, and the columns of b are made so."""
    size = size_of(like)
    room = allocate(k * size) if b_p != size else 0
    for j in range(n):
        column = b + j * b_j
        if b_p != size:
            gather(like, column, (b_p, size), room, (size, size), k, 1)
            column = room
        dots(8, like, a, column, c + j * c_j, a_i, c_i, m, k)
    if room:
        release(room)


@unit
def one_row(like, a, a_p, b, b_p, c, k, n):
    """c = a b for one row, where rows of b are contiguous. Sums are those of the tiles."""
    size = size_of(like)
    wide = LINE // size
    room = allocate(LINE) if k > K else 0
    for j in range(0, n, wide):
        columns = min(wide, n - j)
        for top in range(0, k, K):
            to = c + j * size if top == 0 else room
            lines(8, like, a + top * a_p, b + top * b_p + j * size, to, a_p, b_p, min(K, k - top), columns)
            if top > 0:
                shift(like, room, c + j * size, columns, False)
    if room:
        release(room)


@unit
def finish(like, c, c_i, m, n, bias, relu):
    """c + bias, and relu, where that was not done as c was written."""
    if bias:
        for i in range(m):
            shift(like, bias, c + i * c_i, n, relu != 0)


@unit
def by_shape(like, a, a_i, a_p, b, b_p, b_j, c, c_i, m, k, n, whole_m, whole_n, always, bias, relu):
    """c = a b, or with the address of a bias c = a b + bias; `whole_m`, `whole_n`: rows and columns of all of c, of
    which this may be a part.
    `always`: both factors are copied in any case. `relu`: what is below 0 becomes 0 after the bias."""
    size = size_of(like)
    c_j = size
    if n == 1:
        b_j = size  # an axis of one element may have any step
    if k == 1:
        a_p = size
    if not always and k >= 2 * VECTOR // size:  # long enough for vectors along k
        if whole_n <= DOTS and a_p == size:
            inner_columns(like, a, a_i, b, b_p, b_j, c, c_i, c_j, m, k, n)
            return finish(like, c, c_i, m, n, bias, relu)
        if whole_m <= DOTS and b_p == size and b_j != size:
            inner_columns(like, b, b_j, a, a_p, a_i, c, c_j, c_i, n, k, m)
            return finish(like, c, c_i, m, n, bias, relu)
    if m == 1 and b_j == size and k > 0 and n * size > 4 * VECTOR and not always:
        one_row(like, a, a_p, b, b_p, c, k, n)
        return finish(like, c, c_i, m, n, bias, relu)
    if n == 1 and m > 1 and a_i == size and c_i == size and not bias:  # a column of c lies like a row
        a, a_i, a_p, b, b_p, b_j, m, n = b, b_j, b_p, a, a_p, a_i, n, m
    packs_a = always or (n > MANY_COLUMNS and m * k * size > WORTH_COPYING_A)
    packs_b = always or b_j != size or (m >= MANY_ROWS and n * k * size > WORTH_COPYING_B)
    return multiply(like, a, a_i, a_p, b, b_p, b_j, c, c_i, m, k, n, packs_a, packs_b, bias, relu)


def product(a, b, c, always):
    """c = a b, for matrices."""
    (m, k), n, like = a.shape, b.shape[1], c.dtype.type(0)
    left, right, to = (address(a), *a.strides), (address(b), *b.strides), (address(c), n * size_of(like))
    if c.size:
        by_shape(like, *left, *right, *to, m, k, n, m, n, always, int64(0), bool_(False))


def products(a, b, c, always, stacks, rows, columns):
    """c = a b, for the matrices, rows and columns of c in the three ranges."""
    (k, n), like, a_i, b_j = b.shape[1:], c.dtype.type(0), a.strides[1], b.strides[2]
    size = size_of(like)
    i, m, j, w = rows[0], rows[1] - rows[0], columns[0], columns[1] - columns[0]
    for s in range(stacks[0], stacks[1]):
        left = address(a) + s * a.strides[0] + i * a_i
        right = address(b) + s * b.strides[0] + j * b_j
        to = address(c) + ((s * c.shape[1] + i) * n + j) * size
        if m and w:
            by_shape(
                like, left, a_i, a.strides[2], right, b.strides[1], b_j, to, n * size, m, k, w, *c.shape[1:], always, int64(0), bool_(False)
            )


def affine(a, b, c, bias, relu, rows, columns):
    """c = a b + bias, for the rows and columns of c in the two ranges, and relu after it. The bias lies in line."""
    k, n, like = b.shape[0], c.shape[1], c.dtype.type(0)
    size = size_of(like)
    i, m, j, w = rows[0], rows[1] - rows[0], columns[0], columns[1] - columns[0]
    left, right, to = address(a) + i * a.strides[0], address(b) + j * b.strides[1], address(c) + (i * n + j) * size
    if m and w:
        by_shape(
            like, left, a.strides[0], a.strides[1], right, b.strides[0], b.strides[1], to, n * size, m, k, w, *c.shape, bool_(False),
            address(bias) + j * size, relu,
        )  # fmt: skip


def uncompiled(a, b, c, always, stacks=(), rows=(), columns=()):
    """What `product` and `products` do, by NumPy."""
    s, i, j = [slice(*r) if r else slice(None) for r in (stacks, rows, columns)]
    if c.ndim == 2:
        np.matmul(a, b, out=c)
    else:
        c[s, i, j] = np.matmul(a[s, i], b[s, :, j])


def affine_uncompiled(a, b, c, bias, relu, rows, columns):
    i, j = slice(*rows), slice(*columns)
    c[i, j] = np.matmul(a[i], b[:, j]) + bias[j]
    if relu:
        np.maximum(c[i, j], 0, out=c[i, j])


class Compiled(dict[str, Any]):
    """A function of arrays a, b and c by the letter of their dtype: compiled when one is first asked for, once for all layouts.
    a and b may be read only. `others`: the types of what follows, of a dtype."""

    def __init__(self, function: Any, ndim: int, others: Callable[[Any], tuple[Any, ...]], without: Any = uncompiled):
        super().__init__()
        self.function, self.ndim, self.others, self.without = function, ndim, others, without

    def __missing__(self, letter: str) -> Any:
        if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
            return self.without
        number = {"f": types.float32, "d": types.float64}[letter]
        factor = types.Array(number, self.ndim, "A", readonly=True, aligned=False)
        run = stamped(njit(cache=True, nogil=True)(self.function))
        run.compile((factor, factor, types.Array(number, self.ndim, "C"), *self.others(number)))
        run.disable_compile()  # else it compiles again for each layout
        return self.setdefault(letter, run)


RANGE = types.UniTuple(types.int64, 2)
of_matrices = Compiled(product, 2, lambda number: (types.boolean,))
of_stacks = Compiled(products, 3, lambda number: (types.boolean, RANGE, RANGE, RANGE))
of_layers = Compiled(affine, 2, lambda number: (given(number), types.boolean, RANGE, RANGE), affine_uncompiled)


def in_pieces(a: Any, b: Any, always: bool, workers: int, out: ndarray | None = None) -> ndarray:
    """The product by so many threads."""
    a, b = np.asarray(a), np.asarray(b)
    c, a, b, whole = stacked(a, b, out)
    run = of_stacks[c.dtype.char]
    share(run, [(a, b, whole, always, *piece) for piece in cut(len(whole), *a.shape[1:], b.shape[2], workers)])
    return c


def stacked(a: ndarray, b: ndarray, out: ndarray | None) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """c; and a, b, c with one leading axis. A matrix that serves all of c is not copied: it has a step of 0 there."""
    before, m, n = a.shape[:-2], a.shape[-2], b.shape[-1]
    if len(before) == 1 and before == b.shape[:-2]:  # as they should be: NumPy's broadcasting takes longer than a few small products
        c = result((*before, m, n), a.dtype, out, a, b)
        return c, a, b, c
    shape = np.broadcast_shapes(before, b.shape[:-2])
    c = result((*shape, m, n), a.dtype, out, a, b)
    many = prod(shape)

    def one(x: ndarray) -> ndarray:
        if prod(x.shape[:-2]) == 1:
            return np.broadcast_to(x.reshape(x.shape[-2:]), (many, *x.shape[-2:]))
        return np.broadcast_to(x, (*shape, *x.shape[-2:])).reshape(many, *x.shape[-2:])

    return c, one(a), one(b), c.reshape(many, m, n)


@rung("matmul", "cpu", step=6, idea="a tile of c stays in registers while strips of a and b, copied to where they are read in line, pass")
def register_tile(a: Any, b: Any, *, out: ndarray | None = None) -> ndarray:
    return in_pieces(a, b, True, 1, out)


@rung("matmul", "cpu", step=7, idea="small and narrow factors are read where they lie; with few columns, inner products along k (reassoc)")
def by_size(a: Any, b: Any, *, out: ndarray | None = None) -> ndarray:
    return in_pieces(a, b, False, 1, out)


@rung("matmul", "cpu", step=8, serves=True, idea="give blocks of c to threads; a small product takes the shortest way there")
def threaded(a: Any, b: Any, *, out: ndarray | None = None) -> ndarray:
    if type(a) is type(b) is ndarray and a.ndim == b.ndim == 2:
        (m, k), n = a.shape, b.shape[1]
        if m * k * n < WORTH_A_THREAD or threads() == 1:
            dtype = a.dtype
            c = empty((m, n), dtype) if out is None else result((m, n), dtype, out, a, b)
            of_matrices[dtype.char](a, b, c, False)
            return c
    return in_pieces(a, b, False, threads(), out)


def cut(many: int, m: int, k: int, n: int, workers: int) -> list[tuple[tuple[int, int], ...]]:
    """Ranges of matrices, rows and columns of c: a few pieces for each of the workers."""
    count = min(2 * workers, 2 * many * m * k * n // WORTH_A_THREAD) if workers > 1 else 1
    if count <= 1:
        return [((0, many), (0, m), (0, n))]
    if count >= workers:
        count -= count % workers  # as many for each
    size = [max(1, many), max(1, m), max(1, n)]
    axis = 0 if many >= count else 1 if m >= n else 2
    step = (1, ROWS, 2 * VECTOR // 4)[axis]
    size[axis] = ceil(size[axis] / count / step) * step
    ranges = [[(i, min(whole, i + step)) for i in range(0, max(1, whole), step)] for whole, step in zip((many, m, n), size, strict=True)]
    return [(s, i, j) for s in ranges[0] for i in ranges[1] for j in ranges[2]]
