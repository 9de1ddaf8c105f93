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

from kernels.arrays import result
from kernels.cpu import lanes
from kernels.cpu.arrays import dense as in_line
from kernels.cpu.bias import CODES, RELU, TANH, grad_in_rows, grad_threaded, known, slopes_then_sums, whole_rows
from kernels.cpu.eager import INT, eager, room
from kernels.cpu.gemm import WORTH_A_THREAD, by_size, cut, of_layers, threaded
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


# Its gradient.


def layer_back(run: Run) -> Run:
    """Make `run(gy, y, x, w, activation)`, of matrices, into dense_grad."""

    @wraps(run)
    def dense_grad(gy: Any, y: Any, x: Any, w: Any, *, activation: str = "identity") -> tuple[np.ndarray, ...]:
        if x.ndim == 2:
            return run(gy, y, x, w, activation)  # type: ignore[no-any-return]
        rows, (k, n) = prod(x.shape[:-1]), w.shape
        gx, gw, gb = run(gy.reshape(rows, n), y.reshape(rows, n), x.reshape(rows, k), w, activation)
        return gx.reshape(x.shape), gw, gb

    return dense_grad


@rung(
    "dense_grad", "cpu", step=1, wants="*s n, *s n, *s k, k n", check=fits,
    idea="the definition: slopes number by number, then each element of a gradient is a sum",
)  # fmt: skip
@layer_back
def each_sum(gy: Any, y: Any, x: Any, w: Any, activation: str) -> tuple[np.ndarray, ...]:
    ga, gx, gw = (np.zeros(a.shape, a.dtype) for a in (y, x, w))
    sums = np.zeros(w.shape[1])
    slopes_then_sums[y.dtype.char](gy.ravel(), y.ravel(), ga.reshape(-1), sums, len(sums), 1, CODES[activation], 0, len(y))
    sums_of_products(ga, x, w, gx, gw)
    return gx, gw, sums.astype(y.dtype, copy=False)


@njit(cache=True, nogil=True)
def sums_of_products(ga, x, w, gx, gw):
    for i in range(len(ga)):
        for p in range(len(w)):
            for j in range(ga.shape[1]):
                gx[i, p] += ga[i, j] * w[p, j]
                gw[p, j] += x[i, p] * ga[i, j]


@rung("dense_grad", "cpu", step=2, idea="slopes and sums in one pass, then two products by register tiles (reassoc, contract)")
@layer_back
def pass_then_products(gy: Any, y: Any, x: Any, w: Any, activation: str) -> tuple[np.ndarray, ...]:
    ga, gb = grad_in_rows(gy, y, axis=-1, activation=activation)
    return by_size(ga, w.T), by_size(x.T, ga), gb


@rung("dense_grad", "cpu", step=3, serves=True, idea="give blocks of each to threads")
@layer_back
def dense_grad_threaded(gy: Any, y: Any, x: Any, w: Any, activation: str) -> tuple[np.ndarray, ...]:
    ga, gb = grad_threaded(gy, y, axis=-1, activation=activation)
    return threaded(ga, w.T), threaded(x.T, ga), gb
