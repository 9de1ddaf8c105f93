r"""From layers in floats to a network of integers: ranges seen on some batches, grids for the weights, and then only whole numbers.

    net = fold(predict, params, x[:1])
    ranges = calibrated(net, batches)                         # what each layer gave
    small = integers(net, ranges)                             # engine.quantise.integer.Network
    print(report(net, small, x))                              # signal to noise, layer by layer

Weights are symmetric, with a scale for each channel, as integer products want them; what flows is affine in 8 bits. A layer that keeps
codes as they are (a pool, a flattening) has the grid of what it reads. A function of each number becomes a table of all codes.

Source: Nagel et al. (2021), A white paper on neural network quantization, sec. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from engine.quantise import integer
from engine.quantise.folded import INPUT, Folded, Layer
from engine.quantise.functions import Function
from engine.quantise.integer import Codes, InFloats, Network, Requantise, whole_bias
from engine.quantise.numbers import Grid, NotFinite, Scheme, by_output, choose_grid, dequantise, grid_of, next_power, quantise
from engine.quantise.observers import MinMax, Observer

Ranges = dict[str, tuple[float, float]]
Grids = dict[str, Grid]

LARGEST_BIAS, LEAST_UNIT, DEAD = 2.0**30, 2.0**-31, 2.0**-16  # see `fitting`; half of what int32 and rules hold
TRIED = 1 << 14  # numbers of a range, to find where a function has other codes
FLOWING = Scheme(bits=8, signed=False, symmetric=False)
WEIGHTS = Scheme(bits=8, signed=True, symmetric=True)


def calibrated(net: Folded, batches: Iterable[Any], *, observer: Callable[[], Observer] = MinMax) -> Ranges:
    """The range of the input and of what each layer gives, but for those that keep codes as they are, over `batches` of inputs.

    observer   makes what looks on: `update(x)` for each batch, `range()` at last. See `engine.quantise.observers`
    What only a function reads has the range in which that changes, see `changing`.

    Raises ValueError if there is no example, NotFinite for numbers that are not, TypeError for what is not floats, naming the layer.
    """
    watched = {INPUT: observer(), **{layer.name: observer() for layer in net.layers if makes_codes(layer)}}

    def watch(name: str, numbers: Any) -> None:
        if name in watched:
            try:
                watched[name].update(numbers)
            except NotFinite as e:
                raise NotFinite(
                    f"what {name} gives is not finite: {e}\n  calibrate on data without nan, with weights that are finite"
                ) from e
            except TypeError as e:
                raise TypeError(f"what {name} gives cannot be calibrated: {e}\n  give batches of float32") from e

    count = 0
    for batch in batches:
        net(batch, watch=watch)
        count += len(batch)
    if not count:
        raise ValueError("there is no example to calibrate on: give at least one batch with one")
    return changing(net, {name: tuple(map(float, seen.range())) for name, seen in watched.items()})  # type: ignore[misc]


def makes_codes(layer: Layer) -> bool:
    """Whether a layer's results get a grid of their own."""
    return layer.kind in ("conv", "dense", "add", "function")


def changing(net: Folded, ranges: Ranges) -> Ranges:
    """The ranges, but of what a function alone reads only the part in which its codes change: tanh has one code from 3.1 up, for which
    more than one code would be wasted. Without it the steps of what tanh reads are as wide as its largest number asks for."""
    found = dict(ranges)
    for layer in net.layers:
        source = layer.reads[0]
        if layer.function is not None and source in ranges and read_by_a_function(net, source):
            found[source] = _where_it_changes(layer.function, flowing(ranges[layer.name]), *ranges[source])
    return found


def _where_it_changes(function: Function, codes: Codes, low: float, high: float) -> tuple[float, float]:
    """The part of a range outside of which f has the codes of its ends, by some numbers of it, and by as many of what is left."""
    x = np.linspace(low, high, TRIED, dtype=np.float32)
    with np.errstate(all="ignore"):
        values = function(x, defined=True)
    places = np.flatnonzero(np.diff(codes.quantise(values).astype(int))) if np.isfinite(values).all() else np.zeros(0, int)
    if not places.size:
        return low, high
    first, last = float(x[places[0]]), float(x[places[-1] + 1])
    return _where_it_changes(function, codes, first, last) if 2 * (last - first) < high - low else (first, last)


def read_by_a_function(net: Folded, name: str) -> bool:
    """Whether a function alone reads it."""
    readers = net.readers(name)
    return len(readers) == 1 and readers[0].function is not None


def weight_grids(
    net: Folded, scheme: Scheme = WEIGHTS, *, bits: Mapping[str, int] | None = None, group: int | None = None, power: bool = False
) -> Grids:
    """A grid for the weights of each layer, one scale a channel.

    bits    by name, where there are others than the scheme's
    group   of a product, so many neighbouring inputs of an output have a scale of their own: for `quantise.narrow`, not for integers
    power   scales are powers of two, as rule pow2 wants them
    Raises ValueError, with the name, for other bits or groups and for weights that are not finite.
    """
    grids = {}
    for layer in net.weighted:
        try:
            wanted = by_output(replace(scheme, bits=(bits or {}).get(layer.name, scheme.bits)), 2 if layer.kind == "dense" else 4, group)
            grids[layer.name] = grid_of(layer.w, wanted, power=power)
        except ValueError as e:
            raise type(e)(f"the weights of {layer.name}: {e}") from e
    return grids


def rounded(net: Folded, grids: Grids) -> Folded:
    """The network in floats whose weights lie on their grids, each rounded to the nearest."""
    return net.put(*(_with(layer, dequantise(quantise(layer.w, grids[layer.name]), grids[layer.name])) for layer in net.weighted))


def integers(net: Folded, ranges: Ranges, *, grids: Grids | None = None, rule: str = "fp32", in_floats: Collection[str] = ()) -> Network:
    """The network in integers.

    ranges      of the input and of each layer that gives new codes: `calibrated`
    grids       of the weights: `weight_grids`. Weights that lie on them already stay where they are
    rule        of requantisation, one of `engine.quantise.rules`. With pow2 all scales are powers of two, for else each multiplier would be
                up to 41 % off: what flows gets such, grids that are given have them by `weight_grids(net, power=True)`
    in_floats   layers by name that read codes, compute in floats and give codes: for what rounding hurts most

    Raises ValueError for a range that is missing, and, naming the layer, for grids that a layer of integers cannot have; OverflowError,
    naming the layer, where sums could leave int32.
    """
    power = rule == "pow2"
    grids = weight_grids(net, power=power) if grids is None else grids
    check_ranges(net, ranges)
    for layer in net.weighted:
        _check_grid(layer, grids.get(layer.name), power)
    unknown = [name for name in in_floats if name not in ranges or name == INPUT]
    if unknown:
        raise ValueError(f"there is no layer {', '.join(unknown)} that gives new codes; there are {', '.join(ranges)}")
    codes: dict[str, Codes] = {INPUT: flowing(ranges[INPUT], power=power)}
    layers: list[integer.Layer] = []
    scales, last = {}, INPUT
    for layer in net.layers:
        reads = () if layer.reads == (last,) else layer.reads
        last = layer.name
        before = [codes[name] for name in layer.reads]
        codes[layer.name] = flowing(ranges[layer.name], relu=layer.relu, power=power) if makes_codes(layer) else before[0]
        if makes_codes(layer):
            scales[layer.name] = np.float32(codes[layer.name].scale)
        if layer.name in in_floats and layer.function is None:  # a table has the codes of floats already
            layers.append(InFloats(layer.name, layer, tuple(before), codes[layer.name], reads))
            continue
        if layer.w is not None:
            grids = {**grids, layer.name: fitting(layer, grids[layer.name], before[0], codes[layer.name], power=power)}
            scales[f"{layer.name}/w"] = np.asarray(grids[layer.name].scale)
        layers.append(_integer(layer, reads, before, codes[layer.name], grids, rule))
    return Network(codes[INPUT], codes[net.layers[-1].name], tuple(layers), scales)


def check_ranges(net: Folded, ranges: Ranges) -> None:
    """Raises ValueError if one is missing."""
    missing = [name for name in [INPUT, *(layer.name for layer in net.layers if makes_codes(layer))] if name not in ranges]
    if missing:
        raise ValueError(f"there is no range of {', '.join(missing)}: calibrate the network that is converted")


def _check_grid(layer: Layer, grid: Grid | None, power: bool) -> None:
    """Raises ValueError if integers cannot multiply by codes of this grid."""
    if grid is None:
        raise ValueError(f"there is no grid of {layer.name}: take those of `weight_grids` of this network")
    if not grid.scheme.signed or np.any(grid.zero_point) or grid.scheme.group is not None:
        raise ValueError(
            f"the weights of {layer.name} have a grid that is without a sign, or affine, or in groups\n"
            "  integers want symmetric ones, a scale a channel: `weight_grids`; others are for `quantise.narrow`"
        )
    if power and np.any(np.frexp(grid.scale)[0] != 0.5):
        raise ValueError(
            f"rule pow2 wants scales that are powers of two, those of the weights of {layer.name} are not: `weight_grids(net, power=True)`"
            "\n  learned steps are others: take another rule for them"
        )


def fitting(layer: Layer, grid: Grid, x: Codes, y: Codes, *, power: bool = False) -> Grid:
    """The grid with other scales for channels whose weights are so small that bias or multiplier would not fit.

    A bias is at most 2^30 units of the sums, and a unit at least 2^-31 codes of y; no unit is made larger than a code. Channels of zeros,
    for which any scale will do, get units of 2^-16 codes, for a bias is a whole number of them.
    """
    assert layer.w is not None and layer.b is not None
    scale, code = np.asarray(grid.scale), y.scale / x.scale
    others = tuple(axis for axis in range(layer.w.ndim) if axis != layer.channels)
    dead, bias = ~np.any(layer.w, axis=others), np.abs(layer.b, dtype=np.float64)
    if not scale.ndim:
        dead, bias = dead.all(), bias.max(initial=0.0)
    wanted = np.where(dead, code * DEAD, scale)
    least = np.maximum(bias / (x.scale * LARGEST_BIAS), code * LEAST_UNIT)
    fitted = np.maximum(wanted, np.minimum(least, code)).astype(scale.dtype)
    if power:
        fitted = next_power(fitted)
    return replace(grid, scale=fitted)


def flowing(between: tuple[float, float], *, relu: bool = False, power: bool = False) -> Codes:
    """The codes of what flows in this range; after relu, of what is not below 0 in it. `power`: the scale is a power of two."""
    low, high = between
    grid = choose_grid(max(low, 0.0) if relu else low, high, FLOWING, power=power)
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
    if layer.function is not None:
        return integer.Lookup.of(layer.name, partial(layer.function, defined=True), before[0], after, reads=reads)
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
