"""Our engine on our kernels; without them, on the definitions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

import kernels as of_ours
from benchmarks import peers
from benchmarks.networks.case import as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import CNN, Params
from engine import ops
from engine.models import cnn, mlp
from engine.models.inputs import as_rows
from engine.optim import Adam
from engine.run import Run
from engine.train import train_step

__all__ = ["Net", "as_numpy", "available", "prepare"]


def predict_cnn(params: Mapping[str, Any], x: Any) -> Any:
    """`layers.CNN` by hand: bias and relu follow the maximum, which commutes with them and leaves them a quarter of the numbers."""
    for name in ("conv1", "conv2"):
        x = ops.max_pool2d(ops.conv2d(x, params[f"{name}/w"], padding=1), kernel_size=2)
        x = ops.bias_activation(x, params[f"{name}/b"], activation="relu")
    x = ops.bias_activation(ops.conv2d(x, params["conv3/w"], padding=1), params["conv3/b"], activation="relu")
    return ops.dense(as_rows(x), params["dense1/w"], params["dense1/b"])


PREDICT: dict[str, Any] = {"mlp": mlp.predict, "lenet": cnn.predict_classic, "cnn": predict_cnn}
DEFINED: dict[str, Any] = {**PREDICT, "cnn": CNN}  # layer by layer, as it is written: the reference
IN_FORCE = ExitStack()  # the process is this implementation's own


def available() -> str | None:
    return None if "cpu" in of_ours.backends() else "there is no backend cpu here"


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if case.dtype == "int8":
        from benchmarks.networks.quantised import Net as Integers

        in_force()
        weights, x, t = args
        return case.prepared(Integers(case.net, weights, x), x, t)  # type: ignore[no-any-return]
    return prepare_with(Net, case, args)


def in_force() -> None:
    """Our kernels, from here on."""
    if not of_ours.running_kernels():
        IN_FORCE.enter_context(of_ours.use("cpu"))


class Net:
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params, kernels: bool = True):
        if kernels:
            in_force()
        self.kernels = kernels
        self.predict = (PREDICT if kernels else DEFINED)[name]
        self.adam = Adam(lr=1e-3)
        self.run = Run({key: a.copy() for key, a in params.items()}, self.adam.init(params), None, 0)

    def loss(self, params: Mapping[str, Any], x: Any, t: Any) -> Any:
        return ops.cross_entropy(self.predict(params, x), t)

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        return x, t

    def step(self, x: Any, t: Any) -> float:
        if not self.kernels:
            with of_ours.use(None):
                return train_step(self.run, self.loss, (x, t), self.adam)
        return train_step(self.run, self.loss, (x, t), self.adam, in_place=True)

    def logits(self, x: Any) -> Any:
        if not self.kernels:
            with of_ours.use(None):
                return self.predict(self.run.params, x)
        return self.predict(self.run.params, x)

    def params(self) -> dict[str, np.ndarray]:
        return dict(self.run.params)
