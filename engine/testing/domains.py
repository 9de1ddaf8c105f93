"""Where a function is finite, found by moving one element of one argument: over a grid first, then by bisection."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import CodeType
from typing import Any

import numpy as np

from engine.testing.trying import Function, Probe, finite, is_square
from engine.testing.values import Region, framed

GRID = (1e-300, 1e-30, 1e-9, 1e-3, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 88.0, 100.0, 300.0, 700.0, 800.0,
        1e4, 1e9, 1e30, 1e150, 1e300)  # fmt: skip
NARROW = 1e-2  # a gap of the domain that is no wider than this is a hole in it
HUGE = 1e3  # an end of the domain beyond it is where something overflows: not worth telling
COMBINATIONS = 216  # of starting points, for a function of which one argument must be large where another is small


def regions(probe: Probe, args: Sequence[Any], wanted: set[str], options: Mapping[str, Any]) -> dict[str, Region]:
    """The region of each of the `wanted` arguments; none if no finite value was found to start from.

    args    of a call that f takes. Other moderate numbers stand in for its floating-point numbers
    """
    shapes = [np.shape(a) for a in args]
    for bases in _bases(len(args)):
        tried = [new if is_float(a) else a for a, new in zip(args, probe.arrays(shapes, bases), strict=True)]
        if finite(probe.f, tried, options):
            heeds = heeds_nan(probe.f)
            return {
                a.name: _region(_along(probe.f, tried, i, options), float(tried[i].flat[0]), a.dtype, heeds)
                for i, a in enumerate(probe.contract.arguments)
                # what may stand in a matrix depends on its other elements
                if a.name in wanted and is_float(args[i]) and tried[i].size and not is_square(shapes[i])
            }
    return {}


def is_float(a: Any) -> bool:
    return isinstance(a, (np.ndarray, np.generic)) and a.dtype.kind == "f"


def told(name: str, region: Region) -> str | None:
    """The region in words, if there is more to it than the overflow of huge numbers."""
    low = _bound(region.low, math.inf) if region.low > -HUGE else ""
    high = _bound(region.high, -math.inf) if region.high < HUGE else ""
    if not (low or high or region.holes):
        return None
    holes = f"x is not {' or '.join(f'{h:g}' for h in region.holes)}" if region.holes else ""
    return " and ".join(filter(None, (low, high, holes))).replace("x", name)


def _bound(end: float, inward: float) -> str:
    """`x > 0`, or `x >= 0` where 0 itself is inside."""
    next_to = float(np.nextafter(end, inward))
    included = len(repr(next_to)) < len(repr(end))
    return f"x {'>' if inward > 0 else '<'}{'=' * included} {(next_to if included else end) + 0.0:.6g}"


def _bases(count: int) -> Iterator[tuple[int, ...]]:
    yield from ((i,) * count for i in range(len(Probe.BASES)))
    yield from itertools.islice(itertools.product(range(len(Probe.BASES)), repeat=count), COMBINATIONS)


def _along(f: Function, args: Sequence[Any], place: int, options: Mapping[str, Any]) -> Callable[[float], bool]:
    """Is the function finite where the first element of one argument is v?"""

    def good(v: float) -> bool:
        moved = list(args)
        moved[place] = np.array(args[place])
        moved[place].reshape(-1)[0] = v
        return finite(f, moved, options)

    return good


NAN = re.compile(r"nan\w+|isnan|isfinite|fmax|fmin")


def heeds_nan(f: Function) -> bool:
    """Does a NumPy function that knows of nan stand in the code of `f`?"""
    code = getattr(f, "__code__", None)
    names = [getattr(f, "__name__", "")] if code is None or (getattr(f, "__module__", None) or "").startswith("numpy") else _names(code)
    return any(NAN.fullmatch(name) for name in names)


def _names(code: CodeType) -> Iterator[str]:
    """The names in a function's code, and in that of the functions within."""
    yield from code.co_names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _names(part)


def _region(good: Callable[[float], bool], start: float, dtype: np.dtype[Any], heeds: bool = False) -> Region:
    largest = float(np.finfo(dtype).max)
    grid = sorted({0.0, *(s * v for v in GRID if v < largest for s in (1, -1)), start})
    fine = [good(v) for v in grid]
    at = grid.index(start)
    low, holes_below = _end(good, grid[at::-1], fine[at::-1], dtype)
    high, holes_above = _end(good, grid[at:], fine[at:], dtype)
    return replace(framed(low, high, holes=(*holes_below, *holes_above), inferred=True), nan=heeds and good(math.nan))


def _end(good: Callable[[float], bool], grid: Sequence[float], fine: Sequence[bool], dtype: np.dtype[Any]) -> tuple[float, list[float]]:
    """Walking outward from a good number: the first number where it ends, or an infinity; and the holes on the way."""
    holes: list[float] = []
    i = 1
    while i < len(grid):
        if fine[i]:
            i += 1
            continue
        beyond = next((j for j in range(i, len(grid)) if fine[j]), None)
        if beyond is None or (abs(grid[beyond] - grid[i - 1]) > NARROW and not _alone(good, grid[i])):
            return _edge(good, grid[i - 1], grid[i], dtype), holes
        holes += grid[i:beyond]
        i = beyond
    return math.copysign(math.inf, grid[-1] - grid[0]), holes


def _alone(good: Callable[[float], bool], v: float) -> bool:
    """Is the function finite close to `v`, on either side?"""
    return good(v * (1 - 1e-6)) and good(v * (1 + 1e-6))


def _edge(good: Callable[[float], bool], inside: float, outside: float, dtype: np.dtype[Any]) -> float:
    """The number nearest to `inside` at which the function is not finite, by bisection over the numbers of the dtype."""
    a, b = _ordinal(inside, dtype), _ordinal(outside, dtype)
    while abs(b - a) > 1:
        middle = (a + b) // 2
        a, b = (middle, b) if good(_from_ordinal(middle, dtype)) else (a, middle)
    return _from_ordinal(b, dtype)


def _ordinal(v: float, dtype: np.dtype[Any]) -> int:
    """The place of `v` in the row of all numbers of the dtype, 0 at 0.0."""
    bits = int(np.asarray(abs(v), dtype).view(f"i{dtype.itemsize}"))
    return -bits if v < 0 else bits


def _from_ordinal(i: int, dtype: np.dtype[Any]) -> float:
    v = float(np.asarray(abs(i), f"i{dtype.itemsize}").view(dtype))
    return -v if i < 0 else v
