r"""Convolution: three bilinear maps, closed under transposition.

    conv2d               x, w  -> y       what a layer computes
    conv2d_input_grad    gy, w -> gx      each element of gy spreads over its window
    conv2d_weight_grad   x, gy -> gw      each weight meets gy at every window

Fix one argument of any of them: the transpose in the other is one of the other two. So each rule below is a call of a
sibling, derivatives of any order are these three, and a kernel for each of them covers all.

As in every neural-network library the kernel is not flipped: in mathematics this is cross-correlation.

Letters: n examples, c channels of h by w pixels, o filters of i by j weights over k = c / groups channels, p by q windows.
stride, dilation   an int, or a pair (rows, columns)
padding            zeros around the input: an int, a pair (rows, columns), or ((top, bottom), (left, right))
groups             channels and filters are split into so many groups, each filter sees its own group; c for depthwise

Source: Dumoulin & Visin (2016), A guide to convolution arithmetic for deep learning, for the shapes and the transposes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op, shape_of
from engine.ops.layout import expand_dims, squeeze
from engine.ops.windows import Pair, padded, positions, sides, unpadded, window_grid
from engine.shapes import ShapeError

__all__ = ["conv1d", "conv2d", "conv2d_input_grad", "conv2d_weight_grad"]


@op("n c h w, o k i j -> n o p q", linear=("x", "w"), flops="2*n*o*p*q*k*i*j")
def conv2d(x, w, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1):
    r"""$y_{nopq} = \sum_{kij} x_{n, k, ps+id, qs+jd} \, w_{okij}$, with stride s and dilation d

    x        (n, c, h, w)
    w        (o, c / groups, i, j)
    returns  (n, o, p, q), p = (h + padding - (i - 1) dilation - 1) // stride + 1, and so q; dtypes promote as NumPy's do
    Raises ShapeError if the kernel does not fit into the padded input, or groups does not divide c and o.
    """
    n, (o, _, *kernel) = len(x), w.shape
    grid = window_grid(x.shape[2:], kernel, stride, padding, dilation)
    x, w = _grouped(padded(x, padding), 1, groups), _grouped(w, 0, groups)
    y = np.zeros((n, groups, o // groups, math.prod(grid)), np.result_type(x, w))
    for i, j, seen in positions(kernel, grid, stride, dilation):
        y += w[..., i, j] @ _flat(x[seen])  # (o, k) @ (k, pq) for each example and group
    return y.reshape(n, o, *grid)


@conv2d.shape
def _(x, w, *, stride, padding, dilation, groups):
    _check_groups(x[1], w[0], w[1], groups)
    return (x[0], w[0], *window_grid(x[2:], w[2:], stride, padding, dilation))


@conv2d.vjp("x")
def _(g, x_shape, w, *, stride, padding, dilation, groups):
    r"""\bar x_{n, k, ps+id, qs+jd} = \sum \bar y_{nopq} \, w_{okij}"""
    return conv2d_input_grad(g, w, input_size=x_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d.vjp("w")
def _(g, x, w_shape, *, stride, padding, dilation, groups):
    r"""\bar w_{okij} = \sum_{npq} x_{n, k, ps+id, qs+jd} \, \bar y_{nopq}"""
    return conv2d_weight_grad(x, g, kernel_size=w_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups)


@op("n o p q, o k i j -> n c h w", linear=("gy", "w"), flops="2*n*o*p*q*k*i*j")
def conv2d_input_grad(gy, w, *, input_size: Pair, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1):
    r"""$\bar x_{n, k, ps+id, qs+jd} = \sum_{opqij} \bar y_{nopq} \, w_{okij}$: conv2d transposed in x

    gy           (n, o, p, q), as conv2d returns for such an input
    w            (o, c / groups, i, j)
    input_size   (h, w) of conv2d's input: with a stride several sizes give the same p and q
    returns      (n, c, h, w); also what is called transposed convolution
    Raises ShapeError if gy is not what conv2d returns for an input of that size.
    """
    n, (_, k, *kernel), grid = len(gy), w.shape, gy.shape[2:]
    gy, w = _flat(_grouped(gy, 1, groups)), _grouped(w, 0, groups)
    rim = [size + sum(around) for size, around in zip(input_size, sides(padding), strict=True)]
    gx = np.zeros((n, groups, k, *rim), np.result_type(gy, w))
    for i, j, seen in positions(kernel, grid, stride, dilation):
        gx[seen] += (w[..., i, j].swapaxes(-1, -2) @ gy).reshape(n, groups, k, *grid)  # (k, o) @ (o, pq)
    return unpadded(gx, padding).reshape(n, groups * k, *input_size)


@conv2d_input_grad.shape
def _(gy, w, *, input_size, stride, padding, dilation, groups):
    c = w[1] * groups
    _check_groups(c, w[0], w[1], groups)
    _check_windows(gy, (*gy[:1], w[0], *window_grid(input_size, w[2:], stride, padding, dilation)))
    return (gy[0], c, *input_size)


@conv2d_input_grad.vjp("gy")
def _(g, w, *, stride, padding, dilation, groups):
    r"""\bar{\bar y}_{nopq} = \sum_{kij} g_{n, k, ps+id, qs+jd} \, w_{okij}"""
    return conv2d(g, w, stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d_input_grad.vjp("w")
def _(g, gy, w_shape, *, stride, padding, dilation, groups):
    r"""\bar w_{okij} = \sum_{npq} g_{n, k, ps+id, qs+jd} \, \bar y_{nopq}"""
    return conv2d_weight_grad(g, gy, kernel_size=w_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups)


@op("n c h w, n o p q -> o k i j", linear=("x", "gy"), flops="2*n*o*p*q*k*i*j")
def conv2d_weight_grad(x, gy, *, kernel_size: Pair, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1):
    r"""$\bar w_{okij} = \sum_{npq} x_{n, k, ps+id, qs+jd} \, \bar y_{nopq}$: conv2d transposed in w

    x            (n, c, h, w)
    gy           (n, o, p, q), as conv2d returns for such an input
    kernel_size  (i, j)
    returns      (o, c / groups, i, j)
    Raises ShapeError if gy is not what conv2d returns for that kernel.
    """
    c, (o, *grid) = x.shape[1], gy.shape[1:]
    x, gy = _grouped(padded(x, padding), 1, groups), _flat(_grouped(gy, 1, groups))
    gw = np.zeros((groups, o // groups, c // groups, *kernel_size), np.result_type(x, gy))
    for i, j, seen in positions(kernel_size, grid, stride, dilation):
        gw[..., i, j] = np.sum(gy @ _flat(x[seen]).swapaxes(-1, -2), axis=0)  # (o, pq) @ (pq, k), summed over examples
    return gw.reshape(o, c // groups, *kernel_size)


@conv2d_weight_grad.shape
def _(x, gy, *, kernel_size, stride, padding, dilation, groups):
    k = x[1] // max(groups, 1)
    _check_groups(x[1], gy[1], k, groups)
    _check_windows(gy, (*gy[:2], *window_grid(x[2:], kernel_size, stride, padding, dilation)))
    return (gy[1], k, *kernel_size)


@conv2d_weight_grad.vjp("x")
def _(g, x_shape, gy, *, stride, padding, dilation, groups):
    r"""\bar x_{n, k, ps+id, qs+jd} = \sum \bar y_{nopq} \, g_{okij}"""
    return conv2d_input_grad(gy, g, input_size=x_shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d_weight_grad.vjp("gy")
def _(g, x, *, stride, padding, dilation, groups):
    r"""\bar{\bar y}_{nopq} = \sum_{kij} x_{n, k, ps+id, qs+jd} \, g_{okij}"""
    return conv2d(x, g, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv1d(x, w, *, stride: int = 1, padding: Any = 0, dilation: int = 1, groups: int = 1):
    r"""$y_{nop} = \sum_{ki} x_{n, k, ps+id} \, w_{oki}$: conv2d over pictures of one row

    x        (n, c, h)
    w        (o, c / groups, i)
    padding  an int, or (before, after); stride and dilation are ints
    returns  (n, o, p)
    """
    for name, a in (("x", x), ("w", w)):
        if len(shape_of(a)) != 3:
            raise ShapeError(f"conv1d: {name} has shape {shape_of(a)} where 3 axes are wanted\n  wants  n c h, o k i -> n o p")
    around = tuple(padding) if isinstance(padding, (tuple, list)) else (padding, padding)
    row = {"stride": (1, stride), "padding": ((0, 0), around), "dilation": (1, dilation), "groups": groups}
    return squeeze(conv2d(expand_dims(x, axis=2), expand_dims(w, axis=2), **row), axis=2)


def _grouped(a, axis: int, groups: int):
    """`a` with the channels on `axis` as (groups, channels of one group)."""
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


def _flat(a):
    """`a` with its last two axes as one."""
    return a.reshape(*a.shape[:-2], a.shape[-2] * a.shape[-1])


def _check_groups(c: int, o: int, k: int, groups: int) -> None:
    if groups < 1 or c % groups or o % groups:
        raise ShapeError(f"{groups} groups do not divide {c} channels and {o} filters")
    if k * groups != c:
        raise ShapeError(f"x has {c} channels in {groups} groups, so a filter has {c // groups} channels, not {k}")


def _check_windows(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if tuple(given) != tuple(wanted):
        raise ShapeError(f"gy has shape {tuple(given)}, conv2d returns {tuple(wanted)}")


def _draw(pick: Pick):
    """The sizes and parameters of one convolution: ragged, with rows that no window reaches, without examples, depthwise."""
    n, groups = pick.size(0, 2), pick.size(1, 3)
    channels, filters = pick.size(1, 2), pick.size(1, 2)
    stride = pick.choice([1, 2, (1, 2), (3, 1)])
    dilation = pick.choice([1, 2, (2, 1)])
    padding = pick.choice([0, 1, (1, 0), ((0, 1), (2, 0))])
    kernel = (pick.size(1, 3), pick.size(1, 2))
    least = [1 + 2 * (i - 1) for i in kernel]  # a dilated kernel still fits
    size = (pick.size(least[0], least[0] + 3), pick.size(least[1], least[1] + 3))
    params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    x = pick.array(n, groups * channels, *size)
    w = pick.array(groups * filters, channels, *kernel)
    gy = pick.array(n, groups * filters, *window_grid(size, kernel, stride, padding, dilation))
    return x, w, gy, params


@conv2d.sample
def _(pick: Pick):
    x, w, _, params = _draw(pick)
    return [x, w], params


@conv2d_input_grad.sample
def _(pick: Pick):
    x, w, gy, params = _draw(pick)
    return [gy, w], {"input_size": x.shape[2:], **params}


@conv2d_weight_grad.sample
def _(pick: Pick):
    x, w, gy, params = _draw(pick)
    return [x, gy], {"kernel_size": w.shape[2:], **params}
