"""Y = A B on the CPU, where A (m, k) is mostly zeros and kept without them; b (k, n) is dense, and so is y (m, n).

    CSR    data (nnz), indices (nnz), indptr (m + 1)                          SciPy's words
    BSR    data (blocks, r, c), indices (blocks), indptr (m / r + 1)          of blocks
    2:4    values (m, k / 2), indices (m, k / 2): which two of each four columns are kept

float32 or float64; b may have any strides, indices any width. What is left to gain is in how rows of b are read: each number of A reads
one. The sums stay in registers (`sparse_tile.py`); b is copied to where a strip of it lies in line, if it is read often enough.

Indices are checked in every call, before anything is read: out of place they would read what is not b's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numba import config, njit, types

from kernels.arrays import result
from kernels.cpu import threads
from kernels.cpu.arrays import dense
from kernels.cpu.cache import stamped
from kernels.cpu.features import BITS, caches, registers, tier
from kernels.cpu.sparse_tile import bsr_rows, csr_column, csr_rows, csr_samples, pairs, pairs_column
from kernels.cpu.tile import copy, gather
from kernels.cpu.vector import address, allocate, apart, clear, release, size_of
from kernels.registry import rung
from kernels.sparse import check_2to4, check_bsr, check_csr, check_fours, check_places, check_samples

VECTOR = BITS[tier()] // 8  # bytes
WIDE, HALF = 4, 2  # vectors of a strip: with two chains eight sums, as many as fused products can be under way; of one that is narrower
LINE = 64  # bytes of a cache line: a vector that lies across two is loaded twice
TALL = 4 if registers() >= 32 else 2  # rows of a tile in blocks, with as many vectors; twice as many rows with half as many
NARROW = 8 if registers() >= 32 else 4
DEEP = caches()[1] * 2 // (3 * WIDE * VECTOR) // 4 * 4  # rows of a strip of b that fill two thirds of the first-level cache
LONG = 12  # numbers in a row of a block, from which on there is something to be won by blocks
OFTEN = 4  # times that each row of b is read, from which on copying it has paid for itself
WORTH_A_THREAD = 4_000_000  # flops in a piece: about 50 to 100 microseconds
INT32, INT64, UINT8 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.uint8)


# Places, checked in each call: faster than at the door, which names what is wrong.


def places(indices: Any, indptr: Any, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Both as jitted code reads them. Raises ValueError for places that are none."""
    if indices.dtype != INT32:
        check_places(indices, indptr, columns)
        indices = indices.astype(INT32)
    if indptr.dtype != INT64:
        indptr = indptr.astype(INT64)
    indices, indptr = contiguous(indices), contiguous(indptr)
    if not sound(indices, indptr, columns):
        check_places(indices, indptr, columns)
    return indices, indptr


def contiguous(x: np.ndarray) -> np.ndarray:
    return x if x.flags.c_contiguous else np.array(x, order="C")


@njit(cache=True, nogil=True)
def sound(indices, indptr, columns):
    """Are these places in a matrix with so many columns, which 32 bits can count?"""
    if len(indptr) < 1 or indptr[0] != 0 or indptr[-1] != len(indices) or columns > 1 << 31:
        return False
    back = 0
    for i in range(len(indptr) - 1):
        back |= indptr[i + 1] < indptr[i]
    high = np.uint32(0)
    for t in range(len(indices)):
        high = max(high, np.uint32(indices[t]))  # what is below 0 is large
    return back == 0 and (len(indices) == 0 or high < columns)


# CSR.


def on_csr(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(data, indices, indptr, b, y)`, which adds to a y of zeros, into the product."""

    def matmul_csr(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
        short, starts = places(indices, indptr, len(b))
        y = result((len(starts) - 1, b.shape[1]), b.dtype, out, data, b, indices, indptr)
        y[...] = 0
        run(dense(data), short, starts, dense(b), y)
        return y

    matmul_csr.__name__ = run.__name__
    return matmul_csr


@rung(
    "matmul_csr", "cpu", step=1, wants="nnz, nnz, p, k n", check=check_csr, integers=(1, 2),
    idea="the definition: each element of y is the sum over what its row keeps",
)  # fmt: skip
@on_csr
@njit(cache=True, nogil=True)
def csr_by_definition(data, indices, indptr, b, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for t in range(indptr[i], indptr[i + 1]):
                y[i, j] += data[t] * b[indices[t], j]


@rung("matmul_csr", "cpu", step=2, integers=(1, 2), idea="swap the loops: a row of b is added as a whole, as memory lies")
@on_csr
@njit(cache=True, nogil=True)
def csr_rows_added(data, indices, indptr, b, y):
    for i in range(y.shape[0]):
        for t in range(indptr[i], indptr[i + 1]):
            row, number = b[indices[t]], data[t]
            for j in range(y.shape[1]):
                y[i, j] += number * row[j]


@njit(nogil=True)
def csr_strip(like, data, indices, starts, ends, b, b_p, y, y_i, sizes, add):
    """A strip of b that is there in full, or that may be read as if it were."""
    apart()
    lanes = VECTOR // size_of(like)
    if sizes[1] > HALF * lanes:
        csr_rows(WIDE, 1, like, data, indices, starts, ends, b, b_p, y, y_i, sizes, add)
    elif sizes[1] > lanes:
        csr_rows(HALF, 1, like, data, indices, starts, ends, b, b_p, y, y_i, sizes, add)
    else:
        csr_rows(1, 1, like, data, indices, starts, ends, b, b_p, y, y_i, sizes, add)


@njit(nogil=True)
def csr_edge(like, data, indices, starts, ends, b, b_p, y, y_i, sizes):
    """What is left of a b that lies as it came, vector by vector."""
    apart()
    size = size_of(like)
    lanes = VECTOR // size
    for j in range(0, sizes[1], lanes):
        step = j * size
        csr_rows(1, 0, like, data, indices, starts, ends, b + step, b_p, y + step, y_i, (sizes[0], sizes[1] - j), False)


@njit(nogil=True, inline="always")
def pace(n, size):
    """Bytes from one row of a copied strip to the next: of as many vectors as y is wide, up to a whole strip."""
    lanes = VECTOR // size
    return VECTOR if n <= lanes else HALF * VECTOR if n <= HALF * lanes else WIDE * VECTOR


@njit(nogil=True)
def panel(size, holes):
    """Room for so many bytes of a strip of b: what to give back, and where a line begins. Lanes that stay empty, if any, are zero."""
    room = allocate(size + LINE)
    start = (room + LINE - 1) // LINE * LINE
    if holes:
        clear(start, size)
    return room, start


@njit(nogil=True)
def bring(like, b, b_p, b_j, to, step, rows, columns):
    """A strip of b, copied to where its rows follow one another."""
    apart()
    size = size_of(like)
    if b_j == size:
        copy(like, b, b_p, to, step, rows, columns)
    else:
        gather(like, b, (b_p, b_j), to, (step, size), rows, columns)


@njit(nogil=True, inline="always")
def worth_copying(b, b_p, step, k, read):
    """Is b read often, and does it not lie as a copy would?"""
    return read >= OFTEN * k and not (b_p == step and b % LINE == 0)


def csr_product(data, indices, indptr, b, y, first, last, ideas):
    """Rows of y from `first` up to `last`. ideas: 0 as b lies, 1 with copies of b, 2 in blocks of its rows,
    which is for columns that rise along each row."""
    (k, n), like = b.shape, y.dtype.type(0)
    size = size_of(like)
    wide, (b_p, b_j) = WIDE * VECTOR // size, b.strides
    values, places, right = address(data), address(indices), address(b)
    starts, to, y_i, rows = address(indptr) + 8 * first, address(y) + first * n * size, n * size, last - first
    if n == 1 and ideas:
        csr_column(like, values, places, starts, right, b_p, to, rows)
        return
    if ideas > 1:
        csr_blocks(like, values, places, cut_rows(indices, indptr, first, last, k), right, (b_p, b_j), to, y_i, k, n)
        return
    step = pace(n, size)
    packs = b_j != size or (ideas and worth_copying(right, b_p, step, k, indptr[last] - indptr[first]))
    room, near = panel(k * step, n * size < step) if packs else (0, 0)
    for j in range(0, n, wide):
        here, there, sizes = right + j * b_j, to + j * size, (rows, min(n - j, wide))
        if packs:
            bring(like, here, b_p, b_j, near, step, k, sizes[1])
            csr_strip(like, values, places, starts, starts + 8, near, step, there, y_i, sizes, False)
        elif sizes[1] == wide:
            csr_strip(like, values, places, starts, starts + 8, here, b_p, there, y_i, sizes, False)
        else:
            csr_edge(like, values, places, starts, starts + 8, here, b_p, there, y_i, sizes)
    if room:
        release(room)


@njit(nogil=True)
def csr_blocks(like, data, indices, cuts, b, b_steps, y, y_i, k, n):
    """All rows in blocks of DEEP rows of b, each of which stays near until all rows of a have passed."""
    apart()
    size = size_of(like)
    step, rows = WIDE * VECTOR, cuts.shape[1]
    room, near = panel(DEEP * step, False)
    for j in range(0, n, step // size):
        sizes = (rows, min(n - j, step // size))
        for q in range(cuts.shape[0] - 1):
            top, starts = q * DEEP, address(cuts) + 8 * q * rows
            bring(like, b + top * b_steps[0] + j * b_steps[1], b_steps[0], b_steps[1], near, step, min(DEEP, k - top), sizes[1])
            csr_strip(like, data, indices, starts, starts + 8 * rows, near - top * step, step, y + j * size, y_i, sizes, q > 0)
    release(room)


@njit(nogil=True)
def cut_rows(indices, indptr, first, last, k):
    """Where in each row the columns of each block begin, and where those of the last one end: (blocks + 1, rows)."""
    blocks, rows = (k + DEEP - 1) // DEEP, last - first
    cuts = np.empty((blocks + 1, rows), np.int64)
    for i in range(rows):
        t, end = indptr[first + i], indptr[first + i + 1]
        for q in range(blocks):
            cuts[q, i] = t
            while t < end and indices[t] < (q + 1) * DEEP:
                t += 1
        cuts[blocks, i] = end
    return cuts


class Compiled(dict[str, Any]):
    """A function of arrays, the last of which is y, by the letter of their dtype: compiled when one is first asked for, for all layouts."""

    def __init__(self, function: Any, plain: Callable[..., None], *arguments: Any, y: int = 2):
        """arguments: Numba's types; an integer stands for an array of numbers with so many axes, which may be read only.
        plain: what it does, by NumPy; y: axes of the result"""
        super().__init__()
        self.function, self.plain, self.arguments, self.y = function, plain, arguments, y

    def __missing__(self, letter: str) -> Any:
        if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
            return self.plain
        number = {"f": types.float32, "d": types.float64}[letter]
        given = [a if isinstance(a, types.Type) else types.Array(number, a, "A", readonly=True, aligned=False) for a in self.arguments]
        run = stamped(njit(cache=True, nogil=True)(self.function))
        run.compile((*given, types.Array(number, self.y, "C"), *[types.int64] * 3))
        run.disable_compile()  # else it compiles again for each layout
        return self.setdefault(letter, run)


PLACES = [types.Array(kind, 1, "C", readonly=True, aligned=False) for kind in (types.int32, types.int64)]


def plain_csr(data, indices, indptr, b, y, first, last, ideas):
    for i in range(first, last):
        row = slice(indptr[i], indptr[i + 1])
        y[i] = data[row] @ b[indices[row]]


of_csr = Compiled(csr_product, plain_csr, 1, *PLACES, 2)


def share(run: Callable[..., None], before: tuple[Any, ...], starts: Sequence[int], flops: int, ideas: int, workers: int) -> None:
    """Ranges of rows, from where they start, to so many threads: two pieces for each, with as many numbers in each piece.

    flops: of a number. Each row is summed by itself, so the cut changes no bit, and one thread gets one piece: a piece copies b."""
    m, numbers = len(starts) - 1, int(starts[-1])
    count = min(m, 2 * workers, numbers * flops // WORTH_A_THREAD) if workers > 1 else 1
    if count < 2:
        run(*before, 0, m, ideas)
        return
    cuts = np.searchsorted(starts, np.arange(1, count) * numbers // count).tolist()
    threads.share(run, [(*before, top, bottom, ideas) for top, bottom in pairwise([0, *cuts, m]) if top < bottom])


def csr(data: Any, indices: Any, indptr: Any, b: Any, out: Any, *, ideas: int, workers: int) -> np.ndarray:
    short, starts = places(indices, indptr, len(b))
    (k, n), m = b.shape, len(starts) - 1
    y = result((m, n), b.dtype, out, data, b, indices, indptr)
    run, data = of_csr[y.dtype.char], contiguous(data)
    if ideas == 2 and not (n * b.itemsize > WIDE * VECTOR and k > DEEP and len(short) * DEEP >= LONG * k * m and rising(short, starts)):
        ideas = 1
    share(run, (data, short, starts, b, y), starts, 2 * n, ideas, workers)
    return y


@njit(cache=True, nogil=True)
def rising(indices, indptr):
    """Do the columns rise along every row? As often as they fall at all, a row must begin."""
    falls = starts = 0
    for t in range(1, len(indices)):
        falls += indices[t] < indices[t - 1]
    at = 0
    for i in range(1, len(indptr) - 1):
        t = indptr[i]
        if at < t < len(indices):
            starts += indices[t] < indices[t - 1]
        at = t
    return falls == starts


@rung(
    "matmul_csr", "cpu", step=3, integers=(1, 2),
    idea="sums of a strip stay in registers for a whole row, those of every second number apart (reassoc, contract)",
)  # fmt: skip
def csr_in_registers(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return csr(data, indices, indptr, b, out, ideas=0, workers=1)


@rung(
    "matmul_csr", "cpu", step=4, integers=(1, 2),
    idea="copy strips of b into one line, if it is read often: no vector lies across two cache lines; one column is gathered along a row",
)  # fmt: skip
def csr_copied(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return csr(data, indices, indptr, b, out, ideas=1, workers=1)


@rung(
    "matmul_csr", "cpu", step=5, integers=(1, 2),
    idea="cut k, where y has several strips and columns rise along rows: a block of b stays in the first-level cache (reassoc)",
)  # fmt: skip
def csr_blocked(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return csr(data, indices, indptr, b, out, ideas=2, workers=1)


@rung("matmul_csr", "cpu", step=6, integers=(1, 2), serves=True, idea="give rows to threads, cut so that each piece has as many numbers")
def csr_threaded(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return csr(data, indices, indptr, b, out, ideas=2, workers=threads.threads())


# What CSR keeps of a product: the gradient in data.


@rung(
    "matmul_csr_data_grad", "cpu", step=1, wants="m n, k n, nnz, p", check=check_samples, integers=(2, 3),
    idea="the definition: one inner product for each element that is kept",
)  # fmt: skip
def samples_by_definition(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    short, starts = places(indices, indptr, len(b))
    y = result((len(short),), b.dtype, out, gy, b, indices, indptr)
    y[...] = 0
    inner_products(dense(gy), dense(b), short, starts, y)
    return y


@njit(cache=True, nogil=True)
def inner_products(gy, b, indices, indptr, y):
    for i in range(len(gy)):
        for t in range(indptr[i], indptr[i + 1]):
            for j in range(gy.shape[1]):
                y[t] += gy[i, j] * b[indices[t], j]


@njit(nogil=True)
def samples_strip(like, y, indices, indptr, gy, gy_i, b, b_p, sizes, add):
    apart()
    lanes = VECTOR // size_of(like)
    if sizes[1] == WIDE * lanes:
        csr_samples(WIDE, 1, like, y, indices, indptr, gy, gy_i, b, b_p, sizes, add)
    elif sizes[1] > lanes:
        csr_samples(WIDE, 0, like, y, indices, indptr, gy, gy_i, b, b_p, sizes, add)
    else:
        csr_samples(1, 0, like, y, indices, indptr, gy, gy_i, b, b_p, sizes, add)


def samples_product(gy, b, indices, indptr, y, first, last, ideas):
    """What is kept in rows from `first` up to `last`. ideas: 0 as b lies, 1 with copies of b."""
    (k, n), like = b.shape, y.dtype.type(0)
    size = size_of(like)
    wide, (b_p, b_j), gy_i, rows = WIDE * VECTOR // size, b.strides, n * size, last - first
    to, places, starts, left, right = address(y), address(indices), address(indptr) + 8 * first, address(gy) + first * gy_i, address(b)
    step = pace(n, size)
    packs = b_j != size or (ideas and worth_copying(right, b_p, step, k, indptr[last] - indptr[first]))
    room, near = panel(k * step, n * size < step) if packs else (0, 0)
    for j in range(0, n, wide):
        here, sizes = right + j * b_j, (rows, min(n - j, wide))
        if packs:
            bring(like, here, b_p, b_j, near, step, k, sizes[1])
            samples_strip(like, to, places, starts, left + j * size, gy_i, near, step, sizes, j > 0)
        else:
            samples_strip(like, to, places, starts, left + j * size, gy_i, here, b_p, sizes, j > 0)
    if room:
        release(room)


def plain_samples(gy, b, indices, indptr, y, first, last, ideas):
    for i in range(first, last):
        row = slice(indptr[i], indptr[i + 1])
        y[row] = b[indices[row]] @ gy[i]


of_samples = Compiled(samples_product, plain_samples, 2, 2, *PLACES, y=1)


def samples(gy: Any, b: Any, indices: Any, indptr: Any, out: Any, *, ideas: int, workers: int) -> np.ndarray:
    short, starts = places(indices, indptr, len(b))
    y = result((len(short),), b.dtype, out, gy, b, indices, indptr)
    if not b.shape[1]:
        y[...] = 0
    run, gy = of_samples[y.dtype.char], contiguous(gy)
    share(run, (gy, b, short, starts, y), starts, 2 * b.shape[1], ideas, workers)
    return y


@rung(
    "matmul_csr_data_grad", "cpu", step=2, integers=(2, 3),
    idea="a strip of a row of gy stays in registers for all that its row keeps; vectors lie along n (reassoc, contract)",
)  # fmt: skip
def samples_in_registers(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return samples(gy, b, indices, indptr, out, ideas=0, workers=1)


@rung("matmul_csr_data_grad", "cpu", step=3, integers=(2, 3), idea="copy strips of b into one line, if it is read often")
def samples_copied(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return samples(gy, b, indices, indptr, out, ideas=1, workers=1)


@rung("matmul_csr_data_grad", "cpu", step=4, integers=(2, 3), serves=True, idea="give rows to threads, cut so that each keeps as much")
def samples_threaded(gy: Any, b: Any, indices: Any, indptr: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return samples(gy, b, indices, indptr, out, ideas=1, workers=threads.threads())


# BSR.


@rung(
    "matmul_bsr", "cpu", step=1, wants="blocks r c, blocks, p, k n", check=check_bsr, integers=(1, 2),
    idea="the definition: block by block, each element of y is a sum",
)  # fmt: skip
def bsr_by_definition(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    short, starts = places(indices, indptr, len(b) // data.shape[2])
    y = result(((len(starts) - 1) * data.shape[1], b.shape[1]), b.dtype, out, data, b, indices, indptr)
    y[...] = 0
    blocks_by_definition(dense(data), short, starts, dense(b), y)
    return y


@njit(cache=True, nogil=True)
def blocks_by_definition(data, indices, indptr, b, y):
    _, r, c = data.shape
    for i in range(len(indptr) - 1):
        for t in range(indptr[i], indptr[i + 1]):
            for u in range(r):
                for p in range(c):
                    for j in range(y.shape[1]):
                        y[i * r + u, j] += data[t, u, p] * b[indices[t] * c + p, j]


@njit(nogil=True)
def bsr_strip(like, data, indices, indptr, b, b_p, y, y_i, sizes):
    """A strip of b that is there in full, or that may be read as if it were."""
    apart()
    lanes = VECTOR // size_of(like)
    if sizes[1] > HALF * lanes:
        bsr_rows(TALL, WIDE, 1, like, data, indices, indptr, b, b_p, y, y_i, sizes)
    elif sizes[1] > lanes:
        bsr_rows(NARROW, HALF, 1, like, data, indices, indptr, b, b_p, y, y_i, sizes)
    else:
        bsr_rows(NARROW, 1, 1, like, data, indices, indptr, b, b_p, y, y_i, sizes)


@njit(nogil=True)
def bsr_edge(like, data, indices, indptr, b, b_p, y, y_i, sizes):
    """What is left of a b that lies as it came, vector by vector."""
    apart()
    size = size_of(like)
    lanes = VECTOR // size
    for j in range(0, sizes[1], lanes):
        step, (rows, columns, r, c) = j * size, sizes
        bsr_rows(TALL, 1, 0, like, data, indices, indptr, b + step, b_p, y + step, y_i, (rows, columns - j, r, c))


def bsr_product(data, indices, indptr, b, y, first, last, ideas):
    """Rows of blocks of y from `first` up to `last`. ideas: 0 as b lies, 1 with copies of b."""
    (k, n), like = b.shape, y.dtype.type(0)
    _, r, c = data.shape
    size = size_of(like)
    wide, (b_p, b_j) = WIDE * VECTOR // size, b.strides
    values, places, right = address(data), address(indices), address(b)
    starts, to, y_i, rows = address(indptr) + 8 * first, address(y) + first * r * n * size, n * size, last - first
    step = pace(n, size)
    packs = b_j != size or (ideas and worth_copying(right, b_p, step, k, (indptr[last] - indptr[first]) * c))
    room, near = panel(k * step, n * size < step) if packs else (0, 0)
    for j in range(0, n, wide):
        here, there, sizes = right + j * b_j, to + j * size, (rows, min(n - j, wide), r, c)
        if packs:
            bring(like, here, b_p, b_j, near, step, k, sizes[1])
            bsr_strip(like, values, places, starts, near, step, there, y_i, sizes)
        elif sizes[1] == wide:
            bsr_strip(like, values, places, starts, here, b_p, there, y_i, sizes)
        else:
            bsr_edge(like, values, places, starts, here, b_p, there, y_i, sizes)
    if room:
        release(room)


def plain_bsr(data, indices, indptr, b, y, first, last, ideas):
    _, r, c = data.shape
    for i in range(first, last):
        y[i * r : (i + 1) * r] = 0
        for t in range(indptr[i], indptr[i + 1]):
            y[i * r : (i + 1) * r] += data[t] @ b[indices[t] * c : (indices[t] + 1) * c]


of_bsr = Compiled(bsr_product, plain_bsr, 3, *PLACES, 2)


def bsr(data: Any, indices: Any, indptr: Any, b: Any, out: Any, *, ideas: int, workers: int) -> np.ndarray:
    _, r, c = data.shape
    short, starts = places(indices, indptr, len(b) // c)
    n = b.shape[1]
    y = result(((len(starts) - 1) * r, n), b.dtype, out, data, b, indices, indptr)
    run, data = of_bsr[y.dtype.char], contiguous(data)
    share(run, (data, short, starts, b, y), starts, 2 * n * r * c, ideas, workers)
    return y


@rung(
    "matmul_bsr", "cpu", step=2, integers=(1, 2),
    idea="a tile of y stays in registers for a row of blocks: a row of b is loaded once for all rows of a tile (reassoc, contract)",
)  # fmt: skip
def bsr_in_registers(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return bsr(data, indices, indptr, b, out, ideas=0, workers=1)


@rung("matmul_bsr", "cpu", step=3, integers=(1, 2), idea="copy strips of b into one line, if it is read often")
def bsr_copied(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return bsr(data, indices, indptr, b, out, ideas=1, workers=1)


@rung("matmul_bsr", "cpu", step=4, integers=(1, 2), serves=True, idea="give rows of blocks to threads, cut so that each has as many blocks")
def bsr_threaded(data: Any, indices: Any, indptr: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return bsr(data, indices, indptr, b, out, ideas=1, workers=threads.threads())


# 2:4.


def which(indices: Any) -> np.ndarray:
    """Indices of 2:4 as jitted code reads them. Raises ValueError for one that is not one of four."""
    if indices.dtype == UINT8 and within_four(indices := contiguous(indices)):
        return indices
    check_fours(indices)
    return indices.astype(UINT8, order="C")


@njit(cache=True, nogil=True)
def within_four(indices):
    high = np.uint8(0)
    for i in range(indices.shape[0]):
        for t in range(indices.shape[1]):
            high = max(high, indices[i, t])
    return high < 4


@rung(
    "matmul_2to4", "cpu", step=1, wants="m h, m h, k n", check=check_2to4, integers=(1,),
    idea="the definition: each element of y is the sum over what its row keeps",
)  # fmt: skip
def pairs_by_definition(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    short = which(indices)
    y = result((len(values), b.shape[1]), b.dtype, out, values, b, indices)
    y[...] = 0
    two_of_four(dense(values), short, dense(b), y)
    return y


@njit(cache=True, nogil=True)
def two_of_four(values, indices, b, y):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            for t in range(values.shape[1]):
                y[i, j] += values[i, t] * b[t // 2 * 4 + np.int64(indices[i, t]), j]


@njit(nogil=True)
def pairs_strip(like, values, indices, a_i, b, b_p, y, y_i, sizes, add):
    apart()
    lanes = VECTOR // size_of(like)
    if sizes[2] > HALF * lanes:
        pairs(WIDE, like, values, indices, a_i, b, b_p, y, y_i, sizes, add)
    elif sizes[2] > lanes:
        pairs(HALF, like, values, indices, a_i, b, b_p, y, y_i, sizes, add)
    else:
        pairs(1, like, values, indices, a_i, b, b_p, y, y_i, sizes, add)


def pairs_product(values, indices, b, y, first, last, ideas):
    """Rows of y from `first` up to `last`. ideas: 0 with a copy of b, 1 in blocks of DEEP rows of it."""
    (k, n), h, like = b.shape, values.shape[1], y.dtype.type(0)
    size = size_of(like)
    wide, (b_p, b_j), y_i, rows = WIDE * VECTOR // size, b.strides, n * size, last - first
    left, which, to = address(values) + first * h * size, address(indices) + first * h, address(y) + first * y_i
    if n == 1 and ideas:
        pairs_column(like, left, which, h, address(b), b_p, to, rows)
        return
    deepest = max(4, min(k, DEEP) if ideas else k)
    step = pace(n, size)
    room, near = panel(deepest * step, n * size < step)
    for j in range(0, n, wide):
        columns = min(wide, n - j)
        for top in range(0, max(1, k), deepest):
            depth = min(deepest, k - top)
            bring(like, address(b) + top * b_p + j * b_j, b_p, b_j, near, step, depth, columns)
            a, index, sizes = left + top // 2 * size, which + top // 2, (rows, depth // 4, columns)
            pairs_strip(like, a, index, h, near, step, to + j * size, y_i, sizes, top > 0)
    release(room)


def plain_pairs(values, indices, b, y, first, last, ideas):
    columns = np.arange(values.shape[1]) // 2 * 4 + indices
    for i in range(first, last):
        y[i] = values[i] @ b[columns[i]]


of_pairs = Compiled(pairs_product, plain_pairs, 2, types.Array(types.uint8, 2, "C", readonly=True, aligned=False), 2)


def two_to_four(values: Any, indices: Any, b: Any, out: Any, *, ideas: int, workers: int) -> np.ndarray:
    (m, h), n, short = values.shape, b.shape[1], which(indices)
    y = result((m, n), b.dtype, out, values, b, indices)
    run, values = of_pairs[y.dtype.char], contiguous(values)
    share(run, (values, short, b, y), np.arange(m + 1) * h, 2 * n, ideas, workers)
    return y


@rung(
    "matmul_2to4", "cpu", step=2, integers=(1,),
    idea="sums of a strip stay in registers for a row, those of the two of a pair apart (reassoc, contract); strips of b are copied",
)  # fmt: skip
def pairs_in_registers(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return two_to_four(values, indices, b, out, ideas=0, workers=1)


@rung(
    "matmul_2to4", "cpu", step=3, integers=(1,),
    idea="cut k: a block of b stays in the first-level cache while all rows of a pass; one column is gathered along a row (reassoc)",
)  # fmt: skip
def pairs_blocked(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return two_to_four(values, indices, b, out, ideas=1, workers=1)


@rung("matmul_2to4", "cpu", step=4, integers=(1,), serves=True, idea="give rows to threads")
def pairs_threaded(values: Any, indices: Any, b: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    return two_to_four(values, indices, b, out, ideas=1, workers=threads.threads())
