"""How sure a ratio of two times is: bootstrap intervals.

The rounds of a race are paired: round i of one side and round i of the other were run one after the other, so a busy minute hits both.
They are drawn again together, with replacement, and the ratio of the medians is taken each time; the middle 95 % of what comes out is
the interval. A geometric mean over cases draws each case again by itself.

Source: Efron & Tibshirani (1993), An introduction to the bootstrap, sec. 13.3 (the percentile interval).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LOW, HIGH = 2.5, 97.5


@dataclass(frozen=True)
class Ratio:
    """Above 1: ours is faster."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(theirs: Sequence[float], ours: Sequence[float], paired: bool = True) -> Ratio:
    """Their median over ours; `paired` for rounds of one race."""
    return of_draws(float(np.median(theirs) / np.median(ours)), drawn(theirs, ours, paired))


def geometric_mean(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Ratio:
    """Of the ratios of (theirs, ours) over cases."""
    point = float(np.exp(np.mean([np.log(np.median(theirs) / np.median(ours)) for theirs, ours in pairs])))
    logs = [np.log(drawn(theirs, ours, seed=seed)) for seed, (theirs, ours) in enumerate(pairs)]
    return of_draws(point, np.exp(np.mean(logs, axis=0)))


def drawn(theirs: Sequence[float], ours: Sequence[float], paired: bool = True, seed: int = 0) -> np.ndarray:
    """Ratios of medians of rounds that are drawn again."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(theirs), np.asarray(ours)
    if paired and len(a) == len(b):
        chosen = rng.integers(0, len(a), (DRAWS, len(a)))
        return np.asarray(np.median(a[chosen], axis=1) / np.median(b[chosen], axis=1))
    first, second = (x[rng.integers(0, len(x), (DRAWS, len(x)))] for x in (a, b))
    return np.asarray(np.median(first, axis=1) / np.median(second, axis=1))


def of_draws(point: float, draws: np.ndarray) -> Ratio:
    """A ratio with the middle of what was drawn as its interval."""
    low, high = np.percentile(draws, [LOW, HIGH])
    return Ratio(point, float(low), float(high))
