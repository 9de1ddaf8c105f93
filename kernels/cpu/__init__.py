"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import features  # isort: skip  (first: what it decides holds for all that is compiled)
from kernels.cpu import bfloat16, conv, conv_int8, gemm, int8, matmul, pool, update

__all__ = ["bfloat16", "conv", "conv_int8", "features", "gemm", "int8", "matmul", "pool", "update"]
