"""Which arguments of a function hold integers or truth values, found by calling it with such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from engine.shapes import Notation
from engine.testing.contract import Contract, Integers, below_axis
from engine.testing.judging import Judge
from engine.testing.trying import PRIMES, Function, Probe, broadcast, inputs, sized, takes_any_size

INDEXED = {
    2: ("n, k", "m n, k", "m n, m", "m n, m k", "m n, k n", "n, n", "l m n, k", "l m n, l m", "n, ", "m n, "),
    3: ("n, k, k", "m n, k, k n", "m n, k, k", "n, n, n", "m n, m, m", "m n, m, n", "m n, k n, k", "n, k, "),
}
"""Signatures of which an argument may be indices, by how many there are."""

MASKED = {2: ("n, n", "m n, m n", "m n, m", "m n, n"), 3: ("n, n, n", "n, n, ", "m n, m, n")}
"""Signatures of which an argument may be a mask."""


def with_integers(f: Function, contract: Contract, judge: Judge | None, *, pulled: bool = False) -> Contract | None:
    """The contract with one argument made integers, if the function takes that; where it can be, such that the gradient does, too.

    pulled   only if the gradient does
    """
    first = None
    for other, notation in _with_integers(contract):
        probe = Probe(f, other, judge)
        if notation.broadcasts and not contract.alternatives and not probe.elementwise():
            continue  # it takes two arrays of one shape, but they mean something else
        if takes_any_size(probe, notation):
            if probe.pulls(sized(notation, PRIMES)):
                return other
            first = first or other
    return None if pulled else first


def _with_integers(contract: Contract) -> Iterator[tuple[Contract, Notation]]:
    """Contracts with one argument made integers, the last one first."""
    count = len(contract.arguments)

    def made(notation: Notation, whole: Mapping[int, Integers]) -> tuple[Contract, Notation]:
        arguments = [replace(a, integers=whole.get(i)) for i, a in enumerate(contract.arguments)]
        return replace(contract, arguments=tuple(arguments), alternatives=(notation,)), notation

    for place in range(count - 1, -1, -1):
        texts = INDEXED.get(count, ()) if place else ()
        for notation in contract.alternatives or (broadcast(count), *map(inputs, texts)):
            for integers in _ranges(contract, notation, place):
                yield made(notation, {place: integers})
    for place in range(count - 1, 0, -1):
        for notation in contract.alternatives or (broadcast(count), *map(inputs, MASKED.get(count, ()))):
            yield made(notation, {place: Integers(0, 2, logical=True)})
    if count == 3:  # a row and a column
        first = contract.arguments[0].name
        for notation in contract.alternatives or map(inputs, ("m n, k, k", "m n, k, l", "n, k, k")):
            if len(notation.inputs[0]) > 1:
                yield made(notation, {1: below_axis(first, 0), 2: below_axis(first, 1)})
            if len(notation.inputs[0]):
                yield made(notation, {1: below_axis(first, 0), 2: below_axis(first, 0)})


def _ranges(contract: Contract, notation: Notation, place: int) -> Iterator[Any]:
    """Indices into an axis of another argument, the longest first; then small integers of either sign."""
    shapes = sized(notation, PRIMES)
    axes = [(n, i, axis) for i, s in enumerate(shapes) if i != place and notation.inputs[i] != ["..."] for axis, n in enumerate(s)]
    for _, i, axis in sorted(axes, key=lambda a: -a[0]):
        yield below_axis(contract.arguments[i].name, axis - len(shapes[i]) if "..." in notation.inputs[i] else axis)
    yield from () if notation.broadcasts else (Integers(0, 3), Integers(0, 2))
    yield Integers(-3, 4)
