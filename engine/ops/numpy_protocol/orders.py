"""Sorting and what follows from it. The order is looked up in the numbers; the values are then taken from their places."""

from __future__ import annotations

import math

import numpy as np

from engine import ops
from engine.ops.layout import axes_of
from engine.ops.numpy_protocol.table import KIND, OUT, UNUSED, Refused, checked_axis, converted, holds_traced, plain, stands_in, value
from engine.traced import primal, unsupported

FIELDS = Refused("records are not differentiated")
METHOD = Refused('only method="linear" has a derivative here', "linear")
WEIGHTS = Refused("weighted quantiles have no derivative here")


@stands_in("sort")
def _(a, axis=-1, kind=KIND, order=FIELDS, stable=UNUSED):
    return ops.sort(value(a), axis=axis)


@stands_in("partition")
def _(a, kth, axis=-1, kind=KIND, order=FIELDS):
    a, axis = (_flat(a), 0) if axis is None else (a, axis)
    return ops.take_along_axis(a, np.argpartition(primal(a), kth, axis=axis), axis=axis)


def _flat(a):
    return ops.reshape(a, shape=(a.size,))


@stands_in("median")
def _(a, axis=None, out=OUT, overwrite_input=False, keepdims=False):
    a = value(a)
    return ops.median(a, axis=checked_axis(axis, a.shape), keepdims=bool(keepdims))


@stands_in("quantile")
def _(a, q, axis=None, out=OUT, overwrite_input=False, method=METHOD, keepdims=False, weights=WEIGHTS, interpolation=METHOD):
    return _quantile(value(a), _constant("quantile", q), axis, keepdims)


@stands_in("percentile")
def _(a, q, axis=None, out=OUT, overwrite_input=False, method=METHOD, keepdims=False, weights=WEIGHTS, interpolation=METHOD):
    return _quantile(value(a), _constant("percentile", q) / 100, axis, keepdims)


def _constant(name, q):
    if holds_traced(q):
        raise TypeError(f"np.{name}: q is not differentiated; cut it off with stop_gradient(q) if that is meant")
    return q if isinstance(q, (int, float)) else np.asarray(q, float)


def _quantile(a, q, axis, keepdims):
    """The values at q of the way through the sorted ones, between neighbours in proportion. q may have any shape."""
    q, axes = np.asarray(q, a.dtype if isinstance(q, (int, float)) else None), axes_of(checked_axis(axis, a.shape), a.ndim)
    if q.size and not (q.min() >= 0 and q.max() <= 1):
        raise ValueError("Quantiles must be in the range [0, 1]")
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    count, others = math.prod(a.shape[i] for i in axes), tuple(a.shape[i] for i in rest)
    rows = ops.sort(ops.reshape(ops.permute_dims(a, axes=axes + rest), shape=(count, *others)), axis=0)
    place = q.ravel() * (count - 1)
    below = np.floor(place)
    share = (place - below).reshape(-1, *(1,) * len(rest))
    low, high = (ops.take(rows, np.minimum(i, count - 1).astype(int), axis=0) for i in (below, below + 1))
    with np.errstate(invalid="ignore"):  # two infinities
        y = ops.where(share == 0, low, low + share * (high - low))
    y = ops.where(np.isnan(primal(rows)[-1]), np.nan, y)  # nans stand last
    kept = tuple(1 if i in axes else n for i, n in enumerate(a.shape)) if keepdims else others
    return ops.reshape(y, shape=q.shape + kept)


@stands_in("unique")
def _(ar, return_index=False, return_inverse=False, return_counts=False, axis=None, equal_nan=True, sorted=UNUSED):
    _, index, *others = np.unique(
        primal(ar), return_index=True, return_inverse=return_inverse, return_counts=return_counts, axis=axis, equal_nan=equal_nan
    )
    values = ops.take(_flat(ar) if axis is None else ar, index, axis=axis or 0)
    found = (values, *((index,) if return_index else ()), *others)
    return found if len(found) > 1 else values


@stands_in("unique_values")
def _(x):
    return ops.take(_flat(x), np.unique(primal(x), return_index=True, equal_nan=False)[1], axis=0)


@stands_in("bincount")
def _(x, weights=None, minlength=0):
    counts = np.bincount(primal(x), minlength=minlength)
    return counts if weights is None else ops.scatter(converted(value(weights), np.float64), key=(plain(x),), shape=counts.shape)


@stands_in("histogram")
def _(a, bins=10, range=None, density=None, weights=None):
    if holds_traced(weights):
        raise unsupported("np.histogram with traced weights")
    return np.histogram(plain(a), plain(bins), range, density, weights)


@stands_in("maximum.accumulate")
def _(array, axis=0, dtype=None, out=OUT):
    return _running(np.maximum, converted(array, dtype), axis)


@stands_in("minimum.accumulate")
def _(array, axis=0, dtype=None, out=OUT):
    return _running(np.minimum, converted(array, dtype), axis)


def _running(ufunc, x, axis):
    """The best so far, taken from where it first stood."""
    best = ufunc.accumulate(primal(x), axis=axis)
    n = best.shape[axis]
    if n == 0:
        return x
    changed = np.take(best, range(1, n), axis=axis) != np.take(best, range(n - 1), axis=axis)
    along = [-1 if i == axis % best.ndim else 1 for i in range(best.ndim)]
    first = np.zeros([1 if i == -1 else n for i, n in zip(along, best.shape, strict=True)], int)
    places = np.where(changed, np.arange(1, n).reshape(along), 0)
    return ops.take_along_axis(x, np.maximum.accumulate(np.concatenate([first, places], axis=axis), axis=axis), axis=axis)
