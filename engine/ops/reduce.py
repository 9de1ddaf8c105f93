r"""Reductions over axes: `axis` is None (all), an integer, negative too, or a tuple; `keepdims` leaves each as an axis of size 1.

Integers promote as in NumPy. Ties share evenly: the slope of max among k equal values is 1/k for each.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.cumulative import products_before
from engine.ops.elementwise import abs, exp, pow, sign, where
from engine.ops.index import diagonal
from engine.ops.layout import axes_of, broadcast_to, flip, inverse, permute_dims, reshape, some_axis
from engine.traced import primal

__all__ = ["logsumexp", "max", "mean", "min", "prod", "std", "sum", "trace", "var", "vector_norm"]


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
    return math.prod(shape[a] for a in axes_of(axis, len(shape)))


def _any_axis(pick: Pick):
    m, n, k = pick.size(0, 3), pick.size(1, 3), pick.size(0, 2)
    x = pick.array(*pick.choice([(n,), (m, n), (n, m, k)]))
    return [x], {"axis": some_axis(pick, x.ndim), "keepdims": pick.choice([False, True])}


def apart(pick: Pick, shape):
    """Values that are nowhere close to equal, in any order."""
    order = np.argsort(pick.array(math.prod(shape)), kind="stable")
    return (order - order.size / 2 + pick.array(order.size) / 10).reshape(shape)


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


def trace(x, *, offset=0, axis1=0, axis2=1):
    """The sum over a diagonal; see `diagonal` for the parameters."""
    return sum(diagonal(x, offset=offset, axis1=axis1, axis2=axis2), axis=-1)


@op(linear=("x",))
def mean(x, *, axis=None, keepdims=False):
    r"""$y = \frac{1}{n} \sum_i x_i$"""
    if axis is None and x.dtype.char in "fd" and x.size:  # np.mean takes five microseconds more to see to other dtypes
        return np.add.reduce(x, axis=None, keepdims=keepdims) / x.size
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


# Products.


@op()
def prod(x, *, axis=None, keepdims=False):
    r"""$y = \prod_i x_i$"""
    return np.prod(x, axis=axis, keepdims=keepdims)


def _others(x, axis):
    """For each element the product of all others that are reduced with it. Not y / x: an x may be 0, or y underflow."""
    axes = axes_of(axis, x.ndim)
    order = tuple(i for i in range(x.ndim) if i not in axes) + axes
    shape = tuple(x.shape[i] for i in order)
    line = reshape(permute_dims(x, axes=order), shape=(*shape[: x.ndim - len(axes)], _count(x.shape, axis)))
    last = line.ndim - 1
    both = products_before(line, last) * flip(products_before(flip(line, axis=last), last), axis=last)
    return permute_dims(reshape(both, shape=shape), axes=inverse(order))


@prod.vjp("x")
def _(g, x, *, axis, keepdims):
    r"""\bar x_i = \bar y \prod_{j \neq i} x_j"""
    return _kept(g, x.shape, axis, keepdims) * _others(x, axis)


@prod.jvp("x")
def _(d, x, *, axis, keepdims):
    r"""\dot y = \sum_i \dot x_i \prod_{j \neq i} x_j"""
    return sum(d * _others(x, axis), axis=axis, keepdims=keepdims)


@prod.sample
def _(pick: Pick):
    (x,), params = _any_axis(pick)
    return [x * pick.integers(*x.shape, high=3)], params  # every third element is 0


prod.shape(_reduced)


# Spread.


@op()
def var(x, *, axis=None, keepdims=False, correction=0):
    r"""$y = \frac{1}{n - c} \sum_i (x_i - \mu)^2$

    correction    c: 0 for the variance of the numbers themselves, 1 for an unbiased estimate from a sample
    """
    return np.var(x, axis=axis, keepdims=keepdims, ddof=correction)


def _freedom(shape, axis, correction) -> float:
    """n - c; nan where nothing is left, as the value is."""
    left = _count(shape, axis) - correction
    return left if left > 0 else math.nan


def _deviations(x, axis):
    return x - mean(x, axis=axis, keepdims=True)


@var.vjp("x")
def _(g, x, *, axis, keepdims, correction):
    r"""\bar x_i = \bar y \, 2 (x_i - \mu) / (n - c)"""
    if not x.size:
        return np.zeros(x.shape, x.dtype)
    scale = 2 / _freedom(x.shape, axis, correction)
    return _kept(g * scale, x.shape, axis, keepdims) * _deviations(x, axis)


@var.jvp("x")
def _(d, x, *, axis, keepdims, correction):
    r"""\dot y = 2 \sum_i (x_i - \mu) \dot x_i / (n - c)"""
    if not x.size:
        return sum(d, axis=axis, keepdims=keepdims)
    return sum(d * _deviations(x, axis), axis=axis, keepdims=keepdims) * (2 / _freedom(x.shape, axis, correction))


@op()
def std(x, *, axis=None, keepdims=False, correction=0):
    r"""$y = \sqrt{\frac{1}{n - c} \sum_i (x_i - \mu)^2}$, whose slopes are taken as 0 where all x are equal

    correction    c, as for `var`
    """
    return np.std(x, axis=axis, keepdims=keepdims, ddof=correction)


def _std_slopes(y, x, axis, keepdims, correction):
    if not x.size:
        return np.zeros(x.shape, x.dtype)
    y = _kept(y, x.shape, axis, keepdims)
    axes = axes_of(axis, x.ndim)
    first = primal(x)[tuple(slice(0, 1) if i in axes else slice(None) for i in range(x.ndim))]
    still = np.all(primal(x) == first, axis=axes, keepdims=True) | (y == 0)  # y need not be 0: a mean of 0.1 is not 0.1
    return where(still, 0.0, _deviations(x, axis) / (where(still, 1.0, y) * _freedom(x.shape, axis, correction)))


@std.vjp("x")
def _(g, y, x, *, axis, keepdims, correction):
    r"""\bar x_i = \bar y \, (x_i - \mu) / ((n - c) y), \quad 0 \text{ where all x are equal}"""
    return _kept(g, x.shape, axis, keepdims) * _std_slopes(y, x, axis, keepdims, correction)


@std.jvp("x")
def _(d, y, x, *, axis, keepdims, correction):
    r"""\dot y = \sum_i (x_i - \mu) \dot x_i / ((n - c) y), \quad 0 \text{ where all x are equal}"""
    return sum(d * _std_slopes(y, x, axis, keepdims, correction), axis=axis, keepdims=keepdims)


for _spread in (var, std):

    @_spread.sample
    def _(pick: Pick):
        m, n = pick.size(3, 4), pick.size(3, 4)  # of two numbers std is linear, and the laws would compare noise
        axis = pick.choice([None, 0, -1, (0, 1), (-1,)])
        correction = pick.choice([0, 1, 0.5])
        return [apart(pick, (m, n))], {"axis": axis, "keepdims": pick.choice([False, True]), "correction": correction}

    @_spread.shape
    def _(x, *, axis, keepdims, correction):
        return _reduced(x, axis=axis, keepdims=keepdims)


# The smooth maximum.


@op()
def logsumexp(x, *, axis=None, keepdims=False):
    r"""$y = \ln \sum_i e^{x_i}$, without overflow

    Of nothing, and of values that are all -inf, it is -inf. The largest value is taken out of the sum, so that what the
    others add to it is not lost below its rounding.
    """
    x = x if x.dtype.kind in "fc" else x.astype(float)
    top = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    is_top = x == top
    ties = np.maximum(np.sum(is_top, axis=axis, keepdims=True), 1).astype(x.dtype)
    with np.errstate(over="ignore"):  # the least minus the largest number is -inf, and its exponential 0
        below = np.subtract(x, top, out=np.full(x.shape, -np.inf, x.dtype), where=~is_top)
    y = np.log1p(np.sum(np.exp(below), axis=axis, keepdims=True) / ties) + np.log(ties) + top
    return y if keepdims else np.reshape(y, _reduced(x.shape, axis=axis, keepdims=False))[()]


def _softmax(x, axis):
    """The slopes of logsumexp: 0 where all x are -inf; several x that are +inf share evenly."""
    top = np.max(primal(x), axis=axis, keepdims=True, initial=-np.inf)
    infinite = np.isinf(top)
    if np.any(infinite):
        limits = np.where((primal(x) == top) & (top > 0), 0, -np.inf).astype(x.dtype)
        x, top = where(infinite, limits, x), np.where(infinite, 0, top)
    with np.errstate(over="ignore"):
        e = exp(x - top)
    total = sum(e, axis=axis, keepdims=True)
    return e / where(total == 0, 1.0, total)


@logsumexp.vjp("x")
def _(g, x, *, axis, keepdims):
    r"""\bar x_i = \bar y \, e^{x_i} / \sum_j e^{x_j}"""
    return _kept(g, x.shape, axis, keepdims) * _softmax(x, axis)


@logsumexp.jvp("x")
def _(d, x, *, axis, keepdims):
    r"""\dot y = \sum_i \dot x_i e^{x_i} / \sum_j e^{x_j}"""
    return sum(d * _softmax(x, axis), axis=axis, keepdims=keepdims)


logsumexp.shape(_reduced)
logsumexp.sample(_filled)


# Length.


@op()
def vector_norm(x, *, axis=None, keepdims=False, ord=2):
    r"""$y = (\sum_i |x_i|^p)^{1/p}$

    ord    p: any number; inf for the largest |x|, -inf for the smallest, 0 for how many x are not 0

    Neither overflows nor underflows where the result does not. At the zero vector the slopes are taken as 0; among
    equal largest (or smallest) values they are shared evenly.
    """
    size = np.abs(x if x.dtype.kind in "fc" else x.astype(float))
    if ord == math.inf:
        return np.max(size, axis=axis, keepdims=keepdims, initial=0)
    if ord == -math.inf:
        return np.min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return np.sum(size != 0, axis=axis, keepdims=keepdims, dtype=size.dtype)
    if ord == 1:
        return np.sum(size, axis=axis, keepdims=keepdims)
    return _power_norm(size, ord, axis, keepdims)


def _power_norm(size, p, axis, keepdims):
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        total = np.sum(size**p, axis=axis, keepdims=keepdims)
        if not np.all((total > np.finfo(size.dtype).tiny * 1e20) & (total < math.inf)):
            top = np.max(size, axis=axis, keepdims=True, initial=0)
            top = np.where((top == 0) | np.isinf(top), 1, top).astype(size.dtype)
            total = np.sum((size / top) ** p, axis=axis, keepdims=keepdims)
            return np.reshape(top, total.shape)[()] * _root(total, p)
        return _root(total, p)


def _root(total, p):
    return np.sqrt(total) if p == 2 else np.power(total, total.dtype.type(1 / p))  # NumPy 1 would promote a float32 scalar


def _norm_slopes(y, x, axis, keepdims, p):
    y = _kept(y, x.shape, axis, keepdims)
    if p in (math.inf, -math.inf):
        return sign(x) * _shares(abs(primal(x)), primal(y), axis, True)
    if p in (0, 1):
        return sign(x) * p
    at_zero = (y == 0) | (x == 0) if p % 2 else y == 0
    ratio = x / where(y == 0, 1.0, y)
    if p == 2:
        return where(at_zero, 0.0, ratio)
    if p % 2 == 0:
        return where(at_zero, 0.0, pow(where(at_zero, 1.0, ratio), p - 1))
    return where(at_zero, 0.0, sign(x) * pow(where(at_zero, 1.0, abs(ratio)), p - 1))


@vector_norm.vjp("x")
def _(g, y, x, *, axis, keepdims, ord):
    r"""\bar x_i = \bar y \, \mathrm{sign}(x_i) \, |x_i / y|^{p-1}, \quad 0 \text{ at } x = 0"""
    return _kept(g, x.shape, axis, keepdims) * _norm_slopes(y, x, axis, keepdims, ord)


@vector_norm.jvp("x")
def _(d, y, x, *, axis, keepdims, ord):
    r"""\dot y = \sum_i \dot x_i \, \mathrm{sign}(x_i) \, |x_i / y|^{p-1}, \quad 0 \text{ at } x = 0"""
    return sum(d * _norm_slopes(y, x, axis, keepdims, ord), axis=axis, keepdims=keepdims)


@vector_norm.shape
def _(x, *, axis, keepdims, ord):
    return _reduced(x, axis=axis, keepdims=keepdims)


@vector_norm.sample
def _(pick: Pick):
    (x,), params = _filled(pick)
    signs = 2 * pick.integers(*x.shape, high=2) - 1
    order = pick.choice([2, 1, 3, 4, 1.5, math.inf, -math.inf, -2, 0])
    return [signs * (0.3 + apart(pick, x.shape) + x.size)], {**params, "ord": order}
