"""A claimed gradient at a place: what is known about its scale, and the slopes that it is compared with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from engine.testing.finding import RTOL, Tally
from engine.testing.oracles import Place, PrecisePlace, Slope, one_sided, unit
from engine.testing.subject import Array

ACCURATE = 64  # units in the last place, for those who ask for accuracy in the tails
MANY_ELEMENTS = 64  # of more than these, some are judged one by one and the rest along random directions


class Claims:
    """Claims about the gradient of g . f at a place.

    place    the function in float64
    g        the weight of each output, 0 where f is not finite
    claims   what is claimed for each element of place.x
    eps      the unit of the dtype that was computed in
    known    which elements have a claim
    derived  f is itself a gradient that somebody computed
    values   f's outputs as they came, for the loss of digits in f itself; None if they are place.y0
    """

    def __init__(
        self, place: Place, g: Array, claims: Array, tally: Tally, *, dtype: np.dtype[Any], values: Array | None = None,
        elementwise: bool = False, strict: bool = False, known: Array | None = None,
        derived: bool = False,
    ):  # fmt: skip
        self.place, self.g, self.claims, self.tally = place, g, claims, tally
        self.values = place.y0 if values is None else values
        self.dtype, self.eps = dtype, unit(dtype)
        info = np.finfo(dtype) if dtype.kind == "f" else np.finfo(np.float32)
        self.tiny, self.most = float(info.tiny), float(info.max)
        self.rtol = RTOL.get(dtype.itemsize, 1e-8) if dtype.kind == "f" else 0.25
        self.elementwise, self.strict, self.derived = elementwise, strict, derived
        if derived:  # the function is itself a computed gradient, and as accurate as such
            self.rtol = max(self.rtol, 1e-4)
        self.floor = 4 * self.tiny * max(1.0, float(np.max(np.abs(g), initial=0.0)))
        self.noise = float(np.abs(g) @ place.noise)
        self.phi0 = float(g @ np.where(place.finite, place.y0, 0.0))
        self._precise: PrecisePlace | None = None
        self.kinked: set[int] = set()
        self.known = np.ones(place.x.size, bool) if known is None else known
        self.sound = True
        self.reference, self.size = np.zeros(place.x.size), np.zeros(place.x.size)
        self.jacobian = np.zeros((place.y0.size, place.x.size))
        self.stepped = False

    def skip(self, reason: str) -> None:
        self.sound = False
        self.tally.skip(reason)

    def unit(self, i: int) -> Array:
        u = np.zeros(self.place.x.size)
        u[i] = 1.0
        return u

    def slopes(self, direction: Array) -> tuple[Slope, Slope]:
        """The slopes of g . f along a direction, to the left and to the right, in float64."""
        place = self.place
        h = 2.0**-8 * float(np.min(place.scale[direction != 0]))

        def phi(t: float) -> float:
            y = np.where(place.finite, place.nearby(place.x + t * direction), 0.0)
            with np.errstate(all="ignore"):
                return float(self.g @ y)

        left, right = (one_sided(phi, self.phi0, s * h, self.noise) for s in (-1, 1))
        return left, right

    def weighted(self, jacobian: Array, absolute: bool = False) -> Array:
        kept = self.g != 0
        j, g = jacobian[kept], self.g[kept]
        return np.asarray(np.abs(g) @ np.abs(j) if absolute else g @ j)

    @property
    def precise(self) -> PrecisePlace:
        if self._precise is None:
            self._precise = PrecisePlace(self.place, self.g, brief=self.coupled)
        return self._precise

    def tolerance(self, size: float) -> float:
        return (ACCURATE * self.eps if self.strict else self.rtol) * size + self.floor

    @cached_property
    def coupled(self) -> bool:
        """Does an output depend on several elements of one argument, or on none? Then a rule sums over elements."""
        if not self.elementwise:
            return True
        rng, tried = np.random.default_rng(0), 0
        for center in (0.0, 0.5, 2.0, 4.0):
            try:
                place = Place(self.place.f, self.place.filled(center + 0.25 * rng.standard_normal(self.place.x.size)), self.place.options)
            except Exception:  # outside of the domain
                continue
            if not place.finite.all():
                continue
            tried += 1
            if any(self._meet(place, part, step) for part in place.slices for step in (0.01, 1.5, -1.5)):
                return True
            if tried == 2:
                break
        return False

    def _meet(self, place: Place, part: slice, step: float) -> bool:
        """Do elements of one argument change the same output, or several; or does one of them change none?"""
        some = range(part.start, part.stop, max(1, (part.stop - part.start) // 8))
        changed = np.array([place.along(k, step) != place.y0 for k in some])
        return bool(changed.size and (np.any(changed.sum(0) > 1) or np.any(changed.sum(1) > 1) or not changed.any()))

    def rounding(self, i: int | None = None) -> float:
        """The rounding of the terms that a rule may sum up: of the outputs, and of the Jacobian here and at moderate arguments.

        A rule that uses y divides it by what it was multiplied by: by element i, or by the largest.
        """
        if not self.coupled and len(self.place.places) < 2:
            return 0.0
        divisor = max(abs(self.place.x[i]) if i is not None else 0.0, 1e-6 * self.largest) or self.largest
        by_value = self.terms / divisor if divisor else 0.0
        if not self.coupled:
            return 8 * self.eps * by_value
        return (1024 if self.derived else 16) * self.eps * max(by_value, self.summands)

    @cached_property
    def largest(self) -> float:
        return float(np.max(np.abs(self.place.x[np.isfinite(self.place.x)]), initial=0.0))

    @cached_property
    def terms(self) -> float:
        """The size of the weighted outputs. Where they cancel to 0 they may have been sums of numbers around 1."""
        g = np.abs(self.g)
        return max(float(g @ np.abs(np.where(self.place.finite, self.place.y0, 0.0))), float(g.max(initial=0.0)) if self.coupled else 0.0)

    @cached_property
    def summands(self) -> float:
        """The size of the terms of the gradient: in any element, in any output, and at moderate arguments."""
        here = float(np.max(np.nan_to_num(self.size, posinf=0.0), initial=0.0))
        behind = float(np.max(np.nan_to_num(np.abs(self.jacobian), posinf=0.0), initial=0.0)) * float(np.max(np.abs(self.g), initial=0.0))
        return max(self._typical(self.largest), 4 * here, behind)

    def _typical(self, largest: float) -> float:
        if largest <= 1:
            return float(np.max(np.nan_to_num(self.size), initial=0.0))
        try:
            tame = Place(self.place.f, self.place.filled(self.place.x / largest), self.place.options)
        except Exception:  # whatever the function raises there
            return 0.0
        jacobian = tame.by_complex_step(range(min(tame.x.size, MANY_ELEMENTS)))
        if jacobian is None or tame.y0.shape != self.place.y0.shape:
            return 0.0
        return float(np.max(np.nan_to_num(self.weighted(jacobian, absolute=True), posinf=0.0), initial=0.0))

    @cached_property
    def far_out(self) -> bool:
        """Is something here so large or so small that a power of it leaves the range of the dtype?"""
        return self.far(np.concatenate([self.place.x, self.place.y0[self.place.finite], self.g]))

    def far(self, met: Array) -> bool:
        if self.most < 1e5:  # in half precision a square leaves the range too soon to be an excuse
            return False
        met = np.abs(met[met != 0])
        return bool(np.any(met < self.tiny**0.25) or np.any(met > self.most**0.25))
