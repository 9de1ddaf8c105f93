"""What a function takes: its arguments, the shapes that fit together, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.domain import Domain
from engine.shapes import Notation, ShapeError
from engine.testing.values import EVERYWHERE

Shape = tuple[int, ...]
Dependent = Callable[[dict[str, Shape]], Any]


@dataclass(frozen=True)
class Integers:
    """Integers from `low` to below `high`, which is a number or a function of the shapes, a dict by argument; or truth values."""

    low: int = 0
    high: int | Callable[[dict[str, Shape]], int] = 2
    logical: bool = False

    def bounds(self, shapes: dict[str, Shape]) -> tuple[int, int]:
        return self.low, self.high(shapes) if callable(self.high) else self.high


def below_axis(name: str, axis: int = 0, low: int = 0) -> Integers:
    """Indices into an axis of the argument called `name`."""
    return Integers(low, lambda shapes: shapes[name][axis] if -len(shapes[name]) <= axis < len(shapes[name]) else low + 1)


@dataclass(frozen=True)
class Argument:
    """One array argument.

    integers   None where it holds floating-point numbers
    rounded    what its numbers are rounded to once they are drawn: bfloat16, in which NumPy cannot draw; None: they stay as they are
    """

    name: str
    region: Domain = EVERYWHERE
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    integers: Integers | None = None
    rounded: np.dtype[Any] | None = None


def fits(notation: Notation, names: Sequence[str], shapes: Sequence[Shape], options: Mapping[str, Any]) -> bool:
    """Does the notation speak of these shapes, the output's shape included?"""
    try:
        notation.infer(names, shapes, options)
    except ShapeError:
        return False
    except (NameError, TypeError, ZeroDivisionError):  # the text speaks of options that are not here: only the inputs are judged
        return True
    return True


@dataclass(frozen=True)
class Contract:
    """What a function takes.

    alternatives   shape notations; each call is drawn from one of them
    smallest       for each notation, the smallest size of each axis name that the function takes
    fixed          options that are the same in every call
    kwargs         options drawn from a strategy, before the shapes
    dependent      options that depend on the shapes
    all_kwargs     a strategy of dicts of options
    examples       calls of a user's strategy, (args, kwargs), the simplest first
    notes          what was found out by trying, in words
    """

    arguments: tuple[Argument, ...]
    alternatives: tuple[Notation, ...]
    smallest: tuple[Mapping[str, int], ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    kwargs: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    dependent: Mapping[str, Dependent] = field(default_factory=dict)
    all_kwargs: SearchStrategy[dict[str, Any]] | None = None
    examples: tuple[tuple[Any, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [a.name for a in self.arguments]

    def is_square(self, place: int) -> bool:
        """Is the argument at `place` a square matrix, or several, as far as is known?"""
        sides = [n.inputs[place] for n in self.alternatives]
        return not sides or any(len(side) > 1 and side[-1] == side[-2] for side in sides)

    def least(self, notation: Notation) -> Mapping[str, int]:
        """The smallest size of each axis name of one of the notations."""
        return dict(zip(self.alternatives, self.smallest, strict=False)).get(notation, {})

    def fits(self, notation: Notation, shapes: Sequence[Shape], options: Mapping[str, Any]) -> bool:
        """Do these shapes fit the notation, the output's shape included?"""
        return fits(notation, self.names, shapes, options)

    def takes(self, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
        """Are these shapes ones that the contract speaks of? Without notations: as many axes as in the calls of its user."""
        shapes = [np.shape(a) for a in args]
        if self.alternatives:
            return any(self.fits(n, shapes, options) and self._large_enough(n, shapes) for n in self.alternatives)
        ranks = {tuple(np.ndim(a) for a in given) for given, _ in self.examples}
        return not ranks or tuple(map(len, shapes)) in ranks

    def _large_enough(self, notation: Notation, shapes: Sequence[Shape]) -> bool:
        sizes, rest = notation.bind(self.names, shapes)
        least = self.least(notation)
        return all(n >= least.get(name, 0) for name, n in sizes.items()) and all(n >= least.get("...", 0) for n in rest)

    def about(self, args: Sequence[Any]) -> Contract:
        """The contract for these very arguments: as many, of their dtypes."""
        known = list(self.arguments[: len(args)])
        known += [Argument(f"x{i + 1}") for i in range(len(known), len(args))]
        kept = (replace(a, dtype=x.dtype) if _floats(x) else a for a, x in zip(known, args, strict=True))
        return replace(self, arguments=tuple(kept))


def _floats(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"
