"""What can be found out about a function by calling it: its shapes, its domain, its options."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.shapes import Notation
from engine.testing.values import Region, framed

if TYPE_CHECKING:
    from engine.testing.signature import Argument, Contract

Shape = tuple[int, ...]
Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[..., Any]
Judge = Callable[[Sequence[Any], dict[str, Any]], bool]

PRIMES = {"b": 2, "c": 2, "k": 4, "l": 2, "m": 3, "n": 5, "o": 3, "h": 4, "w": 5}
"""A size for each axis name, such that two axes that must be equal are not so by accident."""

RAGGED: tuple[Shape, ...] = ((), (3,), (2, 3), (2, 4, 3), (1, 3))

ALONE = ("n", "m n", "l m n", "b c h w", "n n", "l n n")

PAIRS = (
    "n, n", "m n, m n", "l m n, l m n", "m k, k n", "m k, k", "k, k n", "n, m", "l m k, l k n", "m n, n", "l m n, n", "n n, n", "n n, n m",
    "n n, n n", "n, ", ", n", "m n, ", ", m n", "m n, m", "b c h w, c", "b c h w, b c h w",
)  # fmt: skip

TRIPLES = (
    "n, n, n", "m n, m n, m n", "m k, k n, n", "k, k n, n", "m n, n, n", "l m n, n, n", "b c h w, c, c", "m k, k n, m n", "m n, m n, ",
    "m k, n k, n",
)  # fmt: skip

INDEXED = (("n, k", 1), ("m n, k", 1), ("m n, m", 1), ("m n, m k", 1), ("m n, k n", 1), ("n, k, k", 1), ("m n, k, k n", 1))
"""Signatures of which one argument may be indices."""


# The arguments.


def names(f: Function, count: int | None) -> list[str]:
    """The names of the array arguments: the positional parameters without a default, or as many as there are known to be."""
    if isinstance(f, np.ufunc):
        return [f"x{i + 1}" for i in range(f.nin)] if f.nin > 1 else ["x"]
    found = _positional(f)
    if count is None:
        count = len([p for p in found if p.default is p.empty])
    named = [p.name for p in found[:count]]
    return named + [f"x{i + 1}" for i in range(len(named), max(count, 1 if not named else 0))]


def _positional(f: Function) -> list[inspect.Parameter]:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # functions written in C may not tell
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


# Calling.


def outputs(f: Function, args: Sequence[Any], options: Mapping[str, Any]) -> list[Array] | None:
    """What `f` returns, as a list of arrays; None if it raises or returns no numbers. Its arguments are copies."""
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            y = f(*[np.array(a) for a in args], **options)
            found = [np.asarray(part) for part in (y if isinstance(y, (tuple, list)) else (y,))]
    except Exception:  # whatever it raises, it does not take these
        return None
    return found if all(part.dtype.kind in "fciub" for part in found) else None


def finite(f: Function, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Does `f` take these and return finite numbers only?"""
    found = outputs(f, args, options)
    return found is not None and all(bool(np.all(np.isfinite(part))) for part in found)


class Probe:
    """Calls a function on arrays of moderate numbers of given shapes."""

    BASES = ((0.3, 0.9), (1.2, 3.0), (-0.9, -0.3), (5.0, 9.0), (-3.0, -1.2), (20.0, 90.0))

    def __init__(self, f: Function, contract: Contract, judge: Judge | None):
        self.f = f
        self.contract = contract
        self.judge = judge
        self.options = self._some_options()

    def _some_options(self) -> dict[str, Any]:
        """The fixed options; those that are drawn keep the function's own defaults while it is tried."""
        return dict(self.contract.fixed)

    def arrays(self, shapes: Sequence[Shape], bases: Sequence[int] | None = None) -> list[Array]:
        rng = np.random.default_rng(0)
        chosen = bases or (0,) * len(shapes)
        return [self._array(rng, a, s, b) for a, s, b in zip(self.contract.arguments, shapes, chosen, strict=True)]

    def _array(self, rng: np.random.Generator, argument: Argument, shape: Shape, base: int) -> Array:
        if argument.integers is not None:
            first, end = argument.integers.low, argument.integers.high
            return rng.integers(first, end if isinstance(end, int) else first + 1, shape)
        low, high = self.BASES[base]
        region = argument.region
        if not (region.low < low and high < region.high):
            low, high = region.draw_low, region.draw_high
            low, high = low + (high - low) / 8, high - (high - low) / 8
        return np.asarray(rng.uniform(low, high, shape)).astype(argument.dtype)

    def takes(self, shapes: Sequence[Shape]) -> bool:
        found = outputs(self.f, self.arrays(shapes), self.options)
        return found is not None and any(part.dtype.kind in "fc" for part in found)

    def pulls(self, shapes: Sequence[Shape]) -> bool:
        """Does the gradient, too, take these shapes?"""
        return self.judge is None or self.judge(self.arrays(shapes), self.options)

    def elementwise(self) -> bool:
        """Does each element of the output depend on the same element of each argument, and on no other?"""
        count = len(self.contract.arguments)
        args = self.arrays([(2, 3)] * count)
        y = outputs(self.f, args, self.options)
        if y is None or any(part.shape != (2, 3) for part in y):
            return False
        for place in range(count):
            nudged = [np.array(a) for a in args]
            nudged[place][0, 1] *= 1.25
            other = outputs(self.f, nudged, self.options)
            if other is None or any(np.count_nonzero(a != b) > (a[0, 1] != b[0, 1]) for a, b in zip(y, other, strict=True)):
                return False
        return True


# Shapes.


def sized(notation: Notation, size: Mapping[str, int], rest: Shape = (2, 3)) -> list[Shape]:
    """The shape of each argument where each name has this size."""

    def one(side: Sequence[str]) -> Iterator[int]:
        for token in side:
            yield from rest if token == "..." else (int(token) if token.isdigit() else size.get(token, 3),)

    return [tuple(one(side)) for side in notation.inputs]


def _pair_shapes(count: int) -> Iterator[tuple[Shape, ...]]:
    """Shapes that broadcast, for `count` arguments."""
    yield from ((s,) * count for s in RAGGED)
    if count > 1:
        yield from itertools.islice(itertools.product(((2, 3), (3,), (2, 1), ()), repeat=count), 64)


def shapes_of(probe: Probe) -> tuple[list[Notation], list[str]]:
    """The signatures that the function takes, the most general ones only, and what was found in words."""
    count = len(probe.contract.arguments)
    whole = Notation(", ".join(["..."] * count) + " -> ...")
    if all(probe.takes(s) for s in _pair_shapes(count)) and (_any_shape(probe) if count == 1 else probe.elementwise()):
        return [whole], []
    named = {1: ALONE, 2: PAIRS, 3: TRIPLES}.get(count, (", ".join(["n"] * count), ", ".join(["m n"] * count)))
    candidates = [Notation(f"{text} -> ...") for text in named]
    taken = [n for n in candidates if probe.takes(sized(n, PRIMES)) and probe.takes(sized(n, {**PRIMES, "m": 4, "n": 2, "k": 3}))]
    if not taken:
        raise ValueError(
            f"no signature of {count} arguments was found that the function takes.\n"
            "  say what it takes: signature='m k, k n -> m n', or give example arrays, or cases=a strategy of (args, kwargs)"
        )
    pulled = [n for n in taken if probe.pulls(sized(n, PRIMES))]
    left_out = [n.text.partition(" ->")[0] for n in taken if n not in pulled] if pulled else []
    notes = [f"shapes {text} are left out: the function takes them, the gradient does not" for text in left_out]
    return _most_general(pulled or taken), notes


def _any_shape(probe: Probe) -> bool:
    return all(probe.pulls((s,)) for s in RAGGED)


def _most_general(notations: list[Notation]) -> list[Notation]:
    """Without those that are another one with two of its names made equal."""
    return [n for n in notations if not any(_narrower(n, other) for other in notations if other is not n)]


def _narrower(a: Notation, b: Notation) -> bool:
    """Is `a` the notation `b` with some names made equal?"""
    if [len(side) for side in a.inputs] != [len(side) for side in b.inputs]:
        return False
    means: dict[str, str] = {}
    pairs = [(p, q) for side, other in zip(a.inputs, b.inputs, strict=True) for p, q in zip(side, other, strict=True)]
    return all(means.setdefault(q, p) == p for p, q in pairs) and len(set(means.values())) < len(means)


def smallest(probe: Probe, notation: Notation) -> dict[str, int]:
    """The smallest size of each name, and of the axes under `...`, that gives an answer."""
    found = {}
    for name in notation.names:
        found[name] = next((n for n in (0, 1) if probe_takes_size(probe, notation, {**PRIMES, name: n}, (2, 3))), 2)
    if notation.broadcasts:
        found["..."] = next((n for n in (0, 1) if probe_takes_size(probe, notation, PRIMES, (2, n))), 2)
    return found


def probe_takes_size(probe: Probe, notation: Notation, size: Mapping[str, int], rest: Shape) -> bool:
    shapes = sized(notation, size, rest)
    return finite(probe.f, probe.arrays(shapes), probe.options) or (0 not in rest and 0 not in size.values() and probe.takes(shapes))


# Domains.

GRID = (1e-300, 1e-30, 1e-9, 1e-3, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 40.0, 88.0, 100.0, 300.0, 700.0, 800.0,
        1e4, 1e9, 1e30, 1e150, 1e300)  # fmt: skip
NARROW = 1e-2  # a gap of the domain that is no wider than this is a hole in it


def regions(probe: Probe, shapes: Sequence[Shape], wanted: set[str]) -> dict[str, Region]:
    """Where the function is finite, in each of the `wanted` arguments: found with one element moved, the others held."""
    arguments = probe.contract.arguments
    count = len(arguments)
    bases = next((b for b in _bases(count) if finite(probe.f, probe.arrays(shapes, b), probe.options)), None)
    if bases is None:
        return {}
    args = probe.arrays(shapes, bases)
    found = {}
    for place, argument in enumerate(arguments):
        if argument.name in wanted and argument.integers is None and args[place].size:
            found[argument.name] = _region(_along(probe, args, place), float(args[place].flat[0]), argument.dtype)
    return found


def _bases(count: int) -> Iterator[tuple[int, ...]]:
    yield from ((i,) * count for i in range(len(Probe.BASES)))
    yield from itertools.islice(itertools.product(range(len(Probe.BASES)), repeat=count), 216)


def _along(probe: Probe, args: Sequence[Array], place: int) -> Callable[[float], bool]:
    """Is the function finite where the first element of one argument is v?"""

    def good(v: float) -> bool:
        moved = list(args)
        moved[place] = np.array(args[place])
        moved[place].reshape(-1)[0] = v
        return finite(probe.f, moved, probe.options)

    return good


def _region(good: Callable[[float], bool], start: float, dtype: np.dtype[Any]) -> Region:
    largest = float(np.finfo(dtype).max)
    grid = sorted({0.0, *(s * v for v in GRID if v < largest for s in (1, -1)), start})
    fine = [good(v) for v in grid]
    at = grid.index(start)
    low, holes_below = _end(good, grid[at::-1], fine[at::-1], dtype)
    high, holes_above = _end(good, grid[at:], fine[at:], dtype)
    return framed(low, high, holes=(*holes_below, *holes_above), inferred=True)


def _end(good: Callable[[float], bool], grid: Sequence[float], fine: Sequence[bool], dtype: np.dtype[Any]) -> tuple[float, list[float]]:
    """Walking outward from a good number: the first number where it ends, or an infinity; and the holes on the way."""
    holes: list[float] = []
    i = 1
    while i < len(grid):
        if fine[i]:
            i += 1
            continue
        beyond = next((j for j in range(i, len(grid)) if fine[j]), None)
        if beyond is None or abs(grid[beyond] - grid[i - 1]) > NARROW:
            return _edge(good, grid[i - 1], grid[i], dtype), holes
        holes += grid[i:beyond]
        i = beyond
    return math.copysign(math.inf, grid[-1] - grid[0]), holes


def _edge(good: Callable[[float], bool], inside: float, outside: float, dtype: np.dtype[Any]) -> float:
    """The number nearest to `inside` at which the function is not finite, by bisection over the numbers of the dtype."""
    a, b = _ordinal(inside, dtype), _ordinal(outside, dtype)
    while abs(b - a) > 1:
        middle = (a + b) // 2
        a, b = (middle, b) if good(_from_ordinal(middle, dtype)) else (a, middle)
    return _from_ordinal(b, dtype)


def _ordinal(v: float, dtype: np.dtype[Any]) -> int:
    """The place of `v` in the row of all numbers of the dtype, 0 at 0.0."""
    bits = int(np.asarray(abs(v), dtype).view(f"i{dtype.itemsize}"))
    return -bits if v < 0 else bits


def _from_ordinal(i: int, dtype: np.dtype[Any]) -> float:
    v = float(np.asarray(abs(i), f"i{dtype.itemsize}").view(dtype))
    return -v if i < 0 else v


# All of it.


def completed(f: Function, contract: Contract, *, examples: Sequence[Array] | None, judge: Judge | None, given: set[str]) -> Contract:
    """The contract with what its author left out."""
    notes: list[str] = []
    if examples is not None:
        contract = replace(contract, alternatives=(_of_examples(examples),))
    probe = Probe(f, contract, judge)
    if not contract.alternatives:
        found, notes = shapes_of(probe)
        contract = replace(contract, alternatives=tuple(found))
    least = tuple(smallest(probe, n) for n in contract.alternatives)
    contract = replace(contract, smallest=least)
    wanted = {a.name for a in contract.arguments if a.name not in given}
    shapes = sized(contract.alternatives[0], PRIMES)
    inferred = regions(probe, shapes, wanted) if wanted else {}
    arguments = tuple(replace(a, region=inferred.get(a.name, a.region)) for a in contract.arguments)
    notes += [f"{name} in ({r.low:g}, {r.high:g})" for name, r in inferred.items() if r.low > -math.inf or r.high < math.inf]
    return replace(contract, arguments=arguments, notes=tuple(notes))


def _of_examples(examples: Sequence[Array]) -> Notation:
    """The very shapes of the examples."""
    return Notation(", ".join(" ".join(map(str, x.shape)) for x in examples) + " -> ...")
