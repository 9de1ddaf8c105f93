r"""Cross-entropy on the CPU, and its gradient, one idea at a time.

    z, t, log_p, gz (rows, c)    y, gy (rows)     float32 or float64, any strides

    log p = z - m - ln sum e^(z - m), m the largest        y = - sum t log p        gz = gy (p (sum t - t) + t (p - 1))

The sum is that of the largest, `ties` of them with a 1 each, and of the rest, which may be far below one rounding of 1: its logarithm is
ln ties + ln(1 + rest / ties). A class whose target is 0 counts nothing, even where log p is -inf. A row of nothing but -inf, or with
+inf or nan in it, gives nan. In gz no digits are lost where p is near 0 or near 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import exp, expm1, inf, log, log1p
from typing import Any

import numpy as np
from numba import njit

from kernels.arrays import result
from kernels.cpu import lanes
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung

WORTH_A_THREAD = 1 << 15  # numbers in a piece: as many e^x are 30 microseconds

Run = Callable[..., Any]


def forward(run: Run) -> Run:
    """Make `run(z, t, y, log_p, c, first, last)` into cross_entropy."""

    @wraps(run)
    def cross_entropy(z: Any, t: Any) -> tuple[np.ndarray, np.ndarray]:
        if z.shape != t.shape:
            z, t = np.broadcast_arrays(z, t)
        shape, dtype = z.shape, z.dtype
        y, log_p = np.empty(shape[:-1], dtype), np.empty(shape, dtype)
        run(z.ravel(), t.ravel(), y.ravel(), log_p.ravel(), shape[-1], 0, y.size)
        return y, log_p

    return cross_entropy


def backward(run: Run) -> Run:
    """Make `run(log_p, t, gy, gz, c, first, last)` into cross_entropy_grad."""

    @wraps(run)
    def cross_entropy_grad(log_p: Any, t: Any, gy: Any, *, out: Any = None) -> np.ndarray:
        if not (log_p.shape == t.shape and gy.shape == t.shape[:-1]):
            shape = np.broadcast_shapes(log_p.shape, t.shape, (*gy.shape, 1))
            log_p, t, gy = np.broadcast_to(log_p, shape), np.broadcast_to(t, shape), np.broadcast_to(gy, shape[:-1])
        gz = result(log_p.shape, log_p.dtype, out, log_p, t, gy)
        run(log_p.ravel(), t.ravel(), gy.ravel(), gz.ravel(), log_p.shape[-1], 0, gy.size)
        return gz

    return cross_entropy_grad


@rung("cross_entropy", "cpu", step=1, wants="... c, ... c", idea="the definition: row by row, number by number, by the C library")
@forward
@njit(cache=True, nogil=True, error_model="numpy")
def row_by_row(z, t, y, log_p, c, first, last):
    for i in range(first, last):
        top = -inf
        for j in range(i * c, (i + 1) * c):
            top = max(top, z[j])
        rest, ties = 0.0, 0.0
        for j in range(i * c, (i + 1) * c):
            log_p[j] = z[j] - top
            if log_p[j] == 0:
                ties += 1
            else:
                rest += exp(log_p[j])
        ties = max(ties, 1.0)
        loss = 0.0
        for j in range(i * c, (i + 1) * c):
            log_p[j] -= log(ties) + log1p(rest / ties)
            if t[j] != 0:
                loss -= t[j] * log_p[j]
        y[i] = loss


@eager(lambda n: (given(n), given(n), room(n), room(n), *[INT] * 3), plain=row_by_row.__wrapped__)
def rows_of_vectors(z, t, y, log_p, c, first, last):
    like, size = z.dtype.type(0), z.itemsize
    for i in range(first, last):
        row, to, target = address(z) + i * c * size, address(log_p) + i * c * size, address(t) + i * c * size
        rest, ties = lanes.exponentials(like, row, lanes.largest(like, row, c), to, c)
        total = log1p(rest) if ties <= 1 else log(ties) + log1p(rest / ties)
        y[i] = -lanes.lowered(like, to, total, target, c)


@rung("cross_entropy", "cpu", step=2, idea="a row as vectors, e^x by a series, all of it while the row is near (contract, reassoc)")
@forward
def loss_in_vectors(z: Any, *job: Any) -> None:
    rows_of_vectors[z.dtype.char](z, *job)


@rung("cross_entropy", "cpu", step=3, serves=True, idea="give rows to threads")
@forward
def loss_threaded(z: Any, *job: Any) -> None:
    in_threads(rows_of_vectors[z.dtype.char], z, *job)


def in_threads(run: Run, x: Any, *job: Any) -> None:
    if x.size <= WORTH_A_THREAD:
        run(x, *job)
    else:
        *arrays, c, first, last = job
        step = max(1, WORTH_A_THREAD // c)
        share(run, [(x, *arrays, c, i, min(last, i + step)) for i in range(first, last, step)])


# Its gradient.


@rung("cross_entropy_grad", "cpu", step=1, wants="... c, ... c, ...", idea="the definition: row by row, number by number, by the C library")
@backward
@njit(cache=True, nogil=True)
def gradient_row_by_row(log_p, t, gy, gz, c, first, last):
    for i in range(first, last):
        total = 0.0
        for j in range(i * c, (i + 1) * c):
            total += t[j]
        for j in range(i * c, (i + 1) * c):
            gz[j] = gy[i] * (exp(log_p[j]) * (total - t[j]) + t[j] * expm1(log_p[j]))


@eager(lambda n: (given(n), given(n), given(n), room(n), *[INT] * 3), plain=gradient_row_by_row.__wrapped__)
def gradient_of_vectors(log_p, t, gy, gz, c, first, last):
    like, size = t.dtype.type(0), t.itemsize
    for i in range(first, last):
        target = address(t) + i * c * size
        total = lanes.sum_of(like, target, c)
        lanes.against_target(like, address(log_p) + i * c * size, target, total, gy[i], address(gz) + i * c * size, c)


@rung("cross_entropy_grad", "cpu", step=2, idea="a row as vectors; e^x and e^x - 1 from one series (contract, reassoc)")
@backward
def gradient_in_vectors(log_p: Any, *job: Any) -> None:
    gradient_of_vectors[log_p.dtype.char](log_p, *job)


@rung("cross_entropy_grad", "cpu", step=3, serves=True, idea="give rows to threads")
@backward
def gradient_threaded(log_p: Any, *job: Any) -> None:
    in_threads(gradient_of_vectors[log_p.dtype.char], log_p, *job)
