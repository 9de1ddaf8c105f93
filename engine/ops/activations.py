r"""Activations and the error function: smooth steps, and lines with a bend.

The difficulty is in the tails. $1 - y^2$ for tanh is 0 from $x = 19$ on, where the slope is $10^{-16}$ and counts; the
slopes here are products of small numbers instead, as $4 \sigma(2x) \sigma(-2x)$, and hold to the last few digits.
At the bend of relu, leaky_relu and elu the slope is the left one: relu'(0) = 0.

SciPy's special functions are imported where they are used: an engine without them in a network does not load them.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick, away_from, real
from engine.op import op
from engine.ops.elementwise import clip, exp, where

__all__ = [
    "elu", "erf", "erfc", "gaussian", "gelu", "leaky_relu", "normal_cdf", "relu", "sigmoid", "silu", "softplus", "tanh",
]  # fmt: skip

FLAT = 1e3  # beyond it every smooth step here is 0 or 1 to the last bit; clipping there keeps 0 * inf away
INV_SQRT_2PI = 1 / math.sqrt(2 * math.pi)
TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


@op("... -> ...")
def sigmoid(x):
    r"""$y = 1 / (1 + e^{-x})$"""
    e = np.exp(-np.abs(x))  # of the side that does not overflow
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


@sigmoid.slope("x")
def _(y, x):
    r"""dy/dx = \sigma(x) \, \sigma(-x)"""
    return y * sigmoid(-x)  # not y (1 - y): that is 0 from x = 37 on


@op("... -> ...", numpy=np.tanh)
def tanh(x):
    r"""$y = \tanh x$"""
    return np.tanh(x)


@tanh.slope("x")
def _(x):
    r"""dy/dx = 1 - y^2 = 4 \sigma(2x) \, \sigma(-2x)"""
    return 4 * (sigmoid(2 * x) * sigmoid(-2 * x))


@op("... -> ...")
def softplus(x):
    r"""$y = \ln (1 + e^x)$"""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@softplus.slope("x")
def _(x):
    r"""dy/dx = \sigma(x)"""
    return sigmoid(x)


@op("... -> ...", x=away_from(0.0))
def relu(x):
    r"""$y = \max(x, 0)$"""
    return np.maximum(x, 0)


@relu.slope("x")
def _(x):
    r"""dy/dx = [x > 0]"""
    return x > 0


# The next two scale what comes in, and not a slope of ones and constants: such a slope would be float64 for any x.


@op("... -> ...", x=away_from(0.0))
def leaky_relu(x, *, negative_slope: float = 0.01):
    r"""$y = x \text{ for } x > 0, \text{ else } a x$

    negative_slope   a
    Source: Maas, Hannun & Ng (2013), Rectifier nonlinearities improve neural network acoustic models, sec. 2.
    """
    return np.where(x > 0, x, negative_slope * x)


@leaky_relu.vjp("x")
def _(g, x, *, negative_slope):
    r"""\bar x = \bar y \text{ for } x > 0, \text{ else } a \bar y"""
    return where(x > 0, g, negative_slope * g)


@leaky_relu.jvp("x")
def _(d, x, *, negative_slope):
    r"""\dot y = \dot x \text{ for } x > 0, \text{ else } a \dot x"""
    return where(x > 0, d, negative_slope * d)


@leaky_relu.sample
def _(pick: Pick):
    return [_off_zero(pick)], {"negative_slope": pick.choice([0.01, 0.3, 0.0])}


@op("... -> ...", x=away_from(0.0))
def elu(x, *, alpha: float = 1.0):
    r"""$y = x \text{ for } x > 0, \text{ else } \alpha (e^x - 1)$

    Source: Clevert, Unterthiner & Hochreiter (2016), Fast and accurate deep network learning by ELUs, eq. 15.
    """
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


@elu.vjp("x")
def _(g, x, *, alpha):
    r"""\bar x = \bar y \text{ for } x > 0, \text{ else } \alpha e^x \bar y"""
    return _elu_scaled(g, x, alpha)


@elu.jvp("x")
def _(d, x, *, alpha):
    r"""\dot y = \dot x \text{ for } x > 0, \text{ else } \alpha e^x \dot x"""
    return _elu_scaled(d, x, alpha)


def _elu_scaled(v, x, alpha):
    right = x > 0
    return where(right, v, alpha * exp(where(right, 0.0, x)) * v)  # the inner choice keeps exp from overflowing


@elu.sample
def _(pick: Pick):
    return [_off_zero(pick)], {"alpha": pick.choice([1.0, 0.5])}


def _off_zero(pick: Pick):
    return pick.array(pick.size(0, 3), pick.size(1, 3), domain=away_from(0.0))


@op("... -> ...")
def silu(x):
    r"""$y = x \, \sigma(x)$

    Also called swish. Source: Elfwing, Uchibe & Doya (2018), Sigmoid-weighted linear units, eq. 6.
    """
    return np.maximum(x, -FLAT) * sigmoid.definition(x)


@silu.slope("x")
def _(x):
    r"""dy/dx = \sigma(x) \, (1 + x \, \sigma(-x))"""
    return sigmoid(x) * (1 + clip(x, min=-FLAT, max=FLAT) * sigmoid(-x))


@op("... -> ...")
def gelu(x, *, approximate: str = "none"):
    r"""$y = x \, \Phi(x), \quad \Phi \text{ the normal distribution function}$

    approximate   "none", or "tanh" for $y = x \, \sigma(2u)$ with $u = \sqrt{2 / \pi} \, (x + 0.044715 \, x^3)$

    Raises ValueError for another `approximate`.
    Source: Hendrycks & Gimpel (2016), Gaussian error linear units, sec. 2.
    """
    step = _tanh_step(np.clip(x, -FLAT, FLAT), sigmoid.definition) if _is_tanh(approximate) else normal_cdf.definition(x)
    return np.maximum(x, -FLAT) * step


@gelu.slope("x")
def _(x, *, approximate):
    r"""dy/dx = \Phi(x) + x \, \Phi'(x)"""
    near = clip(x, min=-FLAT, max=FLAT)
    if not _is_tanh(approximate):
        return normal_cdf(x) + near * gaussian(x) * INV_SQRT_2PI
    rate = CUBIC_A + 3 * CUBIC_B * near * near
    return _tanh_step(near, sigmoid) * (1 + near * rate * _tanh_step(-near, sigmoid))


CUBIC_A = 2 * math.sqrt(2 / math.pi)
CUBIC_B = 0.044715 * CUBIC_A


def _tanh_step(x, sigma):
    """(1 + tanh u) / 2, as the logistic function that it is: 1 + tanh u is 0 too early."""
    return sigma(x * (CUBIC_A + CUBIC_B * (x * x)))


def _is_tanh(approximate: str) -> bool:
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate is {approximate!r}, wanted "none" or "tanh"')
    return approximate == "tanh"


@gelu.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"approximate": pick.choice(["none", "tanh"])}


def _as_narrow(y, x):
    """y in half precision, if x is: SciPy has none, and gives float64."""
    return y.astype(x.dtype) if np.asarray(x).dtype == np.float16 else y


@op("... -> ...")
def erf(x):
    r"""$y = \frac{2}{\sqrt{\pi}} \int_0^x e^{-t^2} dt$"""
    from scipy import special

    return _as_narrow(special.erf(x), x)


@erf.slope("x")
def _(x):
    r"""dy/dx = \frac{2}{\sqrt{\pi}} e^{-x^2}"""
    return TWO_OVER_SQRT_PI * gaussian(x, scale=1.0)


@op("... -> ...")
def erfc(x):
    r"""$y = 1 - \mathrm{erf}\, x$, exact where that is small"""
    from scipy import special

    far = special.erfcx(np.maximum(x, 5)) * gaussian.definition(x, scale=1.0)
    return _as_narrow(np.where(x < 5, special.erfc(x), far)[()], x)


@erfc.slope("x")
def _(x):
    r"""dy/dx = -\frac{2}{\sqrt{\pi}} e^{-x^2}"""
    return -TWO_OVER_SQRT_PI * gaussian(x, scale=1.0)


@op("... -> ...")
def normal_cdf(x):
    r"""$y = \Phi(x) = \frac{1}{2} \mathrm{erfc}(-x / \sqrt{2})$"""
    from scipy import special

    u = np.minimum(x, -1) * -math.sqrt(0.5)
    far = 0.5 * special.erfcx(u) * gaussian.definition(x, scale=0.5)
    return _as_narrow(np.where(x > -1, special.ndtr(x), far)[()], x)


@normal_cdf.slope("x")
def _(x):
    r"""dy/dx = e^{-x^2 / 2} / \sqrt{2 \pi}"""
    return INV_SQRT_2PI * gaussian(x, scale=0.5)


@op("... -> ...", x=real)
def gaussian(x, *, scale: float = 0.5):
    r"""$y = e^{-s x^2}$

    scale   s > 0, a Python float

    Rounding $x^2$ costs half a unit of it in the exponent: hundreds of units of y at x = -37. So the square is taken
    as $z^2 + (x - z)(x + z)$, with z so short that its square is exact (Cody 1969, Rational Chebyshev approximations
    for the error function).
    """
    end = 40 / math.sqrt(scale)  # y is 0 from here on; farther out z would overflow
    wide = np.clip(x, -end, end).astype(np.float64)
    z = wide.astype(np.float32).astype(np.float64)
    y = np.exp(-scale * (z * z)) * np.exp(-scale * ((wide - z) * (wide + z)))
    return y.astype(np.result_type(x, 0.0)) if hasattr(x, "dtype") else y


@gaussian.slope("x")
def _(y, x, *, scale):
    r"""dy/dx = -2 s x y"""
    return -2 * scale * clip(x, min=-60 / math.sqrt(scale), max=60 / math.sqrt(scale)) * y  # inf * 0 is 0 here


@gaussian.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), pick.size(1, 3))], {"scale": pick.choice([0.5, 1.0])}
