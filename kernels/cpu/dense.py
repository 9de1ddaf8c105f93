"""y = act(x w + b) on the CPU, a layer of a network in one go: one idea at a time.

    x (..., k)   w (k, n)   b (n)   y (..., n)     float32 or float64; w may have any strides, and so may x with two axes

The product is that of `gemm.py`. Sums are made first, then b is added and act applied: with identity and relu the bits are those of the
three ops one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import exp, prod
from math import tanh as tanh_of_one
from typing import Any

import numpy as np
from numba import njit

from kernels.cpu import lanes
from kernels.cpu.arrays import dense as in_line
from kernels.cpu.arrays import result
from kernels.cpu.bias import CODES, RELU, TANH, known, whole_rows
from kernels.cpu.eager import INT, eager, room
from kernels.cpu.gemm import WORTH_A_THREAD, by_size, cut, of_layers
from kernels.cpu.threads import share, threads
from kernels.cpu.vector import address
from kernels.registry import rung

Run = Callable[..., Any]


def fits(*arrays: Any, activation: str = "identity", **_: Any) -> None:
    known(activation)


def layer(run: Run) -> Run:
    """Make `run(x, w, b, y, code)`, of matrices, into dense."""

    @wraps(run)
    def dense(x: Any, w: Any, b: Any, *, activation: str = "identity", out: Any = None) -> np.ndarray:
        before, (k, n) = x.shape[:-1], w.shape
        y = result((*before, n), x.dtype, out, x, w, b)
        if y.size:
            if len(before) == 1:
                run(x, w, b, y, CODES[activation])
            else:
                rows = prod(before)
                run(x.reshape(rows, k), w, b, y.reshape(rows, n), CODES[activation])
        return y

    return dense


@rung("dense", "cpu", step=1, wants="... k, k n, n", check=fits, idea="the definition: one inner product an element, then b and act")
@layer
@njit(cache=True, nogil=True)
def each_element(x, w, b, y, code):
    (m, k), n = x.shape, w.shape[1]
    for i in range(m):
        for j in range(n):
            a = b[j] * 0
            for p in range(k):
                a += x[i, p] * w[p, j]
            a += b[j]
            if code == RELU:
                a = a if a > 0 or a != a else 0
            elif code == TANH:
                a = tanh_of_one(a)
            elif code > TANH:
                e = exp(-abs(a))
                a = (1 if a >= 0 else e) / (1 + e)
            y[i, j] = a


@rung("dense", "cpu", step=2, idea="a product by register tiles, then one pass over it (reassoc, contract)")
@layer
def product_then_pass(x: Any, w: Any, b: Any, y: Any, code: int) -> None:
    by_size(x, w, out=y)
    flat = y.reshape(-1)
    whole_rows[y.dtype.char](flat, in_line(b), flat, len(b), 1, code, 0, len(y))


def activate_by_numpy(y: Any, code: int) -> None:
    y[...] = np.tanh(y) if code == TANH else np.exp(-np.logaddexp(0, -y))


@eager(lambda t: (room(t), INT), plain=activate_by_numpy)
def activate(y, code):
    like = y.dtype.type(0)
    lanes.activated(like, address(y), like, address(y), len(y), code)


def piece(x: Any, w: Any, y: Any, b: Any, code: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Rows and columns of y; tanh and sigmoid while they are still in a cache."""
    of_layers[y.dtype.char](x, w, y, b, code == RELU, rows, columns)
    if code > RELU:
        run = activate[y.dtype.char]
        if columns == (0, y.shape[1]):
            run(y[slice(*rows)].reshape(-1), code)
        else:
            for row in y[slice(*rows), slice(*columns)]:
                run(row, code)


@rung("dense", "cpu", step=3, idea="b is added, and relu applied, while a tile of y is still in registers; tanh and sigmoid follow at once")
@layer
def fused(x: Any, w: Any, b: Any, y: Any, code: int) -> None:
    (m, n), b = y.shape, in_line(b)
    piece(x, w, y, b, code, (0, m), (0, n))


@rung("dense", "cpu", step=4, serves=True, idea="give blocks of y to threads")
@layer
def dense_threaded(x: Any, w: Any, b: Any, y: Any, code: int) -> None:
    (m, n), k, b = y.shape, x.shape[1], in_line(b)
    if m * k * n < WORTH_A_THREAD or threads() == 1:
        piece(x, w, y, b, code, (0, m), (0, n))
    else:
        share(piece, [(x, w, y, b, code, rows, columns) for _, rows, columns in cut(1, m, k, n, threads())])
