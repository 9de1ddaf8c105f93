"""Networks of one's own: layers are pairs of functions over flat dicts, and go together as building blocks do.

    net = serial(conv(6, 5, padding=2), relu, max_pool(2), conv(16, 5), relu, max_pool(2), flatten, dense(120), relu, dense(10))
    params, state = net.init(0, (1, 28, 28))                         # shapes without the batch axis
    logits, state = net.apply(params, x, state, train=True, seed=3)
    print(net)                                                       # a table: paths, shapes, parameters

`params` is a flat dict, {"conv1/w": array, ...}: gradients, moments, masks and checkpoints have the same names. Since it is a
dict, arrays are also tied by assignment: {**params, "decoder/w": params["encoder/w"].T}.
"""

from engine.nets.combine import concat, residual, serial
from engine.nets.layer import Layer, NetError, count, function, layer
from engine.nets.layers import (
    activation,
    avg_pool,
    batch_norm,
    conv,
    dense,
    dropout,
    elu,
    embedding,
    flatten,
    gelu,
    global_avg_pool,
    identity,
    layer_norm,
    leaky_relu,
    log_softmax,
    max_pool,
    relu,
    reshape,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)

__all__ = [
    "Layer", "NetError", "activation", "avg_pool", "batch_norm", "concat", "conv", "count", "dense", "dropout", "elu", "embedding",
    "flatten", "function", "gelu", "global_avg_pool", "identity", "layer", "layer_norm", "leaky_relu", "log_softmax", "max_pool", "relu",
    "reshape", "residual", "serial", "sigmoid", "silu", "softmax", "softplus", "tanh",
]  # fmt: skip
