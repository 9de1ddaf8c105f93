"""The gradient at points nearby: where it is another one however near they are, there is a kink."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from engine.testing.claims import Claims
from engine.testing.oracles import Unavailable
from engine.testing.precise import exactly, precision
from engine.testing.subject import Array

NEIGHBOURS = 12
DISTANCE = 2.0**-60  # of a point nearby, on the scale of the elements


def jump(c: Claims, i: int, claim: float, reference: float) -> list[float]:
    """The gradient at points nearby, if it is another one however near they are; else nothing."""
    if c.place.x.size == 1 or not math.isfinite(claim):  # one number has no neighbours but those on the slopes
        return []
    for count in (NEIGHBOURS // 2, 2 * NEIGHBOURS):
        near = nearby(c, i, count)
        apart = max(near, default=0.0) - min(near, default=0.0)
        if apart > 1e-6 * (abs(reference) + max(map(abs, near), default=0.0)):
            nearer = nearby(c, i, min(count, NEIGHBOURS), 2.0**-85, again=True)
            if not nearer or max(nearer) - min(nearer) > 0.1 * apart:
                return near
    if np.count_nonzero(c.place.x == c.place.x[i]) == 1:
        return []
    placed, nearer = in_order(c, i), in_order(c, i, 2.0**-85)
    if not placed or not nearer or max(placed) - min(placed) <= 1e-6 * (abs(reference) + max(map(abs, placed))):
        return []
    return placed if max(nearer) - min(nearer) > 0.1 * (max(placed) - min(placed)) else []


def nearby(c: Claims, i: int, count: int, distance: float = DISTANCE, along: Array | None = None, *, again: bool = False) -> list[float]:
    """The derivative in element i, or along a direction, at points around this one.

    i lies anywhere among the others there, and their distances are alike or of very different sizes. `again`: by shorter steps.
    """
    direction = c.unit(i) if along is None else along
    rng = np.random.default_rng([i, count])
    found = []
    for k in range(count):
        shift = rng.standard_normal(c.place.x.size)
        if k % 2:
            shift *= 2.0 ** -rng.integers(0, 16, shift.size)
        shift[i] = statistics.NormalDist().inv_cdf((k + 0.5) / count) if k % 4 < 2 else (8.0 if k % 4 == 2 else -8.0)
        found.append(near(c, direction, shift, distance, again))
    return [v for v in found if math.isfinite(v)]


def in_order(c: Claims, i: int, distance: float = DISTANCE) -> list[float]:
    """The derivative in element i where equal elements are told apart by their places: rules take the first of them, or the last.

    With one other of them above or below all: it wins some of the windows that both lie in.
    """
    found = [near(c, c.unit(i), shift, distance) for shift in orders(c.place.shapes)]
    others = np.flatnonzero((c.place.x == c.place.x[i]) & (np.arange(c.place.x.size) != i))[:NEIGHBOURS]
    for j, (first, second) in itertools.product(others, ((8.0, 4.0), (-8.0, -4.0))):
        shift = np.random.default_rng(int(j)).uniform(-1, 1, c.place.x.size)
        shift[j], shift[i] = first, second
        found.append(near(c, c.unit(i), shift, distance))
    return [v for v in found if math.isfinite(v)]


def orders(shapes: Sequence[tuple[int, ...]]) -> Iterator[Array]:
    """Numbers from -1 to 1 for all elements, no two alike, that rise or fall along each axis, by rows or by columns.

    The arguments lie one above the other in this order, and, with rising numbers, in any other order of up to four.
    """
    seen = set()
    patterns = itertools.product("CF", itertools.product((1, -1), repeat=4))
    stacked = itertools.permutations(range(len(shapes))) if len(shapes) < 5 else ()
    for by, signs, above in [*((by, signs, None) for by, signs in patterns), *(("C", (1,) * 4, above) for above in stacked)]:
        shift = _ranked(shapes, by, signs, above or range(len(shapes)))
        if shift.tobytes() not in seen:
            seen.add(shift.tobytes())
            yield shift


def _ranked(shapes: Sequence[tuple[int, ...]], by: str, signs: Sequence[int], above: Sequence[int]) -> Array:
    """One number for each element. `above`: the arguments from the lowest to the highest."""
    parts: dict[int, Array] = {}
    start, total = 0, sum(map(math.prod, shapes))
    for k in above:
        ranks = np.arange(start, start + math.prod(shapes[k])).reshape(shapes[k], order=by)  # type: ignore[call-overload]
        parts[k] = ranks[tuple(slice(None, None, s) for s in signs[: len(shapes[k])][::-1])].ravel()
        start += ranks.size
    return np.asarray((2.0 * np.concatenate([parts[k] for k in range(len(shapes))]) - total + 1) / max(total, 1))


def near(c: Claims, direction: Array, shift: Array, distance: float, again: bool = False) -> float:
    """The derivative along a direction at one point nearby; nan where it has none."""
    try:
        return near_exactly(c, direction, shift * np.minimum(c.place.scale, c.precise.finest), distance, again)
    except Unavailable:
        return near_in_floats(c, direction, shift * c.place.scale, distance**0.2)


def near_exactly(c: Claims, direction: Array, shift: Array, by: float, again: bool = False) -> float:
    precise = c.precise
    with precision(400):
        around = exactly(c.place.x) + exactly(shift) * by
    exact = precise.slopes(direction, around, again=again)
    return exact.value if exact.smooth else math.nan


def near_in_floats(c: Claims, direction: Array, shift: Array, by: float) -> float:
    """By differences; nan where two steps do not agree, for rounding or for a kink between them."""
    place = c.place
    x = place.x + by * shift
    found = []
    for h in 2.0**-28 * float(np.min(place.scale[direction != 0])) * np.array([1.0, 4.0]):
        change = (place.nearby(x + h * direction) - place.nearby(x - h * direction)) / (2 * h)
        found.append(float(c.g @ np.where(place.finite, change, 0.0)))
    fine, coarse = found
    return fine if abs(fine - coarse) <= 0.01 * (abs(fine) + abs(coarse)) else math.nan
