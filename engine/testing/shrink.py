"""Makes a call that fails smaller, by its arrays: Hypothesis shrinks the choices that a call was made from, and knows no rows and columns.

In order: fewer rows, columns, axes; simpler numbers; plain layouts; a one-hot cotangent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from engine.testing.case import Case, Cotangent
from engine.testing.contract import Contract
from engine.testing.layouts import Array, laid_out
from engine.testing.values import SIMPLE, Alphabet

TOGETHER = 4  # places of one size, of which all subsets are tried
ONE_HOT = 8  # elements of the output in which a cotangent of a single 1 is tried

Place = tuple[int, int]  # an argument and one of its axes
Fails = Callable[[Case], bool]


def shrunk(case: Case, fails: Fails, *, contract: Contract | None = None, tries: int = 300) -> Case:
    """The smallest call found that still fails.

    fails      of a call: does it fail in the same way? False for a call that the function does not take
    contract   keeps the numbers in their domains, and the shapes those that its user speaks of
    tries      calls of `fails`, at most
    """
    left = [tries]

    def still(candidate: Case) -> bool:
        left[0] -= 1
        return allowed(candidate, contract) and fails(candidate)

    before = None
    while before is not case and left[0] > 0:
        before = case
        for moves in (_shorter, _without_an_axis, lambda c: _simpler(c, contract), _integers, _plainer):
            case = _followed(case, moves, still, left)
    return case


def allowed(case: Case, contract: Contract | None) -> bool:
    """Does the contract speak of such shapes? Cotangents may stand before the arguments."""
    return contract is None or contract.takes(case.args[len(case.args) - len(contract.arguments) :], case.kwargs)


def _followed(case: Case, moves: Callable[[Case], Iterator[Case]], still: Fails, left: list[int]) -> Case:
    """The last of a chain of calls that fail, each one move away from the one before."""
    while left[0] > 0:
        smaller = next((c for c in itertools.takewhile(lambda _: left[0] > 0, moves(case)) if still(c)), None)
        if smaller is None:
            break
        case = smaller
    return case


def _with(case: Case, changed: dict[int, Array]) -> Case:
    """The case with other arrays at some places, laid out as those were. One object at two places stays one."""
    first = _objects(case)
    made = {i: laid_out(changed[i], case.layouts[i]) if i in changed else case.args[i] for i in first.values()}
    return replace(case, args=tuple(made[first[id(a)]] for a in case.args), notes=())


def _objects(case: Case) -> dict[int, int]:
    """For each object the first place where it stands."""
    return {id(a): i for i, a in reversed(list(enumerate(case.args)))}


def _arrays(case: Case) -> list[tuple[int, Array]]:
    """The arrays, each once, with their places."""
    return [(i, case.args[i]) for i in sorted(_objects(case).values()) if isinstance(case.args[i], np.ndarray)]


# Shapes.


def _shorter(case: Case) -> Iterator[Case]:
    """Without all but one of the entries along axes of one size, or without one entry."""
    places = [(i, axis) for i, a in _arrays(case) for axis in range(a.ndim)]
    lengths = sorted({case.args[i].shape[axis] for i, axis in places} - {0}, reverse=True)
    for n in lengths:
        for group in _groups([p for p in places if case.args[p[0]].shape[p[1]] == n]):
            keeping = [[j] for j in range(n)] if n > 1 else []
            dropping = [[k for k in range(n) if k != j] for j in reversed(range(n))]
            for kept in (*keeping, *dropping):
                yield _with(case, _taken(case, group, kept))


def _groups(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """Subsets, the largest first; of many places only all, and each alone."""
    sizes = range(len(places), 0, -1) if len(places) <= TOGETHER else (len(places), 1)
    for size in sizes:
        yield from itertools.combinations(places, size)


def _taken(case: Case, group: Sequence[Place], kept: Sequence[int]) -> dict[int, Array]:
    changed: dict[int, Array] = {}
    for i, axis in group:
        changed[i] = np.take(changed.get(i, case.args[i]), kept, axis)
    return changed


def _without_an_axis(case: Case) -> Iterator[Case]:
    """Without the first axis, where it has size 1 in every argument that has so many axes."""
    ndim = max((a.ndim for _, a in _arrays(case)), default=0)
    longest = {i: a for i, a in _arrays(case) if a.ndim == ndim}
    if ndim and all(a.shape[0] == 1 for a in longest.values()):
        yield _with(case, {i: a[0] for i, a in longest.items()})


# Numbers.


def _simpler(case: Case, contract: Contract | None) -> Iterator[Case]:
    """With simpler numbers: in all of an array, in all elements that are equal, in one element."""
    for i, a in _arrays(case):
        if a.dtype.kind != "f" or not a.size:
            continue
        k = i - (len(case.args) - len(contract.arguments)) if contract else -1  # cotangents stand before the arguments
        allows = Alphabet(a.dtype, contract.arguments[k].region).allows if contract and k >= 0 else np.isfinite
        for mask in _masks(a):
            worst = max(_rank(float(v)) for v in a[mask])
            for v in (*SIMPLE[:6], *_rounded(float(a[mask][0]))):
                if _rank(v) < worst and allows(v):
                    yield _with(case, {i: np.where(mask, a.dtype.type(v), a)})


def _masks(a: Array) -> Iterator[Array]:
    yield np.ones(a.shape, bool)
    values, counts = np.unique(a, return_counts=True)
    if len(values) > 1:
        yield from (a == v for v in values[counts > 1])
        yield from (np.arange(a.size).reshape(a.shape) == k for k in range(a.size))


def _rounded(v: float) -> list[float]:
    return [round(v, digits) for digits in (0, 1, 2)] if abs(v) < 1e6 else []


def _rank(v: float) -> tuple[int, int]:
    """How simple a number is: 0, 1, -1, 2, ..., then by its digits."""
    return (SIMPLE.index(v), 0) if v in SIMPLE else (len(SIMPLE), len(repr(v)))


def _integers(case: Case) -> Iterator[Case]:
    """With integers nearer to 0."""
    for i, a in _arrays(case):
        if a.dtype.kind in "iu" and a.any():
            yield _with(case, {i: np.zeros_like(a)})
            for k in np.flatnonzero(a):
                for v in (0, a.flat[k] - np.sign(a.flat[k])):
                    other = np.array(a)
                    other.flat[k] = v
                    if other.flat[k] != a.flat[k]:
                        yield _with(case, {i: other})


# Layouts and cotangents.


def _plainer(case: Case) -> Iterator[Case]:
    if any(name != "C" for name in case.layouts):
        yield case.contiguous()
        for i, a in _arrays(case):
            if case.layouts[i] != "C":
                layouts = tuple("C" if other is a else name for other, name in zip(case.args, case.layouts, strict=True))
                yield _with(replace(case, layouts=layouts), {i: a})
    if len({id(a) for a in case.args}) < len(case.args):
        yield replace(case.contiguous(), notes=())
    recipe = case.recipe
    if recipe.layout != "C":
        yield replace(case, recipe=replace(recipe, layout="C"))
    if recipe.kind != "one-hot":
        yield from (replace(case, recipe=Cotangent("one-hot", recipe.layout, k)) for k in range(ONE_HOT))
    if recipe.kind not in ("one-hot", "ones"):
        yield replace(case, recipe=Cotangent("ones", recipe.layout))
    if recipe.seed:
        yield from (replace(case, recipe=replace(recipe, seed=k)) for k in range(min(recipe.seed, ONE_HOT)))
