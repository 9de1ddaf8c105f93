"""Shapes that fit a function, from what it says about shapes that do not: `size 5 is different from 3` makes two axes equal.

Each axis of each argument first gets a size of its own. What the function then complains about makes two axes equal, or gives
one axis a fixed size; where a complaint says nothing, a few likely changes are tried. What fits is tried once more with other sizes.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from engine.shapes import Notation

if TYPE_CHECKING:
    from engine.testing.trying import Probe

Shape = tuple[int, ...]
Token = int | str  # an axis: the number of its size, or the size itself as text
Guess = tuple[tuple[Token, ...], ...]

CALLS = 3000  # of the function, for all ranks together
EACH = 100  # of them for each way to give ranks
SILENT = 3  # changes that no complaint asked for
HIGHEST = {1: 4, 2: 4, 3: 3, 4: 2, 5: 2, 6: 2}  # rank of an argument, by how many there are
MATRICES = 5  # arguments and more: matrices first, since there will be no time for all
MANY = 7  # arguments and more: they are tried with equal ranks only
LETTERS = "nmklobch"
FIXED = ("3", "2", "4", "6", "8", "1")  # sizes that an axis is tried with where the function says nothing
SIZES = {
    (1, 1): ((19,), (22,)),  # large enough for a window or an index that somebody took for granted
    (4, 2): ((13, 11, 9, 7), (16, 12, 10, 8)),
    (6, 2): ((13, 11, 9, 8, 7, 5), (16, 12, 10, 9, 6, 4)),
    (4, 4): ((7, 6, 5, 4), (9, 7, 4, 3)),
    (8, 4): ((9, 8, 7, 6, 5, 4, 3, 2), (8, 9, 6, 7, 4, 5, 2, 3)),
    (99, 4): ((13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2), (14, 11, 12, 9, 10, 7, 8, 5, 6, 3, 4, 2)),
}
"""Two sets of sizes, by how many of them and how many axes of one array there are at most.

Small numbers are avoided where it can be: they are the sizes of a function's own arrays. So are large arrays: the function may
multiply all their elements with one another.
"""


def fitting(probe: Probe, count: int) -> Iterator[Guess]:
    """Axes of `count` arguments that the function takes, at most once for each way to give them ranks, the lowest ranks first."""
    left = CALLS
    for ranks in _ranks(count):
        found, used = _fit(probe, _apart(ranks), min(EACH, left))
        left -= used
        if found is not None:
            yield found
        if left <= 0:
            return


def fitted(probe: Probe, ranks: Sequence[int]) -> Guess | None:
    """Axes that the function takes, for arguments of these ranks."""
    return _fit(probe, _apart(ranks), EACH)[0]


def _ranks(count: int) -> list[tuple[int, ...]]:
    if count >= MANY:
        return [(r,) * count for r in range(4)]
    some = itertools.product(range(HIGHEST[count] + 1), repeat=count)
    if count >= MATRICES:
        return sorted(some, key=lambda ranks: (-sum(ranks), ranks))
    return sorted(some, key=lambda ranks: (max(ranks), sum(ranks), ranks))


def _apart(ranks: Sequence[int]) -> Guess:
    """Every axis with a size of its own."""
    number = itertools.count()
    return tuple(tuple(next(number) for _ in range(rank)) for rank in ranks)


def _fit(probe: Probe, start: Guess, most: int) -> tuple[Guess | None, int]:
    """The first guess that the function takes in two sets of sizes, beginning with `start`; and how many calls it took to find it.

    If the function did not say what it wants, one that its gradient takes, too, is better than the first.
    """
    waiting, seen, calls = [(0, 0, start)], {start}, 0
    first = None
    while waiting and calls < most:
        silent, _, guess = heapq.heappop(waiting)
        says, row = None, 0
        for row in (0, 1):
            calls += 1
            says = probe.complaint(shapes_of(guess, row))
            if says is not None:
                break
        if says is None:
            if not silent or probe.pulls(shapes_of(guess, 0)):
                return guess, calls
            first, says = first or guess, ""
        if re.search(RANK, says):
            break
        asked = _asked_for(guess, says, row)
        changed = [asked] if asked is not None else list(_likely(guess)) if silent < SILENT else []
        for other in changed:
            if other not in seen:
                heapq.heappush(waiting, (silent + (asked is None), len(seen), other))
                seen.add(other)
    return first, calls


def shapes_of(guess: Guess, row: int) -> list[Shape]:
    """The shapes that a guess stands for, by one of the sets of sizes."""
    sizes = _sizes(guess, row)
    return [tuple(int(t) if isinstance(t, str) else sizes[t] for t in side) for side in guess]


def _sizes(guess: Guess, row: int) -> dict[int, int]:
    """A size for each axis, falling from the first argument to the last: windows are smaller than what they slide over."""
    used = sorted({t for side in guess for t in side if isinstance(t, int)})
    rank = max(map(len, guess))
    rows = next(rows for (most, highest), rows in SIZES.items() if len(used) <= most and rank <= highest)
    return dict(zip(used, rows[row][-len(used) :], strict=False))


# What a complaint asks for.

RANK = r"values to unpack|out of range|out of bounds|too many|not enough|dimensional|subscripts|does not have enough dimensions|at least"
"""What is said about another number of axes."""

PAIRS = (
    r"(\d+) \(dim \d+\) != (\d+)",  # np.dot
    r"size (\d+) is different from (\d+)",  # gufuncs
    r"has size (\d+).*has size (\d+)",  # np.concatenate
    r"size of axis is (\d+) but size of corresponding boolean axis is (\d+)",
)


def _asked_for(guess: Guess, says: str, row: int) -> Guess | None:
    """The guess with the two axes made equal whose sizes the function finds different; None if it does not say."""
    sizes = _sizes(guess, row)
    by_size = {n: t for t, n in sizes.items()}
    for a, b in _pairs(says):
        one, other = by_size.get(a), by_size.get(b)
        if one is not None and other is not None:
            return _with(guess, max(one, other), min(one, other))
        if one is not None or other is not None:
            known, size = (one, b) if one is not None else (other, a)
            assert known is not None
            return _with(guess, known, str(size))
    return None


def _pairs(says: str) -> Iterator[tuple[int, int]]:
    """Sizes that differ and should not, as far as an error message names them."""
    for pattern in PAIRS:
        yield from ((int(a), int(b)) for a, b in re.findall(pattern, says, re.DOTALL) if a != b)
    told = [t.replace("newaxis", "1") for t in re.findall(r"\(((?:\d+|newaxis)?(?:,(?:\d+|newaxis))*,?)\)", says.replace(", ", ","))]
    shapes = [[int(n) for n in t.split(",") if n] for t in told]
    if "->" in says:  # np.einsum tells each shape twice; the second time with the axes where they stand
        shapes = shapes[1::2]
    for one, other in itertools.combinations(shapes, 2):
        yield from ((a, b) for a, b in zip(reversed(one), reversed(other), strict=False) if a != b and 1 not in (a, b))


def _with(guess: Guess, axis: int, other: Token) -> Guess:
    return tuple(tuple(other if t == axis else t for t in side) for side in guess)


def _likely(guess: Guess) -> Iterator[Guess]:
    """What functions want and do not say: square matrices, equal shapes, certain sizes."""
    for side in guess:
        if len(side) > 1 and side[-1] != side[-2] and isinstance(side[-1], int):
            yield _with(guess, side[-1], side[-2])
    for one, other in itertools.combinations(guess, 2):
        if len(one) == len(other) and one != other:
            changed = guess
            for a, b in zip(one, other, strict=True):
                changed = _with(changed, b, a) if isinstance(b, int) else changed
            yield changed
    if len(guess) <= 2:
        axes = sorted({t for side in guess for t in side if isinstance(t, int)})
        yield from (_with(guess, axis, size) for size in FIXED for axis in reversed(axes))


# As notation.


def written(guess: Guess, letters: Sequence[str] = LETTERS) -> Notation:
    """The guess as a notation, its axes named in the order in which they come."""
    names: dict[int, str] = {}

    def token(t: Token) -> str:
        return t if isinstance(t, str) else names.setdefault(t, letters[len(names)] if len(names) < len(letters) else f"n{len(names)}")

    text = ", ".join(" ".join(token(t) for t in side) for side in guess)
    found = Notation(f"{text} -> ...")
    found.inputs = found.inputs or [[]]
    return found
