"""Where an op is defined and where it is smooth, and how to draw such arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Domain:
    """The open interval (low, high) without the points where the op is not differentiable.

    low, high   the interval on which the op is defined
    kinks       points inside it where the left and right derivatives differ
    draw_low, draw_high   where test values are drawn from: a part that is neither flat nor steep
    """

    low: float = -math.inf
    high: float = math.inf
    kinks: tuple[float, ...] = ()
    draw_low: float = -2.0
    draw_high: float = 2.0

    def contains(self, x: Any) -> Any:
        """Elementwise: is the op defined there?"""
        return (x > self.low) & (x < self.high)

    def step_off(self, x: Any, margin: float = 1e-2) -> Any:
        """`x` with every element at least `margin` away from each kink."""
        for kink in self.kinks:
            near = abs(x - kink) < margin
            x = np.where(near, kink + np.where(x >= kink, margin, -margin), x)
        return x


real = Domain()
positive = Domain(low=0.0, draw_low=0.1, draw_high=3.0)


def interval(low: float, high: float) -> Domain:
    """Defined between `low` and `high`; drawn from the middle nine tenths."""
    rim = (high - low) / 20
    return Domain(low, high, (), low + rim, high - rim)


def above(low: float) -> Domain:
    """Defined above `low`."""
    return Domain(low=low, draw_low=low + 0.1, draw_high=low + 3.0)


def away_from(*kinks: float) -> Domain:
    """Defined everywhere, not differentiable at `kinks`."""
    low, high = min(kinks), max(kinks)
    return Domain(kinks=kinks, draw_low=low - 2.0, draw_high=high + 2.0)


class Pick:
    """Draws arguments for an op. A sampler is written against this; a property tester may stand another behind it."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def size(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[self.size(0, len(options) - 1)]

    def array(self, *shape: int, domain: Domain = real) -> np.ndarray:
        """A float64 array from `domain`, off its kinks."""
        x = self.rng.uniform(domain.draw_low, domain.draw_high, shape)
        return np.asarray(domain.step_off(x))

    def integers(self, *shape: int, low: int = 0, high: int) -> np.ndarray:
        """An integer array with `low` <= element < `high`."""
        return self.rng.integers(low, high, shape)
