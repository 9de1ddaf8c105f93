"""What is under test: a function of arrays and the derivatives that somebody claims for it, all NumPy in and NumPy out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[..., Any]


class ClaimError(Exception):
    """The derivative under test raised, or returned something that is not a gradient."""


@dataclass(frozen=True)
class Subject:
    """A function and what is claimed about its derivatives.

    f          f(*arrays, **options) -> an array or a tuple of arrays
    vjp        vjp(g, args, y, **options) -> one gradient for each floating-point argument (or for each argument, None where
               there is none); g and y are arrays if f returns one, tuples if it returns several
    jvp        jvp(tangents, args, y, **options) -> the tangent of y; one tangent for each floating-point argument
    reference  the same function for the oracles, if f itself does not take complex or high-precision numbers
    gradient   makes the Subject whose function is the vjp of this one, (*cotangents, *args), from the number of args: for the second order
    derived    f is itself a gradient that somebody computed
    name       what reports call it
    """

    f: Function
    vjp: Function | None = None
    jvp: Function | None = None
    reference: Function | None = None
    gradient: Callable[[int], Subject] | None = None
    name: str = "f"
    derived: bool = False

    @property
    def oracle(self) -> Function:
        """What the oracles evaluate."""
        return self.reference or self.f

    def value(self, args: Sequence[Any], options: dict[str, Any]) -> Any:
        """f's value: an array, or a tuple of arrays."""
        return as_arrays(self.f(*args, **options))

    def gradients(self, g: Any, args: Sequence[Any], y: Any, options: dict[str, Any]) -> list[Any]:
        """For each argument the claimed gradient as it was returned, or None.

        Raises ClaimError if the rule raises or returns the wrong number of gradients.
        """
        if self.vjp is None:
            raise TypeError(f"{self.name} has no vjp")
        try:
            claimed = self.vjp(g, tuple(args), y, **options)
        except Exception as e:  # whatever a user's rule may raise is a finding about the rule
            raise ClaimError(f"the vjp raised {type(e).__name__}: {e}") from e
        return placed(claimed, args, "the vjp returned")

    def tangent(self, tangents: Sequence[Any], args: Sequence[Any], y: Any, options: dict[str, Any]) -> Any:
        """The claimed tangent of the output, as arrays. Raises NotImplementedError where there is none, else ClaimError."""
        if self.jvp is None:
            raise TypeError(f"{self.name} has no jvp")
        try:
            claimed = self.jvp(tuple(tangents), tuple(args), y, **options)
        except NotImplementedError:  # a framework that has no forward mode for this function
            raise
        except Exception as e:  # as above
            raise ClaimError(f"the jvp raised {type(e).__name__}: {e}") from e
        return as_arrays(claimed)


def placed(claimed: Any, args: Sequence[Any], what: str) -> list[Any]:
    """Gradients by argument. Raises ClaimError if they are neither one for each argument nor one for each floating-point one."""
    given = list(claimed) if isinstance(claimed, (tuple, list)) else [claimed]
    floats = floating(args)
    if len(given) == len(args):
        return [g if i in floats else None for i, g in enumerate(given)]
    if len(given) != len(floats):
        raise ClaimError(f"{what} {len(given)} gradients for {len(floats)} floating-point arguments")
    by_place = dict(zip(floats, given, strict=True))
    return [by_place.get(i) for i in range(len(args))]


def floating(args: Sequence[Any]) -> list[int]:
    """The places of the floating-point arguments."""
    return [i for i, a in enumerate(args) if is_float(a)]


def is_float(a: Any) -> bool:
    """Is it an array of real floating-point numbers, of whatever precision? A Python number is one too."""
    return isinstance(a, float) or (hasattr(a, "dtype") and np.issubdtype(a.dtype, np.floating)) or extended(a)


def extended(a: Any) -> bool:
    """bfloat16 and its relatives, which NumPy knows only through another package."""
    return hasattr(a, "dtype") and a.dtype.kind == "V" and "float" in a.dtype.name


def as_arrays(y: Any) -> Any:
    """An array for an array, a tuple of arrays for a tuple or list."""
    if isinstance(y, (tuple, list)):
        return tuple(np.asarray(part) for part in y)
    return np.asarray(y)


def outputs(y: Any) -> tuple[Any, ...]:
    """y as a tuple."""
    return y if isinstance(y, tuple) else (y,)
