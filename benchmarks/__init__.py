"""How fast, against what, and how far to trust it. Verify first, then time."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`benchmarks.bench`, the mark of a function of one's own; the engine is imported when it is first asked for."""
    if name == "bench":
        from benchmarks.yours import bench

        return bench
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
