"""Complex numbers as pairs of real ones, so that every derivative is a real one and no convention about conjugates is needed.

A complex output is two outputs, its real and its imaginary part. A complex argument is two arguments, which the framework itself adds up:
its rules for complex numbers are judged with the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.testing.trying import names

Function = Callable[..., Any]


def is_complex(x: Any) -> bool:
    """Does an array of any framework hold complex numbers?"""
    return "complex" in str(getattr(x, "dtype", ""))


def real_parts(ys: Any) -> Any:
    """Outputs with a pair of real arrays for each complex one. What is not complex stays as it is."""
    several = isinstance(ys, (tuple, list))
    if not any(map(is_complex, ys if several else (ys,))):
        return ys
    return tuple(part for y in (ys if several else (ys,)) for part in ((y.real, y.imag) if is_complex(y) else (y,)))


def in_parts(f: Function) -> Function:
    """A function with real outputs for complex ones, where the arguments are real: a complex step gets complex outputs."""

    def parts(*args: Any, **kwargs: Any) -> Any:
        y = f(*args, **kwargs)
        return y if any(map(is_complex, args)) else real_parts(y)

    return parts


def taken_apart(f: Function, reference: Function | None, signature: Any) -> tuple[Function, Function | None, Any]:
    """All three with a pair of real arguments for each example array that is complex."""
    examples = [signature] if isinstance(signature, (np.ndarray, np.generic)) else signature
    if not isinstance(examples, (tuple, list)) or not any(map(is_complex, examples)):
        return f, reference, signature
    places = [i for i, x in enumerate(examples) if is_complex(x)]
    known = names(f, len(examples))
    reals = tuple(part for x in examples for part in ((x.real, x.imag) if is_complex(x) else (x,)))
    return of_pairs(f, places, known), reference and of_pairs(reference, places, known), reals


def of_pairs(f: Function, places: Sequence[int], known: Sequence[str]) -> Function:
    """A function with two real arguments in the place of each complex one."""

    def pairs(*reals: Any, **kwargs: Any) -> Any:
        left = list(reals)
        args: list[Any] = []
        while left:
            x = left.pop(0)
            args.append(x + 1j * left.pop(0) if len(args) in places else x)
        return real_parts(f(*args, **kwargs))

    told = [part for i, n in enumerate(known) for part in ((f"{n}_re", f"{n}_im") if i in places else (n,))]
    pairs.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in told]
    )
    pairs.__name__ = getattr(f, "__name__", "f")
    return pairs
