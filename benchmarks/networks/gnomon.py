"""Our engine on our kernels; without them, on the definitions."""

from __future__ import annotations

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
from engine.optim import Adam
from engine.run import Run
from engine.train import objective, train_step

__all__ = ["Net", "as_numpy", "available", "prepare"]

MODELS: dict[str, Any] = {  # loss, logits
    "mlp": (mlp.loss, mlp.predict),
    "lenet": (cnn.loss_classic, cnn.predict_classic),
    "cnn": (objective(CNN, ops.cross_entropy), CNN),
}
IN_FORCE = ExitStack()  # the process is this implementation's own


def available() -> str | None:
    return None if "cpu" in of_ours.backends() else "there is no backend cpu here"


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    return prepare_with(Net, case, args)


class Net:
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params, kernels: bool = True):
        if kernels and not of_ours.running_kernels():
            IN_FORCE.enter_context(of_ours.use("cpu"))
        self.kernels = kernels
        self.loss, self.predict = MODELS[name]
        self.adam = Adam(lr=1e-3)
        self.run = Run(dict(params), self.adam.init(params), {} if name == "cnn" else None, 0)

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        return x, t

    def step(self, x: Any, t: Any) -> float:
        if not self.kernels:
            with of_ours.use(None):
                return train_step(self.run, self.loss, (x, t), self.adam)
        return train_step(self.run, self.loss, (x, t), self.adam)

    def logits(self, x: Any) -> Any:
        if not self.kernels:
            with of_ours.use(None):
                return self.predict(self.run.params, x)
        return self.predict(self.run.params, x)

    def params(self) -> dict[str, np.ndarray]:
        return dict(self.run.params)
