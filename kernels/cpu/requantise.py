"""Sums of products back to codes on the CPU, one idea at a time. Every rung gives the same bits.

    y[n, o, ...]  =  clip(round(M[o] (a[n, o, ...] + b[o])) + z, low, high),   M = m 2^-shift

    a (n, o, ...) int32   b (o) int32   m, shift (o) int64   y (n, o, ...) int8 or uint8     any strides

What round does is told by a rule, whose definition is in whole numbers (`engine/ops/requantisation.py`). Here fp32 is what a machine does
with float32, rounded product and all: a number that is a code is less than 2^22, so adding 3 2^22 and taking it away leaves it
rounded to a whole number, ties to even. The others are made of 64-bit integers.

A plane is what stands behind one channel of one example; where nothing stands behind it, (n, o), a plane is a row of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache, wraps
from math import prod
from typing import Any

import numpy as np
from numba import config, float32, int8, int32, int64, njit, types

from kernels.arrays import result
from kernels.cpu.arrays import dense
from kernels.cpu.cache import stamped
from kernels.cpu.eager import INT, room
from kernels.cpu.fours import largest_of_fours
from kernels.cpu.narrow import named_after
from kernels.cpu.threads import share
from kernels.cpu.vector import address
from kernels.registry import rung

EXACT = {"int32 int32 int64 int64": 0.0}
FP32, Q31_DOUBLE, ONCE, POW2 = range(4)
RULES = {"fp32": FP32, "q31-double": Q31_DOUBLE, "q31-single": ONCE, "rndnu": ONCE, "pow2": POW2}
ROUNDS = float32(3 << 22)  # added to a float32 below 2^22: what is left of it is whole
WORTH_A_THREAD = 1 << 17  # sums in a piece: half a megabyte to read, some 30 microseconds


def fits(sums: Any, bias: Any, mantissa: Any, shift: Any, *, pool: int = 1, **about: Any) -> None:
    """Raises ValueError."""
    settled(**about)
    if sums.ndim < 2 or not (sums.shape[1],) == bias.shape == mantissa.shape == shift.shape:
        raise ValueError("wants sums (n, o, ...), and a bias, a mantissa and a shift (o)")
    if pool != 1 and (sums.ndim != 4 or pool < 1):
        raise ValueError(f"pools {pool} by {pool} sums, of (n, o, p, q)")


@lru_cache
def settled(rule: str, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8") -> tuple[Any, ...]:
    """The dtype, the rule and the three codes. Raises ValueError."""
    about = np.iinfo(dtype)
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
    if not about.min <= low <= zero_point <= high <= about.max:
        raise ValueError(f"codes from {low} to {high} with {zero_point} for 0: {np.dtype(dtype)} holds {about.min} to {about.max}")
    return np.dtype(dtype), RULES[rule], zero_point, low, high


def requantising(run: Callable[..., None]) -> Callable[..., np.ndarray]:
    """Make `run(a, b, m, shift, y, sizes, pool, rule, z, low, high, first, last)` into requantise: some planes, of sizes (o, p, q)."""

    @wraps(run)
    def requantise(
        sums: Any, bias: Any, mantissa: Any, shift: Any, *, rule: str, pool: int = 1, zero_point: int = 0, low: int = -128,
        high: int = 127, dtype: Any = "int8", out: Any = None,
    ) -> np.ndarray:  # fmt: skip
        dtype, *about = settled(rule, zero_point, low, high, dtype)
        n, o, *rest = sums.shape
        y = result((n, o, *[size // pool for size in rest]), dtype, out, sums, bias, mantissa, shift)
        into(y, run, sums, bias, mantissa, shift, pool, about)
        return y

    return requantise


def into(y: np.ndarray, run: Callable[..., None], sums: Any, bias: Any, mantissa: Any, shift: Any, pool: int, about: Any) -> None:
    """`about`: what `settled` returns, without the dtype."""
    n, o, *rest = sums.shape
    if y.size:
        sizes = (o, rest[0], prod(rest[1:])) if rest else (o, 0, 0)
        flat = dense(sums).ravel(), dense(bias), dense(mantissa), dense(shift), y.view(np.int8).ravel()
        run(*flat, sizes, pool, *about, 0, n * o if rest else n)


# One sum.


@njit(nogil=True)
def clipped(code, low, high):
    return min(max(code, low), high)


@njit(nogil=True)
def by_fp32(a, m, shift, z, low, high):
    """m: M as a float32. Clipped first: whole numbers stay within whole bounds when they are rounded."""
    product = float32(a) * m
    least, most = float32(low - z), float32(high - z)
    product = least if product < least else most if product > most else product
    return int32((product + ROUNDS) - ROUNDS) + int32(z)


@njit(nogil=True)
def by_q31_double(a, m, shift, z, low, high):
    left, right = max(31 - shift, 0), max(shift - 31, 0)
    widened = clipped(int64(a) << left, int64(-(1 << 31)), int64((1 << 31) - 1))
    upper = (widened * m + (1 << 30)) >> 31
    mask = (int64(1) << right) - 1
    away = int64((upper & mask) > (mask >> 1) + int64(upper < 0))
    return clipped((upper >> right) + away + z, low, high)


@njit(nogil=True)
def rounded_once(a, m, shift, z, low, high):
    return clipped(((int64(a) * m + ((int64(1) << shift) >> 1)) >> shift) + z, low, high)


@njit(nogil=True)
def by_pow2(a, m, shift, z, low, high):
    left, right = max(-shift, 0), max(shift, 0)
    return clipped((((int64(a) << left) + ((int64(1) << right) >> 1)) >> right) + z, low, high)


@njit(nogil=True)
def in_float32(m, shift):
    """M, if its mantissa has 24 bits: exactly. Of other rules it is not asked for."""
    scales = np.empty(len(m), np.float32)
    for i in range(len(m)):
        scales[i] = float32(m[i]) / float32(int64(1) << max(shift[i], 0))
    return scales


@rung(
    "requantise", "cpu", step=1, wants="*sums, o, o, o", check=fits, rtol=EXACT,
    idea="the definition: number by number, and the largest of its square before",
)  # fmt: skip
@requantising
@njit(cache=True, nogil=True)
def code_by_code(a, b, m, shift, y, sizes, pool, rule, z, low, high, first, last):
    o, p, q = max(1, sizes[0]), max(1, sizes[1]), max(1, sizes[2])
    rows, columns = p // pool, q // pool
    scales = in_float32(m, shift)
    for i in range(len(y)):
        c, r, s = i // (rows * columns), i // columns % rows * pool, i % columns * pool
        most = a[(c * p + r) * q + s]
        for j in range(pool):
            for k in range(pool):
                most = max(most, a[(c * p + r + j) * q + s + k])
        c %= o
        total = int32(most + b[c])
        if rule == FP32:
            code = int64(by_fp32(total, scales[c], shift[c], z, low, high))
        elif rule == Q31_DOUBLE:
            code = int64(by_q31_double(total, m[c], shift[c], z, low, high))
        elif rule == ONCE:
            code = int64(rounded_once(total, m[c], shift[c], z, low, high))
        else:
            code = int64(by_pow2(total, m[c], shift[c], z, low, high))
        y[i] = int8(code)


# Planes.


def each_by_one(number: Any) -> Any:
    """All sums of a plane, whose channel has one multiplier."""

    @njit(nogil=True)
    @named_after(number)
    def plane(a, b, m, shift, y, z, low, high):
        for i in range(len(y)):
            y[i] = int8(number(int32(a[i] + b), m, shift, z, low, high))

    return plane


def each_by_its_own(number: Any) -> Any:
    """A row of channels, each with a multiplier."""

    @njit(nogil=True)
    @named_after(number)
    def row(a, b, m, shift, y, z, low, high):
        for i in range(len(y)):
            y[i] = int8(number(int32(a[i] + b[i]), m[i], shift[i], z, low, high))

    return row


plane_fp32, plane_q31_double, plane_once, plane_pow2 = map(each_by_one, (by_fp32, by_q31_double, rounded_once, by_pow2))
row_fp32, row_q31_double, row_once, row_pow2 = map(each_by_its_own, (by_fp32, by_q31_double, rounded_once, by_pow2))


@njit(nogil=True)
def pooled(plane, columns, pool, small):
    """The largest of each square of a plane of so many columns."""
    across, like = columns // pool, plane.dtype.type(0)
    for i in range(len(small) // across):
        if pool == 2:
            top = address(plane) + 2 * i * columns * 4
            largest_of_fours(like, top, top + columns * 4, address(small) + i * across * 4, across)
            continue
        for j in range(across):
            most = plane[i * pool * columns + j * pool]
            for r in range(i * pool, (i + 1) * pool):
                for s in range(j * pool, (j + 1) * pool):
                    most = max(most, plane[r * columns + s])
            small[i * across + j] = most


def whole_planes(a, b, m, shift, y, sizes, pool, rule, z, low, high, first, last):
    o, p, q = sizes
    scales = in_float32(m, shift)
    if p == 0:
        for i in range(first, last):
            sums, codes = a[i * o : (i + 1) * o], y[i * o : (i + 1) * o]
            if rule == FP32:
                row_fp32(sums, b, scales, shift, codes, z, low, high)
            elif rule == Q31_DOUBLE:
                row_q31_double(sums, b, m, shift, codes, z, low, high)
            elif rule == ONCE:
                row_once(sums, b, m, shift, codes, z, low, high)
            else:
                row_pow2(sums, b, m, shift, codes, z, low, high)
        return
    large, few = p * q, (p // pool) * (q // pool)
    small = np.empty(few if pool > 1 else 0, np.int32)
    for i in range(first, last):
        c, sums, codes = i % o, a[i * large : (i + 1) * large], y[i * few : (i + 1) * few]
        if pool > 1:
            pooled(sums, q, pool, small)
            sums = small
        if rule == FP32:
            plane_fp32(sums, b[c], scales[c], shift[c], codes, z, low, high)
        elif rule == Q31_DOUBLE:
            plane_q31_double(sums, b[c], m[c], shift[c], codes, z, low, high)
        elif rule == ONCE:
            plane_once(sums, b[c], m[c], shift[c], codes, z, low, high)
        else:
            plane_pow2(sums, b[c], m[c], shift[c], codes, z, low, high)


@cache
def compiled() -> Any:
    if config.DISABLE_JIT:  # to debug or to measure coverage: instructions exist in compiled code only
        return code_by_code.__wrapped__
    run = stamped(njit(cache=True, nogil=True)(whole_planes))
    wide, narrow, codes = room(types.int64), room(types.int32), room(types.int8)
    run.compile((narrow, narrow, wide, wide, codes, types.UniTuple(INT, 3), *[INT] * 7))
    run.disable_compile()
    return run


@rung(
    "requantise",
    "cpu",
    step=2,
    rtol=EXACT,
    idea="plane by plane, as vectors: no choice of a rule in the loop, windows of two by two as in pooling",
)
@requantising
def codes_in_planes(*job: Any) -> None:
    compiled()(*job)


@rung("requantise", "cpu", step=3, serves=True, rtol=EXACT, idea="give planes to threads")
@requantising
def codes_threaded(*job: Any) -> None:
    run, size = compiled(), job[0].size
    if size <= WORTH_A_THREAD:
        run(*job)
    else:
        *job, first, last = job
        step = max(1, WORTH_A_THREAD * last // size)
        share(run, [(*job, i, min(last, i + step)) for i in range(first, last, step)])
