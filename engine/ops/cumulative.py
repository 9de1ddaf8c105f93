r"""Running sums and products along an axis, and the linear recurrence that their derivatives are.

`axis=None` flattens, as in NumPy.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.layout import axes_of, concat, flip, reshape

__all__ = ["cumprod", "cumsum", "linear_recurrence"]


def _line(shape, axis):
    """The shape and the axis along which to run: a flattened array where there is no axis."""
    return (shape, axes_of(axis, len(shape))[0]) if shape and axis is not None else ((math.prod(shape),), 0)


def _running(x, *, axis):
    return _line(x, axis)[0]


def _any_line(pick: Pick):
    x = pick.array(*pick.choice([(), (pick.size(0, 4),), (pick.size(0, 3), pick.size(1, 4))]))
    return [x], {"axis": pick.choice([None, 0, -1, x.ndim - 1 if x.ndim else 0])}


def shifted(x, axis: int, first: float):
    """(first, x_1, ..., x_{n-1}) along an axis."""
    head = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), first, x.dtype)
    return concat(head, x, axis=axis)[(slice(None),) * axis + (slice(0, -1),)]


def products_before(x, axis: int):
    """The product of all elements before each, 1 for the first. Nothing is divided, so zeros do no harm."""
    return cumprod(shifted(x, axis, 1.0), axis=axis)


@op(linear=("x",))
def cumsum(x, *, axis=None):
    r"""$y_i = \sum_{j \leq i} x_j$"""
    return np.cumsum(x, axis=axis)


@cumsum.vjp("x")
def _(g, x_shape, *, axis):
    r"""\bar x_i = \sum_{j \geq i} \bar y_j"""
    _, axis = _line(x_shape, axis)
    return reshape(flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis), shape=x_shape)


@op()
def cumprod(x, *, axis=None):
    r"""$y_i = \prod_{j \leq i} x_j$"""
    return np.cumprod(x, axis=axis)


@cumprod.vjp("x")
def _(g, x, *, axis):
    r"""\bar x_i = p_i s_i, \quad p_i = \prod_{j < i} x_j, \quad s_i = \bar y_i + x_{i+1} s_{i+1}"""
    shape, axis = _line(x.shape, axis)
    line = reshape(x, shape=shape)
    s = flip(linear_recurrence(shifted(flip(line, axis=axis), axis, 0.0), flip(g, axis=axis), axis=axis), axis=axis)
    return reshape(products_before(line, axis) * s, shape=x.shape)


@cumprod.jvp("x")
def _(d, x, *, axis):
    r"""\dot y_i = x_i \dot y_{i-1} + p_i \dot x_i, \quad p_i = \prod_{j < i} x_j"""
    shape, axis = _line(x.shape, axis)
    line = reshape(x, shape=shape)
    return linear_recurrence(line, products_before(line, axis) * reshape(d, shape=shape), axis=axis)


for _op in (cumsum, cumprod):
    _op.shape(_running)
    _op.sample(_any_line)


@cumprod.sample
def _(pick: Pick):
    (x,), params = _any_line(pick)
    return [x * pick.integers(*x.shape, high=3)], params  # every third element is 0


@op(linear=("b",))
def linear_recurrence(a, b, *, axis):
    r"""$y_i = a_i y_{i-1} + b_i, \quad y_{-1} = 0$

    a, b    arrays of one shape; the first a along the axis has nothing to multiply

    Closed under differentiation: both rules are recurrences of the same kind, run forwards or backwards.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError("a and b need one shape")
    y = np.moveaxis(np.array(b, dtype=np.result_type(a, b)), axis, 0)
    for i, factor in enumerate(np.moveaxis(a, axis, 0)[1:]):
        y[i + 1] += factor * y[i]
    return np.moveaxis(y, 0, axis)


@linear_recurrence.shape
def _(a, b, *, axis):
    return a


@linear_recurrence.vjp("a", "b")
def _(g, y, a, *, axis):
    r"""\bar b_i = \bar y_i + a_{i+1} \bar b_{i+1}, \quad \bar a_i = \bar b_i y_{i-1}"""
    axis = axes_of(axis, a.ndim)[0]
    gb = flip(linear_recurrence(shifted(flip(a, axis=axis), axis, 0.0), flip(g, axis=axis), axis=axis), axis=axis)
    return gb * shifted(y, axis, 0.0), gb


@linear_recurrence.jvp("a")
def _(d, y, a, *, axis):
    r"""\dot y_i = a_i \dot y_{i-1} + \dot a_i y_{i-1}"""
    return linear_recurrence(a, d * shifted(y, axes_of(axis, a.ndim)[0], 0.0), axis=axis)


@linear_recurrence.sample
def _(pick: Pick):
    m, n = pick.size(0, 4), pick.size(1, 4)
    return [pick.array(m, n), pick.array(m, n)], {"axis": pick.choice([0, 1, -1])}
