"""A quantization from a trained model to the table: fold, calibrate, correct, round or train with rounding, convert; measure each.

job = Quantising(Experiment.of("lenet5_classic", "mnist5k"), bits=4, rounding="gptq", qat=5)
results = [job.result(params), job.trained(params)]
print(tradeoff.table(job.rows(params, results)))
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from engine import ops, tradeoff
from engine.experiment import Experiment, Params
from engine.optim import Adam
from engine.quantise import choose, convert, correct, narrow, rounding
from engine.quantise.convert import FLOWING, Grids, Ranges
from engine.quantise.folded import Folded, fold
from engine.quantise.integer import Network
from engine.quantise.narrow import Narrow
from engine.quantise.observers import MSE, Entropy, MinMax, MovingAverage, Observer, Percentile
from engine.quantise.powers import MOST_BITS, of_powers
from engine.quantise.qat import Prepared, prepared
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
HOW = {"static": "static", "dynamic": "dynamic", "weights": "weights alone"}
ROUNDINGS = ("nearest", "gptq", "adaround", "powers")
SPEED = (1, 64)  # batches whose latency is told
BATCH = 64  # of calibration


@dataclass(frozen=True)
class Result:
    """What it is called, the network in floats that was rounded, its grids, its ranges if it is calibrated, and the network of codes."""

    name: str
    net: Folded
    grids: Grids
    ranges: Ranges
    network: Network | Narrow


@dataclass(frozen=True)
class Quantising:
    """What is quantised, and how.

    bits        of the weights, 1 to 8; what flows has 8. One bit is a sign: -1 and 1, and 0 for what was pruned
    how         "static", integers throughout, with ranges that are calibrated; "dynamic", weights and inputs of products as codes, these as
                they come; "weights", nothing but the weights
    group       so many inputs of an output have a scale of their own; None for a scale a channel. Not with static
    observer    one of OBSERVERS: which range of what flows is worth its codes
    rule        of requantisation, one of `engine.quantise.rules.RULES`
    rounding    of the weights: nearest; all together so that sums stay, gptq or adaround; or powers, to powers of two of up to 4 bits
    equalise    give neighbouring layers equal ranges first
    correct     give back by the biases what rounding shifts on the average
    examples    of the training data, to calibrate on
    qat         epochs of training with rounding, from the model in floats; None for none
    lr          of that training, at the start; it falls to 0 along a half cosine
    """

    experiment: Experiment
    bits: int = 8
    how: str = "static"
    group: int | None = None
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
            ("way", self.how, list(HOW)),
        ):  # fmt: skip
            if given not in known:
                raise ValueError(f"there is no {what} {given!r}; there are {', '.join(known)}")
        if not 1 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits}: weights have 1 to 8 bits")
        if self.bits == 1 and self.rounding != "nearest":
            raise ValueError(f"rounding={self.rounding!r}: weights of one bit are signs, which are not rounded")
        if self.examples < 1:
            raise ValueError(f"examples={self.examples}: at least one is wanted to calibrate on")
        if self.group is not None and (self.how == "static" or self.group < 1):
            raise ValueError(f'group={self.group}: groups are of 1 input or more, of how="dynamic" or "weights"; integers have none')
        if self.rounding == "powers" and (self.bits > MOST_BITS or self.how != "static"):
            raise ValueError(f'powers of two have 2 to {MOST_BITS} bits and are for networks of integers: bits=4, how="static"')
        if (self.qat is not None or self.bits == 1) and self.rule == "pow2":
            raise ValueError("steps that are learned, and those of signs, are no powers of two: take another rule than pow2")
        if (self.qat is not None or self.bits == 1) and self.how != "static":
            raise ValueError(f'training with rounding, and signs, are for networks of integers: how="static", not {self.how!r}')
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
        grids, rough = self._signs(net) if self.bits == 1 else self._rounded(net, done)
        if self.correct:
            rough = correct.bias_corrected(net, rough, self.batches)
            done("biases corrected")
        if self.how != "static":
            make = narrow.dynamic if self.how == "dynamic" else narrow.weight_only
            return Result(f"{self.kind} ({HOW[self.how]})", rough, grids, {}, make(rough, grids))
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
        qat = self._prepared(net)
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
            rows.append(_measured(result, said, whole, truth, self.rule))
        return tradeoff.timed(rows, models, {batch: x[:batch] for batch in SPEED if batch <= len(x)})

    @property
    def kind(self) -> str:
        """What the numbers of the network are."""
        groups = f"/{self.group}" if self.group else ""
        return {8: f"int8{groups}", 1: "binary weights"}.get(self.bits, f"int{self.bits}{groups} weights")

    def noise(self, params: Params, result: Result) -> dict[str, float]:
        """The decibels of each layer, against the model in floats."""
        return choose.noise(self.folded(params), result.network, self.batches[0])

    def _prepared(self, net: Folded) -> Prepared:
        return prepared(net, convert.calibrated(net, self.batches, observer=OBSERVERS[self.observer]), bits=self.bits)

    def _signs(self, net: Folded) -> tuple[Grids, Folded]:
        """Weights of one bit, as they are before they are trained."""
        qat = self._prepared(net)
        return qat.grids(qat.params), qat.folded(qat.params)

    def _rounded(self, net: Folded, done: Callable[[str], None]) -> tuple[Grids, Folded]:
        if self.rounding == "powers":
            return of_powers(net, self.bits)[::-1]
        bits = {layer.name: self.bits for layer in net.weighted}
        grids = convert.weight_grids(net, bits=bits, group=self.group, power=self.rule == "pow2")
        if self.rounding == "nearest":
            return grids, convert.rounded(net, grids)
        method = rounding.gptq if self.rounding == "gptq" else rounding.adaround
        for layer in net.weighted:
            g = rounding.gram(layer, correct.inputs_of(net, layer.name, self.batches))
            net = net.put(method(layer, grids[layer.name], g))  # the next layer sees what this one now gives
            done(f"{layer.name} rounded")
        return grids, net


def zeros(net: Folded) -> dict[str, np.ndarray] | None:
    """Masks that keep what is not 0 in the weights, for `fit` and the parameters of `prepared`; None if nothing is 0."""
    masks = {f"{layer.name}/w": layer.w != 0 for layer in net.weighted if layer.w is not None and not layer.w.all()}
    return masks or None


def _fingerprint(net: Folded) -> str:
    """A checksum of all weights."""
    return f"{zlib.crc32(b''.join(np.ascontiguousarray(layer.w).data for layer in net.weighted)):08x}"


def _measured(result: Result, said: np.ndarray, whole: np.ndarray, truth: np.ndarray, rule: str) -> tradeoff.Row:
    network = result.network
    note = f"integers, {rule}" if isinstance(network, Network) else f"floats, {network.bytes:,} bytes held"
    row = tradeoff.measured(result.name, said, whole, truth, arrays(network), note=note)
    if isinstance(network, Network):
        return row
    kept, numbers = network.weights  # bytes of several codes are no numbers
    return replace(row, kept=kept, numbers=numbers)


def arrays(network: Network | Narrow) -> dict[str, np.ndarray]:
    """All that a network of codes holds, by name."""
    if isinstance(network, Narrow):
        return network.arrays
    found: dict[str, np.ndarray] = {}
    for layer in network.layers:
        for part in ("w", "bias", "table"):
            if hasattr(layer, part):
                found[f"{layer.name}/{part}"] = getattr(layer, part)
        if hasattr(layer, "to"):
            found[f"{layer.name}/mantissa"] = np.asarray(layer.to.mantissa, np.int32)
            found[f"{layer.name}/shift"] = np.asarray(layer.to.shift, np.int8)
    return found
