"""The three networks as data, so that each framework builds the same one.

    mlp     784 - 300 - 100 - 10, relu after the hidden layers
    lenet   classic LeNet-5: conv 6 5x5 (two pixels of padding), pool, conv 16 5x5, pool, 120, 84, 10, relu after each but the last
    cnn     3x3 kernels with a pixel of padding: conv 32, pool, conv 64, pool, conv 64, dense 10, relu after each convolution

All take pictures of 28 x 28; pools take the maximum of 2 x 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import nets
from engine.models import cnn, mlp

Params = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """kind is conv, dense, relu, pool or flatten; w and b name the arrays of the first two."""

    kind: str
    w: str = ""
    b: str = ""
    padding: int = 0


def conv(name: str, padding: int = 0) -> Layer:
    return Layer("conv", f"{name}/w", f"{name}/b", padding)


def dense(name: str) -> Layer:
    return Layer("dense", f"{name}/w", f"{name}/b")


RELU, POOL, FLATTEN = Layer("relu"), Layer("pool"), Layer("flatten")

LAYERS: dict[str, tuple[Layer, ...]] = {
    "mlp": (FLATTEN, Layer("dense", "w1", "b1"), RELU, Layer("dense", "w2", "b2"), RELU, Layer("dense", "w3", "b3")),
    "lenet": (
        conv("conv1", 2), RELU, POOL, conv("conv2"), RELU, POOL, FLATTEN, dense("dense1"), RELU, dense("dense2"), RELU, dense("dense3"),
    ),
    "cnn": (conv("conv1", 1), RELU, POOL, conv("conv2", 1), RELU, POOL, conv("conv3", 1), RELU, FLATTEN, dense("dense1")),
}  # fmt: skip

CNN = nets.serial(
    nets.conv(32, 3, padding=1), nets.relu, nets.max_pool(2),
    nets.conv(64, 3, padding=1), nets.relu, nets.max_pool(2),
    nets.conv(64, 3, padding=1), nets.relu, nets.flatten, nets.dense(10),
)  # fmt: skip

PICTURE = (1, 28, 28)


def init(name: str, seed: int) -> Params:
    """Our weights, which every framework begins with."""
    if name == "cnn":
        return CNN.init(seed, PICTURE)[0]
    return mlp.init(seed) if name == "mlp" else cnn.init_classic(seed)


def products(name: str) -> list[int]:
    """Products that are added up for one picture, in each layer that has weights."""
    found, size = [], PICTURE[1]
    params = init(name, 0)
    for layer in LAYERS[name]:
        if layer.kind == "conv":
            size += 2 * layer.padding - params[layer.w].shape[2] + 1
            found.append(params[layer.w].size * size * size)
        elif layer.kind == "dense":
            found.append(params[layer.w].size)
        elif layer.kind == "pool":
            size //= 2
    return found


def description(name: str) -> str:
    """In words, for a row of a table."""
    return {"mlp": "MLP 784-300-100-10", "lenet": "classic LeNet-5", "cnn": "3x3 CNN, 32-64-64 channels"}[name]


def spread(layers: tuple[Layer, ...], params: Params) -> list[tuple[Layer, Any]]:
    """The dense layer that follows a picture, with the shape (channels, rows, columns) of that picture; None for all other layers.

    Who keeps channels last has to take the rows of its weight in another order.
    """
    found: list[tuple[Layer, Any]] = []
    channels, size, flat = *PICTURE[:2], False
    for layer in layers:
        if layer.kind == "conv":
            channels, size = params[layer.w].shape[0], size + 2 * layer.padding - params[layer.w].shape[2] + 1
        elif layer.kind == "pool":
            size //= 2
        found.append((layer, (channels, size, size) if layer.kind == "dense" and flat else None))
        flat = layer.kind == "flatten"
    return found
