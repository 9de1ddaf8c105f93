"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import features  # isort: skip  (first: what it decides holds for all that is compiled)
from kernels.cpu import bias, conv, gemm, loss, matmul, normalise, pool, softmax, update

__all__ = ["bias", "conv", "features", "gemm", "loss", "matmul", "normalise", "pool", "softmax", "update"]
