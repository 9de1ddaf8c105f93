"""Products of codes that become codes at once, on the CPU. Every rung gives the same bits.

    matmul_codes   y = requantise(a b)     a (m, k) uint8 or int8    b (k, n) int8                 y (m, n) int8 or uint8
    conv2d_codes   y = requantise(x * w)   x (n, c, h, w), likewise  w (o, c / groups, i, j) int8  y (n, o, p, q)
    bias (n or o) int32   mantissa, shift int64

The halves are those of `int8.py` or `conv_int8.py`, and of `requantise.py`. A layer is one call, and its sums stay near.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.arrays import result
from kernels.cpu import conv_int8, int8, requantise
from kernels.cpu.conv_int8 import convolve, laid
from kernels.cpu.narrow import INT32, multiply
from kernels.cpu.requantise import codes_in_planes, codes_threaded, into, settled
from kernels.cpu.threads import share, threads
from kernels.registry import rung

EXACT = {f"{x} int8 int32 int64 int64": 0.0 for x in ("uint8", "int8")}
NEAR = 1 << 19  # bytes of sums that stay in a common second-level cache


def fits(a: Any, b: Any, bias: Any, mantissa: Any, shift: Any, **about: Any) -> None:
    """Raises ValueError."""
    settled(**about)


def fits_windows(
    x: Any, w: Any, bias: Any, mantissa: Any, shift: Any, *, x_zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, pool: int = 1, **about: Any,
) -> None:  # fmt: skip
    settled(**about)
    if pool < 1:
        raise ValueError(f"pools {pool} by {pool} sums")
    conv_int8.fits_int8(x, w, zero_point=x_zero_point, stride=stride, padding=padding, dilation=dilation, groups=groups)


@rung(
    "matmul_codes",
    "cpu",
    step=1,
    wants="m k, k n, n, n, n",
    check=fits,
    rtol=EXACT,
    idea="the definition: inner products, then code by code",
)
def products_then_codes(
    a: Any, b: Any, bias: Any, mantissa: Any, shift: Any, *, rule: str, zero_point: int = 0, low: int = -128, high: int = 127,
    dtype: Any = "int8",
) -> np.ndarray:  # fmt: skip
    sums = int8.inner_products_of_int8(a, b)
    return requantise.code_by_code(sums, bias, mantissa, shift, rule=rule, zero_point=zero_point, low=low, high=high, dtype=dtype)


@rung("matmul_codes", "cpu", step=2, serves=True, rtol=EXACT, idea="products of words, then rows of codes as vectors, in one call")
def words_then_codes(
    a: Any, b: Any, bias: Any, mantissa: Any, shift: Any, *, rule: str, zero_point: int = 0, low: int = -128, high: int = 127,
    dtype: Any = "int8", out: Any = None,
) -> np.ndarray:  # fmt: skip
    kind, *about = settled(rule, zero_point, low, high, dtype)
    y = result((len(a), b.shape[1]), kind, out, a, b, bias, mantissa, shift)
    into(y, codes_threaded.__wrapped__, multiply(a, b, None, matrices=True, workers=threads()), bias, mantissa, shift, 1, about)
    return y


@rung(
    "conv2d_codes", "cpu", step=1, wants="n c h w, o k i j, o, o, o", check=fits_windows, rtol=EXACT,
    idea="the definition: seven loops, then code by code",
)  # fmt: skip
def loops_then_codes(
    x: Any, w: Any, bias: Any, mantissa: Any, shift: Any, *, x_zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, rule: str, pool: int = 1, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8",
) -> np.ndarray:  # fmt: skip
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    sums = conv_int8.seven_loops_of_int8(x, w, zero_point=x_zero_point, **geometry)
    about = {"rule": rule, "pool": pool, "zero_point": zero_point, "low": low, "high": high, "dtype": dtype}
    return requantise.code_by_code(sums, bias, mantissa, shift, **about)


@rung(
    "conv2d_codes", "cpu", step=2, serves=True, rtol=EXACT,
    idea="a product of words, then planes of codes as vectors, for a few pictures at a time: their sums stay near; give these to threads",
)  # fmt: skip
def near_codes(
    x: Any, w: Any, bias: Any, mantissa: Any, shift: Any, *, x_zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, rule: str, pool: int = 1, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8", out: Any = None,
) -> np.ndarray:  # fmt: skip
    kind, *about = settled(rule, zero_point, low, high, dtype)
    p, q = laid(x.shape[2:], w.shape[2:], stride, padding, dilation)[0]
    y = result((len(x), len(w), p // pool, q // pool), kind, out, x, w, bias, mantissa, shift)

    def layer(x: Any, y: Any, workers: int) -> None:
        sums = convolve(x, w, x_zero_point, stride, padding, dilation, groups, None, matrices=True, workers=workers)
        into(y, codes_in_planes.__wrapped__, sums, bias, mantissa, shift, pool, about)

    step = max(1, NEAR // (p * q * len(w) * INT32.itemsize or 1))
    if step >= len(x):
        layer(x, y, threads())
    else:
        share(layer, [(x[i : i + step], y[i : i + step], 1) for i in range(0, len(x), step)])
    return y
