"""C = A B of numbers rounded to bfloat16 on the CPU, one idea at a time; sums in float32.

    a (..., m, k)   b (..., k, n)   c (..., m, n)     float32, any strides; leading axes broadcast

A number is rounded to the nearest bfloat16, to the even one of two; below the smallest normal number it becomes 0. The product of two is
exact in float32. From step 3 on (`narrow.py`) sums run over pairs, and a product or a sum below the smallest normal number counts as 0
where the machine's instructions have it so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kernels.cpu.narrow import multiply, on_stacks, rounded
from kernels.cpu.threads import threads
from kernels.registry import rung

RTOL = {"float32": 1e-5}  # of the rounding of sums only: the numbers are rounded alike everywhere


@rung(
    "matmul_bf16",
    "cpu",
    step=1,
    wants="... m k, ... k n",
    rtol=RTOL,
    idea="the definition: one inner product an element, of rounded numbers",
)
@on_stacks
@njit(cache=True, nogil=True)
def inner_products_of_bf16(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    c[...] = 0
    for i in range(m):
        for j in range(n):
            for p in range(k):
                c[i, j] += rounded(a[i, p]) * rounded(b[p, j])


@rung("matmul_bf16", "cpu", step=2, rtol=RTOL, idea="round a row once, and swap the j and p loops: b and c are then walked along rows")
@on_stacks
@njit(cache=True, nogil=True)
def row_axpy_of_bf16(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    row = np.empty(n, np.float32)
    c[...] = 0
    for p in range(k):
        for j in range(n):
            row[j] = rounded(b[p, j])
        for i in range(m):
            left = rounded(a[i, p])
            for j in range(n):
                c[i, j] += left * row[j]


@rung(
    "matmul_bf16", "cpu", step=3, rtol=RTOL,
    idea="words of two neighbours along k, whose products are added in one go (reassoc); a tile of sums stays in registers",
)  # fmt: skip
def tile_of_bf16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=False, workers=1)


@rung("matmul_bf16", "cpu", step=4, rtol=RTOL, idea="where the machine has matrix registers, tiles of 16 by 16 sums in them (AMX)")
def matrix_registers_of_bf16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=True, workers=1)


@rung("matmul_bf16", "cpu", step=5, serves=True, rtol=RTOL, idea="give blocks of c to threads")
def threaded_bf16(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=True, workers=threads())
