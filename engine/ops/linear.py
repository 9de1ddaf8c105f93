r"""Products of matrices and vectors.

One op carries them: matmul, linear in both factors. Its two rules are each other's kind, so a derivative of any order is
again a product, and the kernel that makes one product fast makes them all fast. Vectors, `dot`, `inner`, `tensordot` and the
rest are the same product after some axes have been put in or taken out, and need no rules of their own.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.op import as_array, op
from engine.ops import layout
from engine.ops.layout import matrix_transpose
from engine.shapes import Notation, ShapeError
from engine.traced import NUMPY

__all__ = ["matmul", "vecdot"]


@op("... m k, ... k n -> ... m n", linear=("x", "w"), flops="2*m*k*n")
def matmul(x, w):
    r"""$y_{ij} = \sum_p x_{ip} w_{pj}$

    The rules follow from $\langle \bar Y, \dot X W \rangle = \langle \bar Y W^\top, \dot X \rangle$:
    carry $W$ to the other side of the inner product.
    """
    return np.matmul(x, w)


@matmul.vjp("x")
def _(g, w):
    r"""\bar X = \bar Y W^\top"""
    return matmul(g, matrix_transpose(w))


@matmul.vjp("w")
def _(g, x):
    r"""\bar W = X^\top \bar Y"""
    return matmul(matrix_transpose(x), g)


matrices = matmul  # the op, OPS["matmul"]; from here on the name takes vectors too


def matmul(x: Any, w: Any) -> Any:  # type: ignore[no-redef]
    r"""$y_{ij} = \sum_p x_{ip} w_{pj}$, as `x @ w`: matrices, vectors, and stacks of matrices

    x   (..., m, k), or a vector (k), which counts as one row
    w   (..., k, n), or a vector (k), which counts as one column
    y   (..., m, n), without the axis m or n that a vector does not have. The leading axes broadcast

    Any real dtype; promotes as NumPy does. Raises ShapeError where the axes k differ, and for a scalar.
    """
    x, w = _value(x), _value(w)
    rows, columns = len(x.shape), len(w.shape)
    if rows == 2 == columns:
        return matrices(x, w)
    if rows == 0 or columns == 0:
        raise ShapeError(
            f"matmul: {'w' if rows else 'x'} is a scalar, and has no axis to sum over\n"
            f"  wants  ... m k, ... k n -> ... m n\n  given  x: {x.shape}  w: {w.shape}\n  to scale an array write x * w"
        )
    if rows == 1 or columns == 1:
        return _with_vectors(x, w)
    if columns == 2 and x.shape[-1] == w.shape[0]:  # one matrix for the whole stack: one product, not one for each
        y = matrices(layout.reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1])), w)
        return layout.reshape(y, shape=(*x.shape[:-1], w.shape[1]))
    return matrices(x, w)


def _with_vectors(x, w):
    """A vector gets the axis that it lacks, and the product loses it again."""
    row, column = len(x.shape) == 1, len(w.shape) == 1
    _agree("matmul", f"{'k' if row else '... m k'}, {'k' if column else '... k n'} -> ...", x, w)
    y = matmul(
        layout.expand_dims(x, axis=0) if row else x,
        layout.expand_dims(w, axis=1) if column else w,
    )
    extra = (-2,) * row + (-1,) * column
    return layout.squeeze(y, axis=extra)


def _agree(name, text, x, w):
    """Raise ShapeError, as an op with this notation would, unless the shapes fit."""
    notation = Notation(text)
    try:
        notation.bind(("x", "w"), (x.shape, w.shape))
    except ShapeError as e:
        raise ShapeError(f"{name}: {e}\n  wants  {text}\n  given  x: {x.shape}  w: {w.shape}") from None


def _value(x):
    return x if hasattr(x, "shape") else as_array(x)


@op("... n, ... n -> ...", linear=("x", "w"), flops="2*n")
def vecdot(x, w):
    r"""$y = \sum_i x_i w_i$"""
    return np.einsum("...i,...i->...", x, w)


@vecdot.vjp("x")
def _(g, w):
    r"""\bar x = \bar y\, w"""
    return layout.expand_dims(g, axis=-1) * w


@vecdot.vjp("w")
def _(g, x):
    r"""\bar w = \bar y\, x"""
    return layout.expand_dims(g, axis=-1) * x


rows = vecdot  # the op, OPS["vecdot"]: along the last axis


def vecdot(x: Any, w: Any, *, axis: int = -1) -> Any:  # type: ignore[no-redef]
    r"""$y = \sum_i x_i^* w_i$ along one axis; the others broadcast

    Complex x is conjugated, as in the array API standard. Raises ShapeError where the two sizes differ.
    """
    x, w = _conjugate(_value(x)), _value(w)
    if axis != -1:
        x, w = _moved(x, axis, -1), _moved(w, axis, -1)
    return rows(x, w)


def _conjugate(x):
    return np.conj(x) if x.dtype.kind == "c" else x


def _moved(x, source, target):
    """The axes of x with `source` moved to `target`."""
    axes = list(range(len(x.shape)))
    axes.insert(target % len(axes), axes.pop(source))
    return layout.permute_dims(x, axes=tuple(axes))


for _function, _stand_in in {np.matmul: matmul}.items():
    NUMPY[_function] = _stand_in
