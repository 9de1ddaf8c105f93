"""Convolution on the CPU, and its two transposes, one idea at a time.

    y[n, o, p, q]  +=  x[n, k, p s + i d - top, q s + j d - left]  *  w[o, k, i, j]

    x  (n, c, h, w)   w (o, c / groups, i, j)   y (n, o, p, q)     float32 or float64, any strides

The three ops run through the same seven loops; they differ in which of the three arrays stands to the left of `+=`:

    conv2d               x, w -> y
    conv2d_input_grad    y, w -> x
    conv2d_weight_grad   x, y -> w

so each rung is three functions, and `forward`, `input_grad` and `weight_grad` make them into ops: arrays in C order, parameters as
pairs (down, across). s and d are strides and dilations, top and left, the `corner`, the padding before the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from numba import njit

from kernels.arrays import result
from kernels.cpu.arrays import dense
from kernels.cpu.threads import share
from kernels.registry import rung
from kernels.windows import count, fits, fits_to_w, fits_to_x, pair, sides

BLOCK_BYTES = 4096  # of a row: four rows of the result are half of a common first-level cache
LANES = 16  # elements that fill a vector: 16 of float32 in AVX-512
LONG_ENOUGH = 128  # elements in a row; pictures with shorter rows are laid side by side
WORTH_A_THREAD = 1_000_000  # flops in a piece, see matmul
PARTS = 16  # at most, into which the examples of a weight gradient are cut: each part has a sum of its own


def forward(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(x, w, y, stride, corner, dilation, groups)`, which writes y, into conv2d."""

    @wraps(run)
    def conv2d(
        x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: np.ndarray | None = None
    ) -> np.ndarray:
        stride, dilation, (rows, columns) = pair(stride), pair(dilation), sides(padding)
        y = result((len(x), len(w), *count(x.shape[2:], w.shape[2:], stride, padding, dilation)), x.dtype, out, x, w)
        run(dense(x), dense(w), y, stride, (rows[0], columns[0]), dilation, groups)
        return y

    return conv2d


def input_grad(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(gx, w, gy, ...)`, which writes gx, into conv2d_input_grad."""

    @wraps(run)
    def conv2d_input_grad(
        gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
        out: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        rows, columns = sides(padding)
        gx = result((len(gy), w.shape[1] * groups, *input_size), gy.dtype, out, gy, w)
        run(gx, dense(w), dense(gy), pair(stride), (rows[0], columns[0]), pair(dilation), groups)
        return gx

    return conv2d_input_grad


def weight_grad(run: Callable[..., Any]) -> Callable[..., Any]:
    """Make `run(x, gw, gy, ...)`, which writes gw, into conv2d_weight_grad."""

    @wraps(run)
    def conv2d_weight_grad(
        x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
        out: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        rows, columns = sides(padding)
        gw = result((gy.shape[1], x.shape[1] // groups, *kernel_size), x.dtype, out, x, gy)
        run(dense(x), gw, dense(gy), pair(stride), (rows[0], columns[0]), pair(dilation), groups)
        return gw

    return conv2d_weight_grad


SEVEN_LOOPS = "the definition: seven loops, and a test whether the window lies inside the picture"


@rung("conv2d", "cpu", step=1, wants="n c h w, o k i j", check=fits, idea=SEVEN_LOOPS)
@forward
@njit(cache=True, nogil=True)
def seven_loops(x, w, y, stride, corner, dilation, groups):
    y[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for p in range(y.shape[2]):
                for q in range(y.shape[3]):
                    for k in range(w.shape[1]):
                        for i in range(w.shape[2]):
                            for j in range(w.shape[3]):
                                row, column = p * stride[0] + i * dilation[0] - corner[0], q * stride[1] + j * dilation[1] - corner[1]
                                if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                                    y[n, o, p, q] += x[n, first + k, row, column] * w[o, k, i, j]


@rung("conv2d_input_grad", "cpu", step=1, wants="n o p q, o k i j", check=fits_to_x, idea=SEVEN_LOOPS)
@input_grad
@njit(cache=True, nogil=True)
def seven_loops_to_x(x, w, y, stride, corner, dilation, groups):
    x[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for p in range(y.shape[2]):
                for q in range(y.shape[3]):
                    for k in range(w.shape[1]):
                        for i in range(w.shape[2]):
                            for j in range(w.shape[3]):
                                row, column = p * stride[0] + i * dilation[0] - corner[0], q * stride[1] + j * dilation[1] - corner[1]
                                if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                                    x[n, first + k, row, column] += y[n, o, p, q] * w[o, k, i, j]


@rung("conv2d_weight_grad", "cpu", step=1, wants="n c h w, n o p q", check=fits_to_w, idea=SEVEN_LOOPS)
@weight_grad
@njit(cache=True, nogil=True)
def seven_loops_to_w(x, w, y, stride, corner, dilation, groups):
    w[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for p in range(y.shape[2]):
                for q in range(y.shape[3]):
                    for k in range(w.shape[1]):
                        for i in range(w.shape[2]):
                            for j in range(w.shape[3]):
                                row, column = p * stride[0] + i * dilation[0] - corner[0], q * stride[1] + j * dilation[1] - corner[1]
                                if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                                    w[o, k, i, j] += x[n, first + k, row, column] * y[n, o, p, q]


ROWS = "windows of one row innermost: memory is walked in order, the weight is loaded once a row, and the test moves out of the loop"


@njit(cache=True, nogil=True, inline="always")
def inside(size, windows, stride, shift):
    """The windows (from, to) along one axis that read at p * stride + shift inside 0 ... size."""
    return min(windows, max(0, -(shift // stride))), min(windows, max(0, -((shift - size) // stride)))


@rung("conv2d", "cpu", step=2, idea=ROWS)
@forward
@njit(cache=True, nogil=True)
def rows_innermost(x, w, y, stride, corner, dilation, groups):
    y[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for k in range(w.shape[1]):
                for i in range(w.shape[2]):
                    down = i * dilation[0] - corner[0]
                    p0, p1 = inside(x.shape[2], y.shape[2], stride[0], down)
                    for j in range(w.shape[3]):
                        across = j * dilation[1] - corner[1]
                        q0, q1 = inside(x.shape[3], y.shape[3], stride[1], across)
                        weight = w[o, k, i, j]
                        for p in range(p0, p1):
                            from_x, to_y = x[n, first + k, p * stride[0] + down], y[n, o, p]
                            for q in range(q0, q1):
                                to_y[q] += from_x[q * stride[1] + across] * weight


@rung("conv2d_input_grad", "cpu", step=2, idea=ROWS)
@input_grad
@njit(cache=True, nogil=True)
def rows_innermost_to_x(x, w, y, stride, corner, dilation, groups):
    x[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for k in range(w.shape[1]):
                for i in range(w.shape[2]):
                    down = i * dilation[0] - corner[0]
                    p0, p1 = inside(x.shape[2], y.shape[2], stride[0], down)
                    for j in range(w.shape[3]):
                        across = j * dilation[1] - corner[1]
                        q0, q1 = inside(x.shape[3], y.shape[3], stride[1], across)
                        weight = w[o, k, i, j]
                        for p in range(p0, p1):
                            to_x, from_y = x[n, first + k, p * stride[0] + down], y[n, o, p]
                            for q in range(q0, q1):
                                to_x[q * stride[1] + across] += from_y[q] * weight


@rung("conv2d_weight_grad", "cpu", step=2, idea=ROWS)
@weight_grad
@njit(cache=True, nogil=True)
def rows_innermost_to_w(x, w, y, stride, corner, dilation, groups):
    w[...] = 0
    for n in range(y.shape[0]):
        for o in range(y.shape[1]):
            first = o // (y.shape[1] // groups) * w.shape[1]
            for k in range(w.shape[1]):
                for i in range(w.shape[2]):
                    down = i * dilation[0] - corner[0]
                    p0, p1 = inside(x.shape[2], y.shape[2], stride[0], down)
                    for j in range(w.shape[3]):
                        across = j * dilation[1] - corner[1]
                        q0, q1 = inside(x.shape[3], y.shape[3], stride[1], across)
                        for p in range(p0, p1):
                            from_x, from_y = x[n, first + k, p * stride[0] + down], y[n, o, p]
                            for q in range(q0, q1):
                                w[o, k, i, j] += from_x[q * stride[1] + across] * from_y[q]


# The third rung: slices of a flat picture. Pad the picture, and write it as one long row, `flat`. What the windows read at kernel
# position (k, i, j) is a slice of it: window (p, q) reads at starts[k, i, j] + p * pitch + q, pitch being the length of a padded
# row. So with y "wide", its rows pitch long as well, the convolution is a matrix product whose right factor has slices for rows:
#
#     wide[o, t] += w[o, kij] * flat[starts[kij] + t]        t = p * pitch + q
#
# and so are its transposes. Nothing is gathered; the slices overlap and stay in cache. The price: what stands between the rows of
# wide means nothing, is dropped from y, and is zeros in a gradient. A stride s > 1 first deals the picture out to s * s smaller ones,
# as cards: picture (a, b) has the rows a, a + s, ... and the columns b, b + s, ...; then all is read with stride 1. Where rows are
# short, `many` pictures are laid side by side: element t of picture m stands at t * many + m.


@njit(cache=True, nogil=True)
def plan(w, y, stride, dilation):
    """Rows and pitch of a padded picture, where the slice of each kernel position starts, and the length of a slice."""
    down, across = (w.shape[2] - 1) * dilation[0], (w.shape[3] - 1) * dilation[1]
    height, pitch = down // stride[0] + y.shape[2], across // stride[1] + y.shape[3]
    starts = np.empty((w.shape[1], w.shape[2], w.shape[3]), np.int64)
    for k in range(w.shape[1]):
        for i in range(w.shape[2]):
            for j in range(w.shape[3]):
                row, a = divmod(i * dilation[0], stride[0])
                column, b = divmod(j * dilation[1], stride[1])
                picture = (k * stride[0] + a) * stride[1] + b
                starts[k, i, j] = (picture * height + row) * pitch + column
    return height, pitch, starts, (y.shape[2] - 1) * pitch + y.shape[3]


@njit(cache=True, nogil=True, inline="always")
def copy(a, step_a, b, step_b, length, back):
    """`length` elements of a to b, or back from b to a."""
    for t in range(length):
        if back:
            a[t * step_a] = b[t * step_b]
        else:
            b[t * step_b] = a[t * step_a]


@njit(cache=True, nogil=True, inline="always")
def deal(x, n, many, first, channels, flat, stride, corner, height, pitch, back):
    """Some channels of some pictures of x into flat; with `back`, flat into x. The padding in flat is left alone."""
    for k in range(channels):
        for a in range(stride[0]):
            for b in range(stride[1]):
                picture = (k * stride[0] + a) * stride[1] + b
                down, across = a - corner[0], b - corner[1]
                r0, r1 = inside(x.shape[2], height, stride[0], down)
                c0, c1 = inside(x.shape[3], pitch, stride[1], across)
                for r in range(r0, r1):
                    at = (picture * height + r) * pitch
                    for m in range(many):
                        pixels = x[n + m, first + k, r * stride[0] + down, c0 * stride[1] + across :]
                        copy(pixels, stride[1], flat[(at + c0) * many + m :], many, c1 - c0, back)


@njit(cache=True, nogil=True, inline="always")
def widen(y, n, many, first, wide, pitch, back):
    """Some filters of some pictures of y into wide; with `back`, wide into y. What lies between the rows is left alone."""
    for o in range(wide.shape[0]):
        for p in range(y.shape[2]):
            for m in range(many):
                copy(y[n + m, first + o, p], 1, wide[o, p * pitch * many + m :], many, y.shape[3], back)


@njit(cache=True, nogil=True, inline="always")
def filled(span, many, y, pitch):
    """The length of a row of wide: it fills vectors up, unless there is nothing between its rows and y itself may be wide."""
    return span * many if pitch == y.shape[3] else span * many + -(span * many) % LANES


@njit(cache=True, nogil=True, inline="always")
def flat_picture(x, n, many, first, channels, stride, corner, height, pitch, beyond):
    """Zeros for `deal` to fill; or x itself, and True, if one picture lies there as it should and nothing beyond it is read."""
    size = channels * stride[0] * stride[1] * height * pitch * many
    here = many == 1 and stride == (1, 1) and corner == (0, 0) and height == x.shape[2] and pitch == x.shape[3] and not beyond
    begin = (n * x.shape[1] + first) * height * pitch
    return (x.ravel()[begin : begin + size] if here else np.zeros(size + LANES, x.dtype)), here


@njit(cache=True, nogil=True, inline="always")
def wide_rows(y, n, many, first, filters, pitch, long):
    """Zeros for `widen` to fill; or y itself, and True, if there is nothing between its rows."""
    here = many == 1 and pitch == y.shape[3]
    begin = (n * y.shape[1] + first) * long
    return (y.ravel()[begin : begin + filters * long] if here else np.zeros(filters * long, y.dtype)).reshape(filters, long), here


@njit(cache=True, nogil=True, fastmath={"contract"}, inline="always")
def add_4_by_4(
    c0, c1, c2, c3, b0, b1, b2, b3,
    a00, a01, a02, a03, a10, a11, a12, a13, a20, a21, a22, a23, a30, a31, a32, a33,
):  # fmt: skip
    """Four rows of b into four rows of c, as in matmul."""
    for j in range(len(c0)):
        x0, x1, x2, x3 = b0[j], b1[j], b2[j], b3[j]
        c0[j] = c0[j] + a00 * x0 + a01 * x1 + a02 * x2 + a03 * x3
        c1[j] = c1[j] + a10 * x0 + a11 * x1 + a12 * x2 + a13 * x3
        c2[j] = c2[j] + a20 * x0 + a21 * x1 + a22 * x2 + a23 * x3
        c3[j] = c3[j] + a30 * x0 + a31 * x1 + a32 * x2 + a33 * x3


@njit(cache=True, nogil=True, fastmath={"contract"})
def add_rows(c, to, step_to, b, at, left, length, a, row, step_i, step_p, tall, deep):
    """Add to `tall` (up to 4) slices of c the matrix a times `deep` slices of b.

    c, b and a are flat. The slices of c start at to[0], to[step_to], ..., those of b at at[0], at[1], ...; of each only
    `length` elements from `left` on. Element (i, p) of the matrix stands at row + i * step_i + p * step_p.
    """
    for p in range(0, deep - 3, 4):
        s0, s1, s2, s3 = at[p] + left, at[p + 1] + left, at[p + 2] + left, at[p + 3] + left
        b0, b1, b2, b3 = b[s0 : s0 + length], b[s1 : s1 + length], b[s2 : s2 + length], b[s3 : s3 + length]
        q0 = row + p * step_p
        if tall == 4:
            t0, t1, t2, t3 = to[0] + left, to[step_to] + left, to[2 * step_to] + left, to[3 * step_to] + left
            q1, q2, q3 = q0 + step_i, q0 + 2 * step_i, q0 + 3 * step_i
            add_4_by_4(
                c[t0 : t0 + length], c[t1 : t1 + length], c[t2 : t2 + length], c[t3 : t3 + length], b0, b1, b2, b3,
                a[q0], a[q0 + step_p], a[q0 + 2 * step_p], a[q0 + 3 * step_p],
                a[q1], a[q1 + step_p], a[q1 + 2 * step_p], a[q1 + 3 * step_p],
                a[q2], a[q2 + step_p], a[q2 + 2 * step_p], a[q2 + 3 * step_p],
                a[q3], a[q3 + step_p], a[q3 + 2 * step_p], a[q3 + 3 * step_p],
            )  # fmt: skip
            continue
        for i in range(tall):
            t, q = to[i * step_to] + left, q0 + i * step_i
            ci, a0, a1, a2, a3 = c[t : t + length], a[q], a[q + step_p], a[q + 2 * step_p], a[q + 3 * step_p]
            for j in range(length):
                ci[j] = ci[j] + a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
    for p in range(deep - deep % 4, deep):
        s0 = at[p] + left
        b0 = b[s0 : s0 + length]
        for i in range(tall):
            t = to[i * step_to] + left
            ci, a0 = c[t : t + length], a[row + i * step_i + p * step_p]
            for j in range(length):
                ci[j] = ci[j] + a0 * b0[j]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, inline="always")
def dots_4_by_4(a0, a1, a2, a3, b0, b1, b2, b3):
    zero = a0.dtype.type(0)
    s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = zero
    for t in range(len(a0)):
        x0, x1, x2, x3 = b0[t], b1[t], b2[t], b3[t]
        s00, s01, s02, s03 = s00 + a0[t] * x0, s01 + a0[t] * x1, s02 + a0[t] * x2, s03 + a0[t] * x3
        s10, s11, s12, s13 = s10 + a1[t] * x0, s11 + a1[t] * x1, s12 + a1[t] * x2, s13 + a1[t] * x3
        s20, s21, s22, s23 = s20 + a2[t] * x0, s21 + a2[t] * x1, s22 + a2[t] * x2, s23 + a2[t] * x3
        s30, s31, s32, s33 = s30 + a3[t] * x0, s31 + a3[t] * x1, s32 + a3[t] * x2, s33 + a3[t] * x3
    return s00, s01, s02, s03, s10, s11, s12, s13, s20, s21, s22, s23, s30, s31, s32, s33


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def add_dots(w, o, wide, i, flat, at):
    """w[o, p] += <row i of wide, slice p of flat> for all p, and so for the next three rows if there are as many."""
    tall, long, deep = min(4, wide.shape[0] - i), wide.shape[1], len(at)
    fours = deep - deep % 4 if tall == 4 else 0
    for p in range(0, fours, 4):
        s0, s1, s2, s3 = at[p], at[p + 1], at[p + 2], at[p + 3]
        sums = dots_4_by_4(
            wide[i], wide[i + 1], wide[i + 2], wide[i + 3],
            flat[s0 : s0 + long], flat[s1 : s1 + long], flat[s2 : s2 + long], flat[s3 : s3 + long],
        )  # fmt: skip
        for r in range(16):
            w[o + r // 4, p + r % 4] += sums[r]
    for p in range(fours, deep):
        for r in range(tall):
            row, slice_, total = wide[i + r], flat[at[p] : at[p] + long], w.dtype.type(0)
            for t in range(long):
                total += row[t] * slice_[t]
            w[o + r, p] += total


@njit(cache=True, nogil=True)
def flat_to_y(x, w, y, stride, corner, dilation, groups, first, last):
    """Pictures first ... last of y."""
    filters, kernel, weights = y.shape[1] // groups, w[0].size, w.ravel()
    height, pitch, starts, span = plan(w, y, stride, dilation)
    block, side_by_side = BLOCK_BYTES // x.itemsize, -(-LONG_ENOUGH // span)
    for n in range(first, last, side_by_side):
        many = min(side_by_side, last - n)
        long, at = filled(span, many, y, pitch), starts.ravel() * many
        to, beyond = np.arange(filters) * long, long > span * many
        for g in range(groups):
            flat, there = flat_picture(x, n, many, g * w.shape[1], w.shape[1], stride, corner, height, pitch, beyond)
            if not there:
                deal(x, n, many, g * w.shape[1], w.shape[1], flat, stride, corner, height, pitch, False)
            wide, whole = wide_rows(y, n, many, g * filters, filters, pitch, long)
            for left in range(0, long, block):
                for o in range(0, filters, 4):
                    row, tall, length = (g * filters + o) * kernel, min(4, filters - o), min(block, long - left)
                    add_rows(wide.ravel(), to[o:], 1, flat, at, left, length, weights, row, kernel, 1, tall, kernel)
            if not whole:
                widen(y, n, many, g * filters, wide, pitch, True)


@njit(cache=True, nogil=True)
def flat_to_x(x, w, y, stride, corner, dilation, groups, first, last):
    """Pictures first ... last of x. The four slices of flat that are added to at once belong to four channels: they do not overlap."""
    filters, kernel, weights = y.shape[1] // groups, w[0].size, w.ravel()
    height, pitch, starts, span = plan(w, y, stride, dilation)
    block, side_by_side = BLOCK_BYTES // x.itemsize, -(-LONG_ENOUGH // span)
    positions = w.shape[2] * w.shape[3]
    for n in range(first, last, side_by_side):
        many = min(side_by_side, last - n)
        long, to = filled(span, many, y, pitch), starts.ravel() * many
        at, beyond = np.arange(filters) * long, long > span * many
        for g in range(groups):
            wide, whole = wide_rows(y, n, many, g * filters, filters, pitch, long)
            if not whole:
                widen(y, n, many, g * filters, wide, pitch, False)
            flat, there = flat_picture(x, n, many, g * w.shape[1], w.shape[1], stride, corner, height, pitch, beyond)
            for left in range(0, long, block):
                for k in range(0, w.shape[1], 4):
                    tall, length = min(4, w.shape[1] - k), min(block, long - left)
                    for i in range(k * positions, (k + 1) * positions):
                        row = g * filters * kernel + i
                        add_rows(flat, to[i:], positions, wide.ravel(), at, left, length, weights, row, positions, kernel, tall, filters)
            if not there:
                deal(x, n, many, g * w.shape[1], w.shape[1], flat, stride, corner, height, pitch, True)


@njit(cache=True, nogil=True)
def flat_to_w(x, w, y, stride, corner, dilation, groups, first, last, part):
    """What pictures first ... last add to w, into w[part]."""
    filters, w = y.shape[1] // groups, w[part]
    height, pitch, starts, span = plan(w, y, stride, dilation)
    side_by_side = -(-LONG_ENOUGH // span)
    sums = w.reshape(w.shape[0], starts.size)
    for n in range(first, last, side_by_side):
        many = min(side_by_side, last - n)
        long, at = filled(span, many, y, pitch), starts.ravel() * many
        for g in range(groups):
            flat, there = flat_picture(x, n, many, g * w.shape[1], w.shape[1], stride, corner, height, pitch, long > span * many)
            if not there:
                deal(x, n, many, g * w.shape[1], w.shape[1], flat, stride, corner, height, pitch, False)
            wide, whole = wide_rows(y, n, many, g * filters, filters, pitch, long)
            if not whole:
                widen(y, n, many, g * filters, wide, pitch, False)
            for o in range(0, filters, 4):
                add_dots(sums, g * filters + o, wide, o, flat, at)


FLAT = "slices of the flat picture, in tiles of 4 by 4 as in matmul; products are fused with sums (contract)"


@rung("conv2d", "cpu", step=3, idea=FLAT)
@forward
def flat_slices(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    y[...] = 0
    flat_to_y(x, w, y, *geometry, 0, len(x))


@rung("conv2d_input_grad", "cpu", step=3, idea=FLAT)
@input_grad
def flat_slices_to_x(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    x[...] = 0
    flat_to_x(x, w, y, *geometry, 0, len(x))


@rung("conv2d_weight_grad", "cpu", step=3, idea=FLAT + "; the sums along a row are reassociated")
@weight_grad
def flat_slices_to_w(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    w[...] = 0
    flat_to_w(x, w[None], y, *geometry, 0, len(x), 0)


def cut(examples: int, w: np.ndarray, y: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges of examples, by sizes alone: about WORTH_A_THREAD flops each, at most `most` of them."""
    work = 2 * y.size * (w.size // max(1, len(w)))
    parts = max(1, min(most, examples, work // WORTH_A_THREAD))
    width = max(1, -(-examples // parts))
    return [(n, min(examples, n + width)) for n in range(0, examples, width)]


THREADS = "give the pictures to threads"


@rung("conv2d", "cpu", step=4, idea=THREADS)
@forward
def threaded(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    y[...] = 0
    share(flat_to_y, [(x, w, y, *geometry, *piece) for piece in cut(len(x), w, y, len(x))])


@rung("conv2d_input_grad", "cpu", step=4, idea=THREADS)
@input_grad
def threaded_to_x(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    x[...] = 0
    share(flat_to_x, [(x, w, y, *geometry, *piece) for piece in cut(len(x), w, y, len(x))])


@rung("conv2d_weight_grad", "cpu", step=4, idea=THREADS + ", each piece to a sum of its own, added up in order")
@weight_grad
def threaded_to_w(x: Any, w: Any, y: Any, *geometry: Any) -> None:
    pieces = cut(len(x), w, y, PARTS)
    parts = np.zeros((len(pieces), *w.shape), w.dtype)
    share(flat_to_w, [(x, parts, y, *geometry, *piece, i) for i, piece in enumerate(pieces)])
    np.add.reduce(parts, axis=0, out=w)
