"""C = A B of narrow numbers, for `int8.py` and `bfloat16.py`: both factors are copied into words (`words.py`), and words are multiplied.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     int8 to int32, or float32, rounded to bfloat16, to float32; any strides

A block of a becomes rows of WORDS words; a block of b panels two vectors wide, row after row. A tile of c in vector registers (`tile.py`)
and one in matrix registers (`amx.py`) read the same words. Copying is what the numbers need in any case, to be rounded or zipped:
there is no path without. What changes a bit of bfloat16 is chosen by the sizes of the whole product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from math import prod
from typing import Any

import numpy as np
from numba import config, njit, types

from kernels.arrays import result
from kernels.cpu.amx import SIDE, lay_out, lent, let_go, matrix_tiles
from kernels.cpu.arrays import at_a_line, dense
from kernels.cpu.cache import stamped
from kernels.cpu.gemm import BLOCK, PANELS, VECTOR, cut
from kernels.cpu.threads import share
from kernels.cpu.tile import ROWS, gather
from kernels.cpu.vector import address, allocate, apart, release, size_of
from kernels.cpu.words import clear, copy_lines, numbers_in_a_word, square, starts, word_tiles

WORDS = 256  # in a line of a block: a panel of 32 KiB stays in the first-level cache while all rows of a pass
LANES = VECTOR // 4  # words in a vector
WIDE = 2 * VECTOR  # bytes of a row of a panel
ROW = 4 * WORDS + 64  # bytes from one row of a to the next, if words lie in line: not a power of two, lest rows evict each other
DEEP = 4 * WORDS  # in a line of a block for matrix registers: c is read and written again once a block only
FEW = 4  # rows up to which a tile of matrix registers is mostly empty


@njit(nogil=True)
def one_words(like, a, b, c, a_i, c_i, sizes, add):
    apart()
    word_tiles(ROWS, 1, 1, like, a, b, c, a_i, WIDE, c_i, sizes, add)


@njit(nogil=True)
def two_words(like, a, b, c, a_i, c_i, sizes, add):
    apart()
    word_tiles(ROWS, 2, 1, like, a, b, c, a_i, WIDE, c_i, sizes, add)


@njit(nogil=True)
def in_vectors(signs, like, a, unit, b, c, c_i, m, k, n, add):
    """A strip of c from rows of a and a panel of b, in words. Of a pair of int8, that of a is unsigned and that of b signed."""
    apart()
    if n > LANES:
        two_words(like, a, b, c, ROW, c_i, (m, k, n), add)
    else:
        one_words(like, a, b, c, ROW, c_i, (m, k, n), add)


@njit(nogil=True)
def between(signs, like, a, unit, b, before, before_i, c, c_i, m, k, n, add):
    """The same in matrix registers, which take any signs; behind the last word stand zeros. What is added to lies at `before`."""
    apart()
    sizes = (m, (k + SIDE - 1) // SIDE, n)
    if signs == 0:
        matrix_tiles(0, like, a, b, before, before_i, c, unit, c_i, sizes, add)
    elif signs == 1:
        matrix_tiles(1, like, a, b, before, before_i, c, unit, c_i, sizes, add)
    else:
        matrix_tiles(2, like, a, b, before, before_i, c, unit, c_i, sizes, add)


@njit(nogil=True)
def in_matrices(signs, like, a, unit, b, c, c_i, m, k, n, add):
    between(signs, like, a, unit, b, c, c_i, c, c_i, m, k, n, add)


@njit(nogil=True)
def in_pieces(signs, like, a, unit, b, sums, c, c_i, m, k, n, add):
    """The same, k piece after piece. Only the last one writes to c, whose rows may lie in a page each; the others write to `sums`."""
    before, before_i = c, c_i
    for p in range(0, max(1, k), WORDS):
        words = min(WORDS, k - p)
        to, to_i = (sums, WIDE) if p + WORDS < k else (c, c_i)
        between(signs, like, a + p * 8 * LANES, unit, b + p * WIDE, before, before_i, to, to_i, m, words, n, add or p > 0)
        before, before_i = to, to_i


@njit(nogil=True)
def made_whole(like, number, source, line, step, lines, depth, room):
    """Copy what there is of a square that is not whole, or whose numbers lie in line in neither direction, to a room of zeros.

    line, step  bytes from one line to the next, and from one number of a line to the next
    Returns where it is now, bytes from line to line or from number to number, and whether numbers of a line lie side by side.
    """
    apart()
    size, deep = size_of(number), LANES * numbers_in_a_word(like)
    clear(room, LANES * deep * size)
    if step == size:
        copy_lines(source, line, room, deep * size, lines, depth * size)
        return room, deep * size, True
    if line == size:
        copy_lines(source, step, room, LANES * size, depth, lines * size)
        return room, LANES * size, False
    gather(number, source, (line, step), room, (deep * size, size), lines, depth)
    return room, deep * size, True


@njit(nogil=True)
def pack_rows(like, number, flip, a, a_i, a_p, to, layout, m, k, room):
    """Rows of words; zeros behind the last number, up to a whole vector, and below the last row.

    layout  bytes from so many rows as a panel has columns to the next such, from one row to the next, and from a vector to the next
    """
    apart()
    size, group = size_of(number), numbers_in_a_word(like)
    unit, row, block = layout
    deep, by_row = LANES * group, a_p == size
    outer, inner = ((m, LANES), (k, deep)) if by_row else ((k, deep), (m, LANES))  # on in the order in which numbers lie
    for x in range(0, outer[0], outer[1]):
        for y in range(0, inner[0], inner[1]):
            i, p = (x, y) if by_row else (y, x)
            source, lines, depth = a + i * a_i + p * a_p, min(LANES, m - i), min(deep, k - p)
            step, along = a_i if by_row else a_p, by_row
            if lines < LANES or depth < deep or not (along or a_i == size):
                source, step, along = made_whole(like, number, source, a_i, a_p, lines, depth, room)
            target = to + i // (2 * LANES) * unit + i % (2 * LANES) * row + p // deep * block
            if along:
                square(1, 0, like, source, step, flip, target, row)
            else:
                square(0, 0, like, source, step, flip, target, row)


@njit(nogil=True)
def pack_panels(like, number, flip, b, b_p, b_j, to, panel, k, n, room):
    """Panels of words, `panel` bytes apart, row after row; zeros behind the last number and column. A row before is left for `starts`."""
    apart()
    size, group = size_of(number), numbers_in_a_word(like)
    deep, by_column = LANES * group, b_p == size
    outer, inner = ((n, LANES), (k, deep)) if by_column else ((k, deep), (n, LANES))
    for x in range(0, outer[0], outer[1]):
        for y in range(0, inner[0], inner[1]):
            j, p = (x, y) if by_column else (y, x)
            source, lines, depth = b + j * b_j + p * b_p, min(LANES, n - j), min(deep, k - p)
            step, along = b_j if by_column else b_p, by_column
            if lines < LANES or depth < deep or not (along or b_j == size):
                source, step, along = made_whole(like, number, source, b_j, b_p, lines, depth, room)
            target = to + j // (2 * LANES) * panel + (1 + p // group) * WIDE + j % (2 * LANES) * 4
            if along:
                square(1, 1, like, source, step, flip, target, WIDE)
            else:
                square(0, 1, like, source, step, flip, target, WIDE)


@njit(nogil=True)
def even(size, most):
    """Pieces of up to `most`, a multiple of a panel: as few as can be, and of about the same size."""
    pieces = (size + most - 1) // most
    return min(size, ((size + pieces - 1) // pieces + 2 * LANES - 1) // (2 * LANES) * 2 * LANES)


def named_after(strip: Any) -> Any:
    """A name of its own for each variant of a function: code that was compiled in different processes is told apart by names alone."""

    def rename(function: Any) -> Any:
        function.__qualname__ = function.__name__ = f"{function.__name__}_{strip.__name__}"
        return function

    return rename


def multiply_by(strip: Any, tall: int, broad: int, most: int, in_line: bool) -> Any:
    """The product of stacks of matrices, made in strips by the one or the other.

    tall, broad   bytes of a, and of b, in a block
    most          words of a row of a in a block
    in_line       `strip` reads the words of a row in line, and wants the int8 of a unsigned; else rows lie in tiles of 16 words
    """

    @njit(nogil=True)
    @named_after(strip)
    def multiply_words(like, number, signed, a, a_i, a_p, b, b_p, b_j, c, c_i, m, k, n):
        """c = a b, for one matrix, strip after strip. `signed`: the int8 of a are."""
        size, group = size_of(number), numbers_in_a_word(like)
        if m == 1:
            a_i = 0  # an axis of one element may have any step
        if n == 1:
            b_j = 0
        if k == 1:
            a_p = b_p = size
        flip_a, flip_b = 128 if signed and (in_line or group == 2) else 0, 128 if group == 2 else 0
        shift = flip_a if group == 4 else 0  # was added to a, and is taken off again
        deep = min(most, (k + LANES * group - 1) // (LANES * group) * LANES)
        panel = (1 + deep) * WIDE
        broadest = even(n, max(1, broad // panel) * 2 * LANES)
        layout = (2 * LANES * ROW, ROW, 4 * LANES) if in_line else (8 * LANES * deep, 4 * LANES, 8 * LANES * LANES)
        tallest = min(m, tall // (ROW * ROWS) * ROWS if in_line else max(1, tall // max(1, layout[0])) * 2 * LANES)
        bytes_a, bytes_b = (tallest + 2 * LANES - 1) // (2 * LANES) * layout[0], (broadest + 2 * LANES - 1) // (2 * LANES) * panel
        bytes_c = 0 if in_line else tallest * WIDE
        room = allocate(bytes_a + bytes_b + bytes_c + LANES * LANES * group * size + 64)
        block_b = (room + 63) // 64 * 64  # a cache line
        block_a = block_b + bytes_b
        sums = block_a + bytes_a
        scratch = sums + bytes_c
        for left in range(0, n, broadest):
            columns = min(broadest, n - left)
            for top in range(0, max(1, k), most * group):
                depth = min(most * group, k - top)
                words = (depth + group - 1) // group
                pack_panels(like, number, flip_b, b + top * b_p + left * b_j, b_p, b_j, block_b, panel, depth, columns, scratch)
                for j in range(0, columns, 2 * LANES):
                    starts(like, shift, block_b + j // (2 * LANES) * panel + WIDE, WIDE, words)
                for i in range(0, m, tallest):
                    rows, to = min(tallest, m - i), c + i * c_i + left * 4
                    pack_rows(like, number, flip_a, a + i * a_i + top * a_p, a_i, a_p, block_a, layout, rows, depth, scratch)
                    for j in range(0, columns, 2 * LANES):
                        right, wide = block_b + j // (2 * LANES) * panel + WIDE, min(2 * LANES, columns - j)
                        if in_line:
                            strip(1 if signed else 0, like, block_a, layout[0], right, to + j * 4, c_i, rows, words, wide, top > 0)
                        else:
                            strip(1 if signed else 0, like, block_a, layout[0], right, sums, to + j * 4, c_i, rows, words, wide, top > 0)
        release(room)

    @njit(nogil=True)
    @named_after(strip)
    def multiply_stacks(number, signed, a, b, c, stacks, rows, columns):
        """c = a b, for the matrices, rows and columns of c in the three ranges."""
        (k, n), like = b.shape[1:], c.dtype.type(0)
        i, m, j, w = rows[0], rows[1] - rows[0], columns[0], columns[1] - columns[0]
        for s in range(stacks[0], stacks[1]):
            left = address(a) + s * a.strides[0] + i * a.strides[1]
            right = address(b) + s * b.strides[0] + j * b.strides[2]
            to = address(c) + ((s * c.shape[1] + i) * n + j) * 4
            if m > 0 and w > 0:
                steps = a.strides[1], a.strides[2], b.strides[1], b.strides[2]
                multiply_words(like, number, signed, left, *steps[:2], right, *steps[2:], to, n * 4, m, k, w)

    return multiply_stacks


multiply_in_vectors = multiply_by(in_vectors, BLOCK, PANELS, WORDS, True)
multiply_in_matrices = multiply_by(in_pieces, BLOCK // 2, PANELS, DEEP, False)


def by_vectors(a, b, c, signed, stacks, rows, columns):
    multiply_in_vectors(b.dtype.type(0), signed, a, b, c, stacks, rows, columns)


def by_matrices(a, b, c, signed, stacks, rows, columns):
    lay_out()
    multiply_in_matrices(b.dtype.type(0), signed, a, b, c, stacks, rows, columns)
    let_go()


NUMBERS = {"i": (types.int8, types.int32), "f": (types.float32, types.float32)}  # of factors and sums, by the letter of the sums' dtype
INT32, FLOAT32 = np.dtype(np.int32), np.dtype(np.float32)
RANGE = types.UniTuple(types.int64, 2)


def uncompiled(a, b, c, signed, stacks, rows, columns):
    """What the two functions above do, by NumPy."""
    s, i, j = slice(*stacks), slice(*rows), slice(*columns)
    if c.dtype == INT32:
        a, b = (a if signed else a.view(np.uint8)).astype(c.dtype), b.astype(c.dtype)
    else:
        a, b = [np.vectorize(rounded, otypes=[c.dtype])(x) for x in (a, b)]
    c[s, i, j] = np.matmul(a[s, i], b[s, :, j])


@cache
def compiled(letter: str, matrices: bool) -> Any:
    """One of the two functions above, once for all layouts. a and b may be read only."""
    if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
        return uncompiled
    factor, total = NUMBERS[letter]
    given = types.Array(factor, 3, "A", readonly=True, aligned=False)
    run = stamped(njit(cache=True, nogil=True)(by_matrices if matrices else by_vectors))
    run.compile((given, given, types.Array(total, 3, "C"), types.boolean, RANGE, RANGE, RANGE))
    run.disable_compile()  # else it compiles again for each layout
    return run


def multiply(a: np.ndarray, b: np.ndarray, out: np.ndarray | None, *, matrices: bool, workers: int) -> np.ndarray:
    """The product of int8 or of float32 rounded to bfloat16, in matrix registers if it may, by so many threads."""
    (m, k), n, signed, total = a.shape[-2:], b.shape[-1], a.dtype.char == "b", INT32 if b.dtype.char == "b" else FLOAT32
    run = compiled(total.char, matrices and m > FEW and lent())
    if a.dtype.char == "B":
        a = a.view(b.dtype)
    if a.ndim == 2 == b.ndim:
        c = result((m, n), total, out, a, b, make=at_a_line)
        left, right, to = a[None], b[None], c[None]
    else:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        c = result((*leading, m, n), total, out, a, b, make=at_a_line)
        left, right, to = stacked(a, leading), stacked(b, leading), c.reshape(prod(leading), m, n)
    if workers == 1:
        run(left, right, to, signed, (0, len(to)), (0, m), (0, n))
    else:
        share(run, [(left, right, to, signed, *piece) for piece in cut(len(to), m, k, n, workers)])
    return c


def stacked(x: np.ndarray, leading: tuple[int, ...]) -> np.ndarray:
    """`x` with one leading axis. A matrix that serves all of c is not copied: it has a step of 0 there."""
    many = prod(leading)
    if prod(x.shape[:-2]) == 1:
        return np.broadcast_to(x.reshape(x.shape[-2:]), (many, *x.shape[-2:]))
    return np.broadcast_to(x, (*leading, *x.shape[-2:])).reshape(many, *x.shape[-2:])


# For the plain loops that a ladder begins with.


def on_stacks(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(a, b, c)`, for matrices in C order, into the product of two stacks of them."""

    stamped(run)

    @wraps(run)
    def product(a: Any, b: Any) -> np.ndarray:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        c = np.empty((*leading, a.shape[-2], b.shape[-1]), INT32 if b.dtype.char == "b" else FLOAT32)
        for left, right, to in zip(stacked(a, leading), stacked(b, leading), c.reshape(prod(leading), *c.shape[-2:]), strict=True):
            run(dense(left), dense(right), to)
        return c

    return product


@njit(nogil=True)
def rounded(number):
    """float32 to the nearest bfloat16, to the even one of two, as float32. What is below the smallest normal number becomes 0."""
    if not abs(number) >= np.float32(2.0**-126):
        return number * np.float32(0.0)  # nan stays
    bits = np.float32(number).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32((bits + odd + np.uint32(0x7FFF)) & np.uint32(0xFFFF0000)).view(np.float32)
