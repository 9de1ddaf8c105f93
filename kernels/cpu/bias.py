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
from math import prod
from math import tanh as tanh_of_one
from typing import Any

import numpy as np
from numba import njit, types

from kernels import scalars
from kernels.arrays import result
from kernels.cpu import lanes
from kernels.cpu.cache import stamped
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.lanes import IDENTITY, RELU, SIGMOID, TANH
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung

WORTH_A_THREAD = 1 << 16  # numbers in a piece: half a megabyte or more to move, about 30 microseconds
NEAR = 1 << 12  # numbers that are summed in their own precision
BLOCK = 64  # rows whose columns are summed in the precision of the numbers
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


relu_of_one, sigmoid_of_one = njit(scalars.relu), njit(scalars.sigmoid)


@rung("bias_activation", "cpu", step=1, rtol=RTOL, wants="*s, k", check=fits, idea="the definition: number by number, by the C library")
@forward
@stamped
@njit(cache=True, nogil=True)
def number_by_number(x, b, y, k, behind, code, first, last):
    for i in range(first * k * behind, last * k * behind):
        a = x[i] + b[i // behind % k]
        if code == RELU:
            a = relu_of_one(a)
        elif code == TANH:
            a = tanh_of_one(a)
        elif code == SIGMOID:
            a = sigmoid_of_one(a)
        y[i] = a


@eager(lambda t: (given(t), given(t), room(t), *[INT] * 5), plain=number_by_number.__wrapped__)
def whole_rows(x, b, y, k, behind, code, first, last):
    like, size = x.dtype.type(0), x.itemsize
    for i in range(first, last):
        here = i * k * behind * size
        if behind == 1:
            lanes.activated(like, address(x) + here, address(b), address(y) + here, k, code)
        else:
            for j in range(k):
                place = here + j * behind * size
                lanes.activated(like, address(x) + place, b[j], address(y) + place, behind, code)


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


@eager(lambda t: (given(t), given(t), room(t), room(types.float64), *[INT] * 5))
def slopes_then_sums(gy, y, gx, sums, k, behind, code, first, last):
    start, end = first * k * behind, last * k * behind
    for i in range(start, end):
        if code == RELU:
            gx[i] = gy[i] if y[i] > 0 else 0
        elif code == TANH:
            gx[i] = gy[i] * ((1 - y[i]) * (1 + y[i]))  # no digits lost near 1
        elif code == SIGMOID:
            gx[i] = gy[i] * (y[i] * (1 - y[i]))
        else:
            gx[i] = gy[i]
    for i in range(start, end):
        sums[i // behind % k] += gx[i]


@rung(
    "bias_activation_grad", "cpu", step=1, rtol=RTOL, wants="*s, *s", check=fits_back,
    idea="the definition: gx number by number, then its sums",
)  # fmt: skip
@backward
def grad_by_definition(gy: Any, y: Any, gx: Any, k: int, behind: int, code: int, rows: int) -> np.ndarray:
    sums = np.zeros(k)
    slopes_then_sums[y.dtype.char](gy, y, gx, sums, k, behind, code, 0, rows)
    return sums


@eager(lambda t: (given(t), given(t), room(t), room(types.float64), *[INT] * 5), plain=slopes_then_sums.function)
def slopes_and_sums(gy, y, gx, sums, k, behind, code, first, last):
    """gx of some rows, and what they add to the sums."""
    like, size = y.dtype.type(0), y.itemsize
    some = np.zeros(k, y.dtype)
    for top in range(first, last, BLOCK):
        some[:] = 0
        for i in range(top, min(last, top + BLOCK)):
            here = i * k * behind * size
            if behind == 1:
                lanes.activated_back(like, address(gy) + here, address(y) + here, address(gx) + here, address(some), k, code)
                continue
            for j in range(k):
                for m in range(0, behind, NEAR):
                    place, count = here + (j * behind + m) * size, min(NEAR, behind - m)
                    sums[j] += lanes.activated_back(like, address(gy) + place, address(y) + place, address(gx) + place, None, count, code)
        for j in range(k):
            sums[j] += some[j]


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
