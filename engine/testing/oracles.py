"""Derivatives at one point, with no rule of anybody involved, each with a bound on its own error.

    complex step      exact to rounding where the function takes complex numbers and is analytic as it is written
    one-sided slopes  differences to either side, extrapolated: they see kinks, jumps and edges
    precise           differences of the function in mpmath numbers: the arbiter

A `Place` is a function at a point, as a vector of numbers in and a vector of numbers out: every floating-point argument
is flattened into x, every floating-point output into y.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np

from engine.testing.precise import Precise, exactly, lifted, precision
from engine.testing.subject import Array, as_arrays, floating, is_float, outputs

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
COMPLEX_STEP = 2.0**-60
STEP = 2.0**-13  # relative to the size of an element: central differences are then good to 1e-8
RUNGS = 6  # steps of a one-sided slope, each a quarter of the one before
ROUNDINGS = 8  # of a value: what its last digits are worth
SMALLEST = 1e-280
MANY = 1000  # numbers that the arbiter takes
BITS = (320, 1200, 2600)
SHORT = {320: 100, 1200: 300, 2600: 300}  # steps are so many halvings of the size of an element, by the bits
FINE = 2.0**-60  # of smaller numbers than this the last digits of a slope are asked for


class Unavailable(Exception):
    """The function does not take such numbers."""


@dataclass(frozen=True)
class Slope:
    """A derivative to one side, or to both.

    error   inf if it does not settle
    grows   it gets larger the shorter the step
    coarse  the quotient at the longest step: how large the derivative is around, where it is 0 at the place itself
    """

    value: float
    error: float
    grows: bool = False
    coarse: float = 0.0

    @property
    def settled(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.error)


UNSETTLED = Slope(math.nan, math.inf)


def unit(dtype: np.dtype[Any]) -> float:
    """The spacing of the numbers of a floating-point dtype at 1."""
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7  # bfloat16, the only other one in use


def smallest(dtype: np.dtype[Any]) -> float:
    """The smallest normal number of a floating-point dtype."""
    return float(np.finfo(dtype if dtype.kind == "f" else np.float32).tiny)  # bfloat16 has the exponents of float32


def last_digits_changed(args: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """Every floating-point number a few units in the last place larger or smaller."""
    return [a * (1 + 4 * unit(a.dtype) * rng.choice([-1, 1], a.shape)).astype(a.dtype) if is_float(a) else a for a in map(np.asarray, args)]


class Place:
    """A function at a point."""

    def __init__(self, f: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]):
        self.f, self.options = f, options
        self.places = floating(args)
        self.args = [np.array(a, np.float64, order="C") if is_float(a) else a for a in args]
        self.shapes = [self.args[i].shape for i in self.places]
        ends = np.cumsum([0, *(self.args[i].size for i in self.places)])
        self.slices = [slice(a, b) for a, b in pairwise(ends)]
        self.x: Array = np.concatenate([self.args[i].ravel() for i in self.places] or [np.zeros(0)])
        first = outputs(as_arrays(f(*self.filled(self.x), **options)))
        self.out = [i for i, y in enumerate(first) if is_float(y)]
        self.eps = np.concatenate([np.full(np.size(first[i]), unit(first[i].dtype)) for i in self.out] or [np.zeros(0)])
        self.y0 = self._joined(first).astype(np.float64)
        self.finite = np.isfinite(self.y0)

    def filled(self, x: Any) -> list[Any]:
        """The arguments, with the numbers of x in the floating-point ones."""
        args = list(self.args)
        for i, shape, part in zip(self.places, self.shapes, self.slices, strict=True):
            args[i] = x[part].reshape(shape)
        return args

    def _joined(self, ys: Sequence[Any]) -> Any:
        parts = [np.asarray(ys[i]).ravel() for i in self.out]
        return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0)

    def __call__(self, x: Any) -> Any:
        """y at another x, of any kind of number. Raises Unavailable where the function does not take such numbers."""
        try:
            ys = outputs(as_arrays(self.f(*self.filled(x.copy()), **self.options)))
        except Exception as e:  # whatever the function raises on numbers it was not written for
            raise Unavailable(f"{type(e).__name__}: {e}") from e
        y = self._joined(ys)
        if y.shape != self.y0.shape:
            raise Unavailable("the outputs change their shape")
        return y

    @cached_property
    def scale(self) -> Array:
        """The size of each element; for zeros that of the smallest other one, at most 1."""
        size = np.abs(self.x)
        usable = size[(size > 0) & np.isfinite(size)]
        found = np.where(size > 0, size, min(1.0, float(usable.min())) if usable.size else 1.0)
        return np.maximum(found, SMALLEST)  # a step is a small part of it, and must not vanish

    @cached_property
    def noise(self) -> Array:
        """How far each output may be off by rounding alone."""
        return np.asarray(ROUNDINGS * self.eps * np.abs(np.where(self.finite, self.y0, 0.0)))

    def by_complex_step(self, at: Any) -> Array | None:
        r"""Columns of the Jacobian, $\mathrm{Im}\, f(x + i h e_k) / h$ for k in `at`; None where f is not analytic as it is written."""
        columns = []
        for k in at:
            column = self.complex_slope(np.eye(1, self.x.size, k)[0], float(self.scale[k]))
            if column is None:
                return None
            columns.append(column)
        jacobian: Array = np.array(columns).reshape(len(columns), self.y0.size).T
        return jacobian

    def complex_slope(self, direction: Array, scale: float) -> Array | None:
        """The change of y along a direction; `scale` is the size of the elements that move."""
        h = COMPLEX_STEP * scale
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                y = self(self.x + 1j * h * direction)
        except Unavailable:
            return None
        if y.dtype.kind != "c" and y.size:  # a real part was taken somewhere: the change may be lost with the rest
            return None
        same = np.abs(y.real - self.y0) <= 1e3 * EPS * np.abs(self.y0) + TINY
        return y.imag / h if np.all(same | ~self.finite) else None

    def nearby(self, x: Array) -> Array:
        """y at another x in float64; nan where the function raises."""
        try:
            return np.asarray(self(x), np.float64)
        except Unavailable:
            return np.full(self.y0.shape, np.nan)

    def along(self, i: int, t: float) -> Array:
        """y with element i moved by t."""
        x = self.x.copy()
        x[i] += t
        return self.nearby(x)


def one_sided(phi: Callable[[float], float], at_zero: float, h: float, noise: float, retries: int = 8) -> Slope:
    """The slope of phi from 0 towards h, by differences extrapolated to a step of zero (Richardson).

    noise     by how much a value of phi may be off
    retries   how often a step that leaves the domain is shortened
    """
    best, above, coarse = UNSETTLED, [math.nan], 0.0
    growing = 0
    for rung in range(RUNGS):
        step = h / 4**rung
        if abs(step) < SMALLEST**1.1:
            return best
        line = [(phi(step) - at_zero) / step]
        if not math.isfinite(line[0]):
            return UNSETTLED
        coarse = coarse or abs(line[0])
        rounding = 2 * noise / abs(step)
        growing = growing + 1 if abs(line[0]) > 1.3 * abs(above[0]) + rounding else 0
        for order, finer in enumerate(above if rung else [], start=1):
            line.append(line[-1] + (line[-1] - finer) / (4**order - 1))
            error = max(abs(line[-1] - line[-2]), abs(line[-1] - finer)) + rounding
            if error < best.error:
                best = Slope(line[-1], error, coarse=coarse)
        above = line
    if growing:
        return Slope(math.nan, math.inf, grows=growing > 3)
    return best if _borne_out(phi, at_zero, step, noise, best, abs(line[0] - best.value)) else UNSETTLED


def _borne_out(phi: Callable[[float], float], at_zero: float, last: float, noise: float, best: Slope, off: float) -> bool:
    """Do far shorter steps agree? They do not if all steps of the ladder jumped over waves or over a kink.

    off   how far the shortest step of the ladder is from what was extrapolated
    """
    for step in (last / 4**2, last / 4**4, last / 4**6):
        quotient = (phi(step) - at_zero) / step if abs(step) > SMALLEST**1.1 else math.nan
        if abs(quotient - best.value) > best.error + off + 16 * noise / abs(step):
            return False
    return True


# In high precision.


@dataclass(frozen=True)
class Exact:
    """Slopes along one direction, in high precision: for each output to the left and to the right, and of their weighted sum.

    `left` and `right` are None where the slope does not settle: infinite, a jump, or outside of the domain.
    """

    left: Any
    right: Any
    size: Any  # sum of |g_j dy_j|
    error: Any

    @property
    def smooth(self) -> bool:
        """Are both slopes there and equal?"""
        if self.left is None or self.right is None:
            return False
        return bool(abs(self.left - self.right) <= (abs(self.left) + abs(self.right)) * mpmath.mpf(2) ** -40 + 4 * self.error)

    def like(self, other: Exact) -> bool:
        """The same slopes, to ten digits?"""
        pairs = ((self.left, other.left), (self.right, other.right))
        return all(a is not None and b is not None and abs(a - b) <= 1e-10 * abs(a) + 4 * self.error for a, b in pairs)

    @property
    def value(self) -> float:
        return as_float((self.left + self.right) / 2)


class PrecisePlace:
    """A Place in high precision. Raises Unavailable if the function does not take such numbers.

    brief   a slope of 0 to some fifty digits is 0: to see that one is 1e-300 beside outputs of 1 takes ten times as long
    """

    def __init__(self, place: Place, weights: Array, brief: bool = False):
        if place.x.size > MANY:
            raise Unavailable(f"{place.x.size} numbers are too many for the arbiter")
        self.place = place
        self.keep = [j for j in range(place.y0.size) if place.finite[j] and weights[j] != 0]
        self.g = [lifted(float(weights[j])) for j in self.keep]
        self.base: dict[int, list[Any]] = {}
        size = np.abs(place.x[np.isfinite(place.x) & (place.x != 0)])
        self.finest = float(min(1.0, size.min())) if size.size else 1.0
        self.brief = brief and self.finest > FINE

    def values(self, x: Precise) -> list[Any]:
        y = self.place(x)
        try:
            return [lifted(y[j]) for j in self.keep]
        except (TypeError, AttributeError) as e:
            raise Unavailable(str(e)) from e

    def at_zero(self, bits: int) -> list[Any]:
        if bits not in self.base:
            self.base[bits] = self.values(exactly(self.place.x))
        return self.base[bits]

    def slopes(self, direction: Array, around: Array | None = None, *, again: bool = False) -> Exact:
        """The slopes of the weighted sum along a direction, at x or at another point near it; `again` by far shorter steps."""
        for bits in BITS[again:]:
            with precision(bits):
                found = self._slopes(direction, around, bits)
                values = [v for v in (found.left, found.right) if v is not None]
                seen = max(map(abs, (*values, found.size)), default=mpmath.mpf(0)) / found.error if found.error else mpmath.inf
                if not values or seen > 2**50 or (self.brief and seen < 2**16):
                    break
        return found

    def _slopes(self, direction: Array, around: Any, bits: int) -> Exact:
        short = SHORT[bits]
        x = exactly(self.place.x) if around is None else around
        y0 = self.at_zero(bits) if around is None else self.values(x)
        moved = direction != 0
        scale = lifted(min(float(np.min(self.place.scale[moved])), self.finest))
        sides = []
        for sign in (-1, 1):
            first, second = (self._quotients(x, y0, direction, sign * scale * mpmath.mpf(2) ** -k) for k in (short, short + 20))
            sides.append((first, second))
        size = max(sum((abs(g * d) for g, d in zip(self.g, s[1], strict=True)), mpmath.mpf(0)) for s in sides)
        worth = sum((abs(g * y) for g, y in zip(self.g, y0, strict=True)), mpmath.mpf(0))
        error = worth * mpmath.mpf(2) ** (short + 24 - bits) / scale
        left, right = (self._limit(s, error) for s in sides)
        rest = max([abs(v[1]) for v in (left, right) if v is not None], default=mpmath.mpf(0))
        return Exact(left and left[0], right and right[0], size, error + rest)

    def _quotients(self, x: Any, y0: list[Any], direction: Array, t: Any) -> list[Any]:
        moved = x.copy()
        for i in np.flatnonzero(direction):
            moved[i] = type(moved.reshape(-1).item(i))(lifted(moved.reshape(-1).item(i)) + t * lifted(float(direction[i])))
        return [(a - b) / t for a, b in zip(self.values(moved), y0, strict=True)]

    def _limit(self, pair: tuple[list[Any], list[Any]], error: Any) -> tuple[Any, Any] | None:
        """The slope at a step of zero, and how far off it may be because the step is not zero; None if there is none."""
        first, second = (sum((g * d for g, d in zip(self.g, side, strict=True)), mpmath.mpf(0)) for side in pair)
        if not (mpmath.isfinite(first) and mpmath.isfinite(second)):
            return None
        if abs(second) <= abs(first) * mpmath.mpf(2) ** -8:  # it goes to 0 like a power of the step
            return mpmath.mpf(0), second
        if abs(second - first) > abs(second) * mpmath.mpf(2) ** -10 + error:
            return None
        return second + (second - first) / (2**20 - 1), mpmath.mpf(0)


def as_float(v: Any) -> float:
    """The nearest float; an infinity beyond the range."""
    try:
        return float(v)
    except OverflowError:
        return math.copysign(math.inf, v)
