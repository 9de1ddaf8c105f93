"""y = act(x w + b) on a GPU, a layer of a network, and its gradient: products of `matmul.py`, and a pass of `elementwise.py` or its own.

    x (..., k)   w (k, n)   b (n)   y (..., n)     float32 or float64, any strides

The slope of the activation is expressed in y, as on the CPU: identity 1, relu [y > 0], tanh 1 - y^2, sigmoid y (1 - y).
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numba import cuda

from kernels.cuda.arrays import dense as in_line
from kernels.cuda.elementwise import inlined
from kernels.cuda.launch import Kernel, launch
from kernels.registry import rung, serving
from kernels.scalars import ACTIVATIONS

u = np.uint32
THREADS = 256


def fits(*arrays: Any, activation: str = "identity") -> None:
    """Raises ValueError for an unknown activation."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}")


def slope_of_identity(y):
    return type(y)(1)


def slope_of_relu(y):
    return type(y)(1) if y > type(y)(0) else type(y)(0)


def slope_of_tanh(y):
    return type(y)(1) - y * y


def slope_of_sigmoid(y):
    return y * (type(y)(1) - y)


SLOPES = {"identity": slope_of_identity, "relu": slope_of_relu, "tanh": slope_of_tanh, "sigmoid": slope_of_sigmoid}


@cache
def back_through(activation: str) -> Kernel:
    """A kernel: ga = gy act'(y), and the sums of its columns, a column a thread: lanes read numbers side by side."""
    slope = inlined(SLOPES[activation])

    def kernel(gy, y, ga, gb, n):
        j = u(u(cuda.blockIdx.x) * u(cuda.blockDim.x) + u(cuda.threadIdx.x))
        if j < n:
            total, at, end = gb.dtype.type(0), j, u(y.size)
            while at < end:
                ga[at] = gy[at] * slope(y[at])
                total += ga[at]
                at = u(at + n)
            gb[j] = total

    return kernel


@rung("dense", "cuda", step=1, serves=True, wants="... k, k n, n", check=fits, idea="a product by matmul's tiles, then one pass over it")
def product_then_pass(x: Any, w: Any, b: Any, *, activation: str = "identity") -> np.ndarray:
    """Predicted: the pass reads and writes y once more, which is little beside the product if k is large."""
    y = serving("matmul", "cuda").run(x.reshape(prod(x.shape[:-1]), x.shape[-1]), w)
    return serving("bias_activation", "cuda").run(y, b, axis=-1, activation=activation).reshape(*x.shape[:-1], w.shape[1])


@rung(
    "dense_grad", "cuda", step=1, serves=True, wants="*s n, *s n, *s k, k n", check=fits,
    idea="slopes and sums in one pass, then two products by matmul's tiles",
)  # fmt: skip
def pass_then_products(gy: Any, y: Any, x: Any, w: Any, *, activation: str = "identity") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted: as many requests as columns in warps, each sum of a column in order; the products are the rest."""
    (k, n), rows = w.shape, prod(x.shape[:-1])
    ga, gb = np.empty(rows * n, y.dtype), np.empty(n, y.dtype)
    flat = in_line(gy).reshape(-1), in_line(y).reshape(-1)
    launch(back_through(activation), (-(-n // THREADS),), (THREADS,), *flat, ga, gb, u(n), writes=[ga, gb])
    matmul, ga = serving("matmul", "cuda").run, ga.reshape(rows, n)
    return matmul(ga, w.T).reshape(x.shape), matmul(x.reshape(rows, k).T, ga), gb
