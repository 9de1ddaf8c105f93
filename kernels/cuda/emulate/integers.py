"""Integer and bit operations that NumPy does not have, on arrays; as in the PTX ISA 9.0, sections 9.7.1 to 9.7.8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def high(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The upper half of a product."""
    if a.dtype.itemsize < 8:
        wide = f"{a.dtype.kind}{2 * a.dtype.itemsize}"
        return (a.astype(wide) * b.astype(wide) >> wide_shift(a.dtype)).astype(a.dtype)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> shift, y & low, y >> shift
    middle = x1 * y0 + (x0 * y0 >> shift)
    other = x0 * y1 + (middle & low)
    top = x1 * y1 + (middle >> shift) + (other >> shift)
    if a.dtype.kind == "i":
        top = top - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return top.view(a.dtype)


def wide_shift(dtype: np.dtype) -> Any:
    return np.array(8 * dtype.itemsize, f"{dtype.kind}{2 * dtype.itemsize}")


def product(part: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """mul.lo, mul.hi or mul.wide"""
    if part == "hi":
        return high
    if part == "lo":
        return np.multiply
    return lambda a, b: a.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}") * b.astype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Towards zero; all ones for a division by zero."""
    return np.where(b == 0, np.array(-1).astype(a.dtype), (a - np.fmod(a, b)) // np.where(b == 0, b.dtype.type(1), b))


def remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, a, np.fmod(a, b))


def clamped_sum(a: np.ndarray, b: np.ndarray, sign: int) -> np.ndarray:
    s = a.astype(np.int64) + sign * b.astype(np.int64)
    return np.clip(s, -(2**31), 2**31 - 1).astype(np.int32)


def sum_with_carry(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = a + b
    r = s + c.astype(s.dtype)
    return r, (s < a) | (r < s)


def difference_with_borrow(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    d = a - b
    r = d - c.astype(d.dtype)
    return r, (a < b) | (d < r)


def shifted(left: bool, bits: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Shifts by more than the width give 0, or the sign."""

    def of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        by = np.minimum(b, np.uint32(bits)).astype(a.dtype)
        return np.left_shift(a, by) if left else np.right_shift(a, by)

    return of


def field(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """bfe: `c` bits from bit `b` on, extended by the field's last bit if signed (PTX ISA 9.7.1.16)."""
    bits = 8 * a.dtype.itemsize
    pos, n = (b & 0xFF).astype(np.int64), (c & 0xFF).astype(np.int64)
    top = np.minimum(pos + n - 1, bits - 1)
    u = a.view(f"u{a.dtype.itemsize}")
    one = u.dtype.type(1)
    sign = np.where((n > 0) & (a.dtype.kind == "i"), (u >> top.clip(0).astype(u.dtype)) & one, u.dtype.type(0))
    mask = ones(n, u.dtype)
    d = np.where(pos < bits, u >> np.minimum(pos, bits - 1).astype(u.dtype), u.dtype.type(0))
    inside = ones(np.minimum(n, bits - pos).clip(0), u.dtype)  # bits that exist; those of the field beyond them are the sign
    return np.where(n == 0, u.dtype.type(0), (d & mask & inside) | np.where(sign == one, ~inside, u.dtype.type(0))).view(a.dtype)


def ones(n: np.ndarray, dtype: Any) -> np.ndarray:
    """The lower n bits."""
    bits = 8 * np.dtype(dtype).itemsize
    short = (np.array(1, dtype) << np.minimum(n, bits - 1).astype(dtype)) - np.array(1, dtype)
    return np.where(n >= bits, ~np.array(0, dtype), short)


def put(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """bfi: the lower `d` bits of a over those of b from bit `c` on."""
    bits = 8 * a.dtype.itemsize
    pos, n = (c & 0xFF).astype(np.int64), (d & 0xFF).astype(np.int64)
    mask = np.where(pos < bits, ones(n, a.dtype) << np.minimum(pos, bits - 1).astype(a.dtype), a.dtype.type(0))
    return (b & ~mask) | (a << np.minimum(pos, bits - 1).astype(a.dtype) & mask)


def reversed_bits(a: np.ndarray) -> np.ndarray:
    bytes_ = np.unpackbits(a.view(np.uint8).reshape(a.size, -1), axis=1, bitorder="little")
    return np.packbits(bytes_[:, ::-1], axis=1, bitorder="little").reshape(-1).view(a.dtype)


def bit_length(a: np.ndarray) -> np.ndarray:
    """The number of bits up to the highest that is set."""
    n, x = np.zeros(a.shape, np.uint32), a.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < 8 * a.dtype.itemsize:
            some = x >> a.dtype.type(step) != 0
            n[some] += np.uint32(step)
            x = np.where(some, x >> a.dtype.type(step), x)
    return n + (x != 0).astype(np.uint32)


def popcount(a: np.ndarray) -> np.ndarray:
    return np.unpackbits(a.view(np.uint8).reshape(a.size, -1), axis=1).sum(axis=1, dtype=np.uint32)
