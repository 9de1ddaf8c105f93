"""JAX: loss, gradient and Adam in one jitted step, whose arrays are handed over and updated in place. Channels come last."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.networks.case import as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import LAYERS, Layer, Params, spread

__all__ = ["Net", "as_numpy", "available", "prepare"]

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8


def available() -> str | None:
    return peers.absent("jax")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if peers.threads() == 1:  # NPROC, which is set for all, bounds XLA's pool; it does without one where this is said
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return prepare_with(Net, case, args)


def turned(w: Any, layer: Layer, picture: Any, back: bool = False) -> Any:
    """A weight of ours as it lies where channels come last: (rows, columns, inputs, outputs), and a dense one behind a picture with
    its inputs in the order rows, columns, channels. `back` undoes it."""
    if layer.kind == "conv":
        return np.transpose(w, (3, 2, 0, 1) if back else (2, 3, 1, 0))
    if picture is None:
        return w
    c, h, width = picture
    sizes, order = ((h, width, c), (2, 0, 1)) if back else ((c, h, width), (1, 2, 0))
    return np.reshape(w, (*sizes, -1)).transpose(*order, 3).reshape(w.shape)


def logits_of(layers: tuple[Layer, ...], params: dict[str, Any], x: Any) -> Any:
    """x (n, rows, columns, 1)"""
    import jax
    from jax import lax

    for layer in layers:
        if layer.kind == "conv":
            around = [(layer.padding,) * 2] * 2
            x = lax.conv_general_dilated(x, params[layer.w], (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC")) + params[layer.b]
        elif layer.kind == "dense":
            x = x @ params[layer.w] + params[layer.b]
        elif layer.kind == "relu":
            x = jax.nn.relu(x)
        elif layer.kind == "pool":
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        else:
            x = x.reshape(len(x), -1)
    return x


class Net:
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params):
        import jax

        self.places = {layer.w: (layer, picture) for layer, picture in spread(LAYERS[name], params) if layer.w}
        ours = {key: turned(a, *self.places[key]) if key in self.places else a for key, a in params.items()}
        self.weights = jax.device_put(ours)
        self.moments = jax.device_put([{key: np.zeros_like(a) for key, a in ours.items()} for _ in range(2)])
        self.t = 0
        self.forward = jax.jit(lambda p, x: logits_of(LAYERS[name], p, x))
        self.update = jax.jit(lambda *args: updated(LAYERS[name], *args), donate_argnums=(0, 1))

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        import jax

        return jax.device_put(np.transpose(x, (0, 2, 3, 1))), jax.device_put(t.astype(np.int32))

    def step(self, x: Any, t: Any) -> float:
        import jax

        self.t += 1
        self.weights, self.moments, loss = jax.block_until_ready(self.update(self.weights, self.moments, float(self.t), x, t))
        return float(loss)

    def logits(self, x: Any) -> Any:
        import jax

        return jax.block_until_ready(self.forward(self.weights, x))

    def params(self) -> dict[str, np.ndarray]:
        arrays = {key: np.asarray(a) for key, a in self.weights.items()}
        return {key: turned(a, *self.places[key], back=True) if key in self.places else a for key, a in arrays.items()}


def updated(layers: tuple[Layer, ...], params: Any, moments: Any, t: Any, x: Any, labels: Any) -> Any:
    """Weights, moments and loss after a step of Adam."""
    import jax
    import jax.numpy as jnp

    def loss(params: Any) -> Any:
        log_p = jax.nn.log_softmax(logits_of(layers, params, x))
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

    value, grads = jax.value_and_grad(loss)(params)
    m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, moments[0], grads)
    v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, moments[1], grads)
    c1, c2 = 1 - BETA1**t, 1 - BETA2**t
    params = jax.tree.map(lambda p, m, v: p - LR * (m / c1) / (jnp.sqrt(v / c2) + EPS), params, m, v)
    return params, [m, v], value
