"""PyTorch through torch.compile: loss, gradient and logits compiled by Inductor for the shapes of the case; its fused Adam."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.networks import torch as eager
from benchmarks.networks.case import as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import Params
from benchmarks.peers.torch_compile import available

__all__ = ["Net", "as_numpy", "available", "prepare"]


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    return prepare_with(Net, case, args)


class Net(eager.Net):
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params):
        import torch

        super().__init__(name, params)
        torch._dynamo.reset()  # else a second batch size is compiled for sizes that vary
        self.loss = torch.compile(self.loss, dynamic=False)
        self.forward = torch.compile(self.module, dynamic=False)
        self.reading = torch.no_grad
