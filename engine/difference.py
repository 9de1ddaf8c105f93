"""The derivative of a function of one number, with no rule of ours involved: what a gradient is judged by."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

EPS = sys.float_info.epsilon
ROUNDINGS = 8  # of a loss that sums over a batch: its value is off by a few units in the last place


@dataclass(frozen=True)
class Estimate:
    """A derivative and a bound on how far off it may be."""

    value: float
    error: float


def ridders(f: Callable[[float], float], h: float, *, ratio: float = 2.0, rows: int = 7) -> Estimate:
    r"""$f'(0)$ by central differences at $h, h/r, h/r^2, \dots$, extrapolated to a step of zero.

    f        smooth on [-h, h]
    h        the first and largest step: the scale on which f bends, not a small number
    ratio    r, by which the step shrinks from row to row
    rows     how many steps at most; it stops sooner if the estimate gets worse

    The error is the largest change between neighbours in the extrapolation table, plus the rounding of f.
    Source: Ridders (1982), Accurate computation of F'(x) and F'(x)F''(x), Adv. Eng. Software 4(2).
    """
    best = Estimate(math.nan, math.inf)
    above: list[float] = []
    for row in range(rows):
        up, down = f(h), f(-h)
        line = [(up - down) / (2 * h)]
        rounding = ROUNDINGS * EPS * max(abs(up), abs(down)) / h
        for order, finer in enumerate(above, start=1):
            line.append(line[-1] + (line[-1] - finer) / (ratio ** (2 * order) - 1))
            error = max(abs(line[-1] - line[-2]), abs(line[-1] - finer)) + rounding
            if error < best.error:
                best = Estimate(line[-1], error)
        if row and abs(line[-1] - above[-1]) + rounding > 2 * best.error:
            break
        above, h = line, h / ratio
    return best


def central(f: Callable[[float], float], h: float) -> Estimate:
    """$f'(0)$ by one central difference; the error is the rounding alone."""
    up, down = f(h), f(-h)
    return Estimate((up - down) / (2 * h), ROUNDINGS * EPS * max(abs(up), abs(down)) / h)


def complex_step(f: Callable[[complex], complex], value: float, *, h: float = 1e-30) -> float | None:
    r"""$f'(0) = \mathrm{Im}\, f(ih) / h$: nothing is subtracted, so nothing cancels and no kink is crossed.

    value    f(0) in real numbers
    Returns None where f does not take complex numbers, or where its real part is not the value: f is then not analytic
    as it is written. An absolute value can fool it, so a difference must confirm what it says.
    Source: Squire & Trapp (1998), Using complex variables to estimate derivatives of real functions, SIAM Review 40(1).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            y = complex(f(1j * h))
    except (TypeError, ValueError, ArithmeticError, np.exceptions.ComplexWarning):
        return None
    same = abs(y.real - value) <= 1e3 * EPS * abs(value)
    return y.imag / h if same and math.isfinite(y.imag) else None
