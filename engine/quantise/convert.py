r"""From layers in floats to a network of integers: ranges seen on some batches, grids for the weights, and then only whole numbers.

    net = fold(predict, params, x[:1])
    ranges = calibrated(net, batches)                         # what each layer gave
    small = integers(net, ranges)                             # engine.quantise.integer.Network
    print(report(net, small, x))                              # signal to noise, layer by layer

Weights are symmetric, with a scale for each channel, as integer products want them; what flows is affine in 8 bits. A layer that keeps
codes as they are (a pool, a flattening) has the grid of what it reads.

Source: Nagel et al. (2021), A white paper on neural network quantization, sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from engine.quantise import integer
from engine.quantise.folded import INPUT, Folded, Layer
from engine.quantise.integer import Codes, InFloats, Network, Requantise, whole_bias
from engine.quantise.numbers import Grid, Scheme, choose_grid, dequantise, grid_of, quantise
from engine.quantise.observers import MinMax, Observer

Ranges = dict[str, tuple[float, float]]
Grids = dict[str, Grid]

FLOWING = Scheme(bits=8, signed=False, symmetric=False)
WEIGHTS = Scheme(bits=8, signed=True, symmetric=True)


def calibrated(net: Folded, batches: Iterable[Any], *, observer: Callable[[], Observer] = MinMax) -> Ranges:
    """The range of the input and of what each layer gives, but for those that keep codes as they are, over `batches` of inputs.

    observer   makes what looks on: `update(x)` for each batch, `range()` at last. See `engine.quantise.observers`

    Raises ValueError if there is no batch, or for numbers that are not finite, naming the layer.
    """
    watched = {INPUT: observer(), **{layer.name: observer() for layer in net.layers if makes_codes(layer)}}

    def watch(name: str, numbers: Any) -> None:
        if name in watched:
            if not np.isfinite(numbers).all():
                raise ValueError(f"what {name} gives is not finite\n  calibrate on data without nan, with weights that are finite")
            watched[name].update(numbers)

    count = 0
    for batch in batches:
        net(batch, watch=watch)
        count += 1
    if not count:
        raise ValueError("there is no batch to calibrate on: give at least one")
    return {name: tuple(map(float, seen.range())) for name, seen in watched.items()}  # type: ignore[misc]


def makes_codes(layer: Layer) -> bool:
    """Whether a layer's results get a grid of their own."""
    return layer.kind in ("conv", "dense", "add")


def weight_grids(net: Folded, scheme: Scheme = WEIGHTS, *, bits: Mapping[str, int] | None = None) -> Grids:
    """A grid for the weights of each layer: symmetric, one scale a channel. `bits` says by name where there are other than 8."""
    grids = {}
    for layer in net.weighted:
        wanted = Scheme(bits=(bits or {}).get(layer.name, scheme.bits), axis=layer.channels)
        try:
            grids[layer.name] = grid_of(layer.w, wanted)
        except ValueError as e:
            raise ValueError(f"the weights of {layer.name}: {e}") from e
    return grids


def rounded(net: Folded, grids: Grids) -> Folded:
    """The network in floats whose weights lie on their grids, each rounded to the nearest."""
    return net.put(*(_with(layer, dequantise(quantise(layer.w, grids[layer.name]), grids[layer.name])) for layer in net.weighted))


def integers(net: Folded, ranges: Ranges, *, grids: Grids | None = None, rule: str = "fp32", in_floats: Collection[str] = ()) -> Network:
    """The network in integers.

    ranges      of the input and of each layer that gives new codes: `calibrated`
    grids       of the weights: `weight_grids`. Weights that lie on them already stay where they are
    rule        of requantisation, one of `engine.quantise.rules`
    in_floats   layers by name that read codes, compute in floats and give codes: for what rounding hurts most

    Raises ValueError for a range that is missing, OverflowError, naming the layer, where sums could leave int32.
    """
    grids = weight_grids(net) if grids is None else grids
    check_ranges(net, ranges)
    unknown = [name for name in in_floats if name not in ranges or name == INPUT]
    if unknown:
        raise ValueError(f"there is no layer {', '.join(unknown)} that gives new codes; there are {', '.join(ranges)}")
    codes: dict[str, Codes] = {INPUT: flowing(ranges[INPUT])}
    layers: list[integer.Layer] = []
    scales, last = {}, INPUT
    for layer in net.layers:
        reads = () if layer.reads == (last,) else layer.reads
        last = layer.name
        before = [codes[name] for name in layer.reads]
        codes[layer.name] = flowing(ranges[layer.name], relu=layer.relu) if makes_codes(layer) else before[0]
        if makes_codes(layer):
            scales[layer.name] = np.float32(codes[layer.name].scale)
        if layer.name in in_floats:
            layers.append(InFloats(layer.name, layer, tuple(before), codes[layer.name], reads))
            continue
        layers.append(_integer(layer, reads, before, codes[layer.name], grids, rule))
        if layer.w is not None:
            scales[f"{layer.name}/w"] = np.asarray(grids[layer.name].scale)
    return Network(codes[INPUT], codes[net.layers[-1].name], tuple(layers), scales)


def check_ranges(net: Folded, ranges: Ranges) -> None:
    """Raises ValueError if one is missing."""
    missing = [name for name in [INPUT, *(layer.name for layer in net.layers if makes_codes(layer))] if name not in ranges]
    if missing:
        raise ValueError(f"there is no range of {', '.join(missing)}: calibrate the network that is converted")


def flowing(between: tuple[float, float], *, relu: bool = False) -> Codes:
    """The codes of what flows in this range; after relu, of what is not below 0 in it."""
    low, high = between
    grid = choose_grid(max(low, 0.0) if relu else low, high, FLOWING)
    return Codes(float(grid.scale), int(grid.zero_point))


def _integer(layer: Layer, reads: tuple[str, ...], before: list[Codes], after: Codes, grids: Grids, rule: str) -> integer.Layer:
    if layer.kind == "flatten":
        return integer.Flatten(layer.name, reads=reads)
    if layer.kind == "max_pool":
        return integer.MaxPool(layer.name, reads=reads, **layer.options)
    if layer.kind == "avg_pool":
        return integer.AvgPool(layer.name, reads=reads, zero_point=before[0].zero_point, **layer.options)
    if layer.kind == "add":
        return integer.Add.between(layer.name, *before, after, reads=layer.reads, relu=layer.relu)  # type: ignore[misc, arg-type]
    grid, x = grids[layer.name], before[0]
    try:
        bias = whole_bias(layer.b, x.scale, grid.scale)
        to = Requantise.between(x, grid.scale, after, rule=rule, relu=layer.relu)
    except (ValueError, OverflowError) as e:
        raise type(e)(f"{layer.name}: {e}") from e
    kind = integer.Conv if layer.kind == "conv" else integer.Dense
    return kind(layer.name, quantise(layer.w, grid), bias, to, x.zero_point, reads=reads, **layer.options)


def _with(layer: Layer, w: Any) -> Layer:
    assert layer.w is not None
    return replace(layer, w=np.asarray(w, layer.w.dtype))
