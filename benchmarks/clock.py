"""Timing a callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

LONG_ENOUGH = 0.02  # seconds of a round: a thousand times what a clock and a loop cost


@dataclass(frozen=True)
class Times:
    """Seconds a call, over the rounds. The best says what the machine can do, the spread how far to trust it."""

    best: float
    median: float

    @property
    def spread(self) -> float:
        """Median over best: 1.0 on a quiet machine."""
        return self.median / self.best


def times(rounds: Sequence[float]) -> Times:
    return Times(min(rounds), median(rounds))


def seconds(f: Callable[[], Any], repeats: int) -> float:
    """Seconds a call, the mean over `repeats` calls."""
    start = perf_counter()
    for _ in range(repeats):
        f()
    return (perf_counter() - start) / repeats


def repeats_for(f: Callable[[], Any], long_enough: float = LONG_ENOUGH) -> int:
    """How many calls make a round."""
    repeats = 1
    while (took := seconds(f, repeats) * repeats) < long_enough / 4:
        repeats *= 4
    return max(1, round(repeats * long_enough / took))
