r"""The two remainders of a division: of the sign of the divisor, as Python's %, and of the sign of the dividend, as C's.

They jump where the quotient is an integer; there and elsewhere the slopes are those of one piece.
"""

from __future__ import annotations

import numpy as np

from engine.domain import Pick, above, away_from, positive
from engine.op import op
from engine.ops.elementwise import PAIR
from engine.traced import primal

__all__ = ["fmod", "remainder"]


@op(PAIR, numpy=(np.remainder, np.mod), x2=positive)
def remainder(x1, x2):
    r"""$y = x_1 - x_2 \lfloor x_1 / x_2 \rfloor$"""
    return np.remainder(x1, x2)


@remainder.slope("x1")
def _():
    r"""\partial y / \partial x_1 = 1"""
    return 1


@remainder.slope("x2")
def _(x1, x2):
    r"""\partial y / \partial x_2 = -\lfloor x_1 / x_2 \rfloor"""
    return -np.floor_divide(x1, x2)


@remainder.sample
def off_the_jumps(pick: Pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    whole, fraction = pick.integers(*shape, low=-3, high=4), 0.5 + pick.array(*shape) / 5  # off the jumps
    x2 = pick.array(*shape, domain=above(0.5))
    return [(whole + fraction) * x2, x2], {}


@op(PAIR, numpy=np.fmod, x2=away_from(0.0))
def fmod(x1, x2):
    r"""$y = x_1 - x_2 \, \mathrm{trunc}(x_1 / x_2)$"""
    return np.fmod(x1, x2)


@fmod.slope("x1")
def _():
    r"""\partial y / \partial x_1 = 1"""
    return 1


@fmod.slope("x2")
def _(x1, x2):
    r"""\partial y / \partial x_2 = -\mathrm{trunc}(x_1 / x_2)"""
    return -np.trunc(np.divide(primal(x1), primal(x2)))


@fmod.sample
def _(pick: Pick):
    (x1, x2), params = off_the_jumps(pick)
    return [x1, x2 * (2 * pick.integers(*x2.shape, high=2) - 1)], params
