r"""A layer of a network in one op: product, bias and activation.

A kernel does the last two while a part of the result is still in registers. The rules express the slope of the activation in y, as those of
`bias_activation`, of which they are made.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.bias import FORWARD, Activation, bias_activation, bias_activation_grad
from engine.ops.layout import broadcast_to, reshape, sum_to, turned
from engine.ops.linear import matmul, matrices

__all__ = ["dense"]


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
    ga, gb = _back(g, y, activation)
    rows, ga = _rows(x), _rows(ga)
    gx = matrices(ga, turned(w)) if needed[0] else None  # not for the first layer, whose x is data
    gw = matrices(turned(rows), ga) if needed[1] else None
    return gx if rows is x or gx is None else reshape(gx, shape=x.shape), gw, gb


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


@dense.sample
def _(pick: Pick):
    k, n = pick.size(0, 3), pick.size(1, 3)
    x = np.abs(pick.array(*pick.choice([(pick.size(0, 3), k), (k,), (2, pick.size(0, 2), k)])))
    side = np.array([pick.choice([-1.0, 1.0]) for _ in range(n)])  # of the bend of relu: all of a column lies on one
    w, b = np.abs(pick.array(k, n)) * side, (np.abs(pick.array(n)) + 0.1) * side
    return [x, w, b], {"activation": pick.choice(["identity", "relu", "tanh", "sigmoid"])}
