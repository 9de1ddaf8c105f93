"""Floating-point arithmetic as a device does it, on arrays.

float32 and float64 add, multiply, fuse, divide and take roots correctly rounded (IEEE 754; CUDA C Programming Guide, "Floating-Point
Standard"), to nearest or in the direction that .rz, .rm and .rp name. A result of float32 that is no number is 0x7FFFFFFF, whatever the
operands held. `.ftz` flushes numbers below 2^-126 to zeros of their sign, before and after.

Approximate instructions (ex2.approx and the like) are computed in float64 and rounded once: nearer to the true value than the device, whose
bounds are in APPROXIMATE. What a kernel makes of such a result can therefore differ from a device within these bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.extending import intrinsic

# Largest errors that the PTX ISA (section 9.7.3 and following) states for a device; ours is one rounding.
APPROXIMATE = {
    "rcp.approx.f32": "1 ulp", "rcp.approx.ftz.f64": "2^-20, the lower half of the bits is zero", "sqrt.approx.f32": "1 ulp",
    "rsqrt.approx.f32": "2^-22.9, relative", "rsqrt.approx.f64": "2^-23, relative", "sin.approx.f32": "2^-20.5 in [-pi, pi]",
    "cos.approx.f32": "2^-20.5 in [-pi, pi]", "lg2.approx.f32": "2^-22 in [0.5, 2], relative 2^-22 elsewhere", "ex2.approx.f32": "2 ulp",
    "tanh.approx.f32": "2^-11, relative", "div.approx.f32": "2 ulp", "div.full.f32": "2 ulp",
}  # fmt: skip


@intrinsic
def fused(typing, a, b, c):  # type: ignore[no-untyped-def]
    """a b + c, rounded once."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.fma(*args)

    return a(a, b, c), code


@intrinsic
def canonical(typing, x):  # type: ignore[no-untyped-def]
    """The device's one NaN for any NaN of float32; any other number, and float64, as it is."""

    def code(context, builder, signature, args):  # type: ignore[no-untyped-def]
        (v,) = args
        if x is not types.float32:
            return v
        nan = builder.bitcast(ir.Constant(ir.IntType(32), 0x7FFFFFFF), ir.FloatType())
        return builder.select(builder.fcmp_unordered("uno", v, v), nan, v)

    return x(x), code


@njit(nogil=True, cache=True)
def at(a, i):  # type: ignore[no-untyped-def]
    """The place of element i in an array that may be one number for all."""
    return i if a.size > 1 else 0


@njit(nogil=True, cache=True)
def fma(a, b, c):  # type: ignore[no-untyped-def]
    out = np.empty(max(a.size, b.size, c.size), a.dtype)
    for i in range(out.size):
        out[i] = canonical(fused(a[at(a, i)], b[at(b, i)], c[at(c, i)]))
    return out


@njit(nogil=True, cache=True)
def add(a, b):  # type: ignore[no-untyped-def]
    out = np.empty(max(a.size, b.size), a.dtype)
    for i in range(out.size):
        out[i] = canonical(a[at(a, i)] + b[at(b, i)])
    return out


@njit(nogil=True, cache=True)
def sub(a, b):  # type: ignore[no-untyped-def]
    out = np.empty(max(a.size, b.size), a.dtype)
    for i in range(out.size):
        out[i] = canonical(a[at(a, i)] - b[at(b, i)])
    return out


@njit(nogil=True, cache=True)
def mul(a, b):  # type: ignore[no-untyped-def]
    out = np.empty(max(a.size, b.size), a.dtype)
    for i in range(out.size):
        out[i] = canonical(a[at(a, i)] * b[at(b, i)])
    return out


def smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """min: a number rather than NaN, and -0 before +0."""
    y = np.where(np.signbit(a) & (a == b), a, np.fmin(a, b))
    return one_nan(np.where(np.signbit(b) & (a == b), b, y))


def larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """max: a number rather than NaN, and +0 after -0."""
    y = np.where(np.signbit(a) & (a == b), b, np.fmax(a, b))
    return one_nan(np.where(np.signbit(b) & (a == b), a, y))


def div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return one_nan(np.divide(a, b))


def sqrt(a: np.ndarray) -> np.ndarray:
    return one_nan(np.sqrt(a))


def rcp(a: np.ndarray) -> np.ndarray:
    return one_nan(np.divide(a.dtype.type(1), a))


def one_nan(x: np.ndarray) -> np.ndarray:
    """Any NaN of a fresh float32 array becomes the device's."""
    if x.dtype == np.float32:
        x.view(np.uint32)[np.isnan(x)] = 0x7FFFFFFF
    return x


def flushed(x: np.ndarray) -> np.ndarray:
    """`.ftz`: subnormal numbers of float32 as zeros of their sign."""
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def ftz(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *args: flushed(f(*map(flushed, args)))


def saturated(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """`.sat`: to [0, 1], NaN to +0."""

    def clamped(*args: np.ndarray) -> np.ndarray:
        x = f(*args)
        return np.where(x > 0, np.minimum(x, x.dtype.type(1)), x.dtype.type(0))

    return clamped


# Directions. An exact value is a float64 and the sign of what is missing from it.


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a + b, rounded, and the error of that (Knuth 1969, 4.2.2)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def rest_of(name: str, args: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, rounded to nearest, and a number with the sign of the exact result minus it."""
    a, b, c = (*args, *[np.zeros(1)] * (3 - len(args)))
    if name in ("add", "sub"):
        return two_sum(a, b if name == "add" else -b)
    if name == "mul":
        s = a * b
        return s, fma(a, b, -s)
    if name == "fma":
        s = fma(a, b, c)
        p = a * b
        t, low = two_sum(p, c)
        v, w = two_sum(fma(a, b, -p), low)
        d, e = two_sum(t - s, v)
        return s, np.where(d != 0, d, e + w)
    if name == "sqrt":
        s = np.sqrt(a)
        return s, fma(-s, s, a)
    top, bottom = (np.ones(1), a) if name == "rcp" else (a, b)  # rcp or div
    s = top / bottom
    return s, fma(-s, bottom, top) * np.sign(bottom)


def odd(s: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Rounded to odd: of the two numbers around the exact one, that with an odd last bit. A second rounding is then as good as one."""
    move = (rest != 0) & np.isfinite(s) & np.isfinite(rest) & (s.view(np.int64) & 1 == 0)
    return np.where(move, np.nextafter(s, np.where(rest > 0, np.inf, -np.inf)), s)


def stepped(s: np.ndarray, rest: np.ndarray, mode: str) -> np.ndarray:
    """A float64 to nearest, and what it misses of the exact value: the float64 in a direction."""
    down = (rest < 0) & ((mode == "rm") | ((mode == "rz") & (s > 0)))
    up = (rest > 0) & ((mode == "rp") | ((mode == "rz") & (s < 0)))
    return np.where(down, np.nextafter(s, -np.inf), np.where(up, np.nextafter(s, np.inf), s))


def narrowed(x: np.ndarray, mode: str, dtype: Any = np.float32) -> np.ndarray:
    """A float64 to a shorter format, in a direction: rn, rz, rm or rp."""
    y = x.astype(dtype)
    if mode == "rn":
        return y
    back = y.astype(np.float64)
    zero, inf = dtype(0), dtype(np.inf)
    if mode == "rz":
        return np.where((np.abs(back) > np.abs(x)) & np.isfinite(x), np.nextafter(y, zero), y)
    if mode == "rm":
        return np.where((back > x) & np.isfinite(x), np.nextafter(y, -inf), y)
    return np.where((back < x) & np.isfinite(x), np.nextafter(y, inf), y)


def directed(name: str, mode: str, dtype: str) -> Callable[..., np.ndarray]:
    """add, sub, mul, fma, div, rcp or sqrt in the direction rz, rm or rp."""
    if dtype == "f8":
        return lambda *args: in_fractions(name, mode, *args)

    def of(*args: np.ndarray) -> np.ndarray:
        wide = tuple(a.astype(np.float64) for a in args)
        value = odd(*rest_of(name, wide))
        if mode == "rm" and name in ("add", "sub", "fma"):
            value = np.where((value == 0) & below_zero(name, wide), -0.0, value)
        return one_nan(narrowed(value, mode))

    return of


def below_zero(name: str, args: tuple[Any, ...]) -> Any:
    """Downwards, a sum that is 0 is -0, but of two +0 (IEEE 754, 6.3)."""
    first, last = args[0] * args[1] if name == "fma" else args[0], -args[-1] if name == "sub" else args[-1]
    return np.signbit(first) | np.signbit(last)


def in_fractions(name: str, mode: str, *args: np.ndarray) -> np.ndarray:
    """float64 in a direction: slow and exact, number by number. Compilers hardly use it."""
    nearest = {"add": add, "sub": sub, "mul": mul, "fma": fma, "div": div, "rcp": rcp, "sqrt": sqrt}[name](*args)
    out = np.array(np.broadcast_to(nearest, np.broadcast_shapes(*(a.shape for a in args))))
    for i, numbers in enumerate(zip(*np.broadcast_arrays(*args), strict=True)):
        if np.isfinite(numbers).all() and not np.isnan(out[i]) and not (name in ("div", "rcp") and numbers[-1] == 0):
            rest = above(name, float(out[i]), [Fraction(float(v)) for v in numbers])
            out[i] = moved(float(out[i]), rest, mode)
            if mode == "rm" and name in ("add", "sub", "fma") and out[i] == 0 and rest == 0 and below_zero(name, numbers):
                out[i] = -0.0
    return out


def above(name: str, y: float, numbers: list[Fraction]) -> int:
    """The sign of the exact result minus y; of an infinite y, minus its sign."""
    if math.isinf(y):
        return -1 if y > 0 else 1
    a, b, c = (*numbers, *[Fraction(0)] * (3 - len(numbers)))
    r = Fraction(y)
    if name in ("div", "rcp"):
        top, bottom = (a, b) if name == "div" else (Fraction(1), a)
        rest = (top - r * bottom) * (1 if bottom > 0 else -1)
    else:
        rest = {"add": a + b, "sub": a - b, "mul": a * b, "fma": a * b + c, "sqrt": a}[name] - (r * r if name == "sqrt" else r)
    return (rest > 0) - (rest < 0)


def moved(y: float, rest: int, mode: str) -> float:
    """A number rounded to nearest, by one step where the direction asks for it."""
    inward = mode == "rz" and rest * math.copysign(1, y) < 0
    if inward:
        return math.nextafter(y, 0.0)
    if (mode == "rm" and rest < 0) or (mode == "rp" and rest > 0):
        return math.nextafter(y, math.inf * rest)
    return y


def odd_to_f32(x: np.ndarray) -> np.ndarray:
    """A float64 to float32, rounded to odd: ready for one more rounding."""
    cut = narrowed(x, "rz")
    back = cut.astype(np.float64)
    bits = cut.view(np.uint32)
    return np.where((back != x) & np.isfinite(back), (bits | np.uint32(1)).view(np.float32), cut)


def function(name: str, parts: list[str], dtype: str) -> Callable[..., np.ndarray]:
    """An operation with its modifiers: of `add.rz.ftz.sat.f32`, say."""
    mode = next((p for p in parts if p in ("rz", "rm", "rp")), "rn")
    f: Callable[..., np.ndarray]
    if mode != "rn":
        f = directed(name, mode, dtype)
    else:
        f = {"add": add, "sub": sub, "mul": mul, "fma": fma, "div": div, "sqrt": sqrt, "rcp": rcp}[name]
    f = ftz(f) if "ftz" in parts and dtype == "f4" else f
    return saturated(f) if "sat" in parts else f


def approximate(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function of float32 by way of float64."""
    f = {
        "ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "tanh": np.tanh,
        "rcp": lambda x: 1 / x, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x),
    }[name]  # fmt: skip

    def of(x: np.ndarray) -> np.ndarray:
        return one_nan(f(x.astype(np.float64)).astype(x.dtype))

    return of


def rcp_gross(x: np.ndarray) -> np.ndarray:
    """rcp.approx.ftz.f64: the upper half of the bits goes in and comes out (PTX ISA 9.7.3.13)."""
    upper = np.uint64(0xFFFFFFFF00000000)
    top = (x.view(np.uint64) & upper).view(np.float64)
    top = np.where(np.abs(top) < 2.0**-1022, np.copysign(0.0, top), top)
    return ((1 / top).view(np.uint64) & upper).view(np.float64)
