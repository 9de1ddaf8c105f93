"""What a gradient does at shapes that its function takes: it tells which of them its author had in mind."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from engine.testing.subject import ClaimError, Subject, floating, outputs

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Pull:
    """What the gradient made of one call: the shape of what it returned for each argument, None where that was nothing.

    too_few   it returned gradients for some of the floating-point arguments only, without a word for which
    whole     it raised because it wants integers
    """

    shapes: tuple[Shape | None, ...] = ()
    too_few: bool = False
    whole: bool = False

    def right(self, args: Sequence[Any]) -> int:
        """How many floating-point arguments have a gradient of their own shape."""
        return sum(self.shapes[i] == np.shape(args[i]) for i in floating(args)) if self.shapes else 0

    def fits(self, args: Sequence[Any]) -> bool:
        """Have all of them?"""
        return bool(self.shapes) and self.right(args) == len(floating(args))

    @property
    def refuses(self) -> bool:
        """Are there arguments that get no gradient, though they hold floating-point numbers?

        A rule that raises for another reason may be wrong: that says nothing about its arguments.
        """
        return self.too_few or self.whole or (bool(self.shapes) and None in self.shapes)


class Judge:
    """Calls the gradient of a subject with a cotangent of ones."""

    def __init__(self, subject: Subject):
        self.subject = subject

    @cached_property
    def options(self) -> set[str]:
        """The options that the gradient has as arguments of its own."""
        try:
            parameters = inspect.signature(self.subject.vjp).parameters if self.subject.vjp else {}
        except (TypeError, ValueError):  # functions written in C may not tell
            return set()
        return {name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def __call__(self, args: Sequence[Any], options: dict[str, Any]) -> Pull:
        subject = self.subject
        try:
            with np.errstate(all="ignore"):
                y = subject.value([np.array(a) for a in args], options)
                ones = tuple(np.ones_like(part) for part in outputs(y))
                found = subject.gradients(ones if isinstance(y, tuple) else ones[0], args, y, options)
        except ClaimError as e:
            wanted = isinstance(e.__cause__, (IndexError, TypeError)) and "integer" in str(e)
            return Pull(too_few=" gradients for " in str(e), whole=wanted)
        except Exception:  # whatever the function raises, it does not take these
            return Pull()
        return Pull(tuple(None if c is None else np.shape(c) for c in found))
