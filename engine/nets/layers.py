"""The layers that nets are made of. Each computes by the op of the same family, where formula and source stand.

Pictures are (channels, rows, columns). `name` names a layer in the paths of its arrays; without one, the net counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from engine import ops
from engine.initialise import Initialiser, glorot_uniform, normal
from engine.nets.layer import Arrays, Layer, function, layer, nothing, same_shape
from engine.ops.bias import Activation
from engine.ops.windows import Pair, pair, window_grid
from engine.shapes import Shape, ShapeError
from engine.traced import primal


def dense(
    n: int, *, bias: bool = True, activation: Activation = "identity", init: Initialiser = glorot_uniform, name: str | None = None
) -> Layer:
    r"""$y = \mathrm{act}(x w + b)$ along the last axis: n outputs. Arrays w (inputs, n), b (n).

    activation "identity", "relu", "tanh" or "sigmoid": in one go with the product
    """

    def make(rng: np.random.Generator, shape: Shape, dtype: Any) -> Arrays:
        w = {"w": init(rng, (shape[-1], n), dtype)}
        return {**w, "b": np.zeros(n, dtype)} if bias else w

    def apply(params: Mapping[str, Any], x: Any) -> Any:
        if bias:
            return ops.dense(x, params["w"], params["b"], activation=activation)
        y = ops.matmul(x, params["w"])
        return y if activation == "identity" else getattr(ops, activation)(y)

    def out(shape: Shape) -> Shape:
        if not shape:
            raise ShapeError("dense wants inputs of at least one axis, it was given single numbers")
        return (*shape[:-1], n)

    return layer("dense", make, apply, shape=out, name=name)


def conv(
    channels: int,
    kernel: int | Pair,
    *,
    stride: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    bias: bool = True,
    activation: Activation = "identity",
    init: Initialiser = glorot_uniform,
    name: str | None = None,
) -> Layer:
    r"""$y = \mathrm{act}(x * w + b)$: 2-D convolution to so many channels. Arrays w (channels, inputs / groups, rows, columns), b.

    padding    an int, (rows, columns), ((top, bottom), (left, right)), "valid" for none, or "same", with which a picture
               keeps its size, divided by the stride and rounded up; where that takes an odd number of pixels, the last
               one goes to the bottom and to the right
    groups     the input's channel count for a depthwise convolution
    activation "identity", "relu", "tanh" or "sigmoid": in one pass with the bias
    """
    window = pair(kernel, "kernel", 1)

    def around(size: Any) -> Any:
        return same_padding(size, window, stride, dilation) if padding == "same" else 0 if padding == "valid" else padding

    def make(rng: np.random.Generator, shape: Shape, dtype: Any) -> Arrays:
        w = {"w": init(rng, (channels, shape[0] // groups, *window), dtype)}
        return {**w, "b": np.zeros(channels, dtype)} if bias else w

    def apply(params: Mapping[str, Any], x: Any) -> Any:
        y = ops.conv2d(x, params["w"], stride=stride, padding=around(x.shape[2:]), dilation=dilation, groups=groups)
        if bias:
            return ops.bias_activation(y, params["b"], activation=activation)
        return y if activation == "identity" else getattr(ops, activation)(y)

    def out(shape: Shape) -> Shape:
        as_picture(shape, "conv")
        if groups < 1 or shape[0] % groups or channels % groups:
            raise ShapeError(f"conv in {groups} groups cannot take {shape[0]} channels to {channels}: groups divides both")
        return (channels, *window_grid((shape[1], shape[2]), window, stride, around(shape[1:]), dilation))

    return layer("conv", make, apply, shape=out, name=name)


def same_padding(size: Any, kernel: Pair, stride: int | Pair, dilation: int | Pair) -> tuple[Pair, Pair]:
    """((top, bottom), (left, right)) with which ceil(size / stride) windows fit."""
    strides, dilations = pair(stride, "stride", 1), pair(dilation, "dilation", 1)

    def along(axis: int) -> Pair:
        windows = -(-size[axis] // strides[axis])
        reach = (windows - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        missing = max(reach - size[axis], 0)
        return missing // 2, missing - missing // 2

    return along(0), along(1)


def max_pool(kernel: int | Pair, *, stride: int | Pair | None = None, padding: Any = 0, name: str | None = None) -> Layer:
    """The largest of each window; a stride of None is the window's size."""

    def apply(x: Any) -> Any:
        return ops.max_pool2d(x, kernel_size=kernel, stride=stride, padding=padding)

    return function(apply, kind="max_pool", shape=_pooled(kernel, stride, padding), name=name)


def avg_pool(kernel: int | Pair, *, stride: int | Pair | None = None, padding: Any = 0, name: str | None = None) -> Layer:
    """The mean of each window; a stride of None is the window's size."""

    def apply(x: Any) -> Any:
        return ops.avg_pool2d(x, kernel_size=kernel, stride=stride, padding=padding)

    return function(apply, kind="avg_pool", shape=_pooled(kernel, stride, padding), name=name)


def _pooled(kernel: int | Pair, stride: int | Pair | None, padding: Any) -> Callable[[Shape], Shape]:
    window = pair(kernel, "kernel", 1)

    def out(shape: Shape) -> Shape:
        as_picture(shape, "pooling")
        return (shape[0], *window_grid((shape[1], shape[2]), window, window if stride is None else stride, padding))

    return out


def as_picture(shape: Shape, who: str) -> Shape:
    """`shape`, if it is that of a picture."""
    if len(shape) != 3:
        raise ShapeError(f"{who} wants a picture (channels, rows, columns), it was given {shape}")
    return shape


def batch_norm(*, momentum: float = 0.1, eps: float = 1e-5, name: str | None = None) -> Layer:
    r"""$y = w (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + b$ for each channel (the first axis of an example)

    In training the mean and the variance are those of the batch, and the state moves towards them by `momentum`; in use
    they are those of the state. Arrays w and b (channels); state mean and var (channels).
    Source: Ioffe & Szegedy (2015), Batch normalization, Algorithms 1 and 2.
    """

    def make(seed: int, shape: Shape, dtype: Any) -> tuple[Arrays, Arrays]:
        c = shape[0]
        return {"w": np.ones(c, dtype), "b": np.zeros(c, dtype)}, {"mean": np.zeros(c, dtype), "var": np.ones(c, dtype)}

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        if not train:
            return ops.batch_norm_inference(x, params["w"], params["b"], state["mean"], state["var"], eps=eps), {}
        y, mean, var = ops.batch_norm(x, params["w"], params["b"], eps=eps)
        seen = ops.stop_gradient(mean), ops.stop_gradient(var)  # the state is observed, not learned
        moved = ops.batch_norm_update(state["mean"], state["var"], *seen, count=math.prod(x.shape) // max(1, x.shape[1]), momentum=momentum)
        return y, {name: np.asarray(primal(new), state[name].dtype) for name, new in zip(("mean", "var"), moved, strict=True)}

    return Layer("batch_norm", make, _with_an_axis("batch_norm"), run, name=name)


def layer_norm(*, eps: float = 1e-5, name: str | None = None) -> Layer:
    r"""$y = w \odot (x - \mu) / \sqrt{\sigma^2 + \varepsilon} + b$ along the last axis of each example. Arrays w and b.

    Source: Ba, Kiros & Hinton (2016), Layer normalization, eq. 4.
    """

    def make(rng: np.random.Generator, shape: Shape, dtype: Any) -> Arrays:
        return {"w": np.ones(shape[-1], dtype), "b": np.zeros(shape[-1], dtype)}

    def apply(params: Mapping[str, Any], x: Any) -> Any:
        return ops.layer_norm(x, params["w"], params["b"], eps=eps)

    return layer("layer_norm", make, apply, shape=_with_an_axis("layer_norm"), name=name)


def _with_an_axis(who: str) -> Callable[[Shape], Shape]:
    def out(shape: Shape) -> Shape:
        if not shape:
            raise ShapeError(f"{who} wants inputs of at least one axis, it was given single numbers")
        return shape

    return out


def dropout(rate: float, *, name: str | None = None) -> Layer:
    """In training, 0 with probability `rate`, by the seed that `apply` is given; in use, nothing.

    Source: Srivastava et al. (2014), Dropout, sec. 10.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is a probability from 0 to below 1, not {rate}")

    def run(params: Mapping[str, Any], x: Any, state: Mapping[str, Any], train: bool, seed: int | None) -> tuple[Any, Arrays]:
        if not train or rate == 0:
            return x, {}
        if seed is None:
            raise ValueError("dropout in training is random: pass seed=, another one each step")
        return ops.dropout(x, rate=rate, seed=seed), {}

    return Layer("dropout", nothing, same_shape, run, name=name, bare=True)


def embedding(rows: int, dim: int, *, init: Initialiser = normal, name: str | None = None) -> Layer:
    """A vector of `dim` learned numbers for each integer from 0 to rows - 1. Array table (rows, dim)."""

    def make(rng: np.random.Generator, shape: Shape, dtype: Any) -> Arrays:
        return {"table": init(rng, (rows, dim), dtype)}

    def apply(params: Mapping[str, Any], ids: Any) -> Any:
        return ops.embedding(ids, params["table"])  # type: ignore[no-untyped-call]

    return layer("embedding", make, apply, shape=lambda shape: (*shape, dim), name=name)


def reshape(*shape: int, name: str | None = None) -> Layer:
    """The numbers of an example in another shape."""

    def out(given: Shape) -> Shape:
        if math.prod(given) != math.prod(shape):
            raise ShapeError(f"{given} has {math.prod(given)} numbers, {shape} has {math.prod(shape)}")
        return shape

    return function(lambda x: ops.reshape(x, shape=(x.shape[0], *shape)), kind="reshape", shape=out, name=name)


def activation(f: Callable[[Any], Any]) -> Layer:
    """An elementwise function as a layer."""
    return function(f, shape=same_shape)


def _flat(shape: Shape) -> Shape:
    return (math.prod(shape),)


def _channels(shape: Shape) -> Shape:
    return as_picture(shape, "global_avg_pool")[:1]


flatten = function(lambda x: ops.reshape(x, shape=(x.shape[0], math.prod(x.shape[1:]))), kind="flatten", shape=_flat)
global_avg_pool = function(lambda x: ops.mean(x, axis=(2, 3)), kind="global_avg_pool", shape=_channels)
identity = function(lambda x: x, kind="identity", shape=same_shape)
relu = activation(ops.relu)
leaky_relu = activation(ops.leaky_relu)
elu = activation(ops.elu)
gelu = activation(ops.gelu)
silu = activation(ops.silu)
sigmoid = activation(ops.sigmoid)
softplus = activation(ops.softplus)
tanh = activation(ops.tanh)
softmax = activation(ops.softmax)
log_softmax = activation(ops.log_softmax)
