"""Numbers worth trying, in an order in which Hypothesis shrinks them.

An `Alphabet` writes each number as one integer: small integers are simple numbers (0, 1, -1, 2, 0.5, ...), then come the points
where functions saturate, then generic numbers with few binary digits before those with many, then any magnitude, then the ends
of the floating-point range. So the ways to draw (`MODES`) differ only in the range of the integer, and a number that made a
function fail is still the same number when Hypothesis simplifies the way in which it was drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from engine.domain import Domain

SIMPLE = (0.0, 1.0, -1.0, 2.0, 0.5, -0.5, -2.0, 3.0, -3.0, 1.5, -1.5, 2.5, -2.5, 4.0, 5.0, 6.0, -6.0, 10.0, -10.0)

SATURATED = (20.0, -20.0, 37.5, -37.5, 40.0, -40.0, 88.0, -88.0, 100.0, -100.0, 710.0, -710.0, -745.0, 800.0, -800.0, 1e4, -1e4)
"""Where 1 - tanh^2, 1 - sigmoid and exp run out of digits or of exponents, in one precision or another."""

SMALL = (1e-3, -1e-3, 1e-5, 1e-9, -1e-9, 1e-16, 1e-30, -0.0)
"""Where x is lost beside 1, and x*x beside x."""

POINTS = (*SIMPLE, *SATURATED, *SMALL)

DIGITS = 21  # binary digits of a generic number: no two are alike by accident, and float32 holds them

INF = math.inf


@dataclass(frozen=True)
class Region(Domain):
    """A domain as it was found or as a user gave it.

    holes      points inside at which the function is not finite: they are not drawn
    inferred   found by trying: now and then, a number from outside is drawn all the same
    """

    holes: tuple[float, ...] = ()
    inferred: bool = False


def closed(low: float, high: float, kinks: tuple[float, ...] = ()) -> Region:
    """The interval from `low` to `high`, both included; generic numbers come from its middle."""
    if not low <= high:
        raise ValueError(f"an interval (low, high) is wanted, given ({low}, {high})")
    return framed(float(np.nextafter(low, -INF)), float(np.nextafter(high, INF)), kinks)


def framed(low: float, high: float, kinks: tuple[float, ...] = (), holes: tuple[float, ...] = (), inferred: bool = False) -> Region:
    """The open interval, with generic numbers from a part of it of moderate size near 0 or near its finite end."""
    if math.isfinite(low) and math.isfinite(high) and high - low <= 100:
        draw = (low, high)
    else:
        draw = (max(low, -3.0), min(high, 3.0))
        if draw[1] - draw[0] < 1:
            draw = (low, min(high, low + 4)) if math.isfinite(low) else (max(low, high - 4), high)
    return Region(low, high, tuple(kinks), draw[0], draw[1], tuple(holes), inferred)


EVERYWHERE = framed(-INF, INF)


@dataclass(frozen=True)
class Mode:
    """A way to draw an array: which codes of its alphabet, and how many of them it is made of."""

    name: str
    codes: str = "generic"  # the range of codes: few, points, generic, wide, extreme
    made_of: int = 0  # different numbers: 1, 2, or 0 for a number for each element


GENERIC = Mode("generic")
MODES = (
    GENERIC,
    Mode("points", "points"),
    Mode("few", "few"),
    Mode("mixed", "mixed"),
    Mode("constant", "points", 1),
    Mode("two values", "points", 2),
    Mode("constant, generic", "generic", 1),
    Mode("wide", "wide"),
    Mode("two values, generic", "generic", 2),
    Mode("extreme", "extreme"),
)
NAMED = {mode.name: mode for mode in MODES}

MIX = ("generic", "points", "few", "mixed", "constant", "two values", "wide", "generic", "mixed", "points", "extreme", "generic", "few",
       "constant, generic", "two values, generic", "wide")  # fmt: skip
"""How often each mode is drawn: once for each time that it stands here."""


@dataclass(frozen=True)
class Alphabet:
    """Numbers of a region by their codes, for one dtype."""

    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    region: Domain = EVERYWHERE
    nonfinite: bool = False

    @cached_property
    def points(self) -> tuple[float, ...]:
        """The simple and the special numbers of the region, its kinks, and what lies next to its ends."""
        region, info = self.region, np.finfo(self.dtype)
        middle = (region.draw_low + region.draw_high) / 2
        ends = [e for e in (region.low, region.high) if math.isfinite(e)]
        near = [e + sign * step for e in ends for step in (0.25, 1e-3, 1e-9) for sign in (1, -1)]
        next_to = [float(np.nextafter(self.dtype.type(e), self.dtype.type(away))) for e in ends for away in (INF, -INF)]
        found = [*POINTS, *region.kinks, *(float(round(middle) + i) for i in range(-2, 3)), middle, *near, *next_to, float(info.tiny)]
        if self.nonfinite:
            found += [math.nan, INF, -INF]
        return self._kept(found) or (middle,)

    def _kept(self, numbers: list[float]) -> tuple[float, ...]:
        with np.errstate(over="ignore", under="ignore"):
            rounded = [float(self.dtype.type(v)) for v in numbers]
        kept = [r for r, v in zip(rounded, numbers, strict=True) if self.allows(r) or (self.nonfinite and not math.isfinite(v))]
        return tuple({repr(v): v for v in kept}.values())

    def allows(self, v: float) -> bool:
        """Is `v` a finite number of the region, off its holes?"""
        return math.isfinite(v) and self.region.low < v < self.region.high and v not in getattr(self.region, "holes", ())

    @cached_property
    def ends(self) -> dict[str, int]:
        """Where each range of codes ends. All begin at 0, but "points" and "few" hold nothing else."""
        points = len(self.points)
        generic = points + (1 << DIGITS)
        wide = generic + (1 << DIGITS)
        return {"few": min(4, points), "points": points, "generic": generic, "wide": wide, "extreme": wide + (1 << DIGITS)}

    def number(self, code: int) -> float:
        """The number that `code` stands for."""
        ends = self.ends
        if code < ends["points"]:
            return self.points[code]
        if code < ends["generic"]:
            v = self._generic(code - ends["points"])
        elif code < ends["wide"]:
            v = self._away(code - ends["generic"], -24, 12)
        else:
            info = np.finfo(self.dtype)
            v = self._away(code - ends["wide"], int(info.minexp) - int(info.nmant), int(info.maxexp) - 1)
        with np.errstate(over="ignore", under="ignore"):
            v = float(self.dtype.type(v))
        return v if self.allows(v) else self.points[0]

    def _generic(self, i: int) -> float:
        """Halves, then quarters, then eighths ... of the part of the region that generic numbers come from."""
        return self.region.draw_low + _reversed_bits(i) * (self.region.draw_high - self.region.draw_low)

    def _away(self, i: int, low: int, high: int) -> float:
        """A number whose distance from 0, or from an end of the region, has any exponent from `low` to `high`."""
        i, side = divmod(i, 2)
        digits, exponent = divmod(i, 2048)
        exponent = low + exponent * (high - low) // 2047
        v = math.ldexp(1 + _reversed_bits(digits, DIGITS - 12), exponent)
        region = self.region
        if region.low == -INF and region.high == INF:
            return -v if side else v
        if side and math.isfinite(region.high):
            return region.high - v
        return region.low + v if math.isfinite(region.low) else region.high - v


def _reversed_bits(i: int, digits: int = DIGITS) -> float:
    """In [0, 1): 0, 1/2, 1/4, 3/4, 1/8, 5/8, ... so that a smaller `i` has fewer digits."""
    return int(f"{i:0{digits}b}"[::-1], 2) / (1 << digits)
