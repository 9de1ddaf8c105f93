r"""Numbers as small integers, and back. These three definitions are the arithmetic of quantisation, and the only place where it stands.

    code    $q = \mathrm{clip}(\mathrm{round}(x / s) + z,\ \mathrm{low},\ \mathrm{high})$      round to the nearest, to the even one of two
    number  $x \approx s\,(q - z)$

A quotient is rounded before the zero point is added: added first, an odd one would change which of two is the even one. It is a
quotient, and not a product with 1 / s, whose last bit differs. With float32 both are, bit for bit, ONNX's QuantizeLinear and
DequantizeLinear.
`engine.quantise.numbers` chooses s and z.
Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, eqs. 1 and 12.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick, away_from, positive
from engine.op import op
from engine.ops.elementwise import sign
from engine.ops.layout import sum_to

__all__ = ["dequantise", "fake_quant", "fake_sign", "learned_step_size", "quantise"]

FARTHEST = 30.0  # of the logarithm of a step from 0


@op("..., ..., ... -> ...", constant=("x", "scale", "zero_point"))
def quantise(x, scale, zero_point, *, low: int = -128, high: int = 127):
    r"""$q = \mathrm{clip}(\mathrm{round}(x / s) + z,\ \mathrm{low},\ \mathrm{high})$

    x            floats of any shape; infinities get the outermost codes, of nan nothing is promised
    scale        s > 0, float, broadcasts with x
    zero_point   z, an integer from low to high, broadcasts with x
    low, high    the outermost codes: from -128 to 127, or from 0 to 255
    returns      int8, or uint8 if low is 0 or more
    """
    return _coded(x, scale, zero_point, low, high).astype(np.int8 if low < 0 else np.uint8)


@op("..., ..., ... -> ...", constant=("q", "scale", "zero_point"))
def dequantise(q, scale, zero_point):
    r"""$x = s\,(q - z)$

    q            int8 or uint8
    scale        s, float
    zero_point   z, an integer; both broadcast with q
    returns      the dtype of the scale. The difference is exact; the product is rounded once
    """
    s = np.asarray(scale)
    return (np.asarray(q, s.dtype) - np.asarray(zero_point, s.dtype)) * s


@op(
    "..., ..., ... -> ...",
    surrogate="that of clipping alone: rounding, a step, counts as the identity (Bengio et al. 2013, straight-through estimator)",
)
def fake_quant(x, scale, zero_point, *, low: int = -128, high: int = 127):
    r"""$y = s\,(\mathrm{clip}(\mathrm{round}(x / s) + z,\ \mathrm{low},\ \mathrm{high}) - z)$

    `dequantise` of `quantise` for training, to the bit if x and s have one dtype; parameters as there, and z may be a whole number kept as
    a float, to be learned. The rules call $I = [\mathrm{low} \leq x / s + z \leq \mathrm{high}]$ what is not clipped. The slope in s is
    that of learned steps, without their factor $1 / \sqrt{n\,\mathrm{high}}$, which is that of `learned_step_size`; of an infinite x it
    is nan. Source of the slopes: Esser, McKinstry, Bablani, Appuswamy & Modha (2020), Learned step size quantization, eqs. 3 and 5; in z
    Bhalgat, Lee, Nagel, Blankevoort & Kwak (2020), LSQ+, sec. 3.1, whose offset is -s z.
    """
    q = _coded(x, scale, zero_point, low, high)
    q -= np.asarray(zero_point, q.dtype)
    q *= scale
    return q


@fake_quant.vjp("x", "scale", "zero_point")
def _(g, y, x, scale, zero_point, needed, *, low, high):
    r"""\bar x = \bar y \odot I, \quad \bar s = \bar y \odot (y - x \odot I) / s, \quad \bar z = -s\, \bar y \odot (1 - I)"""
    inside = _inside(x, scale, zero_point, low, high)
    gx = g * inside  # a product with booleans takes a fifteenth of the time of a choice by them
    gs = sum_to(g * (y - x * inside), shape=np.shape(scale)) / scale if needed[1] else None
    return gx, gs, (gx - g) * scale if needed[2] else None


@fake_quant.jvp("x")
def _(d, x, scale, zero_point, *, low, high):
    r"""\dot y := \dot x \odot I"""
    return d * _inside(x, scale, zero_point, low, high)


@fake_quant.jvp("scale")
def _(d, y, x, scale, zero_point, *, low, high):
    r"""\dot y := \dot s\, (y - x \odot I) / s"""
    return (y - x * _inside(x, scale, zero_point, low, high)) / scale * d


@fake_quant.jvp("zero_point")
def _(d, x, scale, zero_point, *, low, high):
    r"""\dot y := -s\, \dot z\, (1 - I)"""
    return -scale * d * ~_inside(x, scale, zero_point, low, high)


@op(
    "..., ... -> ...",
    surrogate="in x that of the identity: a sign has the slope 0 (Zhou et al. 2016, DoReFa-Net, eq. 7, straight-through estimator)",
)
def fake_sign(x, scale):
    r"""$y = s\,\mathrm{sign}(x)$, and 0 for 0: weights of one bit, to train with, and what is pruned stays 0

    Source: Rastegari, Ordonez, Redmon & Farhadi (2016), XNOR-Net, sec. 3.1. There s is the mean of |x|, here it is learned from there on.
    """
    return np.sign(x) * scale


@fake_sign.slope("x")
def _():
    r"""dy/dx := 1"""
    return 1


@fake_sign.slope("scale")
def _(x):
    r"""dy/ds = \mathrm{sign}(x)"""
    return sign(x)


@op(
    "... -> ...",
    surrogate="`share` of it: a step that many numbers have learns no faster than one of them (Esser et al. 2020, sec. 2.2)",
)
def learned_step_size(x, *, share: float = 1.0):
    r"""$s = e^x$, with x brought to [-30, 30] first

    A step that is positive whatever x is learned, and of which a product with another is a number of float32.
    share    so much of the slope is told, $1 / \sqrt{n\,\mathrm{high}}$ in the source
    """
    return np.exp(np.clip(x, -FARTHEST, FARTHEST))


@learned_step_size.slope("x")
def _(y, x, *, share):
    r"""ds/dx := \mathrm{share}\, s\, [-30 \leq x \leq 30]"""
    return share * y * ((x >= -FARTHEST) & (x <= FARTHEST))


def _coded(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    """The code, still as a float."""
    with np.errstate(over="ignore"):  # a quotient beyond all floats has the outermost code, too
        q = np.asarray(np.divide(x, scale))
    q = np.rint(q, out=q) + np.asarray(zero_point, q.dtype)
    return np.clip(q, low, high, out=q if q.ndim else None)


def _inside(x: Any, scale: Any, zero_point: Any, low: int, high: int) -> Any:
    """Whether the number is not clipped: not its code, of which half a step more is none."""
    z = zero_point * x.dtype.type(1)  # an integer of 8 bits has no room for low - z
    return (x >= (low - z) * scale) & (x <= (high - z) * scale)


@quantise.sample
def _(pick: Pick):
    (x, scale, zero_point), bounds = _drawn(pick)
    return [x, scale, zero_point], bounds


@dequantise.sample
def _(pick: Pick):
    (x, scale, zero_point), bounds = _drawn(pick)
    return [pick.integers(*x.shape, low=bounds["low"], high=bounds["high"] + 1).astype(zero_point.dtype), scale, zero_point], {}


@fake_quant.sample
def _(pick: Pick):
    (x, scale, zero_point), bounds = _drawn(pick)
    return [x, scale, zero_point.astype(x.dtype)], bounds


@fake_sign.sample
def _(pick: Pick):
    rows, columns = pick.size(0, 3), pick.size(1, 4)
    return [pick.array(rows, columns, domain=away_from(0.0)), pick.array(*pick.choice([(), (columns,)]), domain=positive)], {}


@learned_step_size.sample
def _(pick: Pick):
    return [pick.array(pick.size(0, 3), domain=away_from(-FARTHEST, FARTHEST))], {"share": pick.choice([1.0, 0.25])}


def _drawn(pick: Pick) -> tuple[list[Any], dict[str, Any]]:
    """Numbers some of which are clipped, and none near a code or the middle between two: float32 and float64 must clip and round alike."""
    low, high = pick.choice([(-128, 127), (-127, 127), (0, 255), (-8, 7), (0, 15), (-1, 1)])
    rows, columns = pick.size(0, 3), pick.size(1, 4)
    scale = np.ldexp(1.0 + pick.array(*pick.choice([(), (columns,), (rows, 1)])) / 4, pick.size(-6, 2))
    zero_point = pick.integers(*pick.choice([(), (columns,)]), low=low, high=high + 1)
    codes = pick.integers(rows, columns, low=low - 3, high=high + 4) - zero_point
    x = scale * (codes + pick.choice([-0.25, 0.25]) + pick.array(rows, columns) / 10)
    return [x, scale, np.asarray(zero_point, np.int8 if low < 0 else np.uint8)], {"low": low, "high": high}
