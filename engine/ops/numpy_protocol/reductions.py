"""Reductions, cumulated sums, orders and simple statistics."""

from __future__ import annotations

import numpy as np

from engine import ops
from engine.ops.layout import axes_of
from engine.ops.numpy_protocol.table import OUT, WHERE, Refused, converted, plain, stands_in, value
from engine.traced import primal

INITIAL = Refused("add it to the result, or take the maximum or minimum with it")


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
    return _mean(a, axis, keepdims, where)


def _mean(a, axis, keepdims, where):
    """The mean of the elements that the mask names."""
    return ops.sum(_masked(a, where, 0.0), axis=_axis(axis), keepdims=bool(keepdims)) / _count(a, axis, keepdims, where)


def _count(a, axis, keepdims, where):
    return np.sum(np.broadcast_to(plain(where), a.shape), axis=_axis(axis), keepdims=bool(keepdims)).astype(a.dtype)


def _variance(a, axis, correction, keepdims, where, too_few=0.0):
    """The variance of the elements that the mask names, divided by `too_few` where there are not enough of them."""
    deviations = _masked(a - _mean(a, axis, True, where), where, 0.0)
    left = _count(a, axis, keepdims, where) - correction
    return ops.sum(deviations * deviations, axis=_axis(axis), keepdims=bool(keepdims)) / np.where(left > 0, left, too_few).astype(a.dtype)


def _root(x):
    """The square root, whose slope at 0 is taken as 0."""
    still = primal(x) == 0
    return ops.where(still, 0.0, ops.sqrt(ops.where(still, 1.0, x))) if np.any(still) else ops.sqrt(x)


MEAN = Refused("the mean is taken here, for its derivative is part of the variance's")


@stands_in("var")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=None, mean=MEAN, correction=None):
    a, correction = converted(value(a), dtype), correction if _given(correction) else ddof
    if _all_of_it(where):
        return ops.var(a, axis=_axis(axis), correction=correction, keepdims=bool(keepdims))
    return _variance(a, axis, correction, keepdims, where)


@stands_in("std")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=None, mean=MEAN, correction=None):
    a, correction = converted(value(a), dtype), correction if _given(correction) else ddof
    if _all_of_it(where):
        return ops.std(a, axis=_axis(axis), correction=correction, keepdims=bool(keepdims))
    return _root(_variance(a, axis, correction, keepdims, where))


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
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.sum, 0.0, _filled(value(a), 0.0), axis, dtype, keepdims, initial, where)


@stands_in("nanprod")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, initial=None, where=None):
    return _total(ops.prod, 1.0, _filled(value(a), 1.0), axis, dtype, keepdims, initial, where)


@stands_in("nanmax")
def _(a, axis=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme_number(ops.max, ops.maximum, -np.inf, value(a), axis, keepdims, initial, where)


@stands_in("nanmin")
def _(a, axis=None, out=OUT, keepdims=False, initial=None, where=None):
    return _extreme_number(ops.min, ops.minimum, np.inf, value(a), axis, keepdims, initial, where)


def _extreme_number(op, pairwise, worst, a, axis, keepdims, initial, where):
    y = _extreme(op, pairwise, _filled(a, worst), axis, keepdims, initial, where)
    if _given(initial):
        return y
    nothing = np.all(np.isnan(primal(a)), axis=_axis(axis), keepdims=bool(keepdims))
    return ops.where(nothing, np.nan, y) if np.any(nothing) else y


@stands_in("nanmean")
def _(a, axis=None, dtype=None, out=OUT, keepdims=False, where=None):
    return _mean(converted(value(a), dtype), axis, keepdims, _numbers(a, where))


@stands_in("nanvar")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=None, mean=MEAN, correction=None):
    correction = correction if _given(correction) else ddof
    return _variance(converted(value(a), dtype), axis, correction, keepdims, _numbers(a, where), too_few=np.nan)


@stands_in("nanstd")
def _(a, axis=None, dtype=None, out=OUT, ddof=0, keepdims=False, where=None, mean=MEAN, correction=None):
    correction = correction if _given(correction) else ddof
    return _root(_variance(converted(value(a), dtype), axis, correction, keepdims, _numbers(a, where), too_few=np.nan))


@stands_in("nancumsum")
def _(a, axis=None, dtype=None, out=OUT):
    return ops.cumsum(_filled(converted(value(a), dtype), 0.0), axis=axis)


@stands_in("nancumprod")
def _(a, axis=None, dtype=None, out=OUT):
    return ops.cumprod(_filled(converted(value(a), dtype), 1.0), axis=axis)


def _numbers(a, where):
    """The mask of what is a number and is asked for."""
    there = ~np.isnan(primal(value(a)))
    return there if _all_of_it(where) else there & plain(where)


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
    shape = tuple(1 if i == axis % y.ndim else n for i, n in enumerate(y.shape))
    return ops.concat([first(shape, y.dtype), y], axis=axis)
