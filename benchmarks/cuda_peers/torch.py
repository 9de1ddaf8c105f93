"""PyTorch on the GPU, eager: cuBLAS and cuDNN, in full float32."""

from __future__ import annotations

from typing import Any

from benchmarks import cuda_peers, peers
from benchmarks.peers import torch as eager


def available() -> str | None:
    return cuda_peers.absent() or peers.absent("torch") or without_cuda()


def without_cuda() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "this PyTorch is not built for CUDA"


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with torch.device("cuda"):
        f, tensors = eager.built(case, args, params)
    return lambda: f(*tensors)
