r"""How much is kept, as a function of the step: from `start` at step `begin` to `end` at step `begin + steps`, and there it stays.

    Cubic(0.1, steps=1000)(500)        # what is kept half way

A schedule is any function from a step to a share; those here print as they are written. Shares are of what is kept, 1 - sparsity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Schedule(ABC):
    """What the schedules have in common.

    end      the share that is kept at last, in (0, 1]
    steps    over how many steps it is reached
    begin    the first step that prunes
    start    the share before
    """

    end: float
    steps: int = 1
    begin: int = 0
    start: float = 1.0

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not 0 < self.end <= self.start <= 1:
            raise ValueError(f"{type(self).__name__}: kept is a share that falls, 0 < end <= start <= 1, not {self.start} to {self.end}")
        if self.steps < 1 or self.begin < 0:
            raise ValueError(
                f"{type(self).__name__}: it begins at step {self.begin} and ends at step {self.begin + self.steps}\n"
                "  wanted are begin >= 0 and steps >= 1: it cannot end before it starts"
            )

    def __call__(self, step: int) -> float:
        done = (step - self.begin) / self.steps
        return self.start if done < 0 else self.end if done >= 1 else self.share(done)

    @abstractmethod
    def share(self, done: float) -> float:
        """What is kept when the part `done` of the way, from 0 to below 1, is gone."""


@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once, at step `begin + steps`. Nothing before."""

    name: ClassVar[str] = "oneshot"

    def share(self, done: float) -> float:
        """`start`"""
        return self.start


@dataclass(frozen=True)
class Linear(Schedule):
    r"""$k(t) = k_1 + (k_0 - k_1)(1 - t)$"""

    name: ClassVar[str] = "linear"

    def share(self, done: float) -> float:
        """On a straight line."""
        return self.end + (self.start - self.end) * (1 - done)


@dataclass(frozen=True)
class Cubic(Schedule):
    r"""$k(t) = k_1 + (k_0 - k_1)(1 - t)^3$: much at first, where there is much to spare

    Source: Zhu & Gupta (2018), To prune, or not to prune, eq. 1, written for what is kept.
    """

    name: ClassVar[str] = "cubic"

    def share(self, done: float) -> float:
        """On a cubic curve."""
        return self.end + (self.start - self.end) * (1 - done) ** 3


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""$k(t) = k_0 (k_1 / k_0)^t$: the same share of what is left in each step, as in the search for lottery tickets

    Source: Frankle & Carbin (2019), The lottery ticket hypothesis, sec. 2: iterative pruning.
    """

    name: ClassVar[str] = "exponential"

    def share(self, done: float) -> float:
        """By equal factors."""
        return float(self.start * (self.end / self.start) ** done)


SCHEDULES: dict[str, Any] = {schedule.name: schedule for schedule in (OneShot, Linear, Cubic, Exponential)}
