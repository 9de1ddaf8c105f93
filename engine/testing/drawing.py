"""Choices of integers, from which everything is made: by Hypothesis, which shrinks them, or by a seed.

Hypothesis spends most of its examples on copies: it takes parts of an example that were drawn alike and makes them equal. Here
every choice is drawn from one strategy, without parts, so that each example is a new one; equal arguments and ties are
drawn on purpose instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


class Choices(Protocol):
    """Where choices come from. A smaller integer is simpler."""

    def integer(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included, simplest at `low`."""

    def draw(self, strategy: SearchStrategy[T]) -> T:
        """A value of somebody else's strategy."""


def choice(choices: Choices, options: Sequence[T]) -> T:
    """One of `options`, of which the first is the simplest. What stands there twice comes twice as often."""
    return options[choices.integer(0, len(options) - 1)]


def one_in(choices: Choices, n: int) -> bool:
    """True once in `n` times."""
    return choices.integer(0, n - 1) == n - 1


class ByHypothesis:
    """Choices by Hypothesis."""

    def __init__(self, data: Any):
        self.data = data

    def integer(self, low: int, high: int) -> int:
        return low if low == high else int(self.data.draw_integer(low, high, shrink_towards=low))

    def draw(self, strategy: SearchStrategy[T]) -> T:
        return self.data.draw(strategy)  # type: ignore[no-any-return]


class BySeed:
    """Choices by a generator of random numbers."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def draw(self, strategy: SearchStrategy[T]) -> T:
        if isinstance(strategy, Made):
            return strategy.make(self)  # type: ignore[no-any-return]
        raise TypeError(f"{strategy!r} is drawn by Hypothesis only; one of engine.testing.strategies can be drawn from a seed, too")


class Made(SearchStrategy[T], Generic[T]):
    """The strategy whose values `make` makes from choices."""

    def __init__(self, make: Callable[[Choices], T], name: str):
        super().__init__()
        self.make = make
        self.name = name

    def do_draw(self, data: Any) -> T:
        return self.make(ByHypothesis(data))

    def __repr__(self) -> str:
        return self.name


def sample(strategy: SearchStrategy[T], seed: int) -> T:
    """One value of a strategy of engine.testing.strategies, without Hypothesis at work: for a look, or a quick loop."""
    return BySeed(np.random.default_rng(seed)).draw(strategy)
