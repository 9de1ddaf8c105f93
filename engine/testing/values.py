"""Numbers worth trying, in an order in which they shrink.

An `Alphabet` writes each number as a small integer, its code: first simple numbers (0, 1, -1, 2, 0.5, ...) and the points where
functions saturate, then generic numbers, those with few binary digits first, then numbers of any moderate magnitude, then the
whole range of the floating-point format. The ways to draw (`MODES`) differ only in the range of the code, so a number that
made a function fail is still the same number when the way in which it was drawn is simplified.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from engine.domain import Domain

SIMPLE = (0.0, 1.0, -1.0, 2.0, 0.5, -0.5, -2.0, 3.0, -3.0, 1.5, -1.5, 2.5, -2.5, 4.0, 5.0, 6.0, -6.0, 10.0, -10.0)

SATURATED = (20.0, -20.0, 37.5, -37.5, 40.0, -40.0, 88.0, -88.0, 100.0, -100.0, 710.0, -710.0, -745.0, 800.0, -800.0, 1e4, -1e4)
"""Where 1 - tanh^2, 1 - sigmoid and exp run out of digits or of exponents, in one precision or another."""

SMALL = (1e-3, -1e-3, 1e-5, 1e-9, -1e-9, 1e-16, 1e-30, 1e-160, -1e-300, -0.0)
"""Where x is lost beside 1, x*x beside x, and where x*x is 0."""

INF = math.inf


@dataclass(frozen=True)
class Region(Domain):
    """A domain as it was found or as a user gave it.

    holes      points inside at which the function is not finite: they are not drawn
    inferred   found by trying: now and then, a number from outside is drawn all the same
    nan        nan is one of the numbers that the function is written for
    """

    holes: tuple[float, ...] = ()
    inferred: bool = False
    nan: bool = False


def closed(low: float, high: float, kinks: tuple[float, ...] = ()) -> Region:
    """The interval from `low` to `high`, both included."""
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
    codes: str = "generic"  # the range of codes: few, points, generic, wide, extreme; or mixed, of points and generic ones
    made_of: int = 0  # different numbers: 1, 2, or 0 for a number for each element
    shifted: bool = False  # all by one number, which may be large


MODES = {
    mode.name: mode
    for mode in (
        Mode("generic"),
        Mode("points", "points"),
        Mode("few", "few"),
        Mode("mixed", "mixed"),
        Mode("constant", "points", 1),
        Mode("constant, few", "few", 1),
        Mode("constant, generic", "generic", 1),
        Mode("two values", "points", 2),
        Mode("two values, generic", "generic", 2),
        Mode("shifted", "generic", shifted=True),
        Mode("wide", "wide"),
        Mode("extreme", "extreme"),
    )
}

MIX = ("generic", "points", "few", "mixed", "constant", "two values", "wide", "generic", "mixed", "points", "extreme", "generic", "few",
       "constant, generic", "two values, generic", "shifted", "wide", "constant, few")  # fmt: skip
"""How often each mode is drawn: once for each time that it stands here."""

TOGETHER = ("few", "points", "constant, few", "few", "points", "constant")
"""How often for arguments that are special all together: what goes wrong at x = 40 only where t = 1 is met in this way."""

GENERIC, ANY = 128, 64  # codes for generic numbers, and for those of any magnitude
SHORT = 24  # of the generic codes: these have few binary digits


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
        inside = [float(round(middle) + i) for i in range(-2, 3)] if ends else []
        found = [*SIMPLE, *region.kinks, *inside, *next_to, *near, *SATURATED, *SMALL, float(info.tiny), float(info.smallest_subnormal)]
        if self.nonfinite:
            found += [math.nan, INF, -INF]
        elif getattr(region, "nan", False):
            found += [math.nan] * 2
        return self._kept(found) or (middle,)

    def _kept(self, numbers: list[float]) -> tuple[float, ...]:
        rounded = [self._rounded(v) for v in numbers]
        kept = [r for r, v in zip(rounded, numbers, strict=True) if self.allows(r) or not math.isfinite(v)]
        return tuple({repr(v): v for v in kept}.values())

    def _rounded(self, v: float) -> float:
        if self.dtype == np.float64:
            return v
        with np.errstate(over="ignore", under="ignore"):
            return float(self.dtype.type(v))

    def allows(self, v: float) -> bool:
        """Is `v` a finite number of the region, off its holes?"""
        return math.isfinite(v) and self.region.low < v < self.region.high and v not in getattr(self.region, "holes", ())

    @cached_property
    def ends(self) -> dict[str, int]:
        """Where each range of codes ends. All begin at 0."""
        points = len(self.points)
        generic = points + GENERIC
        return {"few": min(4, points), "points": points, "generic": generic, "wide": generic + ANY, "extreme": generic + 2 * ANY}

    def number(self, code: int, salt: int) -> float:
        """The number that `code` stands for; `salt` makes the generic numbers of different elements differ."""
        ends = self.ends
        if code < ends["points"]:
            return self.points[code]
        i, bits = code - ends["points"], mixed(salt * 4096 + code)
        if i < GENERIC:
            v = self._generic(bits, 2 + i // 4 if i < SHORT else 52)
        elif i < GENERIC + ANY:
            v = self._away(bits, -12, 12) if i % 2 else self._away(bits, -60, 60)
        else:
            info = np.finfo(self.dtype)
            v = self._away(bits, int(info.minexp) - int(info.nmant), int(info.maxexp) - 1)
        v = self._rounded(v)
        return v if self.allows(v) else self.points[0]

    def _generic(self, bits: int, digits: int) -> float:
        """A number from the part of the region that generic numbers come from, on a grid of 2**digits."""
        return self.region.draw_low + math.ldexp(bits >> (64 - digits), -digits) * (self.region.draw_high - self.region.draw_low)

    def _away(self, bits: int, low: int, high: int) -> float:
        """A number whose distance from 0, or from an end of the region, has any exponent from `low` to `high`."""
        start, sign = self.anchors[bits % len(self.anchors)]
        exponent = low + (bits >> 32) % (high - low + 1)
        distance = 1 + ((bits >> 8) & 0xFFFFF) / 0x100000
        v = start + sign * math.ldexp(distance, exponent)
        return v if self.allows(v) else start + sign * math.ldexp(distance, -abs(exponent))

    @cached_property
    def anchors(self) -> tuple[tuple[float, int], ...]:
        """Where magnitudes are counted from, and to which side."""
        region = self.region
        around = ((0.0, 1), (0.0, -1)) if region.low < 0 < region.high else ()
        ends = [(e, sign) for e, sign in ((region.low, 1), (region.high, -1)) if math.isfinite(e)]
        return (*around, *ends)


@lru_cache(maxsize=256)
def alphabet(dtype: np.dtype[Any], region: Domain, nonfinite: bool) -> Alphabet:
    """The alphabet, whose points are found once."""
    return Alphabet(dtype, region, nonfinite)


def mixed(i: int) -> int:
    """64 bits that look random. Source: Steele, Lea & Flood (2014), Fast splittable pseudorandom number generators, fig. 14."""
    i = (i * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    i = ((i ^ (i >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    i = ((i ^ (i >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return i ^ (i >> 31)
