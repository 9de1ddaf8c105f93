"""Timing a callable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

LONG_ENOUGH = 0.02  # seconds of a round: a thousand times what a clock and a loop cost
CALLED = {"wall": "wall clock", "cpu": "processor time", "device": "the GPU's clock, copies apart"}
SWEEP = 512 << 20  # bytes at most that are read to empty the caches


class Device:
    """Seconds that the GPU's own clock has seen pass: an event is recorded behind all that was launched, and waited for.

    Gaps in which the GPU waits for the host to launch are in it.
    """

    def __init__(self) -> None:
        self.last: Any = None
        self.total = 0.0

    def __call__(self) -> float:
        from numba import cuda

        event = cuda.event()
        event.record()
        event.synchronize()
        if self.last is not None:
            self.total += cuda.event_elapsed_time(self.last, event) / 1000  # in float32: sums of short ones stay exact
        self.last = event
        return self.total


CLOCKS: dict[str, Callable[[], float]] = {
    "wall": time.perf_counter,
    "cpu": time.process_time,  # of all threads of the process: work that is handed to another thread is not lost
    "device": Device(),
}


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


def seconds(f: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds a call, the mean over `repeats` calls."""
    start = clock()
    for _ in range(repeats):
        f()
    return (clock() - start) / repeats


def repeats_for(f: Callable[[], Any], long_enough: float = LONG_ENOUGH, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls make a round."""
    repeats = 1
    while (took := seconds(f, repeats, clock) * repeats) < long_enough / 4:
        repeats *= 4
    return max(1, round(repeats * long_enough / took))


class Sweep:
    """Empties the caches by reading more than they hold."""

    def __init__(self, cache_bytes: int):
        self.memory = np.ones(min(2 * cache_bytes, SWEEP) // 8)

    def __call__(self) -> None:
        self.memory.sum()
