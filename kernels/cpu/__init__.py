"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import features, memory  # isort: skip  (first: what it decides holds for all that is compiled)
from kernels.cpu import (
    bfloat16,
    bias,
    codes,
    conv,
    conv_int8,
    dense,
    gemm,
    implicit,
    int8,
    loss,
    matmul,
    network,
    normalise,
    pool,
    requantise,
    softmax,
    sparse,
    update,
    winograd,
)

memory.keep_freed_memory()

__all__ = [
    "bfloat16",
    "bias",
    "codes",
    "conv",
    "conv_int8",
    "dense",
    "features",
    "gemm",
    "implicit",
    "int8",
    "loss",
    "matmul",
    "memory",
    "network",
    "normalise",
    "pool",
    "requantise",
    "softmax",
    "sparse",
    "update",
    "winograd",
]
