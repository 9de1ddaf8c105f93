"""The engine itself: ops, and functions written with ops or with NumPy."""

from typing import Any

from engine import jvp, vjp  # noqa: F401
from engine.interpret import interpreting
from engine.testing.exact import EXACTLY, bare, seen


def wrap(x: Any) -> Any:
    return seen(x)


def unwrap(y: Any) -> Any:
    return bare(y)


def scope() -> Any:
    return interpreting(EXACTLY)
