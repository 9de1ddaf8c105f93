"""Hypothesis strategies for what functions of arrays are called with. Each is usable by itself.

    arrays            one array: shape, dtype, domain, values, layout
    broadcastable     several shapes that broadcast against one another
    cotangents        recipes for cotangents
    indices, axes     options that fit a shape
    cases             everything for one call of one function, from its signature and domain

Things shrink in this order: shapes, options, values (to 0, 1, -1, 2), layouts (to C), the cotangent (to one-hot).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from engine.domain import Domain
from engine.testing.case import Case, Cotangent
from engine.testing.layouts import LAYOUTS, Array, laid_out
from engine.testing.signature import Argument, Contract, region, understand
from engine.testing.values import EVERYWHERE, MIX, NAMED, Alphabet, Mode

Shape = tuple[int, ...]

SIZES = (0, 1, 2, 3, 2, 3, 4, 1, 5, 2, 3, 4)  # of an axis: one in twelve is 0
RANKS = (0, 1, 2, 1, 2, 3, 1, 2)
MAX_ELEMENTS = 27


# Shapes.


def sizes(low: int = 0, high: int = 5) -> SearchStrategy[int]:
    """The size of an axis: small, and 0 now and then."""
    return st.sampled_from([n for n in SIZES if low <= n <= high] or [low])


@st.composite
def shapes(draw: DrawFn, *, min_size: int = 0, max_rank: int = 3, max_elements: int = MAX_ELEMENTS) -> Shape:
    """A shape of at most `max_elements` elements: 0-d, empty, of size 1, ragged."""
    rank = draw(st.sampled_from([r for r in RANKS if r <= max_rank]))
    return _fitted([draw(sizes(min_size)) for _ in range(rank)], max_elements)


def _fitted(shape: Sequence[int], max_elements: int) -> Shape:
    """`shape` with its largest axes cut down until it has no more than `max_elements` elements."""
    found = list(shape)
    while math.prod(found) > max_elements:
        found[found.index(max(found))] -= 1
    return tuple(found)


@st.composite
def part_of(draw: DrawFn, shape: Shape) -> Shape:
    """A shape that broadcasts to `shape`: some leading axes missing, some axes 1."""
    if not shape:
        return ()
    kept = shape[draw(st.integers(0, len(shape))) :]
    ones = draw(st.integers(0, 2 ** len(kept) - 1)) if kept else 0
    return tuple(1 if ones >> i & 1 else n for i, n in enumerate(kept))


@st.composite
def broadcastable(draw: DrawFn, count: int = 2, *, min_size: int = 0, max_elements: int = MAX_ELEMENTS) -> tuple[Shape, ...]:
    """`count` shapes that broadcast against one another."""
    whole = draw(shapes(min_size=min_size, max_elements=max_elements))
    return tuple(draw(part_of(whole)) for _ in range(count))


# Values.


def _codes(alphabet: Alphabet, name: str) -> SearchStrategy[int]:
    return st.integers(0, alphabet.ends[name] - 1)


def _drawn_numbers(draw: DrawFn, alphabet: Alphabet, mode: Mode, size: int) -> list[float]:
    if mode.made_of and size:
        codes = [draw(_codes(alphabet, mode.codes)) for _ in range(min(mode.made_of, size))]
        which = draw(st.integers(0, 2 ** min(size, 32) - 1)) if mode.made_of == 2 and size > 1 else 0
        chosen = [codes[which >> (i % 32) & 1] for i in range(size)]
    elif mode.codes == "mixed":
        which = draw(st.integers(0, 2 ** min(size, 32) - 1)) if size else 0
        chosen = [draw(_codes(alphabet, "points" if which >> (i % 32) & 1 else "generic")) for i in range(size)]
    else:
        codes_of = _codes(alphabet, mode.codes)
        chosen = [draw(codes_of) for _ in range(size)]
    numbers = {code: alphabet.number(code) for code in set(chosen)}
    return [numbers[code] for code in chosen]


@st.composite
def values(
    draw: DrawFn, shape: Shape, *, dtype: Any = np.float64, domain: Domain = EVERYWHERE, modes: Sequence[str] = MIX,
    nonfinite: bool = False,
) -> Array:  # fmt: skip
    """A contiguous array of `shape`, in one of the modes of engine.testing.values: generic, ties, constant, special points, ..."""
    mode = NAMED[draw(st.sampled_from(list(modes)))]
    return _valued(draw, Alphabet(np.dtype(dtype), domain, nonfinite), mode, shape)


def _valued(draw: DrawFn, alphabet: Alphabet, mode: Mode, shape: Shape) -> Array:
    numbers = _drawn_numbers(draw, alphabet, mode, math.prod(shape))
    return np.array(numbers, alphabet.dtype).reshape(shape)


def layouts(among: Sequence[str] = LAYOUTS) -> SearchStrategy[str]:
    """The name of a layout; C as often as all others together."""
    others = [name for name in among if name != "C"]
    return st.sampled_from(["C"] * max(1, len(others)) * ("C" in among) + others)


@st.composite
def arrays(
    draw: DrawFn, shape: Shape | SearchStrategy[Shape] | None = None, *, dtype: Any = np.float64, domain: Any = None,
    modes: Sequence[str] = MIX, among: Sequence[str] = LAYOUTS, nonfinite: bool = False,
) -> Array:  # fmt: skip
    """An array, with its values and its layout.

    shape     a shape, a strategy of shapes, or None for any small shape
    domain    an engine.domain.Domain, (low, high), {"low": ..., "high": ..., "kinks": [...]}, or None for all numbers
    modes     names from engine.testing.values.MODES, as often as each is to be drawn
    among     the layouts
    """
    found = shape if isinstance(shape, tuple) else draw(shapes() if shape is None else shape)
    x = draw(values(found, dtype=dtype, domain=region(domain), modes=modes, nonfinite=nonfinite))
    return laid_out(x, draw(layouts(among)))


# Cotangents.

KINDS = ("one-hot", "ones", "random", "random", "sparse", "random", "random")


@st.composite
def cotangents(draw: DrawFn, *, kinds: Sequence[str] = KINDS, among: Sequence[str] = LAYOUTS) -> Cotangent:
    """A recipe for cotangents: call it with the outputs."""
    layout = draw(layouts(among))
    kind = draw(st.sampled_from(list(kinds)))
    return Cotangent(kind, layout, draw(st.integers(0, 999)))


# Options.


@st.composite
def indices(
    draw: DrawFn, shape: Shape | SearchStrategy[Shape], size: int, *, negative: bool = True, repeats: bool = True, dtype: Any = np.int64
) -> Array:
    """An array of integers that index an axis of `size`, with repeats, from either end.

    Raises ValueError where there is nothing to index, or too little for indices without repeats.
    """
    found = shape if isinstance(shape, tuple) else draw(shape)
    count = math.prod(found)
    if (size == 0 and count) or (not repeats and count > size):
        raise ValueError(f"{count} indices{'' if repeats else ' without repeats'} are wanted of an axis of size {size}")
    if repeats:
        chosen = [draw(st.integers(0, size - 1)) for _ in range(count)]
    else:
        chosen = draw(st.permutations(range(size)))[:count]
    if negative and count and draw(st.integers(0, 3)) == 3:
        chosen = [i - size if draw(st.booleans()) else i for i in chosen]
    return np.array(chosen, dtype).reshape(found)


def axes(ndim: int, *, none: bool = True, negative: bool = True, several: bool = True) -> SearchStrategy[Any]:
    """An axis of an array of `ndim` axes: an integer, counted from either end, None, or a tuple of them."""
    one = st.integers(0, ndim - 1) if ndim else st.nothing()
    found = [one]
    if none:
        found.append(st.none())
    if negative and ndim:
        found.append(st.integers(-ndim, -1))
    if several:
        chosen = st.lists(one, unique=True, max_size=ndim) if ndim else st.just([])
        found.append(st.tuples(chosen, st.booleans()).map(lambda p: tuple(a - ndim if p[1] and negative else a for a in p[0])))
    return st.one_of(found)


# Whole calls.


@st.composite
def cases(
    draw: DrawFn,
    f: Callable[..., Any] | Contract,
    signature: Any = None,
    domain: Any = None,
    kwargs: Any = None,
    user_cases: SearchStrategy[Any] | None = None,
    max_elements: int = MAX_ELEMENTS,
    vary_values: bool = True,
    *,
    dtype: Any = np.float64,
    among: Sequence[str] = LAYOUTS,
    nonfinite: bool = False,
) -> Case:
    """Calls of `f`, NumPy in, NumPy out.

    f             the function, or what `understand` found out about it (then signature, domain and kwargs are in that)
    signature     shape notation, a list of them to choose from, example arrays, or None to find out by trying
    domain        by name or place: Domain, (low, high), {"low", "high", "kinks"}; where there is none it is found by trying
    kwargs        by name: a constant, a strategy, or a function of the drawn shapes (a dict by argument) that returns either;
                  or one strategy of dicts
    user_cases    a strategy of (args, kwargs), from which shapes and options are taken
    vary_values   False: values and layouts are taken from `user_cases` too
    """
    contract = f if isinstance(f, Contract) else understand(f, signature, domain, kwargs, dtype=dtype, cases=user_cases is not None)
    if user_cases is not None:
        return _users(draw, contract, user_cases, vary_values, among, nonfinite)
    found, given = _drawn_shapes(draw, contract, max_elements)
    options = _options(draw, contract, dict(zip(contract.names, found, strict=True)), given)
    return _completed(draw, contract, [None] * len(found), found, options, among, nonfinite)


def _users(draw: DrawFn, contract: Contract, user_cases: SearchStrategy[Any], vary: bool, among: Sequence[str], nonfinite: bool) -> Case:
    args, options = draw(user_cases)
    if not vary:
        return Case(tuple(args), dict(options), draw(cotangents(among=among)), ("C",) * len(args))
    kept = draw(st.integers(0, 3)) == 0
    taken = [a if kept or not _floating(a) else None for a in args]
    return _completed(draw, contract.about(args), taken, [np.shape(a) for a in args], dict(options), among, nonfinite)


def _floating(a: Any) -> bool:
    return isinstance(a, (np.ndarray, np.floating)) and a.dtype.kind == "f"


def _drawn_shapes(draw: DrawFn, contract: Contract, max_elements: int) -> tuple[list[Shape], dict[str, Any]]:
    """A shape for each argument, and the options that do not depend on shapes."""
    tokens = draw(st.sampled_from(contract.alternatives)) if len(contract.alternatives) > 1 else contract.alternatives[0]
    given = {name: draw(s) for name, s in contract.kwargs.items() if isinstance(s, SearchStrategy)}
    low = contract.least(tokens)
    for _ in range(5):
        rest = draw(shapes(min_size=low.get("...", 0), max_elements=max_elements)) if tokens.broadcasts else ()
        named = {name: draw(sizes(low.get(name, 0))) for name in tokens.names}
        found = [_one_shape(draw, side, named, rest, len(tokens.inputs)) for side in tokens.inputs]
        while any(math.prod(s) > max_elements for s in found) and max(named.values(), default=0) > 1:
            largest = max(named, key=lambda name: named[name])
            named[largest] -= 1
            found = [_resized(side, s, named) for side, s in zip(tokens.inputs, found, strict=True)]
        if contract.fits(tokens, found, {**contract.fixed, **given}):
            return found, given
    reject()
    raise AssertionError("reject() raises")


def _one_shape(draw: DrawFn, side: Sequence[str], named: Mapping[str, int], rest: Shape, count: int) -> Shape:
    found: Shape = ()
    for token in side:
        if token == "...":
            found += draw(part_of(rest)) if count > 1 else rest
        else:
            found += (int(token) if token.isdigit() else named[token],)
    return found


def _resized(side: Sequence[str], shape: Shape, named: Mapping[str, int]) -> Shape:
    """`shape` with its named axes in their new sizes; `...` stands first or nowhere."""
    last = [t for t in side if t != "..."]
    sized = tuple(named.get(t, n) for t, n in zip(last, shape[len(shape) - len(last) :], strict=True))
    return shape[: len(shape) - len(last)] + sized


def _options(draw: DrawFn, contract: Contract, by_name: dict[str, Shape], given: dict[str, Any]) -> dict[str, Any]:
    options = {**contract.fixed, **given}
    for name, dependent in contract.dependent.items():
        made = dependent(by_name)
        options[name] = draw(made) if isinstance(made, SearchStrategy) else made
    if contract.all_kwargs is not None:
        options.update(draw(contract.all_kwargs))
    return options


def _completed(
    draw: DrawFn, contract: Contract, taken: list[Any], found: Sequence[Shape], options: dict[str, Any], among: Sequence[str],
    nonfinite: bool,
) -> Case:  # fmt: skip
    """Values for the places where nothing is taken, then layouts, then the recipe for the cotangent."""
    plain: list[Any] = []
    twins: dict[int, int] = {}
    notes: list[str] = []
    for place, (argument, given, shape) in enumerate(zip(contract.arguments, taken, found, strict=True)):
        if given is not None:
            plain.append(given)
            continue
        twin = _twin(draw, contract.arguments, plain, place, shape) if argument.integers is None else None
        if twin is None:
            x, note = _argument(draw, argument, shape, found, contract, nonfinite)
            plain.append(x)
            notes += [f"{argument.name}: {note}"] if note else []
            continue
        first, same = twin
        plain.append(np.array(np.broadcast_to(plain[first], shape)))
        notes.append(f"{argument.name} {'is' if same else 'equals'} {contract.arguments[first].name}")
        if same:
            twins[place] = first
    names = [draw(layouts(among)) if isinstance(x, np.ndarray) else "C" for x in plain]
    args: list[Any] = []
    for place, (x, name) in enumerate(zip(plain, names, strict=True)):
        args.append(args[twins[place]] if place in twins else laid_out(x, name) if isinstance(x, np.ndarray) else x)
    names = [names[twins.get(i, i)] for i in range(len(names))]
    return Case(tuple(args), options, draw(cotangents(among=among)), tuple(names), tuple(notes))


def _twin(draw: DrawFn, arguments: Sequence[Argument], plain: Sequence[Any], place: int, shape: Shape) -> tuple[int, bool] | None:
    """An earlier argument that this one is to equal, and whether it is to be the same object."""
    mine = arguments[place]
    fit = [i for i, x in enumerate(plain) if isinstance(x, np.ndarray) and mine.takes(arguments[i], x) and _spreads(x.shape, shape)]
    if not fit or math.prod(shape) == 0:
        return None
    how = draw(st.sampled_from((0, 1, 0, 2, 0, 0)))
    first = fit[-1]
    return None if not how else (first, how == 2 and plain[first].shape == shape)


def _spreads(a: Shape, b: Shape) -> bool:
    return len(a) <= len(b) and all(m in (1, n) for m, n in zip(reversed(a), reversed(b), strict=False))


def _argument(
    draw: DrawFn, argument: Argument, shape: Shape, found: Sequence[Shape], contract: Contract, nonfinite: bool
) -> tuple[Array, str]:
    if argument.integers is not None:
        low, high = argument.integers.bounds(dict(zip(contract.names, found, strict=True)))
        if high <= low and math.prod(shape):
            reject()
        numbers = [draw(st.integers(low, high - 1)) for _ in range(math.prod(shape))]
        return np.array(numbers, np.int64).reshape(shape), ""
    domain = argument.region
    mode = NAMED[draw(st.sampled_from(MIX))]
    if getattr(domain, "inferred", False) and draw(st.integers(0, 9)) == 9:
        domain = EVERYWHERE
    x = _valued(draw, Alphabet(argument.dtype, domain, nonfinite), mode, shape)
    return x, "" if mode.name == "generic" else mode.name
