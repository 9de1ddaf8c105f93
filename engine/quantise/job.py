"""A quantization from a trained model to the table: fold, calibrate, correct, round, convert; measure each.

job = Quantising(Experiment.of("lenet5_classic", "mnist5k"), bits=4, rounding="gptq")
results = job.results(params)
print(tradeoff.table(job.rows(params, results)))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from engine import tradeoff
from engine.experiment import Experiment, Params
from engine.quantise import choose, convert, correct, rounding
from engine.quantise.convert import FLOWING, Grids, Ranges
from engine.quantise.folded import Folded, fold
from engine.quantise.integer import Network
from engine.quantise.observers import MSE, Entropy, MinMax, MovingAverage, Observer, Percentile
from engine.quantise.rules import RULES

OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "average": MovingAverage,
    "percentile": Percentile,
    "mse": partial(MSE, FLOWING),
    "entropy": Entropy,
}
ROUNDINGS = ("nearest", "gptq", "adaround")
SPEED = (1, 64)  # batches whose latency is told
BATCH = 64  # of calibration


@dataclass(frozen=True)
class Result:
    """The network in floats that was rounded, its grids and ranges, and the network in integers."""

    net: Folded
    grids: Grids
    ranges: Ranges
    network: Network


@dataclass(frozen=True)
class Quantising:
    """What is quantised, and how.

    bits        of the weights, 2 to 8; what flows has 8
    observer    one of OBSERVERS: which range of what flows is worth its codes
    rule        of requantisation, one of `engine.quantise.rules.RULES`
    rounding    of the weights: nearest, or all together so that sums stay, gptq or adaround
    equalise    give neighbouring layers equal ranges first
    correct     give back by the biases what rounding shifts on the average
    examples    of the training data, to calibrate on
    """

    experiment: Experiment
    bits: int = 8
    observer: str = "minmax"
    rule: str = "fp32"
    rounding: str = "nearest"
    equalise: bool = False
    correct: bool = False
    examples: int = 512

    def __post_init__(self) -> None:
        for what, given, known in (
            ("observer", self.observer, list(OBSERVERS)), ("rule", self.rule, list(RULES)), ("rounding", self.rounding, list(ROUNDINGS)),
        ):  # fmt: skip
            if given not in known:
                raise ValueError(f"there is no {what} {given!r}; there are {', '.join(known)}")
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: weights have 2 to 8 bits")
        if self.examples < 1:
            raise ValueError(f"examples={self.examples}: at least one is wanted to calibrate on")

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Quantising:
        """The job that `as_dict` described."""
        return cls(**{**said, "experiment": Experiment.from_dict(said["experiment"])})

    @cached_property
    def batches(self) -> list[Any]:
        """What it is calibrated on: the first examples of the training data."""
        x = self.inputs(self.experiment.train[0][: self.examples])
        return [x[i : i + BATCH] for i in range(0, len(x), BATCH)]

    def inputs(self, x: np.ndarray) -> np.ndarray:
        """Examples as the first layer takes them, in float32: those of a model that takes rows, as rows."""
        rows = self.experiment.start()
        first = next(iter(rows.values()))
        return np.asarray(x.reshape(len(x), -1) if first.ndim == 2 else x, np.float32)

    def folded(self, params: Params) -> Folded:
        """The model as layers, in floats, equalised if that is wanted."""
        net = fold(self.experiment.what.predict, params, self.batches[0][:2])
        return correct.equalised(net) if self.equalise else net

    def result(self, params: Params, *, done: Callable[[str], None] = lambda what: None) -> Result:
        """The model in integers. `done(what)` is called after each step with what it was."""
        net = self.folded(params)
        done("folded")
        grids = convert.weight_grids(net, bits={layer.name: self.bits for layer in net.weighted})
        rough = self._rounded(net, grids, done)
        if self.correct:
            rough = correct.bias_corrected(net, rough, self.batches)
            done("biases corrected")
        ranges = convert.calibrated(rough, self.batches, observer=OBSERVERS[self.observer])
        done("calibrated")
        return Result(rough, grids, ranges, convert.integers(rough, ranges, grids=grids, rule=self.rule))

    def rows(self, params: Params, result: Result) -> list[tradeoff.Row]:
        """The model in floats, and in integers: accuracy, bytes, latency."""
        e, truth = self.experiment, self.experiment.test[1]
        x = self.inputs(e.test[0])
        network = result.network
        whole, small = (np.concatenate([f(x[i : i + 256]).argmax(axis=1) for i in range(0, len(x), 256)]) for f in (
            lambda rows: e.what.predict(params, rows), network,
        ))  # fmt: skip
        name = "int8" if self.bits == 8 else f"int{self.bits} weights"
        rows = [
            tradeoff.measured("float", whole, whole, truth, params, note="float32"),
            tradeoff.measured(name, small, whole, truth, arrays(network), note=f"integers, {self.rule}"),
        ]
        codes = {batch: x[:batch] for batch in SPEED if batch <= len(x)}
        return tradeoff.timed(rows, [lambda rows: e.what.predict(params, rows), network], codes)

    def noise(self, params: Params, result: Result) -> dict[str, float]:
        """The decibels of each layer, against the model in floats."""
        return choose.noise(self.folded(params), result.network, self.batches[0])

    def _rounded(self, net: Folded, grids: Grids, done: Callable[[str], None]) -> Folded:
        if self.rounding == "nearest":
            return convert.rounded(net, grids)
        method = rounding.gptq if self.rounding == "gptq" else rounding.adaround
        for layer in net.weighted:
            g = rounding.gram(layer, correct.inputs_of(net, layer.name, self.batches))
            net = net.put(method(layer, grids[layer.name], g))  # the next layer sees what this one now gives
            done(f"{layer.name} rounded")
        return net


def arrays(network: Network) -> dict[str, np.ndarray]:
    """All that a network of integers holds, by name."""
    found: dict[str, np.ndarray] = {}
    for layer in network.layers:
        for part in ("w", "bias"):
            if hasattr(layer, part):
                found[f"{layer.name}/{part}"] = getattr(layer, part)
        if hasattr(layer, "to"):
            found[f"{layer.name}/mantissa"] = np.asarray(layer.to.mantissa, np.int32)
            found[f"{layer.name}/shift"] = np.asarray(layer.to.shift, np.int8)
    return found
