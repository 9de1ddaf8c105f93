"""The networks in int8, made of the same weights in every framework: what is raced is `Quantised`, from floats to floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import kernels
from benchmarks.networks.case import Step
from benchmarks.networks.gnomon import DEFINED
from benchmarks.networks.layers import Params, description
from engine.quantise.convert import calibrated, integers
from engine.quantise.folded import fold
from engine.quantise.integer import Network


@dataclass(frozen=True)
class Quantised(Step):
    """The logits of a network in int8 under the rule fp32, whose bits everybody has: weights a scale a channel, pictures in uint8."""

    training: bool = False
    dtype: str = "int8"

    @property
    def allowed(self) -> float:
        return 0.0

    @property
    def op(self) -> str:
        return f"{self.net}-int8"

    @property
    def stands_for(self) -> str:
        return f"{description(self.net)} in int8, one inference"

    def reference(self, args: list[Any], params: dict[str, Any]) -> dict[str, Any]:
        with kernels.use(None):
            return {"logits": network(self.net, *args[:2])(args[1])}


def network(name: str, params: Params, x: Any) -> Network:
    """In integers, calibrated on the pictures x."""
    with kernels.use(None):
        net = fold(DEFINED[name], params, x[:1])
        return integers(net, calibrated(net, [x[:64]]))


class Net:
    """Ours. See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params, x: Any):
        self.network = network(name, params, x)

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        return x, t

    def logits(self, x: Any) -> Any:
        return self.network(x)
