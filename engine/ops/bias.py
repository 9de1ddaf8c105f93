r"""A bias and an activation in one go: what follows a convolution or a product.

One op instead of three (reshape, add, activation), so that a kernel passes over memory once. Its rule is an op too, and expresses the
slope of the activation in y, so that x need not be kept:

    identity 1     relu [y > 0]     tanh 1 - y^2     sigmoid y (1 - y)

From y alone the slope far out on tanh and sigmoid is known to a rounding of y, and no better: to the last digits it is in the ops of
these names, which see x.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops import activations
from engine.ops.elementwise import where
from engine.ops.layout import reshape
from engine.ops.reduce import sum as sum_over
from engine.shapes import Shape, ShapeError

__all__ = ["bias_activation", "bias_activation_grad"]

Activation = Literal["identity", "relu", "tanh", "sigmoid"]

FORWARD = {
    "identity": lambda a: a,
    "relu": activations.relu.definition,
    "tanh": activations.tanh.definition,
    "sigmoid": activations.sigmoid.definition,
}


@op()
def bias_activation(x, b, *, axis: int = 1, activation: Activation = "identity"):
    r"""$y = \mathrm{act}(x + b)$, with one number of b for each place along an axis of x

    x            any shape
    b            (x.shape[axis],)
    activation   "identity", "relu", "tanh" or "sigmoid"
    Raises ShapeError for a b of another size, ValueError for another activation.
    """
    return FORWARD[activation](x + np.reshape(b, _beside(x.shape, axis)))


@bias_activation.shape
def _(x, b, *, axis, activation):
    if b != (x[_place(x, axis)],):
        raise ShapeError(f"b has shape {b}, but axis {axis} of x has {x[axis]} places")
    _check_activation(activation)
    return x


bias_activation.checks_first = True  # NumPy would broadcast a b of one number in silence


@bias_activation.vjp("x", "b")
def _(g, y, *, axis, activation):
    r"""\bar x = \bar y \odot \mathrm{act}'(y), \quad \bar b = \sum \bar x"""
    return bias_activation_grad(g, y, axis=axis, activation=activation)


@bias_activation.jvp("x")
def _(d, y, *, activation):
    r"""\dot y = \mathrm{act}'(y) \odot \dot x"""
    return _scaled(d, y, activation)


@bias_activation.jvp("b")
def _(d, y, *, axis, activation):
    r"""\dot y = \mathrm{act}'(y) \odot \dot b"""
    return _scaled(_along(d, y, axis), y, activation)


@op(linear=("gy",), outputs=("gx", "gb"))
def bias_activation_grad(gy, h, *, axis: int = 1, activation: Activation = "identity"):
    r"""$\bar x = \bar y \odot \mathrm{act}'(y), \quad \bar b = \sum \bar x$ over all axes but one

    gy, h   of one shape; h is what bias_activation returned, y in the formula
    Returns gx and gb (h.shape[axis],).
    """
    gx = np.array(_scaled(gy, h, activation, np.where))
    return gx, np.sum(gx, axis=_others(h.shape, axis))


@bias_activation_grad.shape
def _(gy, h, *, axis, activation):
    if gy != h:
        raise ShapeError(f"gy has shape {gy}, h {h}")
    _check_activation(activation)
    return [h, (h[_place(h, axis)],)]


bias_activation_grad.checks_first = True


@bias_activation_grad.vjp("gy", "h")
def _(g, gy, h, *, axis, activation):
    r"""\bar{\bar y} = u \odot \mathrm{act}'(y), \quad \bar y = u \odot \bar y \odot \mathrm{act}''(y), \quad u = g_x + g_b"""
    u = g[0] + _along(g[1], h, axis)
    return _scaled(u, h, activation), bent(u * gy, h, activation)


@bias_activation_grad.jvp("h")
def _(d, gy, h, *, axis, activation):
    r"""\dot{\bar x} = \bar y \odot \mathrm{act}''(y) \odot \dot y, \quad \dot{\bar b} = \sum \dot{\bar x}"""
    turned = bent(d * gy, h, activation)
    return turned, sum_over(turned, axis=_others(h.shape, axis))


def _scaled(g, y, activation, choose=where):
    """g times the slope of the activation where its value is y."""
    if activation == "relu":
        return choose(y > 0, g, 0)
    if activation == "tanh":
        return g * (1 - y * y)
    return g * (y * (1 - y)) if activation == "sigmoid" else g


def bent(g, y, activation):
    """g times how fast that slope changes with y."""
    if activation == "tanh":
        return g * (-2 * y)
    return g * (1 - 2 * y) if activation == "sigmoid" else np.zeros(y.shape, y.dtype)


def _along(b: Any, x: Any, axis: int) -> Any:
    """b in the shape that broadcasts along an axis of x."""
    return reshape(b, shape=_beside(x.shape, axis))


def _beside(shape: Shape, axis: int) -> Shape:
    place = _place(shape, axis)
    return (shape[place], *[1] * (len(shape) - place - 1))


def _place(shape: Shape, axis: int) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"x of shape {shape} has no axis {axis}")
    return axis % len(shape)


def _others(shape: Shape, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(len(shape)) if i != axis % len(shape))


def _check_activation(activation: str) -> None:
    if activation not in FORWARD:
        raise ValueError(f"activation is one of {', '.join(FORWARD)}, not {activation!r}")


def _draw(pick: Pick) -> tuple[Any, dict[str, Any]]:
    shape = pick.choice([(pick.size(0, 3), pick.size(0, 3)), (pick.size(0, 2), pick.size(1, 3), pick.size(0, 2), pick.size(1, 3)), (4,)])
    params = {"axis": pick.choice([0, -1] if len(shape) == 1 else [1, 0, -1]), "activation": pick.choice(list(FORWARD))}
    apart = np.argsort(pick.array(math.prod(shape))).reshape(shape) - (math.prod(shape) // 2 + 0.5)  # no number at the bend of relu
    return apart * 0.1, params


@bias_activation.sample
def _(pick: Pick):
    x, params = _draw(pick)
    return [x, pick.array(x.shape[params["axis"]]) * 0.02], params


@bias_activation_grad.sample
def _(pick: Pick):
    h, params = _draw(pick)
    return [pick.array(*h.shape), h], params
