r"""A layer of a network in one op: product, bias and activation.

A kernel does the last two while a part of the result is still in registers. The rules express the slope of the activation in y, as those of
`bias_activation`. The gradient is one op too, so that a kernel makes all three in one call.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.bias import FORWARD, Activation, bent, bias_activation, bias_activation_grad
from engine.ops.layout import broadcast_to, reshape, sum_to, turned
from engine.ops.linear import matmul, matrices
from engine.shapes import ShapeError

__all__ = ["dense", "dense_grad"]


@op("... k, k n, n -> ... n", flops="2*k*n")
def dense(x, w, b, *, activation: Activation = "identity"):
    r"""$y = \mathrm{act}(x w + b)$

    x            (..., k)
    w, b         (k, n) and (n)
    activation   "identity", "relu", "tanh" or "sigmoid"
    Raises ShapeError where shapes clash, ValueError for another activation.
    """
    return FORWARD[activation](x @ w + b)


@dense.shape
def _(x, w, b, *, activation):
    return bias_activation.infer([(*x[:-1], w[-1]), b], {"axis": -1, "activation": activation})


@dense.vjp("x", "w", "b")
def _(g, y, x, w, needed, *, activation):
    r"""\bar a = \bar y \odot \mathrm{act}'(y), \quad \bar x = \bar a \, w^\top, \quad \bar w = x^\top \bar a, \quad \bar b = \sum \bar a"""
    if needed[0] and needed[1]:
        return dense_grad(g, y, x, w, activation=activation)
    ga, gb = _back(g, y, activation)  # not all three: the x of the first layer is data, and weights may be constant
    gx = matmul(ga, turned(w)) if needed[0] else None
    gw = _against(x, ga) if needed[1] else None
    return gx, gw, gb


@dense.jvp("x")
def _(d, y, w, *, activation):
    r"""\dot y = \mathrm{act}'(y) \odot \dot x w"""
    return _scaled(matmul(d, w), y, activation)


@dense.jvp("w")
def _(d, y, x, *, activation):
    r"""\dot y = \mathrm{act}'(y) \odot x \dot w"""
    return _scaled(matmul(x, d), y, activation)


@dense.jvp("b")
def _(d, y, *, activation):
    r"""\dot y = \mathrm{act}'(y) \odot \dot b"""
    return _scaled(broadcast_to(d, shape=y.shape), y, activation)


def _scaled(d, y, activation):
    return d if activation == "identity" else bias_activation_grad(d, y, axis=-1, activation=activation)[0]


def _back(g, y, activation):
    """The gradient of what the activation was given, and its sum over all rows."""
    if activation == "identity":
        return g, sum_to(g, shape=g.shape[-1:])
    return bias_activation_grad(g, y, axis=-1, activation=activation)


def _rows(x):
    return x if len(x.shape) == 2 else reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1]))


@op("... n, ... n, ... k, k n -> ... k, k n, n", linear=("gy",), outputs=("gx", "gw", "gb"), flops="4*k*n")
def dense_grad(gy, h, x, w, *, activation: Activation = "identity"):
    r"""$\bar a = \bar y \odot \mathrm{act}'(y), \quad \bar x = \bar a \, w^\top, \quad \bar w = x^\top \bar a, \quad \bar b = \sum \bar a$

    gy, h   (..., n), of one shape; h is what dense returned, y in the formula
    x, w    (..., k) and (k, n)
    Returns gx (..., k), gw (k, n) and gb (n).
    """
    ga, gb = bias_activation_grad.definition(gy, h, axis=-1, activation=activation)
    rows = math.prod(x.shape[:-1])
    return ga @ w.T, x.reshape(rows, w.shape[0]).T @ ga.reshape(rows, w.shape[1]), gb


@dense_grad.shape
def _(gy, h, x, w, *, activation):
    if not gy == h == (*x[:-1], w[-1]):
        raise ShapeError(f"gy has shape {gy}, h {h}; dense returns {(*x[:-1], w[-1])} for this x and w")
    bias_activation_grad.infer([gy, h], {"axis": -1, "activation": activation})
    return [x, w, w[1:]]


@dense_grad.vjp("gy", "h", "x", "w")
def _(g, gy, h, x, w, *, activation):
    r"""u \, \mathrm{act}'(y), \; u \bar y \, \mathrm{act}''(y), \; \bar a \, g_w^\top, \; g_x^\top \bar a \; (u = g_x w + x g_w + g_b)"""
    gx, gw, gb = g
    u, ga = matmul(gx, w) + matmul(x, gw) + gb, _scaled(gy, h, activation)
    return _scaled(u, h, activation), bent(u * gy, h, activation), matmul(ga, turned(gw)), _against(gx, ga)


@dense_grad.jvp("h")
def _(d, gy, h, x, w, *, activation):
    r"""\dot{\bar a} \, w^\top, \; x^\top \dot{\bar a}, \; \sum \dot{\bar a} \quad (\dot{\bar a} = \bar y \, \mathrm{act}''(y) \, \dot y)"""
    turning = bent(d * gy, h, activation)
    return matmul(turning, turned(w)), _against(x, turning), sum_to(turning, shape=w.shape[1:])


@dense_grad.jvp("x")
def _(d, gy, h, w, *, activation):
    r"""0, \quad \dot x^\top \bar a, \quad 0"""
    return np.zeros(d.shape, d.dtype), _against(d, _scaled(gy, h, activation)), np.zeros(w.shape[1:], d.dtype)


@dense_grad.jvp("w")
def _(d, gy, h, x, *, activation):
    r"""\bar a \, \dot w^\top, \quad 0, \quad 0"""
    return matmul(_scaled(gy, h, activation), turned(d)), np.zeros(d.shape, d.dtype), np.zeros(d.shape[1:], d.dtype)


def _against(x, a):
    """The sum over all rows of their outer products."""
    return matrices(turned(_rows(x)), _rows(a))


@dense_grad.sample
def _(pick: Pick):
    k, n = pick.size(0, 3), pick.size(1, 3)
    before = pick.choice([(pick.size(0, 3),), (), (2, pick.size(0, 2))])
    shape = (*before, n)
    apart = np.argsort(pick.array(math.prod(shape))).reshape(shape) - (math.prod(shape) // 2 + 0.5)  # no number at the bend of relu
    params = {"activation": pick.choice(["identity", "relu", "tanh", "sigmoid"])}
    return [pick.array(*shape), 0.1 * apart, pick.array(*before, k), pick.array(k, n)], params


@dense.sample
def _(pick: Pick):
    k, n = pick.size(0, 3), pick.size(1, 3)
    x = np.abs(pick.array(*pick.choice([(pick.size(0, 3), k), (k,), (2, pick.size(0, 2), k)])))
    side = np.array([pick.choice([-1.0, 1.0]) for _ in range(n)])  # of the bend of relu: all of a column lies on one
    w, b = np.abs(pick.array(k, n)) * side, (np.abs(pick.array(n)) + 0.1) * side
    return [x, w, b], {"activation": pick.choice(["identity", "relu", "tanh", "sigmoid"])}
