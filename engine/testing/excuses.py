"""Why an error may be a loss of accuracy, and not a wrong rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from engine.testing.around import near_exactly
from engine.testing.claims import Claims
from engine.testing.oracles import Place, Unavailable, as_float
from engine.testing.precise import precision
from engine.testing.subject import Array

EXCUSES = {
    "sensitive": "the gradient changes as much in the last digit of the arguments",
    "forward": "the function itself has lost these digits",
    "rounding": "it is the rounding of a sum",
    "range": "a power of what is met here leaves the range of the dtype",
    "last digits": "the last digits are lost",
}


CANCELLED = 2.0**12  # roundings of the cotangent: what a rule may make of a 0 in which large terms cancel


def cheap_excuse(c: Claims, i: int, claim: float, reference: float) -> str:
    error = abs(claim - reference)
    cancels = c.coupled and abs(reference) <= c.floor and error <= CANCELLED * c.eps * float(np.max(np.abs(c.g), initial=0.0))
    if not c.strict and (error <= c.rounding(i) or cancels):
        return "rounding"
    return "range" if out_of_range(c, reference) and not inevitable(c, i, claim) else ""


def excuse_of(c: Claims, i: int, claim: float, reference: float, size: float) -> str:
    """Why an error is a loss of accuracy and not a wrong rule; empty if there is no excuse."""
    error = abs(claim - reference)
    if math.isfinite(error):
        if error <= spread(c, i, reference, error):
            return "sensitive"
        if error <= lost_by_forward(c, i, size):
            return "forward"
    return cheap_excuse(c, i, claim, reference) or ("last digits" if error <= c.rtol * size else "")


def spread(c: Claims, i: int, reference: float, enough: float) -> float:
    """A few times how much the gradient changes when the arguments change in their last digit, or `enough`."""
    worst, times = 0.0, 64 if c.coupled else 4  # what a rule that sums over elements may make of it
    stepped = c.stepped and abs(c.reference[i] - reference) <= 1e-3 * abs(reference)
    for shift in last_digits(c, i):
        v = _by_complex_step_near(c, i, shift) if stepped else _near_if_possible(c, i, shift)
        worst = max(worst, times * abs(v - reference)) if math.isfinite(v) else worst
        if worst >= enough:
            break
    return worst


def last_digits(c: Claims, i: int) -> Iterator[Array]:
    """Changes of the arguments by two units in the last place: together, one alone, and by parts of it, which a wave cannot hide."""
    n, rng = c.place.x.size, np.random.default_rng(i)
    unit = 2 * c.eps * np.abs(c.place.x)
    if n <= 3:
        yield from (np.array(s) * unit for s in itertools.product((-1.0, 0.0, 1.0), repeat=n) if any(s))
    else:
        yield from rng.choice([-1.0, 1.0], (8, n)) * unit
        yield from (sign * c.unit(k) * unit for k in {i, 0, n - 1} for sign in (-1, 1))
    yield from rng.uniform(-1, 1, (8, n)) * unit


def _near_if_possible(c: Claims, i: int, shift: Array) -> float:
    try:
        return near_exactly(c, c.unit(i), shift, 1.0)
    except Unavailable:
        return math.nan


def _by_complex_step_near(c: Claims, i: int, shift: Array) -> float:
    try:
        place = Place(c.place.f, c.place.filled(c.place.x + shift), c.place.options)
    except Exception:  # outside of the domain
        return math.nan
    jacobian = place.by_complex_step([i])
    return math.nan if jacobian is None else float(c.weighted(jacobian)[0])


def lost_by_forward(c: Claims, i: int, size: float) -> float:
    """The error that f itself makes beyond its condition: as a share of the gradient, and over the size of the element."""
    kept = np.flatnonzero(c.place.finite & (c.g != 0))
    try:
        with precision(400):
            true = np.array([as_float(v) for v in c.precise.at_zero(400)])
    except Unavailable:
        true = c.place.y0[kept]  # in float64: it tells where f was computed in a lower precision
    given = c.values[kept].astype(np.float64)
    if np.any(np.abs(given - true) > 0.5 * np.maximum(np.abs(given), np.abs(true))):
        return math.inf  # no digit of f is right
    with np.errstate(all="ignore"):
        jacobian = np.nan_to_num(np.abs(c.jacobian[kept]), posinf=0.0)
        allowed = 8 * c.eps * (jacobian @ np.abs(c.place.x) + np.abs(true)) + c.floor
        off = np.where(np.abs(given - true) > allowed, np.abs(given - true), 0.0)
        share = np.where((np.abs(true) < c.tiny) & (true != 0), 1.0, off / np.abs(true))
        spread_out = float(np.abs(c.g[kept]) @ off) / abs(c.place.x[i]) if c.coupled else 0.0
    worst = float(np.max(np.minimum(np.nan_to_num(share), 1.0), initial=0.0))
    return 4 * max(size * worst, spread_out if math.isfinite(spread_out) else 0.0)


def inevitable(c: Claims, i: int, claim: float) -> bool:
    """A function of one number, which is small, or moderate while the claim is not finite: nothing has to leave the range."""
    x = abs(c.place.x[i])
    alone = not c.coupled and len(c.place.places) == 1
    return bool(alone and (x <= 1 or (not math.isfinite(claim) and x < math.sqrt(c.most))))


def out_of_range(c: Claims, reference: float) -> bool:
    return c.far_out or c.far(np.array([reference]))
