"""Ways of computing one derivative that must agree: a batch and its slices, a Hessian and its transpose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.shapes import ANY, Notation
from engine.testing.finding import WRONG, Finding
from engine.testing.oracles import last_digits_changed, unit
from engine.testing.subject import ClaimError, Subject, floating, is_float, outputs

SUMS = 2.0**14  # roundings: how far apart two orders of summation may be
COPIES = 3  # of a call, with other numbers, that make a batch


def apart(a: Any, b: Any) -> float:
    """By how much a and b differ, if that is more than rounding; 0 where one is not finite."""
    a, b = np.asarray(a), np.asarray(b)
    eps = max(unit(x.dtype) for x in (a, b))
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return 0.0
    size, worst = float(max(np.abs(a[both]).max(), np.abs(b[both]).max())), float(np.abs(a - b)[both].max())
    return worst if worst > SUMS * eps * size else 0.0


def trembling(subject: Subject, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any]) -> tuple[float, list[float]]:
    """By how much the outputs, and the gradient of each argument, change when the arguments change in their last digits.

    Where terms cancel that is all that two orders of summation have in common.
    """
    moved = last_digits_changed(args, np.random.default_rng(3))
    try:
        z = subject.value(moved, options)
        before, after = (subject.gradients(g, xs, v, options) for xs, v in ((args, y), (moved, z)))
    except Exception:  # outside of the domain: nothing is known
        return math.inf, [math.inf] * len(args)
    with np.errstate(all="ignore"):
        pairs = [(a, b) for a, b in zip(outputs(y), outputs(z), strict=True) if is_float(a)]
        return _change(pairs), [_change([(a, b)]) if a is not None else 0.0 for a, b in zip(before, after, strict=True)]


def _change(pairs: Sequence[tuple[Any, Any]]) -> float:
    found = [np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)), initial=0.0) for a, b in pairs]
    return float(np.nan_to_num(max(found, default=0.0), nan=np.inf))


# A function whose signature begins with `...`: each entry along the leading axis is a call of its own.


def lead(notation: Notation, args: Sequence[Any]) -> list[int] | None:
    """How many leading axes each argument has beyond those that the notation names; None if there are none, or it has no `...`."""
    if len(notation.inputs) != len(args) or not any(ANY in side for side in notation.inputs):
        return None
    ranks = [np.ndim(a) - sum(token != ANY for token in side) for a, side in zip(args, notation.inputs, strict=True)]
    return ranks if max(ranks) > 0 and min(ranks) >= 0 else None


def slices(
    subject: Subject, notation: Notation, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any], claims: Sequence[Any],
    names: Sequence[str],
) -> Iterator[Finding]:  # fmt: skip
    """The gradient of a batch is made of the gradients of its slices along the first axis; a broadcast argument gets their sum."""
    ranks = lead(notation, args)
    if ranks is None or subject.vjp is None:
        return
    first = max(ranks)
    moving = [r == first and np.shape(a)[0] != 1 for a, r in zip(args, ranks, strict=True)]
    count = max((np.shape(a)[0] for a, m in zip(args, moving, strict=True) if m), default=1)
    if count < 2 or any(np.ndim(p) == 0 or np.shape(p)[0] != count for p in outputs(y)):
        return

    def entry(whole: Sequence[Any], i: int) -> list[Any]:
        return [a[i] if m else a[0] if r == first else a for a, m, r in zip(map(np.asarray, whole), moving, ranks, strict=True)]

    if not _is_batch(subject, entry, args, options):
        return
    total: list[Any] = [None if c is None else np.zeros(np.shape(c), np.float64) for c in claims]
    for i in range(count):
        part = entry(args, i)
        alone = subject.value(part, options)
        gs = tuple(np.asarray(p)[i] for p in outputs(g))
        try:
            found = subject.gradients(gs if isinstance(y, tuple) else gs[0], part, alone, options)
        except ClaimError as e:
            yield Finding("batch", f"for entry {i} of a batch alone, {e}")
            return
        for k, c in enumerate(found):
            if c is not None and total[k] is not None:
                place = i if moving[k] else 0 if ranks[k] == first else ...
                total[k][place] += np.asarray(c, np.float64)
    yield from _unequal(claims, total, names, lambda: trembling(subject, g, args, y, options)[1])


def _is_batch(subject: Subject, entry: Callable[[Sequence[Any], int], list[Any]], args: Sequence[Any], options: dict[str, Any]) -> bool:
    """Is each entry a call of its own, or does the `...` only say that any shape will do? Told by other numbers: equal ones hide it."""
    rng = np.random.default_rng(6)
    other = [rng.uniform(0.25, 0.75, np.shape(a)).astype(np.asarray(a).dtype) if is_float(a) else a for a in args]
    try:
        for whole in (other, args):
            y = subject.value(whole, options)
            for i in range(np.shape(outputs(y)[0])[0]):
                alone = subject.value(entry(whole, i), options)
                if [np.shape(p) for p in outputs(alone)] != [np.shape(p)[1:] for p in outputs(y)]:
                    return False
                if any(is_float(b) and apart(a, b[i]) for a, b in zip(outputs(alone), outputs(y), strict=True)):
                    return False
    except Exception:  # an option may speak of the axes of the batch, and the numbers may lie outside of the domain
        return False
    return True


def _unequal(claims: Sequence[Any], total: Sequence[Any], names: Sequence[str], noise: Callable[[], list[float]]) -> Iterator[Finding]:
    for i, (claim, sums, name) in enumerate(zip(claims, total, names, strict=True)):
        if claim is None or sums is None:
            continue
        off = apart(claim, sums.astype(np.asarray(claim).dtype))
        if off and off > SUMS * noise()[i]:
            one, other = np.ravel(np.asarray(claim, np.float64)), np.ravel(sums)
            at = int(np.argmax(np.nan_to_num(np.abs(one - other))))
            text = f"the gradient of {name} in a batch is not that of its entries alone"
            yield Finding("batch", text, WRONG, None, float(one[at]), float(other[at]))
            return


# A function that its author has for batches: jax.vmap(f), torch.vmap(f), a kernel.


def against_loop(
    subject: Subject, batched: Subject, case_args: Sequence[Any], options: dict[str, Any], names: Sequence[str]
) -> Iterator[Finding]:
    """`batched` on a stack of calls, against `subject` on each: values and gradients."""
    args = [_varied(np.asarray(a), i) for i, a in enumerate(case_args)]
    try:
        alone = [subject.value([a[k] for a in args], options) for k in range(COPIES)]
    except Exception:  # other numbers may lie outside of the domain
        return
    try:
        y = batched.value(args, options)
    except Exception as e:  # whatever a user's function may raise is a finding about it
        yield Finding("batch", f"the batched function raised {type(e).__name__}: {e}")
        return
    for k, one in enumerate(alone):
        for a, b in zip(outputs(one), outputs(y), strict=True):
            if np.shape(b) != (COPIES, *np.shape(a)):
                yield Finding("batch", f"the batched function gives shape {np.shape(b)} for {COPIES} calls that give {np.shape(a)} each")
                return
            off = apart(a, b[k]) if is_float(b) else 0.0
            if off and off > SUMS * trembling(subject, _ones(one), [x[k] for x in args], one, options)[0]:
                yield Finding("batch", f"entry {k} of the batched function is not what the function gives for that entry")
                return
    rng = np.random.default_rng(5)
    gs = tuple(rng.uniform(-1, 1, np.shape(p)).astype(np.asarray(p).dtype) for p in outputs(y))
    nest: Callable[[tuple[Any, ...]], Any] = (lambda parts: parts) if isinstance(y, tuple) else (lambda parts: parts[0])
    try:
        claims = batched.gradients(nest(gs), args, y, options)
        each = [subject.gradients(nest(tuple(p[k] for p in gs)), [a[k] for a in args], one, options) for k, one in enumerate(alone)]
    except ClaimError as e:
        yield Finding("batch", str(e))
        return
    total = [None if c is None else np.stack([np.asarray(e[i], np.float64) for e in each]) for i, c in enumerate(claims)]
    yield from _unequal(claims, total, names, lambda: trembling(batched, nest(gs), args, y, options)[1])


def _ones(y: Any) -> Any:
    return tuple(map(np.ones_like, y)) if isinstance(y, tuple) else np.ones_like(y)


def _varied(x: Any, seed: int) -> Any:
    """The same numbers, and others near them, along a new first axis."""
    if x.dtype.kind != "f":
        return np.stack([x] * COPIES)
    rng = np.random.default_rng(seed)
    others = [x * (1 + 0.25 * rng.uniform(-1, 1, x.shape)) for _ in range(COPIES - 1)]
    return np.stack([x, *(o.astype(x.dtype) for o in others)])


# Second order.


def symmetric(
    subject: Subject, args: Sequence[Any], y: Any, options: dict[str, Any], count: int, rounding: float = 0.0
) -> Iterator[Finding]:
    """The second derivative of <g, f> is symmetric: u' H v = v' H u, where the function is smooth.

    subject   the gradient, a function of (*cotangents, *args) of which `count` are args, with its vjp
    y         the gradients, one for each floating-point argument
    rounding  of the terms that are summed up in an element of the second derivative
    """
    floats = [i for i in floating(args) if i >= len(args) - count]
    parts = outputs(y)
    if subject.vjp is None or len(parts) != len(floats) or not all(np.isfinite(p).all() for p in parts):
        return
    rng = np.random.default_rng(4)
    u, v = (tuple(rng.uniform(-1, 1, np.shape(p)).astype(np.asarray(p).dtype) for p in parts) for _ in range(2))
    nest: Callable[[tuple[Any, ...]], Any] = (lambda w: w) if isinstance(y, tuple) else (lambda w: w[0])
    try:
        hu, hv = (subject.gradients(nest(w), args, y, options) for w in (u, v))
    except ClaimError:  # said elsewhere
        return
    with np.errstate(all="ignore"):
        one, size = _product([hu[i] for i in floats], v)
        other, more = _product([hv[i] for i in floats], u)
    eps = max((unit(np.asarray(args[i]).dtype) for i in floats), default=2.0**-52)
    bound = SUMS * eps * (size + more) + 16 * rounding * sum(float(np.abs(w).sum()) for w in (*u, *v))
    if not math.isfinite(bound) or abs(one - other) <= bound:
        return
    noise = sum(sum(trembling(subject, nest(w), args, y, options)[1][i] * np.abs(z).sum() for i, z in zip(floats, x, strict=True))
                for w, x in ((u, v), (v, u)))  # fmt: skip
    if abs(one - other) > SUMS * noise:
        yield Finding("symmetry", "the second derivative is not symmetric: u' H v is not v' H u", WRONG, None, one, other, bound)


def _product(h: Sequence[Any], w: Sequence[Any]) -> tuple[float, float]:
    """The inner product, and the size of its terms."""
    found = [np.asarray(a, np.float64) * np.asarray(b, np.float64) for a, b in zip(h, w, strict=True) if a is not None]
    return sum(float(p.sum()) for p in found), sum(float(np.abs(p).sum()) for p in found)
