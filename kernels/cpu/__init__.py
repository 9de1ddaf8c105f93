"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import features, memory  # isort: skip  (first: what it decides holds for all that is compiled)
from kernels.cpu import bias, conv, dense, gemm, implicit, loss, matmul, normalise, pool, softmax, sparse, update, winograd

memory.keep_freed_memory()

__all__ = [
    "bias",
    "conv",
    "dense",
    "features",
    "gemm",
    "implicit",
    "loss",
    "matmul",
    "memory",
    "normalise",
    "pool",
    "softmax",
    "sparse",
    "update",
    "winograd",
]
