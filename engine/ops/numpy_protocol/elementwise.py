"""Elementwise functions that are not an op of their own."""

from __future__ import annotations

import numpy as np

from engine import ops
from engine.ops.numpy_protocol.table import CASTING, ORDER, OUT, UNUSED, WHERE, converted, holds_traced, stands_in, value
from engine.traced import Unsupported, primal


@stands_in("fmax")
def _(x1, x2):
    return _unless_nan(ops.maximum, x1, x2)


@stands_in("fmin")
def _(x1, x2):
    return _unless_nan(ops.minimum, x1, x2)


def _unless_nan(op, x1, x2):
    """op, but the number where only the other is nan."""
    empty1, empty2 = np.isnan(primal(x1)), np.isnan(primal(x2))
    return ops.where(empty1, x2, ops.where(empty2, x1, op(x1, ops.where(empty1 | empty2, x1, x2))))


@stands_in("float_power")
def _(x1, x2):
    return ops.pow(*(converted(value(x), np.result_type(value(x), np.float64)) for x in (x1, x2)))


@stands_in("positive")
def _(x):
    return x


@stands_in("copy")
def _(a, order=ORDER, subok=UNUSED):
    return a  # a traced value is never written into: the array itself is as good as a copy


@stands_in("conjugate", "real", "real_if_close")
def _(x, tol=UNUSED):
    return _of_a_real(x)


@stands_in("imag")
def _(val):
    return np.zeros_like(primal(_of_a_real(val)))


@stands_in("angle")
def _(z, deg=False):
    return np.angle(primal(_of_a_real(z)), deg)


def _of_a_real(x):
    """`x`, if it is real. The parts of a complex number are not differentiable in it."""
    if x.dtype.kind == "c":
        raise Unsupported(
            f"the parts of a {x.dtype} have no derivative in this engine\n  keep the real and the imaginary part in two real arrays"
        )
    return x


@stands_in("divmod")
def _(x1, x2):
    return np.floor_divide(primal(x1), primal(x2)), ops.remainder(x1, x2)


@stands_in("modf")
def _(x):
    whole = np.trunc(primal(x))
    return x - whole, whole


@stands_in("where")
def _(condition, x=None, y=None):
    if x is None and y is None:
        return np.nonzero(primal(condition))
    return ops.where(primal(condition), *(value(v) if isinstance(v, (list, tuple)) else v for v in (x, y)))


@stands_in("select")
def _(condlist, choicelist, default=0):
    chosen = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        chosen = ops.where(primal(condition), choice, chosen)
    return chosen


@stands_in("clip")
def _(a, a_min=None, a_max=None, out=OUT, min=None, max=None, where=WHERE, casting=CASTING, dtype=None):
    a, low, high = converted(value(a), dtype), a_min if min is None else min, a_max if max is None else max
    if not holds_traced([low, high]):
        return ops.clip(a, min=low, max=high)
    if low is not None:
        a = ops.maximum(a, low)
    return a if high is None else ops.minimum(a, high)


@stands_in("nan_to_num")
def _(x, copy=UNUSED, nan=0.0, posinf=None, neginf=None):
    limits = np.finfo(x.dtype)
    x = ops.where(np.isnan(primal(x)), nan, x)
    x = ops.where(np.isposinf(primal(x)), limits.max if posinf is None else posinf, x)
    return ops.where(np.isneginf(primal(x)), limits.min if neginf is None else neginf, x)
