r"""What makes a network easier to round: equal ranges of neighbouring layers, and biases that make up for what rounding shifts.

net = equalised(net)                                     # the same function, other weights
grids = weight_grids(net)
net = bias_corrected(net, rounded(net, grids), batches)  # what is lost on the average is given back
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from engine.quantise.folded import Folded, Layer

PASSING = ("max_pool", "avg_pool", "flatten")  # layers through which a factor for each channel passes: they neither mix channels nor shift


def equalised(net: Folded, *, rounds: int = 10) -> Folded:
    r"""$W_1' = W_1 / r, \; b_1' = b_1 / r, \; W_2' = r W_2, \quad r_i = \sqrt{R_1^i R_2^i} / R_2^i$, R the largest |w| of a channel

    For each pair of layers of which the second alone reads the first, through pools and flattenings at most: then both have the range
    $\sqrt{R_1^i R_2^i}$ in channel i. With relu or nothing between, which both let a positive factor pass, the function is the same. A
    channel that is 0 on one side stays as it is. Pairs share layers, so it is done in `rounds`.

    Source: Nagel, van Baalen, Blankevoort & Welling (2019), Data-free quantization through weight equalization and bias correction,
    sec. 4.1, eq. 11.
    """
    for _ in range(rounds):
        for first, second in pairs(net):
            net = net.put(*_equal(net[first], net[second]))
    return net


def pairs(net: Folded) -> list[tuple[str, str]]:
    """The layers with weights that can be equalised: the second reads the first, and nothing else does."""
    found = []
    for layer in net.weighted:
        readers = net.readers(layer.name)
        while len(readers) == 1 and readers[0].kind in PASSING:
            readers = net.readers(readers[0].name)
        if len(readers) == 1 and readers[0].w is not None and _groups(readers[0]) == 1:
            found.append((layer.name, readers[0].name))
    return found


def bias_corrected(net: Folded, rough: Folded, batches: Iterable[Any]) -> Folded:
    r"""`rough` with $b' = b - E[(\tilde W - W) x]$, one number a channel

    net        the network as it was, whose inputs x of each layer are seen on `batches`
    rough      the same network with other weights, rounded ones: `convert.rounded`
    Then each layer gives on the average what it gave, before relu. Raises ValueError if there is no batch.
    Source: Nagel et al. (2019), sec. 4.2, with the mean taken from data.
    """
    total = {layer.name: np.zeros(len(layer.b)) for layer in net.weighted if layer.b is not None}
    count = 0
    for x in batches:
        if not len(x):
            continue
        seen = values_of(net, x)
        for layer in net.weighted:
            total[layer.name] += len(x) * _shift(layer, rough[layer.name], seen[layer.reads[0]])
        count += len(x)
    if not count:
        raise ValueError("there is no batch to see the inputs of layers on: give at least one")
    return rough.put(*(_lowered(rough[name], shift / count) for name, shift in total.items()))


def _lowered(layer: Layer, shift: np.ndarray) -> Layer:
    assert layer.b is not None
    return replace(layer, b=(layer.b - shift).astype(layer.b.dtype))


def _shift(layer: Layer, rough: Layer, x: Any) -> np.ndarray:
    """By how much the rough layer's sums are larger, on the average over a batch, in each channel."""
    assert layer.w is not None and rough.w is not None
    change = replace(layer, w=rough.w - layer.w, b=np.zeros_like(layer.b), relu=False)
    y = np.asarray(change(x), np.float64)
    return np.asarray(y.mean(axis=tuple(axis for axis in range(y.ndim) if axis != 1)))


def _equal(first: Layer, second: Layer) -> Iterator[Layer]:
    """Both with the same range in each channel between them."""
    assert first.w is not None and first.b is not None and second.w is not None
    outputs = np.abs(np.moveaxis(first.w, first.channels, 0)).reshape(len(first.b), -1).max(axis=1).astype(np.float64)
    taken = np.moveaxis(second.w, 1 if second.kind == "conv" else 0, 0).reshape(len(first.b), -1)  # pixels of a channel side by side
    inputs = np.abs(taken).max(axis=1).astype(np.float64)
    alive = (outputs > 0) & (inputs > 0)
    r = np.sqrt(np.divide(outputs, inputs, out=np.ones_like(outputs), where=alive))
    along = (-1, *[1] * (first.w.ndim - 1)) if first.kind == "conv" else (1, -1)
    yield replace(first, w=(first.w / r.reshape(along)).astype(first.w.dtype), b=(first.b / r).astype(first.b.dtype))
    places = np.repeat(r, (second.w.shape[1] if second.kind == "conv" else len(second.w)) // len(r))
    beside = (1, -1, *[1] * (second.w.ndim - 2)) if second.kind == "conv" else (-1, 1)
    yield replace(second, w=(second.w * places.reshape(beside)).astype(second.w.dtype))


def _groups(layer: Layer) -> int:
    return int(layer.options.get("groups", 1))


def inputs_of(net: Folded, name: str, batches: Iterable[Any]) -> Iterator[Any]:
    """What a layer reads, batch by batch."""
    return (values_of(net, x)[net[name].reads[0]] for x in batches)


def values_of(net: Folded, x: Any) -> dict[str, Any]:
    """The input and what each layer gives for it, by name."""
    seen: dict[str, Any] = {}
    net(x, watch=seen.__setitem__)
    return seen
