r"""Learning rates that change with the step.

A schedule is any function from a step (0 for the first) to a learning rate: `Adam(lr=lambda step: 1e-3 / (1 + step))` works.
Those below are functions that print as they are written and compare by what they hold, so that a checkpoint can tell
whether a run goes on as it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Rate = float | Callable[[int], float]


def rate(lr: Rate, step: int) -> float:
    """The learning rate at `step`, as a Python float (a NumPy scalar would promote float32 parameters).

    Raises ValueError if it is negative or not finite.
    """
    value = float(lr(step) if callable(lr) else lr)
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"the learning rate at step {step} is {value}, a finite number >= 0 is wanted (lr={lr!r})")
    return value


@dataclass(frozen=True)
class Constant:
    r"""$\eta_t = \eta$"""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class LinearWarmup:
    r"""$\eta_t = \eta (t + 1) / T$ for the first $T$ steps, then `then`, counted from the end of the warmup.

    then    a schedule or a number; None keeps the rate reached, lr
    Source: Goyal et al. (2017), Accurate, large minibatch SGD, sec. 2.2.
    """

    lr: float
    steps: int
    then: Rate | None = None

    def __post_init__(self) -> None:
        _positive(self.steps, "LinearWarmup")

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.lr * (step + 1) / self.steps
        return self.lr if self.then is None else rate(self.then, step - self.steps)


@dataclass(frozen=True)
class Cosine:
    r"""$\eta_t = \eta_T + (\eta - \eta_T) (1 + \cos (\pi t / T)) / 2$, and $\eta_T$ (`end`) from step $T$ on

    Source: Loshchilov & Hutter (2017), SGDR: stochastic gradient descent with warm restarts, eq. 5, without restarts.
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _positive(self.steps, "Cosine")

    def __call__(self, step: int) -> float:
        done = min(step, self.steps) / self.steps
        return self.end + (self.lr - self.end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class StepDecay:
    r"""$\eta_t = \eta \gamma^{\lfloor t / k \rfloor}$: `factor` $\gamma$ every `every` $k$ steps"""

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _positive(self.every, "StepDecay")

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** (step // self.every)


def _positive(steps: int, name: str) -> None:
    if steps < 1:
        raise ValueError(f"{name}: a number of steps >= 1 is wanted, not {steps}")
