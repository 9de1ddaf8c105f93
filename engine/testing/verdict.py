r"""One claimed gradient against the oracles, element by element.

The cheap oracles judge every element. What they do not pass is looked at more closely, and nothing is called wrong before
the arbiter has said so: the function in high precision, or two oracles that agree.

An error is measured against $S_i = \sum_j |g_j \, \partial y_j / \partial x_i|$, the size of the terms that the gradient is
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
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import mpmath
import numpy as np

from engine.testing.around import NEIGHBOURS, in_order, jump, nearby
from engine.testing.claims import ACCURATE, MANY_ELEMENTS, Claims
from engine.testing.excuses import EXCUSES, cheap_excuse, excuse_of
from engine.testing.finding import TAIL, WRONG, Finding
from engine.testing.oracles import EPS, STEP, Exact, Place, PrecisePlace, Slope, Unavailable, as_float
from engine.testing.precise import lifted
from engine.testing.scalars import Work
from engine.testing.subject import Array

SURE = 24  # elements that the arbiter looks at for digits that differences do not show
BUDGET = 100_000  # of work that the arbiter may do in one run before it is asked only about what looks wrong
SINGULAR = "a jump, an infinite slope or the edge of the domain"
SHOWN = 2  # elements of one call that may be found wrong: more say no more
TIED = 32  # equal elements whose slopes are compared with the slope of all together


class Comparison(Claims):
    """The claims of a place, judged."""

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, the elements in order."""
        at = self.chosen()
        good = self.cheaply(at)
        self.tally.compared += int((good & self.known[at]).sum())
        wrong = 0
        for i in at[~good & self.known[at]]:
            for finding in self.closely(int(i)):
                yield finding
                wrong += finding.severity == WRONG
            if wrong >= SHOWN:
                return
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
        self.jacobian[:, at], self.reference[at] = jacobian, self.weighted(jacobian)
        self.size[at] = self.weighted(jacobian, absolute=True)
        reference, size, claims = self.reference[at], self.size[at], self.claims[at]
        rounding = 2 * self.noise / h
        r, l = right @ self.g, left @ self.g
        error = np.abs(claims - reference)
        match = error <= (ACCURATE * self.eps if self.strict else self.rtol) * size + self.floor + bar
        smooth = np.abs(r - l) <= 0.02 * (np.abs(r) + np.abs(l)) + 2 * rounding + self.floor
        near = np.abs((r + l) / 2 - reference) <= 0.01 * size + 2 * rounding + self.floor
        return np.asarray(match & smooth & near & (bar <= 1e-3 * size + self.floor))

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
        slope = float(self.weighted(change[:, None])[0])
        return abs(slope - claim) <= self.rtol * (size + float(np.abs(self.g) @ np.abs(np.nan_to_num(change)))) + self.floor

    def closely(self, i: int) -> Iterator[Finding]:
        if not math.isfinite(self.place.x[i]):
            if math.isnan(self.place.x[i]) and self.place.finite.all() and not math.isfinite(self.claims[i]):
                text = "the argument is nan and left out of the value: its gradient is 0"
                yield Finding("value", text, WRONG, i, float(self.claims[i]), 0.0, 0.0, "the value, which is finite")
            else:
                self.skip("an argument is not finite")
            return
        if not (self.place.finite & np.isfinite(self.values)).all() and not math.isfinite(self.claims[i]):
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
        if np.flatnonzero(np.nan_to_num(self.jacobian[:, i], nan=1.0)).tolist() not in ([], [k]):
            return None
        cut = tuple(slice(m, m + 1) for m in np.unravel_index(k, np.shape(place.args[0])))
        inner = self.cut_out(cut, k)
        if inner is None:
            return None
        at = [part.start + k for part in place.slices]
        comparison = Comparison(
            inner, self.g[k : k + 1], self.claims[at], self.tally, dtype=self.dtype, values=self.values[k : k + 1],
            elementwise=True, strict=self.strict, known=self.known[at], derived=self.derived,
        )  # fmt: skip
        comparison.reference, comparison.size, comparison.stepped = self.reference[at], self.size[at], self.stepped
        comparison.jacobian = self.jacobian[k : k + 1, at]
        return comparison, at.index(i)

    def cut_out(self, cut: tuple[slice, ...], k: int) -> Place | None:
        """The place with only one element of each argument; None if f then does something else with it than before."""
        moderate = np.random.default_rng(k).uniform(0.25, 0.75, self.place.x.size)
        try:
            whole = Place(self.place.f, self.place.filled(moderate), self.place.options)
            parts = [Place(p.f, [np.asarray(a)[cut] for a in p.args], p.options) for p in (whole, self.place)]
        except Exception:  # an option that goes with the shape, or a domain
            return None
        same = all(p.y0.size == 1 and p.y0[0] == q.y0[k] for p, q in zip(parts, (whole, self.place), strict=True))
        return parts[1] if same else None

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

    def arbitrate(self, i: int, left: Slope, right: Slope) -> Iterator[Finding]:
        """Nothing is wrong before this has said so."""
        self.tally.counts["arbitrated"] += 1
        try:
            exact = self.precise.slopes(self.unit(i))
            findings = list(self.by_precise(i, exact))
            if any(f.severity == WRONG for f in findings):
                finer = self.precise.slopes(self.unit(i), again=True)
                if not finer.like(exact):
                    findings = list(self.by_precise(i, finer))
            yield from findings
        except Unavailable:
            yield from self.by_floats(i, left, right)

    def by_precise(self, i: int, exact: Exact) -> Iterator[Finding]:
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
        if abs(reference) > self.most / 2:
            self.skip("the gradient leaves the range of the dtype")
            return
        excuse = cheap_excuse(self, i, claim, reference)
        if excuse:
            self.sound = False
            yield Finding("value", EXCUSES[excuse], TAIL, i, claim, reference, self.tolerance(size), "mpmath")
            return
        if self.only_together(i):
            return
        near = jump(self, i, claim, reference)
        if near:
            yield from self.at_kink(i, [reference, *near], "mpmath", looked=True)
            return
        excuse = excuse_of(self, i, claim, reference, size)
        self.sound &= not excuse
        if excuse in ("sensitive", "last digits") and not self.strict:
            self.tally.compared += 1
            return
        yield Finding(
            "value", EXCUSES.get(excuse, ""), TAIL if excuse else WRONG, i, claim, reference, self.tolerance(size), "mpmath"
        )  # fmt: skip

    def at_kink(self, i: int, slopes: list[float], oracle: str, looked: bool = False) -> Iterator[Finding]:
        """Between the slopes, or between the gradients at points nearby?"""
        claim = float(self.claims[i])
        hull = list(slopes)
        for more in (0, NEIGHBOURS, 4 * NEIGHBOURS):
            if more:
                hull += nearby(self, i, more)
            if more == NEIGHBOURS:
                hull += in_order(self, i)
            low, high = min(hull), max(hull)
            slack = self.rtol * max(abs(low), abs(high)) + self.floor
            if looked or (more and high - low > max(slopes) - min(slopes) + slack):
                slack += (high - low) / 2  # samples do not reach the ends of what they are drawn from
            if low - slack <= claim <= high + slack:
                self.kinked.add(i)
                self.tally.compared += 1
                self.tally.counts["at a kink"] += 1
                return
            if math.isnan(claim):
                break
        if len(hull) == len(slopes) and math.isfinite(claim):
            self.skip("the gradients nearby are not known")
            return
        if looked and math.isfinite(claim) and high - low > 1e3 * (abs(slopes[0]) + abs(claim)):
            self.skip("the gradient is not continuous here")
            return
        text = f"at a kink, and not between its slopes {low:.9g} and {high:.9g}"
        self.kinked.add(i)
        lost = self.far_out and math.isfinite(claim)
        yield Finding("kink", text, TAIL if lost else WRONG, i, claim, (low + high) / 2, (high - low) / 2, oracle)

    def unseen(self, i: int, error: float) -> bool:
        """Is an error of the gradient so small that no difference shows it beside the rounding of a function of such numbers?"""
        rounded = max(1.0, float(np.max(np.abs(self.place.y0[self.place.finite]), initial=0.0)), abs(self.place.x[i]))
        return bool(abs(error) * 2.0**-8 * self.place.scale[i] <= 64 * EPS * rounded * float(np.max(np.abs(self.g), initial=0.0)))

    def only_together(self, i: int) -> bool:
        """Has f among equal elements a slope when they move together, but another one than the sum of their own?

        Then it has no gradient there, each of them may be the one that counts, and the claims have to be right in sum only.
        """
        same = self.place.x == self.place.x[i]
        if same.sum() < 2:
            return False
        left, right = self.slopes(same.astype(np.float64))
        own = [self.slopes(self.unit(int(k))) for k in np.flatnonzero(same)[:TIED]]
        if len(own) < same.sum() or not all(s.settled for s in (left, right, *itertools.chain(*own))):
            return False
        error = 4 * (left.error + right.error + sum(s.error for pair in own for s in pair))
        size = abs(left.value) + sum(abs(s.value) for pair in own for s in pair)
        if abs(left.value - right.value) > error or any(abs(l.value - r.value) > error for l, r in own):
            return False
        if abs(left.value - sum(l.value for l, _ in own)) <= error + 1e-3 * size:
            return False
        self.kinked.add(i)
        self.tally.compared += 1
        self.tally.counts["at a kink"] += 1
        return True

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
        if abs(claim - v) <= bar + self.tolerance(size) or self.unseen(i, claim - v):
            self.skip("the reference is not known well enough")
            return
        if self.only_together(i):
            return
        excuse = excuse_of(self, i, claim, reference, size)
        near = [] if excuse else jump(self, i, claim, reference)
        if near:
            yield from self.at_kink(i, [reference, *near], "differences nearby", looked=True)
            return
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
        near = nearby(self, int(moved[0]), NEIGHBOURS, along=direction)
        self.tally.counts["tie directions"] += 1
        bound = self.rtol * max(size, as_float(exact.size)) + self.floor + 4 * as_float(exact.error)
        if self.rtol < 0.01:  # in half precision the rounding of a sum would hide a wrong count
            bound += self.rounding()
        if not min([exact.value, *near]) - bound <= claim <= max([exact.value, *near]) + bound:
            some = ", ".join(map(str, moved[:8])) + (", ..." if moved.size > 8 else "")
            text = f"elements {some} are equal; when they move together the function is smooth, but the gradients add up wrongly"
            yield Finding("tie", text, TAIL if self.far_out else WRONG, int(moved[0]), claim, exact.value, bound, "mpmath")


def _from_floats(left: Slope, right: Slope, size: float) -> Exact:
    if not (left.settled and right.settled):
        return Exact(None, None, size, 0)
    return Exact(mpmath.mpf(left.value), mpmath.mpf(right.value), lifted(size), mpmath.mpf(left.error + right.error))
