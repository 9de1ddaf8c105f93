"""The CPU ladders, compiled by Numba. Importing this registers them; a kernel is compiled when it is first called."""

from kernels.cpu import conv, matmul, pool, update

__all__ = ["conv", "matmul", "pool", "update"]
