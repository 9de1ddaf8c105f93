"""A quantization from a trained model to the table: fold, calibrate, correct, round or train with rounding, convert; measure each.

job = Quantising(Experiment.of("lenet5_classic", "mnist5k"), bits=4, rounding="gptq", qat=5)
results = [job.result(params), job.trained(params)]
print(tradeoff.table(job.rows(params, results)))
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from engine import ops, tradeoff
from engine.experiment import Experiment, Params
from engine.optim import Adam
from engine.quantise import choose, convert, correct, rounding
from engine.quantise.convert import FLOWING, Grids, Ranges
from engine.quantise.folded import Folded, fold
from engine.quantise.integer import Network
from engine.quantise.observers import MSE, Entropy, MinMax, MovingAverage, Observer, Percentile
from engine.quantise.qat import prepared
from engine.quantise.rules import RULES
from engine.schedule import Cosine
from engine.train import fit

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
    """What it is called, the network in floats that was rounded, its grids and ranges, and the network in integers."""

    name: str
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
    qat         epochs of training with rounding, from the model in floats; None for none
    lr          of that training, at the start; it falls to 0 along a half cosine
    """

    experiment: Experiment
    bits: int = 8
    observer: str = "minmax"
    rule: str = "fp32"
    rounding: str = "nearest"
    equalise: bool = False
    correct: bool = False
    examples: int = 512
    qat: int | None = None
    lr: float = 1e-3

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
        if self.qat is not None and self.qat < 1:
            raise ValueError(f"qat={self.qat}: at least one epoch is wanted to train with rounding")

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
        return Result(f"{self.kind} (static)", rough, grids, ranges, convert.integers(rough, ranges, grids=grids, rule=self.rule))

    def trained(self, params: Params, *, done: Callable[[str], None] = lambda what: None, **options: Any) -> Result:
        """The model in integers, its weights and steps learned with rounding in `qat` epochs. What is 0 in `params` stays 0.

        options    of `engine.train.fit`: checkpoint, resume, callbacks, progress
        Raises ValueError without epochs, and as `fit`; OtherRun for a checkpoint that other weights or bits began.
        From a trained model, at a rate that falls along a half cosine: Esser et al. (2020), Learned step size quantization, sec. 3. Adam,
        since a step is trained as its logarithm.
        """
        if self.qat is None:
            raise ValueError("training with rounding wants a number of epochs: qat=5")
        net, e = self.folded(params), self.experiment
        qat = prepared(net, convert.calibrated(net, self.batches, observer=OBSERVERS[self.observer]), bits=self.bits)
        x, t = self.inputs(e.train[0]), e.train[1]
        run = fit(
            qat.loss(ops.cross_entropy),
            qat.params,
            (x, t),
            optimizer=Adam(Cosine(self.lr, self.qat * -(-len(x) // e.recipe.batch_size))),
            epochs=self.qat,
            batch_size=e.recipe.batch_size,
            masks=zeros(net),
            seed=e.seed + 1,
            validation=(self.inputs(e.test[0]), e.test[1]),
            config={"bits": self.bits, "weights": _fingerprint(net)},
            **options,
        )
        done(f"trained with rounding, {self.qat} epoch{'s' * (self.qat > 1)}")
        network = qat.integers(run.params, rule=self.rule)
        return Result(f"{self.kind} QAT", qat.folded(run.params), qat.grids(run.params), qat.ranges(run.params), network)

    def rows(self, params: Params, results: Sequence[Result]) -> list[tradeoff.Row]:
        """The model in floats, and each one in integers: accuracy, bytes, latency."""
        e, truth = self.experiment, self.experiment.test[1]
        x = self.inputs(e.test[0])
        models: list[Callable[[Any], Any]] = [partial(e.what.predict, params), *(result.network for result in results)]
        whole, *others = (np.concatenate([f(x[i : i + 256]).argmax(axis=1) for i in range(0, len(x), 256)]) for f in models)
        rows = [tradeoff.measured("float", whole, whole, truth, params, note="float32")]
        for result, said in zip(results, others, strict=True):
            rows.append(tradeoff.measured(result.name, said, whole, truth, arrays(result.network), note=f"integers, {self.rule}"))
        return tradeoff.timed(rows, models, {batch: x[:batch] for batch in SPEED if batch <= len(x)})

    @property
    def kind(self) -> str:
        """What the numbers of the network are."""
        return "int8" if self.bits == 8 else f"int{self.bits} weights"

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


def zeros(net: Folded) -> dict[str, np.ndarray] | None:
    """Masks that keep what is not 0 in the weights, for `fit` and the parameters of `prepared`; None if nothing is 0."""
    masks = {f"{layer.name}/w": layer.w != 0 for layer in net.weighted if layer.w is not None and not layer.w.all()}
    return masks or None


def _fingerprint(net: Folded) -> str:
    """A checksum of all weights."""
    return f"{zlib.crc32(b''.join(np.ascontiguousarray(layer.w).data for layer in net.weighted)):08x}"


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
