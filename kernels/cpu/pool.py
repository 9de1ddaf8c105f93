"""Pooling on the CPU: the largest or the mean of each window, and their transposes, one idea at a time.

    x, gx  (n, c, h, w)    y, gy, indices  (n, c, p, q)    float32 or float64, any strides; indices int64

The largest of a window is the first one in reading order; a nan counts as larger than any number. Its index is row * w + column
in the picture without padding, and padding is never chosen. To a sum padding adds nothing; in the divisor of a mean it counts
if count_include_pad says so.

The planes (one channel of one picture each) have nothing to do with one another: every function runs over a range of planes,
first ... last. `max_pool` and its like turn it into the op.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numba import config, njit, types

from kernels.arrays import result
from kernels.cpu import fours
from kernels.cpu.arrays import dense
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung
from kernels.windows import Pair, count, pair, sides

WORTH_A_THREAD = 50_000  # pixels in a piece: about 50 microseconds

DEFINITION = "the definition: window by window, pixel by pixel, with a test whether the pixel lies inside the picture"
DOWN_THEN_ACROSS = "down the columns first, whole rows at a time, then across: h + w additions a window instead of h w"
THREADS = "give the planes to threads"
FOURS = "windows of two by two that neither overlap nor leave a gap: a vector of them at a time"

Run = Callable[..., Any]


def planes(x: Any) -> np.ndarray:
    """`x` as (n * c, h, w) in C order; a copy only if it is not so already."""
    return dense(x).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def window(kernel_size: Any, stride: Any, padding: Any) -> tuple[Pair, Pair, Pair]:
    """Size, step, and the padding before the first row and column."""
    kernel, (rows, columns) = pair(kernel_size), sides(padding)
    return kernel, kernel if stride is None else pair(stride), (rows[0], columns[0])


def in_threads(run: Run, *job: Any) -> None:
    """`run(*arrays, ..., first, last)` in pieces that are cut by sizes alone. The picture is the first of the arrays."""
    *job, first, last = job
    width = max(1, WORTH_A_THREAD // max(1, job[0][:1].size))
    share(run, [(*job, i, min(last, i + width)) for i in range(first, last, width)])


def filled(out: Any, y: np.ndarray) -> np.ndarray:
    """y, in `out` if that is given."""
    if out is None:
        return y
    result(y.shape, y.dtype, out)[...] = y
    return out  # type: ignore[no-any-return]


# Windows of two by two, which most networks have: flat arrays of planes, and rows of windows by `fours`.


def are_fours(kernel_size: Any, stride: Any, padding: Any) -> bool:
    """Two by two, side by side, without padding?"""
    two, none = (2, (2, 2)), (0, (0, 0))
    return kernel_size in two and (stride is None or stride in two) and padding in none and not config.DISABLE_JIT


def of_fours(run: Run, h: int, w: int, *arrays: np.ndarray) -> None:
    """`run(*arrays, h, w, first, last)` on flat arrays, the first of which has as many planes of h by w as there are."""
    count = arrays[0].size // max(1, h * w)
    flat = [a.ravel() for a in arrays]
    if arrays[0].size <= WORTH_A_THREAD:
        run(*flat, h, w, 0, count)
    else:
        width = max(1, WORTH_A_THREAD // (h * w))
        share(run, [(*flat, h, w, i, min(count, i + width)) for i in range(0, count, width)])


# The largest of each window.


def max_pool(run: Run) -> Run:
    """Make `run(x, y, indices, kernel, step, corner, first, last)` into max_pool2d_with_indices."""

    @wraps(run)
    def max_pool2d_with_indices(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[np.ndarray, np.ndarray]:
        kernel, step, corner = window(kernel_size, stride, padding)
        shape = (*x.shape[:2], *count(x.shape[2:], kernel, step, padding))
        y, indices, x = np.empty(shape, x.dtype), np.empty(shape, np.int64), planes(x)
        run(x, planes(y), planes(indices), kernel, step, corner, 0, len(x))
        return y, indices

    return max_pool2d_with_indices


@rung("max_pool2d_with_indices", "cpu", step=1, wants="n c h w", idea=DEFINITION)
@max_pool
@njit(cache=True, nogil=True)
def largest_by_definition(x, y, indices, kernel, step, corner, first, last):
    for n in range(first, last):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                at = -1
                best = x[n, 0, 0]
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        row, column = p * step[0] + i - corner[0], q * step[1] + j - corner[1]
                        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                            value = x[n, row, column]
                            if at < 0 or value > best or (value != value and best == best):
                                best, at = value, row * x.shape[2] + column
                y[n, p, q], indices[n, p, q] = best, at


@njit(cache=True, nogil=True)
def largest_without_branches(x, y, indices, kernel, step, corner, first, last):
    height, width = x.shape[1], x.shape[2]
    for n in range(first, last):
        for p in range(y.shape[1]):
            top, bottom = max(0, p * step[0] - corner[0]), min(height, p * step[0] - corner[0] + kernel[0])
            for q in range(y.shape[2]):
                left, right = max(0, q * step[1] - corner[1]), min(width, q * step[1] - corner[1] + kernel[1])
                best, at = x[n, top, left], top * width + left
                for row in range(top, bottom):
                    for column in range(left, right):
                        value = x[n, row, column]
                        better = (not value <= best) & (best == best)
                        best = value if better else best
                        at = row * width + column if better else at
                y[n, p, q], indices[n, p, q] = best, at


rung("max_pool2d_with_indices", "cpu", step=2, idea="cut the window to the picture first, then choose by selecting: no branch a pixel")(
    max_pool(largest_without_branches)
)


@rung("max_pool2d_with_indices", "cpu", step=3, idea=THREADS)
@max_pool
def largest_threaded(*job: Any) -> None:
    in_threads(largest_without_branches, *job)


@eager(lambda t: (given(t), room(t), room(types.int64), *[INT] * 4))
def largest_of_planes(x, y, indices, h, w, first, last):
    size, p, q = x.itemsize, h // 2, w // 2
    for n in range(first, last):
        for i in range(p):
            top, row = address(x) + (n * h + 2 * i) * w * size, (n * p + i) * q
            fours.largest(x.dtype.type(0), top, top + w * size, address(y) + row * size, address(indices) + row * 8, 2 * i * w, w, q)


@rung("max_pool2d_with_indices", "cpu", step=4, serves=True, idea=FOURS)
def largest_of_fours(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0) -> tuple[np.ndarray, np.ndarray]:
    n, c, h, w = x.shape
    if not are_fours(kernel_size, stride, padding):
        return largest_threaded(x, kernel_size=kernel_size, stride=stride, padding=padding)
    y, indices = np.empty((n, c, h // 2, w // 2), x.dtype), np.empty((n, c, h // 2, w // 2), np.int64)
    of_fours(largest_of_planes[x.dtype.char], h, w, x, y, indices)
    return y, indices


# Its transpose: what a window chose gets what the window was given.


def scatter(run: Run) -> Run:
    """Make `run(gx, gy, indices, first, last)`, which adds to zeros, into max_pool2d_input_grad."""

    @wraps(run)
    def max_pool2d_input_grad(gy: Any, indices: Any, *, input_size: Any) -> np.ndarray:
        gx = np.zeros((*gy.shape[:2], *input_size), gy.dtype)
        run(planes(gx), planes(gy), planes(indices.astype(np.int64, copy=False)), 0, gx.shape[0] * gx.shape[1])
        return gx

    return max_pool2d_input_grad


@njit(cache=True, nogil=True)
def add_where_chosen(gx, gy, indices, first, last):
    for n in range(first, last):
        pixels = gx[n].ravel()
        for p in range(gy.shape[1]):
            for q in range(gy.shape[2]):
                pixels[indices[n, p, q]] += gy[n, p, q]


rung(
    "max_pool2d_input_grad", "cpu", step=1, integers=(1,), wants="n c p q, n c p q",
    idea="the definition: add each element where its index points",
)(scatter(add_where_chosen))  # fmt: skip


@rung("max_pool2d_input_grad", "cpu", step=2, integers=(1,), idea=THREADS)
@scatter
def add_threaded(*job: Any) -> None:
    in_threads(add_where_chosen, *job)


@njit(nogil=True)
def zero_rest(gx, n, h, w):
    """Zeros where no window is: in the last row, if it is one too many, and in the last column."""
    plane = gx[n * h * w : (n + 1) * h * w]
    if h % 2:
        plane[(h - 1) * w :] = 0
    if w % 2:
        plane[w - 1 :: w] = 0


@eager(lambda t: (room(t), given(t), given(types.int64), *[INT] * 4))
def put_back_in_planes(gx, gy, indices, h, w, first, last):
    size, p, q = gx.itemsize, h // 2, w // 2
    for n in range(first, last):
        fits = True
        for i in range(p):
            top, row = address(gx) + (n * h + 2 * i) * w * size, (n * p + i) * q
            fits &= fours.put_back(
                gy.dtype.type(0), address(gy) + row * size, address(indices) + row * 8, top, top + w * size, 2 * i * w, w, q
            )
        if fits:
            zero_rest(gx, n, h, w)
        else:
            plane = gx[n * h * w : (n + 1) * h * w]
            plane[:] = 0
            for t in range(n * p * q, (n + 1) * p * q):
                plane[indices[t]] += gy[t]


@rung(
    "max_pool2d_input_grad", "cpu", step=3, integers=(1,), serves=True,
    idea="half as many windows as pixels: guess that each chose one of its own four, write these at once, and make it good where not so",
)  # fmt: skip
def put_back_in_fours(gy: Any, indices: Any, *, input_size: Any, out: Any = None) -> np.ndarray:
    (n, c, p, q), (h, w) = gy.shape, input_size
    if p != h // 2 or q != w // 2 or not gy.size or config.DISABLE_JIT:
        return filled(out, add_threaded(gy, indices, input_size=input_size))
    gx = result((n, c, h, w), gy.dtype, out, gy, indices)
    of_fours(put_back_in_planes[gy.dtype.char], h, w, gx, gy, indices.astype(np.int64, copy=False))
    return gx


# The mean of each window.


def avg_pool(run: Run) -> Run:
    """Make `run(x, y, kernel, step, corner, include_pad, first, last)` into avg_pool2d."""

    @wraps(run)
    def avg_pool2d(x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True) -> np.ndarray:
        kernel, step, corner = window(kernel_size, stride, padding)
        y = np.empty((*x.shape[:2], *count(x.shape[2:], kernel, step, padding)), x.dtype)
        run(planes(x), planes(y), kernel, step, corner, bool(count_include_pad), 0, y.shape[0] * y.shape[1])
        return y

    return avg_pool2d


@rung("avg_pool2d", "cpu", step=1, wants="n c h w", idea=DEFINITION)
@avg_pool
@njit(cache=True, nogil=True)
def means_by_definition(x, y, kernel, step, corner, include_pad, first, last):
    for n in range(first, last):
        for p in range(y.shape[1]):
            for q in range(y.shape[2]):
                y[n, p, q], pixels = 0, 0
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        row, column = p * step[0] + i - corner[0], q * step[1] + j - corner[1]
                        if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                            y[n, p, q] += x[n, row, column]
                            pixels += 1
                y[n, p, q] /= kernel[0] * kernel[1] if include_pad else pixels


@njit(cache=True, nogil=True, error_model="numpy")
def means(x, y, kernel, step, corner, include_pad, first, last):
    height, width = x.shape[1], x.shape[2]
    sums = np.empty(width, x.dtype)
    for n in range(first, last):
        for p in range(y.shape[1]):
            top, bottom = max(0, p * step[0] - corner[0]), min(height, p * step[0] - corner[0] + kernel[0])
            sums[:] = x[n, top]
            for row in range(top + 1, bottom):
                pixels = x[n, row]
                for t in range(width):
                    sums[t] += pixels[t]
            for q in range(y.shape[2]):
                left, right = max(0, q * step[1] - corner[1]), min(width, q * step[1] - corner[1] + kernel[1])
                total = sums[left]
                for t in range(left + 1, right):
                    total += sums[t]
                y[n, p, q] = total / x.dtype.type(kernel[0] * kernel[1] if include_pad else (bottom - top) * (right - left))


rung("avg_pool2d", "cpu", step=2, idea=DOWN_THEN_ACROSS)(avg_pool(means))


@rung("avg_pool2d", "cpu", step=3, idea=THREADS)
@avg_pool
def means_threaded(*job: Any) -> None:
    in_threads(means, *job)


@eager(lambda t: (given(t), room(t), *[INT] * 4))
def means_of_planes(x, y, h, w, first, last):
    size, p, q = x.itemsize, h // 2, w // 2
    for n in range(first, last):
        for i in range(p):
            top = address(x) + (n * h + 2 * i) * w * size
            fours.mean(x.dtype.type(0), top, top + w * size, address(y) + (n * p + i) * q * size, q)


@rung("avg_pool2d", "cpu", step=4, serves=True, idea=FOURS)
def means_of_fours(
    x: Any, *, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True, out: Any = None
) -> np.ndarray:
    n, c, h, w = x.shape
    if not are_fours(kernel_size, stride, padding):
        general = means_threaded(x, kernel_size=kernel_size, stride=stride, padding=padding, count_include_pad=count_include_pad)
        return filled(out, general)
    y = result((n, c, h // 2, w // 2), x.dtype, out, x)
    of_fours(means_of_planes[x.dtype.char], h, w, x, y)
    return y


# Its transpose: each pixel of a window gets an equal part of what the window was given.


def spread(run: Run) -> Run:
    """Make `run(gx, gy, kernel, step, corner, include_pad, first, last)`, which adds to zeros, into avg_pool2d_input_grad."""

    @wraps(run)
    def avg_pool2d_input_grad(
        gy: Any, *, input_size: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True
    ) -> np.ndarray:
        gx = np.zeros((*gy.shape[:2], *input_size), gy.dtype)
        kernel, step, corner = window(kernel_size, stride, padding)
        run(planes(gx), planes(gy), kernel, step, corner, bool(count_include_pad), 0, gx.shape[0] * gx.shape[1])
        return gx

    return avg_pool2d_input_grad


@rung("avg_pool2d_input_grad", "cpu", step=1, wants="n c p q", idea=DEFINITION)
@spread
@njit(cache=True, nogil=True)
def parts_by_definition(gx, gy, kernel, step, corner, include_pad, first, last):
    for n in range(first, last):
        for p in range(gy.shape[1]):
            for q in range(gy.shape[2]):
                top, left = p * step[0] - corner[0], q * step[1] - corner[1]
                rows, columns = kernel
                if not include_pad:
                    rows = min(gx.shape[1], top + kernel[0]) - max(0, top)
                    columns = min(gx.shape[2], left + kernel[1]) - max(0, left)
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        if 0 <= top + i < gx.shape[1] and 0 <= left + j < gx.shape[2]:
                            gx[n, top + i, left + j] += gy[n, p, q] / (rows * columns)


@njit(cache=True, nogil=True, error_model="numpy")
def parts(gx, gy, kernel, step, corner, include_pad, first, last):
    height, width = gx.shape[1], gx.shape[2]
    sums = np.empty(width, gx.dtype)
    for n in range(first, last):
        for p in range(gy.shape[1]):
            top, bottom = max(0, p * step[0] - corner[0]), min(height, p * step[0] - corner[0] + kernel[0])
            sums[:] = 0
            for q in range(gy.shape[2]):
                left, right = max(0, q * step[1] - corner[1]), min(width, q * step[1] - corner[1] + kernel[1])
                part = gy[n, p, q] / gy.dtype.type(kernel[0] * kernel[1] if include_pad else (bottom - top) * (right - left))
                for t in range(left, right):
                    sums[t] += part
            for row in range(top, bottom):
                pixels = gx[n, row]
                for t in range(width):
                    pixels[t] += sums[t]


rung("avg_pool2d_input_grad", "cpu", step=2, idea="across first, then down whole rows: h + w additions a window instead of h w")(
    spread(parts)
)


@rung("avg_pool2d_input_grad", "cpu", step=3, idea=THREADS)
@spread
def spread_threaded(*job: Any) -> None:
    in_threads(parts, *job)


@eager(lambda t: (room(t), given(t), *[INT] * 4))
def quarters_of_planes(gx, gy, h, w, first, last):
    size, p, q = gx.itemsize, h // 2, w // 2
    for n in range(first, last):
        for i in range(p):
            top = address(gx) + (n * h + 2 * i) * w * size
            fours.quarters(gy.dtype.type(0), address(gy) + (n * p + i) * q * size, top, top + w * size, q)
        zero_rest(gx, n, h, w)


@rung("avg_pool2d_input_grad", "cpu", step=4, serves=True, idea=FOURS)
def quarters_in_fours(
    gy: Any, *, input_size: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True, out: Any = None
) -> np.ndarray:
    h, w = input_size
    if not are_fours(kernel_size, stride, padding):
        window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "count_include_pad": count_include_pad}
        return filled(out, spread_threaded(gy, input_size=input_size, **window))
    gx = result((*gy.shape[:2], h, w), gy.dtype, out, gy)
    of_fours(quarters_of_planes[gy.dtype.char], h, w, gx, gy)
    return gx
