r"""Products of numbers rounded to bfloat16, which has the range of float32 and eight bits of its precision.

Source: Kalamkar et al. (2019), A study of BFLOAT16 for deep learning training, section 3.
"""

from __future__ import annotations

import numpy as np

from engine.op import op
from engine.ops.layout import matrix_transpose
from engine.ops.linear import matmul

__all__ = ["matmul_bf16"]


@op(
    "... m k, ... k n -> ... m n", flops="2*m*k*n",
    surrogate="that of the product without rounding: a step has the derivative 0 (Bengio et al. 2013, straight-through estimator)",
)  # fmt: skip
def matmul_bf16(x, w):
    r"""$y_{ij} = \sum_p \mathrm{bf16}(x_{ip})\, \mathrm{bf16}(w_{pj})$

    bf16 rounds to the nearest bfloat16, to the even one of two; inf and nan stay; what is smaller than the smallest normal number,
    2^-126, becomes 0, as in the instructions that processors have for it. Products and sums are those of the arguments' dtype (in kernels
    float32, where a product or a sum that is smaller than 2^-126 may count as 0 too).

    x        (..., m, k), float32; float64 is first rounded to float32
    w        (..., k, n); leading axes broadcast
    returns  (..., m, n), in the dtype of x and w
    """
    return np.matmul(_rounded(x), _rounded(w))


def _rounded(x):
    """To the nearest bfloat16, in the dtype of x. In bits: half of the last place is added, less one where the last bit is even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    near = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    size = bits & 0x7FFFFFFF
    near = np.where(size < 0x00800000, bits & 0x80000000, near).astype(np.uint32)
    return np.where(size > 0x7F800000, np.float32(np.nan), near.view(np.float32)).astype(np.result_type(x, np.float32)).reshape(np.shape(x))


@matmul_bf16.vjp("x")
def _(g, w):
    r"""\bar X = \bar Y W^\top"""
    return matmul(g, matrix_transpose(w))


@matmul_bf16.jvp("x")
def _(d, w):
    r"""\dot Y = \dot X W"""
    return matmul(d, w)


@matmul_bf16.vjp("w")
def _(g, x):
    r"""\bar W = X^\top \bar Y"""
    return matmul(matrix_transpose(x), g)


@matmul_bf16.jvp("w")
def _(d, x):
    r"""\dot Y = X \dot W"""
    return matmul(x, d)
