r"""Layout: the same numbers in another arrangement. Every op here is linear, and the transposes come in pairs."""

from __future__ import annotations

import numpy as np

from engine.domain import Pick
from engine.op import op

__all__ = ["astype", "broadcast_to", "matrix_transpose", "sum_to"]


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
    return np.reshape(np.sum(x, axis=axes), shape)


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


@op("... m n -> ... n m", linear=("x",), flops="0")
def matrix_transpose(x):
    r"""$y_{\ldots ij} = x_{\ldots ji}$"""
    return np.swapaxes(x, -1, -2)


@matrix_transpose.vjp("x")
def _(g):
    r"""\bar x = \bar y^\top"""
    return matrix_transpose(g)
