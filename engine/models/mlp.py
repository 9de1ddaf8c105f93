r"""Multilayer perceptron.

    h1 = relu(x w1 + b1)         x  (n, 784)    w1 (784, 300)    b1 (300)
    h2 = relu(h1 w2 + b2)        h1 (n, 300)    w2 (300, 100)    b2 (100)
    z  = h2 w3 + b3              h2 (n, 100)    w3 (100, 10)     b3 (10)

and so with any number of layers of any sizes: the arrays say how many. Parameters are a flat dict under these very names; so are
gradients, moments, masks and scales.
Source: Rumelhart, Hinton & Williams (1986), Learning representations by back-propagating errors; the default sizes are those of
LeCun, Bottou, Bengio & Haffner (1998), sec. III-C. They had tanh; relu, of Glorot, Bordes & Bengio (2011), learns faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engine import ops
from engine.initialise import he_normal
from engine.models.inputs import as_rows

Params = dict[str, np.ndarray]

SIZES = (784, 300, 100, 10)


def init(seed: int, sizes: Sequence[int] = SIZES, *, dtype: Any = np.float32) -> Params:
    """He et al. (2015), eq. 10, made for relu; biases 0. Raises ValueError for fewer than two sizes."""
    if len(sizes) < 2:
        raise ValueError(f"mlp: the sizes are those of the input, of the hidden layers and of the output, not {tuple(sizes)}")
    rng = np.random.default_rng(seed)
    params: Params = {}
    for i, (m, n) in enumerate(pairwise(sizes), 1):
        params[f"w{i}"] = he_normal(rng, (m, n), dtype)
        params[f"b{i}"] = np.zeros(n, dtype)
    return params


def predict(params: Mapping[str, Any], x: Any) -> Any:
    """The logits of the classes for each row of x."""
    layers = len(params) // 2
    h = as_rows(x)
    for i in range(1, layers):
        h = ops.dense(h, params[f"w{i}"], params[f"b{i}"], activation="relu")
    return ops.dense(h, params[f"w{layers}"], params[f"b{layers}"])


def loss(params: Mapping[str, Any], x: Any, t: Any) -> Any:
    r"""$L = -\frac{1}{n} \sum_i \ln p_{i, t_i}, \quad p = \mathrm{softmax}(z)$"""
    return ops.cross_entropy(predict(params, x), t)
