r"""Convolutional networks for digits: LeNet-5, in the two forms that go by the name, and a plain one with kernels of 3 by 3.

    classic    LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition, sec. II-B
               1x28x28 -> conv 6 5x5 -> max 2x2 -> conv 16 5x5 -> max 2x2 -> 120 -> 84 -> 10, relu after each           61,706 numbers

    caffe      the example net of Caffe (Jia et al. 2014, Caffe: convolutional architecture for fast feature embedding)
               1x28x28 -> conv 20 5x5 -> max 2x2 -> conv 50 5x5 -> max 2x2 -> 500 -> 10, relu after the 500 only       431,080 numbers

    3x3        what small networks for pictures look like since Simonyan & Zisserman (2015), Very deep convolutional networks, sec. 2.1
               1x28x28 -> conv 32 3x3 -> max 2x2 -> conv 64 3x3 -> max 2x2 -> conv 64 3x3 -> 10, with a pixel of padding and relu
               after each                                                                                               87,114 numbers

Against the paper, classic has what one finds under its name today: relu for tanh and the maximum for the mean (both learn from
fewer examples; `activation` and `pool` bring the paper's back); the paper's 32x32 pictures are 28x28 with two pixels of padding; a
mean has no weight and bias of its own; each of the 16 sees all of the 6; the output is linear and goes to a softmax, where the paper
measures distances to drawings of the digits.

x (n, c, h, w), of 28x28 or any size from 12x12 (classic), 16x16 (caffe) or 4x4 (3x3) up; z (n, classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine import ops
from engine.initialise import Initialiser, glorot_uniform, he_normal, lecun_uniform
from engine.models.inputs import as_rows
from engine.ops.bias import Activation
from engine.shapes import Shape, ShapeError

Params = dict[str, np.ndarray]
Function = Callable[..., Any]

PICTURE = (1, 28, 28)


def init_classic(seed: int, shape: Shape = PICTURE, classes: int = 10, *, dtype: Any = np.float32) -> Params:
    """Glorot & Bengio (2010), eq. 16; biases 0. `shape` is that of one picture (channels, rows, columns)."""
    c, h, w = _picture("lenet5_classic", shape, 12)
    seen = 16 * _halved_twice(h + 4) * _halved_twice(w + 4)
    shapes = {"conv1": (6, c, 5, 5), "conv2": (16, 6, 5, 5), "dense1": (seen, 120), "dense2": (120, 84), "dense3": (84, classes)}
    return _drawn(seed, shapes, glorot_uniform, dtype)


def predict_classic(params: Mapping[str, Any], x: Any, *, activation: Activation = "relu", pool: Function = ops.max_pool2d) -> Any:
    """The logits of the classes for each picture. The paper's: `activation="tanh", pool=ops.avg_pool2d`."""
    h = _pooled(params, "conv1", x, pool, activation, padding=2)
    h = _pooled(params, "conv2", h, pool, activation)
    h = _dense(params, "dense1", as_rows(h), activation)
    h = _dense(params, "dense2", h, activation)
    return _dense(params, "dense3", h)


def loss_classic(params: Mapping[str, Any], x: Any, t: Any, *, activation: Activation = "relu", pool: Function = ops.max_pool2d) -> Any:
    r"""$L = -\frac{1}{n} \sum_i \ln p_{i, t_i}, \quad p = \mathrm{softmax}(z)$"""
    return ops.cross_entropy(predict_classic(params, x, activation=activation, pool=pool), t)


def init_caffe(seed: int, shape: Shape = PICTURE, classes: int = 10, *, dtype: Any = np.float32) -> Params:
    """Uniform with variance 1 / fan-in, which Caffe calls xavier; biases 0. `shape` is that of one picture."""
    c, h, w = _picture("lenet5_caffe", shape, 16)
    seen = 50 * _halved_twice(h) * _halved_twice(w)
    shapes = {"conv1": (20, c, 5, 5), "conv2": (50, 20, 5, 5), "dense1": (seen, 500), "dense2": (500, classes)}
    return _drawn(seed, shapes, lecun_uniform, dtype)


def predict_caffe(params: Mapping[str, Any], x: Any) -> Any:
    """The logits of the classes for each picture."""
    h = _pooled(params, "conv1", x, ops.max_pool2d)
    h = _pooled(params, "conv2", h, ops.max_pool2d)
    h = _dense(params, "dense1", as_rows(h), "relu")
    return _dense(params, "dense2", h)


def loss_caffe(params: Mapping[str, Any], x: Any, t: Any) -> Any:
    r"""$L = -\frac{1}{n} \sum_i \ln p_{i, t_i}, \quad p = \mathrm{softmax}(z)$"""
    return ops.cross_entropy(predict_caffe(params, x), t)


def init_3x3(seed: int, shape: Shape = PICTURE, classes: int = 10, *, dtype: Any = np.float32) -> Params:
    """He et al. (2015), eq. 10; biases 0. `shape` is that of one picture."""
    c, h, w = _picture("cnn3x3", shape, 4)
    seen = 64 * (h // 2 // 2) * (w // 2 // 2)
    shapes = {"conv1": (32, c, 3, 3), "conv2": (64, 32, 3, 3), "conv3": (64, 64, 3, 3), "dense1": (seen, classes)}
    return _drawn(seed, shapes, he_normal, dtype)


def predict_3x3(params: Mapping[str, Any], x: Any) -> Any:
    """The logits of the classes for each picture."""
    h = _pooled(params, "conv1", x, ops.max_pool2d, "relu", padding=1)
    h = _pooled(params, "conv2", h, ops.max_pool2d, "relu", padding=1)
    h = ops.bias_activation(ops.conv2d(h, params["conv3/w"], padding=1), params["conv3/b"], activation="relu")
    return _dense(params, "dense1", as_rows(h))


def loss_3x3(params: Mapping[str, Any], x: Any, t: Any) -> Any:
    r"""$L = -\frac{1}{n} \sum_i \ln p_{i, t_i}, \quad p = \mathrm{softmax}(z)$"""
    return ops.cross_entropy(predict_3x3(params, x), t)


def _pooled(params: Mapping[str, Any], name: str, x: Any, pool: Function, activation: Activation = "identity", *, padding: int = 0) -> Any:
    """pool(activation(x * w + b)). A bias and an activation that never falls may as well follow a maximum, as a quarter of the numbers."""
    y, b = ops.conv2d(x, params[f"{name}/w"], padding=padding), params[f"{name}/b"]
    if pool is ops.max_pool2d:
        return ops.bias_activation(pool(y, kernel_size=2), b, activation=activation)
    return pool(ops.bias_activation(y, b, activation=activation), kernel_size=2)


def _dense(params: Mapping[str, Any], name: str, x: Any, activation: Activation = "identity") -> Any:
    return ops.dense(x, params[f"{name}/w"], params[f"{name}/b"], activation=activation)


def _drawn(seed: int, shapes: Mapping[str, Shape], draw: Initialiser, dtype: Any) -> Params:
    """w by `draw` and b = 0 for each layer. The first axis of a kernel, the last of a matrix, counts the outputs."""
    rng = np.random.default_rng(seed)
    params: Params = {}
    for name, shape in shapes.items():
        params[f"{name}/w"] = draw(rng, shape, dtype)
        params[f"{name}/b"] = np.zeros(shape[0] if len(shape) == 4 else shape[1], dtype)
    return params


def _halved_twice(size: int) -> int:
    """The rows that are left after two rounds of a 5x5 kernel without padding and pooling by 2."""
    return ((size - 4) // 2 - 4) // 2


def _picture(who: str, shape: Shape, least: int) -> Shape:
    if len(shape) != 3 or min(shape[1:]) < least or math.prod(shape) == 0:
        raise ShapeError(f"{who} wants pictures (channels, rows, columns) of at least {least} x {least}, these are {tuple(shape)}")
    return shape
