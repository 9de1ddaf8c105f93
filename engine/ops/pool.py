r"""Pooling: the largest, or the mean, of each window.

The largest remembers where it was: max_pool2d_with_indices returns the index too, and the way back scatters by it without
looking at the numbers again. Given the indices, picking is linear, and scattering is its transpose; the mean is linear
from the start. So there are two transposed pairs:

    max_pool2d_gather  x, indices -> y      max_pool2d_input_grad  gy, indices -> gx
    avg_pool2d         x -> y               avg_pool2d_input_grad  gy -> gx

Letters: n examples, c channels of h by w pixels, p by q windows.
kernel_size   size of a window: an int, or a pair (rows, columns)
stride        an int or a pair; None stands for kernel_size, so that windows neither overlap nor leave a gap
padding       an int, (rows, columns) or ((top, bottom), (left, right)), less than kernel_size: each window sees a pixel

The mean over the whole picture is `mean(x, axis=(2, 3))`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.windows import Pair, padded, pair, positions, sides, unpadded, window_grid
from engine.shapes import ShapeError

__all__ = [
    "avg_pool2d", "avg_pool2d_input_grad", "max_pool2d", "max_pool2d_gather", "max_pool2d_input_grad", "max_pool2d_with_indices",
]  # fmt: skip


def max_pool2d(x, *, kernel_size: Any, stride: Any = None, padding: Any = 0):
    r"""$y_{ncpq} = \max_{ij} x_{n, c, ps+i, qs+j}$, without the indices: see `max_pool2d_with_indices`"""
    return max_pool2d_with_indices(x, kernel_size=kernel_size, stride=stride, padding=padding)[0]


@op("n c h w -> n c p q, n c p q", outputs=("y", "indices"))
def max_pool2d_with_indices(x, *, kernel_size: Any, stride: Any = None, padding: Any = 0):
    r"""$y_{ncpq} = \max_{ij} x_{n, c, ps+i, qs+j}$, and where it stands

    Returns y and indices, both (n, c, p, q): y has the dtype of x; indices are int64, row * w + column in the input without
    padding. Among equal values the first counts, and so does the first nan. Padding is never chosen, not even against -inf.
    Raises ShapeError if no window fits, or one would hold padding only.
    """
    n, c, h, w = x.shape
    kernel, step, grid = windows((h, w), kernel_size, stride, padding)
    values, places = padded(x, padding), padded(np.arange(h * w).reshape(h, w), padding, fill=-1)
    y, indices = np.zeros((n, c, *grid), x.dtype), np.full((n, c, *grid), -1)
    for _, _, seen in positions(kernel, grid, step):
        value, at = values[seen], places[seen]
        larger = ~(value <= y) & (y == y)  # also a nan, over anything but a nan
        better = (at >= 0) & ((indices < 0) | larger)
        y, indices = np.where(better, value, y), np.where(better, at, indices)
    return y, indices


@max_pool2d_with_indices.shape
def _(x, *, kernel_size, stride, padding):
    out = (*x[:2], *windows(x[2:], kernel_size, stride, padding)[2])
    return [out, out]


@max_pool2d_with_indices.vjp("x")
def _(g, y, x_shape):
    r"""\bar x_{n, c, \mathrm{argmax}} = \sum \bar y_{ncpq}"""
    return max_pool2d_input_grad(g[0], y[1], input_size=x_shape[2:])


@max_pool2d_with_indices.jvp("x")
def _(d, y):
    r"""\dot y_{ncpq} = \dot x_{n, c, \mathrm{argmax}}"""
    return max_pool2d_gather(d, y[1]), np.zeros(y[1].shape, np.int64)


@op("n c h w, n c p q -> n c p q", linear=("x",), constant=("indices",))
def max_pool2d_gather(x, indices):
    r"""$y_{ncpq} = x_{n, c, \mathrm{indices}_{ncpq}}$, with an index that counts pixels row by row"""
    n, c, h, w = x.shape
    flat = indices.reshape(n, c, indices.shape[2] * indices.shape[3])
    return np.take_along_axis(x.reshape(n, c, h * w), flat, axis=2).reshape(indices.shape)


@max_pool2d_gather.shape
def _(x, indices):
    return indices


@max_pool2d_gather.vjp("x")
def _(g, x_shape, indices):
    r"""\bar x_{n, c, \mathrm{indices}} = \sum \bar y_{ncpq}"""
    return max_pool2d_input_grad(g, indices, input_size=x_shape[2:])


@op("n c p q, n c p q -> n c h w", linear=("gy",), constant=("indices",))
def max_pool2d_input_grad(gy, indices, *, input_size: Pair):
    r"""$\bar x_{n, c, \mathrm{indices}_{ncpq}} = \sum \bar y_{ncpq}$: what several windows chose adds up

    input_size   (h, w) of the picture that was pooled
    """
    n, c, p, q = gy.shape
    h, w = input_size
    gx = np.zeros((n * c, h * w), gy.dtype)
    plane = np.arange(n * c)[:, None]
    np.add.at(gx, (plane, indices.reshape(n * c, p * q)), gy.reshape(n * c, p * q))
    return gx.reshape(n, c, h, w)


@max_pool2d_input_grad.shape
def _(gy, indices, *, input_size):
    return (*gy[:2], *input_size)


@max_pool2d_input_grad.vjp("gy")
def _(g, indices):
    r"""\bar{\bar y}_{ncpq} = g_{n, c, \mathrm{indices}}"""
    return max_pool2d_gather(g, indices)


@op("n c h w -> n c p q", linear=("x",))
def avg_pool2d(x, *, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True):
    r"""$y_{ncpq} = \frac{1}{|W|} \sum_{ij \in W} x_{n, c, ps+i, qs+j}$

    count_include_pad   divide by the size of the window; else by the number of pixels in it, without the padding
    Returns (n, c, p, q) in the dtype of x. Raises ShapeError if no window fits, or one would hold padding only.
    """
    kernel, step, grid = windows(x.shape[2:], kernel_size, stride, padding)
    pixels, share = padded(x, padding), _share(x.shape[2:], kernel, step, padding, grid, count_include_pad)
    y = np.zeros((*x.shape[:2], *grid), np.result_type(x, 1.0))
    for _, _, seen in positions(kernel, grid, step):
        y += pixels[seen]
    return (y * share).astype(y.dtype)


@avg_pool2d.shape
def _(x, *, kernel_size, stride, padding, count_include_pad):
    return (*x[:2], *windows(x[2:], kernel_size, stride, padding)[2])


@avg_pool2d.vjp("x")
def _(g, x_shape, *, kernel_size, stride, padding, count_include_pad):
    r"""\bar x_{n, c, ps+i, qs+j} = \sum_{pq} \frac{1}{|W|} \bar y_{ncpq}"""
    window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "count_include_pad": count_include_pad}
    return avg_pool2d_input_grad(g, input_size=x_shape[2:], **window)


@op("n c p q -> n c h w", linear=("gy",))
def avg_pool2d_input_grad(gy, *, input_size: Pair, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True):
    r"""$\bar x_{n, c, ps+i, qs+j} = \sum_{pq} \frac{1}{|W|} \bar y_{ncpq}$: avg_pool2d transposed

    gy           (n, c, p, q), as avg_pool2d returns for a picture of `input_size`
    input_size   (h, w)
    """
    kernel, step, grid = windows(input_size, kernel_size, stride, padding)
    spread = (gy * _share(input_size, kernel, step, padding, grid, count_include_pad)).astype(np.result_type(gy, 1.0))
    rim = [size + sum(around) for size, around in zip(input_size, sides(padding), strict=True)]
    gx = np.zeros((*gy.shape[:2], *rim), spread.dtype)
    for _, _, seen in positions(kernel, grid, step):
        gx[seen] += spread
    return unpadded(gx, padding)


@avg_pool2d_input_grad.shape
def _(gy, *, input_size, kernel_size, stride, padding, count_include_pad):
    grid = windows(input_size, kernel_size, stride, padding)[2]
    if tuple(gy[2:]) != grid:
        raise ShapeError(f"gy has {gy[2]} by {gy[3]} windows, avg_pool2d has {grid[0]} by {grid[1]} on such an input")
    return (*gy[:2], *input_size)


@avg_pool2d_input_grad.vjp("gy")
def _(g, *, kernel_size, stride, padding, count_include_pad):
    r"""\bar{\bar y}_{ncpq} = \frac{1}{|W|} \sum_{ij \in W} g_{n, c, ps+i, qs+j}"""
    return avg_pool2d(g, kernel_size=kernel_size, stride=stride, padding=padding, count_include_pad=count_include_pad)


def windows(size: Any, kernel_size: Any, stride: Any, padding: Any) -> tuple[Pair, Pair, Pair]:
    """Kernel, stride and number of windows. Raises ShapeError if a window would hold padding only."""
    kernel = pair(kernel_size, "kernel_size", 1)
    step = kernel if stride is None else pair(stride, "stride", 1)
    around = sides(padding)
    if min(size) < 1:
        raise ShapeError(f"the input has {size[0]} rows and {size[1]} columns: nothing to pool")
    if any(max(side) >= k for side, k in zip(around, kernel, strict=True)):
        raise ShapeError(f"padding {padding!r} is not less than the kernel {kernel}: a window would hold nothing else")
    return kernel, step, window_grid((size[0], size[1]), kernel, step, padding)


def _share(size: Any, kernel: Pair, step: Pair, padding: Any, grid: Pair, count_include_pad: bool) -> Any:
    """What each element of a window counts: a number, or one for each window (p, q)."""
    if count_include_pad:
        return 1 / (kernel[0] * kernel[1])
    pixels, count = padded(np.ones(size), padding), np.zeros(grid)
    for _, _, seen in positions(kernel, grid, step):
        count += pixels[seen]
    return 1 / count


def _draw(pick: Pick):
    """A picture without ties, and a window: overlapping, with gaps, with padding, or the whole."""
    kernel = pick.choice([1, 2, 3, (1, 3), (2, 1)])
    rows, columns = pair(kernel, "kernel_size", 1)
    small = pick.choice([0, (rows - 1, columns - 1), ((0, rows - 1), (columns - 1, 0))])
    shape = (pick.size(0, 2), pick.size(1, 2), rows + pick.size(0, 3), columns + pick.size(0, 3))
    x = np.argsort(pick.array(*shape).ravel()).reshape(shape) * 0.1  # no two closer than the steps of a difference quotient
    return x, {"kernel_size": kernel, "stride": pick.choice([None, 1, 2, (3, 1)]), "padding": small}


@max_pool2d_with_indices.sample
def _(pick: Pick):
    x, window = _draw(pick)
    return [x], window


@avg_pool2d.sample
def _(pick: Pick):
    x, window = _draw(pick)
    return [x], {**window, "count_include_pad": pick.choice([True, False])}


@avg_pool2d_input_grad.sample
def _(pick: Pick):
    x, window = _draw(pick)
    gy = pick.array(*x.shape[:2], *windows(x.shape[2:], **window)[2])
    return [gy], {"input_size": x.shape[2:], **window, "count_include_pad": pick.choice([True, False])}


def _draw_indices(pick: Pick):
    n, c, h, w = pick.size(0, 2), pick.size(1, 2), pick.size(1, 3), pick.size(1, 3)
    return pick.array(n, c, h, w), pick.integers(n, c, pick.size(0, 3), pick.size(1, 3), high=h * w)  # some chosen twice


@max_pool2d_gather.sample
def _(pick: Pick):
    return list(_draw_indices(pick)), {}


@max_pool2d_input_grad.sample
def _(pick: Pick):
    x, indices = _draw_indices(pick)
    return [pick.array(*indices.shape), indices], {"input_size": x.shape[2:]}
