r"""Elementwise arithmetic, powers, exponentials and choices.

One slope an argument says it all: with $y_i = f(x_i)$ the Jacobian is diagonal, so
$\dot y = f'(x) \odot \dot x$ and $\bar x = f'(x) \odot \bar y$. Broadcasting is undone by the engine.

Every op takes any shapes that broadcast and any real dtype, and promotes as NumPy does (NEP 50: a Python number
keeps the array's dtype). Slopes are written so that they stay exact in the tails: $e^x$ and not $y + 1$ for expm1.
At kinks and ties: abs'(0) = 0, sign' = 0, maximum and minimum of equal values share evenly, clip passes its bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick, above, away_from, positive, real
from engine.op import op

__all__ = [
    "abs", "add", "cbrt", "clip", "divide", "exp", "exp2", "expm1", "hypot", "log", "log10", "log1p", "log2", "logaddexp",
    "logaddexp2", "maximum", "minimum", "multiply", "negative", "pow", "reciprocal", "sign", "sqrt", "square", "stop_gradient",
    "subtract", "where",
]  # fmt: skip

PAIR = "..., ... -> ..."


@op(PAIR, numpy=np.add)
def add(x1, x2):
    r"""$y = x_1 + x_2$"""
    return np.add(x1, x2)


@add.slope("x1", "x2")
def _():
    r"""\partial y / \partial x_1 = \partial y / \partial x_2 = 1"""
    return 1


@op(PAIR, numpy=np.subtract)
def subtract(x1, x2):
    r"""$y = x_1 - x_2$"""
    return np.subtract(x1, x2)


@subtract.slope("x1")
def _():
    r"""\partial y / \partial x_1 = 1"""
    return 1


@subtract.slope("x2")
def _():
    r"""\partial y / \partial x_2 = -1"""
    return -1


@op(PAIR, numpy=np.multiply)
def multiply(x1, x2):
    r"""$y = x_1 x_2$"""
    return np.multiply(x1, x2)


@multiply.slope("x1")
def _(x2):
    r"""\partial y / \partial x_1 = x_2"""
    return x2


@multiply.slope("x2")
def _(x1):
    r"""\partial y / \partial x_2 = x_1"""
    return x1


@op(PAIR, numpy=np.divide, x2=above(0.2))
def divide(x1, x2):
    r"""$y = x_1 / x_2$"""
    return np.divide(x1, x2)


@divide.slope("x1")
def _(x2):
    r"""\partial y / \partial x_1 = 1 / x_2"""
    return 1 / x2


@divide.slope("x2")
def _(y, x2):
    r"""\partial y / \partial x_2 = -y / x_2"""
    return -y / x2


@op("... -> ...", numpy=np.negative)
def negative(x):
    r"""$y = -x$"""
    return np.negative(x)


@negative.slope("x")
def _():
    r"""dy/dx = -1"""
    return -1


@op("... -> ...", numpy=np.reciprocal, x=above(0.2))
def reciprocal(x):
    r"""$y = 1 / x$"""
    return np.reciprocal(x)


@reciprocal.slope("x")
def _(y):
    r"""dy/dx = -y^2"""
    return -y * y


@op(PAIR, numpy=np.power, x1=positive)
def pow(x1, x2):
    r"""$y = x_1^{x_2}$

    At $x_1 = 0$ the slope in $x_2$ is taken as 0 for $x_2 \ge 0$: the function is constant 0 to the right of $x_2 = 0$.
    """
    return np.power(x1, x2)


@pow.slope("x1")
def _(x1, x2):
    r"""\partial y / \partial x_1 = x_2 x_1^{x_2 - 1}, \quad 0 \text{ for } x_1 = x_2 = 0"""
    if isinstance(x2, (int, float)):
        return 0.0 * x1 if x2 == 0 else x2 * pow(x1, x2 - 1)
    flat = (x1 == 0) & (x2 == 0)  # 0 * 0^-1 would be 0 * inf. Elsewhere the formula stays: at x2 = 0 its slope in x2 is 1 / x1
    return where(flat, 0.0, x2 * pow(x1, where(flat, 1.0, x2 - 1)))


@pow.slope("x2")
def _(y, x1, x2):
    r"""\partial y / \partial x_2 = y \ln x_1, \quad 0 \text{ for } x_1 = 0, x_2 \geq 0"""
    flat = (x1 == 0) & (x2 >= 0)
    return where(flat, 0.0, y * log(where(flat, 1.0, x1)))


@op("... -> ...", numpy=np.square)
def square(x):
    r"""$y = x^2$"""
    return np.square(x)


@square.slope("x")
def _(x):
    r"""dy/dx = 2x"""
    return 2 * x


@op("... -> ...", numpy=np.sqrt, x=positive)
def sqrt(x):
    r"""$y = \sqrt{x}$"""
    return np.sqrt(x)


@sqrt.slope("x")
def _(y):
    r"""dy/dx = 1 / (2y)"""
    return 0.5 / y


@op("... -> ...", numpy=np.cbrt, x=positive)
def cbrt(x):
    r"""$y = \sqrt[3]{x}$"""
    return np.cbrt(x)


@cbrt.slope("x")
def _(y):
    r"""dy/dx = 1 / (3 y^2)"""
    return 1 / (3 * y * y)


@op(PAIR, numpy=np.hypot, x1=positive, x2=positive)
def hypot(x1, x2):
    r"""$y = \sqrt{x_1^2 + x_2^2}$, whose slopes at the origin are taken as 0"""
    return np.hypot(x1, x2)


def _share(x, y):
    return x / where(y == 0, 1.0, y)


@hypot.slope("x1")
def _(y, x1):
    r"""\partial y / \partial x_1 = x_1 / y"""
    return _share(x1, y)


@hypot.slope("x2")
def _(y, x2):
    r"""\partial y / \partial x_2 = x_2 / y"""
    return _share(x2, y)


@op("... -> ...", numpy=np.exp)
def exp(x):
    r"""$y = e^x$"""
    return np.exp(x)


@exp.slope("x")
def _(y):
    r"""dy/dx = y"""
    return y


@op("... -> ...", numpy=np.exp2)
def exp2(x):
    r"""$y = 2^x$"""
    return np.exp2(x)


@exp2.slope("x")
def _(y):
    r"""dy/dx = y \ln 2"""
    return y * LN2


@op("... -> ...", numpy=np.expm1)
def expm1(x):
    r"""$y = e^x - 1$, exact near 0"""
    return np.expm1(x)


@expm1.slope("x")
def _(x):
    r"""dy/dx = e^x"""
    return exp(x)  # not y + 1: y is -1 below x = -37


@op("... -> ...", numpy=np.log, x=positive)
def log(x):
    r"""$y = \ln x$"""
    return np.log(x)


@log.slope("x")
def _(x):
    r"""dy/dx = 1 / x"""
    return 1 / x


LN2 = float(np.log(2))
LN10 = float(np.log(10))


@op("... -> ...", numpy=np.log2, x=positive)
def log2(x):
    r"""$y = \log_2 x$"""
    return np.log2(x)


@log2.slope("x")
def _(x):
    r"""dy/dx = 1 / (x \ln 2)"""
    return 1 / (x * LN2)


@op("... -> ...", numpy=np.log10, x=positive)
def log10(x):
    r"""$y = \log_{10} x$"""
    return np.log10(x)


@log10.slope("x")
def _(x):
    r"""dy/dx = 1 / (x \ln 10)"""
    return 1 / (x * LN10)


@op("... -> ...", numpy=np.log1p, x=above(-1.0))
def log1p(x):
    r"""$y = \ln (1 + x)$, exact near 0"""
    return np.log1p(x)


@log1p.slope("x")
def _(x):
    r"""dy/dx = 1 / (1 + x)"""
    return 1 / (1 + x)


@op(PAIR, numpy=np.logaddexp)
def logaddexp(x1, x2):
    r"""$y = \ln (e^{x_1} + e^{x_2})$, without overflow"""
    return np.logaddexp(x1, x2)


def _weight(x, other):
    from engine.ops.activations import sigmoid  # which is built on this module

    alike = (x == other) & np.isinf(x)  # two equal infinities, whose difference is nan
    return sigmoid(where(alike, 0.0, x) - where(alike, 0.0, other))


@logaddexp.slope("x1")
def _(x1, x2):
    r"""\partial y / \partial x_1 = 1 / (1 + e^{x_2 - x_1})"""
    return _weight(x1, x2)


@logaddexp.slope("x2")
def _(x1, x2):
    r"""\partial y / \partial x_2 = 1 / (1 + e^{x_1 - x_2})"""
    return _weight(x2, x1)


@op(PAIR, numpy=np.logaddexp2)
def logaddexp2(x1, x2):
    r"""$y = \log_2 (2^{x_1} + 2^{x_2})$, without overflow"""
    return np.logaddexp2(x1, x2)


@logaddexp2.slope("x1")
def _(x1, x2):
    r"""\partial y / \partial x_1 = 1 / (1 + 2^{x_2 - x_1})"""
    return _weight(LN2 * x1, LN2 * x2)


@logaddexp2.slope("x2")
def _(x1, x2):
    r"""\partial y / \partial x_2 = 1 / (1 + 2^{x_1 - x_2})"""
    return _weight(LN2 * x2, LN2 * x1)


@op("... -> ...", numpy=(np.absolute, np.fabs), x=away_from(0.0))
def abs(x):
    r"""$y = |x|$"""
    return np.abs(x)


@abs.slope("x")
def _(x):
    r"""dy/dx = \mathrm{sign}\, x"""
    return sign(x)


@op("... -> ...", numpy=np.sign, x=away_from(0.0))
def sign(x):
    r"""$y = \mathrm{sign}\, x$"""
    return np.sign(x)


@sign.slope("x")
def _():
    r"""dy/dx = 0"""
    return 0


def _share_of(v, wins, ties):
    """v where x wins, half of it at a tie, so that equal values share evenly. Not a slope: that would be float64."""
    return where(ties, 0.5 * v, where(wins, v, 0.0))


@op(PAIR, numpy=np.maximum)
def maximum(x1, x2):
    r"""$y = \max(x_1, x_2)$"""
    return np.maximum(x1, x2)


@maximum.vjp("x1")
def _(g, x1, x2):
    r"""\bar x_1 = ([x_1 > x_2] + [x_1 = x_2] / 2) \, \bar y"""
    return _share_of(g, x1 > x2, x1 == x2)


@maximum.vjp("x2")
def _(g, x1, x2):
    r"""\bar x_2 = ([x_2 > x_1] + [x_1 = x_2] / 2) \, \bar y"""
    return _share_of(g, x2 > x1, x1 == x2)


@maximum.jvp("x1")
def _(d, x1, x2):
    r"""\dot y = ([x_1 > x_2] + [x_1 = x_2] / 2) \, \dot x_1"""
    return _share_of(d, x1 > x2, x1 == x2)


@maximum.jvp("x2")
def _(d, x1, x2):
    r"""\dot y = ([x_2 > x_1] + [x_1 = x_2] / 2) \, \dot x_2"""
    return _share_of(d, x2 > x1, x1 == x2)


@op(PAIR, numpy=np.minimum)
def minimum(x1, x2):
    r"""$y = \min(x_1, x_2)$"""
    return np.minimum(x1, x2)


@minimum.vjp("x1")
def _(g, x1, x2):
    r"""\bar x_1 = ([x_1 < x_2] + [x_1 = x_2] / 2) \, \bar y"""
    return _share_of(g, x1 < x2, x1 == x2)


@minimum.vjp("x2")
def _(g, x1, x2):
    r"""\bar x_2 = ([x_2 < x_1] + [x_1 = x_2] / 2) \, \bar y"""
    return _share_of(g, x2 < x1, x1 == x2)


@minimum.jvp("x1")
def _(d, x1, x2):
    r"""\dot y = ([x_1 < x_2] + [x_1 = x_2] / 2) \, \dot x_1"""
    return _share_of(d, x1 < x2, x1 == x2)


@minimum.jvp("x2")
def _(d, x1, x2):
    r"""\dot y = ([x_2 < x_1] + [x_1 = x_2] / 2) \, \dot x_2"""
    return _share_of(d, x2 < x1, x1 == x2)


def _two_apart(pick: Pick):
    """Two arrays that broadcast and are nowhere close to equal."""
    m, n = pick.size(0, 3), pick.size(1, 3)
    x1 = pick.array(m, n)
    gap = pick.choice([-1.0, 1.0]) * pick.array(m, n, domain=above(0.1))
    return [x1, x1 + gap], {}


maximum.sample(_two_apart)
minimum.sample(_two_apart)


@op("... -> ...", x=real)
def clip(x, *, min: Any = None, max: Any = None):
    r"""$y = \min(\max(x, \mathrm{min}), \mathrm{max})$

    min, max    numbers or arrays that broadcast with x; None for no bound. The slope is 1 on the closed interval
    """
    return np.clip(x, min, max)


@clip.slope("x")
def _(x, *, min, max):
    r"""dy/dx = [\mathrm{min} \leq x \leq \mathrm{max}]"""
    inside = True if min is None else x >= min
    return inside if max is None else inside & (x <= max)


@clip.sample
def _(pick: Pick):
    low, high = pick.choice([(-1.0, 0.5), (None, 0.5), (-1.0, None)])
    kinks = [k for k in (low, high) if k is not None]
    return [pick.array(pick.size(0, 3), pick.size(1, 3), domain=away_from(*kinks))], {"min": low, "max": high}


@op("..., ..., ... -> ...", constant=("condition",))
def where(condition, x1, x2):
    r"""$y = x_1 \text{ where the condition holds, else } x_2$"""
    return np.where(condition, x1, x2)


# Not slopes: 0 * nan would let a nan through from the side that was not chosen.


@where.vjp("x1")
def _(g, condition):
    r"""\bar x_1 = \bar y \text{ where the condition holds, else } 0"""
    return where(condition, g, 0.0)


@where.vjp("x2")
def _(g, condition):
    r"""\bar x_2 = 0 \text{ where the condition holds, else } \bar y"""
    return where(condition, 0.0, g)


@where.jvp("x1")
def _(d, condition):
    r"""\dot y = \dot x_1 \text{ where the condition holds, else } 0"""
    return where(condition, d, 0.0)


@where.jvp("x2")
def _(d, condition):
    r"""\dot y = 0 \text{ where the condition holds, else } \dot x_2"""
    return where(condition, 0.0, d)


@where.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.integers(m, n, high=2) == 1, pick.array(m, n), pick.array(n)], {}


@op("... -> ...", constant=("x",))
def stop_gradient(x):
    r"""$y = x$, a constant for every derivative"""
    return x
