"""Shapes, values and whole calls, made from choices. What is drawn first shrinks first, and what can end up unused is drawn last:

    shapes, options, ways to draw values, layouts, the cotangent, the values themselves

A smaller shape then leaves unused choices at the very end, where Hypothesis drops them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis.strategies import SearchStrategy

from engine.shapes import Notation
from engine.testing.case import Case, Cotangent
from engine.testing.contract import Argument, Contract
from engine.testing.drawing import Choices, choice, one_in
from engine.testing.layouts import LAYOUTS, Array, laid_out
from engine.testing.values import EVERYWHERE, MIX, MODES, TOGETHER, Alphabet, Mode, alphabet, mixed

Shape = tuple[int, ...]

SIZES = (0, 1, 2, 3, 2, 3, 4, 1, 5, 2, 3, 4)  # of an axis: one in twelve is 0
RANKS = (0, 1, 2, 1, 2, 3, 1, 2)
MAX_ELEMENTS = 27
ONE_BY_ONE = 32  # elements of an array that are drawn one by one, and shrunk one by one
LONG = (7, 17, 33, 130)  # sizes of an axis, where there is room for so many elements
KINDS = ("one-hot", "ones", "random", "random", "sparse", "random", "random")
TRIES = 8  # at sizes that fit a notation with arithmetic on its right side


# Shapes.


def sizes(c: Choices, count: int, least: Sequence[int], room: int = MAX_ELEMENTS) -> list[int]:
    """Sizes of axes, each at least as large as in `least`: 0 now and then, else small, often alike; longer where there is `room`."""
    options = SIZES if room <= MAX_ELEMENTS else (*SIZES, *(n for n in LONG if n < room), room)
    found: list[int] = []
    for low in least[:count]:
        again = found[-1:] * 4 if found and found[-1] >= low else []
        beyond = (low, low + 1, low + 2) if low > 2 else ()
        found.append(choice(c, (*beyond, *(n for n in options if n >= low), *again)))
    return found


def a_shape(c: Choices, *, min_size: int = 0, max_rank: int = 3, max_elements: int = MAX_ELEMENTS) -> Shape:
    """A shape of at most `max_elements` elements: 0-d, empty, of size 1, ragged, square."""
    rank = choice(c, tuple(r for r in RANKS if r <= max_rank))
    shape = sizes(c, rank, [min_size] * rank, max_elements)
    while math.prod(shape) > max_elements:
        shape[shape.index(max(shape))] -= max(1, max(shape) // 8)
    return tuple(shape)


PARTS = ("whole", "whole", "whole", "missing", "missing", "ones", "ones", "both")


def part_of(c: Choices, shape: Shape) -> Shape:
    """A shape that broadcasts to `shape`: all of it; or leading axes missing, axes of size 1, or both."""
    how = choice(c, PARTS) if shape else "whole"
    kept = shape[c.integer(1, len(shape)) :] if how in ("missing", "both") else shape
    ones = c.integer(1, 2 ** len(kept) - 1) if kept and how in ("ones", "both") else 0
    return tuple(1 if ones >> i & 1 else n for i, n in enumerate(kept))


def fitting_shapes(c: Choices, contract: Contract, options: Mapping[str, Any], max_elements: int) -> list[Shape]:
    """A shape for each argument, by one of the contract's notations."""
    notation = choice(c, contract.alternatives)
    for _ in range(TRIES):
        found = _shapes_by(c, notation, contract.least(notation), max_elements)
        if contract.fits(notation, found, options):
            return found
    return reject()


def _shapes_by(c: Choices, notation: Notation, least: Mapping[str, int], max_elements: int) -> list[Shape]:
    rest = a_shape(c, min_size=least.get("...", 0), max_elements=max_elements) if notation.broadcasts else ()
    names = notation.names
    size = dict(zip(names, sizes(c, len(names), [least.get(name, 0) for name in names], max_elements), strict=True))
    parts = [part_of(c, rest) if "..." in side and len(notation.inputs) > 1 else rest for side in notation.inputs]
    while True:
        found = [_shape_of(side, part, size) for side, part in zip(notation.inputs, parts, strict=True)]
        spare = {name: n - max(least.get(name, 0), 1) for name, n in size.items()}
        if max(map(math.prod, found), default=0) <= max_elements or max(spare.values(), default=0) <= 0:
            return found
        largest = max(spare, key=lambda name: spare[name])
        size[largest] -= max(1, spare[largest] // 8)


def _shape_of(side: Iterable[str], part: Shape, sizes: Mapping[str, int]) -> Shape:
    found: Shape = ()
    for token in side:
        found += part if token == "..." else (int(token) if token.isdigit() else sizes[token],)
    return found


# Values.


@dataclass
class Plan:
    """How the elements of one array are drawn: from which alphabet, each in which range, and which element is which."""

    alphabet: Alphabet
    shape: Shape
    ranges: list[int]
    which: list[int]
    shifted: bool = False
    dominant: bool = False  # a square matrix whose diagonal outweighs the rest
    codes: list[int] = field(default_factory=list)

    def array(self, salt: int) -> Array:
        """The array, once its codes are drawn. The elements beyond those that are drawn follow from the salt."""
        codes = self.codes + [mixed(salt * 64 + i) % self.ranges[i] for i in range(len(self.codes), len(self.ranges))]
        numbers = [self.alphabet.number(codes[i], salt * 64 + i) for i in self.which]
        if self.shifted and codes:
            first = numbers[0]
            numbers = [v if self.alphabet.allows(v) else first for v in (first, *(first + v for v in numbers[1:]))]
        x = np.array(numbers, self.alphabet.dtype).reshape(self.shape)
        if self.dominant and x.size:
            x += np.eye(self.shape[-1], dtype=x.dtype) * float(np.ceil(np.abs(x).max() * self.shape[-1] + 1))
        return x


def plan(c: Choices, letters: Alphabet, mode: Mode, shape: Shape) -> Plan:
    """The plan for one array; its elements are drawn later."""
    size, ends = math.prod(shape), letters.ends
    if mode.made_of and size:
        ranges = [ends[mode.codes]] * min(mode.made_of, size)
        return Plan(letters, shape, ranges, _pattern(c, size) if len(ranges) == 2 else [0] * size)
    if mode.codes == "mixed":
        return Plan(letters, shape, [ends["generic" if bit else "points"] for bit in _pattern(c, size)], list(range(size)))
    ranges = [ends[mode.codes]] * size
    if mode.shifted and size:
        ranges[0] = ends["wide"]  # the first element is what the others are shifted by
    return Plan(letters, shape, ranges, list(range(size)), mode.shifted)


def _pattern(c: Choices, size: int) -> list[int]:
    """A bit for each element."""
    bits = [c.integer(0, 255) for _ in range(0, min(size, 24), 8)]
    return [bits[i // 8 % len(bits)] >> i % 8 & 1 for i in range(size)]


def fill(c: Choices, plans: Sequence[Plan]) -> list[Array]:
    """The arrays of several plans. Their elements take turns, so that what a smaller array no longer needs stands at the end."""
    seed = c.integer(0, 255)
    for i in range(min(ONE_BY_ONE, max((len(p.ranges) for p in plans), default=0))):
        for p in plans:
            if i < len(p.ranges):
                p.codes.append(c.integer(0, p.ranges[i] - 1))
    return [p.array(seed * 16 + place) for place, p in enumerate(plans)]


def a_mode(c: Choices, modes: Sequence[str] = MIX) -> Mode:
    return MODES[choice(c, modes)]


def a_layout(c: Choices, among: Sequence[str] = LAYOUTS) -> str:
    """The name of a layout; C as often as all others together."""
    others = tuple(name for name in among if name != "C")
    return "C" if "C" in among and (not others or not one_in(c, 2)) else choice(c, others)


def a_cotangent(c: Choices, among: Sequence[str] = LAYOUTS, kinds: Sequence[str] = KINDS) -> Cotangent:
    layout = a_layout(c, among)
    return Cotangent(choice(c, kinds), layout, c.integer(0, 255))


# Calls.


def a_case(c: Choices, contract: Contract, *, max_elements: int, among: Sequence[str], nonfinite: bool) -> Case:
    """One call by a contract."""
    given = {name: c.draw(strategy) for name, strategy in contract.kwargs.items()}
    shapes = fitting_shapes(c, contract, {**contract.fixed, **given}, max_elements)
    by_name = dict(zip(contract.names, shapes, strict=True))
    options = {**contract.fixed, **given, **{name: _settled(c, f(by_name)) for name, f in contract.dependent.items()}}
    if contract.all_kwargs is not None:
        options.update(c.draw(contract.all_kwargs))
    return _completed(c, contract, [None] * len(shapes), shapes, options, among, nonfinite)


def _settled(c: Choices, made: Any) -> Any:
    return c.draw(made) if isinstance(made, SearchStrategy) else made


def a_users_case(
    c: Choices, contract: Contract, strategy: SearchStrategy[Any], *, vary: bool, among: Sequence[str], nonfinite: bool
) -> Case:
    """One call whose shapes and options come from a user's strategy; so do its values once in four times, or without `vary` always.

    To vary them, it starts from one of the contract's examples: Hypothesis would make most of its calls by copying parts of others.
    """
    if not vary or not contract.examples:
        args, options = c.draw(strategy)
    else:
        args, options = choice(c, contract.examples)
    if not vary:
        return Case(tuple(args), dict(options), a_cotangent(c, among), ("C",) * len(args))
    kept = choice(c, (True, False, False, False))
    taken = [a if kept or not floating(a) else None for a in args]
    return _completed(c, contract.about(args), taken, [np.shape(a) for a in args], dict(options), among, nonfinite)


def floating(a: Any) -> bool:
    return isinstance(a, (np.ndarray, np.floating)) and a.dtype.kind == "f"


@dataclass
class Twin:
    """An argument that equals an earlier one, at place `of`; or is the same object."""

    of: int
    same: bool


def _completed(
    c: Choices, contract: Contract, taken: Sequence[Any], shapes: Sequence[Shape], options: dict[str, Any], among: Sequence[str],
    nonfinite: bool,
) -> Case:  # fmt: skip
    """Values for the arguments that are not `taken`, layouts, and a recipe for the cotangent."""
    by_name = dict(zip(contract.names, shapes, strict=True))
    sources: list[Any] = []
    notes: list[str] = []
    modes = TOGETHER if len(shapes) > 1 and one_in(c, 4) else MIX
    for place, argument in enumerate(contract.arguments):
        source, note = _source(c, contract, sources, shapes, place, modes, nonfinite) if taken[place] is None else (taken[place], "")
        sources.append(_integers(c, argument, shapes[place], by_name) if source is None else source)
        notes += [f"{argument.name}{note}"] if note else []
    names = [a_layout(c, among) if not isinstance(s, Twin) or not s.same else "C" for s in sources]
    recipe = a_cotangent(c, among)
    drawn = iter(fill(c, [s for s in sources if isinstance(s, Plan)]))
    plain = [next(drawn) if isinstance(s, Plan) else s for s in sources]
    args, layouts = _placed(plain, names, shapes)
    return Case(tuple(args), options, recipe, tuple(layouts), tuple(notes))


def _source(
    c: Choices, contract: Contract, before: Sequence[Any], shapes: Sequence[Shape], place: int, modes: Sequence[str], nonfinite: bool
) -> tuple[Any, str]:
    """Where the values of an argument come from: a Plan, a Twin, or None for integers; and what to note about it."""
    arguments, shape = contract.arguments, shapes[place]
    argument = arguments[place]
    if argument.integers is not None:
        return None, ""
    fit = [i for i, s in enumerate(before) if _alike(s, argument) and _spreads(shapes[i], shape)]
    how = choice(c, (0, 1, 0, 2, 0, 0)) if fit and _count(shape) else 0
    if how:
        same = how == 2 and shapes[fit[-1]] == shape
        return Twin(fit[-1], same), f" {'is' if same else 'equals'} {arguments[fit[-1]].name}"
    mode = a_mode(c, modes)
    region = EVERYWHERE if getattr(argument.region, "inferred", False) and one_in(c, 10) else argument.region
    found = plan(c, alphabet(argument.dtype, region, nonfinite), mode, shape)
    if len(shape) > 1 and 1 < shape[-1] == shape[-2] and argument.region.high == math.inf:
        found.dominant = one_in(c, 2 if contract.is_square(place) else 6)
    notes = [mode.name] * (mode.name != "generic") + ["dominant diagonal"] * found.dominant
    return found, f": {', '.join(notes)}" if notes else ""


def _alike(source: Any, argument: Argument) -> bool:
    """Can this argument take the numbers of that source?"""
    if not isinstance(source, Plan) or source.alphabet.dtype != argument.dtype:
        return False
    mine, other = argument.region, source.alphabet.region
    if getattr(mine, "inferred", False):  # where that was wrong the function itself will say so
        return True
    return mine.low <= other.low and other.high <= mine.high and set(getattr(mine, "holes", ())) <= set(getattr(other, "holes", ()))


def _count(shape: Shape) -> int:
    return math.prod(shape)


def _spreads(a: Shape, b: Shape) -> bool:
    return len(a) <= len(b) and all(m in (1, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _integers(c: Choices, argument: Argument, shape: Shape, by_name: dict[str, Shape]) -> Array:
    assert argument.integers is not None
    low, high = argument.integers.bounds(by_name)
    if high <= low and _count(shape):
        reject()
    kind = np.bool_ if argument.integers.logical else np.int64
    return np.array([c.integer(low, high - 1) for _ in range(_count(shape))], kind).reshape(shape)


def _placed(plain: Sequence[Any], names: Sequence[str], shapes: Sequence[Shape]) -> tuple[list[Any], list[str]]:
    """The arguments in their layouts, and what these are called."""
    args: list[Any] = []
    layouts: list[str] = []
    for x, name, shape in zip(plain, names, shapes, strict=True):
        if isinstance(x, Twin) and x.same:
            args.append(args[x.of])
            layouts.append(layouts[x.of])
            continue
        numbers = np.broadcast_to(args[x.of], shape) if isinstance(x, Twin) else x
        y = laid_out(numbers, name) if isinstance(numbers, np.ndarray) else numbers
        plainly = isinstance(y, np.ndarray) and name in MOVED and y.flags.c_contiguous
        args.append(laid_out(y, "C") if plainly else y)
        layouts.append("C" if plainly else name)
    return args, layouts


MOVED = ("F", "permuted", "stepped", "reversed", "repeated")
"""Layouts that change nothing for an array with one axis or none, or with sizes of 1: they are then called C."""
