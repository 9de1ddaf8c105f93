r"""Indexing: choosing elements of an array, and its transpose, which puts them back and adds up where a place was chosen twice.

A key is anything that NumPy takes between square brackets: integers, slices, None, Ellipsis, boolean masks and integer
arrays, mixed as NumPy mixes them.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op, shape_of
from engine.ops.layout import axes_of, inverse, moveaxis, permute_dims, reshape, sum_to

__all__ = ["add_at", "diag", "diagonal", "getitem", "pad", "repeat", "scatter", "scatter_add", "take", "take_along_axis", "tile"]


@op(linear=("x",))
def getitem(x, *, key):
    r"""$y = x[\mathrm{key}]$, by NumPy's rules

    key    what stands between square brackets; a slice is a view, as in NumPy
    """
    return x[key]


@getitem.shape
def _(x, *, key):
    return np.broadcast_to(np.False_, x)[key].shape


@getitem.vjp("x")
def _(g, x_shape, *, key):
    r"""\bar x[\mathrm{key}] {+}{=} \bar y, \text{ from } 0"""
    return scatter(g, key=key, shape=x_shape)


@getitem.accumulate("x")
def _(total, g, *, key):
    r"""\bar x[\mathrm{key}] {+}{=} \bar y"""
    _add_at(total, key, g)


@op(linear=("values",))
def scatter(values, *, key, shape):
    r"""$y[\mathrm{key}] {+}{=} v$, from $y = 0$ of the given shape: the transpose of `getitem`

    values    broadcasts to the shape of y[key]. Where key names a place more than once, its values add up
    """
    y = np.zeros(shape, values.dtype)
    return _add_at(y, key, values)


def _add_at(y, key, values):
    if type(key) is np.ndarray and key.dtype.kind in "iu" and y.ndim > 1 and y.flags.c_contiguous:
        _add_rows(y, key, values)
    elif _may_repeat(key):
        np.add.at(y, key, values)
    else:
        y[key] += values
    return y


def _add_rows(y, rows, values):
    """As np.add.at into a C-ordered y; np.add.at is several times faster on one axis than on two."""
    rows = np.arange(len(y))[rows]  # from 0 on; raises IndexError outside
    width = math.prod(y.shape[1:])
    places = rows[..., None] * width + np.arange(width)
    np.add.at(y.reshape(-1), places.reshape(-1), np.broadcast_to(values, rows.shape + y.shape[1:]).reshape(-1))


def _may_repeat(key) -> bool:
    """Can `key` name a place twice? Only integer arrays can."""
    parts = key if type(key) is tuple else (key,)
    return any(isinstance(k, (np.ndarray, list, tuple)) and np.asarray(k).dtype.kind in "iu" for k in parts)


@scatter.shape
def _(values, *, key, shape):
    return tuple(shape)


@scatter.vjp("values")
def _(g, values_shape, *, key):
    r"""\bar v = \bar y[\mathrm{key}]"""
    return _gathered(g, key, values_shape)


def _gathered(g, key, shape):
    chosen = getitem(g, key=key)
    return chosen if chosen.shape == shape else sum_to(chosen, shape=shape)


@op()
def add_at(x, values, *, key):
    r"""$y = x, \quad y[\mathrm{key}] {+}{=} v$, in a new array

    values    broadcasts to the shape of x[key]. Where key names a place more than once, its values add up
    """
    y = np.array(x, dtype=np.result_type(x, values), order="C")
    return _add_at(y, key, values)


@add_at.shape
def _(x, values, *, key):
    return x


@add_at.vjp("x")
def _(g):
    r"""\bar x = \bar y"""
    return g


@add_at.jvp("x")
def _(d):
    r"""\dot y = \dot x"""
    return d


@add_at.vjp("values")
def _(g, values_shape, *, key):
    r"""\bar v = \bar y[\mathrm{key}]"""
    return _gathered(g, key, values_shape)


@add_at.jvp("values")
def _(d, x_shape, *, key):
    r"""\dot y[\mathrm{key}] {+}{=} \dot v, \text{ from } 0"""
    return scatter(d, key=key, shape=x_shape)


def scatter_add(x, indices, values):
    """`x` in a new array, with `values` added at x[indices]; where a place is named twice, both are added.

    indices    any key: an integer array for rows, a tuple of integer arrays, a mask, slices
    """
    return add_at(x, values, key=indices)


@op(linear=("x",), constant=("indices",))
def take(x, indices, *, axis=None):
    r"""$y_{\ldots i \ldots} = x_{\ldots k_i \ldots}$ along an axis

    indices    integers, of any shape, which replaces the axis. axis=None takes from the flattened array
    """
    return np.take(x, indices, axis=axis)


@take.shape
def _(x, indices, *, axis):
    if axis is None:
        return indices
    axis = axis if axis >= 0 else axis + len(x)
    return x[:axis] + indices + x[axis + 1 :]


@take.vjp("x")
def _(g, x_shape, indices, *, axis):
    r"""\bar x_{\ldots k_i \ldots} {+}{=} \bar y_{\ldots i \ldots}"""
    if axis is None or not x_shape:
        return reshape(scatter(g, key=indices, shape=(math.prod(x_shape),)), shape=x_shape)
    return scatter(g, key=_from_axis(indices, axis, len(x_shape)), shape=x_shape)


@take.accumulate("x")
def _(total, g, indices, *, axis):
    r"""\bar x_{\ldots k_i \ldots} {+}{=} \bar y_{\ldots i \ldots}"""
    if total.ndim < 2:
        _add_at(total.reshape(-1), indices, g)
    elif axis is None:
        _add_at(total, np.unravel_index(np.asarray(indices) % total.size, total.shape), g)
    else:
        _add_at(total, _from_axis(indices, axis, total.ndim), g)


def _from_axis(indices, axis, ndim: int):
    """The key that takes `indices` on an axis, and everything on the others."""
    before = (slice(None),) * (axis if axis >= 0 else axis + ndim)
    return (*before, indices) if before else indices


@op(linear=("x",), constant=("indices",))
def take_along_axis(x, indices, *, axis=-1):
    r"""$y_{i j} = x_{k_{ij} j}$: for each place its own index along the axis

    indices    integers, with as many axes as x; the other axes broadcast. axis=None takes from the flattened array
    """
    return np.take_along_axis(x, indices, axis=axis)


@take_along_axis.shape
def _(x, indices, *, axis):
    return np.take_along_axis(np.broadcast_to(np.False_, x), np.zeros(indices, np.intp), axis=axis).shape


@take_along_axis.vjp("x")
def _(g, x_shape, indices, *, axis):
    r"""\bar x_{k_{ij} j} {+}{=} \bar y_{i j}"""
    if axis is None:
        return reshape(scatter(g, key=indices, shape=(math.prod(x_shape),)), shape=x_shape)
    grid = list(np.ogrid[tuple(slice(n) for n in x_shape)])
    grid[axis] = indices
    return scatter(g, key=tuple(grid), shape=x_shape)


@op(linear=("x",))
def repeat(x, *, repeats, axis=None):
    r"""$y = (x_1, x_1, \ldots, x_2, x_2, \ldots)$

    repeats    how often each element occurs: an integer, or one for each. axis=None repeats the flattened array
    """
    return np.repeat(x, repeats, axis)


@repeat.shape
def _(x, *, repeats, axis):
    return np.repeat(np.broadcast_to(np.False_, x), repeats, axis).shape


@repeat.vjp("x")
def _(g, x_shape, *, repeats, axis):
    r"""\bar x_i = \sum_{\text{copies}} \bar y"""
    shape = x_shape if axis is not None and x_shape else (math.prod(x_shape),)  # a 0-d array repeats like one of a single element
    axis = 0 if axis is None else axes_of(axis, len(shape))[0]
    copies = np.repeat(np.arange(shape[axis]), repeats)
    return reshape(scatter(g, key=(slice(None),) * axis + (copies,), shape=shape), shape=x_shape)


@repeat.sample
def _(pick: Pick):
    axis = pick.choice([None, 0, -1])
    m, n = pick.size(0, 3), pick.size(1, 3)
    count = {None: m * n, 0: m, -1: n}[axis]
    repeats = pick.choice([0, 1, 3, tuple(pick.integers(count, high=3).tolist())])
    return [pick.array(m, n)], {"repeats": repeats, "axis": axis}


@op(linear=("x",))
def tile(x, *, repetitions):
    r"""$y = (x, x, \ldots)$ along each axis

    repetitions    an integer or one for each axis; fewer or more than axes as in `np.tile`
    """
    return np.tile(x, repetitions)


@tile.shape
def _(x, *, repetitions):
    return tuple(r * n for r, n in _tiling(x, repetitions))


def _tiling(shape, repetitions) -> list[tuple[int, int]]:
    """(repetition, size) for each axis of the result."""
    times = tuple(repetitions) if np.iterable(repetitions) else (repetitions,)
    ndim = len(shape) if len(shape) > len(times) else len(times)
    return list(zip((1,) * (ndim - len(times)) + times, (1,) * (ndim - len(shape)) + tuple(shape), strict=True))


@tile.vjp("x")
def _(g, x_shape, *, repetitions):
    r"""\bar x = \sum_{\text{copies}} \bar y"""
    pairs = _tiling(x_shape, repetitions)
    blocks = reshape(g, shape=tuple(size for pair in pairs for size in pair))
    return reshape(sum_to(blocks, shape=tuple(size for _, n in pairs for size in (1, n))), shape=x_shape)


@tile.sample
def _(pick: Pick):
    repetitions = pick.choice([0, 1, 2, (2,), (1, 3), (2, 1, 2), ()])
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"repetitions": repetitions}


MODES = ("constant", "edge", "reflect", "symmetric", "wrap")


@op()
def pad(x, *, pad_width, mode="constant", constant_values=0):
    r"""$y = (c, \ldots, c, x_1, \ldots, x_n, c, \ldots, c)$ along each axis

    pad_width        an integer, a pair (before, after), or a pair for each axis, as in `np.pad`
    mode             "constant", or what to fill with of x itself: "edge", "reflect", "symmetric", "wrap"
    constant_values  c, in mode "constant"

    Raises ShapeError for a negative width or another mode.
    """
    if mode == "constant":
        return np.pad(x, pad_width, constant_values=constant_values)
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, it may be {', '.join(MODES)}")
    return np.pad(x, pad_width, mode=mode)


def _widths(pad_width, ndim: int):
    """[before, after] for each axis."""
    return np.broadcast_to(pad_width, (ndim, 2)).tolist()


@pad.shape
def _(x, *, pad_width, mode, constant_values):
    return tuple(b + n + a for n, (b, a) in zip(x, _widths(pad_width, len(x)), strict=True))


@pad.vjp("x")
def _(g, x_shape, *, pad_width, mode):
    r"""\bar x_i = \sum \bar y \text{ over the places that } x_i \text{ fills}"""
    widths = _widths(pad_width, len(x_shape))
    if mode == "constant":
        return g[tuple([slice(b, b + n) for n, (b, _) in zip(x_shape, widths, strict=True)])]
    sources = [np.pad(np.arange(n), w, mode=mode) for n, w in zip(x_shape, widths, strict=True)]
    return scatter(g, key=np.ix_(*sources), shape=x_shape)


@pad.jvp("x")
def _(d, *, pad_width, mode):
    r"""\dot y = (0, \ldots, 0, \dot x_1, \ldots, \dot x_n, 0, \ldots, 0)"""
    return pad(d, pad_width=pad_width, mode=mode)


@pad.sample
def _(pick: Pick):
    mode = pick.choice(MODES)
    x = pick.array(pick.size(0 if mode == "constant" else 1, 3), pick.size(1, 3))
    width = pick.choice([0, 2, (1, 0), ((0, 3), (2, 1)), ((1,), (0,))])
    return [x], {"pad_width": width, "mode": mode, "constant_values": pick.choice([0, 0.5])}


# Diagonals.


@op(linear=("x",))
def diagonal(x, *, offset=0, axis1=0, axis2=1):
    r"""$y_{\ldots i} = x_{i, i + k, \ldots}$

    offset          k: above the main diagonal, or below it if negative
    axis1, axis2    of the matrices, 0 and 1 as in NumPy; the diagonal is the last axis of the result
    """
    return np.diagonal(x, offset, axis1, axis2)


@diagonal.shape
def _(x, *, offset, axis1, axis2):
    return np.diagonal(np.broadcast_to(np.False_, x), offset, axis1, axis2).shape


@diagonal.vjp("x")
def _(g, x_shape, *, offset, axis1, axis2):
    r"""\bar x_{i, i + k, \ldots} = \bar y_{\ldots i}, \quad 0 \text{ elsewhere}"""
    first = axes_of((axis1, axis2), len(x_shape))
    order = first + tuple(i for i in range(len(x_shape)) if i not in first)
    key = _on_diagonal(g.shape[-1], offset)
    return permute_dims(scatter(moveaxis(g, -1, 0), key=key, shape=tuple(x_shape[i] for i in order)), axes=inverse(order))


def _on_diagonal(n: int, offset: int):
    i = np.arange(n)
    return (i, i + offset) if offset >= 0 else (i - offset, i)


@diagonal.sample
def _(pick: Pick):
    x = pick.array(pick.size(0, 3), pick.size(1, 3), pick.size(1, 3))
    axis1, axis2 = pick.choice([(0, 1), (1, 0), (0, 2), (-1, -2)])
    return [x], {"offset": pick.size(-2, 2), "axis1": axis1, "axis2": axis2}


def diag(x, *, k=0):
    """The k-th diagonal of a matrix, or a matrix of zeros with `x` on its k-th diagonal. As `np.diag`."""
    shape = shape_of(x)
    if len(shape) != 1:
        return diagonal(x, offset=k)
    n = shape[0] + (k if k >= 0 else -k)
    return scatter(x, key=_on_diagonal(shape[0], k), shape=(n, n))


KEYS = [
    0,
    (1, -1),
    slice(None, None, -1),
    (slice(1, 3), None, slice(None, None, 2)),
    (..., 0),
    (),
    None,
    np.array([0, 2, 0, -1]),
    np.array([[1, 1], [0, 2]]),
    (slice(None), np.array([0, 0])),
    (np.array([0, 2, 0]), np.array([1, -1, 1])),
    (np.array([0, 1]), slice(None), np.array([1])),
    (0, slice(None), np.array([1, 1])),
    (np.array([[0], [1]]), ..., np.array([0, 1])),
    np.array([True, False, True]),
    (np.array([False, True, True]), 1),
    (np.array([True, False, True]), np.array([1, 0])),
    (slice(2, 2), np.array([], np.intp)),
    (True, slice(None)),
]
"""Keys of every kind for an array of shape (3, 3, 2), on which the samplers draw."""


@getitem.sample
def _(pick: Pick):
    return [pick.array(3, 3, 2)], {"key": pick.choice(KEYS)}


def _chosen(key):
    return np.zeros((3, 3, 2), bool)[key].shape


@scatter.sample
def _(pick: Pick):
    key = pick.choice(KEYS)
    return [pick.array(*pick.choice([_chosen(key), ()]))], {"key": key, "shape": (3, 3, 2)}


@add_at.sample
def _(pick: Pick):
    key = pick.choice(KEYS)
    return [pick.array(3, 3, 2), pick.array(*pick.choice([_chosen(key), ()]))], {"key": key}


@take.sample
def _(pick: Pick):
    axis = pick.choice([None, 0, 1, -1])
    m, n = pick.size(1, 3), pick.size(1, 3)
    size = {None: m * n, 0: m}.get(axis, n)
    shape = (pick.size(0, 4), pick.size(1, 2))[: pick.size(0, 2)]
    return [pick.array(m, n), pick.integers(*shape, low=-size, high=size)], {"axis": axis}


@take_along_axis.sample
def _(pick: Pick):
    m, n, k, axis = pick.size(1, 3), pick.size(1, 3), pick.size(0, 4), pick.choice([0, 1, -1])
    shape, size = ((k, pick.choice([1, n])), m) if axis == 0 else ((pick.choice([1, m]), k), n)
    return [pick.array(m, n), pick.integers(*shape, low=-size, high=size)], {"axis": axis}
