"""Judges single calls: the values of the gradient, and what it owes whatever its formula."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.shapes import Notation
from engine.testing import contracts, modes
from engine.testing.case import Case
from engine.testing.claims import Claims
from engine.testing.contract import fits
from engine.testing.excuses import EXCUSES
from engine.testing.finding import RTOL, TAIL, WRONG, Finding, Tally
from engine.testing.oracles import Place, last_digits_changed, unit
from engine.testing.subject import Array, ClaimError, Subject, floating, is_float, outputs
from engine.testing.verdict import Comparison

TWO_WAYS = 40  # calls that are computed in two ways
LARGEST_SQUARED = 1e150  # the squares of larger numbers come near the end of the range: a matrix of them may be refused
SMALLER = 2.0**-10  # what a cotangent is multiplied with to see whether only it overflows


class NotHere(Exception):
    """The function cannot be called like this, or its value says nothing."""


@dataclass
class Judged:
    """What judging one call gave."""

    findings: list[Finding]
    cotangent: Any = None
    claims: list[Any] = field(default_factory=list)


class Examiner:
    """Judges calls of one subject."""

    def __init__(
        self, subject: Subject, names: Sequence[str], severity: str, notations: Sequence[Notation] = (), batched: Subject | None = None
    ):
        self.subject, self.names, self.severity = subject, list(names), severity
        self.notations, self.batched = notations, batched
        self.tally = self.counted = Tally()
        self.tails: list[Finding] = []
        self.comparison: Comparison | None = None

    def stop_counting(self) -> None:
        """What follows is not part of the search: it spends nothing, and no report counts it."""
        self.tally = Tally()

    def named(self, args: Sequence[Any]) -> list[str]:
        """A name for each argument; where there are more than names, the first ones are cotangents."""
        extra = len(args) - len(self.names)
        return [f"g{i + 1}" if extra > 1 else "g" for i in range(extra)] + self.names[: len(args)]

    def judge(self, case: Case) -> Judged:
        """Everything that is to be said about one call. Raises NotHere if it cannot be called like this."""
        if self.tally is not self.counted:
            self.tally = Tally()
        judged = Judged([])
        for finding in self._findings(case, judged):
            if finding.severity == WRONG or self.severity == TAIL:
                judged.findings.append(finding)
            elif self.tally is self.counted:
                self.tally.counts["tails"] += 1
                self.tails.append(finding)
        return judged

    def _findings(self, case: Case, judged: Judged) -> Iterator[Finding]:
        subject, args, options = self.subject, case.args, case.kwargs
        names = self.named(args)
        watch = contracts.watched(args, names)
        try:
            y = subject.value(args, options)
        except Exception as e:  # whatever a user's function raises on arguments that it does not take
            raise NotHere(f"the function raised {type(e).__name__}") from e
        yield from watch.findings("the function")
        g = judged.cotangent = masked(case.cotangent(y), y)
        watch = contracts.watched(args, names, g=g, y=y)
        try:
            claims = judged.claims = subject.gradients(g, args, y, options) if subject.vjp else self.by_jvp(g, args, y, options)
        except ClaimError as e:
            if not all(np.isfinite(part).all() for part in outputs(y) if is_float(part)):
                self.tally.skip("the function is not finite")
            elif isinstance(e.__cause__, np.linalg.LinAlgError) and self.may_refuse(case, y, g):
                self.tally.skip("a singular matrix")
            else:
                yield Finding("raised", str(e))
            return
        yield from watch.findings("the vjp")
        wrong = list(contracts.form(claims, args, names, lenient=case.cast))
        yield from wrong
        if any(f.check == "shape" for f in wrong):
            return
        yield from contracts.buffers(claims, names)
        kept = [None if c is None else np.array(c) for c in claims]
        yield from self.values(case, y, g, claims)
        if subject.vjp:
            linear = contracts.Linear(subject, g, args, y, options, kept, self._rtol(args, y), self._rounding)
            yield from linear.findings(
                np.random.default_rng(1), self.comparison is not None and self.comparison.sound and not self.comparison.far_out
            )
            yield from contracts.again(subject, g, args, y, options, claims, kept)
            if subject.jvp:
                yield from self.pushes(case, y, g, kept)
            yield from self.two_ways(case, y, g, kept)

    def two_ways(self, case: Case, y: Any, g: Any, claims: Sequence[Any]) -> Iterator[Finding]:
        """A batch and its entries, a Hessian and its transpose; where the function is smooth and nothing leaves the range."""
        c, args, options = self.comparison, case.args, case.kwargs
        if c is None or c.kinked or not c.sound or c.far_out or self.tally.counts["two ways"] >= TWO_WAYS:
            return
        self.tally.counts["two ways"] += 1
        if self.subject.derived:
            yield from modes.symmetric(self.subject, args, y, options, len(self.names), self._rounding())
            return
        fitting = next((n for n in self.notations if modes.lead(n, args)), None)
        if fitting is not None:
            yield from modes.slices(self.subject, fitting, g, args, y, options, claims, self.named(args))
        if self.batched is not None and any(fits(n, self.names, [np.shape(a) for a in args], options) for n in self.notations):
            yield from modes.against_loop(self.subject, self.batched, args, options, self.named(args))

    def may_refuse(self, case: Case, y: Any, g: Any) -> bool:
        """Is a matrix singular, if only to rounding, and not the rule at fault that refuses it?"""
        largest = max((float(np.max(np.abs(a), initial=0.0)) for a in case.args if is_float(a)), default=0.0)
        if largest > LARGEST_SQUARED or largest == 0:
            return True
        if self.refuses(case, g, 0.1):
            return False
        return self.refuses(case, g, 4 * unit(np.dtype(np.float64))) or not self.has_slopes(case, y, g)

    def refuses(self, case: Case, g: Any, distance: float) -> bool:
        """Does the vjp raise at arguments so far away, too? On the scale of the largest number of each."""
        rng, moved = np.random.default_rng(0), []
        for a in map(np.asarray, case.args):
            size = float(np.max(np.abs(a), initial=0.0)) or 1.0 if is_float(a) else 0.0
            moved.append((a + distance * size * rng.standard_normal(a.shape)).astype(a.dtype) if is_float(a) else a)
        try:
            self.subject.gradients(g, moved, self.subject.value(moved, case.kwargs), case.kwargs)
        except Exception:  # the function may not take these numbers: then nothing excuses the vjp
            return True
        return False

    def has_slopes(self, case: Case, y: Any, g: Any) -> bool:
        """Has the function a slope in every element, as the determinant of a singular matrix has?"""
        if flat(y).size == 0:
            return False
        place = Place(self.subject.oracle, case.args, case.kwargs)
        if np.max(np.abs(place.x)) * 2.0**-30 > np.min(place.scale):  # steps that some numbers would not feel
            return False
        claims = Claims(place, np.where(place.finite, flat(g), 0.0), np.zeros(place.x.size), Tally(), dtype=np.dtype(np.float64))
        sides = [claims.slopes(claims.unit(i)) for i in range(place.x.size)]
        return all(a.settled and b.settled and abs(a.value - b.value) <= 4 * (a.error + b.error) for a, b in sides)

    def _rounding(self) -> float:
        return self.comparison.rounding() if self.comparison else math.inf

    def _rtol(self, args: Sequence[Any], y: Any) -> float:
        floats = [args[i] for i in floating(args)]
        return RTOL.get(lowest(floats, y).itemsize, 1e-8) if floats else 1e-8

    def by_jvp(self, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any]) -> list[Any]:
        """The gradient that a jvp implies: its answer to each unit tangent, weighted."""
        found: list[Any] = [None] * len(args)
        for place in floating(args):
            grad = np.zeros(np.shape(args[place]), np.asarray(args[place]).dtype)
            for i in range(grad.size):
                dy = self.subject.tangent(unit_tangents(args, place, i), args, y, options)
                grad.reshape(-1)[i] = dot(g, dy)
            found[place] = grad
        return found

    # Values.

    def values(self, case: Case, y: Any, g: Any, claims: Sequence[Any]) -> Iterator[Finding]:
        self.comparison = None
        floats = floating(case.args)
        if not floats or all(claims[i] is None for i in floats):
            self.tally.reasons["no argument has a gradient"] += 1
            return
        try:
            place = Place(self.subject.oracle, case.args, case.kwargs)
        except Exception as e:  # the function takes these arguments, but not in float64
            self.tally.skip(f"the function raised {type(e).__name__} in float64")
            return
        values = flat(y)
        if place.y0.size != values.size:
            self.tally.skip("the function has other outputs in float64")
            return
        dtype = lowest([case.args[i] for i in floats], y)
        trouble = disagreement(values, place, dtype)
        if trouble:
            self.tally.skip(trouble)
            return
        if np.any(np.isfinite(values) & ~place.finite & (flat(g) != 0)):
            self.tally.skip("the function is not finite in float64")
            return
        if values.size and not (place.finite & np.isfinite(values)).any():
            self.tally.skip("the value is not finite")
            return
        known = np.concatenate([np.full(np.size(case.args[i]), claims[i] is not None) for i in floats])
        claimed = by_element(case.args, claims)
        weights = np.where(place.finite & np.isfinite(values), flat(g), 0.0)
        self.comparison = comparison = Comparison(
            place, weights, claimed, self.tally,
            dtype=dtype, values=values, elementwise=elementwise(case.args, y), strict=self.severity == TAIL,
            known=known, derived=self.subject.derived,
        )  # fmt: skip
        for finding in comparison.findings():
            yield self.excused(finding, case, y, g) if finding.severity == WRONG and finding.check == "value" else finding

    def excused(self, finding: Finding, case: Case, y: Any, g: Any) -> Finding:
        """The finding, as a loss of accuracy if other calls of the rule show that it is one."""
        if self.comparison is None or finding.element is None or self.subject.vjp is None:
            return finding
        if not math.isfinite(finding.claimed):
            return self.overflown(finding, case, y, g)
        return self.unstable(finding, case, g) if self.comparison.coupled else finding

    def unstable(self, finding: Finding, case: Case, g: Any) -> Finding:
        """The finding, excused if what the rule says changes as much with the last digits of the arguments: its sums cancel."""
        rng, error = np.random.default_rng(4), abs(finding.claimed - finding.reference)
        for _ in range(6):
            args = last_digits_changed(case.args, rng)
            try:
                claims = self.subject.gradients(g, args, self.subject.value(args, case.kwargs), case.kwargs)
                moved = by_element(args, claims)[finding.element]
            except Exception:  # outside of the domain
                continue
            if 8 * abs(moved - finding.claimed) >= error:
                return replace(finding, severity=TAIL, text=EXCUSES["sensitive"])
        return finding

    def overflown(self, finding: Finding, case: Case, y: Any, g: Any) -> Finding:
        """The finding, excused if the rule is right for a smaller cotangent: then only its product with a number near the end overflows."""
        small = contracts.each(lambda part: (part * SMALLER).astype(part.dtype), g)
        try:
            claimed = by_element(case.args, self.subject.gradients(small, case.args, y, case.kwargs))[finding.element] / SMALLER
        except ClaimError:
            return finding
        near = abs(claimed - finding.reference) <= max(finding.bound, 1e-6 * abs(finding.reference))
        return replace(finding, severity=TAIL, text=EXCUSES["range"]) if near else finding

    def pushes(self, case: Case, y: Any, g: Any, claims: Sequence[Any]) -> Iterator[Finding]:
        """<g, J d> = <J' g, d>, for tangents of all arguments and of one alone; where the function is smooth."""
        comparison = self.comparison
        if comparison is None or comparison.kinked or not comparison.sound or comparison.far_out:
            return
        if not np.isfinite(contracts.joined(claims)).all():
            return
        rng = np.random.default_rng(2)
        floats = floating(case.args)
        for moving in {tuple(floats), *((i,) for i in floats)}:
            tangents = [rng.uniform(-1, 1, np.shape(case.args[i])).astype(np.asarray(case.args[i]).dtype) * (i in moving) for i in floats]
            try:
                dy = self.subject.tangent(tangents, case.args, y, case.kwargs)
            except NotImplementedError:
                self.tally.counts["no forward mode"] += 1
                return
            except ClaimError as e:
                yield Finding("jvp", str(e))
                return
            parts, gs = outputs(y), outputs(g)
            if len(outputs(dy)) == sum(map(is_float, parts)) < len(parts):  # what holds integers has no tangent
                kept = [is_float(part) for part in parts]
                parts, gs = (tuple(itertools.compress(whole, kept)) for whole in (parts, gs))
            if [np.shape(d) for d in outputs(dy)] != [np.shape(part) for part in parts]:
                yield Finding("jvp", f"the tangent has shape {[np.shape(d) for d in outputs(dy)]}, y has {[np.shape(p) for p in parts]}")
                return
            self.tally.counts["jvp"] += 1
            d = np.concatenate([np.ravel(t).astype(np.float64) for t in tangents] or [np.zeros(0)])
            with np.errstate(all="ignore"):
                pushed, pulled = dot(gs, dy), float(np.nan_to_num(comparison.claims) @ d)
                terms = np.maximum(np.nan_to_num(comparison.size), np.abs(np.nan_to_num(comparison.claims)))
                sums = comparison.rounding() + 1024 * comparison.eps * float(np.max(terms, initial=0.0))
                slack = comparison.floor * d.size + sums * float(np.abs(d).sum())
                bound = comparison.rtol * float(terms @ np.abs(d)) + slack if d.size else 0.0
                if abs(pushed - pulled) <= bound or math.isinf(pulled) or any(np.isinf(part).any() for part in outputs(dy)):
                    continue
            if abs(pushed - pulled) <= 64 * self.trembling(case, y, gs, tangents, pushed, pulled):
                continue
            who = "all arguments" if len(moving) == len(floats) else self.named(case.args)[moving[0]]
            yield Finding(
                "jvp", f"<g, J d> is not <J'g, d> when {who} move", WRONG, None, pushed, pulled, bound, "the vjp, which is right here"
            )
            return

    def trembling(self, case: Case, y: Any, g: Any, tangents: Sequence[Any], pushed: float, pulled: float) -> float:
        """By how much both sides change when the arguments change in their last digits."""
        args = last_digits_changed(case.args, np.random.default_rng(3))
        try:
            dy = self.subject.tangent(tangents, args, y, case.kwargs)
            claims = self.subject.gradients(g, args, y, case.kwargs)
        except ClaimError:
            return 0.0
        with np.errstate(all="ignore"):
            pull = dot(tuple(claims[i] for i in floating(args)), tuple(tangents))
            return float(np.nan_to_num(max(abs(dot(g, dy) - pushed), abs(pull - pulled))))


def lowest(args: Sequence[Any], y: Any) -> np.dtype[Any]:
    """The dtype that the arguments have together, or that of an output with fewer digits: more are not there."""
    dtype: np.dtype[Any] = np.result_type(*[np.asarray(a).dtype for a in args])
    return max([dtype, *(part.dtype for part in outputs(y) if is_float(part))], key=unit)


def by_element(args: Sequence[Any], claims: Sequence[Any]) -> Array:
    """Gradients of all floating-point arguments as one vector of float64; nan where there is none."""
    parts = [np.full(np.shape(args[i]), np.nan) if claims[i] is None else np.asarray(claims[i]) for i in floating(args)]
    return np.concatenate([np.ravel(part).astype(np.float64) for part in parts])


def unit_tangents(args: Sequence[Any], place: int, i: int) -> list[Any]:
    made = []
    for p in floating(args):
        t = np.zeros(np.shape(args[p]), np.asarray(args[p]).dtype)
        if p == place:
            t.reshape(-1)[i] = 1
        made.append(t)
    return made


def dot(a: Any, b: Any) -> float:
    """Of arrays or tuples of arrays, leaving out integers, and what meets a 0 on the left."""
    pairs = zip(outputs(a), outputs(b), strict=True)
    found = [(np.asarray(x, np.float64), np.asarray(z, np.float64)) for x, z in pairs if is_float(x) and np.size(x)]
    return float(sum(np.sum(np.where(x == 0, 0.0, x * z)) for x, z in found))


def flat(y: Any) -> Array:
    """All floating-point outputs as one vector of float64."""
    parts = [np.asarray(part).astype(np.float64).ravel() for part in outputs(y) if is_float(part)]
    return np.concatenate(parts) if parts else np.zeros(0)


def masked(g: Any, y: Any) -> Any:
    """The cotangent, with 0 for the outputs that are not finite."""

    def one(g: Any, y: Any) -> Any:
        return g if not is_float(y) or np.isfinite(y).all() else np.where(np.isfinite(y), g, 0).astype(g.dtype)

    return tuple(one(a, b) for a, b in zip(g, y, strict=True)) if isinstance(y, tuple) else one(g, y)


def elementwise(args: Sequence[Any], y: Any) -> bool:
    """Can each output belong to one element of each argument? By their shapes alone."""
    if isinstance(y, tuple):
        return False
    try:
        return bool(np.broadcast_shapes(*[np.shape(a) for a in args]) == np.shape(y))
    except ValueError:
        return False


def disagreement(values: Array, place: Place, dtype: np.dtype[Any]) -> str:
    """Why f as it was called and f as the oracles call it are not the same function here; empty if they are."""
    both = np.isfinite(values) & place.finite
    with np.errstate(all="ignore"):
        size = float(np.max(np.abs(place.y0[both]), initial=0.0))
        far = np.abs(values - place.y0)[both] > 1e6 * RTOL.get(dtype.itemsize, 0.1) * size
    if far.any():
        return "the function is not the same twice, or depends on how its arguments lie in memory"
    return ""


def leaves_the_range(x: Any, lower: Any) -> bool:
    """Does a number become infinite, or 0, in the lower precision?"""
    return bool(np.any(np.isfinite(x) & ~np.isfinite(lower)) or np.any((np.asarray(x) != 0) & (lower == 0)))
