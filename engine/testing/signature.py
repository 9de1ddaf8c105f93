"""What a function takes: shapes, domains and options, as its author says, or as trying it out tells.

Argument    one array argument: its name, dtype, and the region or the integers that it is drawn from
Contract    all arguments, the shapes that fit together, and the options
understand  a Contract from what is known about a function; what is missing is found by calling it
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis.strategies import SearchStrategy

from engine.domain import Domain
from engine.shapes import Notation, ShapeError
from engine.testing import trying
from engine.testing.values import EVERYWHERE, Region, closed, framed

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Dependent = Callable[[dict[str, Shape]], Any]


@dataclass(frozen=True)
class Integers:
    """Integers from `low` to below `high`, which is a number or a function of the shapes, a dict by argument."""

    low: int = 0
    high: int | Callable[[dict[str, Shape]], int] = 2

    def bounds(self, shapes: dict[str, Shape]) -> tuple[int, int]:
        return self.low, self.high(shapes) if callable(self.high) else self.high


def below_axis(name: str, axis: int = 0, low: int = 0) -> Integers:
    """Indices into an axis of the argument called `name`."""
    return Integers(low, lambda shapes: shapes[name][axis])


@dataclass(frozen=True)
class Argument:
    """One array argument. `integers` is None where it holds floating-point numbers."""

    name: str
    region: Domain = EVERYWHERE
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.float64))
    integers: Integers | None = None

    def takes(self, other: Argument, x: np.ndarray[Any, Any]) -> bool:
        """Can this argument equal `x`, a value of another?"""
        return other.integers is None and self.dtype == other.dtype and bool(np.all(self.region.contains(x)))


@dataclass(frozen=True)
class Contract:
    """What a function takes.

    alternatives   shape notations; each call is drawn from one of them
    smallest       for each notation, the smallest size of each axis name that the function takes
    fixed          options that are the same in every call
    kwargs         options drawn from a strategy, before the shapes
    dependent      options that depend on the shapes
    all_kwargs     a strategy of dicts of options
    notes          what was found out by trying, in words
    """

    arguments: tuple[Argument, ...]
    alternatives: tuple[Notation, ...]
    smallest: tuple[Mapping[str, int], ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    kwargs: Mapping[str, SearchStrategy[Any]] = field(default_factory=dict)
    dependent: Mapping[str, Dependent] = field(default_factory=dict)
    all_kwargs: SearchStrategy[dict[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [a.name for a in self.arguments]

    def least(self, notation: Notation) -> Mapping[str, int]:
        """The smallest size of each axis name of one of the notations."""
        return dict(zip(self.alternatives, self.smallest, strict=False)).get(notation, {})

    def fits(self, notation: Notation, shapes: Sequence[Shape], options: Mapping[str, Any]) -> bool:
        """Do these shapes fit the notation, the output's shape included?"""
        try:
            notation.infer(self.names, shapes, options)
        except ShapeError:
            return False
        except (NameError, TypeError, ZeroDivisionError):  # the text speaks of options that are not here: only the inputs are judged
            return True
        return True

    def about(self, args: Sequence[Any]) -> Contract:
        """The contract for these very arguments: as many, of their dtypes."""
        known = list(self.arguments[: len(args)])
        known += [Argument(f"x{i + 1}") for i in range(len(known), len(args))]
        kept = (replace(a, dtype=x.dtype) if _floats(x) else a for a, x in zip(known, args, strict=True))
        return replace(self, arguments=tuple(kept))


def _floats(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic)) and x.dtype.kind == "f"


# What an author may write.


def parse(text: str) -> list[Notation]:
    """Notations from one text: `"m k, k n -> m n"`, without its right side, or as NumPy writes it, `"(m,k),(k,n)->(m,n)"`.

    Raises ValueError for text that is neither.
    """
    left, arrow, right = text.partition("->")
    if "(" in left:
        core = [[axis.strip() for axis in side.split(",") if axis.strip()] for side in re.findall(r"\(([^)]*)\)", left)]
        results = [[axis.strip() for axis in side.split(",") if axis.strip()] for side in re.findall(r"\(([^)]*)\)", right)]
        return [_joined([[*lead, *side] for side in core], [[*lead, *side] for side in results]) for lead in ([], ["..."])]
    if any("..." in side.split()[1:] for side in left.split(",")):
        raise ValueError(f"in a signature, ... stands first or nowhere: {text!r}")
    try:
        return [Notation(text if arrow else f"{left} -> ...")]
    except SyntaxError as e:
        raise ValueError(f"a signature like 'm k, k n -> m n' is wanted, given {text!r}: {e.msg}") from None


def _joined(inputs: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]]) -> Notation:
    return Notation(", ".join(map(" ".join, inputs)) + " -> " + ", ".join(map(" ".join, outputs)))


def region(given: Any) -> Domain:
    """A domain as a user may write it: Domain, (low, high), {"low": ..., "high": ..., "kinks": [...]}, or None for all numbers.

    The ends of (low, high) and of a dict belong to the interval.
    Raises TypeError or ValueError for anything else.
    """
    if given is None:
        return EVERYWHERE
    if isinstance(given, Region) or not isinstance(given, (Domain, Mapping, tuple, list)):
        if isinstance(given, Region):
            return given
        raise TypeError(f"a domain is a Domain, (low, high) or a dict with low, high, kinks; given {given!r}")
    if isinstance(given, Domain):
        return Region(given.low, given.high, given.kinks, given.draw_low, given.draw_high)
    known = {"low", "high", "kinks"}
    if isinstance(given, Mapping):
        if unknown := set(given) - known:
            raise ValueError(f"a domain has low, high and kinks; given {sorted(map(str, unknown))}")
        low, high, kinks = given.get("low"), given.get("high"), given.get("kinks", ())
    else:
        low, high = given
        kinks = ()
    low, high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return closed(low, high, tuple(map(float, kinks))) if math.isfinite(low) or math.isfinite(high) else framed(low, high, tuple(kinks))


def understand(
    f: Callable[..., Any], signature: Any = None, domain: Any = None, kwargs: Any = None, *, dtype: Any = np.float64,
    judge: Callable[[Sequence[Any], dict[str, Any]], bool] | None = None, cases: bool = False,
) -> Contract:  # fmt: skip
    """The contract of `f`, NumPy in, NumPy out.

    signature   notation, a list of them, an example array or a tuple of example arrays, or None to find out by trying
    domain      by name or place, see `region`; `Integers` for an argument of integers
    kwargs      by name: a constant, a strategy, a function of the shapes; or one strategy of dicts
    dtype       of the floating-point arguments
    judge       of (args, kwargs): does the gradient have the arguments' shapes? Chooses among signatures found by trying
    cases       the shapes come from elsewhere: nothing is tried

    Raises ValueError if no signature can be found.
    """
    options = _sorted(kwargs)
    examples = _examples(signature)
    texts = [signature] if isinstance(signature, str) else signature if signature is not None and examples is None else None
    notations = [n for text in texts for n in ([text] if isinstance(text, Notation) else parse(text))] if texts is not None else None
    count = len(notations[0].inputs) if notations else len(examples) if examples else None
    names = trying.names(f, count)
    arguments = _arguments(names, domain, np.dtype(dtype), examples)
    contract = Contract(arguments, tuple(notations or ()), **options)
    if cases:
        return contract
    return trying.completed(f, contract, examples=examples, judge=judge, given=_given(names, domain))


def _given(names: Sequence[str], domain: Any) -> set[str]:
    """The arguments whose domain the author gave."""
    if domain is None:
        return set()
    if isinstance(domain, Mapping) and not set(domain) <= {"low", "high", "kinks"}:
        return {names[k] if isinstance(k, int) else k for k in domain}
    return set(names)


def _examples(signature: Any) -> list[np.ndarray[Any, Any]] | None:
    """The example arrays, if that is what was given."""
    if signature is None or isinstance(signature, (str, Notation)):
        return None
    if isinstance(signature, (list, tuple)) and all(isinstance(s, (str, Notation)) for s in signature):
        return None
    several = isinstance(signature, (list, tuple))
    return [np.asarray(x) for x in (signature if several else (signature,))]


def _arguments(names: Sequence[str], domain: Any, dtype: np.dtype[Any], examples: Any) -> tuple[Argument, ...]:
    regions = _by_name(names, domain)
    found = []
    for place, name in enumerate(names):
        x = examples[place] if examples else None
        given = regions.get(name)
        whole = given if isinstance(given, Integers) else _range_of(x) if x is not None and x.dtype.kind in "iub" else None
        kind = x.dtype if x is not None and x.dtype.kind == "f" else dtype
        found.append(Argument(name, EVERYWHERE if whole else region(given), kind, whole))
    return tuple(found)


def _range_of(x: np.ndarray[Any, Any]) -> Integers:
    return Integers(int(x.min()), int(x.max()) + 1) if x.size else Integers(0, 1)


def _by_name(names: Sequence[str], domain: Any) -> dict[str, Any]:
    """Domains by argument name, whether given by name, by place, or one for all."""
    if domain is None:
        return {}
    if not isinstance(domain, Mapping) or set(domain) <= {"low", "high", "kinks"}:
        return dict.fromkeys(names, domain)
    found = {names[k] if isinstance(k, int) and -len(names) <= k < len(names) else k: v for k, v in domain.items()}
    if unknown := [k for k in found if k not in names]:
        raise ValueError(f"domain: there is no argument {unknown[0]!r}; the arguments are {', '.join(names)}")
    return found


def _sorted(kwargs: Any) -> dict[str, Any]:
    """The options by when they are drawn."""
    if kwargs is None:
        return {}
    if isinstance(kwargs, SearchStrategy):
        return {"all_kwargs": kwargs}
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs is a dict or a strategy of dicts, given {type(kwargs).__name__}")
    kinds: dict[str, dict[str, Any]] = {"kwargs": {}, "dependent": {}, "fixed": {}}
    for name, value in kwargs.items():
        kinds["kwargs" if isinstance(value, SearchStrategy) else "dependent" if callable(value) else "fixed"][name] = value
    return dict(kinds)
