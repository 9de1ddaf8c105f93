"""Are the right rules right and the wrong ones wrong? Found without the tester that they are to judge.

smooth points     <g, J dx> by differences in extended precision against <J' g, dx>
the trigger       one-sided slopes: equal, then the rule must give them; unequal, then lie between them; or a formula in mpmath
the fault         what the two rules do at the trigger is compared: raises, shape, dtype, writes, shares, unsteady, finite, value
"""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import mpmath as mp
import numpy as np

from engine import jvp, vjp
from mutants.record import Call, Mutant, Right

mp.mp.dps = 40
LONG = np.longdouble


def parts(y: Any) -> tuple[Any, ...]:
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def movable(args: Any) -> list[int]:
    return [i for i, a in enumerate(args) if np.asarray(a).dtype.kind == "f"]


def cotangent(y: Any, seed: int = 0) -> Any:
    """Random and of both signs, in the nesting of y."""
    rng = np.random.default_rng(seed)
    made = [np.asarray(rng.uniform(0.5, 2.0, np.shape(p)) * rng.choice([-1.0, 1.0], np.shape(p)), np.asarray(p).dtype) for p in parts(y)]
    return tuple(made) if isinstance(y, tuple) else made[0]


def pull(record: Right, args: Any, kwargs: Any, g: Any, rule: Any = None, f: Any = None) -> tuple[Any, ...]:
    """The gradients of the floating-point arguments."""
    f, rule = f or record.f, rule or record.back
    if rule is not None:
        return tuple(rule(g, tuple(args), f(*args, **kwargs), **kwargs))
    return tuple(vjp(lambda *xs: f(*xs, **kwargs), *args)[1](g))


def moved(record: Right, args: Any, kwargs: Any, ds: Any, t: Any, wide: bool) -> list[Any]:
    full = list(args)
    for i, d in zip(movable(args), ds, strict=True):
        full[i] = full[i].astype(LONG) + LONG(t) * d if wide else full[i] + t * d
    return [np.asarray(p, LONG if wide else np.float64) for p in parts(record.f(*full, **kwargs))]


def takes_wide(record: Right, args: Any, kwargs: Any) -> bool:
    """Does the function keep extended precision?"""
    if record.told.get("framework") or np.finfo(LONG).eps == np.finfo(np.float64).eps:
        return False
    wide = [a.astype(LONG) if np.asarray(a).dtype.kind == "f" else a for a in args]
    try:
        return all(np.asarray(p).dtype == LONG for p in parts(record.f(*wide, **kwargs)))
    except (TypeError, ValueError):
        return False


def difference(record: Right, args: Any, kwargs: Any, ds: Any, h: float = 1e-3) -> list[Any]:
    """J dx by central differences, extrapolated twice."""
    wide = takes_wide(record, args, kwargs)

    def central(step: float) -> list[Any]:
        up, down = (moved(record, args, kwargs, ds, s * step, wide) for s in (1, -1))
        return [(a - b) / (2 * LONG(step)) for a, b in zip(up, down, strict=True)]

    rows = [central(h / 2**k) for k in range(3)]
    once = [[(4 * b - a) / 3 for a, b in zip(p, q, strict=True)] for p, q in pairwise(rows)]
    return [(16 * b - a) / 15 for a, b in zip(*once, strict=True)]


def at_smooth_points(record: Right, args: Any, kwargs: Any, rtol: float = 1e-7) -> None:
    """<g, J dx> = <J' g, dx> along a random direction, and for the push too if there is one."""
    args = [np.asarray(a) for a in args]
    y = record.f(*args, **kwargs)
    if not all(np.all(np.isfinite(p)) for p in parts(y)):
        return
    g = cotangent(y)
    back = pull(record, args, kwargs, g)
    floats = [args[i] for i in movable(args)]
    assert len(back) == len(floats), f"{record.name}: {len(back)} gradients for {len(floats)} floating-point arguments"
    for gx, x in zip(back, floats, strict=True):
        assert np.shape(gx) == x.shape and np.asarray(gx).dtype == x.dtype, f"{record.name}: {np.shape(gx)} for {x.shape}"
    rng = np.random.default_rng(1)
    ds = [rng.uniform(-1, 1, x.shape) for x in floats]
    slope = difference(record, args, kwargs, ds)
    ours, theirs = _inner(back, ds), _inner(parts(g), slope)
    size = _inner([np.abs(b) for b in back], [np.abs(d) for d in ds]) + _inner([np.abs(p) for p in parts(g)], [np.abs(s) for s in slope])
    assert abs(ours - theirs) <= rtol * (size + 1e-3), f"{record.name}: {ours} against {theirs} at {args} {kwargs}"
    if record.push:
        pushed = parts(record.push(tuple(ds), tuple(args), y, **kwargs))
        assert abs(_inner(parts(g), pushed) - ours) <= 1e-10 * (size + 1e-3), f"{record.name}: the push is not the pull's transpose"


def _inner(a: Any, b: Any) -> float:
    return float(sum(np.sum(np.asarray(x, LONG) * np.asarray(y, LONG)) for x, y in zip(a, b, strict=True)))


def at_the_trigger(mutant: Mutant) -> str:
    """The right rule at the call where the wrong one fails. Returns by what it was judged; raises AssertionError."""
    record, (args, kwargs) = mutant.right, (mutant.at.args, mutant.at.kwargs)
    g = mutant.at.g if mutant.at.g is not None else cotangent(record.f(*args, **kwargs))
    with np.errstate(all="ignore"):
        back = pull(record, args, kwargs, g)
        if mutant.truth:
            _matches_the_formula(mutant, back, g)
            return "a formula"
        if not movable(args) or any(np.asarray(a).dtype == np.float16 for a in args):
            return "nothing: half precision cannot be differenced"
        return _between_the_slopes(record, args, kwargs, g, back)


def _matches_the_formula(mutant: Mutant, back: Any, g: Any) -> None:
    """`truth` gives the gradient, or for elementwise functions the slope, of each argument; None where it is not judged."""
    want = mutant.truth(*mutant.at.args)
    for gx, w in zip(back, want, strict=True):
        if w is None:
            continue
        factor = 1.0 if isinstance(w, list) else float(np.ravel(g)[0])
        for ours, exact in zip(np.ravel(gx), w if isinstance(w, list) else [w], strict=True):
            target = float(mp.mpf(exact) * factor)
            assert abs(ours - target) <= 1e-12 * abs(target), f"{mutant.name}: right rule gives {ours}, the formula {target}"


def _between_the_slopes(record: Right, args: Any, kwargs: Any, g: Any, back: Any, h: float = 1e-5) -> str:
    """Element by element: the one-sided slopes of <g, f>."""
    wide = takes_wide(record, args, kwargs)
    floats, judged = movable(args), "the slope"

    def along(ds: Any, t: float) -> Any:
        return _wide_inner(parts(g), moved(record, args, kwargs, ds, t, wide))

    for place, i in enumerate(floats):
        for j in range(args[i].size):
            ds = [np.zeros(args[k].shape) for k in floats]
            if not np.isfinite(args[i].flat[j]):
                continue
            ds[place].flat[j] = 1.0
            zero, (right, right2), (left, left2) = along(ds, 0), [along(ds, k * h) for k in (1, 2)], [along(ds, -k * h) for k in (1, 2)]
            above, below = float((4 * right - right2 - 3 * zero) / (2 * h)), float((3 * zero - 4 * left + left2) / (2 * h))
            ours = float(np.asarray(back[place]).flat[j])
            slack = 1e-6 * (1 + abs(above) + abs(below))
            assert min(above, below) - slack <= ours <= max(above, below) + slack, f"{record.name}: {ours}, slopes {below} and {above}"
            if abs(above - below) > slack:
                judged = "the slopes to either side"
    return judged


def _wide_inner(a: Any, b: Any) -> Any:
    return sum(np.sum(np.asarray(x, LONG) * np.asarray(y, LONG)) for x, y in zip(a, b, strict=True))


def shows(mutant: Mutant) -> str:
    """In what the wrong rule differs from the right one at the trigger; "" if in nothing."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if mutant.order == 2:
            return _second_order(mutant)
        if mutant.part == "jvp" or mutant.part == "f":
            return _push_differs(mutant)
        return _pull_differs(mutant)


def _fresh(at: Call) -> tuple[Any, ...]:
    """The same arguments in memory of their own, laid out alike."""
    return tuple(np.copy(a, order="K") if isinstance(a, np.ndarray) and a.base is None else a for a in at.args)


def _in_own_memory(g: Any) -> Any:
    """A copy laid out alike; what cannot be written into is taken as it is."""
    made = tuple(np.copy(p, order="K") if np.asarray(p).flags.writeable else p for p in parts(g))
    return made if isinstance(g, tuple) else made[0]


def _pull_differs(mutant: Mutant) -> str:
    record, at = mutant.right, mutant.at
    g = at.g if at.g is not None else cotangent(record.f(*at.args, **at.kwargs))
    want = [np.asarray(p) for p in pull(record, _fresh(at), at.kwargs, g)]
    args = _fresh(at)
    kept, kept_g = [np.array(a) for a in args], [np.array(p) for p in parts(g)]
    given = _in_own_memory(g)
    try:
        got = pull(record, args, at.kwargs, given, mutant.wrong)
    except Exception as e:  # whatever the wrong rule raises is its fault
        return f"raises {type(e).__name__}"
    if any(not np.array_equal(a, b, equal_nan=np.asarray(a).dtype.kind == "f") for a, b in zip(args, kept, strict=True)):
        return "writes into an argument"
    if any(not np.array_equal(a, b) for a, b in zip(parts(given), kept_g, strict=True)):
        return "writes into the cotangent"
    if any(np.shares_memory(a, b) for i, a in enumerate(got) for b in got[:i]):
        return "shares a buffer"
    different = compare(got, want)
    return different or _unsteady(mutant, g, got) or _not_linear(mutant, g)


def compare(got: Any, want: Any, rtol: float = 1e-9) -> str:
    """Count, shape, dtype, finiteness, values."""
    if len(got) != len(want):
        return "count"
    for a, b in zip(map(np.asarray, got), map(np.asarray, want), strict=True):
        if a.shape != b.shape:
            return "shape"
        if a.dtype != b.dtype:
            return "dtype"
        if np.any(~np.isfinite(a) & np.isfinite(b)):
            return "finite"
        close = rtol if a.dtype == np.float64 else 1e-2
        if np.any(np.isfinite(b) & (np.abs(a - b) > close * np.abs(b))):
            return "value"
    return ""


def _unsteady(mutant: Mutant, g: Any, first: Any) -> str:
    """Repeated, with other calls in between: forwards of other values, pulls of other values."""
    record, at = mutant.right, mutant.at
    kept = [np.array(p) for p in first]
    other = tuple(a + 1.0 if np.asarray(a).dtype.kind == "f" else a for a in at.args)
    for _ in range(6):
        y = record.f(*at.args, **at.kwargs)
        pull(record, other, at.kwargs, g, mutant.wrong)
        if compare(first, kept):
            return "shares a buffer with another call"
        if compare(mutant.wrong(g, at.args, y, **at.kwargs), kept):
            return "unsteady"
        if compare(pull(record, other, at.kwargs, g, mutant.wrong), pull(record, other, at.kwargs, g)):
            return "unsteady"
    return ""


def _not_linear(mutant: Mutant, g: Any) -> str:
    twice = tuple(2 * p for p in g) if isinstance(g, tuple) else 2 * np.asarray(g)
    got = pull(mutant.right, mutant.at.args, mutant.at.kwargs, twice, mutant.wrong)
    return compare(got, pull(mutant.right, mutant.at.args, mutant.at.kwargs, twice))


def _push_differs(mutant: Mutant) -> str:
    record, at = mutant.right, mutant.at
    rng = np.random.default_rng(3)
    ds = tuple(rng.uniform(0.5, 2.0, at.args[i].shape) for i in movable(at.args))
    if mutant.part == "f":
        return compare(parts(jvp(mutant.wrong, at.args, ds)[1]), parts(jvp(record.f, at.args, ds)[1]))
    y = record.f(*at.args, **at.kwargs)
    got, want = (parts(rule(ds, at.args, y, **at.kwargs)) for rule in (mutant.wrong, record.push))
    return compare(got, want)


def _second_order(mutant: Mutant) -> str:
    """Hessian products, forward over reverse and reverse over reverse; the first derivatives must agree."""
    record, at = mutant.right, mutant.at
    g = cotangent(record.f(*at.args))
    ds = tuple(np.full(a.shape, 0.7) for a in at.args)

    def gradient(f: Any) -> Any:
        return lambda *xs: tuple(vjp(f, *xs)[1](g))

    assert not compare(gradient(mutant.wrong)(*at.args), gradient(record.f)(*at.args)), f"{mutant.name}: the first derivative is wrong"
    forward = compare(jvp(gradient(mutant.wrong), at.args, ds)[1], jvp(gradient(record.f), at.args, ds)[1])
    return forward or compare(*(vjp(gradient(f), *at.args)[1](ds) for f in (mutant.wrong, record.f)))
