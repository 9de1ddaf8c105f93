r"""Quantisation-aware training: a network learns its weights, and the steps of its grids, while every number is rounded as in use.

    net = fold(predict, params, x[:1])
    qat = prepared(net, calibrated(net, batches), bits=4)
    run = fit(qat.loss(ops.cross_entropy), qat.params, (x, t), optimizer=Adam(1e-3), epochs=5)
    small = qat.integers(run.params)                          # engine.quantise.integer.Network
    logits = qat.evaluate(run.params, x)                      # small(x), to the bit

Weights are symmetric with a step for each channel, what flows has 8 bits without a sign. Rounding counts as the identity (the surrogate
of `ops.fake_quant`), so that steps and offsets have the slopes of LSQ and LSQ+, scaled by $g = 1 / \sqrt{N q_{max}}$, N the numbers
behind them: the weights of a channel, or what flows of one example. What is learned is a flat dict:

    conv1/w, conv1/b              as in the folded network; masks under these names keep zeros at 0, which is on every grid
    conv1/w/step                  (o), the logarithm of the step of each channel of w
    conv1/step, input/step        that of what flows out of conv1, and into the network
    input/offset                  what stands for the lowest code; none after relu, where it is 0
    conv1/norm/w, conv1/norm/b    of a batch norm in training, instead of the bias

A step is an exponential, hence positive whatever the rate; a rate of 0.01 changes it by 1 % a step of Adam. Weight decay is not for
steps and offsets: `no_decay=("*/step", "*/offset")`.

Sources: Esser, McKinstry, Bablani, Appuswamy & Modha (2020), Learned step size quantization, sec. 2; Bhalgat, Lee, Nagel, Blankevoort &
Kwak (2020), LSQ+: improving low-bit quantization through learnable offsets and better initialization, sec. 3; Jacob et al. (2018),
Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import ops
from engine.ops.normalise import batch_norm_update
from engine.ops.requantisation import INT32
from engine.quantise.convert import FLOWING, Grids, Ranges, check_ranges, fitting, flowing, integers, makes_codes
from engine.quantise.folded import INPUT, Folded, Layer
from engine.quantise.integer import Add, Codes, Network, whole_bias
from engine.quantise.numbers import Grid, Scheme, fake_quant, quantise
from engine.quantise.rules import RULES
from engine.traced import primal

Arrays = dict[str, Any]
Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
Watch = Callable[[str, Any], None]

EPS = 1e-5  # of a batch norm
MOMENTUM = 0.1  # of its running statistics
COUNT = "steps"  # in the state: the training steps so far


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network to train with rounding: made by `prepared`. It is never written into; what is learned goes in and out.

    net            in floats, the place of everything; its weights are where training starts
    schemes        of the weights, by layer
    params         to start with
    state          running statistics to start with, for `fit(state=)`; None without norms
    freeze_after   so many training steps statistics are those of the batch, then the running ones, which stay
    signs          the layers whose weights are steps with a sign: those of one bit
    """

    net: Folded
    schemes: dict[str, Scheme]
    params: Arrays
    state: Arrays | None
    freeze_after: int
    signs: frozenset[str] = frozenset()

    def loss(self, criterion: Callable[..., Any]) -> Callable[..., Any]:
        """criterion(logits, *targets), as `fit` wants it; with `state=qat.state` if there are norms."""

        def loss(params: Arrays, x: Any, *targets: Any, state: Arrays | None = None, seed: int | None = None) -> Any:
            y, new = self._run(params, x, state, train=seed is not None)
            value = criterion(y, *targets)
            return value if state is None else (value, new)

        return loss

    def __call__(self, params: Arrays, x: Any, state: Arrays | None = None, *, watch: Watch | None = None) -> Any:
        """The logits as training sees them: in floats, rounded at each place; `watch(name, numbers)` is called with what each layer gives.

        From the same codes a layer's sums here have a float's error, so that where they are next to a tie the code may be the next one.
        """
        return self._run(params, x, state, train=False, watch=watch)[0]

    def folded(self, params: Arrays, state: Arrays | None = None) -> Folded:
        """The network in floats with the trained weights, on their grids. The rounding of what flows is not in it."""
        grids, layers = self.grids(params), []
        for layer in self.net.weighted:
            w, b = self._folded(layer, params, state)
            layers.append(replace(layer, w=np.asarray(self._on_grid(layer.name, w, grids[layer.name])), b=np.asarray(b)))
        return self.net.put(*layers)

    def grids(self, params: Arrays) -> Grids:
        """The grids of the weights, for `convert.integers`."""
        return {name: self._grid(name, np.asarray(_step(params, f"{name}/w", 1.0))) for name in self.schemes}

    def codes(self, params: Arrays) -> dict[str, Codes]:
        """What the codes of the input and of each layer stand for."""
        known = {INPUT: _codes(params, INPUT)}
        for layer in self.net.layers:
            known[layer.name] = _codes(params, layer.name) if makes_codes(layer) else known[layer.reads[0]]
        return known

    def ranges(self, params: Arrays) -> Ranges:
        """The ranges whose grids, chosen by `convert.flowing`, are those that were learned."""
        codes = self.codes(params)
        places = [INPUT, *(layer.name for layer in self.net.layers if makes_codes(layer))]
        return {name: tuple((q - codes[name].zero_point) * codes[name].scale for q in (0, 255)) for name in places}  # type: ignore[misc]

    def integers(self, params: Arrays, state: Arrays | None = None, *, rule: str = "fp32") -> Network:
        """The network in integers. Raises as `convert.integers`."""
        return integers(self.folded(params, state), self.ranges(params), grids=self.grids(params), rule=rule)

    def evaluate(self, params: Arrays, x: Any, state: Arrays | None = None, *, watch: Watch | None = None) -> np.ndarray:
        """The logits of the network in integers under rule "fp32", to the bit, computed in floats: whole numbers in float64 are exact.

        watch     called with the name and the codes, as float64, of the input and of each layer
        returns   float32
        """
        codes, net, grids = self.codes(params), self.folded(params, state), self.grids(params)
        known = {INPUT: codes[INPUT].quantise(x).astype(np.float64)}
        for layer in net.layers:
            read = [known[name] - codes[name].zero_point for name in layer.reads]
            before, after = [codes[name] for name in layer.reads], codes[layer.name]
            if layer.w is not None:
                new = _rescaled(layer, read[0], before[0], after, fitting(layer, grids[layer.name], before[0], after))
            elif layer.kind == "add":
                new = _added(layer, read, before, after)
            elif layer.function is not None:
                new = after.quantise(layer.function(np.float32(read[0]) * np.float32(before[0].scale), defined=True)).astype(np.float64)
            else:  # of 6 numbers a mean of 1/2 may come as 0.4999...: what is next to a tie is one
                new = np.rint(np.round(layer(*read), 6) + after.zero_point)
            known[layer.name] = np.clip(new, after.zero_point if layer.relu else after.low, after.high)
        _tell(known, watch)
        last = net.layers[-1].name
        return codes[last].dequantise(known[last])

    def _run(self, params: Arrays, x: Any, state: Arrays | None, *, train: bool, watch: Watch | None = None) -> tuple[Any, Arrays | None]:
        """The logits and the new state."""
        new = dict(state or {})
        places = {INPUT: _place(params, INPUT, x)}
        known = {INPUT: _rounded(x, places[INPUT])}
        for layer in self.net.layers:
            read, before = [known[name] for name in layer.reads], places[layer.reads[0]]
            if layer.w is not None:
                seen = self._seen(layer, params, read[0], new) if train and self._learns(layer, state) else None
                y = self._product(layer, params, read[0], before[0], seen or state)
            else:
                y = layer(*read)
            places[layer.name] = _place(params, layer.name, y) if makes_codes(layer) else before
            known[layer.name] = _rounded(y, places[layer.name]) if makes_codes(layer) or layer.kind == "avg_pool" else y
        _tell(known, watch)
        if train and state is not None:
            new[COUNT] = np.asarray(state[COUNT] + 1)
        return known[self.net.layers[-1].name], new if state is not None else None

    def _product(self, layer: Layer, params: Arrays, x: Any, x_step: Any, statistics: Any) -> Any:
        """A layer with weights on their grid, and its bias in whole units of the sums."""
        w, b = self._folded(layer, params, statistics)
        per_channel = math.prod(w.shape) // max(w.shape[layer.channels], 1)
        step = _step(params, f"{layer.name}/w", _share(per_channel, self.schemes[layer.name].highest))
        unit = primal(x_step) * primal(step)  # biases are no reason for a step to be another
        b = ops.fake_quant(b, unit, np.zeros((), w.dtype), low=-INT32.max, high=INT32.max)
        return replace(layer, w=self._on_grid(layer.name, w, self._grid(layer.name, step)), b=b)(x)

    def _on_grid(self, name: str, w: Any, grid: Grid) -> Any:
        return ops.fake_sign(w, grid.over(w.shape)[0]) if name in self.signs else fake_quant(w, grid)

    def _folded(self, layer: Layer, params: Arrays, statistics: Any) -> tuple[Any, Any]:
        r"""Without a norm w and b, else $W \gamma / \sigma$ and $\beta - \mu \gamma / \sigma$ with $\sigma = \sqrt{v + \varepsilon}$."""
        name, w = layer.name, params[f"{layer.name}/w"]
        if f"{name}/norm/w" not in params:
            return w, params[f"{name}/b"]
        if statistics is None:
            raise ValueError(f"{name} has a batch norm with running statistics: give state=, to begin with that of `prepared`")
        factor = params[f"{name}/norm/w"] / ops.sqrt(statistics[f"{name}/norm/var"] + EPS)
        along = (-1, *[1] * (w.ndim - 1)) if layer.channels == 0 else (1, -1)
        return w * np.reshape(factor, along), params[f"{name}/norm/b"] - statistics[f"{name}/norm/mean"] * factor

    def _learns(self, layer: Layer, state: Arrays | None) -> bool:
        """Whether the layer is normalised by the statistics of the batch."""
        return state is not None and f"{layer.name}/norm/var" in state and int(state[COUNT]) < self.freeze_after

    def _seen(self, layer: Layer, params: Arrays, x: Any, new: Arrays) -> Arrays:
        """The statistics of the batch, and into `new` the running ones after it."""
        names = f"{layer.name}/norm/mean", f"{layer.name}/norm/var"
        y = _bare(layer, params[f"{layer.name}/w"])(x)
        axes = tuple(a for a in range(y.ndim) if a != 1)
        mean = ops.mean(y, axis=axes, keepdims=True)
        both = [ops.reshape(m, shape=(y.shape[1],)) for m in (mean, ops.mean(ops.square(y - mean), axis=axes))]
        running = [new[name] for name in names]
        count = math.prod(y.shape) // max(y.shape[1], 1)
        moved = batch_norm_update(*running, *map(ops.stop_gradient, both), count=count, momentum=MOMENTUM)
        new.update({name: np.asarray(primal(m), old.dtype) for name, m, old in zip(names, moved, running, strict=True)})
        return dict(zip(names, both, strict=True))

    def _grid(self, name: str, step: Any) -> Grid:
        return Grid(self.schemes[name], step, np.zeros(step.shape, self.schemes[name].dtype))


def prepared(
    net: Folded,
    ranges: Ranges,
    *,
    bits: int | Mapping[str, int] = 8,
    narrow: bool = True,
    norms: Statistics | None = None,
    freeze_after: int = 0,
) -> Prepared:
    r"""What starts training as the network with the grids of these ranges, and with the weights' steps of `first_step`.

    ranges         of the input and of each layer that gives new codes: `convert.calibrated`
    bits           of the weights, 1 to 8; or by layer, 8 where none are given. 2 narrow ones are ternary weights: -1, 0, 1 steps. One is
                   binary weights, -1 and 1; those that are 0 to begin with, because they were pruned, stay 0 if a mask keeps them there
    narrow         without the lowest code
    norms          mean and variance of the sums of those layers that are to be normalised in training: `statistics`. They go on as a batch
                   norm that changes nothing at first; its scale, by the statistics of the batch, is in the weights before they are rounded
    freeze_after   so many training steps; after them the running statistics are used, as in use

    Raises ValueError for other bits, a name that no layer with weights has, and a range that is missing.
    """
    weighted = {layer.name: layer for layer in net.weighted}
    check_ranges(net, ranges)
    _check_names(net, "bits are given for", bits if isinstance(bits, Mapping) else ())
    _check_names(net, "norms are given for", norms or ())
    params: Arrays = {}
    state: Arrays = {}
    wide = {name: bits.get(name, 8) if isinstance(bits, Mapping) else bits for name in weighted}
    signs = frozenset(name for name in weighted if wide[name] == 1)
    schemes = {name: _scheme(layer, 2 if name in signs else wide[name], narrow or name in signs) for name, layer in weighted.items()}
    for name, layer in weighted.items():
        assert layer.w is not None and layer.b is not None
        params[f"{name}/w"] = layer.w
        if norms and name in norms:
            mean, var = (np.asarray(part, layer.w.dtype) for part in norms[name])
            state.update({f"{name}/norm/mean": mean, f"{name}/norm/var": var})
            params.update({f"{name}/norm/w": np.sqrt(var + np.asarray(EPS, var.dtype)), f"{name}/norm/b": layer.b + mean})
        else:
            params[f"{name}/b"] = layer.b
        params[f"{name}/w/step"] = np.log(first_step(layer.w, schemes[name], signs=name in signs))
    dtype = np.result_type(*(layer.w for layer in weighted.values())) if weighted else np.float32
    for name, relu in [(INPUT, False), *((layer.name, layer.relu) for layer in net.layers if makes_codes(layer))]:
        codes = flowing(ranges[name], relu=relu)
        params[f"{name}/step"] = np.asarray(np.log(codes.scale), dtype)
        if not relu:
            params[f"{name}/offset"] = np.asarray(-codes.scale * codes.zero_point, dtype)
    return Prepared(net, schemes, params, {**state, COUNT: np.zeros((), np.int64)} if state else None, freeze_after, signs)


def statistics(net: Folded, batches: Iterable[Any], names: Iterable[str] | None = None) -> Statistics:
    """Mean and variance of the sums of products, without the bias, of the named layers (of all convolutions), over batches of inputs.

    returns   two arrays (o) by name. A batch norm with them, their root as its scale and the mean as a part of its shift is the identity:
              so a network whose norms are folded trains with norms again
    Raises ValueError for a name that no layer with weights has, and for no batch.
    """
    wanted = {layer.name for layer in net.layers if layer.kind == "conv"} if names is None else set(names)
    _check_names(net, "statistics are wanted of", wanted)
    layers = [layer for layer in net.weighted if layer.name in wanted]
    count, sums = dict.fromkeys((layer.name for layer in layers), 0), {layer.name: np.zeros((2, 1)) for layer in layers}
    for batch in batches:
        given: Arrays = {}
        net(batch, watch=given.__setitem__)
        for layer in layers:
            y = np.asarray(_bare(layer, layer.w)(given[layer.reads[0]]), np.float64)
            y = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
            count[layer.name] += len(y)
            sums[layer.name] = sums[layer.name] + np.stack([y.sum(axis=0), np.square(y).sum(axis=0)])
    if not all(count.values()):
        raise ValueError("there is no batch to take statistics of: give at least one")
    means = {name: both / count[name] for name, both in sums.items()}
    return {name: (mean, np.maximum(square - mean * mean, 0.0)) for name, (mean, square) in means.items()}


def first_step(w: np.ndarray, scheme: Scheme, *, signs: bool = False) -> np.ndarray:
    r"""$\min(2\, \overline{|w|} / \sqrt{q_{max}}, \max |w| / q_{max})$ of each channel, over weights that are not 0; 1 if all are

    The first is LSQ's (Esser et al. 2020, sec. 2.1). The second is smaller with 8 bits, where the first would leave three codes of four
    unused. With `signs`, of which there is a step only, it is the mean of |w|, as in `numbers.binary`.
    """
    size, others = np.abs(w, dtype=np.float64), tuple(a for a in range(w.ndim) if a != scheme.axis)
    mean = size.sum(axis=others) / np.maximum(np.count_nonzero(size, axis=others), 1)
    widest = size.max(axis=others, initial=0.0) / scheme.highest
    step = mean if signs else np.minimum(2 * mean / np.sqrt(scheme.highest), widest)
    return np.asarray(np.where(step > 0, step, 1.0), w.dtype)


def _check_names(net: Folded, what: str, names: Iterable[str]) -> None:
    there = [layer.name for layer in net.weighted]
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise ValueError(f"{what} {', '.join(unknown)}; the layers with weights are {', '.join(there)}")


def _scheme(layer: Layer, bits: int, narrow: bool) -> Scheme:
    try:
        return Scheme(bits=bits, narrow=narrow, axis=layer.channels)
    except ValueError as e:
        raise ValueError(f"the weights of {layer.name}: {e}") from e


def _bare(layer: Layer, w: Any) -> Layer:
    """The layer with nothing but its products."""
    assert layer.b is not None
    return replace(layer, w=w, b=np.zeros_like(layer.b), relu=False)


def _tell(known: Arrays, watch: Watch | None) -> None:
    if watch is not None:
        for name, numbers in known.items():
            watch(name, numbers)


# Steps and offsets, as training sees them and as they are in use.


def _share(n: int, highest: int) -> float:
    return 1 / math.sqrt(max(n, 1) * highest)


def _slowed(x: Any, share: float) -> Any:
    """x to the bit, with so much of its slope."""
    still = ops.stop_gradient(x)
    return still + share * (x - still)


def _step(params: Arrays, name: str, share: float) -> Any:
    """A step, or those of all channels."""
    return ops.learned_step_size(params[f"{name}/step"], share=share)


def _zero(params: Arrays, name: str, step: Any, share: float) -> Any:
    """The zero point: a whole number, whose rounding and clipping have the slope of those of x."""
    if f"{name}/offset" not in params:
        return np.zeros((), step.dtype)
    at = -_slowed(params[f"{name}/offset"], share) / step
    return ops.fake_quant(at, np.ones((), step.dtype), np.zeros((), step.dtype), low=FLOWING.lowest, high=FLOWING.highest)


def _place(params: Arrays, name: str, x: Any) -> tuple[Any, Any]:
    """Step and zero point of what flows at a place, x."""
    share = _share(math.prod(x.shape[1:]), FLOWING.highest)
    step = _step(params, name, share)
    return step, _zero(params, name, step, share)


def _rounded(x: Any, place: tuple[Any, Any]) -> Any:
    return ops.fake_quant(x, *place, low=FLOWING.lowest, high=FLOWING.highest)


def _codes(params: Arrays, name: str) -> Codes:
    step = _step(params, name, 1.0)
    return Codes(float(np.float32(step)), int(_zero(params, name, step, 1.0)))


# The arithmetic of rule "fp32" in floats.


def _rescaled(layer: Layer, x: np.ndarray, before: Codes, after: Codes, grid: Grid) -> Any:
    """The codes of a layer with weights, still unclipped, for x less its zero point."""
    w, b = quantise(layer.w, grid).astype(np.float64), whole_bias(layer.b, before.scale, grid.scale).astype(np.float64)
    sums = np.rint(replace(layer, w=w, b=b, relu=False)(x))  # a kernel that is quicker than sums of products has an error
    ratio = across(RULES["fp32"].ratio(before.scale, grid.scale, after.scale), sums.ndim)
    return np.rint(sums.astype(np.float32) * ratio).astype(np.float64) + after.zero_point


def _added(layer: Layer, x: list[np.ndarray], before: list[Codes], after: Codes) -> np.ndarray:
    """The codes of a sum of two branches, still unclipped."""
    add = Add.between(layer.name, before[0], before[1], after, reads=layer.reads)  # type: ignore[arg-type]
    whole: np.ndarray = np.floor((x[0] * add.mantissa[0] + x[1] * add.mantissa[1]) * 2.0**-add.shift + 0.5)
    return whole + after.zero_point


def across(x: np.ndarray, ndim: int) -> np.ndarray:
    """One number a channel, ready to meet an array whose second axis is the channels."""
    return x.reshape(-1, *[1] * (ndim - 2)) if x.size > 1 else x.reshape(())
