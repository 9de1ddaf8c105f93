"""The gradient at points nearby: where it is another one however near they are, there is a kink."""

from __future__ import annotations

import math
import statistics

import numpy as np

from engine.testing.claims import Claims
from engine.testing.oracles import Unavailable
from engine.testing.precise import exactly, precision
from engine.testing.subject import Array

NEIGHBOURS = 12
MANY_NEIGHBOURS = 200  # of several equal elements each may be the one that counts nearby, and only now and then


def jump(c: Claims, i: int, claim: float, reference: float) -> list[float]:
    """The gradient at points nearby, if it is another one however near they are; else nothing."""
    if c.place.x.size == 1 or not math.isfinite(claim):  # one number has no neighbours but those on the slopes
        return []
    near = nearby(c, i, NEIGHBOURS // 2)
    apart = max(near, default=0.0) - min(near, default=0.0)
    if apart > 1e-6 * (abs(reference) + max(map(abs, near), default=0.0)):
        nearer = nearby(c, i, NEIGHBOURS // 2, 2.0**-85)
        return near if not nearer or max(nearer) - min(nearer) > 0.1 * apart else []
    near = sampled(c, i, 2.0**-12)
    apart = max(near, default=0.0) - min(near, default=0.0)
    if apart > 1e-3 * (abs(reference) + max(map(abs, near), default=0.0)):
        nearer = sampled(c, i, 2.0**-17)
        return near if not nearer or max(nearer) - min(nearer) > 0.1 * apart else []
    return []


def sampled(c: Claims, i: int, distance: float) -> list[float]:
    """The derivative in element i by differences, at many points around this one."""
    rng = np.random.default_rng(i)
    shifts = rng.standard_normal((MANY_NEIGHBOURS, c.place.x.size)) * c.place.scale
    return [v for v in (near_in_floats(c, c.unit(i), shift, distance) for shift in shifts) if math.isfinite(v)]


def nearby(c: Claims, i: int, count: int, distance: float = 2.0**-60, along: Array | None = None) -> list[float]:
    """The derivative in element i, or along a direction, at points around this one.

    i lies anywhere among the others there, and their distances are alike or of very different sizes.
    """
    direction = c.unit(i) if along is None else along
    rng = np.random.default_rng([i, count])
    found = []
    for k in range(count):
        shift = rng.standard_normal(c.place.x.size)
        if k % 2:
            shift *= 2.0 ** -rng.integers(0, 16, shift.size)
        shift[i] = statistics.NormalDist().inv_cdf((k + 0.5) / count) if k % 4 < 2 else (8.0 if k % 4 == 2 else -8.0)
        try:
            found.append(near_exactly(c, direction, shift * np.minimum(c.place.scale, c.precise.finest), distance))
        except Unavailable:
            found.append(near_in_floats(c, direction, shift * c.place.scale, distance**0.2))
    return [v for v in found if math.isfinite(v)]


def near_exactly(c: Claims, direction: Array, shift: Array, by: float) -> float:
    precise = c.precise
    with precision(400):
        around = exactly(c.place.x) + exactly(shift) * by
    exact = precise.slopes(direction, around)
    return exact.value if exact.smooth else math.nan


def near_in_floats(c: Claims, direction: Array, shift: Array, by: float) -> float:
    place = c.place
    x = place.x + by * shift
    h = 2.0**-28 * float(np.min(place.scale[direction != 0]))
    up, down = x + h * direction, x - h * direction
    return float(c.g @ np.where(place.finite, (place.nearby(up) - place.nearby(down)) / (2 * h), 0.0))
