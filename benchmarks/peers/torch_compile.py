"""PyTorch through torch.compile, for the shapes of the case: Inductor writes C++ and compiles it, which `first s` contains."""

from __future__ import annotations

import shutil
from typing import Any

from benchmarks import peers
from benchmarks.peers import torch as eager


def available() -> str | None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    return peers.absent("torch") or (None if compiler else "torch.compile needs a C++ compiler, and there is no g++ or clang++")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    import torch

    f, tensors = eager.built(case, args, params)
    torch._dynamo.reset()  # else a second case of the same op is compiled for shapes that vary
    compiled = torch.compile(f, dynamic=False)
    return lambda: compiled(*tensors)
