r"""The parts of a floating-point number: its sign and its exponent."""

from __future__ import annotations

import numpy as np

from engine.domain import Pick, away_from
from engine.op import op
from engine.ops.elementwise import PAIR, sign, where

__all__ = ["copysign", "ldexp"]


@op(PAIR, numpy=np.copysign, x1=away_from(0.0), x2=away_from(0.0))
def copysign(x1, x2):
    r"""$y = |x_1| \, \mathrm{sign}\, x_2$, where the sign of 0 is that of its bit"""
    return np.copysign(x1, x2)


@copysign.slope("x1")
def _(x1, x2):
    r"""\partial y / \partial x_1 = \mathrm{sign}\, x_1 \, \mathrm{sign}\, x_2"""
    return where(np.signbit(x2), -sign(x1), sign(x1))


@copysign.slope("x2")
def _():
    r"""\partial y / \partial x_2 = 0"""
    return 0


@op(PAIR, linear=("x",), constant=("exponent",), numpy=np.ldexp)
def ldexp(x, exponent):
    r"""$y = x \, 2^n$ for integers n, also where $2^n$ itself would overflow"""
    return np.ldexp(x, exponent)


@ldexp.vjp("x")
def _(g, exponent):
    r"""\bar x = \bar y \, 2^n"""
    return ldexp(g, exponent)


@ldexp.sample
def _(pick: Pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.array(m, n), pick.integers(n, low=-3, high=4)], {}
