r"""Rounding weights not each to the nearest, but all together so that the layer's sums stay.

    grams = {layer.name: gram(layer, inputs_of(net, layer.name, batches)) for layer in net.weighted}
    net = net.put(*(gptq(layer, grids[layer.name], grams[layer.name]) for layer in net.weighted))

For inputs x with the Gram matrix $G = \frac{1}{n} \sum x x^\top$, a change D of the weights changes the sums by
$\operatorname{tr} D G D^\top$ in the mean square. Both methods make that small; what they see of the data is G. A convolution is the
product of its patches. Grids are symmetric, as `convert.weight_grids` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from engine import ops
from engine.ops.windows import padded, pair
from engine.optim import Adam
from engine.quantise.folded import Layer
from engine.quantise.numbers import Grid, dequantise, quantise
from engine.reverse import grad

WIDER, LOWER = 1.2, -0.1  # of the sigmoid that says up or down: it reaches 0 and 1


def gram(layer: Layer, inputs: Iterable[Any]) -> np.ndarray:
    r"""$G = \frac{1}{n} \sum x x^\top$ over all that the layer's weights multiply: (groups, k, k) in float64, k numbers of one output

    Raises ValueError if there are no inputs.
    """
    total, count = None, 0
    for x in inputs:
        rows = patches(layer, np.asarray(x, np.float64))
        total = np.matmul(rows.swapaxes(1, 2), rows) + (0 if total is None else total)
        count += rows.shape[1]
    if total is None or not count:
        raise ValueError(f"there are no inputs of {layer.name}: give at least one batch")
    return np.asarray(total / count)


def patches(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What the layer's weights multiply, (groups, rows, k): of a product its inputs, of a convolution each window."""
    if layer.kind == "dense":
        return x[None]
    assert layer.w is not None
    step, apart = pair(layer.options.get("stride", 1), "stride", 1), pair(layer.options.get("dilation", 1), "dilation", 1)
    i, j = layer.w.shape[2:]
    around = padded(x, layer.options.get("padding", 0))
    seen = sliding_window_view(around, (apart[0] * (i - 1) + 1, apart[1] * (j - 1) + 1), axis=(2, 3))
    seen = seen[:, :, :: step[0], :: step[1], :: apart[0], :: apart[1]]
    groups, each = layer.options.get("groups", 1), layer.w.shape[1]
    apart_by_group = seen.reshape(len(x), groups, each, *seen.shape[2:])
    return np.ascontiguousarray(apart_by_group.transpose(1, 0, 3, 4, 2, 5, 6)).reshape(groups, -1, each * i * j)


def loss(layer: Layer, other: Layer, g: np.ndarray) -> float:
    r"""$\operatorname{tr} D G D^\top$ for the difference D of the weights: the mean square by which the sums of all outputs change."""
    d = _rows(layer, layer.w, len(g)).astype(np.float64) - _rows(layer, other.w, len(g))
    return float(np.einsum("gok,gkl,gol->", d, g, d))


def power(layer: Layer, g: np.ndarray) -> float:
    r"""$\operatorname{tr} W G W^\top$: the mean square of the sums themselves."""
    w = _rows(layer, layer.w, len(g)).astype(np.float64)
    return float(np.einsum("gok,gkl,gol->", w, g, w))


def nearest(layer: Layer, grid: Grid) -> Layer:
    """Each weight rounded to the nearest: what the others are measured against."""
    return replace(layer, w=np.asarray(dequantise(quantise(layer.w, grid), grid)))


def gptq(layer: Layer, grid: Grid, g: np.ndarray, *, damping: float = 0.01) -> Layer:
    r"""One input after the other is rounded, $e = (w_j - q_j) / U_{jj}$, and those to come make up for it: $w_{l} \mathrel{-}= e\, U_{jl}$

    U is the upper Cholesky factor of the inverse of $2 G + \lambda I$; lambda is `damping` times its mean diagonal. An input that is
    always 0 gets the weight 0, and a weight that is 0, as of a pruned model, stays 0.
    Source: Frantar, Ashkboos, Hoefler & Alistarh (2023), GPTQ: accurate post-training quantization for generative pre-trained
    transformers, Algorithm 1.
    """
    w = _rows(layer, layer.w, len(g)).astype(np.float64)
    there, done = w != 0, np.empty_like(w)
    for group, h in enumerate(2 * g):
        dead = np.diag(h) == 0
        h = h + np.diag(np.where(dead, 1.0, 0.0) + damping * max(np.diag(h).mean(), 1e-30))
        w[group][:, dead] = 0
        u = np.linalg.cholesky(np.linalg.inv(h)).T
        for j in range(w.shape[2]):
            done[group][:, j] = _on_grid(layer, grid, w, group, j)
            e = (w[group][:, j] - done[group][:, j]) / u[j, j]
            w[group][:, j + 1 :] -= np.outer(e, u[j, j + 1 :]) * there[group][:, j + 1 :]
    return replace(layer, w=_back(layer, done))


def adaround(layer: Layer, grid: Grid, g: np.ndarray, *, steps: int = 1000, lr: float = 0.01, strength: float = 0.01) -> Layer:
    r"""$\min_V \operatorname{tr} D G D^\top + \lambda \sum (1 - |2 h - 1|^\beta), \quad D = W - s (\lfloor W / s \rfloor + h)$

    with $h = \mathrm{clip}(1.2\, \sigma(V) - 0.1, 0, 1)$.
    Whether each weight goes up or down is learned (one that is 0 stays 0), from the fraction that it has, while beta falls from 20 to 2
    and drives h to 0 or 1. At last h is rounded; the result is taken if it is better than rounding to the nearest.
    Source: Nagel, Amjad, van Baalen, Louizos & Blankevoort (2020), Up or down? Adaptive rounding for post-training quantization,
    eq. 21 to 25.
    """
    w = _rows(layer, layer.w, len(g)).astype(np.float64)
    s = _rows(layer, np.broadcast_to(grid.over(layer.w.shape)[0], layer.w.shape), len(g)).astype(np.float64)  # type: ignore[union-attr]
    down, there = np.floor(w / s), w != 0
    part = np.clip((w / s - down - LOWER) / WIDER, 1e-6, 1 - 1e-6)
    size = float(np.einsum("gok,gkl,gol->", s, g, s)) / w.size  # of a change by one step: so that lambda does not depend on units

    def objective(p: Any, beta: float) -> Any:
        h = ops.clip(ops.sigmoid(p["v"]) * WIDER + LOWER, min=0.0, max=1.0)
        d = (w / s - down - h) * s * there
        return ops.sum(ops.matmul(d, g) * d) / size + strength * ops.sum(1 - ops.abs(2 * h - 1) ** beta)

    params, adam = {"v": np.log(part / (1 - part))}, Adam(lr=lr)
    moments = adam.init(params)
    for t in range(steps):
        beta = 20 + (2 - 20) * min(1.0, t / (0.8 * steps))
        params, moments = adam.step(params, grad(lambda p, beta=beta: objective(p, beta))(params), moments)
    up = there & (params["v"] > 0)
    learned = replace(layer, w=np.asarray(dequantise(quantise(_back(layer, (down + up) * s), grid), grid)))
    return min(nearest(layer, grid), learned, key=lambda found: loss(layer, found, g))


def _rows(layer: Layer, w: Any, groups: int) -> np.ndarray:
    """Weights as (groups, outputs of each, k)."""
    matrix = np.asarray(w).T if layer.kind == "dense" else np.asarray(w).reshape(len(w), -1)
    return np.ascontiguousarray(matrix).reshape(groups, -1, matrix.shape[1])


def _back(layer: Layer, rows: np.ndarray) -> np.ndarray:
    assert layer.w is not None
    matrix = rows.reshape(-1, rows.shape[2])
    return np.ascontiguousarray(matrix.T if layer.kind == "dense" else matrix.reshape(layer.w.shape)).astype(layer.w.dtype)


def _on_grid(layer: Layer, grid: Grid, w: np.ndarray, group: int, j: int) -> np.ndarray:
    """Column j of one group, each number at the nearest of its grid."""
    assert layer.w is not None
    scale = _rows(layer, np.broadcast_to(grid.over(layer.w.shape)[0], layer.w.shape), len(w))[group][:, j].astype(np.float64)
    return np.asarray(np.clip(np.rint(w[group][:, j] / scale), grid.scheme.lowest, grid.scheme.highest) * scale)
