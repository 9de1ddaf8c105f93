"""Numbers from one format to another: every rounding and saturation of cvt; f16, bf16 and tf32, which NumPy has in part or not at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kernels.cuda.emulate import arithmetic
from kernels.cuda.emulate.translate import dtype_of

INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
BFLOAT = ("bf16", "bf16x2")


def bits_of_bf16(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    """A float64 (rounded to odd, or exact) as bits of bfloat16."""
    y = arithmetic.odd_to_f32(x)
    bits = y.view(np.uint32)
    if mode == "rn":
        up = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    else:
        up = bits >> np.uint32(16)
    return np.where(np.isnan(y), np.uint32(0x7FFF), up).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_f16(x: np.ndarray, mode: str = "rn") -> np.ndarray:
    y = arithmetic.narrowed(x, mode, np.float16)
    y.view(np.uint16)[np.isnan(y)] = 0x7FFF
    return y


def clamped(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """An integer into the range of another type."""
    info = np.iinfo(dtype)

    def of(a: np.ndarray) -> np.ndarray:
        low, high = max(info.min, np.iinfo(a.dtype).min), min(info.max, np.iinfo(a.dtype).max)
        return np.clip(a, a.dtype.type(low), a.dtype.type(high)).astype(dtype)

    return of


def conversion(parts: list[str], to: str, of: str) -> Callable[[np.ndarray], np.ndarray]:
    """cvt where one side, or both, are floating-point numbers."""
    integral = next((INTEGRAL[p] for p in parts if p in INTEGRAL), None)
    mode = next((p for p in parts if p in ("rn", "rz", "rm", "rp", "rna")), "rn")
    flush = "ftz" in parts

    def wide(a: np.ndarray) -> np.ndarray:
        if of in BFLOAT:
            return from_bf16(a).astype(np.float64)
        if of[0] in "us":
            return arithmetic.odd(*parts_of_integer(a))
        return (arithmetic.flushed(a) if flush and of == "f32" else a).astype(np.float64)

    def result(y: np.ndarray) -> np.ndarray:
        y = np.where(y > 0, np.minimum(y, 1), 0.0) if "sat" in parts and to[0] in "fb" else y
        y = np.where(y < 0, 0.0, y) if "relu" in parts else y
        if to in ("f64",):
            return y
        if to == "f32":
            z = arithmetic.one_nan(arithmetic.narrowed(y, mode))
            return arithmetic.flushed(z) if flush else z
        if to == "f16":
            return to_f16(y, mode)
        if to == "bf16":
            return bits_of_bf16(y, mode)
        if to == "tf32":
            return tf32(y.astype(np.float32), mode)
        raise ValueError(f"cvt to {to}")

    def whole(y: np.ndarray) -> np.ndarray:
        info = np.iinfo(dtype_of(to))
        empty = 0 if of != "f64" and info.bits < 64 else (1 << info.bits - 1) if info.min == 0 else info.min
        low, high = float(info.min), float(info.max)  # the latter may round up to a power of two
        z = np.where(np.isnan(y), 0.0, y)
        inside = np.where((z >= low) & (z < high), z, 0.0).astype(dtype_of(to))
        clip = np.where(z >= high, np.array(info.max, dtype_of(to)), np.where(z < low, np.array(info.min, dtype_of(to)), inside))
        return np.where(np.isnan(y), np.array(empty, dtype_of(to)), clip)

    def convert(a: np.ndarray) -> np.ndarray:
        if of[0] in "us" and to == "f64":
            return arithmetic.stepped(*parts_of_integer(a), mode)
        y = wide(a)
        if to[0] in "us":
            return whole((integral or np.trunc)(y))
        return result(integral(y) if integral else y)

    return convert


def parts_of_integer(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An integer of any width as a float64, to nearest, and what that misses."""
    if a.dtype.itemsize < 8:
        return a.astype(np.float64), np.zeros(a.shape)
    low = (a & a.dtype.type(0xFFFFFFFF)).astype(np.float64)
    return arithmetic.two_sum((a >> a.dtype.type(32)).astype(np.float64) * 2.0**32, low)


def tf32(y: np.ndarray, mode: str = "rna") -> np.ndarray:
    """Eleven bits of precision: to nearest, ties away from zero (rna) or to even (rn), or cut (rz)."""
    bits = y.view(np.uint32)
    more = {"rna": np.uint32(0x1000), "rz": np.uint32(0), "rn": np.uint32(0xFFF) + (bits >> np.uint32(13) & np.uint32(1))}[mode]
    finite = (bits & np.uint32(0x7F800000)) != 0x7F800000
    return np.where(finite, (bits + more) & np.uint32(0xFFFFE000), np.where(np.isnan(y), np.uint32(0x7FFFFFFF), bits))


def packed(dtype: str) -> Callable[..., np.ndarray]:
    def of(*parts: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.stack(np.broadcast_arrays(*parts), axis=1)).view(dtype).reshape(-1)

    return of


def unpacked(n: int, dtype: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    return lambda a: [p.copy() for p in np.ascontiguousarray(a).view(dtype).reshape(-1, n).T]
