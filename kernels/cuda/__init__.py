"""Kernels for NVIDIA's devices, and an interpreter that runs them where there is none."""
