"""Convolution on a GPU, and its two transposes, one idea at a time.

    y[n, o, p, q]  +=  x[n, k, p s + i d - top, q s + j d - left]  *  w[o, k, i, j]

    x  (n, c, h, w)   w (o, c / groups, i, j)   y (n, o, p, q)     float32 or float64, any strides

    conv2d               x, w -> y
    conv2d_input_grad    y, w -> x
    conv2d_weight_grad   x, y -> w

Each rung takes every size, stride, padding, dilation and number of groups, and differs from the one above it by its idea and by nothing
else. Docstrings say what was predicted, the table in README.md what the emulator then counted. A sum runs over (k, i, j), over (o, i, j) or
over (n, p, q) in this order, with products fused into sums: but where a sum is cut into parts, the bits of all rungs are the same.

A kernel is the function of a thread. Capitals are sizes, small letters what runs below them, (r, s) a pixel of the picture. From the second
rung on arrays are flat and indices are uint32, `u`; a row that may lie above the picture is int32, `i32`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from kernels.cuda.arrays import ALIGNED, MOST, aligned, dense, result
from kernels.cuda.intrinsics import copy1, copy1_or_zero, load4, store4, wait_for_copies
from kernels.cuda.launch import empty, launch
from kernels.cuda.matmul import DEEP, LARGE, OF_A_PADDED, OF_B, PADDED, TWO_OF_A, TWO_OF_B, add_tiles
from kernels.registry import rung
from kernels.windows import count, fits, fits_to_w, fits_to_x, pair, sides

u, i32 = np.uint32, np.int32
THREADS = 256  # of a block, unless said otherwise


class Geometry(NamedTuple):
    """The sizes of x, w and y, and how windows lie on the picture: strides `down` and `across`, dilations di and dj."""

    N: int
    C: int
    H: int
    W: int
    O: int
    K: int
    I: int
    J: int
    P: int
    Q: int
    down: int
    across: int
    top: int
    left: int
    di: int
    dj: int
    groups: int

    @property
    def filters(self) -> int:
        """Of one group."""
        return self.O // self.groups


Run = Callable[[np.ndarray, np.ndarray, np.ndarray, Geometry], None]


def geometry(x: Any, w: Any, y: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
    """From three shapes and the parameters of the op. Raises ValueError for arrays of 2^32 numbers, which no uint32 counts."""
    if max(map(prod, (x, w, y))) >= 2**32:
        raise ValueError(f"a convolution of {x} by {w} to {y}: one of them has 2^32 numbers or more")
    (top, _), (left, _) = sides(padding)
    return Geometry(*x, *w, *y[2:], *pair(stride), top, left, *pair(dilation), groups)


def forward(
    run: Run, x: Any, w: Any, out: Any, stride: Any, padding: Any, dilation: Any, groups: int, dtype: Any = None
) -> np.ndarray:  # fmt: skip
    """conv2d by `run(x, w, y, geometry)`, which writes y, of the dtype of x or another."""
    shape = (len(x), len(w), *count(x.shape[2:], w.shape[2:], pair(stride), padding, pair(dilation)))
    y = result(shape, x.dtype if dtype is None else dtype, out, x, w)
    if y.size:
        run(dense(x), dense(w), y, geometry(x.shape, w.shape, shape, stride, padding, dilation, groups))
    return y


def to_x(run: Run, gy: Any, w: Any, out: Any, input_size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    """conv2d_input_grad by `run(gx, w, gy, geometry)`, which writes gx."""
    shape = (len(gy), w.shape[1] * groups, *map(int, input_size))
    gx = result(shape, gy.dtype, out, gy, w)
    if gx.size:
        run(gx, dense(w), dense(gy), geometry(shape, w.shape, gy.shape, stride, padding, dilation, groups))
    return gx


def to_w(run: Run, x: Any, gy: Any, out: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    """conv2d_weight_grad by `run(x, gw, gy, geometry)`, which writes gw."""
    shape = (gy.shape[1], x.shape[1] // groups, *map(int, kernel_size))
    gw = result(shape, x.dtype, out, x, gy)
    if gw.size:
        run(dense(x), gw, dense(gy), geometry(x.shape, shape, gy.shape, stride, padding, dilation, groups))
    return gw


def numbers(values: Any, kind: Any = u) -> Any:
    """A tuple, of names or not, as a kernel takes it: of uint32, a negative number wraps around, as sums with it then do."""
    found = [kind(value % 2**32 if kind is u else value) for value in values]
    return values._make(found) if hasattr(values, "_make") else tuple(found)


# The first rung: the definition. Arrays as they are, and the integers of Python.


def window_a_thread(x, w, y, g):
    at = cuda.grid(1)
    if at < y.size:
        n, o, p, q = at // (g.O * g.P * g.Q), at // (g.P * g.Q) % g.O, at // g.Q % g.P, at % g.Q
        first = o // (g.O // g.groups) * g.K
        total = y.dtype.type(0)
        for k in range(g.K):
            for i in range(g.I):
                for j in range(g.J):
                    r, s = p * g.down + i * g.di - g.top, q * g.across + j * g.dj - g.left
                    if 0 <= r < g.H and 0 <= s < g.W:
                        total += x[n, first + k, r, s] * w[o, k, i, j]
        y[n, o, p, q] = total


def pixel_a_thread(x, w, y, g):
    at = cuda.grid(1)
    if at < x.size:
        n, c, r, s = at // (g.C * g.H * g.W), at // (g.H * g.W) % g.C, at // g.W % g.H, at % g.W
        first = c // g.K * (g.O // g.groups)
        total = x.dtype.type(0)
        for o in range(first, first + g.O // g.groups):
            for i in range(g.I):
                for j in range(g.J):
                    p, q = r + g.top - i * g.di, s + g.left - j * g.dj  # of the window, in pixels
                    if p % g.down == 0 and 0 <= p < g.P * g.down and q % g.across == 0 and 0 <= q < g.Q * g.across:
                        total += y[n, o, p // g.down, q // g.across] * w[o, c % g.K, i, j]
        x[n, c, r, s] = total


def weight_a_thread(x, w, y, g):
    at = cuda.grid(1)
    if at < w.size:
        o, k, i, j = at // (g.K * g.I * g.J), at // (g.I * g.J) % g.K, at // g.J % g.I, at % g.J
        first = o // (g.O // g.groups) * g.K
        total = w.dtype.type(0)
        for n in range(g.N):
            for p in range(g.P):
                for q in range(g.Q):
                    r, s = p * g.down + i * g.di - g.top, q * g.across + j * g.dj - g.left
                    if 0 <= r < g.H and 0 <= s < g.W:
                        total += y[n, o, p, q] * x[n, first + k, r, s]
        w[o, k, i, j] = total


def by_definition(kernel: Any, writes: int) -> Run:
    """A thread for each number of the array that is written, the first, second or third."""

    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
        written = (x, w, y)[writes]
        launch(kernel, (-(-written.size // THREADS),), (THREADS,), x, w, y, numbers(g, np.int64), writes=[written])

    return run


A_SUM = "the definition: one sum a thread, and a test at each product whether the window lies inside the picture"


@rung("conv2d", "cuda", step=1, wants="n c h w, o k i j", check=fits, idea=A_SUM)
def windows(x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None) -> np.ndarray:
    """Predicted: lanes read x side by side, with stride 1, and one weight together; the indices of 64 bits are most of the work."""
    return forward(by_definition(window_a_thread, 2), x, w, out, stride, padding, dilation, groups)


@rung("conv2d_input_grad", "cuda", step=1, wants="n o p q, o k i j", check=fits_to_x, idea=A_SUM)
def pixels(
    gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: with stride s, s s - 1 of s s tests fail; and a division at each, for what the compiler does not know is not a shift."""
    return to_x(by_definition(pixel_a_thread, 0), gy, w, out, input_size, stride, padding, dilation, groups)


@rung("conv2d_weight_grad", "cuda", step=1, wants="n c h w, n o p q", check=fits_to_w, idea=A_SUM)
def weights(
    x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: neighbouring lanes read the same rows of x; there are far fewer weights than threads that a device wants."""
    return to_w(by_definition(weight_a_thread, 1), x, gy, out, kernel_size, stride, padding, dilation, groups)


# The second rung: what can be known before the loops is: where the picture begins and ends for a window, which windows see a pixel.


@cuda.jit(device=True, inline="always")
def inside(start, step, size, most):
    """The first, and the last plus one, of `most` places start, start + step, ... that lie in 0..size - 1."""
    first = u(0) if i32(start) >= i32(0) else min(u(u(u(0) - start + step - u(1)) // step), most)
    last = min(u(u(size - start + step - u(1)) // step), most) if i32(start) < i32(size) else u(0)
    return first, max(first, last)


@cuda.jit(device=True, inline="always")
def meeting(pixel, dilation, stride, step, move, most, windows):
    """Which of `most` weights a pixel meets, and in which of the windows: the first of each, and how many.

    Weight i meets it in window (pixel - i dilation) / stride, if this is whole: each `step`-th weight does, each in a window `move` before.
    """
    rest, turn = pixel % stride, dilation % stride
    i = u(0)
    while rest != u(0) and i < step:
        rest, i = u(rest - turn) if rest >= turn else u(rest + stride - turn), u(i + u(1))
    if rest != u(0) or u(i * dilation) > pixel:
        return u(0), u(0), u(0)
    window = u(u(pixel - i * dilation) // stride)
    skipped = u(0) if window < windows else u(u(window - windows) // move + u(1))
    i = u(i + skipped * step)
    if u(skipped * move) > window or i >= most:
        return u(0), u(0), u(0)
    window = u(window - skipped * move)
    return i, window, min(u(window // move + u(1)), u(u(most - i + step - u(1)) // step))


def window_hoisted(x, w, y, g):
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if at < y.size:
        q, p, o, n = at % g.Q, u(at // g.Q) % g.P, u(at // u(g.P * g.Q)) % g.O, u(at // u(g.O * g.P * g.Q))
        r, s = u(p * g.down - g.top), u(q * g.across - g.left)
        first_i, last_i = inside(r, g.di, g.H, g.I)
        first_j, last_j = inside(s, g.dj, g.W, g.J)
        from_x = u((n * g.C + o // u(g.O // g.groups) * g.K) * g.H * g.W + (r + first_i * g.di) * g.W + s + first_j * g.dj)
        from_w = u(o * g.K * g.I * g.J + first_i * g.J + first_j)
        total = y.dtype.type(0)
        k = u(0)
        while k < g.K:
            row_x, row_w, i = from_x, from_w, first_i
            while i < last_i:
                at_x, at_w, end = row_x, row_w, u(row_w + last_j - first_j)
                while at_w < end:
                    total += x[at_x] * w[at_w]
                    at_x, at_w = u(at_x + g.dj), u(at_w + u(1))
                row_x, row_w, i = u(row_x + g.di * g.W), u(row_w + g.J), u(i + u(1))
            from_x, from_w, k = u(from_x + g.H * g.W), u(from_w + g.I * g.J), u(k + u(1))
        y[at] = total


def pixel_hoisted(x, w, y, g, step_i, move_p, step_j, move_q):
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if at < x.size:
        s, r, c, n = at % g.W, u(at // g.W) % g.H, u(at // u(g.H * g.W)) % g.C, u(at // u(g.C * g.H * g.W))
        i, p, rows = meeting(u(r + g.top), g.di, g.down, step_i, move_p, g.I, g.P)
        j, q, columns = meeting(u(s + g.left), g.dj, g.across, step_j, move_q, g.J, g.Q)
        first = u(c // g.K * u(g.O // g.groups))
        from_y = u(((n * g.O + first) * g.P + p) * g.Q + q)
        from_w = u(((first * g.K + c % g.K) * g.I + i) * g.J + j)
        total = x.dtype.type(0)
        o = u(0)
        while o < u(g.O // g.groups):
            row_y, row_w, a = from_y, from_w, u(0)
            while a < rows:
                at_y, at_w, b = row_y, row_w, u(0)
                while b < columns:
                    total += y[at_y] * w[at_w]
                    at_y, at_w, b = u(at_y - move_q), u(at_w + step_j), u(b + u(1))
                row_y, row_w, a = u(row_y - move_p * g.Q), u(row_w + step_i * g.J), u(a + u(1))
            from_y, from_w, o = u(from_y + g.P * g.Q), u(from_w + g.K * g.I * g.J), u(o + u(1))
        x[at] = total


def weight_hoisted(x, w, y, g):
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    if at < w.size:
        j, i, k, o = at % g.J, u(at // g.J) % g.I, u(at // u(g.I * g.J)) % g.K, u(at // u(g.K * g.I * g.J))
        r, s = u(i * g.di - g.top), u(j * g.dj - g.left)
        first_p, last_p = inside(r, g.down, g.H, g.P)
        first_q, last_q = inside(s, g.across, g.W, g.Q)
        from_x = u((o // u(g.O // g.groups) * g.K + k) * g.H * g.W + (r + first_p * g.down) * g.W + s + first_q * g.across)
        from_y = u((o * g.P + first_p) * g.Q + first_q)
        total = w.dtype.type(0)
        n = u(0)
        while n < g.N:
            row_x, row_y, p = from_x, from_y, first_p
            while p < last_p:
                at_x, at_y, end = row_x, row_y, u(row_y + last_q - first_q)
                while at_y < end:
                    total += y[at_y] * x[at_x]
                    at_x, at_y = u(at_x + g.across), u(at_y + u(1))
                row_x, row_y, p = u(row_x + g.down * g.W), u(row_y + g.Q), u(p + u(1))
            from_x, from_y, n = u(from_x + g.C * g.H * g.W), u(from_y + g.O * g.P * g.Q), u(n + u(1))
        w[at] = total


def moves(stride: int, dilation: int) -> tuple[int, int]:
    """Of the weights that a pixel meets: from one to the next, and how many windows lie between where it does."""
    return stride // gcd(stride, dilation), dilation // gcd(stride, dilation)


def hoisted(kernel: Any, writes: int) -> Run:
    def run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
        flat = [a.reshape(-1) for a in (x, w, y)]
        steps = numbers((*moves(g.down, g.di), *moves(g.across, g.dj))) if kernel is pixel_hoisted else ()
        launch(kernel, (-(-flat[writes].size // THREADS),), (THREADS,), *flat, numbers(g), *steps, writes=[flat[writes]])

    return run


HOISTED = "flat arrays and uint32 indices; the bounds of loops are known before them, so that no test and no division is within"


@rung("conv2d", "cuda", step=2, idea=HOISTED)
def hoisted_windows(
    x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: a product is two loads, one fused product, two sums and a test: a fifth of the instructions, the same requests."""
    return forward(hoisted(window_hoisted, 2), x, w, out, stride, padding, dilation, groups)


@rung("conv2d_input_grad", "cuda", step=2, idea=HOISTED)
def hoisted_pixels(
    gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: as of conv2d, and with a stride only the windows that see the pixel are visited; lanes beside one another part there."""
    return to_x(hoisted(pixel_hoisted, 0), gy, w, out, input_size, stride, padding, dilation, groups)


@rung("conv2d_weight_grad", "cuda", step=2, idea=HOISTED)
def hoisted_weights(
    x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: a fifth of the instructions; lanes of other i and j have other bounds, and part where they end."""
    return to_w(hoisted(weight_hoisted, 1), x, gy, out, kernel_size, stride, padding, dilation, groups)


# The third rung: shared memory holds what a tile of windows sees: the tile and its halo.

LANES, ROWS = 32, 8  # windows of a tile, or pixels
FEW_ROWS = 4  # of windows in a tile of the gradient to weights, where each of many filters has one


@cuda.jit(device=True, inline="always")
def fetch(tile, source, start, top, left, height, width, tall, wide, lane, row, rows):
    """A rectangle of the plane at `start`: from row `top` and column `left` on, zeros where the plane is not. `rows` warps do it."""
    r = row
    while r < tall:
        s = lane
        while s < wide:
            a, b = u(top + r), u(left + s)
            tile[u(r * wide + s)] = source[u(start + a * width + b)] if a < height and b < width else tile.dtype.type(0)
            s = u(s + u(LANES))
        r = u(r + rows)


def window_halo(x, w, y, g, tiles_across, tall, wide):
    tile = cuda.shared.array(0, x.dtype)
    lane, row = u(cuda.threadIdx.x), u(cuda.threadIdx.y)
    p0, q0 = u(u(cuda.blockIdx.x) // tiles_across * u(ROWS)), u(u(cuda.blockIdx.x) % tiles_across * u(LANES))
    p, q = u(p0 + row), u(q0 + lane)
    plane = u(cuda.blockIdx.y)
    while plane < u(g.N * g.O):
        n, o = plane // g.O, plane % g.O
        from_x = u((n * g.C + o // u(g.O // g.groups) * g.K) * g.H * g.W)
        at_w = u(o * g.K * g.I * g.J)
        total = y.dtype.type(0)
        k = u(0)
        while k < g.K:
            fetch(tile, x, from_x, u(p0 * g.down - g.top), u(q0 * g.across - g.left), g.H, g.W, tall, wide, lane, row, u(ROWS))
            cuda.syncthreads()
            from_tile, i = u(row * g.down * wide + lane * g.across), u(0)
            while i < g.I:
                at, j = from_tile, u(0)
                while j < g.J:
                    total += tile[at] * w[at_w]
                    at, at_w, j = u(at + g.dj), u(at_w + u(1)), u(j + u(1))
                from_tile, i = u(from_tile + g.di * wide), u(i + u(1))
            cuda.syncthreads()
            from_x, k = u(from_x + g.H * g.W), u(k + u(1))
        if p < g.P and q < g.Q:
            y[u((plane * g.P + p) * g.Q + q)] = total
        plane = u(plane + u(cuda.gridDim.y))


@cuda.jit(device=True, inline="always")
def first_window(pixel, reach, stride):
    """The first window that sees `pixel`, if windows reach so far: (pixel - reach) / stride rounded up; it may lie before the first."""
    return u(u(pixel - reach + stride - u(1)) // stride) if pixel >= reach else u(u(0) - u(reach - pixel) // stride)


def pixel_halo(x, w, y, g, tiles_across, tall, wide, step_i, move_p, step_j, move_q):
    tile = cuda.shared.array(0, x.dtype)
    lane, row = u(cuda.threadIdx.x), u(cuda.threadIdx.y)
    r0, s0 = u(u(cuda.blockIdx.x) // tiles_across * u(ROWS)), u(u(cuda.blockIdx.x) % tiles_across * u(LANES))
    r, s = u(r0 + row), u(s0 + lane)
    p0, q0 = first_window(u(r0 + g.top), u((g.I - u(1)) * g.di), g.down), first_window(u(s0 + g.left), u((g.J - u(1)) * g.dj), g.across)
    i0, p, rows = meeting(u(r + g.top - p0 * g.down), g.di, g.down, step_i, move_p, g.I, tall)
    j0, q, columns = meeting(u(s + g.left - q0 * g.across), g.dj, g.across, step_j, move_q, g.J, wide)
    plane = u(cuda.blockIdx.y)
    while plane < u(g.N * g.C):
        n, c = plane // g.C, plane % g.C
        first = u(c // g.K * u(g.O // g.groups))
        from_w = u(((first * g.K + c % g.K) * g.I + i0) * g.J + j0)
        from_y = u((n * g.O + first) * g.P * g.Q)
        total = x.dtype.type(0)
        o = u(0)
        while o < u(g.O // g.groups):
            fetch(tile, y, from_y, p0, q0, g.P, g.Q, tall, wide, lane, row, u(ROWS))
            cuda.syncthreads()
            from_tile, row_w, a = u(p * wide + q), from_w, u(0)
            while a < rows:
                at, at_w, b = from_tile, row_w, u(0)
                while b < columns:
                    total += tile[at] * w[at_w]
                    at, at_w, b = u(at - move_q), u(at_w + step_j), u(b + u(1))
                from_tile, row_w, a = u(from_tile - move_p * wide), u(row_w + step_i * g.J), u(a + u(1))
            cuda.syncthreads()
            from_y, from_w, o = u(from_y + g.P * g.Q), u(from_w + g.K * g.I * g.J), u(o + u(1))
        if r < g.H and s < g.W:
            x[u((plane * g.H + r) * g.W + s)] = total
        plane = u(plane + u(cuda.gridDim.y))


def weight_halo(x, w, y, g, filters, chunks, tall, wide):
    room = cuda.shared.array(0, x.dtype)
    tile, ours = room[: u(tall * wide)], room[u(tall * wide) :]
    t, warps = u(cuda.threadIdx.x), u(cuda.blockDim.x) // u(LANES)
    lane, row = t % u(LANES), t // u(LANES)
    k, chunk, group = u(cuda.blockIdx.x) % g.K, u(u(cuda.blockIdx.x) // g.K) % chunks, u(u(cuda.blockIdx.x) // u(g.K * chunks))
    first = u(chunk * filters)
    here = min(filters, u(u(g.O // g.groups) - first))  # of the filters of this chunk, which begins at `first` of its group
    f, j, i = u(t // u(g.I * g.J)), t % g.J, u(t // g.J) % g.I
    o = u(group * u(g.O // g.groups) + first)
    total = w.dtype.type(0)
    n = u(0)
    while n < g.N:
        p0 = u(0)
        while p0 < g.P:
            q0 = u(0)
            while q0 < g.Q:
                from_x = u((n * g.C + group * g.K + k) * g.H * g.W)
                fetch(tile, x, from_x, u(p0 * g.down - g.top), u(q0 * g.across - g.left), g.H, g.W, tall, wide, lane, row, warps)
                z = u(0)
                while z < here:
                    of_filter = ours[u(z * u(FEW_ROWS * LANES)) :]
                    fetch(of_filter, y, u((n * g.O + o + z) * g.P * g.Q), p0, q0, g.P, g.Q, u(FEW_ROWS), u(LANES), lane, row, warps)
                    z = u(z + u(1))
                cuda.syncthreads()
                if f < here:
                    p, last_p, last_q = u(0), min(u(FEW_ROWS), u(g.P - p0)), min(u(LANES), u(g.Q - q0))
                    while p < last_p:
                        at, at_y = u((p * g.down + i * g.di) * wide + j * g.dj), u((f * u(FEW_ROWS) + p) * u(LANES))
                        end = u(at_y + last_q)
                        while at_y < end:
                            total += ours[at_y] * tile[at]
                            at, at_y = u(at + g.across), u(at_y + u(1))
                        p = u(p + u(1))
                cuda.syncthreads()
                q0 = u(q0 + u(LANES))
            p0 = u(p0 + u(FEW_ROWS))
        n = u(n + u(1))
    if f < here:
        w[u((((o + f) * g.K + k) * g.I + i) * g.J + j)] = total


SHARED = 48 * 1024  # bytes that a block has without asking for more


def halo_windows_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    tall, wide = (ROWS - 1) * g.down + (g.I - 1) * g.di + 1, (LANES - 1) * g.across + (g.J - 1) * g.dj + 1
    in_planes(window_halo, hoisted(window_hoisted, 2), (x, w, y), 2, g, tall, wide)


def halo_pixels_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    tall, wide = (ROWS - 1 + (g.I - 1) * g.di) // g.down + 1, (LANES - 1 + (g.J - 1) * g.dj) // g.across + 1
    in_planes(pixel_halo, hoisted(pixel_hoisted, 0), (x, w, y), 0, g, tall, wide, *moves(g.down, g.di), *moves(g.across, g.dj))


def in_planes(kernel: Any, above: Run, arrays: tuple[np.ndarray, ...], writes: int, g: Geometry, tall: int, wide: int, *steps: int) -> None:
    """Blocks of LANES by ROWS over each plane that is written; by the rung `above` if what a tile sees does not fit into shared memory."""
    written = arrays[writes]
    size = tall * wide * written.itemsize
    if size > SHARED:
        above(*arrays, g)
        return
    flat = [a.reshape(-1) for a in arrays]
    height, width = written.shape[2:]
    tiles_across = -(-width // LANES)
    grid = -(-height // ROWS) * tiles_across, min(written.shape[0] * written.shape[1], MOST)
    launch(kernel, grid, (LANES, ROWS), *flat, numbers(g), *numbers((tiles_across, tall, wide, *steps)), writes=[flat[writes]], shared=size)


def halo_weights_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    tall, wide = (FEW_ROWS - 1) * g.down + (g.I - 1) * g.di + 1, (LANES - 1) * g.across + (g.J - 1) * g.dj + 1
    room = SHARED // w.itemsize - tall * wide
    filters = min(g.filters, THREADS // (g.I * g.J), room // (FEW_ROWS * LANES))
    if filters < 1:
        hoisted(weight_hoisted, 1)(x, w, y, g)
        return
    flat = [a.reshape(-1) for a in (x, w, y)]
    chunks = -(-g.filters // filters)
    threads = -(-filters * g.I * g.J // LANES) * LANES
    shared = (tall * wide + filters * FEW_ROWS * LANES) * w.itemsize
    more = numbers((filters, chunks, tall, wide))
    launch(weight_halo, (g.groups * chunks * g.K,), (threads,), *flat, numbers(g), *more, writes=[flat[1]], shared=shared)


HALO = "shared memory holds what a tile of windows sees of a channel, its halo too; what does not fit goes by the rung above"


@rung("conv2d", "cuda", step=3, idea=HALO)
def halo_windows(x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None) -> np.ndarray:
    """Predicted: a pixel is loaded once a tile, not i j times: for 3 by 3, 1.33 loads a window instead of 9; a weight still each time."""
    return forward(halo_windows_run, x, w, out, stride, padding, dilation, groups)


@rung("conv2d_input_grad", "cuda", step=3, idea=HALO)
def halo_pixels(
    gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: as of conv2d. With a stride, neighbours want the same number of gy with other weights."""
    return to_x(halo_pixels_run, gy, w, out, input_size, stride, padding, dilation, groups)


@rung("conv2d_weight_grad", "cuda", step=3, idea=HALO + "; the sum goes tile by tile")
def halo_weights(
    x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: all i j weights of some filters share a tile, so memory is read that much less; two loads of shared memory a product."""
    return to_w(halo_weights_run, x, gy, out, kernel_size, stride, padding, dilation, groups)


# The fourth rung: each of the three is a product of matrices, c = a b, of which b is nowhere: its numbers are found in a picture.
#
#                        row of c    column of c    summed over
#   conv2d               o           n p q          k i j         a = w, b = x
#   conv2d_input_grad    k           n r s          o i j         a = w, b = y; a product for each place of a pixel between two windows
#   conv2d_weight_grad   o           k i j          n p q         a = y, b = x
#
# A column is three numbers, z r s, found by division once a thread. What is summed over is looked up in a table, `places`: where it is in a
# row of a; how far from the start of a column in b; how many rows below it and columns to the right, for the test whether that is inside
# the picture. Tiles, and the loop that multiplies them, are those of matmul.


class Product(NamedTuple):
    """What such a product is told. From one of a kind to the next in a, b or c it is a_kind, b_kind, c_kind numbers."""

    rows: int
    columns: int
    depth: int  # of what is summed over in a part
    whole: int  # in all parts
    groups: int
    R: int
    S: int
    a_row: int
    a_start: int
    a_group: int
    a_part: int
    b_z: int
    b_r: int
    b_s: int
    b_start: int
    b_group: int
    b_part: int
    height: int  # of a picture in b
    width: int
    down: int  # from one r to the next
    top: int
    across: int
    left: int
    c_row: int
    c_z: int
    c_r: int
    c_s: int
    c_start: int
    c_group: int
    c_part: int
    in_fours: int  # four columns are neighbours in c, at 16 bytes
    first_sum: int = 0  # where in a what sums start from is, of whole numbers


def implicit_by(add_tiles, shifted):
    """A kernel: a thread makes 8 by 8 sums of c = a b by `add_tiles`, and finds what it fetches of b by `places`.

    shifted   for whole numbers: outside of a picture stands the last number of b, not 0; and a sum starts from one of the numbers that
              stand behind those of a, one for each row
    """

    @cuda.jit(device=True, inline="always")
    def look_up(a, b, tile_a, tile_b, places, p, depth, a_at, b_at, row, column, height, width, t):
        """Tiles from p on, in the background. A thread fetches four numbers of each, those of b in one column; beyond `depth` are zeros."""
        buffer, a_p = u(p // u(DEEP)) & u(1), u(t % u(8))
        of_a, _, _, _ = load4(places, u((p + a_p) * u(4)))
        for e in range(4):
            to = u(buffer * u(OF_A_PADDED) + a_p * u(PADDED) + t // u(8) + u(e) * u(32))
            copy1_or_zero(tile_a, to, a, u(a_at[e] + of_a), u(p + a_p) < depth)
        for e in range(4):
            b_p = u(t // u(LARGE) + u(e) * u(2))
            _, of_b, rows, columns = load4(places, u((p + b_p) * u(4)))
            there = (u(p + b_p) < depth) & (u(row + rows) < height) & (u(column + columns) < width)  # not `and`: no branch
            to, at = u(buffer * u(OF_B) + b_p * u(LARGE) + t % u(LARGE)), u(b_at + of_b)
            if shifted:
                copy1(tile_b, to, b, at if there else u(b.size - 1))
            else:
                copy1_or_zero(tile_b, to, b, at, there)

    def kernel(a, b, c, places, told):
        (
            rows, columns, depth, whole, groups, R, S, a_row, a_start, a_group, a_part, b_z, b_r, b_s, b_start, b_group, b_part,
            height, width, down, top, across, left, c_row, c_z, c_r, c_s, c_start, c_group, c_part, in_fours, first_sum,
        ) = told  # fmt: skip
        t, group, part = u(cuda.threadIdx.x), u(cuda.blockIdx.z) % groups, u(cuda.blockIdx.z) // groups
        first_i, first_j = u(u(cuda.blockIdx.y) * u(LARGE)), u(u(cuda.blockIdx.x) * u(LARGE))
        depth = min(depth, u(whole - part * depth))
        tile_a = cuda.shared.array(TWO_OF_A, a.dtype, alignment=16)
        tile_b = cuda.shared.array(TWO_OF_B, b.dtype, alignment=16)
        x, y, total = cuda.local.array(8, a.dtype), cuda.local.array(8, b.dtype), cuda.local.array((8, 8), c.dtype)
        warp, lane = t // u(32), t % u(32)
        first_row, first_column = u(warp // u(2) * u(32) + lane // u(8) * u(4)), u(warp % u(2) * u(64) + lane % u(8) * u(4))
        for f in range(8):
            i = u(first_i + first_row + u(f % 4) + u(f // 4) * u(16))
            start = a[u(first_sum + group * rows + min(i, u(rows - u(1))))] if shifted else c.dtype.type(0)
            for e in range(8):
                total[f, e] = start
        a_at = cuda.local.array(4, np.uint32)
        for e in range(4):
            i = min(u(first_i + t // u(8) + u(e) * u(32)), u(rows - u(1)))  # rows and columns beyond the edge are fetched from inside of it
            a_at[e] = u(a_start + group * a_group + part * a_part + i * a_row)
        j = min(u(first_j + t % u(LARGE)), u(columns - u(1)))
        s, r, z = j % S, u(j // S) % R, u(j // u(R * S))
        b_at = u(b_start + group * b_group + part * b_part + z * b_z + r * b_r + s * b_s)
        above, before = u(r * down - top), u(s * across - left)
        p = u(0)
        if p < depth:
            look_up(a, b, tile_a, tile_b, places, p, depth, a_at, b_at, above, before, height, width, t)
        while p < depth:
            wait_for_copies()
            cuda.syncthreads()
            buffer = u(p // u(DEEP)) & u(1)
            p = u(p + u(DEEP))
            if p < depth:
                look_up(a, b, tile_a, tile_b, places, p, depth, a_at, b_at, above, before, height, width, t)
            from_a, from_b = u(buffer * u(OF_A_PADDED) + first_row), u(buffer * u(OF_B) + first_column)
            add_tiles(tile_a, tile_b, from_a, from_b, u(from_a + u(OF_A_PADDED)), x, y, total, u(16), u(32))
        first_i, first_j = u(first_i + first_row), u(first_j + first_column)
        c_at = u(c_start + group * c_group + part * c_part)
        for side in range(2):
            j = u(first_j + u(side) * u(32))
            s, r, z = j % S, u(j // S) % R, u(j // u(R * S))
            for e in range(4):
                at = u(c_at + z * c_z + r * c_r + s * c_s)
                for f in range(8):
                    i = u(first_i + u(f % 4) + u(f // 4) * u(16))
                    if i < rows and u(j + u(e)) < columns:
                        if in_fours == u(0):
                            c[u(at + i * c_row)] = total[f, side * 4 + e]
                        elif e == 0:
                            four = total[f, side * 4], total[f, side * 4 + 1], total[f, side * 4 + 2], total[f, side * 4 + 3]
                            store4(c, u(at + i * c_row), four)
                s = u(s + u(1))
                if s == S:
                    s, r = u(0), u(r + u(1))
                    if r == R:
                        r, z = u(0), u(z + u(1))

    return kernel


implicit = implicit_by(add_tiles, shifted=False)


def multiply(kernel: Any, a: Any, b: Any, c: Any, places: np.ndarray, product: Product, parts: int = 1) -> None:
    """c = a b, in which `places` finds the numbers of b; flat arrays. c has a plane for each part."""
    in_fours = product.in_fours and address(c) % ALIGNED == 0
    blocks = -(-product.columns // LARGE), -(-product.rows // LARGE)
    for first in range(0, product.groups, MOST // parts):
        groups = min(MOST // parts, product.groups - first)
        starts = {f"{x}_start": getattr(product, f"{x}_start") + first * getattr(product, f"{x}_group") for x in "abc"}
        told = product._replace(groups=groups, in_fours=in_fours, first_sum=product.first_sum + first * product.rows, **starts)
        launch(kernel, (*blocks, groups * parts), (THREADS,), a, b, c, places, numbers(told), writes=[c])


def address(x: Any) -> int:
    """Of an array of the host's or of a device's."""
    about = x.__array_interface__ if isinstance(x, np.ndarray) else x.__cuda_array_interface__
    return int(about["data"][0])


def table(of_a: Any, of_b: Any, rows: Any, columns: Any) -> np.ndarray:
    """The four numbers of each place, flat, and as many more as the last tile asks for."""
    found = np.broadcast_arrays(of_a, of_b, rows, columns)
    places = aligned((-(-found[0].size // DEEP) * DEEP, 4), np.uint32)
    places[...] = 0
    for column, numbers in enumerate(found):
        places[: numbers.size, column] = numbers.reshape(-1) % 2**32
    return places.reshape(-1)


def axes(*sizes: int) -> list[np.ndarray]:
    """0, 1, 2, ... along each of so many axes."""
    return list(np.ogrid[tuple(slice(size) for size in sizes)])


@lru_cache(maxsize=64)
def places_of_windows(g: Geometry) -> np.ndarray:
    k, i, j = axes(g.K, g.I, g.J)
    return table((k * g.I + i) * g.J + j, (k * g.H + i * g.di) * g.W + j * g.dj, i * g.di, j * g.dj)


def product_of_windows(g: Geometry) -> Product:
    depth, windows = g.K * g.I * g.J, g.P * g.Q
    return Product(
        rows=g.filters, columns=g.N * windows, depth=depth, whole=depth, groups=g.groups, R=g.P, S=g.Q,
        a_row=depth, a_start=0, a_group=g.filters * depth, a_part=0,
        b_z=g.C * g.H * g.W, b_r=g.down * g.W, b_s=g.across, b_start=-g.top * g.W - g.left, b_group=g.K * g.H * g.W, b_part=0,
        height=g.H, width=g.W, down=g.down, top=g.top, across=g.across, left=g.left,
        c_row=windows, c_z=g.O * windows, c_r=g.Q, c_s=1, c_start=0, c_group=g.filters * windows, c_part=0, in_fours=windows % 4 == 0,
    )  # fmt: skip


def implicit_windows_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    multiply(implicit, w.reshape(-1), x.reshape(-1), y.reshape(-1), places_of_windows(g), product_of_windows(g))


def met(first: int, corner: int, stride: int, dilation: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The weights that pixels first, first + stride, ... meet, and in how many windows after the pixel's own number: `meeting` for all."""
    weights = np.arange(most)
    shifts = first + corner - weights * dilation
    return weights[shifts % stride == 0], shifts[shifts % stride == 0] // stride


@lru_cache(maxsize=64)
def places_of_pixels(g: Geometry, r: int, s: int) -> np.ndarray:
    i, down = met(r, g.top, g.down, g.di, g.I)
    j, across = met(s, g.left, g.across, g.dj, g.J)
    o, i, down = np.arange(g.filters)[:, None, None], i[:, None], down[:, None]
    return table((o * g.K * g.I + i) * g.J + j, (o * g.P + down) * g.Q + across, down, across)


def implicit_pixels_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    weights, windows, picture = g.I * g.J, g.P * g.Q, g.H * g.W
    for r in range(min(g.down, g.H)):
        for s in range(min(g.across, g.W)):
            R, S = -(-(g.H - r) // g.down), -(-(g.W - s) // g.across)
            depth = g.filters * len(met(r, g.top, g.down, g.di, g.I)[0]) * len(met(s, g.left, g.across, g.dj, g.J)[0])
            product = Product(
                rows=g.K, columns=g.N * R * S, depth=depth, whole=depth, groups=g.groups, R=R, S=S,
                a_row=weights, a_start=0, a_group=g.filters * g.K * weights, a_part=0,
                b_z=g.O * windows, b_r=g.Q, b_s=1, b_start=0, b_group=g.filters * windows, b_part=0,
                height=g.P, width=g.Q, down=1, top=0, across=1, left=0,
                c_row=picture, c_z=g.C * picture, c_r=g.down * g.W, c_s=g.across, c_start=r * g.W + s, c_group=g.K * picture, c_part=0,
                in_fours=g.down == g.across == 1 and picture % 4 == 0,
            )  # fmt: skip
            multiply(implicit, w.reshape(-1), y.reshape(-1), x.reshape(-1), places_of_pixels(g, r, s), product)


def implicit_weights_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    product_of_weights(x, w.reshape(-1), y, g, g.N, 1)


@lru_cache(maxsize=64)
def places_of_weights(g: Geometry, pictures: int) -> np.ndarray:
    n, p, q = axes(pictures, g.P, g.Q)
    down, across = p * g.down - g.top, q * g.across - g.left
    return table((n * g.O * g.P + p) * g.Q + q, (n * g.C * g.H + down) * g.W + across, down, across)


def product_of_weights(x: np.ndarray, sums: Any, y: np.ndarray, g: Geometry, pictures: int, parts: int) -> None:
    """The gradient of the weights from so many pictures at a time, each part to a sum of its own."""
    weights, windows, picture = g.K * g.I * g.J, g.P * g.Q, g.H * g.W
    product = Product(
        rows=g.filters, columns=weights, depth=pictures * windows, whole=g.N * windows, groups=g.groups, R=g.I, S=g.J,
        a_row=windows, a_start=0, a_group=g.filters * windows, a_part=pictures * g.O * windows,
        b_z=picture, b_r=g.di * g.W, b_s=g.dj, b_start=0, b_group=g.K * picture, b_part=pictures * g.C * picture,
        height=g.H, width=g.W, down=g.di, top=0, across=g.dj, left=0,
        c_row=weights, c_z=g.I * g.J, c_r=g.J, c_s=1, c_start=0, c_group=g.filters * weights, c_part=g.O * weights,
        in_fours=weights % 4 == 0,
    )  # fmt: skip
    multiply(implicit, y.reshape(-1), x.reshape(-1), sums, places_of_weights(g, pictures), product, parts)


IMPLICIT = "a product of matrices by matmul's tiles, in which a table of offsets finds the numbers of the picture: no division in the loop"


@rung("conv2d", "cuda", step=4, idea=IMPLICIT)
def implicit_windows(
    x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: 8 by 8 sums a thread from registers, a quarter of a load a product; a number fetched, for 64 products, costs a look-up."""
    return forward(implicit_windows_run, x, w, out, stride, padding, dilation, groups)


@rung("conv2d_input_grad", "cuda", step=4, idea=IMPLICIT)
def implicit_pixels(
    gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: as of conv2d, and with strides no product is for nothing: pixels between the same windows meet the same weights."""
    return to_x(implicit_pixels_run, gy, w, out, input_size, stride, padding, dilation, groups)


@rung("conv2d_weight_grad", "cuda", step=4, idea=IMPLICIT)
def implicit_weights(
    x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: a quarter of a load a product; but a tile of 128 filters by 128 weights leaves few blocks, each with a long sum."""
    return to_w(implicit_weights_run, x, gy, out, kernel_size, stride, padding, dilation, groups)


# The fifth rung: sizes. A tile has 128 rows, whether c has them or not; and a sum of a weight is long, where weights are few.

FEW = 8  # rows: from here on 16 times the products of a tile are more instructions than one sum a thread


def windows_by_size_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    run = hoisted(window_hoisted, 2) if g.filters <= FEW else implicit_windows_run
    run(x, w, y, g)


def pixels_by_size_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    run = hoisted(pixel_hoisted, 0) if g.K <= FEW else implicit_pixels_run
    run(x, w, y, g)


BY_SIZE = "few filters a group, or few channels of a gradient, would fill a sixteenth of a tile: they go by one sum a thread"


@rung("conv2d", "cuda", step=5, serves=True, idea=BY_SIZE)
def windows_by_size(
    x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: of one filter a group, a tenth of the instructions."""
    return forward(windows_by_size_run, x, w, out, stride, padding, dilation, groups)


@rung("conv2d_input_grad", "cuda", step=5, serves=True, idea=BY_SIZE)
def pixels_by_size(
    gy: Any, w: Any, *, input_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: of one channel a group, a tenth of the instructions."""
    return to_x(pixels_by_size_run, gy, w, out, input_size, stride, padding, dilation, groups)


PARTS, PART = 64, 2048  # at most so many parts, of so many windows at least


def add_parts(sums, w, parts):
    at = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
    size = u(w.size)
    if at < size:
        total, part, place = sums[at], u(1), u(at + size)
        while part < parts:
            total += sums[place]
            part, place = u(part + u(1)), u(place + size)
        w[at] = total


def weights_in_parts_run(x: np.ndarray, w: np.ndarray, y: np.ndarray, g: Geometry) -> None:
    pictures = max(-(-g.N // PARTS), min(-(-PART // (g.P * g.Q)), g.N))
    parts = -(-g.N // max(pictures, 1))
    if parts <= 1:
        product_of_weights(x, w.reshape(-1), y, g, g.N, 1)
        return
    sums, flat = empty(parts * w.size, w.dtype), w.reshape(-1)
    product_of_weights(x, sums, y, g, pictures, parts)
    launch(add_parts, (-(-w.size // THREADS),), (THREADS,), sums, flat, u(parts), writes=[flat])


@rung(
    "conv2d_weight_grad",
    "cuda",
    step=5,
    serves=True,
    idea="the sum is cut into parts for blocks of their own, and the parts are added up in order",
)
def weights_in_parts(
    x: Any, gy: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, out: Any = None
) -> np.ndarray:
    """Predicted: as many times the blocks as parts, for one more pass over sums; a table of one part only. Bits depend on sizes alone."""
    return to_w(weights_in_parts_run, x, gy, out, kernel_size, stride, padding, dilation, groups)
