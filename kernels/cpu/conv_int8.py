"""Convolution of small whole numbers on the CPU, one idea at a time. Exact: every rung gives the same bits.

    y[n, o, p, q]  =  sum over k, i, j of (x[n, k, p s + i d - top, q s + j d - left] - z)  w[o, k, i, j]

    x (n, c, h, w) uint8 or int8   w (o, c / groups, i, j) int8   y (n, o, p, q) int32     any strides; z stands for 0 in x

From step 2 on it is the product of `narrow.py`, w times x: rows of w against columns of windows. No matrix of windows is made. A picture
with its padding is laid out flat, one plane for each place of a pixel between two windows (stride 1: one plane), so that the
pixels that one weight meets in neighbouring windows lie side by side. Panels of words are zipped from there, a few rows of windows
at a time, by a table of where the pixels of each weight begin. Between two rows stand windows that are not there, and are left out.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
from numba import config, int8, int32, njit, types

from kernels.arrays import result
from kernels.cpu.amx import lay_out, lent, let_go
from kernels.cpu.arrays import dense
from kernels.cpu.cache import stamped
from kernels.cpu.conv import SEVEN_LOOPS, seven_loops
from kernels.cpu.lanes import copy_rows
from kernels.cpu.narrow import FEW, INT32, LANES, RANGE, ROW, WIDE, WORDS, in_matrices, in_vectors, named_after, pack_rows
from kernels.cpu.threads import share, threads
from kernels.cpu.vector import address, hold
from kernels.cpu.words import QUADS, clear, copy_lines, numbers_in_a_word, starts, zipped
from kernels.registry import rung
from kernels.windows import Pair, count, fits, pair, sides

EXACT = {"uint8 int8": 0.0, "int8 int8": 0.0}
COLUMNS = 256  # windows in a block: with 32 filters their sums are 32 KiB, a first-level cache
WORTH_A_THREAD = 4_000_000  # products in a piece, see `gemm.py`


def fits_int8(x: Any, w: Any, *, zero_point: int = 0, **geometry: Any) -> None:
    """Raises ValueError."""
    fits(x, w, **geometry)
    about = np.iinfo(x.dtype)
    if not about.min <= zero_point <= about.max:
        raise ValueError(f"zero_point is {zero_point}, which {x.dtype} does not hold ({about.min} to {about.max})")


@rung("conv2d_int8", "cpu", step=1, wants="n c h w, o k i j", check=fits_int8, rtol=EXACT, idea=SEVEN_LOOPS)
def seven_loops_of_int8(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> np.ndarray:
    differences = x.astype(np.int32) - np.int32(zero_point)
    return seven_loops(differences, w.astype(np.int32), stride=stride, padding=padding, dilation=dilation, groups=groups)


@njit(nogil=True)
def flat(x, n, first, channels, zero_point, stride, corner, down, across, room):
    """Some channels of picture n with their padding: in planes of `down` by `across`, one for each place between two windows."""
    h, w = x.shape[2:]
    plane = down * across
    room[:] = int8(zero_point)
    for c in range(channels):
        base = c * stride[0] * stride[1] * plane
        if stride[0] == 1 == stride[1] and x.strides[3] == 1:
            source = address(x) + n * x.strides[0] + (first + c) * x.strides[1]
            copy_lines(source, x.strides[2], address(room) + base + corner[0] * across + corner[1], across, h, w)
            continue
        for r in range(h):
            i = r + corner[0]
            line = base + i % stride[0] * stride[1] * plane + i // stride[0] * across
            for s in range(w):
                j = s + corner[1]
                room[line + j % stride[1] * plane + j // stride[1]] = x[n, first + c, r, s]


@njit(nogil=True)
def table(channels, kernel, stride, dilation, down, across, group):
    """Where the pixels of each weight begin; behind the last one stand zeros, up to a whole word."""
    places = np.zeros((channels * kernel[0] * kernel[1] + group - 1) // group * group, np.int64)
    at = 0
    for c in range(channels):
        for i in range(kernel[0]):
            for j in range(kernel[1]):
                r, s = i * dilation[0], j * dilation[1]
                plane = (c * stride[0] + r % stride[0]) * stride[1] + s % stride[1]
                places[at] = (plane * down + r // stride[0]) * across + s // stride[1]
                at += 1
    return places


@njit(nogil=True)
def total(numbers):
    found = int32(0)
    for number in numbers:
        found += int32(number)
    return found


def convolve_by(strip: Any, in_line: bool) -> Any:
    """The convolution made in strips by the one or the other of `narrow.py`; see `multiply_by` there."""

    @njit(nogil=True)
    @named_after(strip)
    def convolve(x, w, y, offset, zero_point, signed, stride, corner, dilation, groups, pictures, chosen, rows):
        """The pictures, groups and rows of windows in the three ranges. `offset`: what is added to each number of a word of x, but z."""
        number, like, group = w.dtype.type(0), y.dtype.type(0), numbers_in_a_word(y.dtype.type(0))
        channels, kernel, filters = w.shape[1], w.shape[2:], w.shape[0] // groups
        k, most = channels * kernel[0] * kernel[1], WORDS * group
        down = max((y.shape[2] - 1) + (kernel[0] - 1) * dilation[0] // stride[0] + 1, (x.shape[2] + corner[0] - 1) // stride[0] + 1)
        across = max((y.shape[3] - 1) + (kernel[1] - 1) * dilation[1] // stride[1] + 1, (x.shape[3] + corner[1] - 1) // stride[1] + 1)
        flip_w = 128 if in_line or group == 2 else 0
        shift = flip_w if group == 4 else 0
        flip_x = (0 if signed else 128) if group == 4 else (128 if signed else 0)  # four a word: x is made signed
        places = table(channels, kernel, stride, dilation, down, across, group)
        picture = np.empty(channels * stride[0] * stride[1] * down * across + 4 * LANES, np.int8)
        some = max(1, min(rows[1] - rows[0], COLUMNS // across))  # rows of windows in a block
        deep = (min(k, most) + LANES * group - 1) // (LANES * group) * LANES
        layout = (2 * LANES * ROW, ROW, 4 * LANES) if in_line else (8 * LANES * deep, 4 * LANES, 8 * LANES * LANES)
        block = (filters + 2 * LANES - 1) // (2 * LANES) * layout[0]
        packed = np.empty((k + most - 1) // most * block + 64, np.int8)
        panel = (1 + deep) * WIDE
        panels = np.empty((some * across + 2 * LANES - 1) // (2 * LANES) * panel + 64, np.int8)
        scratch = np.empty(LANES * LANES * group, np.int8)
        sums = np.empty((filters, some * across), np.int32)
        block_w, block_x = (address(packed) + 63) // 64 * 64, (address(panels) + 63) // 64 * 64
        starting, weights = np.empty(filters, np.int32), w.reshape(w.size)
        for g in range(chosen[0], chosen[1]):
            for f in range(filters):
                starting[f] = int32(offset * total(weights[(g * filters + f) * k : (g * filters + f + 1) * k]))
            for top in range(0, k, most):
                source, depth = address(w) + g * filters * k + top, min(most, k - top)
                pack_rows(like, number, flip_w, source, k, 1, block_w + top // most * block, layout, filters, depth, address(scratch))
            for n in range(pictures[0], pictures[1]):
                flat(x, n, g * channels, channels, zero_point, stride, corner, down, across, picture)
                for p in range(rows[0], rows[1], some):
                    tall = min(some, rows[1] - p)
                    columns = (tall - 1) * across + y.shape[3]
                    for f in range(filters):
                        sums[f, :columns] = starting[f]
                    for top in range(0, k, most):
                        words = (min(most, k - top) + group - 1) // group
                        for j in range(0, columns, 2 * LANES):
                            wide = min(2 * LANES, columns - j)
                            right = block_x + j // (2 * LANES) * panel + WIDE
                            for h in range(0, wide, LANES):
                                pixels = address(picture) + p * across + j + h
                                for t in range(words):
                                    zipped(like, address(places) + (top + t * group) * 8, pixels, flip_x, right + t * WIDE + h * 4)
                            if not in_line:  # matrix registers take sixteen words at a time
                                clear(right + words * WIDE, (deep - words) * WIDE)
                            starts(like, shift, right, WIDE, words)
                            left = block_w + top // most * block
                            strip(1, like, left, layout[0], right, address(sums) + j * 4, sums.strides[0], filters, words, wide, True)
                    for f in range(filters):
                        target = address(y) + n * y.strides[0] + (g * filters + f) * y.strides[1] + p * y.strides[2]
                        copy_rows(like, address(sums) + f * sums.strides[0], across * 4, target, y.strides[2], tall, y.shape[3])
        hold(packed)
        hold(panels)

    return convolve


convolve_in_vectors = convolve_by(in_vectors, True)
convolve_in_matrices = convolve_by(in_matrices, False)


def by_vectors(x, w, y, offset, zero_point, signed, stride, corner, dilation, groups, pictures, chosen, rows):
    convolve_in_vectors(x, w, y, offset, zero_point, signed, stride, corner, dilation, groups, pictures, chosen, rows)


def by_matrices(x, w, y, offset, zero_point, signed, stride, corner, dilation, groups, pictures, chosen, rows):
    lay_out()
    convolve_in_matrices(x, w, y, offset, zero_point, signed, stride, corner, dilation, groups, pictures, chosen, rows)
    let_go()


@cache
def compiled(matrices: bool) -> Any:
    """One of the two functions above, once for all layouts of x."""
    run = stamped(njit(cache=True, nogil=True)(by_matrices if matrices else by_vectors))
    x, w = types.Array(types.int8, 4, "A", readonly=True, aligned=False), types.Array(types.int8, 4, "C")
    y = types.Array(types.int32, 4, "C")
    run.compile((x, w, y, types.int64, types.int64, types.boolean, RANGE, RANGE, RANGE, types.int64, RANGE, RANGE, RANGE))
    run.disable_compile()
    return run


def convolve(
    x: Any, w: Any, zero_point: int, stride: Any, padding: Any, dilation: Any, groups: int, out: Any, *, matrices: bool, workers: int
) -> np.ndarray:
    grid, stride, corner, dilation = laid(x.shape[2:], w.shape[2:], stride, padding, dilation)
    y = result((len(x), len(w), *grid), INT32, out, x, w)
    if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
        y[...] = seven_loops_of_int8(x, w, zero_point=zero_point, stride=stride, padding=padding, dilation=dilation, groups=groups)
        return y
    if not y.size:
        return y
    signed, zero = x.dtype.char == "b", byte(zero_point, x.dtype.char)
    offset = (128 if QUADS and not signed else 0) - zero_point
    given = (x.view(np.int8), dense(w), y, offset, zero, signed, stride, corner, dilation, groups)
    run = compiled(matrices and len(w) // groups > FEW and lent())
    pieces = min(2 * workers, y.size * w.size // len(w) // WORTH_A_THREAD) if workers > 1 else 1
    if pieces > 1:
        share(run, [(*given, *piece) for piece in cut((len(x), groups, grid[0]), pieces)])
    else:
        run(*given, (0, len(x)), (0, groups), (0, grid[0]))
    return y


def laid(size: Pair, kernel: Pair, stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair, Pair]:
    """How many windows there are, their steps, the padding before the first, and the steps within them."""
    try:
        return known(size, kernel, stride, padding, dilation)
    except TypeError:  # a list
        return known.__wrapped__(size, kernel, stride, padding, dilation)


@lru_cache
def known(size: Pair, kernel: Pair, stride: Any, padding: Any, dilation: Any) -> tuple[Pair, Pair, Pair, Pair]:
    stride, dilation, ((top, _), (left, _)) = pair(stride), pair(dilation), sides(padding)
    return count(size, kernel, stride, padding, dilation), stride, (top, left), dilation


@lru_cache
def byte(number: int, letter: str) -> int:
    """A number of a dtype as int8 has its bits. Raises OverflowError for one that the dtype does not hold."""
    return int(np.array(number, letter).view(np.int8))


def cut(sizes: tuple[int, int, int], pieces: int) -> list[tuple[Pair, ...]]:
    """Ranges of pictures, groups and rows of windows: one of the three is cut into so many pieces."""
    axis = 0 if sizes[0] >= pieces else 1 if sizes[1] >= pieces else 2
    step = [-(-size // pieces) if a == axis else size for a, size in enumerate(sizes)]
    ranges = [[(i, min(size, i + s)) for i in range(0, size, s)] for size, s in zip(sizes, step, strict=True)]
    return [(n, g, p) for n in ranges[0] for g in ranges[1] for p in ranges[2]]


@rung(
    "conv2d_int8", "cpu", step=2, rtol=EXACT,
    idea="a product of words: weights times the pixels that they meet, zipped into panels from a flat picture; no matrix of windows",
)  # fmt: skip
def panels_of_windows(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    return convolve(x, w, zero_point, stride, padding, dilation, groups, out, matrices=False, workers=1)


@rung("conv2d_int8", "cpu", step=3, rtol=EXACT, idea="where the machine has matrix registers, tiles of 16 by 16 sums in them (AMX)")
def matrix_registers_of_windows(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    return convolve(x, w, zero_point, stride, padding, dilation, groups, out, matrices=True, workers=1)


@rung("conv2d_int8", "cpu", step=4, serves=True, rtol=EXACT, idea="give pictures, groups or rows of windows to threads")
def threaded_windows(
    x: Any, w: Any, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    return convolve(x, w, zero_point, stride, padding, dilation, groups, out, matrices=True, workers=threads())
