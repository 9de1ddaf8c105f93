r"""Layout: the same numbers in another arrangement. Every op here is linear, and the transposes come in pairs.

reshape and permute_dims undo themselves; broadcast_to and sum_to undo each other, as do concat and split.

Parameters follow NumPy: an axis may be negative, `axis=None` flattens where NumPy flattens.
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op, shape_of
from engine.shapes import ShapeError

__all__ = [
    "astype", "broadcast_to", "concat", "expand_dims", "flip", "matrix_transpose", "moveaxis", "permute_dims", "reshape", "roll", "split",
    "squeeze", "stack", "sum_to", "swapaxes", "transpose", "tril", "triu",
]  # fmt: skip


def axes_of(axis, ndim: int) -> tuple[int, ...]:
    """`axis` (None for all, an integer or a tuple) as a tuple of integers from 0 on; that it fits is NumPy's to check."""
    if axis is None or not ndim:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    return tuple([int(a) + ndim if a < 0 else int(a) for a in axes])


def some_axis(pick: Pick, ndim: int):
    """One of everything that an `axis` may be: None, (), an integer, a negative one, a tuple. For samplers."""
    one = pick.size(-ndim, ndim - 1)
    return pick.choice([None, (), one, (one,), tuple(range(ndim)), (-1, 0) if ndim > 1 else (0,)])


# Dtype and broadcasting.


@op("... -> ...", linear=("x",))
def astype(x, *, dtype):
    r"""$y = x$ in another dtype"""
    return np.asarray(x).astype(dtype)[()]


@astype.vjp("x")
def _(g):
    r"""\bar x = \bar y"""
    return g  # the tape brings every gradient to the dtype of its argument


@astype.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"dtype": np.dtype(np.float64)}


@op(linear=("x",))
def broadcast_to(x, *, shape):
    r"""$y_{i \ldots} = x_{\ldots}$, repeated along new and unit axes"""
    if x.shape == () != shape:  # the gradient of a mean, of which np.broadcast_to would make three microseconds more
        y = np.ndarray(shape, x.dtype, np.array(x), strides=(0,) * len(shape))
        y.flags.writeable = False
        return y
    return np.broadcast_to(x, shape)


@broadcast_to.shape
def _(x, *, shape):
    return tuple(np.broadcast_shapes(x, shape))


@broadcast_to.vjp("x")
def _(g, x_shape):
    r"""\bar x = \sum_{\text{repeats}} \bar y"""
    return sum_to(g, shape=x_shape)


@broadcast_to.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.array(pick.choice([1, n]))], {"shape": (m, n)}


@op(linear=("x",))
def sum_to(x, *, shape):
    r"""$y_{\ldots} = \sum_{\text{repeats}} x_{i \ldots}$: undoes `broadcast_to`"""
    leading = x.ndim - len(shape)
    axes = tuple(range(leading)) + tuple(i + leading for i, n in enumerate(shape) if n == 1 and x.shape[i + leading] != 1)
    return np.reshape(np.add.reduce(x, axis=axes), shape)


@sum_to.shape
def _(x, *, shape):
    np.broadcast_shapes(x, shape)
    return tuple(shape)


@sum_to.vjp("x")
def _(g, x_shape):
    r"""\bar x = \bar y, \text{ repeated}"""
    return broadcast_to(g, shape=x_shape)


@sum_to.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.array(m, n)], {"shape": pick.choice([(n,), (1, n), (m, 1), (1, 1), ()])}


# The same numbers under other axes.


@op(linear=("x",))
def reshape(x, *, shape):
    r"""$y = x$ read in row-major order into another shape

    shape    an integer or a tuple of them; one may be -1 and is then worked out
    """
    return np.reshape(x, shape)


@reshape.shape
def _(x, *, shape):
    return np.broadcast_to(np.False_, x).reshape(shape).shape


@reshape.vjp("x")
def _(g, x_shape):
    r"""\bar x = \bar y \text{ in the shape of } x"""
    return reshape(g, shape=x_shape)


@reshape.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    shape = pick.choice([m * n, (n, m), (m, 1, n), (-1, n), (-1,)])
    return [pick.array(m, n)], {"shape": shape}


@op(linear=("x",))
def permute_dims(x, *, axes=None):
    r"""$y_{i_{\pi(1)} \ldots i_{\pi(n)}} = x_{i_1 \ldots i_n}$

    axes    the axes of x in the order wanted; None reverses them
    """
    return np.transpose(x, axes)


@permute_dims.shape
def _(x, *, axes):
    return tuple(x[a] for a in axes) if axes is not None else x[::-1]


@permute_dims.vjp("x")
def _(g, *, axes):
    r"""\bar x_{i_1 \ldots i_n} = \bar y_{i_{\pi(1)} \ldots i_{\pi(n)}}"""
    return permute_dims(g, axes=None if axes is None else inverse(axes))


def inverse(axes) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    place = {a % len(axes): i for i, a in enumerate(axes)}
    return tuple([place[i] for i in range(len(axes))])


@permute_dims.sample
def _(pick: Pick):
    x = pick.array(pick.size(0, 3), pick.size(1, 3), pick.size(1, 3))
    return [x], {"axes": pick.choice([None, (1, 2, 0), (0, 2, 1), (-1, 0, -2)])}


@op("... m n -> ... n m", linear=("x",))
def matrix_transpose(x):
    r"""$Y = X^\top$, of each matrix in a stack"""
    return np.swapaxes(x, -1, -2)


@matrix_transpose.vjp("x")
def _(g):
    r"""\bar X = \bar Y^\top"""
    return matrix_transpose(g)


def turned(x: Any) -> Any:
    """`matrix_transpose` for a rule: of a plain array NumPy's view, which takes a fifth of the time of an op."""
    return x.swapaxes(-1, -2) if type(x) is np.ndarray else matrix_transpose(x)


def transpose(x, axes=None):
    r"""$y_{\ldots j i} = x_{i j \ldots}$: the axes in reverse, or in the order of `axes`, as `np.transpose`"""
    return permute_dims(x, axes=tuple(reversed(range(len(shape_of(x))))) if axes is None else tuple(axes))


def moveaxis(x, source, destination):
    """`x` with the axes `source` moved to `destination`, the others in their order; as `np.moveaxis`."""
    ndim = len(shape_of(x))
    old, new = _placed(source, ndim, "source"), _placed(destination, ndim, "destination")
    if len(old) != len(new):
        raise ShapeError(f"moveaxis: {len(old)} axes to move, source {source}, to {len(new)} places, destination {destination}")
    order = [a for a in range(ndim) if a not in old]
    for place, axis in sorted(zip(new, old, strict=True)):
        order.insert(place, axis)
    return permute_dims(x, axes=tuple(order))


def _placed(axis, ndim: int, what: str) -> tuple[int, ...]:
    given = tuple(axis) if np.iterable(axis) else (axis,)
    axes = axes_of(given, ndim)
    if any(not 0 <= a < ndim for a in axes) or len(set(axes)) < len(axes):
        raise ShapeError(f"moveaxis: {what} is {axis}; wanted are different axes of an array that has {ndim}")
    return axes


def swapaxes(x, axis1, axis2):
    """`x` with two axes exchanged; as `np.swapaxes`."""
    return permute_dims(x, axes=_swapped(len(shape_of(x)), axis1, axis2))


def _swapped(ndim: int, axis1, axis2) -> tuple[int, ...]:
    order = list(range(ndim))
    if not (-ndim <= axis1 < ndim and -ndim <= axis2 < ndim):
        raise ShapeError(f"swapaxes: axes {axis1} and {axis2} of an array that has {ndim}")
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return tuple(order)


@op(linear=("x",))
def expand_dims(x, *, axis):
    r"""$y = x$ with axes of size 1 put in

    axis    where they stand in the result: an integer or a tuple
    """
    return np.expand_dims(x, axis)


@expand_dims.shape
def _(x, *, axis):
    return np.expand_dims(np.broadcast_to(np.False_, x), axis).shape


@expand_dims.vjp("x")
def _(g, x_shape):
    r"""\bar x = \bar y \text{ without them}"""
    return reshape(g, shape=x_shape)


@expand_dims.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"axis": pick.choice([0, 1, 2, -1, (0, -1), (1, 2)])}


@op(linear=("x",))
def squeeze(x, *, axis=None):
    r"""$y = x$ without axes of size 1

    axis    the ones to drop, an integer or a tuple; None drops every axis of size 1
    """
    return np.squeeze(x, axis)


@squeeze.shape
def _(x, *, axis):
    return np.broadcast_to(np.False_, x).squeeze(axis).shape


@squeeze.vjp("x")
def _(g, x_shape):
    r"""\bar x = \bar y \text{ with them}"""
    return reshape(g, shape=x_shape)


@squeeze.sample
def _(pick: Pick):
    return [pick.array(1, pick.size(0, 3), 1)], {"axis": pick.choice([None, 0, -1, (0, 2), ()])}


# Several arrays into one, and back.


@op()
def concat(*xs, axis=0):
    r"""$y = (x_1, x_2, \ldots)$ along an axis

    The other axes agree. axis=None flattens each array first.
    """
    return np.concatenate(xs, axis=axis)


@concat.shape
def _(*xs, axis):
    return np.concatenate([np.broadcast_to(np.False_, x) for x in xs], axis=axis).shape


@concat.vjp("xs")
def _(g, xs_shape, *, axis):
    r"""\bar x_i = \text{the part of } \bar y \text{ that came from } x_i"""
    sizes = [math.prod(s) if axis is None else s[axis] for s in xs_shape]
    before = () if axis is None else (slice(None),) * (axis if axis >= 0 else axis + len(xs_shape[0]))
    parts = [g[before + (slice(end - n, end),)] for n, end in zip(sizes, accumulate(sizes), strict=True)]
    return tuple([reshape(p, shape=s) for p, s in zip(parts, xs_shape, strict=True)] if axis is None else parts)


@concat.jvp("xs")
def _(d, *, axis):
    r"""\dot y = (\dot x_1, \dot x_2, \ldots)"""
    return concat(*d, axis=axis)


@concat.sample
def _(pick: Pick):
    n, axis = pick.size(1, 3), pick.choice([0, 1, -1, -2, None])
    tall = axis in (0, -2, None)
    sizes = [pick.size(0, 3) for _ in range(pick.size(1, 3))]
    return [pick.array(*((k, n) if tall else (n, k))) for k in sizes], {"axis": axis}


@op()
def stack(*xs, axis=0):
    r"""$y_{i \ldots} = (x_i)_{\ldots}$: arrays of one shape along a new axis"""
    return np.stack(xs, axis=axis)


@stack.shape
def _(*xs, axis):
    return np.stack([np.broadcast_to(np.False_, x) for x in xs], axis=axis).shape


@stack.vjp("xs")
def _(g, xs_shape, *, axis):
    r"""\bar x_i = \bar y_{i \ldots}"""
    before = (slice(None),) * (axis if axis >= 0 else axis + g.ndim)
    return tuple([g[before + (i,)] for i in range(len(xs_shape))])


@stack.jvp("xs")
def _(d, *, axis):
    r"""\dot y_{i \ldots} = (\dot x_i)_{\ldots}"""
    return stack(*d, axis=axis)


@stack.sample
def _(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 3))[: pick.size(0, 2)]
    return [pick.array(*shape) for _ in range(pick.size(1, 3))], {"axis": pick.size(-len(shape) - 1, len(shape))}


@op(linear=("x",), outputs=("ys",))
def split(x, *, indices_or_sections, axis=0):
    r"""$(y_1, y_2, \ldots) = x$ in parts along an axis

    indices_or_sections    an integer: that many equal parts; or the places at which to cut, as in `np.split`

    Returns a tuple. Raises ShapeError where the parts cannot be equal.
    """
    return tuple(np.split(x, indices_or_sections, axis=axis))


@split.shape
def _(x, *, indices_or_sections, axis):
    return [y.shape for y in np.split(np.broadcast_to(np.False_, x), indices_or_sections, axis=axis)]


@split.vjp("x")
def _(g, x_shape, *, indices_or_sections, axis):
    r"""\bar x = (\bar y_1, \bar y_2, \ldots)"""
    whole = concat(*g, axis=axis)
    if whole.shape == x_shape:
        return whole
    places = np.split(np.arange(x_shape[axis]), indices_or_sections)  # cuts out of order: parts overlap
    total = np.zeros(x_shape, whole.dtype)
    for part, place in zip(g, places, strict=True):
        total = total + _embedded(part, place[0] if place.size else 0, x_shape, axis)
    return total


def _embedded(part, start: int, shape, axis: int):
    """`part` from `start` on along an axis, in zeros of `shape`."""
    axis %= len(shape)
    after = shape[axis] - start - part.shape[axis]
    zeros = [np.zeros((*shape[:axis], n, *shape[axis + 1 :]), part.dtype) for n in (start, after)]
    return concat(zeros[0], part, zeros[1], axis=axis)


@split.sample
def _(pick: Pick):
    axis, cut = pick.choice([0, 1, -1]), pick.choice([1, 2, (1,), (1, 2), (-1,), (0, 2, 2), (2, 1), (9,)])
    n = 2 * pick.size(1, 2)
    return [pick.array(*((n, 3) if axis == 0 else (3, n)))], {"indices_or_sections": cut, "axis": axis}


# The same numbers in another order.


@op(linear=("x",))
def flip(x, *, axis=None):
    r"""$y_i = x_{n-1-i}$ along each axis given; None: along all"""
    return np.flip(x, axis)


@flip.shape
def _(x, *, axis):
    return x


@flip.vjp("x")
def _(g, *, axis):
    r"""\bar x_i = \bar y_{n-1-i}"""
    return flip(g, axis=axis)


@flip.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"axis": some_axis(pick, 2)}


@op(linear=("x",))
def roll(x, *, shift, axis=None):
    r"""$y_{i + s \,\mathrm{mod}\, n} = x_i$

    shift, axis    integers, or tuples that pair up. axis=None rolls the flattened array
    """
    return np.roll(x, shift, axis)


@roll.shape
def _(x, *, shift, axis):
    return x


@roll.vjp("x")
def _(g, *, shift, axis):
    r"""\bar x_i = \bar y_{i + s \,\mathrm{mod}\, n}"""
    return roll(g, shift=tuple(-s for s in shift) if np.iterable(shift) else -shift, axis=axis)


@roll.sample
def _(pick: Pick):
    shift, axis = pick.choice([(1, None), (-2, 0), (5, -1), ((1, 2), (0, 1)), ((1, 1), (0, 0)), (2, (0, 1))])
    return [pick.array(pick.size(0, 3), pick.size(1, 4))], {"shift": shift, "axis": axis}


# Triangles.


@op(linear=("x",))
def tril(x, *, k=0):
    r"""$y_{ij} = [\,j \leq i + k\,] \, x_{ij}$, of each matrix in a stack"""
    return np.tril(x, k)


@op(linear=("x",))
def triu(x, *, k=0):
    r"""$y_{ij} = [\,j \geq i + k\,] \, x_{ij}$, of each matrix in a stack"""
    return np.triu(x, k)


@tril.vjp("x")
def _(g, x_shape, *, k):
    r"""\bar x_{ij} = [\,j \leq i + k\,] \, \bar y_{ij}"""
    return _summed(tril(g, k=k), x_shape)


@triu.vjp("x")
def _(g, x_shape, *, k):
    r"""\bar x_{ij} = [\,j \geq i + k\,] \, \bar y_{ij}"""
    return _summed(triu(g, k=k), x_shape)


def _summed(g, shape):
    return g if g.shape == shape else sum_to(g, shape=shape)


def _square(x, *, k):
    return x if len(x) > 1 else x + x  # a vector is a row, repeated


def _some_matrix(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.array(*pick.choice([(m, n), (2, n, m), (n,)]))], {"k": pick.size(-2, 2)}


for _op in (tril, triu):
    _op.shape(_square)
    _op.sample(_some_matrix)
