"""The engine itself: ops, and functions written with ops or with NumPy."""

from typing import Any

from engine import jvp, vjp  # noqa: F401


def wrap(x: Any) -> Any:
    return x


unwrap = wrap
