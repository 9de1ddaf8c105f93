"""What can be found out about a function by calling it: its shapes, its integers, its options. Domains are in domains.py."""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.shapes import Notation
from engine.testing.contract import Contract
from engine.testing.fitting import Guess, fitted, fitting, written
from engine.testing.judging import Judge, Pull

if TYPE_CHECKING:
    from engine.testing.contract import Argument

Shape = tuple[int, ...]
Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[..., Any]

FALLING = {"p": 9, "q": 8, "r": 7, "s": 6, "t": 5, "u": 4, "v": 3, "x": 2, "y": 2, "z": 2}
PRIMES = {"b": 2, "c": 2, "k": 4, "l": 2, "m": 3, "n": 5, "o": 3, "h": 4, "w": 5, **FALLING}
"""A size for each axis name, such that two axes that must be equal are not so by accident."""

OTHERS = {
    **PRIMES,
    "b": 3,
    "c": 4,
    "k": 3,
    "l": 3,
    "m": 4,
    "n": 7,
    "o": 2,
    "h": 6,
    "w": 3,
    "p": 8,
    "q": 9,
    "r": 6,
    "s": 7,
    "t": 4,
    "u": 3,
    "v": 2,
}
"""Other sizes, so that a signature that fits once by accident does not fit twice."""

RAGGED: tuple[Shape, ...] = ((), (3,), (2, 3), (2, 3, 4), (1, 5))

ALONE = ("", "n", "m n", "l m n", "b c h w", "n n", "l n n")

PAIRS = (
    ", ", "n, n", "n, m", "n, ", ", n", "m k, k", "k, k n", "m k, k n", "m n, n", "m n, m", "m n, m n", "m n, ", ", m n",
    "n n, n", "n n, n m", "n n, n n", "l m n, n", "l m n, l m n", "l m k, l k n", "b c h w, c", "b c h w, b c h w",
)  # fmt: skip

TRIPLES = (
    ", , ", "n, n, n", "k, k n, n", "m n, n, n", "m k, k n, n", "m k, n k, n", "m k, k n, m n", "m n, m n, m n",
    "m n, m n, ", "l m n, n, n", "b c h w, c, c",
)  # fmt: skip

LEAST = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 16)
"""Sizes that may be the smallest one of an axis."""

MOST = 6
"""Signatures that are drawn from, at most."""

# The arguments.


def count(f: Function, options: Collection[str] = ()) -> int | None:
    """How many arrays the function takes: positional parameters without a default that are not `options`. None if that cannot be told."""
    if isinstance(f, np.ufunc):
        return f.nin
    required = [p for p in _positional(f) if p.default is p.empty and p.name not in options]
    return len(required) or None


def names(f: Function, number: int) -> list[str]:
    """A name for each of `number` arguments."""
    known = [] if isinstance(f, np.ufunc) else [p.name for p in _positional(f)][:number]
    if len(known) < number and (written := _documented(f)[:number]):
        known = written if len(written) == number else known
    return known + [plain_name(i, number) for i in range(len(known), number)]


def plain_name(place: int, number: int) -> str:
    """What an argument without a name of its own is called."""
    return f"x{place + 1}" if number > 1 else "x"


def _documented(f: Function) -> list[str]:
    """The arrays that a function written in C takes, by the first line of its documentation: `lerp(input, end, weight, *, out=None)`."""
    inner = getattr(f, "function", f)  # what an adapter holds
    first, _, _ = (getattr(inner, "__doc__", None) or "").strip().partition("\n")
    written = re.match(r"[\w.]*\(([\w, ]*)", first) if inspect.isbuiltin(inner) or isinstance(inner, np.ufunc) else None
    return [name for part in written[1].split(",") if (name := part.strip()).isidentifier()] if written else []


def _positional(f: Function) -> list[inspect.Parameter]:
    return [p for p in _parameters(f) if p.kind != p.KEYWORD_ONLY]


def _parameters(f: Function) -> list[inspect.Parameter]:
    try:
        return [p for p in inspect.signature(f).parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    except (TypeError, ValueError):  # functions written in C may not tell
        return []


# Calling.


def called(f: Function, args: Sequence[Any], options: Mapping[str, Any]) -> list[Array] | None:
    """What `f` returns, as a list of arrays; None if it raises or returns no numbers. Its arguments are copies."""
    try:
        found = _values(f, args, options)
    except Exception:  # whatever it raises, it does not take these
        return None
    return found if all(part.dtype.kind in "fciub" for part in found) else None


def _values(f: Function, args: Sequence[Any], options: Mapping[str, Any]) -> list[Array]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y = f(*[np.array(a) for a in args], **options)
        return [np.asarray(part) for part in (y if isinstance(y, (tuple, list)) else (y,))]


def finite(f: Function, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Does `f` take these and return finite numbers only?"""
    found = called(f, args, options)
    return found is not None and all(bool(np.all(np.isfinite(part))) for part in found)


def is_square(shape: Shape) -> bool:
    """A square matrix is tried with a large diagonal: it then has an inverse, and a Cholesky factor."""
    return len(shape) > 1 and shape[-1] == shape[-2]


HUGE = 100_000  # elements of the output: no shapes to try a function with


class Probe:
    """Calls a function on arrays of moderate numbers of given shapes, its varying options being at their defaults."""

    BASES = ((0.3, 0.9), (1.2, 3.0), (-0.9, -0.3), (5.0, 9.0), (-3.0, -1.2), (40.0, 90.0))

    def __init__(self, f: Function, contract: Contract, judge: Judge | None = None):
        self.f = f
        self.contract = contract
        self.judge = judge
        self.options = dict(contract.fixed)

    def arrays(self, shapes: Sequence[Shape], bases: Sequence[int] | None = None) -> list[Array]:
        rng = np.random.default_rng(0)
        by_name = dict(zip(self.contract.names, shapes, strict=True))
        chosen = bases or (0,) * len(shapes)
        return [self._array(rng, a, by_name, b) for a, b in zip(self.contract.arguments, chosen, strict=True)]

    def _array(self, rng: np.random.Generator, argument: Argument, shapes: dict[str, Shape], base: int) -> Array:
        shape = shapes[argument.name]
        if argument.integers is not None:
            first, end = argument.integers.bounds(shapes)
            found = rng.integers(first, max(end, first + 1), shape)
            found.flat[:2] = (end - 1, first)[: found.size]
            return found.astype(bool) if argument.integers.logical else found
        low, high = self.BASES[base]
        region = argument.region
        if not (region.low < low and high < region.high):
            rim = (region.draw_high - region.draw_low) / 8
            low, high = region.draw_low + rim, region.draw_high - rim
        x = np.asarray(rng.uniform(low, high, shape))
        return (x + shape[-1] * np.eye(shape[-1]) if is_square(shape) else x).astype(argument.dtype)

    def takes(self, shapes: Sequence[Shape], more: Mapping[str, Any] | None = None) -> bool:
        """Does the function return floating-point numbers for these shapes?"""
        found = called(self.f, self.arrays(shapes), {**self.options, **(more or {})})
        return found is not None and any(part.dtype.kind in "fc" for part in found)

    def complaint(self, shapes: Sequence[Shape]) -> str | None:
        """What the function says about these shapes; None if it returns floating-point numbers for them."""
        try:
            found = _values(self.f, self.arrays(shapes), self.options)
        except Exception as e:  # whatever it raises, it does not take these
            return str(e)
        if sum(part.size for part in found) > HUGE:
            return "too many numbers"
        return None if any(part.dtype.kind in "fc" for part in found) else ""

    def pulls(self, shapes: Sequence[Shape], more: Mapping[str, Any] | None = None) -> bool:
        """Does the gradient, too, take these shapes?"""
        args = self.arrays(shapes)
        return self.judge is None or self.judge(args, {**self.options, **(more or {})}).fits(args)

    def pulled(self, shapes: Sequence[Shape]) -> Pull:
        """What the gradient makes of these shapes."""
        return self.judge(self.arrays(shapes), self.options) if self.judge else Pull(tuple(shapes))

    def elementwise(self) -> bool:
        """Does each element of the output depend on the same element of each argument, and on no other?"""
        args = self.arrays([(2, 3)] * len(self.contract.arguments))
        y = called(self.f, args, self.options)
        return y is not None and all(part.shape == (2, 3) for part in y) and all(self._local(args, i, y) for i in range(len(args)))

    def _local(self, args: Sequence[Array], place: int, y: Sequence[Array]) -> bool:
        nudged = [np.array(a) for a in args]
        nudged[place][0, 1] = nudged[place][0, 1] * 1.25 if nudged[place].dtype.kind == "f" else nudged[place][1, 1]
        other = called(self.f, nudged, self.options)
        return other is not None and all(np.count_nonzero(d) <= d[0, 1] for d in map(_differing, y, other))


def _differing(a: Array, b: Array) -> Array:
    """Where two arrays differ; nan is nan."""
    return np.asarray((a != b) & ~((a != a) & (b != b)))


# Shapes.


def sized(notation: Notation, size: Mapping[str, int], rest: Shape = (2, 3)) -> list[Shape]:
    """The shape of each argument where each name has this size."""

    def one(side: Sequence[str]) -> Iterator[int]:
        for token in side:
            yield from rest if token == "..." else (int(token) if token.isdigit() else size.get(token, 3),)

    return [tuple(one(side)) for side in notation.inputs]


def signatures(probe: Probe) -> tuple[list[Notation], list[str]]:
    """The signatures that the function takes, the most general ones only, and what was found in words."""
    count = len(probe.contract.arguments)
    if _spreads(probe, count):
        return [broadcast(count)], []
    named = {1: ALONE, 2: PAIRS, 3: TRIPLES}.get(count, (", ".join(["n"] * count), ", ".join(["m n"] * count)))
    taken = [n for n in map(inputs, named) if takes_any_size(probe, n)]
    often = [n for n in taken if any(n.inputs) and pulls_any_size(probe, n)]
    if count > 1 or not often:
        fits = _fitting(probe, count)
        taken += [n for n in fits if n not in taken and (not often or any(_narrower(known, n) for known in often))]
    pulled = [n for n in taken if pulls_any_size(probe, n)]
    if not any(any(n.inputs) for n in pulled) and any(any(n.inputs) and not (pulled and _fixed(n)) for n in taken):
        # numbers alone test nothing where arrays are taken
        pulled = [n for n in (_as_returned(probe, n) for n in taken) if n is not None]
    if any(not any(n.inputs) for n in pulled) and all(_fixed(n) for n in pulled if any(n.inputs)):
        pulled = [n for n in pulled if not any(n.inputs)]  # of numbers: the fixed sizes are those of arrays of its own
    pulled = [n for n in pulled if not _square(n)] or pulled  # products of square matrices have the shapes of any of them
    kept = _first_of(_most_general(pulled) or _most_right(probe, _most_general(taken)))
    kept = [_as_vectors(probe, n) for n in kept]
    left_out = [n for n in _most_general(taken) if n not in kept and not any(_narrower(n, other) for other in kept)]
    return kept, [f"shapes {n.text.partition(' ->')[0]!r} are left out: f takes them, its gradient does not" for n in left_out[:MOST]]


def _spreads(probe: Probe, count: int) -> bool:
    """Do the arguments broadcast against one another, and may they have any shape?"""
    spread = itertools.product(((2, 3), (3,), (2, 1), ()), repeat=count) if 1 < count < 4 else ()
    same = [(s,) * count for s in RAGGED]
    if not all(probe.takes(s) for s in (*same, *spread)):
        return False
    if probe.elementwise():
        return count == 1 or any(probe.pulls(s) for s in same[1:]) or not any(probe.pulled(s).shapes for s in same[1:])
    return count == 1 and all(probe.pulls(s) for s in same)


def _first_of(found: list[Notation]) -> list[Notation]:
    """The likeliest ones, if there are many: matrices rather than arrays of more axes, and these rather than vectors."""
    if len(found) <= MOST:
        return found

    def rank(n: Notation) -> tuple[bool, int]:
        ranks = [len(side) for side in n.inputs]
        return max(ranks) > 2, sum(ranks) if max(ranks) > 2 else -sum(ranks)

    return sorted(found, key=rank)[:MOST]


def _fitting(probe: Probe, count: int) -> list[Notation]:
    """What fits, in letters whose sizes fit, too: those of windows fall from the first argument to the last."""
    found = []
    for guess in fitting(probe, count):
        if any(sum(isinstance(t, str) for t in side) > 2 for side in guess):
            continue  # its own arrays may be spread over that, but fewer axes show the same
        found += [n for n in (written(guess), written(guess, tuple(FALLING))) if takes_any_size(probe, n)][:1]
    return found


def _square(notation: Notation) -> bool:
    """Does an argument have two axes of one size?"""
    return any(len(set(side)) < len(side) for side in notation.inputs)


def _fixed(notation: Notation) -> bool:
    """Has an axis a size that the function asked for?"""
    return any(token.isdigit() for side in notation.inputs for token in side)


def _most_right(probe: Probe, taken: list[Notation]) -> list[Notation]:
    """Those at which the gradient has the right shape for the most arguments; it has it for all of them at none."""
    right = [probe.pulled(shapes).right(probe.arrays(shapes)) for shapes in (sized(n, PRIMES) for n in taken)]
    best = [n for n, some in zip(taken, right, strict=True) if some == max(right)]
    return [n for n in best if any(n.inputs)] or [n for n in taken if any(n.inputs)] or taken


def _as_returned(probe: Probe, notation: Notation) -> Notation | None:
    """The notation with an axis of 2 or 3 where the gradient says so: coordinates, of which the function takes more but uses the first."""
    sides = [list(side) for side in notation.inputs]
    for sizes in (PRIMES, OTHERS):
        shapes = sized(notation, sizes)
        for side, wanted, got in zip(notation.inputs, shapes, probe.pulled(shapes).shapes, strict=False):
            for token, n, m in zip(side, wanted, got or (), strict=False):
                if n != m in (2, 3):
                    sides = [[str(m) if t == token else t for t in s] for s in sides]
    other = inputs(", ".join(" ".join(s) for s in sides))
    return other if sides != notation.inputs and takes_any_size(probe, other) and pulls_any_size(probe, other) else None


VECTORS = re.compile(r"(b|bias|beta|gamma|shift|offset)_?\d*")


def _as_vectors(probe: Probe, notation: Notation) -> Notation:
    """The notation with a vector for what is called a bias, if it has the shape of the output only because nobody summed its gradient."""
    if "a" in probe.contract.names:  # then b is the next letter, and no bias
        return notation
    for place, name in enumerate(probe.contract.names):
        side = notation.inputs[place]
        if len(notation.inputs) < 3 or len(side) < 2 or not VECTORS.fullmatch(name):
            continue
        sides = [*notation.inputs[:place], side[-1:], *notation.inputs[place + 1 :]]
        other = inputs(", ".join(" ".join(s) for s in sides))
        if takes_any_size(probe, other):
            full, given = sized(notation, PRIMES), probe.pulled(sized(other, PRIMES)).shapes
            if given and given[place] == full[place]:
                return other
    return notation


def broadcast(count: int) -> Notation:
    """`count` arguments that broadcast against one another."""
    return inputs(", ".join(["..."] * count))


def inputs(text: str) -> Notation:
    """A notation from its left side."""
    return notation(f"{text} -> ...")


def notation(text: str) -> Notation:
    """A Notation; with nothing on its left it is that of one argument without axes."""
    found = Notation(text)
    found.inputs = found.inputs or [[]]
    return found


def takes_any_size(probe: Probe, notation: Notation) -> bool:
    """Does the function take two sizes of each axis?"""
    return probe.takes(sized(notation, PRIMES)) and probe.takes(sized(notation, OTHERS, rest=(3,)))


def pulls_any_size(probe: Probe, notation: Notation) -> bool:
    """Does the gradient take them, too?"""
    return probe.pulls(sized(notation, PRIMES)) and probe.pulls(sized(notation, OTHERS, rest=(3,)))


def _most_general(notations: list[Notation]) -> list[Notation]:
    """Without those that are another one with two of its names made equal, or another one in other letters."""
    kept = [n for n in notations if not any(_narrower(n, other) and not _narrower(other, n) for other in notations)]
    return [n for i, n in enumerate(kept) if not any(_narrower(n, other) for other in kept[:i])]


def _narrower(a: Notation, b: Notation) -> bool:
    """Is `a` the notation `b` with other letters, some of them perhaps made equal?"""
    if [len(side) for side in a.inputs] != [len(side) for side in b.inputs]:
        return False
    means: dict[str, str] = {}
    pairs = [(p, q) for side, other in zip(a.inputs, b.inputs, strict=True) for p, q in zip(side, other, strict=True)]
    return all(means.setdefault(q, p) == p for p, q in pairs)


def smallest(probe: Probe, notation: Notation) -> dict[str, int]:
    """The smallest size of each name, and of the axes under `...`, that gives an answer."""
    found = {name: _smallest(probe, notation, name) for name in notation.names}
    return {**found, "...": _smallest(probe, notation, None)} if notation.broadcasts else found


def _smallest(probe: Probe, notation: Notation, name: str | None) -> int:
    found = next((n for n in LEAST if _answers(probe, notation, name, n) is not None), 1)
    if found == 0 and _answers(probe, notation, name, 0) == 0:
        # a window of 3 gives nothing for 2 elements, and could not give less for 1 or 0: sizes that nobody means
        filled = next((n for n in LEAST if _answers(probe, notation, name, n)), 1)
        return filled - 1
    if name and found < 2 and not any(_pulls_at(probe, notation, name, n) for n in (1, 2, 3)):
        # np.convolve swaps what is shorter than the window; the gradient says from where on it is meant
        return next((n for n in LEAST[4:] if _pulls_at(probe, notation, name, n)), found)
    return found


def _pulls_at(probe: Probe, notation: Notation, name: str, n: int) -> bool:
    return probe.pulls(sized(notation, {**PRIMES, name: n}))


def _answers(probe: Probe, notation: Notation, name: str | None, n: int) -> int | None:
    """How many numbers come out where the axes called `name` are of size n; None if they are not finite, or the function refuses."""
    shapes = sized(notation, {**PRIMES, name: n} if name else PRIMES, (2, 3) if name else (2, n))
    found = called(probe.f, probe.arrays(shapes), probe.options)
    if found is None or not all(bool(np.all(np.isfinite(part))) for part in found):
        return None
    return sum(part.size for part in found)


def of_examples(probe: Probe, examples: Sequence[Array]) -> Notation:
    """The shapes of the examples, with a name for each size that may be another one."""
    shapes = [x.shape for x in examples]
    apart = fitted(probe, [len(s) for s in shapes])
    found = _named_by_size(apart, shapes) if apart is not None else None
    if found is not None and (probe.pulls(sized(found, PRIMES)) or not probe.pulls(shapes)) and takes_any_size(probe, found):
        return found
    names = {n: f"n{n}" for s in shapes for n in s}

    def text(named: Mapping[int, str]) -> Notation:
        return inputs(", ".join(" ".join(named.get(n, str(n)) for n in s) for s in shapes))

    sizes = {name: n for n, name in names.items()}
    larger = {n: sized(text(names), {**sizes, name: n + 1}) for n, name in names.items()}
    wrong = not probe.pulls(shapes)  # then the gradient does not tell what is meant
    return text({n: name for n, name in names.items() if probe.takes(larger[n]) and (wrong or probe.pulls(larger[n]))})


def _named_by_size(guess: Guess, shapes: Sequence[Shape]) -> Notation | None:
    """A guess with names that tell the sizes in the examples; None if these sizes do not fit it."""
    size: dict[int, int] = {}
    for token, n in ((t, n) for side, s in zip(guess, shapes, strict=True) for t, n in zip(side, s, strict=True)):
        if n != (int(token) if isinstance(token, str) else size.setdefault(token, n)):
            return None
    taken = list(size.values())
    names = {t: f"n{n}" if taken.count(n) == 1 else f"n{n}_{t}" for t, n in size.items()}
    return inputs(", ".join(" ".join(t if isinstance(t, str) else names[t] for t in side) for side in guess))


# Options.

SMALL_OPTIONS = {"stride": (1, 2, 3), "strides": (1, 2, 3), "padding": (0, 1, 2), "dilation": (1, 2)}
SIDE_EFFECTS = {"training", "train", "inplace", "out", "copy", "overwrite", "verbose", "debug"}
"""Switches that change more than the answer."""


def options(probe: Probe, notation: Notation) -> dict[str, Any]:
    """The options of the function that it is known how to vary, with their defaults."""
    if isinstance(probe.f, np.ufunc):
        return {}
    found = {}
    shapes = sized(notation, PRIMES)
    known = {*probe.contract.fixed, *probe.contract.kwargs, *probe.contract.dependent}
    named = probe.judge.options if probe.judge else set()
    for p in _parameters(probe.f)[len(shapes) :]:
        if p.default is not p.empty and p.name not in known and p.name not in SIDE_EFFECTS and probe.contract.all_kwargs is None:
            tried = _values_of(p.name, p.default, max((len(s) for s in shapes), default=0), p.name in named)
            if tried and all(probe.takes(shapes, {p.name: v}) for v in tried) and any(probe.pulls(shapes, {p.name: v}) for v in tried):
                found[p.name] = p.default
    return found


def _values_of(name: str, default: Any, ndim: int, named: bool) -> list[Any]:
    """Values of an option that differ from its default. `named`: the gradient has it as an argument of its own, so it heeds it."""
    if isinstance(default, bool):
        return [not default]
    if name in ("axis", "dim") and (default is None or isinstance(default, int)):
        return [a for a in range(ndim) if default is None or a != default % max(ndim, 1)]
    if name in SMALL_OPTIONS and isinstance(default, int):
        return [v for v in SMALL_OPTIONS[name] if v != default]
    return neighbours(default) if named and isinstance(default, (int, float)) else []


def neighbours(default: float) -> list[Any]:
    """What a number among the options may be instead: one more, or half as much."""
    return [default + 1] if isinstance(default, int) else [default / 2 if default else 0.5]
