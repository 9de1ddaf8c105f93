"""PyTorch, eager: modules of torch.nn, its fused Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.networks.case import as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import LAYERS, Params

__all__ = ["Net", "as_numpy", "available", "module", "prepare"]


def available() -> str | None:
    return peers.absent("torch")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    return prepare_with(Net, case, args)


def module(name: str, params: Params) -> Any:
    """The network as one would write it, with our weights. nn.Linear keeps (outputs, inputs)."""
    import torch
    from torch import nn

    made = []
    for layer in LAYERS[name]:
        if layer.kind == "conv":
            o, c, *kernel = params[layer.w].shape
            made.append(nn.Conv2d(c, o, kernel, padding=layer.padding))
        elif layer.kind == "dense":
            made.append(nn.Linear(*params[layer.w].shape))
        else:
            made.append({"relu": nn.ReLU, "flatten": nn.Flatten, "pool": lambda: nn.MaxPool2d(2)}[layer.kind]())
        if layer.w:
            w = params[layer.w].T if layer.kind == "dense" else params[layer.w]
            with torch.no_grad():
                made[-1].weight.copy_(torch.from_numpy(np.ascontiguousarray(w)))
                made[-1].bias.copy_(torch.from_numpy(params[layer.b]))
    return nn.Sequential(*made)


class Net:
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params):
        import torch
        from torch import nn

        torch.set_num_threads(peers.threads())
        self.layers = LAYERS[name]
        self.module = module(name, params)
        self.forward: Any = self.module
        self.loss: Any = lambda x, t: nn.functional.cross_entropy(self.module(x), t)
        self.adam = torch.optim.Adam(self.module.parameters(), lr=1e-3, fused=True)
        self.reading = torch.inference_mode

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        import torch

        return torch.from_numpy(x), torch.from_numpy(t)

    def step(self, x: Any, t: Any) -> float:
        self.adam.zero_grad()
        loss = self.loss(x, t)
        loss.backward()
        self.adam.step()
        return float(loss.item())

    def logits(self, x: Any) -> Any:
        with self.reading():
            return self.forward(x)

    def params(self) -> dict[str, np.ndarray]:
        found = {}
        for layer, part in zip(self.layers, self.module, strict=True):
            if layer.w:
                w = part.weight.detach().numpy()
                found[layer.w], found[layer.b] = (w.T if layer.kind == "dense" else w).copy(), part.bias.detach().numpy().copy()
        return found
