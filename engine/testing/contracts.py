"""What every vjp owes its caller, whatever its formula: shape, dtype, linearity, no side effects, the same answer again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.testing.finding import TAIL, WRONG, Finding
from engine.testing.layouts import surroundings
from engine.testing.oracles import last_digits_changed, smallest, unit
from engine.testing.subject import Array, ClaimError, Subject, is_float, outputs

SCALE = -2.0  # a power of two: exact in every dtype, and both |g| and sign(g) show


class Watch:
    """What must not change during a call: the arguments, the cotangent, the outputs, and what lies around them in memory."""

    def __init__(self, things: dict[str, Any]):
        self.before = {name: (x, surroundings(x)) for name, x in things.items() if isinstance(x, np.ndarray)}

    def findings(self, who: str) -> Iterator[Finding]:
        for name, (x, bytes_before) in self.before.items():
            if surroundings(x) != bytes_before:
                yield Finding("mutation", f"{who} wrote into {name}")


def watched(args: Sequence[Any], names: Sequence[str], **others: Any) -> Watch:
    things = dict(zip(names, args, strict=False))
    for name, value in others.items():
        parts = outputs(value)
        things.update({name if len(parts) == 1 else f"{name}[{i}]": part for i, part in enumerate(parts)})
    return Watch(things)


def form(claims: Sequence[Any], args: Sequence[Any], names: Sequence[str], lenient: bool) -> Iterator[Finding]:
    """A gradient has the shape and the dtype of its argument; if `lenient`, one of higher precision is only noted."""
    for claim, arg, name in zip(claims, args, names, strict=True):
        if claim is None:
            continue
        if np.shape(claim) != np.shape(arg):
            yield Finding("shape", f"the gradient of {name} has shape {np.shape(claim)}, {name} has {np.shape(arg)}")
        elif not same_dtype(claim, arg):
            had, got = np.asarray(arg).dtype, np.asarray(claim).dtype
            wider = got.kind == had.kind == "f" and got.itemsize > had.itemsize
            yield Finding("dtype", f"the gradient of {name} is {got}, {name} is {had}", TAIL if wider and lenient else WRONG)


def same_dtype(claim: Any, arg: Any) -> bool:
    """A Python number has no precision of its own."""
    if isinstance(claim, (float, int)) and not isinstance(claim, np.generic):
        return True
    return bool(np.asarray(claim).dtype.newbyteorder("=") == np.asarray(arg).dtype.newbyteorder("="))


def buffers(claims: Sequence[Any], names: Sequence[str]) -> Iterator[Finding]:
    """Gradients are added to in place: two of them in one buffer would both change."""
    arrays = [(n, c) for n, c in zip(names, claims, strict=True) if isinstance(c, np.ndarray) and c.size]
    for (a, x), (b, y) in itertools.combinations(arrays, 2):
        if np.shares_memory(x, y):
            yield Finding("buffers", f"the gradients of {a} and {b} share memory")


class Linear:
    """The vjp is linear in its cotangent."""

    def __init__(
        self,
        subject: Subject,
        g: Any,
        args: Sequence[Any],
        y: Any,
        options: dict[str, Any],
        claims: Sequence[Any],
        rtol: float,
        slack: Callable[[], float],
    ):
        self.subject, self.g, self.args, self.y, self.options = subject, g, args, y, options
        self.claims, self.rtol, self.slack = joined(claims), rtol, slack
        self.finite = np.isfinite(self.claims)
        parts = [np.asarray(c) for c in claims if c is not None]
        self.eps = max((unit(c.dtype) for c in parts if is_float(c)), default=2.0**-52)
        self.floor = max((smallest(c.dtype) for c in parts if is_float(c)), default=0.0)

    def pulled(self, g: Any) -> Array:
        return joined(self.subject.gradients(g, self.args, self.y, self.options))

    def findings(self, rng: np.random.Generator, moderate: bool) -> Iterator[Finding]:
        """`moderate`: nothing here comes near the ends of the range, so that scaling and adding are exact."""
        try:
            yield from self.zero()
            if not moderate:
                return
            yield from self.scaled()
            yield from self.added(rng)
        except ClaimError as e:
            if not isinstance(e.__cause__, np.linalg.LinAlgError):  # whether a matrix may be refused is asked with the values
                yield Finding("linear", f"with another cotangent {e}")

    def zero(self) -> Iterator[Finding]:
        back = self.pulled(each(np.zeros_like, self.g))
        if back.shape != self.claims.shape:
            return
        bad = self.finite & ~(back == 0)
        if bad.any():
            yield Finding(
                "zero", "a cotangent of zeros does not give zeros", element=_first(bad), claimed=float(back[bad][0]), reference=0.0
            )

    def scaled(self) -> Iterator[Finding]:
        back = self.pulled(each(lambda g: (SCALE * g).astype(g.dtype), self.g))
        if back.shape != self.claims.shape:
            return
        wanted = SCALE * self.claims
        with np.errstate(all="ignore"):
            bad = self.off(back, wanted, self.finite, np.max(np.abs(wanted[self.finite]), initial=0.0))
        if bad.any():
            i = _first(bad)
            text = f"the cotangent times {SCALE:g} does not give the gradient times {SCALE:g}"
            yield Finding("scaling", text, element=i, claimed=float(back[i]), reference=float(wanted[i]))

    def added(self, rng: np.random.Generator) -> Iterator[Finding]:
        other = each(lambda g: _random_like(g, rng), self.g)
        both = tuple(np.asarray(a + b) for a, b in zip(outputs(self.g), outputs(other), strict=True))
        second, total = self.pulled(other), self.pulled(both if isinstance(self.g, tuple) else both[0])
        if not total.shape == second.shape == self.claims.shape:
            return
        with np.errstate(all="ignore"):
            wanted = self.claims + second
            fine = self.finite & np.isfinite(second)
            size = np.max(np.abs(self.claims[fine]), initial=0.0) + np.max(np.abs(second[fine]), initial=0.0)
            bad = self.off(total, wanted, fine, size)
        if bad.any():
            i = _first(bad)
            text = "the gradient for a sum of two cotangents is not the sum of their gradients"
            yield Finding("addition", text, element=i, claimed=float(total[i]), reference=float(wanted[i]))

    def off(self, found: Array, wanted: Array, fine: Array, size: float) -> Array:
        """Where they differ by more than rounding. What is not linear is off by far; what overflows is judged as a value."""
        apart = np.abs(found - wanted)
        bad = fine & np.isfinite(wanted) & np.isfinite(found) & ~(apart <= max(self.rtol, 256 * self.eps) * size + 8 * self.floor)
        if bad.any():
            bad &= ~(apart <= 4 * self.slack())
        return np.asarray(bad & ~(apart <= 8 * self.trembling()) if bad.any() else bad)

    def trembling(self) -> Array:
        """By how much the gradient that is claimed changes in each element when the arguments change in their last digits."""
        rng, most = np.random.default_rng(5), np.zeros(self.claims.shape)
        for _ in range(4):
            args = last_digits_changed(self.args, rng)
            try:
                moved = joined(self.subject.gradients(self.g, args, self.subject.value(args, self.options), self.options))
            except Exception:  # outside of the domain
                continue
            if moved.shape == most.shape:
                most = np.fmax(most, np.abs(moved - self.claims))
        return most


def each(f: Any, g: Any) -> Any:
    """f of every cotangent."""
    return tuple(f(part) for part in g) if isinstance(g, tuple) else f(g)


def _random_like(g: Any, rng: np.random.Generator) -> Any:
    if not is_float(g):
        return np.zeros_like(g)
    size = float(np.max(np.abs(g), initial=0.0)) or 1.0
    return np.asarray(rng.uniform(-size, size, g.shape)).astype(g.dtype)


def _first(bad: Array) -> int:
    return int(np.flatnonzero(bad)[0])


def joined(claims: Sequence[Any]) -> Array:
    """All gradients as one vector of float64; where there is none for a floating-point argument, nan."""
    parts = [np.asarray(c).astype(np.float64).ravel() for c in claims if c is not None]
    return np.concatenate(parts) if parts else np.zeros(0)


def again(
    subject: Subject, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any], first: Sequence[Any], kept: Sequence[Any]
) -> Iterator[Finding]:
    """The same call gives the same gradients after the function has been called elsewhere, and earlier gradients stay as they are.

    first   the gradients as they were returned, by argument; kept   copies of them from that moment
    """
    for was, is_now in zip(kept, first, strict=True):
        if was is not None and not np.array_equal(was, is_now, equal_nan=True):
            yield Finding("buffers", "a later call changed a gradient that an earlier one had returned")
            return
    try:
        later = subject.gradients(g, args, y, options)
        if alike(later, kept):
            return
        at_once = []
        for _ in range(2):
            fresh = subject.value(args, options)
            at_once.append(subject.gradients(g, args, fresh, options))
    except ClaimError as e:
        yield Finding("again", f"called again, {e}")
        return
    if all(alike(a, kept) for a in at_once):
        yield Finding(
            "state", "called again for the same values, after f was called with others, the vjp gives another gradient: it keeps state"
        )
    else:
        yield Finding("determinism", "the same call gives another gradient each time")


def alike(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """The same gradients, up to the order of a sum."""
    x, y = joined(a), joined(b)
    if x.shape != y.shape:
        return False
    with np.errstate(all="ignore"):
        size = np.max(np.abs(y[np.isfinite(y)]), initial=0.0)
        eps = max((unit(np.asarray(c).dtype) for c in b if c is not None and is_float(np.asarray(c))), default=2.0**-52)
        return bool(np.all((x == y) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= 256 * eps * size)))
