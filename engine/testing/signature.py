"""What a function takes, as its author says it or as trying it out tells.

parse        a signature
region       a domain
understand   the whole contract; what is missing in what the author says is found by calling the function
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from engine.domain import Domain
from engine.shapes import Notation
from engine.testing import domains, integers, trying
from engine.testing.contract import Argument, Contract, Dependent, Integers, Shape, below_axis
from engine.testing.judging import Judge
from engine.testing.options import axes
from engine.testing.subject import Subject, extended
from engine.testing.values import EVERYWHERE, Region, closed, framed

__all__ = ["Argument", "Contract", "Integers", "below_axis", "parse", "region", "understand"]


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
    for side in left.split(","):
        if "..." in side.split()[1:]:
            raise ValueError(f"in a signature, ... stands first or nowhere: {text!r}")
        if wrong := [t for t in side.split() if not re.fullmatch(r"[a-z_]\w*|\d+|\.\.\.", t)]:
            raise ValueError(f"in a signature, an axis is a name in small letters, a size, or ...; given {wrong[0]!r} in {text!r}")
    try:
        return [trying.notation(text if arrow else f"{left} -> ...")]
    except SyntaxError as e:
        raise ValueError(f"a signature like 'm k, k n -> m n' is wanted, given {text!r}: {e.msg}") from None


def _joined(inputs: Sequence[Sequence[str]], outputs: Sequence[Sequence[str]]) -> Notation:
    return trying.notation(", ".join(map(" ".join, inputs)) + " -> " + ", ".join(map(" ".join, outputs)))


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
    f: Subject | Callable[..., Any], signature: Any = None, domain: Any = None, kwargs: Any = None, *, dtype: Any = np.float64,
    cases: SearchStrategy[Any] | None = None,
) -> Contract:  # fmt: skip
    """The contract of `f`, NumPy in, NumPy out.

    f           a function, or a Subject: among the signatures that f takes, its gradient then chooses
    signature   notation, a list of them, an example array or a tuple of example arrays, or None to find out by trying
    domain      by name or place, see `region`; `Integers` for an argument of integers
    kwargs      by name: a constant, a strategy, a function of the shapes; or one strategy of dicts
    dtype       of the floating-point arguments
    cases       a strategy of (args, kwargs) that shapes and options come from: only domains are found, at one of them

    Raises ValueError if no signature can be found.
    """
    options = _sorted(kwargs)
    examples = _examples(signature)
    notations = _notations(signature) if signature is not None and examples is None else []
    function, judge = (f.f, _judge(f)) if isinstance(f, Subject) else (f, None)
    collected = _examples_of(cases) if cases is not None else []
    called = len(collected[0][0]) if collected else None
    given = (
        len(notations[0].inputs)
        if notations
        else len(examples)
        if examples
        else called or trying.count(function, kwargs if isinstance(kwargs, Mapping) else ())
    )
    for count in (given,) if given else (1, 2, 3):
        names = trying.names(function, count)
        contract = Contract(_arguments(names, domain, np.dtype(dtype), examples), tuple(notations), **options)
        if cases is not None:
            return _at_examples(function, contract, collected, _given(names, domain))
        found = _with_shapes(function, contract, examples, judge)
        if found is not None:
            return _with_domains(trying.Probe(function, found, judge), _given(names, domain))
    raise ValueError(
        f"no signature was found that {getattr(function, '__name__', 'the function')} takes with arguments {', '.join(names)}.\n"
        "  say what it takes: signature='m k, k n -> m n', or give example arrays, or cases=a strategy of (args, kwargs)"
    )


def _notations(signature: Any) -> list[Notation]:
    texts = [signature] if isinstance(signature, (str, Notation)) else signature
    return [n for text in texts for n in ([text] if isinstance(text, Notation) else parse(text))]


def _judge(subject: Subject) -> Judge | None:
    return Judge(subject) if subject.vjp is not None else None


def _with_shapes(f: Callable[..., Any], contract: Contract, examples: Any, judge: Judge | None) -> Contract | None:
    """The contract with signatures, and with integers where the function wants some; None if it takes nothing that was tried."""
    probe = trying.Probe(f, contract, judge)
    if examples is not None:
        return replace(contract, alternatives=(trying.of_examples(probe, examples),))
    if any(a.integers for a in contract.arguments) and contract.alternatives:
        return contract
    if contract.alternatives:
        found = contract if any(trying.takes_any_size(probe, n) for n in contract.alternatives) else None
    else:
        kept, notes = trying.signatures(probe)
        found = replace(contract, alternatives=tuple(kept), notes=tuple(notes)) if kept else None
    if found is None or _refused(probe, found):
        found = integers.with_integers(f, contract, judge, pulled=found is not None) or found
    return found or (contract if contract.alternatives else None)


def _refused(probe: trying.Probe, contract: Contract) -> bool:
    """Does the gradient say that an argument has none, or that it wants integers?"""
    return any(probe.pulled(trying.sized(n, trying.PRIMES)).refuses for n in contract.alternatives)


def _with_domains(probe: trying.Probe, given: set[str]) -> Contract:
    """The contract with the smallest sizes, with domains for the arguments that are not `given`, and with options."""
    contract = probe.contract
    least = tuple(trying.smallest(probe, n) for n in contract.alternatives)
    first = contract.alternatives[0]
    wanted = {a.name for a in contract.arguments if a.name not in given}
    example = probe.arrays(trying.sized(first, trying.PRIMES))
    found = domains.regions(probe, example, wanted, probe.options) if wanted else {}
    arguments = tuple(replace(a, region=found.get(a.name, a.region)) for a in contract.arguments)
    varied = {name: _option(name, default) for name, default in trying.options(probe, first).items()}
    notes = [*contract.notes, *filter(None, (domains.told(name, r) for name, r in found.items()))]
    notes += [f"{name} is varied" for name in varied]
    return replace(contract, arguments=arguments, smallest=least, dependent={**varied, **contract.dependent}, notes=tuple(notes))


def _at_examples(f: Callable[..., Any], contract: Contract, examples: Sequence[tuple[Any, Any]], given: set[str]) -> Contract:
    """The contract with calls of a user's strategy, and with domains as they are at one of them."""
    contract = replace(contract, examples=tuple(examples))
    start = next((example for example in contract.examples if _starts(f, *example)), None)
    if start is None:
        return contract
    args, options = start
    contract = contract.about(args)
    wanted = {a.name for a in contract.arguments if a.name not in given}
    found = domains.regions(trying.Probe(f, contract), args, wanted, options)
    arguments = tuple(replace(a, region=found.get(a.name, a.region)) for a in contract.arguments)
    return replace(contract, arguments=arguments, notes=tuple(filter(None, (domains.told(name, r) for name, r in found.items()))))


EXAMPLES = 160  # of a user's strategy
STARTS = 8  # for them: Hypothesis makes the later ones of a run from earlier ones


def _examples_of(cases: SearchStrategy[Any]) -> list[tuple[Any, Any]]:
    """Calls of a user's strategy that differ in shapes or options, the simplest first."""
    found: dict[str, tuple[Any, Any]] = {}

    def collect(case: tuple[Any, Any]) -> None:
        args, options = case
        shapes = [(a.shape, a.tolist() if a.dtype.kind in "iub" else "") if isinstance(a, np.ndarray) else a for a in args]
        found.setdefault(repr((shapes, options)), (tuple(args), dict(options)))

    few = settings(
        max_examples=EXAMPLES // STARTS, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    for start in range(STARTS):
        seed(start)(few(given(cases)(collect)))()
    ordered = [found[key] for key in sorted(found, key=lambda key: (sum(map(np.size, found[key][0])), len(key), key))]
    empty = [case for case in ordered if not all(map(np.size, case[0]))]
    full = [case for case in ordered if all(map(np.size, case[0]))]
    return empty[: max(3, len(full) // 4)] + full if full else empty  # empty arrays have little to say


def _starts(f: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> bool:
    """Is this a call from which domains can be found?"""
    return all(np.size(a) for a in args) and trying.called(f, args, options) is not None


def _option(name: str, default: Any) -> Dependent:
    """How to vary an option that `trying.options` found."""
    if name in ("axis", "dim"):
        return lambda shapes: _axis(next(iter(shapes.values())), default)
    if isinstance(default, bool):
        values = [default, not default]
    else:
        values = [default, *(trying.SMALL_OPTIONS.get(name) or trying.neighbours(default))]
    return lambda shapes: st.sampled_from(values)


def _axis(shape: Shape, default: int | None) -> Any:
    return axes(len(shape), none=default is None, several=False) if shape or default is None else default


def _given(names: Sequence[str], domain: Any) -> set[str]:
    """The arguments whose domain the author gave."""
    if domain is None:
        return set()
    if isinstance(domain, Mapping) and not set(domain) <= {"low", "high", "kinks"}:
        return {_named(k, names) for k in domain}
    return set(names)


def _named(key: Any, names: Sequence[str]) -> Any:
    """The argument that is meant: by its name, its place, or as `x2` where it has no name that one could know."""
    if isinstance(key, int) and -len(names) <= key < len(names):
        return names[key]
    plain = [trying.plain_name(i, len(names)) for i in range(len(names))]
    return names[plain.index(key)] if key in plain and key not in names else key


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
        rounded = x.dtype if x is not None and extended(x) else None
        found.append(Argument(name, EVERYWHERE if whole else region(given), np.dtype(np.float32) if rounded else kind, whole, rounded))
    return tuple(found)


def _range_of(x: np.ndarray[Any, Any]) -> Integers:
    return Integers(int(x.min()), int(x.max()) + 1) if x.size else Integers(0, 1)


def _by_name(names: Sequence[str], domain: Any) -> dict[str, Any]:
    """Domains by argument name, whether given by name, by place, or one for all."""
    if domain is None:
        return {}
    if not isinstance(domain, Mapping) or set(domain) <= {"low", "high", "kinks"}:
        return dict.fromkeys(names, domain)
    found = {_named(k, names): v for k, v in domain.items()}
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
