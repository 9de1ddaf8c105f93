"""Neighbours: differences, slopes on a grid, areas, interpolation, and evenly spaced numbers."""

from __future__ import annotations

import numpy as np

from engine import ops
from engine.ops.numpy_protocol.table import Refused, checked_axis, converted, plain, stands_in, value

PERIOD = Refused("take the remainder of x first")


def _along(axis, ndim, key):
    """The key that is `key` on one axis and everything on the others."""
    return tuple(key if i == axis % ndim else slice(None) for i in range(ndim))


def _steps(x, axis):
    return x[_along(axis, x.ndim, slice(1, None))] - x[_along(axis, x.ndim, slice(None, -1))]


@stands_in("diff")
def _(a, n=1, axis=-1, prepend=np._NoValue, append=np._NoValue):
    if n < 0:
        raise ValueError(f"order must be non-negative but got {n}")
    x = value(a)
    if n == 0:
        return x
    if x.ndim == 0:
        raise ValueError("diff requires input that is at least one dimensional")
    checked_axis(axis, x.shape)
    ends = [_edge(e, x, axis) for e in (prepend, append) if e is not np._NoValue]
    if ends:
        x = ops.concat([*(ends[:1] if prepend is not np._NoValue else []), x, *(ends[-1:] if append is not np._NoValue else [])], axis=axis)
    for _ in range(n):
        x = _steps(x, axis)
    return x


def _edge(e, x, axis):
    e = value(e)
    return e if e.ndim else ops.broadcast_to(e, shape=tuple(1 if i == axis % x.ndim else n for i, n in enumerate(x.shape)))


@stands_in("ediff1d")
def _(ary, to_end=None, to_begin=None):
    line = ops.reshape(value(ary), shape=(-1,))
    parts = [ops.reshape(converted(value(p), line.dtype), shape=(-1,)) for p in (to_begin, _steps(line, 0), to_end) if p is not None]
    return ops.concat(parts)


@stands_in("gradient")
def _(f, *varargs, axis=None, edge_order=1):
    f = value(f)
    axes = range(f.ndim) if axis is None else [axis] if np.ndim(axis) == 0 else axis
    spacings = varargs * len(axes) if len(varargs) == 1 else varargs or (1.0,) * len(axes)
    if len(spacings) != len(axes) or any(np.ndim(plain(h)) for h in spacings) or edge_order != 1:
        raise TypeError("np.gradient: one number an axis for the spacing, and edge_order=1, is what can be differentiated here")
    slopes = [_slopes(f, i, h) for i, h in zip(axes, spacings, strict=True)]
    return slopes[0] if len(slopes) == 1 else tuple(slopes)


def _slopes(f, axis, h):
    if f.shape[axis] < 2:
        raise ValueError("Shape of array too small to calculate a numerical gradient, at least 2 elements are required.")
    steps = _steps(f, axis)
    first, last = (steps[_along(axis, f.ndim, k)] for k in (slice(0, 1), slice(-1, None)))
    both = (f[_along(axis, f.ndim, slice(2, None))] - f[_along(axis, f.ndim, slice(None, -2))]) / 2
    return ops.concat([first, both, last], axis=axis) / h


@stands_in("trapezoid", "trapz")
def _(y, x=None, dx=1.0, axis=-1):
    y = value(y)
    if x is None:
        width = dx
    else:
        x = value(x)
        along = tuple(-1 if i == axis % y.ndim else 1 for i in range(y.ndim))
        width = _steps(ops.reshape(x, shape=along) if x.ndim == 1 else x, axis)
    ends = (y[_along(axis, y.ndim, slice(1, None))] + y[_along(axis, y.ndim, slice(None, -1))]) / 2
    return ops.sum(width * ends, axis=axis)


@stands_in("interp")
def _(x, xp, fp, left=None, right=None, period=PERIOD):
    """Between neighbouring points a straight line, whose slope is that of the derivative in x; outside, constant."""
    x, xp, fp = value(x), value(xp), value(fp)
    at, points = plain((x, xp))
    i = np.clip(np.searchsorted(points, at, side="right") - 1, 0, max(points.size - 2, 0))
    j = np.minimum(i + 1, points.size - 1)
    x0, x1, y0, y1 = xp[i], xp[j], fp[i], fp[j]
    same = plain(x0) == plain(x1)
    y = y0 + (x - x0) * ((y1 - y0) / ops.where(same, 1.0, x1 - x0))
    y = ops.where(at < points[0], fp[0] if left is None else left, y)
    return ops.where(at > points[-1], fp[-1] if right is None else right, y)


@stands_in("linspace")
def _(start, stop, num=50, endpoint=True, retstep=False, dtype=None, axis=0):
    ends = np.result_type(*(x if isinstance(x, (int, float)) else value(x).dtype for x in (start, stop)), 0.0)
    start, stop = (converted(value(x), ends) for x in (start, stop))
    between = max(num - 1 if endpoint else num, 1)
    shape = np.broadcast_shapes(start.shape, stop.shape)
    share = (np.arange(num) / between).astype(ends).reshape(-1, *(1,) * len(shape))
    y = ops.moveaxis(start * (1 - share) + stop * share, 0, axis)
    return (converted(y, dtype), (stop - start) / between) if retstep else converted(y, dtype)
