r"""Products of matrices and vectors.

One op carries them: matmul, linear in both factors. Its two rules are each other's kind, so a derivative of any order is
again a product, and the kernel that makes one product fast makes them all fast. matvec and vecdot are the same for vectors.
`dot`, `inner`, `tensordot` and the rest are these after some axes have been moved, and need no rules of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.op import as_array, op
from engine.ops.elementwise import multiply
from engine.ops.layout import expand_dims, matrix_transpose, moveaxis, permute_dims, reshape, turned
from engine.shapes import ShapeError
from engine.traced import NUMPY

__all__ = ["dot", "inner", "kron", "matmul", "matvec", "outer", "tensordot", "vdot", "vecdot"]


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
    return matrices(g, turned(w))


@matmul.vjp("w")
def _(g, x):
    r"""\bar W = X^\top \bar Y"""
    return matrices(turned(x), g)


matrices = matmul  # the op, OPS["matmul"]; from here on the name takes vectors too


def matmul(x: Any, w: Any) -> Any:  # type: ignore[no-redef]
    r"""$y_{ij} = \sum_p x_{ip} w_{pj}$, as `x @ w`: matrices, vectors, and stacks of matrices

    x   (..., m, k), or a vector (k), which counts as one row
    w   (..., k, n), or a vector (k), which counts as one column
    y   (..., m, n), without the axis m or n that a vector does not have. The leading axes broadcast

    Any real dtype; promotes as NumPy does. Raises ShapeError where the axes k differ, and for a scalar.
    """
    x, w = as_given(x), as_given(w)
    m, n = len(x.shape), len(w.shape)
    if m == 2 == n:
        return matrices(x, w)
    if m == 0 or n == 0:
        clash = f"{'w' if m else 'x'} is a scalar, which has no axis to sum over; to scale an array write x * w"
        raise mismatch("matmul", clash, "... m k, ... k n -> ... m n", x=x, w=w)
    if m == 1 or n == 1:
        return _with_vectors(x, w, m == 1, n == 1)
    if n == 2 and x.shape[-1] == w.shape[0]:  # one matrix for the whole stack: one product, not one for each
        y = matrices(reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1])), w)
        return reshape(y, shape=(*x.shape[:-1], w.shape[1]))
    return matrices(x, w)


def _with_vectors(x, w, row, column):
    k = x.shape[-1], w.shape[0 if column else -2]
    if k[0] != k[1]:
        wants = f"{'k' if row else '... m k'}, {'k' if column else '... k n'} -> {'' if row else '... m'} {'' if column else '... n'}"
        raise mismatch("matmul", f"axis k is {k[0]} in x but {k[1]} in w", wants, x=x, w=w)
    if row and column:
        return rows(x, w)
    return matvec(x, w) if column else matvec(matrix_transpose(w), x)


def mismatch(name, clash, wants, **given):
    """The error for shapes that clash before an op is reached."""
    shapes = "  ".join(f"{arg}: {x.shape}" for arg, x in given.items())
    return ShapeError(f"{name}: {clash}\n  wants  {' '.join(wants.split())}\n  given  {shapes}")


def as_given(x):
    """An array or a traced value as it is, anything else as an array."""
    return x if hasattr(x, "shape") else as_array(x)


@op("... m k, ... k -> ... m", linear=("x", "w"), flops="2*m*k")
def matvec(x, w):
    r"""$y_i = \sum_p x_{ip} w_p$, a matrix times a vector"""
    return np.matmul(x, w) if w.ndim == 1 else np.matmul(x, w[..., None])[..., 0]


@matvec.vjp("x")
def _(g, w):
    r"""\bar X = \bar y\, w^\top"""
    return expand_dims(g, axis=-1) * expand_dims(w, axis=-2)


@matvec.vjp("w")
def _(g, x):
    r"""\bar w = X^\top \bar y"""
    return matvec(matrix_transpose(x), g)


@op("... n, ... n -> ...", linear=("x", "w"), flops="2*n")
def vecdot(x, w):
    r"""$y = \sum_i x_i w_i$"""
    return np.einsum("...i,...i->...", x, w)


@vecdot.vjp("x")
def _(g, w):
    r"""\bar x = \bar y\, w"""
    return expand_dims(g, axis=-1) * w


@vecdot.vjp("w")
def _(g, x):
    r"""\bar w = \bar y\, x"""
    return expand_dims(g, axis=-1) * x


rows = vecdot  # the op, OPS["vecdot"]: along the last axis


def vecdot(x: Any, w: Any, *, axis: int = -1) -> Any:  # type: ignore[no-redef]
    r"""$y = \sum_i x_i^* w_i$ along one axis; the others broadcast

    Complex x is conjugated, as in the array API standard. Raises ShapeError where the two sizes differ.
    """
    x, w = _conjugate(as_given(x)), as_given(w)
    if axis != -1:
        x, w = moveaxis(x, axis, -1), moveaxis(w, axis, -1)
    return rows(x, w)


def _conjugate(x):
    return np.conj(x) if x.dtype.kind == "c" else x


# Further products of NumPy's, each the one above on rearranged axes.


def dot(x: Any, w: Any) -> Any:
    r"""$y = \sum_p x_{\ldots p}\, w_{\ldots p j}$, as `np.dot`

    Scalars multiply, vectors and matrices are as in matmul; beyond that the last axis of x is summed against the last
    but one of w, and the others are all kept: (..., k), (..., k, n) -> (..., ..., n). Raises ShapeError.
    """
    x, w = as_given(x), as_given(w)
    if x.shape == () or w.shape == ():
        return multiply(x, w)
    return matmul(x, w) if len(w.shape) <= 2 else tensordot(x, w, axes=((-1,), (-2,)))


def inner(x: Any, w: Any) -> Any:
    r"""$y = \sum_p x_{\ldots p}\, w_{\ldots p}$: the last axes summed, all others kept, as `np.inner`

    Scalars multiply. Raises ShapeError where the last axes differ.
    """
    x, w = as_given(x), as_given(w)
    if x.shape == () or w.shape == ():
        return multiply(x, w)
    return tensordot(x, w, axes=((-1,), (-1,)))


def vdot(x: Any, w: Any) -> Any:
    r"""$y = \sum_i x_i^* w_i$ over all elements, as `np.vdot`

    Raises ShapeError where the numbers of elements differ.
    """
    x, w = as_given(x), as_given(w)
    if x.size != w.size:
        raise mismatch("vdot", f"x has {x.size} elements but w has {w.size}", "as many elements in both", x=x, w=w)
    return rows(_conjugate(reshape(x, shape=(x.size,))), reshape(w, shape=(w.size,)))


def outer(x: Any, w: Any) -> Any:
    r"""$y_{ij} = x_i w_j$ over all elements of x and of w, as `np.outer`"""
    x, w = as_given(x), as_given(w)
    return multiply(reshape(x, shape=(x.size, 1)), reshape(w, shape=(1, w.size)))


def kron(x: Any, w: Any) -> Any:
    r"""$y_{(ik)(jl)} = x_{ij} w_{kl}$: every element of x times the whole of w, as `np.kron`

    The array of fewer axes gets leading axes of size 1.
    """
    x, w = as_given(x), as_given(w)
    n = max(len(x.shape), len(w.shape))
    m, k = ((1,) * (n - len(a.shape)) + a.shape for a in (x, w))
    spread = multiply(reshape(x, shape=_interleaved(m, (1,) * n)), reshape(w, shape=_interleaved((1,) * n, k)))
    return reshape(spread, shape=tuple(a * b for a, b in zip(m, k, strict=True)))


def _interleaved(a, b):
    return tuple(size for pair in zip(a, b, strict=True) for size in pair)


def tensordot(x: Any, w: Any, axes: int | Sequence[Any] = 2) -> Any:
    r"""$y_{ij} = \sum_p x_{ip} w_{pj}$ where i, p and j each stand for several axes, as `np.tensordot`

    axes    n: the last n axes of x against the first n of w; or a pair: the axes of x, the axes of w (each an integer
            or a sequence). The axes of x that are left come first in y, then those of w

    Raises ShapeError where sizes differ, or an axis is missing or named twice.
    """
    x, w = as_given(x), as_given(w)
    p, q = _paired_axes(axes, x, w)
    i = tuple(a for a in range(len(x.shape)) if a not in p)
    j = tuple(a for a in range(len(w.shape)) if a not in q)
    left, middle, right = ([a.shape[n] for n in group] for a, group in ((x, i), (x, p), (w, j)))
    m, k, n = math.prod(left), math.prod(middle), math.prod(right)
    y = matrices(
        reshape(permute_dims(x, axes=i + p), shape=(m, k)),
        reshape(permute_dims(w, axes=q + j), shape=(k, n)),
    )
    return reshape(y, shape=(*left, *right))


def _paired_axes(axes, x, w):
    """The axes to sum, of x and of w, each counted from 0."""
    m, n = len(x.shape), len(w.shape)
    pair = (range(m - axes, m), range(axes)) if isinstance(axes, (int, np.integer)) else axes
    try:
        p, q = (tuple(int(i) for i in np.atleast_1d(side)) for side in pair)
    except (TypeError, ValueError):
        raise TypeError(f"tensordot: axes is an integer, or the axes of x and those of w, not {axes!r}") from None
    wants = f"axes={axes!r}"
    if len(p) != len(q):
        raise mismatch("tensordot", f"{len(p)} axes of x against {len(q)} of w", wants, x=x, w=w)
    for name, chosen, ndim in (("x", p, m), ("w", q, n)):
        if any(not -ndim <= i < ndim for i in chosen):
            raise mismatch("tensordot", f"axes {chosen} of {name}, which has {ndim} axes", wants, x=x, w=w)
    p, q = tuple(i % m for i in p), tuple(i % n for i in q)
    if len(set(p)) < len(p) or len(set(q)) < len(q):
        raise mismatch("tensordot", "an axis is named twice", wants, x=x, w=w)
    for i, j in zip(p, q, strict=True):
        if x.shape[i] != w.shape[j]:
            raise mismatch("tensordot", f"axis {i} of x has size {x.shape[i]} but axis {j} of w has {w.shape[j]}", wants, x=x, w=w)
    return p, q


for _function in (matmul, matvec, dot, inner, vdot, outer, kron, tensordot, vecdot):
    for _module in (np, np.linalg):  # NumPy 2 has some of them in both, NumPy 1 not all
        if hasattr(_module, _function.__name__):
            NUMPY[getattr(_module, _function.__name__)] = _function
