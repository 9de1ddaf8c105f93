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
from numba import njit

from kernels.cpu.arrays import dense
from kernels.cpu.threads import share
from kernels.cpu.windows import Pair, count, pair, sides
from kernels.registry import rung

WORTH_A_THREAD = 50_000  # pixels in a piece: about 50 microseconds

DEFINITION = "the definition: window by window, pixel by pixel, with a test whether the pixel lies inside the picture"
DOWN_THEN_ACROSS = "down the columns first, whole rows at a time, then across: h + w additions a window instead of h w"
THREADS = "give the planes to threads"

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


@rung("max_pool2d_with_indices", "cpu", step=3, serves=True, idea=THREADS)
@max_pool
def largest_threaded(*job: Any) -> None:
    in_threads(largest_without_branches, *job)


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


@rung("max_pool2d_input_grad", "cpu", step=2, integers=(1,), serves=True, idea=THREADS)
@scatter
def add_threaded(*job: Any) -> None:
    in_threads(add_where_chosen, *job)


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


@rung("avg_pool2d", "cpu", step=3, serves=True, idea=THREADS)
@avg_pool
def means_threaded(*job: Any) -> None:
    in_threads(means, *job)


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


@rung("avg_pool2d_input_grad", "cpu", step=3, serves=True, idea=THREADS)
@spread
def spread_threaded(*job: Any) -> None:
    in_threads(parts, *job)
