"""y = act(x + b) and its transpose on the CPU: what follows a convolution or a product, one idea at a time.

    x, y, gy, gx (before, k, behind)    b, gb (k)     float32 or float64, any strides

k is the axis that b belongs to; the axes before it and behind it are taken as one each. The slope of the activation is expressed in y
(the transpose calls it h), so x need not be kept: identity 1, relu [y > 0], tanh 1 - y^2, sigmoid y (1 - y).

A row is one element of the axis before: its k channels, each with what is behind them. A channel of a row, or a column of 64 rows, is
summed in the precision of the numbers, and these sums are added in double.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from math import exp, prod
from math import tanh as tanh_of_one
from typing import Any

import numpy as np
from numba import njit, types

from kernels.cpu.arrays import result
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.exponential import sigmoid, tanh
from kernels.cpu.threads import share
from kernels.registry import rung

WORTH_A_THREAD = 1 << 16  # numbers in a piece: half a megabyte or more to move, about 30 microseconds
NEAR = 1 << 12  # numbers that are still in the first-level cache when they are summed
BLOCK = 64  # rows whose columns are summed in the precision of the numbers
IDENTITY, RELU, TANH, SIGMOID = range(4)
CODES = {"identity": IDENTITY, "relu": RELU, "tanh": TANH, "sigmoid": SIGMOID}
RTOL = {"float32": 1e-5, "float64": 1e-13}

Run = Callable[..., Any]


def fits(x: Any, b: Any, *, axis: int = 1, activation: str = "identity", **_: Any) -> None:
    """Does b go along this axis of x? Raises ValueError."""
    known(activation)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"x of shape {x.shape} has no axis {axis}")
    if b.shape[0] != x.shape[axis]:
        raise ValueError(f"b has {b.shape[0]} numbers, but axis {axis} of x {x.shape[axis]}")


def fits_back(gy: Any, h: Any, *, axis: int = 1, activation: str = "identity", **_: Any) -> None:
    known(activation)
    if not -h.ndim <= axis < h.ndim:
        raise ValueError(f"h of shape {h.shape} has no axis {axis}")


def known(activation: str) -> None:
    if activation not in CODES:
        raise ValueError(f"activation is one of {', '.join(CODES)}, not {activation!r}")


def forward(run: Run) -> Run:
    """Make `run(x, b, y, k, behind, code, first, last)` into bias_activation."""

    @wraps(run)
    def bias_activation(x: Any, b: Any, *, axis: int = 1, activation: str = "identity", out: Any = None) -> np.ndarray:
        y = result(x.shape, x.dtype, out, x, b)
        behind = prod(x.shape[axis + 1 :]) if axis != -1 else 1
        k = len(b)
        run(x.ravel(), b.ravel(), y.ravel(), k, behind, CODES[activation], 0, y.size // max(1, k * behind))
        return y

    return bias_activation


def backward(run: Run) -> Run:
    """Make `run(gy, y, gx, k, behind, code, rows) -> gb` into bias_activation_grad."""

    @wraps(run)
    def bias_activation_grad(gy: Any, h: Any, *, axis: int = 1, activation: str = "identity") -> tuple[np.ndarray, np.ndarray]:
        gx = np.empty(h.shape, h.dtype)
        k, behind = h.shape[axis], prod(h.shape[axis + 1 :]) if axis != -1 else 1
        gb = run(gy.ravel(), h.ravel(), gx.ravel(), k, behind, CODES[activation], gx.size // max(1, k * behind))
        return gx, gb.astype(h.dtype, copy=False)

    return bias_activation_grad


@rung("bias_activation", "cpu", step=1, rtol=RTOL, wants="*s, k", check=fits, idea="the definition: number by number, by the C library")
@forward
@njit(cache=True, nogil=True)
def number_by_number(x, b, y, k, behind, code, first, last):
    for i in range(first * k * behind, last * k * behind):
        a = x[i] + b[i // behind % k]
        if code == RELU:
            a = a if a > 0 or a != a else 0
        elif code == TANH:
            a = tanh_of_one(a)
        elif code == SIGMOID:
            e = exp(-abs(a))
            a = (1 if a >= 0 else e) / (1 + e)
        y[i] = a


# Slices of a row go to the loops below: an index that may be negative for all that the compiler knows is no vector.


@njit(nogil=True)
def activate(y, code):
    """y = act(y)"""
    if code == TANH:
        for i in range(len(y)):
            y[i] = tanh(y[i])
    elif code == SIGMOID:
        for i in range(len(y)):
            y[i] = sigmoid(y[i])


@njit(nogil=True)
def add_one(x, b, y, code):
    """y = x + b with the same b, and relu."""
    zero = x.dtype.type(0)
    if code == RELU:
        for i in range(len(y)):
            a = x[i] + b
            y[i] = zero if a <= zero else a
    else:
        for i in range(len(y)):
            y[i] = x[i] + b


@njit(nogil=True)
def add_each(x, b, y, code):
    """y = x + b with one b after the other, and relu."""
    zero = x.dtype.type(0)
    if code == RELU:
        for i in range(len(y)):
            a = x[i] + b[i]
            y[i] = zero if a <= zero else a
    else:
        for i in range(len(y)):
            y[i] = x[i] + b[i]


@eager(lambda t: (given(t), given(t), room(t), *[INT] * 5))
def whole_rows(x, b, y, k, behind, code, first, last):
    for i in range(first, last):
        row = slice(i * k * behind, (i + 1) * k * behind)
        if behind == 1:
            add_each(x[row], b, y[row], code)
        else:
            for j in range(k):
                part = slice((i * k + j) * behind, (i * k + j + 1) * behind)
                add_one(x[part], b[j], y[part], code)
        if code > RELU:
            activate(y[row], code)


@rung("bias_activation", "cpu", step=2, rtol=RTOL, idea="whole rows at a time, as vectors: relu by choosing, e^x by a series (contract)")
@forward
def bias_in_rows(x: Any, *job: Any) -> None:
    whole_rows[x.dtype.char](x, *job)


@rung("bias_activation", "cpu", step=3, rtol=RTOL, serves=True, idea="give blocks to threads")
@forward
def bias_threaded(x: Any, *job: Any) -> None:
    run = whole_rows[x.dtype.char]
    if x.size <= WORTH_A_THREAD:
        run(x, *job)
    else:
        *job, first, last = job
        step = max(1, WORTH_A_THREAD * (last - first) // x.size)
        share(run, [(x, *job, i, min(last, i + step)) for i in range(first, last, step)])


# Its transpose.


@rung(
    "bias_activation_grad", "cpu", step=1, rtol=RTOL, wants="*s, *s", check=fits_back,
    idea="the definition: gx number by number, then its sums",
)  # fmt: skip
@backward
@njit(cache=True, nogil=True)
def slopes_then_sums(gy, y, gx, k, behind, code, rows):
    for i in range(len(y)):
        if code == RELU:
            gx[i] = gy[i] if y[i] > 0 else 0
        elif code == TANH:
            gx[i] = gy[i] * ((1 - y[i]) * (1 + y[i]))  # no digits lost near 1
        elif code == SIGMOID:
            gx[i] = gy[i] * (y[i] * (1 - y[i]))
        else:
            gx[i] = gy[i]
    gb = np.zeros(k)
    for i in range(len(gx)):
        gb[i // behind % k] += gx[i]
    return gb


@njit(nogil=True, fastmath={"contract"})
def slopes(gy, y, gx, code):
    zero, one = y.dtype.type(0), y.dtype.type(1)
    if code == RELU:
        for i in range(len(y)):
            gx[i] = gy[i] if y[i] > zero else zero
    elif code == TANH:
        for i in range(len(y)):
            gx[i] = gy[i] * ((one - y[i]) * (one + y[i]))
    elif code == SIGMOID:
        for i in range(len(y)):
            gx[i] = gy[i] * (y[i] * (one - y[i]))
    else:
        for i in range(len(y)):
            gx[i] = gy[i]


@njit(nogil=True, fastmath={"contract", "reassoc"})
def total(x):
    s = x.dtype.type(0)
    for i in range(len(x)):
        s += x[i]
    return s


@njit(nogil=True)
def columns(gy, y, gx, sums, k, code, first, last):
    """Nothing behind: the sums of all columns at once, row after row."""
    some = np.zeros(k, y.dtype)
    for top in range(first, last, BLOCK):
        some[:] = 0
        for i in range(top, min(last, top + BLOCK)):
            part = slice(i * k, (i + 1) * k)
            row = gx[part]
            slopes(gy[part], y[part], row, code)
            for j in range(len(some)):
                some[j] += row[j]
        for j in range(len(sums)):
            sums[j] += some[j]


@eager(lambda t: (given(t), given(t), room(t), room(types.float64), *[INT] * 5))
def slopes_and_sums(gy, y, gx, sums, k, behind, code, first, last):
    """gx of some rows, and what they add to the sums."""
    if behind == 1:
        columns(gy, y, gx, sums, k, code, first, last)
        return
    for i in range(first, last):
        for j in range(k):
            start = (i * k + j) * behind
            for m in range(start, start + behind, NEAR):
                part = slice(m, min(m + NEAR, start + behind))
                slopes(gy[part], y[part], gx[part], code)
                sums[j] += total(gx[part])


@rung("bias_activation_grad", "cpu", step=2, rtol=RTOL, idea="one pass: a row is summed while it is near, in vectors (contract, reassoc)")
@backward
def grad_in_rows(gy: Any, y: Any, gx: Any, k: int, behind: int, code: int, rows: int) -> np.ndarray:
    sums = np.zeros(k)
    slopes_and_sums[y.dtype.char](gy, y, gx, sums, k, behind, code, 0, rows)
    return sums


@rung(
    "bias_activation_grad",
    "cpu",
    step=3,
    rtol=RTOL,
    serves=True,
    idea="give blocks to threads, each with sums of its own, added up in order",
)
@backward
def grad_threaded(gy: Any, y: Any, gx: Any, k: int, behind: int, code: int, rows: int) -> np.ndarray:
    if gx.size <= WORTH_A_THREAD:
        return grad_in_rows.__wrapped__(gy, y, gx, k, behind, code, rows)
    step = max(1, WORTH_A_THREAD // (k * behind))
    sums = np.zeros((-(-rows // step), k))
    pieces = [(gy, y, gx, sums[i // step], k, behind, code, i, min(rows, i + step)) for i in range(0, rows, step)]
    share(slopes_and_sums[y.dtype.char], pieces)
    return sums.sum(axis=0)
