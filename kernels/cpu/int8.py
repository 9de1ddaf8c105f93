"""C = A B of small whole numbers on the CPU, one idea at a time. Exact: every rung gives the same bits.

    a (..., m, k) uint8 or int8   b (..., k, n) int8   c (..., m, n) int32     any strides; leading axes broadcast

From step 3 on see `narrow.py`, which copies the factors into words and multiplies words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int32, njit

from kernels.cpu.narrow import multiply, on_stacks
from kernels.cpu.threads import threads
from kernels.registry import rung

EXACT = {"uint8 int8": 0.0, "int8 int8": 0.0}


@rung("matmul_int8", "cpu", step=1, wants="... m k, ... k n", rtol=EXACT, idea="the definition: one inner product an element")
@on_stacks
@njit(cache=True, nogil=True)
def inner_products_of_int8(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    for i in range(m):
        for j in range(n):
            total = int32(0)
            for p in range(k):
                total += int32(a[i, p]) * int32(b[p, j])
            c[i, j] = total


@rung("matmul_int8", "cpu", step=2, rtol=EXACT, idea="swap the j and p loops: b and c are then walked along rows, as memory lies")
@on_stacks
@njit(cache=True, nogil=True)
def row_axpy_of_int8(a, b, c):
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    c[...] = 0
    for i in range(m):
        for p in range(k):
            left = int32(a[i, p])
            for j in range(n):
                c[i, j] += left * int32(b[p, j])


@rung(
    "matmul_int8", "cpu", step=3, rtol=EXACT,
    idea="words of neighbours along k: one instruction multiplies and adds four (or two) of them; a tile of sums stays in registers",
)  # fmt: skip
def tile_of_int8(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=False, workers=1)


@rung("matmul_int8", "cpu", step=4, rtol=EXACT, idea="where the machine has matrix registers, tiles of 16 by 16 sums in them (AMX)")
def matrix_registers_of_int8(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=True, workers=1)


@rung("matmul_int8", "cpu", step=5, serves=True, rtol=EXACT, idea="give blocks of c to threads")
def threaded_int8(a: Any, b: Any, *, out: Any = None) -> np.ndarray:
    return multiply(a, b, out, matrices=True, workers=threads())
