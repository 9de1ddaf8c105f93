r"""Calibration: which range each value of a model has, over some batches.

    calibration = calibrate(mlp.predict, params, [(x[:100],), (x[100:200],)], Entropy)
    print(calibration)                                       # a table of all places
    grids = calibration.grids(Scheme(signed=False, symmetric=False))

A place is a call of an op in the order of the run, with the parameter that it takes: "0 input", "1 conv2d conv1/w", "4 dense dense1/w".
It is the running of the model under `engine.observe.Observe`, with an observer for each place.

How much the codes lose is said by the ratio of signal to noise, of an array (`sqnr`) or of each value of a model (`sqnr_by_place`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.observe import Observe, Placed, Range
from engine.progress import tracked
from engine.quantise.numbers import Grid, NotFinite, Scheme, check_numbers, choose_grid, fake_quant
from engine.quantise.observers import Ends, MinMax, Observer

Batches = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Calibration:
    """The range that each place is to have, as its observer says, and the numbers that it had."""

    ranges: dict[str, Ends]
    seen: dict[str, Range]

    def grids(self, scheme: Scheme, *, dtype: Any = np.float32) -> dict[str, Grid]:
        """A grid for each place, by `choose_grid`."""
        return {place: choose_grid(low, high, scheme, dtype=dtype) for place, (low, high) in self.ranges.items()}

    def __str__(self) -> str:
        width = max(map(len, ["place", *self.ranges]))
        rows = [f"{'place':<{width}} {'numbers':>12} {'smallest':>11} {'largest':>11} {'from':>11} {'to':>11}"]
        for place, (low, high) in self.ranges.items():
            seen = self.seen[place]
            ends = "".join(f" {end:>11.4g}" for end in (seen.low, seen.high, np.min(low), np.max(high)))
            rows.append(f"{place:<{width}} {seen.seen:>12,}{ends}")
        return "\n".join(rows)


class Watch:
    """What a place keeps: the range of all numbers, and the observer of those that can be quantised."""

    def __init__(self, observer: Observer):
        self.range, self.observer = Range(), observer

    def update(self, y: np.ndarray) -> None:
        """Integers, which are indices, are left alone."""
        if y.dtype.kind == "f":
            self.observer.update(y)
            self.range.update(y)


def calibrate(
    f: Callable[..., Any],
    params: Mapping[str, Any],
    batches: Batches,
    make: Callable[[], Observer] = MinMax,
    *,
    progress: bool = True,
) -> Calibration:
    """Run f(params, *batch) on each batch, and observe every value.

    params     a dict of arrays: parameters, and a model's state with them if f takes them so: {**params, **state}
    batches    tuples of f's further arguments: [(x,), (x,), ...]
    make       gives the observer of a place: `MinMax`, `lambda: Percentile(99.9)`, `lambda: MSE(scheme)`
    progress   whether to show a bar, on a terminal

    Raises ValueError for no batches and for ones without an example, NotFinite for a value that is not, with its batch and its place,
    and TypeError for a batch that is no tuple.
    """
    observe = Observe(running(), lambda: Watch(make()))
    for i, batch in enumerate(tracked(batches, "calibrating", progress)):
        if not isinstance(batch, tuple):
            raise TypeError(f"calibrate: batch {i} is {type(batch).__name__}, not a tuple of the model's inputs\n  of one input it is (x,)")
        try:
            observe.run(f, *batch, params=params)
        except NotFinite as e:
            cure = "what was computed before it is finite: look at this batch, and at the parameters of this place"
            raise NotFinite(f"calibrate: batch {i}: {e}\n  {cure}") from None
    watched = {place: watch for place, watch in observe.kept.items() if watch.observer.seen}
    if not watched:
        raise ValueError("calibrate: there are no examples to calibrate on\n  give it some batches of what the model will see, [(x,), ...]")
    return Calibration({place: w.observer.range() for place, w in watched.items()}, {place: w.range for place, w in watched.items()})


def sqnr(x: Any, y: Any) -> float:
    r"""$10 \log_{10} \sum x^2 / \sum (x - y)^2$, the ratio of signal to noise in decibels of y, which stands for x

    x, y      of one shape, floats. Equal ones have inf, and noise without a signal -inf. A bit is worth 6 dB
    Raises ValueError for other shapes, for no numbers and for one that is not finite, TypeError for what is not floats.
    """
    x, y = np.asarray(x), np.asarray(y)
    if x.shape != y.shape:
        raise ValueError(f"numbers and what stands for them are of one shape, not {x.shape} and {y.shape}")
    check_numbers(x)
    check_numbers(y)
    signal, noise = (np.sum(np.square(part, dtype=np.float64)) for part in (x, x.astype(np.float64) - y))
    if not noise:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal else -np.inf


class Rounded(Placed):
    """Run with the values of some places on grids, and all others computed from what is left of them. All values are kept."""

    def __init__(self, below: Interpreter, grids: Mapping[str, Grid]):
        super().__init__(below)
        self.grids = grids
        self.values: dict[str, Any] = {}

    def meet(self, y: Any, place: str) -> Any:
        """Rounded, if the place has a grid."""
        if place in self.grids:
            with interpreting(self.below):
                y = fake_quant(y, self.grids[place])
        self.values[place] = y
        return y


def sqnr_by_place(
    f: Callable[..., Any], params: Mapping[str, Any], grids: Mapping[str, Grid], *inputs: Any, rounded: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """`sqnr` of every float value of f(params, *inputs), when the values of some places are rounded and others computed from them.

    grids     by place, of those that are rounded: `Calibration.grids`, or some of them. Of one alone, the last place says what it costs
    rounded   the parameters of that run, rounded themselves; default: params

    Raises ValueError for a grid of a place that is not there; else as `sqnr`, with the place.
    """
    exact, coarse = Rounded(running(), {}), Rounded(running(), grids)
    exact.run(f, *inputs, params=params)
    lost = [place for place in grids if place not in exact.values]
    if lost:
        raise ValueError(f"sqnr_by_place: there is no place {', '.join(lost)}; there are {', '.join(exact.values)}")
    coarse.run(f, *inputs, params=params if rounded is None else rounded)
    ratios = {}
    for place, value in exact.values.items():
        if value.dtype.kind == "f":
            try:
                ratios[place] = sqnr(value, coarse.values[place])
            except ValueError as e:
                raise ValueError(f"sqnr_by_place: {place}: {e}") from None
    return ratios
