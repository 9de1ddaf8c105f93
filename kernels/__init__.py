"""A small BLAS that one can read: ladders of kernels, each rung one idea. Arrays in, arrays out; no gradients."""

from kernels.registry import MissingKernel, Rung, backends, ladder, ops, rung, running_kernels, serving, table, use

__all__ = ["MissingKernel", "Rung", "backends", "ladder", "ops", "rung", "running_kernels", "serving", "table", "use"]
