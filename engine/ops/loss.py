r"""Losses: how far a prediction is from its target, one number for each element or row, then a mean or a sum.

    reduction="mean"   over all elements (cross_entropy: over all rows); of no elements it is 0
    reduction="sum"
    reduction="none"   as they are

The two that take logits never form a probability that they then take the logarithm of. Their slopes are differences like $p - t$,
whose digits cancel where the prediction is right; they are written as sums of terms of one sign, exact to the last digits there too.

Prediction and target have the same shape: (n, 1) against (n) would broadcast to n^2 differences, and is refused. Integer targets
take the prediction's dtype, so that float32 stays float32.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from engine.domain import Pick, interval
from engine.op import nothing, op
from engine.ops.activations import sigmoid
from engine.ops.elementwise import clip, exp, expm1, sign
from engine.ops.layout import astype, expand_dims
from engine.ops.linear import as_given, mismatch
from engine.ops.normalise import log_softmax
from engine.ops.reduce import mean
from engine.ops.reduce import sum as sum_over
from engine.traced import primal

__all__ = ["cross_entropy", "cross_entropy_grad", "huber", "logistic_loss", "mean_absolute_error", "squared_error"]

PAIR = "..., ... -> ..."
Reduction = Literal["mean", "sum", "none"]


def _reduced(losses, reduction, count=None):
    """`count`: how many there are to average over, if not all."""
    if reduction == "none":
        return losses
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction is "mean", "sum" or "none", not {reduction!r}')
    if reduction == "sum":
        return sum_over(losses)
    if count is None or count == losses.size > 0:
        return mean(losses) if losses.size else sum_over(losses)
    return sum_over(losses) / max(count, 1)


def _pair(name, x, t):
    """Prediction and target as arrays of one shape (or a target that is one number) and of floating-point numbers."""
    given, x, t = t, as_given(x), as_given(t)
    if x.shape != t.shape and t.shape != ():
        raise mismatch(name, "prediction and target differ in shape; reshape one, for instance x[:, 0]", "x and t of one shape", x=x, t=t)
    if x.dtype.kind == "f" and (t.dtype.kind in "iub" or isinstance(given, (int, float))):
        t = t.astype(x.dtype)
    return x, t


# Numbers.


@op(PAIR)
def squared_error(x, t):
    r"""$y = (x - t)^2$"""
    return np.square(x - t)


@squared_error.slope("x")
def _(x, t):
    r"""\partial y / \partial x = 2 (x - t)"""
    return 2 * (x - t)


@squared_error.slope("t")
def _(x, t):
    r"""\partial y / \partial t = -2 (x - t)"""
    return 2 * (t - x)


each_squared_error = squared_error  # the op, OPS["squared_error"]; likewise below


def squared_error(x: Any, t: Any, *, reduction: Reduction = "mean") -> Any:  # type: ignore[no-redef]
    r"""$y = \mathrm{mean}\, (x - t)^2$

    x, t    predictions and targets of one shape; t may be one number. Raises ShapeError where they differ
    """
    return _reduced(each_squared_error(*_pair("squared_error", x, t)), reduction)


@op(PAIR)
def mean_absolute_error(x, t):
    r"""$y = |x - t|$"""
    return np.abs(x - t)


@mean_absolute_error.slope("x")
def _(x, t):
    r"""\partial y / \partial x = \mathrm{sign}(x - t), \quad 0 \text{ for } x = t"""
    return sign(x - t)


@mean_absolute_error.slope("t")
def _(x, t):
    r"""\partial y / \partial t = -\mathrm{sign}(x - t), \quad 0 \text{ for } x = t"""
    return sign(t - x)


@mean_absolute_error.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    gap = pick.array(m, n, domain=interval(0.1, 2.0))
    t = pick.array(m, n)
    return [t + pick.choice([-1.0, 1.0]) * gap, t], {}


each_absolute_error = mean_absolute_error


def mean_absolute_error(x: Any, t: Any, *, reduction: Reduction = "mean") -> Any:  # type: ignore[no-redef]
    r"""$y = \mathrm{mean}\, |x - t|$

    x, t    predictions and targets of one shape; t may be one number. Raises ShapeError where they differ
    """
    return _reduced(each_absolute_error(*_pair("mean_absolute_error", x, t)), reduction)


@op(PAIR)
def huber(x, t, *, delta: float = 1.0):
    r"""$y = r^2 / 2 \text{ for } |r| \leq \delta, \text{ else } \delta (|r| - \delta / 2), \quad r = x - t$"""
    r = np.abs(x - t)
    near = np.minimum(r, delta)
    return near * (r - 0.5 * near)


@huber.slope("x")
def _(x, t, *, delta):
    r"""\partial y / \partial x = \min(\max(r, -\delta), \delta)"""
    return clip(x - t, min=-delta, max=delta)


@huber.slope("t")
def _(x, t, *, delta):
    r"""\partial y / \partial t = -\min(\max(r, -\delta), \delta)"""
    return clip(t - x, min=-delta, max=delta)


@huber.sample
def _(pick: Pick):
    m, n, delta = pick.size(0, 3), pick.size(1, 3), pick.choice([0.5, 1.0])
    r = pick.array(m, n, domain=interval(0.0, 0.9)) + pick.choice([0.0, 1.0])  # on one side of the bend or the other
    t = pick.array(m, n)
    return [t + pick.choice([-1.0, 1.0]) * delta * r, t], {"delta": delta}


each_huber = huber


def huber(x: Any, t: Any, *, delta: float = 1.0, reduction: Reduction = "mean") -> Any:  # type: ignore[no-redef]
    r"""$y = \mathrm{mean}\, (r^2 / 2 \text{ for } |r| \leq \delta, \text{ else } \delta (|r| - \delta / 2)), \quad r = x - t$

    x, t    predictions and targets of one shape; t may be one number. Raises ShapeError where they differ
    delta   where the parabola goes over into straight lines; positive, else ValueError

    Source: Huber (1964), Robust estimation of a location parameter.
    """
    if not delta > 0:
        raise ValueError(f"huber: delta is where the parabola ends, a positive number, not {delta!r}")
    return _reduced(each_huber(*_pair("huber", x, t), delta=delta), reduction)


# Classes.


@op(PAIR)
def logistic_loss(z, t):
    r"""$y = \ln(1 + e^z) - t z = -t \ln p - (1 - t) \ln(1 - p), \quad p = 1 / (1 + e^{-z})$"""
    return np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))


@logistic_loss.slope("z")
def _(z, t):
    r"""\partial y / \partial z = p - t = (1 - t)\, p - t\, (1 - p)"""
    return (1 - t) * sigmoid(z) - t * sigmoid(-z)


@logistic_loss.slope("t")
def _(z):
    r"""\partial y / \partial t = -z"""
    return -z


each_logistic_loss = logistic_loss


def logistic_loss(z: Any, t: Any, *, reduction: Reduction = "mean") -> Any:  # type: ignore[no-redef]
    r"""$y = \mathrm{mean}\, (-t \ln p - (1 - t) \ln(1 - p)), \quad p = 1 / (1 + e^{-z})$

    z    logits: the logarithm of the odds of class 1
    t    labels 0 and 1, or probabilities of class 1, in the shape of z

    Raises ShapeError where the shapes differ, ValueError for a t outside [0, 1].
    """
    z, t = _pair("logistic_loss", z, t)
    _check_probabilities(primal(t))
    return _reduced(each_logistic_loss(z, t), reduction)


def _check_probabilities(t):
    bad = ~((t >= 0) & (t <= 1))
    if bad.any():
        cure = "; for labels -1 and 1 write (t + 1) / 2" if np.isin(t, (-1, 1)).all() else ""
        raise ValueError(f"logistic_loss: labels are 0 and 1, or probabilities between; {_first(t, bad)}{cure}")


def _first(t, bad):
    """The first bad element of t, and its place, as words."""
    place = tuple(np.argwhere(bad)[0].tolist())
    return f"t{list(place)} is {t[place]}" if place else f"t is {t}"


@op("... c, ... c -> ..., ... c", outputs=("y", "log_p"))
def cross_entropy(z, t):
    r"""$y = -\sum_c t_c \ln p_c, \quad p_c = e^{z_c} / \sum_k e^{z_k}$

    The second output is $\ln p$: the rules use it, so that the softmax is computed once.
    A class of probability 0 counts only if its target is not 0.
    """
    log_p = log_softmax.definition(z)
    terms = t * np.where(t == 0, 0, log_p).astype(log_p.dtype, copy=False)
    return -np.sum(terms, axis=-1), log_p


@cross_entropy.vjp("z")
def _(g, y, t):
    r"""\bar z = \bar y\, (p \sum_c t_c - t) + \bar y_2 - p \sum_c (\bar y_2)_c"""
    log_p = y[1]
    gz = cross_entropy_grad(log_p, t, g[0])
    if g[1] is nothing(log_p.shape, log_p.dtype):  # only the rule uses ln p
        return gz
    return gz + g[1] - exp(log_p) * sum_over(g[1], axis=-1, keepdims=True)


@cross_entropy.vjp("t")
def _(g, y):
    r"""\bar t = -\bar y \ln p"""
    return -expand_dims(g[0], axis=-1) * y[1]


@cross_entropy.jvp("z")
def _(d, y, t):
    r"""\dot y = \sum_c (p \sum_k t_k - t)_c\, \dot z_c, \quad \dot y_2 = \dot z - \sum_c p_c \dot z_c"""
    log_p = y[1]
    mean = sum_over(exp(log_p) * d, axis=-1, keepdims=True)
    return sum_over(_probability_minus_target(log_p, t) * d, axis=-1), d - mean


@cross_entropy.jvp("t")
def _(d, y):
    r"""\dot y = -\sum_c \dot t_c \ln p_c, \quad \dot y_2 = 0"""
    return -sum_over(d * y[1], axis=-1), np.zeros(y[1].shape, y[1].dtype)


@op("... c, ... c, ... -> ... c", linear=("t", "gy"))
def cross_entropy_grad(log_p, t, gy):
    r"""$\bar z = \bar y\, (p \sum_k t_k - t), \quad p = e^{\ln p}$

    log_p   (..., c), the second output of cross_entropy;  t   (..., c);  gy   (...)
    Written $p\, (\sum_k t_k - t) - t\, (1 - p)$, where $1 - p$ keeps its digits for p near 1.
    """
    return gy[..., None] * (np.exp(log_p) * (np.sum(t, axis=-1, keepdims=True) - t) + t * np.expm1(log_p))


@cross_entropy_grad.vjp("log_p")
def _(g, log_p, t, gy):
    r"""\overline{\ln p} = g\, \bar y\, p \sum_k t_k"""
    return g * _turned(log_p, t, gy)


@cross_entropy_grad.jvp("log_p")
def _(d, log_p, t, gy):
    r"""\dot{\bar z} = \bar y\, p \sum_k t_k\, \dot{\ln p}"""
    return d * _turned(log_p, t, gy)


@cross_entropy_grad.vjp("t")
def _(g, log_p, gy):
    r"""\bar t = \bar y\, (\sum_c g_c p_c - g)"""
    return expand_dims(gy, axis=-1) * (sum_over(g * exp(log_p), axis=-1, keepdims=True) - g)


@cross_entropy_grad.vjp("gy")
def _(g, log_p, t):
    r"""\bar{\bar y} = \sum_c g_c\, (p \sum_k t_k - t)_c"""
    return sum_over(g * _probability_minus_target(log_p, t), axis=-1)


def _turned(log_p, t, gy):
    return expand_dims(gy, axis=-1) * exp(log_p) * sum_over(t, axis=-1, keepdims=True)


def _probability_minus_target(log_p, t):
    r"""$p \sum_k t_k - t = p\, (\sum_k t_k - t) - t\, (1 - p)$, where $1 - p$ keeps its digits for p near 1."""
    return exp(log_p) * (sum_over(t, axis=-1, keepdims=True) - t) + t * expm1(log_p)


@cross_entropy.sample
def _(pick: Pick):
    n, c = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(n, c), pick.array(n, c)], {}


@cross_entropy_grad.sample
def _(pick: Pick):
    n, c = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(n, c), pick.array(n, c), pick.array(n)], {}


each_cross_entropy = cross_entropy


def cross_entropy(  # type: ignore[no-redef]
    z: Any, t: Any, *, reduction: Reduction = "mean", label_smoothing: float = 0.0, ignore_index: int | None = None
) -> Any:
    r"""$y = \mathrm{mean} (-\sum_c t_c \ln p_c), \quad p = \mathrm{softmax}(z)$

    z                 logits, (..., c)
    t                 labels: integers 0 to c - 1, (...); or probabilities, one-hot rows included, (..., c)
    label_smoothing   e: the targets become (1 - e) t + e / c. Source: Szegedy et al. (2016), section 7
    ignore_index      rows with this integer label count neither in the sum nor in the mean

    The logits are used as they are, never their probabilities: any size is fine, and -inf rules a class out.
    Raises ShapeError where shapes clash, ValueError for a label that is no class, TypeError for labels that are not integers.
    """
    z, t = as_given(z), as_given(t)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is between 0 and 1, not {label_smoothing!r}")
    if t.shape == z.shape and z.shape != ():
        targets, count = _soft(z, t, label_smoothing), None
    else:
        targets, count = _one_hot(z, t, label_smoothing, ignore_index)
    return _reduced(each_cross_entropy(z, targets)[0], reduction, count)


def _soft(z, t, smoothing):
    dtype = z.dtype if z.dtype.kind == "f" else np.dtype(float)
    if t.dtype != dtype:
        t = astype(t, dtype=dtype)
    return t if smoothing == 0 else (1 - smoothing) * t + smoothing / z.shape[-1]


def _one_hot(z, t, smoothing, ignored):
    """Integer labels as rows of probabilities, and how many rows count."""
    if z.shape[:-1] != t.shape or z.shape == ():
        wants = "... c, ... integer labels, or ... c, ... c probabilities"
        raise mismatch("cross_entropy", "labels are one for each row of logits, or a row of probabilities", wants, z=z, t=t)
    if t.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: labels are integers, these are {t.dtype}; if they are whole numbers write t.astype(int)")
    c = z.shape[-1]
    hits = t[..., None] == np.arange(c)
    counts = None if ignored is None else t != ignored
    if counts is not None:
        hits &= counts[..., None]
    count = t.size if counts is None else int(np.count_nonzero(counts))
    if np.count_nonzero(hits) != count:  # a label that is no class hits none
        counted = t if counts is None else t[counts]
        cure = "; they seem to start at 1: subtract 1" if counted.min() == 1 and counted.max() == c else ""
        outside = (t < 0) | (t >= c)
        bad = outside if counts is None else outside & counts
        raise ValueError(f"cross_entropy: {_first(t, bad)}, there are {c} classes, 0 to {c - 1}{cure}")
    rows = hits.astype(z.dtype if z.dtype.kind == "f" else float)
    if smoothing:
        rows = (1 - smoothing) * rows + smoothing / c
        rows = rows if counts is None else rows * counts[..., None]
    return rows, count
