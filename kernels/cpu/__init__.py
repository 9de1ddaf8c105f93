"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import features  # isort: skip  (first: what it decides holds for all that is compiled)
from kernels.cpu import conv, gemm, matmul, pool, sparse, update

__all__ = ["conv", "features", "gemm", "matmul", "pool", "sparse", "update"]
