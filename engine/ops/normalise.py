r"""Normalisation: to probabilities, and to mean 0 and variance 1.

softmax and log_softmax subtract the largest value first, which cancels and keeps exp from overflowing. Their rules need
nothing but their result.

layer_norm, batch_norm and what else subtracts a mean and divides by a deviation are one op, `normalise`, over other axes. It
returns the statistics too: its rules use them, and batch_norm's running averages are made of them.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick, interval
from engine.op import op, shape_of
from engine.ops.elementwise import exp, sqrt
from engine.ops.layout import axes_of, reshape, sum_to
from engine.shapes import Shape, ShapeError
from engine.traced import Traced

__all__ = ["batch_norm", "batch_norm_inference", "batch_norm_update", "layer_norm", "log_softmax", "normalise", "normalise_grad", "softmax"]

Axes = int | tuple[int, ...] | None


@op()
def softmax(x, *, axis: Axes = -1):
    r"""$y_i = e^{x_i} / \sum_j e^{x_j}$

    axis    along which the y sum to 1: an int, several, or None for all
    An entry of -inf gets probability 0. A row of nothing but -inf, or with +inf or nan in it, has no answer and gives nan.
    Integers give float64.
    """
    e = np.exp(_below_largest(x, axis))
    return _quiet_divide(e, np.sum(e, axis=axis, keepdims=True))


@softmax.shape
def _(x, *, axis):
    return x


@softmax.vjp("x")
def _(g, y, *, axis):
    r"""\bar x = y \odot (\bar y - \langle y, \bar y \rangle)"""
    return _centred(g, y, axis)


@softmax.jvp("x")
def _(d, y, *, axis):
    r"""\dot y = y \odot (\dot x - \langle y, \dot x \rangle)"""
    return _centred(d, y, axis)


def _centred(v, y, axis):  # one helper for both: the Jacobian diag(y) - y y^T is symmetric
    return y * (v - sum_to(v * y, shape=_kept(y.shape, axis)))


@op()
def log_softmax(x, *, axis: Axes = -1):
    r"""$y_i = x_i - \ln \sum_j e^{x_j}$

    axis    along which the e^y sum to 1: an int, several, or None for all
    Exact to a few roundings where log(softmax(x)) is not: far below the largest entry, where that gives -inf, and at a largest
    entry far above the rest, where it gives 0. Infinities, nan and integers as in softmax.
    """
    z = _below_largest(x, axis)
    largest = z == 0
    ties = np.maximum(np.sum(largest, axis=axis, keepdims=True, dtype=z.dtype), 1)
    rest = np.sum(np.where(largest, 0, np.exp(z)), axis=axis, keepdims=True)
    return z - (np.log(ties) + np.log1p(rest / ties))  # ln (ties + rest), where rest may be far below one rounding of ties


@log_softmax.shape
def _(x, *, axis):
    return x


@log_softmax.vjp("x")
def _(g, y, *, axis):
    r"""\bar x = \bar y - e^y \sum_j \bar y_j"""
    return g - exp(y) * sum_to(g, shape=_kept(y.shape, axis))


@log_softmax.jvp("x")
def _(d, y, *, axis):
    r"""\dot y = \dot x - \sum_j e^{y_j} \dot x_j"""
    return d - sum_to(exp(y) * d, shape=_kept(y.shape, axis))


def _below_largest(x, axis):
    x = np.asarray(x) if x.dtype.kind in "fc" else np.asarray(x, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is nan, as promised, and far enough below is -inf
        return x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)


def _quiet_divide(a, b):
    with np.errstate(invalid="ignore"):
        return a / b


@op(outputs=("y", "mean", "var"))
def normalise(x, w, b, *, axis: Axes = -1, eps: float = 1e-5):
    r"""$y = w \odot \hat x + b, \quad \hat x = (x - \mu) / s, \quad s = \sqrt{v + \varepsilon}$

    mu, v   mean and variance of x over `axis`: an int, several, or None for all
    w, b    scale and shift, of any shapes that broadcast to x
    eps     added to the variance
    Returns y, mean and var (over the count, not one less), both with the axes kept at size 1. Equal values have variance 0
    and give y = b. The statistics of no values are 0. Raises ShapeError if w or b does not broadcast to x.
    Source of the mean taken twice: Chan, Golub & LeVeque (1983), Algorithms for computing the sample variance.
    """
    count = _count(x.shape, axis)
    mean = np.sum(x, axis=axis, keepdims=True) / count
    mean = mean + np.sum(x - mean, axis=axis, keepdims=True) / count  # what rounding lost: equal values have just this mean
    centred = x - mean
    var = np.sum(centred * centred, axis=axis, keepdims=True) / count
    return centred / np.sqrt(var + eps) * w + b, mean, var


@normalise.shape
def _(x, w, b, *, axis, eps):
    for name, shape in (("w", w), ("b", b)):
        if len(shape) > len(x) or any(m not in (1, n) for m, n in zip(shape[::-1], x[::-1], strict=False)):
            raise ShapeError(f"{name} of shape {shape} does not broadcast to x of shape {x}")
    return [x, _kept(x, axis), _kept(x, axis)]


normalise.checks_first = True  # NumPy would broadcast x to a larger w in silence


@normalise.vjp("x", "w", "b")
def _(g, y, x, w, b_shape, *, axis, eps):
    r"""\bar x = (h - \langle h \rangle - \hat x \langle h \hat x \rangle) / s + (\bar \mu + 2 s \bar v \hat x) / n, \; h = w \bar y"""
    (g, *g_statistics), (_, mean, var) = g, y
    gx, gw, gb = normalise_grad(g, x, w, mean, var, b_shape=b_shape, axis=axis, eps=eps)
    if any(type(part) is Traced or np.any(part) for part in g_statistics):  # else nothing depends on them
        x_hat, s = _standard(x, mean, var, eps)
        gx = gx + (g_statistics[0] + 2 * s * g_statistics[1] * x_hat) / _count(x.shape, axis)
    return gx, gw, gb


@normalise.jvp("x")
def _(d, y, x, w, *, axis, eps):
    r"""\dot y = w (d - \dot \mu - \hat x \dot v / 2s) / s, \; \dot \mu = \langle d \rangle, \; \dot v = 2s \langle \hat x d \rangle"""
    (_, mean, var), count, kept = y, _count(x.shape, axis), y[1].shape
    x_hat, s = _standard(x, mean, var, eps)
    d_mean = sum_to(d, shape=kept) / count
    along = sum_to(d * x_hat, shape=kept) / count
    return (d - d_mean - x_hat * along) / s * w, d_mean, 2 * s * along


@normalise.jvp("w")
def _(d, y, x, *, eps):
    r"""\dot y = \dot w \odot \hat x"""
    _, mean, var = y
    return d * _standard(x, mean, var, eps)[0], *_still(y)


@normalise.jvp("b")
def _(d, y):
    r"""\dot y = \dot b"""
    return d, *_still(y)


@op(linear=("gy",), outputs=("gx", "gw", "gb"))
def normalise_grad(gy, x, w, mean, var, *, b_shape: Shape, axis: Axes = -1, eps: float = 1e-5):
    r"""$\bar x = (h - \langle h \rangle - \hat x \langle h \hat x \rangle) / s, \; \bar w = \sum \bar y \hat x, \; \bar b = \sum \bar y$

    h = w gy    and < > means over `axis`
    mean, var   as normalise returned them; here they are given, and what depends on them is not in gx twice
    b_shape     the shape of b
    Returns gx, gw and gb, in the shapes of x, w and b.
    """
    s, h, count = np.sqrt(var + eps), gy * w, _count(x.shape, axis)
    x_hat = (x - mean) / s
    h_mean, along = [np.sum(part, axis=axis, keepdims=True) / count for part in (h, h * x_hat)]
    gw, gb = [sum_to.definition(part, shape=shape) for part, shape in ((gy * x_hat, w.shape), (gy, b_shape))]
    return (h - h_mean - x_hat * along) / s, gw, np.array(gb)


@normalise_grad.shape
def _(gy, x, w, mean, var, *, b_shape, axis, eps):
    for name, shape, wanted in (("gy", gy, x), ("mean", mean, _kept(x, axis)), ("var", var, _kept(x, axis))):
        if shape != wanted:
            raise ShapeError(f"{name} has shape {shape}, for such an x it is {wanted}")
    return [x, w, b_shape]


normalise_grad.checks_first = True


@normalise_grad.vjp("gy", "x", "w", "mean", "var")
def _(g, y, gy, x, w, mean, var, *, axis, eps):
    r"""\bar{\bar y} = w q + g_w \hat x + g_b, \; \bar w = \sum \bar y q, \; \bar{\hat x} = g_w \bar y - (g_x \langle h \hat x \rangle + h \langle g_x \hat x \rangle) / s"""  # noqa: E501
    (u, of_w, of_b), (x_hat, s), h = g, _standard(x, mean, var, eps), gy * w
    q = _projected(u, x_hat, s)  # the map from h to gx is its own transpose
    turn = gy * of_w - (u * _mean(h * x_hat, s) + h * _mean(u * x_hat, s)) / s
    g_mean = -sum_to(turn, shape=mean.shape) / s
    g_s = -sum_to(h * q + turn * x_hat, shape=mean.shape) / s
    return w * q + of_w * x_hat + of_b, turn / s, sum_to(gy * q, shape=w.shape), g_mean, g_s / (2 * s)


@normalise_grad.jvp("x")
def _(d, gy, x, w, mean, var, *, b_shape, eps):
    r"""\dot{\bar x} = -(\dot{\hat x} \langle h \hat x \rangle + \hat x \langle h \dot{\hat x} \rangle) / s, \; \dot{\hat x} = \dot x / s"""
    x_hat, s = _standard(x, mean, var, eps)
    return _turned(d / s, gy, w, x_hat, s, b_shape)


@normalise_grad.jvp("mean")
def _(d, gy, x, w, mean, var, *, b_shape, eps):
    r"""\text{as for } x, \; \dot{\hat x} = -\dot \mu / s"""
    x_hat, s = _standard(x, mean, var, eps)
    return _turned(-d / s + np.zeros(x.shape, x.dtype), gy, w, x_hat, s, b_shape)


@normalise_grad.jvp("var")
def _(d, y, gy, x, w, mean, var, *, b_shape, eps):
    r"""\text{as for } x, \; \dot{\hat x} = -\hat x \dot s / s, \; \dot{\bar x} = \ldots - \bar x \dot s / s, \; \dot s = \dot v / 2s"""
    x_hat, s = _standard(x, mean, var, eps)
    rate = d / (2 * s * s)
    gx, gw, gb = _turned(-x_hat * rate, gy, w, x_hat, s, b_shape)
    return gx - y[0] * rate, gw, gb


@normalise_grad.jvp("w")
def _(d, gy, x, w_shape, mean, var, *, b_shape, eps):
    r"""\dot{\bar x} = \bar x \text{ with } \dot w \text{ for } w"""
    x_hat, s = _standard(x, mean, var, eps)
    return _projected(gy * d, x_hat, s), np.zeros(w_shape, x.dtype), np.zeros(b_shape, x.dtype)


def _projected(h, x_hat, s):
    r"""$(h - \langle h \rangle - \hat x \langle h \hat x \rangle) / s$"""
    return (h - _mean(h, s) - x_hat * _mean(h * x_hat, s)) / s


def _turned(d, gy, w, x_hat, s, b_shape):
    """How the gradients move with x_hat."""
    h = gy * w
    gx = -(d * _mean(h * x_hat, s) + x_hat * _mean(h * d, s)) / s
    return gx, sum_to(gy * d, shape=w.shape), np.zeros(b_shape, x_hat.dtype)


def _mean(h, like):
    """The mean over the axes where `like` has one element."""
    count = max(1, math.prod(m for m, n in zip(h.shape, like.shape, strict=True) if n == 1))
    return sum_to(h, shape=like.shape) / count


def _standard(x, mean, var, eps):
    """x with mean 0 and variance 1, and the deviation, from the statistics that the op returned."""
    s = sqrt(var + eps)
    return (x - mean) / s, s


def _still(y):
    return [np.zeros(part.shape, part.dtype) for part in y[1:]]


def _kept(shape, axis):
    """`shape` with size 1 along `axis`."""
    axes = axes_of(axis, len(shape))
    return tuple(1 if i in axes else size for i, size in enumerate(shape))


def _count(shape, axis) -> int:
    """How many values make one mean; 1 for none, so that their mean is 0."""
    return max(1, math.prod(int(shape[i]) for i in axes_of(axis, len(shape))))


@normalise.sample
def _(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 3), pick.size(2, 4))
    axis = pick.choice([-1, 1, (0, 2), (-2, -1), None])
    small = pick.choice([shape[-1:], (shape[1], 1), (1, 1, 1), (), shape])
    x = pick.array(*shape) + 4.0 * (np.sum(np.indices(shape), axis=0) % 2)  # near variance 0 the curvature is of the size of 1 / eps
    return [x, pick.array(*small), pick.array(*small)], {"axis": axis, "eps": pick.choice([1e-5, 0.1])}


@normalise_grad.sample
def _(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 3), pick.size(2, 4))
    axis = pick.choice([-1, 1, (0, 2), (-2, -1), None])
    small = pick.choice([shape[-1:], (shape[1], 1), (1, 1, 1), (), shape])
    mean, var = pick.array(*_kept(shape, axis)), pick.array(*_kept(shape, axis), domain=interval(0.5, 2.0))
    arrays = [pick.array(*shape), pick.array(*shape), pick.array(*small), mean, var]
    return arrays, {"b_shape": small, "axis": axis, "eps": pick.choice([1e-5, 0.1])}


@softmax.sample
@log_softmax.sample
def _(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 4))
    return [pick.array(*shape)], {"axis": pick.choice([-1, 0, 1, (0, 1), None])}


def layer_norm(x, w, b, *, eps: float = 1e-5):
    r"""$y = w \odot (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + b$, with the statistics of each example

    w, b   scale and shift, of the shape of the last axes of x: the statistics are over these axes
    Source: Ba, Kiros & Hinton (2016), Layer normalization, eq. 4.
    """
    inner = shape_of(w)
    if not inner or shape_of(x)[-len(inner) :] != inner:
        raise ShapeError(f"layer_norm: w has shape {inner}, which is not that of the last axes of x\n  given  x: {shape_of(x)}")
    return normalise(x, w, b, axis=tuple(range(-len(inner), 0)), eps=eps)[0]


def batch_norm(x, w, b, *, axis: int = 1, eps: float = 1e-5):
    r"""$y = w \odot (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + b$, with each channel's statistics in this batch: for training

    x      (n, c, ...), or with the channels on another `axis`;  w, b   scale and shift (c)
    Returns y, mean (c), var (c). var divides by the count, as y does; `batch_norm_update` makes it unbiased.
    Source: Ioffe & Szegedy (2015), Batch normalization, Algorithm 1.
    """
    w, b = _along_channels(shape_of(x), axis, w=w, b=b)
    others = tuple(i for i in range(len(shape_of(x))) if i != axis % len(shape_of(x)))
    y, mean, var = normalise(x, w, b, axis=others, eps=eps)
    return y, reshape(mean, shape=(shape_of(x)[axis],)), reshape(var, shape=(shape_of(x)[axis],))


def batch_norm_inference(x, w, b, mean, var, *, axis: int = 1, eps: float = 1e-5):
    r"""$y = w \odot (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + b$, with given statistics (c): for use

    All else as in `batch_norm`. Returns y only.
    """
    w, b, mean, var = _along_channels(shape_of(x), axis, w=w, b=b, mean=mean, var=var)
    return (x - mean) * (w / sqrt(var + eps)) + b


def batch_norm_update(running_mean, running_var, mean, var, *, count: int, momentum: float = 0.1):
    r"""$\mu' = (1 - \alpha) \mu + \alpha \mu_B, \quad v' = (1 - \alpha) v + \alpha \, v_B \, n / (n - 1)$

    The running statistics after one more batch: no op, and no hidden state.
    count     values behind each mean, that is x.size // c; one value has no variance, and none has no mean: these are not counted
    momentum  weight of the new batch: alpha
    """
    if count < 1:
        return running_mean, running_var
    new_mean = (1 - momentum) * running_mean + momentum * mean
    if count == 1:
        return new_mean, running_var
    return new_mean, (1 - momentum) * running_var + momentum * (count / (count - 1)) * var


def _along_channels(shape, axis: int, **arrays):
    """Arrays (c) in the shape that broadcasts along the axis with the channels."""
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(f"batch_norm: x of shape {shape} has no axis {axis} for the channels")
    for name, a in arrays.items():
        if shape_of(a) != (shape[axis],):
            raise ShapeError(
                f"batch_norm: {name} has shape {shape_of(a)}, but x of shape {shape} has {shape[axis]} channels on axis {axis}"
            )
    along = tuple(size if i == axis % len(shape) else 1 for i, size in enumerate(shape))
    return [reshape(a, shape=along) for a in arrays.values()]
