"""Products of arrays, polynomials, convolution, norms."""

from __future__ import annotations

import functools
import math

import numpy as np

from engine import ops
from engine.ops.numpy_protocol.table import CASTING, ORDER, OUT, checked_axis, converted, stands_in, value
from engine.traced import primal


@stands_in("dot")
def _(a, b, out=OUT):
    return ops.dot(value(a), value(b))


@stands_in("outer")
def _(a, b, out=OUT):
    return ops.outer(value(a), value(b))


@stands_in("inner")
def _(a, b, /):
    return ops.inner(value(a), value(b))


@stands_in("vdot")
def _(a, b, /):
    return ops.vdot(value(a), value(b))


@stands_in("kron")
def _(a, b):
    return ops.kron(value(a), value(b))


@stands_in("tensordot")
def _(a, b, axes=2):
    return ops.tensordot(value(a), value(b), axes=axes)


@stands_in("einsum")
def _(*operands, out=OUT, dtype=None, order=ORDER, casting=CASTING, optimize=False):
    if isinstance(operands[0], str):
        return ops.einsum(operands[0], *[converted(value(x), dtype) for x in operands[1:]])
    pairs = [converted(value(x), dtype) if i % 2 == 0 and i < len(operands) - 1 else list(x) for i, x in enumerate(operands)]
    return ops.einsum(*pairs)


@stands_in("matvec")
def _(x1, x2):
    return ops.squeeze(ops.matmul(value(x1), ops.expand_dims(value(x2), axis=-1)), axis=-1)


@stands_in("vecmat")
def _(x1, x2):
    return ops.squeeze(ops.matmul(ops.expand_dims(value(x1), axis=-2), value(x2)), axis=-2)


@stands_in("cross")
def _(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    axisa, axisb, axisc = (axisa, axisb, axisc) if axis is None else (axis, axis, axis)
    return _cross(value(a), value(b), axisa, axisb, axisc)


@stands_in("linalg.cross")
def _(x1, x2, /, *, axis=-1):
    return _cross(value(x1), value(x2), axis, axis, axis)


def _cross(a, b, axisa, axisb, axisc):
    a, b = ops.moveaxis(a, axisa, -1), ops.moveaxis(b, axisb, -1)
    if a.shape[-1] not in (2, 3) or b.shape[-1] not in (2, 3):
        raise ValueError(f"np.cross: vectors of 2 or 3 components are wanted, given are {a.shape[-1]} and {b.shape[-1]}")
    if a.shape[-1] == b.shape[-1] == 2:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    a, b = _in_space(a), _in_space(b)
    after, last = [1, 2, 0], [2, 0, 1]
    y = a[..., after] * b[..., last] - a[..., last] * b[..., after]
    return ops.moveaxis(y, -1, axisc)


def _in_space(v):
    """Vectors in the plane with a third component, 0."""
    return v if v.shape[-1] == 3 else ops.concat([v, np.zeros((*v.shape[:-1], 1), v.dtype)], axis=-1)


@stands_in("linalg.multi_dot")
def _(arrays, *, out=OUT):
    return functools.reduce(ops.dot, map(value, arrays))


# Convolution and polynomials.


@stands_in("convolve")
def _(a, v, mode="full"):
    a, v = _vectors("convolve", *np.atleast_1d(a, v))
    if v.size > a.size:
        a, v = v, a
    return _sliding(a, ops.flip(v), mode)


@stands_in("correlate")
def _(a, v, mode="valid"):
    a, v = _vectors("correlate", a, v)
    if v.size > a.size:
        return ops.flip(_sliding(v, a, mode))
    return _sliding(a, v, mode)


def _vectors(name, a, v):
    a, v = value(a), value(v)
    for which, x in (("a", a), ("v", v)):
        if x.ndim != 1 or not x.size:
            raise ValueError(f"np.{name}: {which} has shape {x.shape}, wanted is a vector with elements")
    return a, v


def _sliding(a, v, mode):
    """Products of v with each stretch of a: of all that overlap ("full"), wholly ("valid"), or a's number ("same")."""
    n = v.size
    before, after = {"full": (n - 1, n - 1), "valid": (0, 0), "same": (n // 2, (n - 1) // 2)}[mode]
    dtype = np.result_type(a.dtype, v.dtype)
    padded = ops.pad(converted(a, dtype), pad_width=((before, after),))
    picture, window = ops.reshape(padded, shape=(1, 1, -1)), ops.reshape(converted(v, dtype), shape=(1, 1, -1))
    return ops.reshape(ops.conv1d(picture, window), shape=(-1,))


@stands_in("polyval")
def _(p, x):
    p, x = value(p), value(x)
    y = primal(x) * np.zeros((), p.dtype)
    for coefficient in p:
        y = y * x + coefficient
    return y


@stands_in("polyder")
def _(p, m=1):
    for _ in range(m):
        p = p[:-1] * np.arange(len(p) - 1, 0, -1).astype(p.dtype)
    return p


@stands_in("vander")
def _(x, N=None, increasing=False):
    powers = np.arange(x.size if N is None else N)
    x = converted(x, np.promote_types(x.dtype, int))
    return ops.pow(ops.expand_dims(x, axis=-1), powers if increasing else powers[::-1])


# Norms.


@stands_in("linalg.norm")
def _(x, ord=None, axis=None, keepdims=False):
    x = value(x)
    axis = checked_axis(axis, x.shape)
    if axis is None and (ord is None or x.ndim == 1):
        y = _vector_norm(ops.reshape(x, shape=(x.size,)), 2 if ord is None else ord, None, False)
        return ops.reshape(y, shape=(1,) * x.ndim) if keepdims else y
    axis = axis if axis is not None else tuple(range(x.ndim))
    axes = (axis,) if np.ndim(axis) == 0 else tuple(axis)
    if len(axes) == 1:
        return _vector_norm(x, 2 if ord is None else ord, axes[0], keepdims)
    if len(axes) != 2:
        raise ValueError("Improper number of dimensions to norm.")
    return _matrix_norm(x, ord, axes, keepdims)


@stands_in("linalg.vector_norm")
def _(x, /, *, axis=None, keepdims=False, ord=2):
    return _vector_norm(x, ord, axis, keepdims)


@stands_in("linalg.matrix_norm")
def _(x, /, *, keepdims=False, ord="fro"):
    return _matrix_norm(x, ord, (-2, -1), keepdims)


def _vector_norm(x, ord, axis, keepdims):
    if isinstance(ord, str):
        raise ValueError(f"Invalid norm order '{ord}' for vectors")
    return ops.vector_norm(x, ord=ord, axis=axis, keepdims=bool(keepdims))


def _matrix_norm(x, ord, axes, keepdims):
    """The norm of each matrix: of its rows and columns, or of its singular values."""
    if ord in (None, "fro", "f"):
        return ops.vector_norm(x, axis=axes, keepdims=bool(keepdims))
    if ord in (1, -1, math.inf, -math.inf):
        summed, compared = axes if abs(ord) == 1 else axes[::-1]
        sums = ops.sum(ops.abs(x), axis=summed, keepdims=True)
        y = _extreme(sums, ord, compared)
        return y if keepdims else ops.squeeze(y, axis=tuple(axes))
    if ord not in (2, -2, "nuc"):
        raise ValueError("Invalid norm order for matrices.")
    values = ops.svdvals(ops.moveaxis(x, axes, (-2, -1)))
    y = ops.sum(values, axis=-1, keepdims=True) if ord == "nuc" else _extreme(values, ord, -1)
    y = ops.squeeze(y, axis=-1)
    return ops.expand_dims(y, axis=tuple(sorted(a % x.ndim for a in axes))) if keepdims else y


def _extreme(sizes, ord, axis):
    """The largest of them for a positive order (0 of none), the smallest for a negative one."""
    if ord > 0 and not sizes.shape[axis]:
        return ops.sum(sizes, axis=axis, keepdims=True)
    return (ops.max if ord > 0 else ops.min)(sizes, axis=axis, keepdims=True)
