"""Reductions, cumulated sums, orders and simple statistics."""

from __future__ import annotations

import numpy as np

from engine import ops
from engine.ops.layout import axes_of
from engine.ops.numpy_protocol.table import OUT, WHERE, Refused, converted, plain, stands_in, value
from engine.traced import primal

INITIAL = Refused("add it to the result, or take the maximum or minimum with it", 0)


def _given(x):
    return x is not None and x is not np._NoValue


def _all_of_it(where):
    return where is True or not _given(where)


def _masked(a, where, instead):
    """`a` with `instead` where the mask says no."""
    return a if _all_of_it(where) else ops.where(plain(where), a, instead)


def _axis(axis):
    return tuple(axis) if isinstance(axis, list) else axis


@stands_in("sum")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.sum, 0.0, a, axis, dtype, keepdims, initial, where)


@stands_in("prod")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.prod, 1.0, a, axis, dtype, keepdims, initial, where)


@stands_in("add.reduce")
def _(a, axis=0, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.sum, 0.0, a, axis, dtype, keepdims, initial, where)


@stands_in("multiply.reduce")
def _(a, axis=0, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.prod, 1.0, a, axis, dtype, keepdims, initial, where)


def _total(op, neutral, a, axis, dtype, keepdims, initial, where):
    y = op(_masked(converted(value(a), dtype), where, neutral), axis=_axis(axis), keepdims=bool(keepdims))
    if not _given(initial):
        return y
    return y + initial if op is ops.sum else y * initial


@stands_in("max", "amax")
def _(a, axis=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme(ops.max, ops.maximum, a, axis, keepdims, initial, where)


@stands_in("min", "amin")
def _(a, axis=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme(ops.min, ops.minimum, a, axis, keepdims, initial, where)


@stands_in("maximum.reduce")
def _(a, axis=0, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme(ops.max, ops.maximum, converted(value(a), dtype), axis, keepdims, initial, where)


@stands_in("minimum.reduce")
def _(a, axis=0, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme(ops.min, ops.minimum, converted(value(a), dtype), axis, keepdims, initial, where)


def _extreme(op, pairwise, a, axis, keepdims, initial, where):
    if not _given(initial):
        if not _all_of_it(where):
            raise ValueError(f"np.{op.name}: with where=, an initial= is needed too, for the elements that have nothing")
        return op(value(a), axis=_axis(axis), keepdims=bool(keepdims))
    if not value(a).size:  # nothing to compare: the shape comes from a sum over nothing
        return ops.sum(value(a), axis=_axis(axis), keepdims=bool(keepdims)) + initial
    return pairwise(op(_masked(value(a), where, initial), axis=_axis(axis), keepdims=bool(keepdims)), initial)


@stands_in("mean")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, where=None):
    a = converted(value(a), dtype)
    if _all_of_it(where):
        return ops.mean(a, axis=_axis(axis), keepdims=bool(keepdims))
    count = np.sum(np.broadcast_to(plain(where), a.shape), axis=_axis(axis), keepdims=bool(keepdims))
    return ops.sum(_masked(a, where, 0.0), axis=_axis(axis), keepdims=bool(keepdims)) / count.astype(a.dtype)


MEAN = Refused("the mean is taken here, for its derivative is part of the variance's")


@stands_in("var")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=WHERE, mean=MEAN, correction=None):
    a = converted(value(a), dtype)
    return ops.var(a, axis=_axis(axis), correction=correction if _given(correction) else ddof, keepdims=bool(keepdims))


@stands_in("std")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=WHERE, mean=MEAN, correction=None):
    a = converted(value(a), dtype)
    return ops.std(a, axis=_axis(axis), correction=correction if _given(correction) else ddof, keepdims=bool(keepdims))


@stands_in("logaddexp.reduce")
def _(a, axis=0, dtype=None, out=OUT, keepdims=False, initial=INITIAL, where=WHERE):
    return ops.logsumexp(converted(value(a), dtype), axis=_axis(axis), keepdims=bool(keepdims))


@stands_in("ptp")
def _(a, axis=None, out=OUT, keepdims=False):
    a, options = value(a), {"axis": _axis(axis), "keepdims": bool(keepdims)}
    return ops.max(a, **options) - ops.min(a, **options)


@stands_in("average")
def _(a, axis=None, weights=None, returned=False, keepdims=False):
    a = value(a)
    options = {"axis": _axis(axis), "keepdims": bool(keepdims)}
    if weights is None:
        mean = ops.mean(a, **options)
        total = np.full(mean.shape, a.size / mean.size)[()]
    else:
        weights = _laid_along(value(weights), a.shape, axis)
        total = ops.sum(weights, **options)
        if np.any(primal(total) == 0):
            raise ZeroDivisionError("Weights sum to zero, can't be normalized")
        mean = ops.sum(a * weights, **options) / total
    return (mean, total) if returned else mean


def _laid_along(weights, shape, axis):
    """Weights for one axis, or several, in as many axes as `shape` has, and broadcast to it."""
    if weights.shape != shape:
        if axis is None:
            raise TypeError("Axis must be specified when shapes of a and weights differ.")
        axes = axes_of(axis, len(shape))
        if weights.shape != tuple(shape[a] for a in axes):
            raise ValueError("Shape of weights must be consistent with shape of a along specified axis.")
        order = np.argsort(axes)
        weights = ops.permute_dims(weights, axes=tuple(int(i) for i in order))
        weights = ops.reshape(weights, shape=tuple(n if i in axes else 1 for i, n in enumerate(shape)))
    return ops.broadcast_to(weights, shape=shape)


# Without the nans: what is missing is replaced by what changes nothing.


@stands_in("nansum")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=INITIAL, where=WHERE):
    return ops.sum(_filled(converted(a, dtype), 0.0), axis=_axis(axis), keepdims=bool(keepdims))


@stands_in("nanprod")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=INITIAL, where=WHERE):
    return ops.prod(_filled(converted(a, dtype), 1.0), axis=_axis(axis), keepdims=bool(keepdims))


@stands_in("nanmax")
def _(a, axis=None, out=OUT, keepdims=False, initial=INITIAL, where=WHERE):
    return ops.max(_filled(a, -np.inf), axis=_axis(axis), keepdims=bool(keepdims))


@stands_in("nanmin")
def _(a, axis=None, out=OUT, keepdims=False, initial=INITIAL, where=WHERE):
    return ops.min(_filled(a, np.inf), axis=_axis(axis), keepdims=bool(keepdims))


@stands_in("nanmean")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, where=WHERE):
    a = converted(a, dtype)
    count = np.sum(~np.isnan(primal(a)), axis=_axis(axis), keepdims=bool(keepdims))
    return ops.sum(_filled(a, 0.0), axis=_axis(axis), keepdims=bool(keepdims)) / count.astype(a.dtype)


def _filled(a, instead):
    return ops.where(np.isnan(primal(a)), instead, a)


# Cumulated.


@stands_in("cumsum")
def _(a, axis=None, dtype=None, out=OUT):
    return ops.cumsum(converted(value(a), dtype), axis=axis)


@stands_in("cumprod")
def _(a, axis=None, dtype=None, out=OUT):
    return ops.cumprod(converted(value(a), dtype), axis=axis)


@stands_in("add.accumulate")
def _(array, axis=0, dtype=None, out=OUT):
    return ops.cumsum(_not_scalar(converted(value(array), dtype)), axis=axis)


@stands_in("multiply.accumulate")
def _(array, axis=0, dtype=None, out=OUT):
    return ops.cumprod(_not_scalar(converted(value(array), dtype)), axis=axis)


def _not_scalar(array):
    if array.ndim == 0:
        raise TypeError("cannot accumulate on a scalar")
    return array


@stands_in("cumulative_sum")
def _(x, axis=None, dtype=None, out=OUT, include_initial=False):
    return _cumulative(ops.cumsum, np.zeros, converted(value(x), dtype), axis, include_initial)


@stands_in("cumulative_prod")
def _(x, axis=None, dtype=None, out=OUT, include_initial=False):
    return _cumulative(ops.cumprod, np.ones, converted(value(x), dtype), axis, include_initial)


def _cumulative(op, first, x, axis, include_initial):
    if axis is None and x.ndim > 1:
        raise ValueError("For arrays which have more than one dimension ``axis`` argument is required.")
    axis = axis or 0
    y = op(x, axis=axis)
    if not include_initial:
        return y
    shape = tuple(1 if i == axis % x.ndim else n for i, n in enumerate(x.shape))
    return ops.concat([first(shape, y.dtype), y], axis=axis)
