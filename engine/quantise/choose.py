r"""Which layers rounding hurts, and what to do for them: more bits, or floats.

print(table(noise(net, small, x)))                                        # decibels, layer by layer
small, floats = with_fallback(net, ranges, x, measure=accuracy, least=0.97)  # the worst layers in floats, until it is good enough
bits = mixed_bits(net, grams, mean_bits=5)                                # 4 bits where that costs least, 8 elsewhere
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine.quantise import convert, rounding
from engine.quantise.calibrate import sqnr
from engine.quantise.convert import Grids, Ranges, integers, makes_codes, weight_grids
from engine.quantise.correct import values_of
from engine.quantise.folded import Folded
from engine.quantise.integer import Network
from engine.quantise.narrow import Narrow


def noise(net: Folded, small: Network | Narrow, x: Any) -> dict[str, float]:
    r"""$10 \log_{10} \left( \sum y^2 / \sum (\hat y - y)^2 \right)$ for what each layer gives: decibels, 6 for each bit that is right

    Of the whole network up to that layer, so what is lost stays lost. Layers that only hand codes on are left out, and so are those that a
    function alone reads: their numbers are clipped where it no longer changes.
    """
    whole = values_of(net, x)
    if isinstance(small, Narrow):
        values = small.values(x)
        return {layer.name: sqnr(whole[layer.name], values[layer.name]) for layer in net.weighted}
    given, codes = small.values(small.input.quantise(x)), small.codes()
    own = [layer.name for layer in small.layers if layer.name in small.scales and not convert.read_by_a_function(net, layer.name)]
    return {name: sqnr(whole[name], codes[name].dequantise(given[name])) for name in own}


def table(decibels: Mapping[str, float]) -> str:
    """A line for each layer, the worst last."""
    width = max(map(len, decibels), default=0)
    return "\n".join(f"{name:<{width}}  {value:6.1f} dB" for name, value in sorted(decibels.items(), key=lambda item: -item[1]))


def with_fallback(
    net: Folded,
    ranges: Ranges,
    x: Any,
    *,
    measure: Callable[[Network], float],
    least: float,
    grids: Grids | None = None,
    rule: str = "fp32",
) -> tuple[Network, list[str]]:
    """Integers, but for as few layers as it takes to measure `least`: those whose own rounding adds most noise, the worst first.

    x         a batch on which the noise of layers is measured
    measure   of a network, larger is better: its accuracy on examples that are not the test's
    Returns the network and the layers that stay in floats: all of those with weights and the sums, if not even that is enough.
    """
    floats: list[str] = []
    small = integers(net, ranges, grids=grids, rule=rule)
    worst = sorted(own_noise(net, ranges, x, grids=grids, rule=rule).items(), key=lambda item: item[1])
    for name, _ in worst:
        if measure(small) >= least:
            break
        floats.append(name)
        small = integers(net, ranges, grids=grids, rule=rule, in_floats=floats)
    return small, floats


def own_noise(net: Folded, ranges: Ranges, x: Any, *, grids: Grids | None = None, rule: str = "fp32") -> dict[str, float]:
    """The decibels of the answer when one layer alone computes in integers, and all others in floats."""
    names = [layer.name for layer in net.layers if makes_codes(layer)]
    whole = net(x)
    found = {}
    for name in names:
        alone = integers(net, ranges, grids=grids, rule=rule, in_floats=[other for other in names if other != name])
        found[name] = sqnr(whole, alone(x))
    return found


def mixed_bits(net: Folded, grams: Mapping[str, np.ndarray], *, mean_bits: float, low: int = 4, high: int = 8) -> dict[str, int]:
    r"""`low` or `high` bits for the weights of each layer, so that they have `mean_bits` in the mean, and the sums change least

    A layer is given few bits by what that adds to $\operatorname{tr} D G D^\top$ for each bit that it saves, the cheapest first, each
    relative to the layer's own sums. `grams` are `rounding.gram` of each layer.

    Raises ValueError unless low <= mean_bits <= high.
    """
    if not low <= mean_bits <= high:
        raise ValueError(f"a mean of {mean_bits} bits is not between {low} and {high}")
    layers = {layer.name: layer for layer in net.weighted}
    price = {}
    for name, layer in layers.items():
        assert layer.w is not None
        cost = []
        for width in (low, high):
            grid = weight_grids(net, bits={name: width})[name]
            cost.append(rounding.loss(layer, rounding.nearest(layer, grid), grams[name]))
        price[name] = (cost[0] - cost[1]) / max(rounding.power(layer, grams[name]), 1e-300) / layer.w.size
    bits = dict.fromkeys(layers, high)
    total = sum(layer.w.size for layer in layers.values() if layer.w is not None)
    for name in sorted(price, key=price.__getitem__):
        if _mean(bits, layers, total) <= mean_bits:
            break
        bits[name] = low
    return bits


def _mean(bits: Mapping[str, int], layers: Mapping[str, Any], total: int) -> float:
    return float(sum(bits[name] * layer.w.size for name, layer in layers.items()) / total)
