"""The engine itself: ops, and functions written with ops or with NumPy."""

from contextlib import nullcontext as scope  # noqa: F401
from typing import Any

from engine import jvp, vjp  # noqa: F401


def wrap(x: Any) -> Any:
    return x


unwrap = wrap
