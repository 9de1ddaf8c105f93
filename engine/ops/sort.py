r"""Order: sorting and what follows from it. The derivative goes where the permutation sends it.

nan stands last, as in NumPy; equal values keep their order.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op, shape_of
from engine.ops.elementwise import where
from engine.ops.index import take_along_axis
from engine.ops.layout import axes_of, expand_dims, moveaxis, reshape
from engine.ops.reduce import apart, mean

__all__ = ["argsort", "median", "sort", "sort_with_indices"]


@op(outputs=("values", "indices"))
def sort_with_indices(x, *, axis=-1, descending=False):
    r"""$y_i = x_{\pi(i)}, \quad y_1 \leq y_2 \leq \ldots$

    Returns the sorted values along `axis` and the permutation; from the largest on if `descending`.
    """
    order = np.argsort(np.flip(x, axis) if descending else x, axis=axis, kind="stable")
    if descending:
        order = np.flip(x.shape[axis] - 1 - order, axis)
    return np.take_along_axis(x, order, axis=axis), order


@sort_with_indices.shape
def _(x, *, axis, descending):
    return [x, x]


@sort_with_indices.vjp("x")
def _(g, y, *, axis):
    r"""\bar x_{\pi(i)} = \bar y_i"""
    return take_along_axis(g[0], np.argsort(y[1], axis=axis), axis=axis)


@sort_with_indices.jvp("x")
def _(d, y, *, axis):
    r"""\dot y_i = \dot x_{\pi(i)}"""
    return take_along_axis(d, y[1], axis=axis), np.zeros(y[1].shape, y[1].dtype)


@sort_with_indices.sample
def _(pick: Pick):
    x = apart(pick, pick.choice([(pick.size(0, 4),), (pick.size(1, 3), pick.size(0, 4))]))
    return [x], {"axis": pick.choice([-1, 0, x.ndim - 1]), "descending": pick.choice([False, True])}


def sort(x, *, axis=-1, descending=False):
    """`x` sorted along an axis; axis=None sorts the flattened array."""
    return _sorted(x, axis, descending)[0]


def argsort(x, *, axis=-1, descending=False):
    """The permutation that sorts `x` along an axis; axis=None: that of the flattened array."""
    return _sorted(x, axis, descending)[1]


def _sorted(x, axis, descending):
    if axis is None:
        x, axis = reshape(x, shape=(-1,)), 0
    return sort_with_indices(x, axis=axis, descending=descending)


def median(x, *, axis=None, keepdims=False):
    """The middle value, or the mean of the two middle ones; nan where there is a nan. As `np.median`."""
    shape = shape_of(x)
    axes = axes_of(axis, len(shape))
    n = math.prod(shape[a] for a in axes)
    rest = [size for i, size in enumerate(shape) if i not in axes]
    ordered = sort(reshape(moveaxis(x, axes, range(-len(axes), 0)), shape=(*rest, n)))
    middle = mean(ordered[..., (n - 1) // 2 : n // 2 + 1], axis=-1)
    if n:
        last = ordered[..., -1]
        middle = where(last != last, last, middle)
    return expand_dims(middle, axis=tuple(sorted(axes))) if keepdims else middle
