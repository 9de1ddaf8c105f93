"""Shapes and places: the same numbers in another arrangement."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from engine import ops
from engine.ops.numpy_protocol.table import (
    CASTING,
    ORDER,
    OUT,
    UNUSED,
    checked_axis,
    converted,
    holds_traced,
    plain,
    rearranged,
    stands_in,
    value,
)
from engine.traced import primal


def _is_fortran(order):
    """Is the order column-major? Raises for what is neither: "K" and "A" follow memory, which a derivative does not."""
    if order not in ("C", "F", "A", None):
        raise TypeError(f'order={order!r}: "C" or "F" is wanted')
    return order == "F"


@stands_in("reshape")
def _(a, /, shape=None, order="C", *, newshape=None, copy=UNUSED):
    a, shape = value(a), shape if newshape is None else newshape
    shape = (int(shape),) if np.ndim(shape) == 0 else tuple(int(n) for n in shape)
    if not _is_fortran(order):
        return ops.reshape(a, shape=shape)
    return ops.permute_dims(ops.reshape(ops.permute_dims(a), shape=shape[::-1]))


@stands_in("ravel")
def _(a, order="C"):
    a = value(a)
    return ops.reshape(ops.permute_dims(a) if _is_fortran(order) else a, shape=(a.size,))


@stands_in("transpose", "permute_dims")
def _(a, axes=None):
    a = value(a)
    return ops.permute_dims(a, axes=None if axes is None else tuple(int(i) for i in axes))


@stands_in("matrix_transpose", "linalg.matrix_transpose")
def _(x, /):
    return ops.matrix_transpose(x)


@stands_in("swapaxes")
def _(a, axis1, axis2):
    return ops.swapaxes(value(a), axis1, axis2)


@stands_in("moveaxis")
def _(a, source, destination):
    a = value(a)
    checked_axis(source, a.shape)
    return ops.moveaxis(a, source, destination)


@stands_in("rollaxis")
def _(a, axis, start=0):
    marked = np.rollaxis(np.broadcast_to(np.False_, range(a.ndim)), axis, start)  # each axis has its number as size
    return ops.permute_dims(a, axes=marked.shape)


@stands_in("expand_dims")
def _(a, axis):
    return ops.expand_dims(value(a), axis=tuple(axis) if isinstance(axis, list) else axis)


@stands_in("squeeze")
def _(a, axis=None):
    return ops.squeeze(value(a), axis=axis)


@stands_in("atleast_1d")
def _(*arys):
    return _each(arys, lambda a: a if a.ndim else ops.reshape(a, shape=(1,)))


@stands_in("atleast_2d")
def _(*arys):
    return _each(arys, _two_dimensional)


@stands_in("atleast_3d")
def _(*arys):
    return _each(arys, _three_dimensional)


def _each(arrays, reshaped):
    done = tuple(reshaped(value(a)) for a in arrays)
    return done[0] if len(done) == 1 else done


def _two_dimensional(a):
    return a if a.ndim > 1 else ops.reshape(a, shape=(1, a.size))


def _three_dimensional(a):
    return a if a.ndim > 2 else ops.reshape(a, shape=(*_two_dimensional(a).shape, 1))


@stands_in("broadcast_to")
def _(array, shape, subok=UNUSED):
    return ops.broadcast_to(value(array), shape=(shape,) if np.ndim(shape) == 0 else tuple(shape))


@stands_in("broadcast_arrays")
def _(*args, subok=UNUSED):
    arrays = [value(a) for a in args]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    return tuple(ops.broadcast_to(a, shape=shape) for a in arrays)


@stands_in("meshgrid")
def _(*xi, copy=UNUSED, sparse=False, indexing="xy"):
    n, xs = len(xi), [value(x) for x in xi]
    order = [1, 0, *range(2, n)] if indexing == "xy" and n > 1 else list(range(n))
    sizes = [0] * n
    for x, place in zip(xs, order, strict=True):
        sizes[place] = x.size
    laid = [ops.reshape(x, shape=tuple(-1 if i == p else 1 for i in range(n))) for x, p in zip(xs, order, strict=True)]
    return tuple(x if sparse else ops.broadcast_to(x, shape=tuple(sizes)) for x in laid)


# Putting together.


def _joined(join, arrays, axis, dtype):
    return converted(join([value(a) for a in arrays], axis=axis), dtype)


@stands_in("concatenate", "concat")
def _(arrays, /, axis=0, out=OUT, *, dtype=None, casting=CASTING):
    return _joined(ops.concat, _parts(arrays), axis, dtype)


@stands_in("stack")
def _(arrays, axis=0, out=OUT, *, dtype=None, casting=CASTING):
    return _joined(ops.stack, _parts(arrays), axis, dtype)


@stands_in("vstack")
def _(tup, *, dtype=None, casting=CASTING):
    return _joined(ops.concat, [_two_dimensional(value(a)) for a in _parts(tup)], 0, dtype)


@stands_in("hstack")
def _(tup, *, dtype=None, casting=CASTING):
    parts = [a if a.ndim else ops.reshape(a, shape=(1,)) for a in map(value, _parts(tup))]
    return _joined(ops.concat, parts, 0 if parts[0].ndim == 1 else 1, dtype)


@stands_in("dstack")
def _(tup):
    return _joined(ops.concat, [_three_dimensional(value(a)) for a in _parts(tup)], 2, None)


@stands_in("column_stack")
def _(tup):
    parts = [a if a.ndim > 1 else ops.reshape(a, shape=(a.size, 1)) for a in map(value, _parts(tup))]
    return _joined(ops.concat, parts, 1, None)


def _parts(arrays):
    """The arrays to join: of a list, or along the first axis of one array."""
    return list(arrays)


@stands_in("append")
def _(arr, values, axis=None):
    return ops.concat([value(arr), value(values)], axis=axis)


@stands_in("block")
def _(arrays):
    depth = _depth(arrays)
    ndim = max(depth, *(len(np.shape(primal(a))) for a in _leaves(arrays)))
    return _block(arrays, -depth, ndim)


def _depth(nest):
    return 1 + _depth(nest[0]) if isinstance(nest, list) else 0


def _leaves(nest):
    return itertools.chain.from_iterable(map(_leaves, nest)) if isinstance(nest, list) else [nest]


def _block(nest, axis, ndim):
    if isinstance(nest, list):
        return ops.concat([_block(part, axis + 1, ndim) for part in nest], axis=axis)
    a = value(nest)
    return ops.reshape(a, shape=(1,) * (ndim - a.ndim) + a.shape)


# Taking apart.


@stands_in("split")
def _(ary, indices_or_sections, axis=0):
    return _split(ary, indices_or_sections, axis)


@stands_in("array_split")
def _(ary, indices_or_sections, axis=0):
    return _split(ary, _sections(indices_or_sections, value(ary).shape[axis]), axis)


def _sections(sections, n):
    """Where to cut n things into parts whose sizes differ by one at most, the larger ones first."""
    if np.ndim(sections):
        return sections
    small, larger = divmod(n, sections)
    return np.cumsum([small + 1] * larger + [small] * (sections - larger))[:-1]


def _split(a, where, axis):
    where = tuple(int(i) for i in where) if np.ndim(where) else int(where)
    return list(ops.split(value(a), indices_or_sections=where, axis=axis))


@stands_in("hsplit")
def _(ary, indices_or_sections):
    return _split(ary, indices_or_sections, 0 if ary.ndim == 1 else 1)


@stands_in("vsplit")
def _(ary, indices_or_sections):
    return _split(ary, indices_or_sections, 0)


@stands_in("dsplit")
def _(ary, indices_or_sections):
    return _split(ary, indices_or_sections, 2)


@stands_in("unstack")
def _(x, /, *, axis=0):
    return tuple(ops.moveaxis(x, axis, 0))


@stands_in("take")
def _(a, indices, axis=None, out=OUT, mode="raise"):
    a, indices = value(a), np.asarray(plain(indices))
    if not indices.size:
        indices = indices.astype(int)  # an empty list has no integers in it
    if mode != "raise":
        return rearranged(lambda places: np.take(places, indices, axis=axis, mode=mode), a)
    return ops.take(a, indices, axis=axis)


@stands_in("take_along_axis")
def _(arr, indices, axis=-1):
    return ops.take_along_axis(value(arr), plain(indices), axis=axis)


@stands_in("compress")
def _(condition, a, axis=None, out=OUT):
    return rearranged(lambda places: np.compress(plain(condition), places, axis=axis), value(a))


@stands_in("extract")
def _(condition, arr):
    return rearranged(lambda places: np.extract(plain(condition), places), value(arr))


@stands_in("delete")
def _(arr, obj, axis=None):
    return rearranged(lambda places: np.delete(places, plain(obj), axis=axis), value(arr))


@stands_in("insert")
def _(arr, obj, values, axis=None):
    a = value(arr)
    new = converted(value(values), a.dtype)
    return rearranged(lambda places, new_places: np.insert(places, plain(obj), new_places, axis=axis), a, new)


def _line(a):
    return ops.reshape(a, shape=(a.size,))


# Repeating, turning, shifting.


@stands_in("repeat")
def _(a, repeats, axis=None):
    return ops.repeat(value(a), repeats=repeats if np.ndim(repeats) == 0 else tuple(repeats), axis=axis)


@stands_in("tile")
def _(A, reps):
    return ops.tile(value(A), repetitions=reps if np.ndim(reps) == 0 else tuple(reps))


@stands_in("flip")
def _(m, axis=None):
    return ops.flip(value(m), axis=axis)


@stands_in("flipud")
def _(m):
    return ops.flip(value(m), axis=0)


@stands_in("fliplr")
def _(m):
    return ops.flip(value(m), axis=1)


@stands_in("rot90")
def _(m, k=1, axes=(0, 1)):
    return rearranged(lambda places: np.rot90(places, k, axes), value(m))


@stands_in("roll")
def _(a, shift, axis=None):
    shift = int(shift) if np.ndim(shift) == 0 else tuple(int(s) for s in shift)
    return ops.roll(value(a), shift=shift, axis=axis)


@stands_in("pad")
def _(array, pad_width, mode="constant", constant_values=0, **other: Any):
    if other or holds_traced(constant_values):
        raise TypeError(f"np.pad: {', '.join(other) or 'traced constant_values'} is not possible where an argument is differentiated")
    return ops.pad(value(array), pad_width=pad_width, mode=mode, constant_values=constant_values)


# Triangles and diagonals.


@stands_in("tril")
def _(m, k=0):
    return ops.tril(value(m), k=k)


@stands_in("triu")
def _(m, k=0):
    return ops.triu(value(m), k=k)


@stands_in("diagonal")
def _(a, offset=0, axis1=0, axis2=1):
    return diagonal(value(a), offset, axis1, axis2)


@stands_in("linalg.diagonal")
def _(x, /, *, offset=0):
    return diagonal(x, offset, -2, -1)


def diagonal(a, offset, axis1, axis2):
    """The elements whose indices on the two axes differ by `offset`, as a last axis."""
    return rearranged(lambda places: np.diagonal(places, offset, axis1, axis2), a)


@stands_in("trace")
def _(a, offset=0, axis1=0, axis2=1, dtype=None, out=OUT):
    return ops.sum(diagonal(converted(value(a), dtype), offset, axis1, axis2), axis=-1)


@stands_in("linalg.trace")
def _(x, /, *, offset=0, dtype=None):
    return ops.sum(diagonal(converted(x, dtype), offset, -2, -1), axis=-1)


@stands_in("diag")
def _(v, k=0):
    v = value(v)
    return _on_diagonal(v, k) if v.ndim == 1 else rearranged(lambda places: np.diag(places, k), v)


@stands_in("diagflat")
def _(v, k=0):
    return _on_diagonal(_line(value(v)), k)


def _on_diagonal(v, k):
    n = v.size + abs(k)
    return ops.scatter(v, key=np.nonzero(np.eye(n, k=k)), shape=(n, n))


@stands_in("full_like")
def _(a, fill_value, dtype=None, order=ORDER, subok=UNUSED, shape=None):
    model = primal(value(a))
    fill = value(fill_value)
    if not holds_traced(fill):
        return np.full_like(model, fill, dtype=dtype, shape=shape)
    return ops.broadcast_to(converted(fill, dtype or model.dtype), shape=model.shape if shape is None else shape)
