r"""Reductions over axes: `axis` is None (all), an integer, negative too, or a tuple; `keepdims` leaves each as an axis of size 1.

Integers promote as in NumPy. Ties share evenly: the slope of max among k equal values is 1/k for each.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.elementwise import where
from engine.ops.layout import axes_of, broadcast_to, reshape, some_axis

__all__ = ["max", "mean", "min", "sum"]


def _reduced(x, *, axis, keepdims):
    axes = axes_of(axis, len(x))
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(x))
    return tuple(n for i, n in enumerate(x) if i not in axes)


def _kept(y, shape, axis, keepdims):
    """The reduced y with the axes of the array of `shape` that it lost, now of size 1: it broadcasts against that array."""
    if keepdims or (axis is None and y.shape == ()):
        return y
    return reshape(y, shape=_reduced(shape, axis=axis, keepdims=True))


def _count(shape, axis) -> int:
    """How many elements go into one."""
    return math.prod(shape[a] for a in axes_of(axis, len(shape)) if a < len(shape))


def _any_axis(pick: Pick):
    m, n, k = pick.size(0, 3), pick.size(1, 3), pick.size(0, 2)
    x = pick.array(*pick.choice([(n,), (m, n), (n, m, k)]))
    return [x], {"axis": some_axis(pick, x.ndim), "keepdims": pick.choice([False, True])}


def _filled(pick: Pick):
    """As `_any_axis`, where no element is reduced from nothing."""
    m, n, k = pick.size(1, 3), pick.size(1, 3), pick.size(1, 2)
    x = pick.array(*pick.choice([(n,), (m, n), (n, m, k)]))
    return [x], {"axis": some_axis(pick, x.ndim), "keepdims": pick.choice([False, True])}


@op(linear=("x",))
def sum(x, *, axis=None, keepdims=False):
    r"""$y = \sum_i x_i$"""
    return np.sum(x, axis=axis, keepdims=keepdims)


@sum.vjp("x")
def _(g, x_shape, *, axis, keepdims):
    r"""\bar x_i = \bar y"""
    return broadcast_to(_kept(g, x_shape, axis, keepdims), shape=x_shape)


sum.shape(_reduced)
sum.sample(_any_axis)


@op(linear=("x",))
def mean(x, *, axis=None, keepdims=False):
    r"""$y = \frac{1}{n} \sum_i x_i$"""
    return np.mean(x, axis=axis, keepdims=keepdims)


@mean.vjp("x")
def _(g, x_shape, *, axis, keepdims):
    r"""\bar x_i = \bar y / n"""
    n = _count(x_shape, axis) or 1  # a mean of nothing has nowhere to go
    return broadcast_to(_kept(g / n, x_shape, axis, keepdims), shape=x_shape)


mean.shape(_reduced)
mean.sample(_filled)


@op()
def max(x, *, axis=None, keepdims=False):
    r"""$y = \max_i x_i$"""
    return np.max(x, axis=axis, keepdims=keepdims)


@op()
def min(x, *, axis=None, keepdims=False):
    r"""$y = \min_i x_i$"""
    return np.min(x, axis=axis, keepdims=keepdims)


def _shares(x, y, axis, keepdims):
    """1/k where x is among the k elements that y was, 0 elsewhere."""
    hit = (x == _kept(y, x.shape, axis, keepdims)) | (x != x)  # a nan is what y was, too
    return (hit / np.maximum(np.sum(hit, axis=axis, keepdims=True), 1)).astype(x.dtype)


for _extreme in (max, min):

    @_extreme.vjp("x")
    def _(g, y, x, *, axis, keepdims):
        r"""\bar x_i = \bar y \, [x_i = y] / \text{the number of these}"""
        return _kept(g, x.shape, axis, keepdims) * _shares(x, y, axis, keepdims)

    @_extreme.jvp("x")
    def _(d, y, x, *, axis, keepdims):
        r"""\dot y = \text{the mean of } \dot x_i \text{ over } x_i = y"""
        return sum(d * _shares(x, y, axis, keepdims), axis=axis, keepdims=keepdims)

    @_extreme.sample
    def _(pick: Pick):
        (x,), params = _filled(pick)
        return [apart(pick, x.shape)], params

    _extreme.shape(_reduced)


def apart(pick: Pick, shape):
    """Values that are nowhere close to equal, in any order."""
    order = np.argsort(pick.array(math.prod(shape)), kind="stable")
    return (order - order.size / 2 + pick.array(order.size) / 10).reshape(shape)
