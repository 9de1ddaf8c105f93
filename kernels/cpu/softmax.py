r"""Softmax and its logarithm on the CPU, one idea at a time.

x, y (rows, c)     float32 or float64, any strides; over other axes than the last ones by a copy

softmax       y = e^(x - m) / sum e^(x - m), m the largest
log_softmax   y = x - m - ln sum e^(x - m), with the sum as in `loss.py`
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from math import exp, inf, log, log1p
from typing import Any

import numpy as np

from kernels.arrays import result
from kernels.cpu import lanes
from kernels.cpu.eager import INT, eager, given, room
from kernels.cpu.normalise import Form
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung

WORTH_A_THREAD = 1 << 15  # numbers in a piece: as many e^x are 30 microseconds

Run = Callable[..., Any]


@lru_cache(maxsize=256)
def rows_of(shape: tuple[int, ...], axis: Any) -> Form:
    return Form(shape, axis, as_rows=True)


def over_rows(name: str, run: Run) -> Run:
    """Make `run(x, y, c, first, last)` into the op of that name."""

    @wraps(run)
    def op(x: Any, *, axis: Any = -1, out: Any = None) -> np.ndarray:
        form = rows_of(x.shape, axis)
        y = result(x.shape, x.dtype, out, x)
        _, rows, c = form.sizes
        to = np.empty(x.size, x.dtype) if form.moved else y.ravel()
        run(form.flat(x), to, c, 0, rows)
        if form.moved:
            y[...] = form.restored(to)
        return y

    op.__name__ = name
    return op


def in_threads(run: Run, x: Any, *job: Any) -> None:
    y, c, first, last = job
    if x.size <= WORTH_A_THREAD:
        run(x, *job)
    else:
        step = max(1, WORTH_A_THREAD // c)
        share(run, [(x, y, c, i, min(last, i + step)) for i in range(first, last, step)])


def signature(n: Any) -> tuple[Any, ...]:
    return given(n), room(n), INT, INT, INT


@eager(signature)
def softmax_by_definition(x, y, c, first, last):
    for i in range(first, last):
        top, total = -inf, 0.0
        for j in range(i * c, (i + 1) * c):
            top = max(top, x[j])
        for j in range(i * c, (i + 1) * c):
            y[j] = exp(x[j] - top)
            total += y[j]
        for j in range(i * c, (i + 1) * c):
            y[j] /= total


@eager(signature, plain=softmax_by_definition.function)
def softmax_of_vectors(x, y, c, first, last):
    zero, size = x.dtype.type(0), x.itemsize
    for i in range(first, last):
        row, to = address(x) + i * c * size, address(y) + i * c * size
        total = lanes.powers(zero, row, lanes.largest(zero, row, c), to, c)
        lanes.scaled(zero, to, zero, x.dtype.type(1) / total, zero, to, c)


@eager(signature)
def log_softmax_by_definition(x, y, c, first, last):
    for i in range(first, last):
        top, rest, ties = -inf, 0.0, 0.0
        for j in range(i * c, (i + 1) * c):
            top = max(top, x[j])
        for j in range(i * c, (i + 1) * c):
            y[j] = x[j] - top
            if y[j] == 0:
                ties += 1
            else:
                rest += exp(y[j])
        ties = max(ties, 1.0)
        for j in range(i * c, (i + 1) * c):
            y[j] -= log(ties) + log1p(rest / ties)


@eager(signature, plain=log_softmax_by_definition.function)
def log_softmax_of_vectors(x, y, c, first, last):
    number, size = x.dtype.type, x.itemsize
    for i in range(first, last):
        row, to = address(x) + i * c * size, address(y) + i * c * size
        rest, ties = lanes.exponentials(number(0), row, lanes.largest(number(0), row, c), to, c)
        total = log1p(rest) if ties <= 1 else log(ties) + log1p(rest / ties)
        lanes.scaled(number(0), to, number(total), number(1), number(0), to, c)


def ladder(op: str, by_definition: Any, of_vectors: Any) -> None:
    """The rungs of one of the two."""

    def loops(x: Any, *job: Any) -> None:
        by_definition[x.dtype.char](x, *job)

    def vectors(x: Any, *job: Any) -> None:
        of_vectors[x.dtype.char](x, *job)

    def threaded(x: Any, *job: Any) -> None:
        in_threads(of_vectors[x.dtype.char], x, *job)

    idea = "the definition: row by row, number by number, by the C library"
    rung(op, "cpu", step=1, wants="*s", idea=idea)(over_rows(f"{op}_by_definition", loops))
    idea = "a row as vectors, e^x by a series, all of it while the row is near (contract, reassoc)"
    rung(op, "cpu", step=2, idea=idea)(over_rows(f"{op}_in_vectors", vectors))
    rung(op, "cpu", step=3, serves=True, idea="give rows to threads")(over_rows(f"{op}_threaded", threaded))


ladder("softmax", softmax_by_definition, softmax_of_vectors)
ladder("log_softmax", log_softmax_by_definition, log_softmax_of_vectors)
