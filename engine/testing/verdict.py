"""One claimed gradient against the oracles, element by element.

The cheap oracles judge every element. What they do not pass is looked at more closely, and nothing is called wrong before
the arbiter has said so: the function in high precision, or two oracles that agree.

An error is measured against $S_i = \\sum_j |g_j \\, \\partial y_j / \\partial x_i|$, the size of the terms that the gradient is
the sum of. It is excused as a loss of accuracy in a tail ("tail" instead of "wrong") where

    the gradient changes as much when the arguments change in their last digit;
    the function itself has lost these digits;
    the rule sums over elements, and the error is below the rounding of such a sum;
    something is so large or so small that its square leaves the range of the dtype.

Where the slopes to the two sides differ there is no gradient: any value between them, and between the gradients at points
nearby, is right. Along a direction in which equal elements move together the function may be smooth all the same: then the
gradient must be right along it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import mpmath
import numpy as np

from engine.testing.oracles import STEP, Exact, Place, PrecisePlace, Slope, Unavailable, as_float, one_sided, unit
from engine.testing.precise import Work, exactly, lifted, precision
from engine.testing.subject import Array

WRONG, TAIL = "wrong", "tail"
RTOL = {8: 1e-8, 4: 1e-4, 2: 0.05, 10: 1e-8, 12: 1e-8, 16: 1e-8}  # by the bytes of a number
ACCURATE = 64  # units in the last place, for those who ask for accuracy in the tails
NEIGHBOURS = 12
SURE = 24  # elements that the arbiter looks at for digits that differences do not show
BUDGET = 100_000  # of work that the arbiter may do in one run before it is asked only about what looks wrong
SINGULAR = "a jump, an infinite slope or the edge of the domain"
MANY_ELEMENTS = 64  # of more than these, some are judged one by one and the rest along random directions
EXCUSES = {
    "sensitive": "the gradient changes as much in the last digit of the arguments",
    "forward": "the function itself has lost these digits",
    "rounding": "it is the rounding of a sum",
    "range": "a power of what is met here leaves the range of the dtype",
    "last digits": "the last digits are lost",
}


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    check: str
    text: str
    severity: str = WRONG
    element: int | None = None  # in the flattened floating-point arguments
    claimed: float = math.nan
    reference: float = math.nan
    bound: float = math.nan
    oracle: str = ""


@dataclass
class Tally:
    """What has been done so far."""

    compared: int = 0
    spent: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        self.counts["inconclusive"] += 1
        self.reasons[reason] += 1


class Comparison:
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

    # The cheap oracles.

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, the elements in order."""
        at = self.chosen()
        good = self.cheaply(at)
        self.tally.compared += int((good & self.known[at]).sum())
        for i in at[~good & self.known[at]]:
            yield from self.closely(int(i))
        if at.size < self.place.x.size:
            yield from self.rest(at)
        for direction in self.ties():
            yield from self.along_tie(direction)

    def chosen(self) -> Array:
        """The elements that are judged one by one: all of them, or some of many."""
        n = self.place.x.size
        if n <= MANY_ELEMENTS:
            return np.arange(n)
        size = np.nan_to_num(np.abs(self.claims), nan=np.inf)
        some = np.random.default_rng(n).choice(n, MANY_ELEMENTS // 4, replace=False)
        return np.unique([*some, int(np.argmax(size)), int(np.argmin(size)), 0, n - 1])

    def cheaply(self, at: Array) -> Array:
        """Which of the elements the cheap oracles pass."""
        if at.size == 0:
            return np.zeros(0, bool)
        if self.place.y0.size == 0:
            return np.asarray(self.claims[at] == 0)
        h = STEP * self.place.scale[at]
        right, left = self._quotients(at, h), self._quotients(at, -h)
        jacobian = self.place.by_complex_step(at)
        self.stepped = jacobian is not None
        if jacobian is None:
            jacobian, bar = self._by_differences(at, h)
        else:
            bar = np.zeros(at.size)
        self.jacobian[:, at], self.reference[at] = jacobian, self._weighted(jacobian)
        self.size[at] = self._weighted(jacobian, absolute=True)
        reference, size, claims = self.reference[at], self.size[at], self.claims[at]
        rounding = 2 * self.noise / h
        r, l = right @ self.g, left @ self.g
        error = np.abs(claims - reference)
        match = error <= (ACCURATE * self.eps if self.strict else self.rtol) * size + self.floor + bar
        smooth = np.abs(r - l) <= 0.02 * (np.abs(r) + np.abs(l)) + 2 * rounding + self.floor
        near = np.abs((r + l) / 2 - reference) <= 0.01 * size + 2 * rounding + self.floor
        return np.asarray(match & smooth & near & (bar <= 1e-3 * size + self.floor))

    def _weighted(self, jacobian: Array, absolute: bool = False) -> Array:
        kept = self.g != 0
        j, g = jacobian[kept], self.g[kept]
        return np.asarray(np.abs(g) @ np.abs(j) if absolute else g @ j)

    def _quotients(self, at: Array, h: Array) -> Array:
        """(y(x + h e_i) - y(x)) / h for each element i, a row each; 0 for outputs that are not finite."""
        rows = [np.where(self.place.finite, (self.place.along(i, t) - self.place.y0) / t, 0.0) for i, t in zip(at, h, strict=True)]
        return np.array(rows)

    def _by_differences(self, at: Array, h: Array) -> tuple[Array, Array]:
        """The Jacobian by central differences at two steps, extrapolated, and how far off each weighted sum may be."""
        h = 8 * h
        fine, coarse = ((self._quotients(at, s) + self._quotients(at, -s)) / 2 for s in (h, 2 * h))
        best = (4 * fine - coarse) / 3
        bar = 0.05 * np.abs(best - fine) @ np.abs(self.g) + 2 * self.noise / h
        return best.T, bar

    def rest(self, at: Array) -> Iterator[Finding]:
        """Elements that were not judged one by one move together, with random signs; where the sum is wrong, one of them is sought."""
        rng = np.random.default_rng(self.place.x.size)
        moving = self.known.copy()
        moving[at] = False
        for _ in range(3):
            signs = rng.choice([-1.0, 1.0], moving.size) * moving
            if self.right_along(signs):
                self.tally.counts["directions"] += 1
                continue
            while np.count_nonzero(signs) > 1:
                moved = np.flatnonzero(signs)
                half = signs.copy()
                half[moved[moved.size // 2 :]] = 0.0
                signs = half if not self.right_along(half) else signs - half
            one = np.flatnonzero(signs)
            if not self.cheaply(one).all():
                yield from self.closely(int(one[0]))
            return

    def right_along(self, direction: Array) -> bool:
        """Do the claims add up to the slope along a direction?"""
        moved = direction != 0
        claim, size = float(self.claims @ direction), float(np.abs(self.claims[moved]).sum())
        change = self.place.complex_slope(direction, float(np.min(self.place.scale[moved])))
        if change is None:
            left, right = self.slopes(direction)
            error = left.error + right.error
            return not error <= 1e-3 * size or abs((left.value + right.value) / 2 - claim) <= self.rtol * size + 4 * error
        slope = float(self._weighted(change[:, None])[0])
        return abs(slope - claim) <= self.rtol * (size + float(np.abs(self.g) @ np.abs(np.nan_to_num(change)))) + self.floor

    # A closer look at one element.

    def closely(self, i: int) -> Iterator[Finding]:
        if not math.isfinite(self.place.x[i]):
            self.skip("an argument is not finite")
            return
        if not self.place.finite.all() and not math.isfinite(self.claims[i]):
            self.skip("the function is not finite")
            return
        left, right = self.slopes(self.unit(i))
        if self.settled(left, i) and self.settled(right, i):
            slack = 4 * (left.error + right.error)
            if abs(left.value - right.value) <= slack + 1e-5 * self.size_at(i, left, right):
                if self.passes_smooth(i, Slope((left.value + right.value) / 2, slack, coarse=max(left.coarse, right.coarse))):
                    self.tally.compared += 1
                    return
            elif min(left.value, right.value) - slack <= self.claims[i] <= max(left.value, right.value) + slack:
                self.kinked.add(i)
                self.tally.compared += 1
                self.tally.counts["at a kink"] += 1
                return
        if left.grows or right.grows:
            self.skip(SINGULAR)
            return
        if self.tally.spent > BUDGET and not any(f.severity == WRONG for f in self.by_floats(i, left, right)):
            return
        before = Work.done
        alone = self.alone(i)
        if alone is None:
            yield from self.arbitrate(i, left, right)
        else:
            inner, k = alone
            for finding in inner.arbitrate(k, left, right):
                yield replace(finding, element=i)
            self.sound &= inner.sound
            self.kinked |= {i} if inner.kinked else set()
        self.tally.spent += Work.done - before

    def alone(self, i: int) -> tuple[Comparison, int] | None:
        """The same about the one element of each argument that belongs to an output, and which of them i is: far less to compute.

        None where the outputs do not belong to one element each.
        """
        place = self.place
        n = place.y0.size
        if n < 2 or self.coupled or any(size != n for size in map(np.size, place.args)):
            return None
        k = i % n
        args = [np.ravel(a)[k : k + 1].reshape((1,) * np.ndim(a)) for a in place.args]
        try:
            inner = Place(place.f, args, place.options)
        except Exception:  # an option that goes with the shape
            return None
        if inner.y0.size != 1 or inner.y0[0] != place.y0[k]:
            return None
        at = [part.start + k for part in place.slices]
        comparison = Comparison(
            inner, self.g[k : k + 1], self.claims[at], self.tally, dtype=self.dtype, values=self.values[k : k + 1],
            elementwise=True, strict=self.strict, known=self.known[at], derived=self.derived,
        )  # fmt: skip
        comparison.reference, comparison.size, comparison.stepped = self.reference[at], self.size[at], self.stepped
        comparison.jacobian = self.jacobian[k : k + 1, at]
        return comparison, at.index(i)

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

    def size_at(self, i: int, left: Slope, right: Slope) -> float:
        s = float(self.size[i])
        return s if math.isfinite(s) else abs(left.value) + abs(right.value)

    def settled(self, s: Slope, i: int) -> bool:
        size = max(abs(s.value), float(np.nan_to_num(self.size[i])), 1e-4 * s.coarse)
        return s.settled and s.error <= 0.01 * size + self.floor

    def passes_smooth(self, i: int, v: Slope) -> bool:
        claim, size = self.claims[i], max(float(self.size[i]), abs(v.value), v.coarse)
        exact = abs(claim - self.reference[i]) <= self.rtol * self.size[i] + self.floor
        if exact and abs(v.value - self.reference[i]) <= 0.01 * size + v.error:
            return not self.strict
        # differences are good to six digits: the arbiter looks at the next ones, of some elements
        rtol = self.rtol if self.tally.counts["arbitrated"] < SURE else max(self.rtol, 1e-6)
        return bool(abs(claim - v.value) <= rtol * size + self.floor and v.error <= rtol * size + self.floor and not self.strict)

    # The arbiter.

    @property
    def precise(self) -> PrecisePlace:
        if self._precise is None:
            self._precise = PrecisePlace(self.place, self.g, brief=self.coupled)
        return self._precise

    def arbitrate(self, i: int, left: Slope, right: Slope) -> Iterator[Finding]:
        """Nothing is wrong before this has said so."""
        self.tally.counts["arbitrated"] += 1
        try:
            exact = self.precise.slopes(self.unit(i))
        except Unavailable:
            yield from self.by_floats(i, left, right)
            return
        if not math.isfinite(self.claims[i]) and self.singular_behind_zero(i):
            self.skip("0 times an infinite slope")
        elif exact.smooth:
            yield from self.at_smooth(i, exact)
        elif exact.left is not None and exact.right is not None:
            yield from self.at_kink(i, [as_float(exact.left), as_float(exact.right)], "mpmath")
        else:
            self.skip(SINGULAR)

    def singular_behind_zero(self, i: int) -> bool:
        """Has an output whose cotangent is 0 no slope in this element?"""
        zero = (self.g == 0) & self.place.finite
        if not zero.any():
            return False
        behind = PrecisePlace(self.place, zero.astype(np.float64)).slopes(self.unit(i))
        return behind.left is None or behind.right is None or as_float(behind.size) > self.most

    def at_smooth(self, i: int, exact: Exact) -> Iterator[Finding]:
        reference, size, claim = exact.value, as_float(exact.size), float(self.claims[i])
        error = abs(claim - reference)
        if error <= self.tolerance(size) + 4 * as_float(exact.error):
            self.tally.compared += 1
            return
        if abs(reference) > self.most * (1 - self.eps):
            self.skip("the gradient leaves the range of the dtype")
            return
        excuse = self.cheap_excuse(i, claim, reference)
        if excuse:
            self.sound = False
            yield Finding("value", EXCUSES[excuse], TAIL, i, claim, reference, self.tolerance(size), "mpmath")
            return
        near = self.jump(i, claim, reference)
        if near:
            yield from self.at_kink(i, [reference, *near], "mpmath", looked=True)
            return
        excuse = self.excuse(i, claim, reference, size)
        self.sound &= not excuse
        if excuse in ("sensitive", "last digits") and not self.strict:
            self.tally.compared += 1
            return
        yield Finding(
            "value", EXCUSES.get(excuse, ""), TAIL if excuse else WRONG, i, claim, reference, self.tolerance(size), "mpmath"
        )  # fmt: skip

    def tolerance(self, size: float) -> float:
        return (ACCURATE * self.eps if self.strict else self.rtol) * size + self.floor

    def jump(self, i: int, claim: float, reference: float) -> list[float]:
        """The gradient at points nearby, if it is another one however near they are; else nothing.

        Of several equal elements each may be the one that counts nearby, and only now and then: many points are needed to be sure.
        """
        if self.place.x.size == 1 or not math.isfinite(claim):  # one number has no neighbours but those on the slopes
            return []
        for count in (NEIGHBOURS // 2, 4 * NEIGHBOURS):
            near = self.nearby(i, count)
            apart = max(near, default=0.0) - min(near, default=0.0)
            if apart > 1e-6 * (abs(reference) + max(map(abs, near), default=0.0)):
                nearer = self.nearby(i, count, 2.0**-85)
                return near if not nearer or max(nearer) - min(nearer) > 0.1 * apart else []
        return []

    def at_kink(self, i: int, slopes: list[float], oracle: str, looked: bool = False) -> Iterator[Finding]:
        """Between the slopes, or between the gradients at points nearby?"""
        claim = float(self.claims[i])
        hull = list(slopes)
        for more in (0, NEIGHBOURS, 4 * NEIGHBOURS):
            if more:
                hull += self.nearby(i, more)
            low, high = min(hull), max(hull)
            slack = self.rtol * max(abs(low), abs(high)) + self.floor
            if more and high - low > max(slopes) - min(slopes) + slack:
                slack += (high - low) / 2  # samples do not reach the ends of what they are drawn from
            if low - slack <= claim <= high + slack:
                self.kinked.add(i)
                self.tally.compared += 1
                self.tally.counts["at a kink"] += 1
                return
            if math.isnan(claim):
                break
        if looked and math.isfinite(claim) and high - low > 1e3 * (abs(slopes[0]) + abs(claim)):
            self.skip("the gradient is not continuous here")
            return
        text = f"at a kink, and not between its slopes {low:.9g} and {high:.9g}"
        self.kinked.add(i)
        yield Finding("kink", text, WRONG, i, claim, (low + high) / 2, (high - low) / 2, oracle)

    def nearby(self, i: int, count: int, distance: float = 2.0**-60, along: Array | None = None) -> list[float]:
        """The derivative in element i, or along a direction, at points around this one.

        i lies anywhere among the others there, and their distances are alike or of very different sizes.
        """
        direction = self.unit(i) if along is None else along
        rng = np.random.default_rng([i, count])
        found = []
        for k in range(count):
            shift = rng.standard_normal(self.place.x.size)
            if k % 2:
                shift *= 2.0 ** -rng.integers(0, 16, shift.size)
            shift[i] = statistics.NormalDist().inv_cdf((k + 0.5) / count) if k % 4 < 2 else (8.0 if k % 4 == 2 else -8.0)
            try:
                found.append(self._near_exactly(direction, shift * np.minimum(self.place.scale, self.precise.finest), distance))
            except Unavailable:
                found.append(self._near_in_floats(direction, shift * self.place.scale, distance**0.2))
        return [v for v in found if math.isfinite(v)]

    def _near_exactly(self, direction: Array, shift: Array, by: float) -> float:
        precise = self.precise
        with precision(400):
            around = exactly(self.place.x) + exactly(shift) * by
        exact = precise.slopes(direction, around)
        return exact.value if exact.smooth else math.nan

    def _near_in_floats(self, direction: Array, shift: Array, by: float) -> float:
        place = self.place
        x = place.x + by * shift
        h = 2.0**-28 * float(np.min(place.scale[direction != 0]))
        up, down = x + h * direction, x - h * direction
        return float(self.g @ np.where(place.finite, (place.nearby(up) - place.nearby(down)) / (2 * h), 0.0))

    # Excuses.

    def cheap_excuse(self, i: int, claim: float, reference: float) -> str:
        if not self.strict and abs(claim - reference) <= self.rounding:
            return "rounding"
        return "range" if self.out_of_range(reference) and not self.inevitable(i, claim) else ""

    def excuse(self, i: int, claim: float, reference: float, size: float) -> str:
        """Why an error is a loss of accuracy and not a wrong rule; empty if there is no excuse."""
        error = abs(claim - reference)
        if math.isfinite(error):
            if error <= self.spread(i, reference, error):
                return "sensitive"
            if error <= self.lost_by_forward(size):
                return "forward"
        return self.cheap_excuse(i, claim, reference) or ("last digits" if error <= self.rtol * size else "")

    def spread(self, i: int, reference: float, enough: float) -> float:
        """A few times how much the gradient changes when the arguments change in their last digit, or `enough`."""
        worst, times = 0.0, 64 if self.coupled else 4  # what a rule that sums over elements may make of it
        for shift in self.last_digits(i):
            v = self._by_complex_step_near(i, shift) if self.stepped else self._near_if_possible(i, shift)
            worst = max(worst, times * abs(v - reference)) if math.isfinite(v) else worst
            if worst >= enough:
                break
        return worst

    def last_digits(self, i: int) -> Iterator[Array]:
        """Changes of the arguments by two units in the last place: together, one alone, and by parts of it, which a wave cannot hide."""
        n, rng = self.place.x.size, np.random.default_rng(i)
        unit = 2 * self.eps * np.abs(self.place.x)
        if n <= 3:
            yield from (np.array(s) * unit for s in itertools.product((-1.0, 0.0, 1.0), repeat=n) if any(s))
        else:
            yield from rng.choice([-1.0, 1.0], (8, n)) * unit
            yield from (sign * self.unit(k) * unit for k in {i, 0, n - 1} for sign in (-1, 1))
        yield from rng.uniform(-1, 1, (8, n)) * unit

    def _near_if_possible(self, i: int, shift: Array) -> float:
        try:
            return self._near_exactly(self.unit(i), shift, 1.0)
        except Unavailable:
            return math.nan

    def _by_complex_step_near(self, i: int, shift: Array) -> float:
        try:
            place = Place(self.place.f, self.place.filled(self.place.x + shift), self.place.options)
        except Exception:  # outside of the domain
            return math.nan
        jacobian = place.by_complex_step([i])
        return math.nan if jacobian is None else float(self._weighted(jacobian)[0])

    def lost_by_forward(self, size: float) -> float:
        """The error that f itself makes beyond its condition, as a share of the gradient."""
        try:
            with precision(400):
                exact = [as_float(v) for v in self.precise.at_zero(400)]
        except Unavailable:
            return 0.0
        kept = self.precise.keep
        given, true = self.values[kept].astype(np.float64), np.array(exact)
        with np.errstate(all="ignore"):
            jacobian = np.nan_to_num(np.abs(self.jacobian[kept]), posinf=0.0)
            allowed = 8 * self.eps * (jacobian @ np.abs(self.place.x) + np.abs(true))
            off = np.abs(given - true)
            share = np.where(off > allowed + self.floor, off / np.abs(true), 0.0)
        return 4 * size * float(np.max(np.minimum(share, 1.0), initial=0.0))

    @cached_property
    def rounding(self) -> float:
        """The rounding of the terms that a rule may sum up, on the scale of the outputs and of the Jacobian at moderate arguments."""
        place = self.place
        if not self.coupled:
            return 0.0
        largest = float(np.max(np.abs(place.x), initial=0.0))
        terms = float(np.abs(self.g) @ np.abs(np.where(place.finite, place.y0, 0.0)))
        by_value = terms / largest if largest else 0.0
        here = float(np.max(np.nan_to_num(self.size, posinf=0.0), initial=0.0))
        behind = float(np.max(np.nan_to_num(np.abs(self.jacobian), posinf=0.0), initial=0.0)) * float(np.max(np.abs(self.g), initial=0.0))
        return (1024 if self.derived else 16) * self.eps * max(by_value, self._typical(largest), 4 * here, behind)

    @cached_property
    def coupled(self) -> bool:
        """Does an output depend on several elements of one argument? Then a rule sums over elements."""
        if not self.elementwise:
            return True
        rng = np.random.default_rng(0)
        for center in (0.0, 0.5, 2.0):
            try:
                place = Place(self.place.f, self.place.filled(center + 0.25 * rng.standard_normal(self.place.x.size)), self.place.options)
            except Exception:  # outside of the domain
                continue
            if not place.finite.all():
                continue
            moved = [[place.along(k, 0.01) != place.y0 for k in range(s.start, min(s.stop, s.start + 8))] for s in place.slices]
            return any(np.any(np.sum(columns, axis=0) > 1) for columns in moved if columns)
        return False

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
        return float(np.max(np.nan_to_num(self._weighted(jacobian, absolute=True), posinf=0.0), initial=0.0))

    def out_of_range(self, reference: float) -> bool:
        return self.far_out or self._far(np.array([reference]))

    @cached_property
    def far_out(self) -> bool:
        """Is something here so large or so small that a power of it leaves the range of the dtype?"""
        return self._far(np.concatenate([self.place.x, self.place.y0[self.place.finite], self.g]))

    def _far(self, met: Array) -> bool:
        if self.most < 1e5:  # in half precision a square leaves the range too soon to be an excuse
            return False
        met = np.abs(met[met != 0])
        return bool(np.any(met < self.tiny**0.25) or np.any(met > self.most**0.25))

    def inevitable(self, i: int, claim: float) -> bool:
        """A function of one number, which is small, or moderate while the claim is not finite: nothing has to leave the range."""
        x = abs(self.place.x[i])
        alone = not self.coupled and len(self.place.places) == 1
        return bool(alone and (x <= 1 or (not math.isfinite(claim) and x < math.sqrt(self.most))))

    # Without the arbiter.

    def by_floats(self, i: int, left: Slope, right: Slope) -> Iterator[Finding]:
        """Two oracles that agree, or nothing."""
        claim, size = float(self.claims[i]), float(np.nan_to_num(self.size[i]))
        if not (left.settled and right.settled):
            self.skip("the slopes do not settle")
            return
        bar = 4 * (left.error + right.error)
        size = max(size, abs(left.value), abs(right.value))
        if abs(left.value - right.value) > bar + 1e-4 * size:
            if bar > 0.01 * size:
                self.skip("the slopes do not settle")
            else:
                yield from self.at_kink(i, [left.value, right.value], "one-sided differences")
            return
        v = (left.value + right.value) / 2
        stepped = self.stepped and abs(self.reference[i] - v) <= bar + 1e-5 * size and (bar <= 0.01 * size or self.analytic)
        reference = float(self.reference[i]) if stepped else v
        known = self._complex_error(i) if stepped else bar
        error = abs(claim - reference)
        if error <= self.tolerance(size) + known:
            if known <= 1e-3 * size + self.floor:
                self.tally.compared += 1
            else:
                self.skip("the reference is not known well enough")
            return
        if error <= 10 * known:
            self.skip("the reference is not known well enough")
            return
        if abs(claim - v) <= bar + self.tolerance(size):
            self.skip("two references differ")
            return
        near = [] if self.cheap_excuse(i, claim, reference) else self.jump(i, claim, reference)
        if near:
            yield from self.at_kink(i, [reference, *near], "differences nearby", looked=True)
            return
        excuse = self.excuse(i, claim, reference, size)
        self.sound &= not excuse
        if excuse in ("sensitive", "last digits") and not self.strict:
            self.tally.compared += 1
            return
        oracle = "complex step in two precisions" if stepped else "one-sided differences, extrapolated"
        yield Finding(
            "value", EXCUSES.get(excuse, ""), TAIL if excuse else WRONG, i, claim, reference, self.tolerance(size) + known, oracle
        )

    @cached_property
    def analytic(self) -> bool:
        """Does a complex step give what differences give, at moderate arguments of the same signs? It does not pass through `abs`."""
        rng, confirmed = np.random.default_rng(0), False
        for size in (0.5, 1.0, 2.0, 3.0):
            try:
                x = np.sign(self.place.x) * size * rng.uniform(0.5, 1.5, self.place.x.size)
                direction, h = rng.choice([-1.0, 1.0], x.size) * (x != 0), 1e-5
                place = Place(self.place.f, self.place.filled(x), self.place.options)
                change = place.complex_slope(direction, 1.0)
                by_differences = (place(x + h * direction) - place(x - h * direction)) / (2 * h)
            except Exception:  # whatever the function raises there
                continue
            if not np.isfinite(by_differences).all():
                continue
            slack = place.noise / h + 1e-3 * np.max(np.abs(by_differences), initial=0.0)
            if change is None or np.any(np.abs(by_differences - change) > slack):
                return False
            confirmed = True
        return confirmed

    def _complex_error(self, i: int) -> float:
        """How far the complex step in double precision is from the one in extended precision."""
        x = self.place.x.astype(np.clongdouble)
        h = np.longdouble(self.place.scale[i]) * 2.0**-60
        x[i] += 1j * h
        try:
            y = self.place(x)
        except Unavailable:
            return math.inf
        if y.dtype != np.clongdouble:
            return 1e-12 * float(self.size[i])
        finer = float(np.asarray(y.imag / h, np.float64)[self.g != 0] @ self.g[self.g != 0])
        return abs(finer - float(self.reference[i]))

    # Directions.

    def ties(self) -> Iterator[Array]:
        """For each set of equal elements of which one lies at a kink: the direction in which all move together."""
        done: set[float] = set()
        for i in sorted(self.kinked):
            v = float(self.place.x[i])
            same = self.place.x == v
            if v not in done and same.sum() > 1:
                yield same.astype(np.float64)
            done.add(v)

    def along_tie(self, direction: Array) -> Iterator[Finding]:
        moved = np.flatnonzero(direction)
        claim = float(self.claims[moved].sum())
        size = max(float(np.nan_to_num(self.size[moved]).sum()), float(np.abs(self.claims[moved]).sum()))
        left, right = self.slopes(direction)
        slack = 4 * (left.error + right.error) + self.rtol * size + self.floor
        if left.settled and right.settled and max(abs(left.value - claim), abs(right.value - claim)) <= slack:
            self.tally.counts["tie directions"] += 1
            return
        try:
            exact = self.precise.slopes(direction)
        except Unavailable:
            exact = _from_floats(left, right, size)
        if not exact.smooth:
            return
        near = self.nearby(int(moved[0]), NEIGHBOURS, along=direction)
        self.tally.counts["tie directions"] += 1
        bound = self.rtol * max(size, as_float(exact.size)) + self.floor + 4 * as_float(exact.error)
        if not min([exact.value, *near]) - bound <= claim <= max([exact.value, *near]) + bound:
            some = ", ".join(map(str, moved[:8])) + (", ..." if moved.size > 8 else "")
            text = f"elements {some} are equal; when they move together the function is smooth, but the gradients add up wrongly"
            yield Finding("tie", text, WRONG, int(moved[0]), claim, exact.value, bound, "mpmath")


def _from_floats(left: Slope, right: Slope, size: float) -> Exact:
    if not (left.settled and right.settled):
        return Exact(None, None, size, 0)
    return Exact(mpmath.mpf(left.value), mpmath.mpf(right.value), lifted(size), mpmath.mpf(left.error + right.error))


def worst(findings: Sequence[Finding]) -> Finding:
    """The one to show first."""
    return max(findings, key=lambda f: (f.severity == WRONG, abs(f.claimed - f.reference) if math.isfinite(f.claimed) else math.inf))
