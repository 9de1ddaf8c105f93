r"""Trigonometric and hyperbolic functions and their inverses.

Sums of squares in a slope are taken by `hypot`, differences of squares as products: neither overflows nor cancels.
arctan2 has no derivative at the origin; its slopes there are taken as 0.
"""

from __future__ import annotations

import math

import numpy as np

from engine.domain import Pick, above, interval, positive, real
from engine.op import op
from engine.ops.elementwise import hypot, sqrt, where

__all__ = [
    "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "cos", "cosh", "deg2rad", "rad2deg", "sin", "sinc",
    "sinh", "spherical_bessel", "tan",
]  # fmt: skip


@op("... -> ...", numpy=np.sin)
def sin(x):
    r"""$y = \sin x$"""
    return np.sin(x)


@sin.slope("x")
def _(x):
    r"""dy/dx = \cos x"""
    return cos(x)


@op("... -> ...", numpy=np.cos)
def cos(x):
    r"""$y = \cos x$"""
    return np.cos(x)


@cos.slope("x")
def _(x):
    r"""dy/dx = -\sin x"""
    return -sin(x)


@op("... -> ...", numpy=np.tan, x=interval(-math.pi / 2, math.pi / 2))
def tan(x):
    r"""$y = \tan x$"""
    return np.tan(x)


@tan.slope("x")
def _(y):
    r"""dy/dx = 1 + y^2"""
    return 1 + y * y


@op("... -> ...", numpy=np.arcsin, x=interval(-1.0, 1.0))
def arcsin(x):
    r"""$y = \arcsin x$"""
    return np.arcsin(x)


@arcsin.slope("x")
def _(x):
    r"""dy/dx = 1 / \sqrt{(1 - x)(1 + x)}"""
    return 1 / sqrt((1 - x) * (1 + x))


@op("... -> ...", numpy=np.arccos, x=interval(-1.0, 1.0))
def arccos(x):
    r"""$y = \arccos x$"""
    return np.arccos(x)


@arccos.slope("x")
def _(x):
    r"""dy/dx = -1 / \sqrt{(1 - x)(1 + x)}"""
    return -1 / sqrt((1 - x) * (1 + x))


@op("... -> ...", numpy=np.arctan)
def arctan(x):
    r"""$y = \arctan x$"""
    return np.arctan(x)


@arctan.slope("x")
def _(x):
    r"""dy/dx = 1 / (1 + x^2)"""
    h = hypot(x, 1.0)
    return 1 / h / h


@op("..., ... -> ...", numpy=np.arctan2, x1=positive)
def arctan2(x1, x2):
    r"""$y = \arg(x_2 + i x_1)$, the angle of the point $(x_2, x_1)$, in $[-\pi, \pi]$"""
    return np.arctan2(x1, x2)


def _over_square(x, x1, x2):
    """x / (x1^2 + x2^2), and 0 at the origin."""
    r = hypot(x1, x2)
    r = where(r == 0, 1.0, r)
    return x / r / r


@arctan2.slope("x1")
def _(x1, x2):
    r"""\partial y / \partial x_1 = x_2 / (x_1^2 + x_2^2)"""
    return _over_square(x2, x1, x2)


@arctan2.slope("x2")
def _(x1, x2):
    r"""\partial y / \partial x_2 = -x_1 / (x_1^2 + x_2^2)"""
    return -_over_square(x1, x1, x2)


@op("... -> ...", numpy=np.sinh)
def sinh(x):
    r"""$y = \sinh x$"""
    return np.sinh(x)


@sinh.slope("x")
def _(x):
    r"""dy/dx = \cosh x"""
    return cosh(x)


@op("... -> ...", numpy=np.cosh)
def cosh(x):
    r"""$y = \cosh x$"""
    return np.cosh(x)


@cosh.slope("x")
def _(x):
    r"""dy/dx = \sinh x"""
    return sinh(x)


@op("... -> ...", numpy=np.arcsinh)
def arcsinh(x):
    r"""$y = \mathrm{arsinh}\, x$"""
    return np.arcsinh(x)


@arcsinh.slope("x")
def _(x):
    r"""dy/dx = 1 / \sqrt{x^2 + 1}"""
    return 1 / hypot(x, 1.0)


@op("... -> ...", numpy=np.arccosh, x=above(1.0))
def arccosh(x):
    r"""$y = \mathrm{arcosh}\, x$"""
    return np.arccosh(x)


@arccosh.slope("x")
def _(x):
    r"""dy/dx = 1 / (\sqrt{x - 1} \sqrt{x + 1})"""
    return 1 / (sqrt(x - 1) * sqrt(x + 1))


@op("... -> ...", numpy=np.arctanh, x=interval(-1.0, 1.0))
def arctanh(x):
    r"""$y = \mathrm{artanh}\, x$"""
    return np.arctanh(x)


@arctanh.slope("x")
def _(x):
    r"""dy/dx = 1 / ((1 - x)(1 + x))"""
    return 1 / ((1 - x) * (1 + x))


DEGREE = math.pi / 180


@op("... -> ...", linear=("x",), numpy=(np.deg2rad, np.radians))
def deg2rad(x):
    r"""$y = \pi x / 180$"""
    return np.deg2rad(x)


@deg2rad.slope("x")
def _():
    r"""dy/dx = \pi / 180"""
    return DEGREE


@op("... -> ...", linear=("x",), numpy=(np.rad2deg, np.degrees))
def rad2deg(x):
    r"""$y = 180 x / \pi$"""
    return np.rad2deg(x)


@rad2deg.slope("x")
def _():
    r"""dy/dx = 180 / \pi"""
    return 1 / DEGREE


@op("... -> ...", numpy=np.sinc)
def sinc(x):
    r"""$y = \sin(\pi x) / (\pi x), \quad 1 \text{ at } 0$"""
    return np.sinc(x)


@sinc.slope("x")
def _(x):
    r"""dy/dx = -\pi \, j_1(\pi x)"""
    return -math.pi * spherical_bessel(math.pi * x, order=1)  # (cos - y) / x would cancel near 0


@op("... -> ...", x=real)
def spherical_bessel(x, *, order: int):
    r"""$y = j_n(x), \quad j_0(x) = \sin(x) / x$

    order   n = 0, 1, 2, ...

    The power series for |x| below n + 2, from there on the recurrence $j_{n+1} = (2n + 1) j_n / x - j_{n-1}$, which is
    stable while n < x. Raises ValueError for a negative order.
    Source: Abramowitz & Stegun (1964), eqs. 10.1.2 and 10.1.19.
    """
    if order < 0:
        raise ValueError(f"order is {order}, wanted 0 or more")
    near = np.abs(x) < order + 2
    return np.where(near, _bessel_series(np.where(near, x, 0.0), order), _bessel_upward(np.where(near, order + 2.0, x), order))[()]


def _bessel_series(x, n):
    """x^n sum_k (-x^2 / 2)^k / (k! (2n + 1)(2n + 3) ... (2n + 2k + 1))"""
    total = term = x**n / math.prod(range(1, 2 * n + 2, 2))
    for k in range(1, 16 + n):  # the last term is below 2^-53 of the first for |x| < n + 2
        term = term * (-0.5 * x * x) / (k * (2 * n + 2 * k + 1))
        total = total + term
    return total


def _bessel_upward(x, n):
    before, now = np.cos(x) / x, np.sin(x) / x  # j_{-1} and j_0
    for k in range(n):
        before, now = now, (2 * k + 1) * now / x - before
    return now


@spherical_bessel.slope("x")
def _(x, *, order):
    r"""dy/dx = (n j_{n-1} - (n + 1) j_{n+1}) / (2n + 1)"""
    higher = spherical_bessel(x, order=order + 1)
    if order == 0:
        return -higher
    return (order * spherical_bessel(x, order=order - 1) - (order + 1) * higher) / (2 * order + 1)


@spherical_bessel.sample
def _(pick: Pick):
    return [2 * pick.array(pick.size(0, 3), pick.size(1, 3))], {"order": pick.size(0, 3)}
