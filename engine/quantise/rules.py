r"""Requantisation: a sum of products of codes, int32, becomes a code again, by one of five named rules.

    m = RULES["q31-single"].store(x_scale * w_scale / y_scale)       # the multiplier M, as whole numbers
    y = requantise(sums, m, rule="q31-single", zero_point=3, low=0, high=255, dtype=np.uint8)

$y = \mathrm{clip}(\mathrm{round}(M a) + z, l, h)$ for a sum a. M is kept as integers, $M \approx m \, 2^{-s}$, and all that is done with
it is done on integers: any language that has 64-bit ones gets the same bits. The rules differ in how M is stored, in how often they round,
and in what becomes of a tie. The first four differ by 1 at most, in few places (one code in 700 between the two of q31, hardly any
between the others), so the choice is one of reproducibility, not of accuracy. For pow2 the scales have to be chosen with it in mind.

    fp32         M in float32. The product is rounded as a float32 is, then to a whole number, both to nearest, ties to even
    q31-double   M in 31 bits. The upper half of twice the product, ties up; then a shift to the right, ties away from zero
    q31-single   M in 31 bits. The product is rounded once, ties up
    rndnu        M in the 24 bits of a float32. The product is rounded once, ties up
    pow2         M is a power of two, the nearest in its logarithm. A shift, rounded once, ties up

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Ints = Any  # int64 arrays: NumPy's types forget so much of a shift

LEAST, MOST = 2.0**-32, 2.0**8  # XNNPACK's bounds: below, every sum becomes 0; above, no product of any rule needs more than 64 bits
INT32 = np.iinfo(np.int32)
BLOCK = 1 << 14  # sums at a time: four arrays of as many int64 are half a common second-level cache
POWERS = 1 << np.arange(62, dtype=np.int64)


class Multiplier(NamedTuple):
    """m 2^-shift: one number for all sums, () or (1,), or one a channel, (o,). Both int64."""

    mantissa: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class Rule:
    """One way from a sum to a code.

    name        what it is called
    source      whose arithmetic it is
    precision   the dtype in which M is computed from three scales
    stored      how M is kept
    approach    from M, float64, to m and shift, whole numbers of any dtype
    rescale     from sums, m and shift, int64 all, to the rounded products, int64; exact for every sum that int32 holds
    """

    name: str
    source: str
    precision: type
    stored: str
    approach: Callable[[np.ndarray], tuple[Ints, Ints]]
    rescale: Callable[[Ints, Ints, Ints], Ints]

    def ratio(self, x_scale: Any, w_scale: Any, y_scale: Any) -> np.ndarray:
        r"""$M = s_x s_w / s_y$, each step in the precision of the rule's source: another order has other bits."""
        x, w, y = map(self.precision, (x_scale, w_scale, y_scale))
        return np.asarray(x * w / y)

    def store(self, m: Any) -> Multiplier:
        """The whole numbers that stand for M, positive numbers of any shape.

        Raises ValueError for what is not in [2^-32, 2^8): then a scale is wrong, or the rule cannot hold their ratio.
        """
        m = np.asarray(m, self.precision).astype(np.float64)
        if not np.all((m >= LEAST) & (m < MOST)):
            wrong = m[~((m >= LEAST) & (m < MOST))].flat[0]
            raise ValueError(f"a multiplier is {wrong:g}, {self.name} takes from 2^-32 up to 2^8; it is x_scale * w_scale / y_scale")
        return Multiplier(*(np.asarray(part, np.int64) for part in self.approach(m)))


def requantise(
    sums: np.ndarray, multiplier: Multiplier, *, rule: str, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = np.int8
) -> np.ndarray:
    r"""$y = \mathrm{clip}(\mathrm{round}(M a) + z, l, h)$, rounded by the rule of that name

    sums         a, int32, (n, o) or (n, o, p, q)
    multiplier   M as `Rule.store` keeps it: one number, or (o,), one a channel
    zero_point   z, the code of 0
    low, high    l and h, the least and the largest code: relu is low = z
    dtype        of the codes, int8 or uint8
    Returns codes of the shape of `sums`. Raises TypeError for sums that are not int32, ValueError for an unknown rule and for codes that
    the dtype does not hold.
    """
    about = np.iinfo(dtype)
    if sums.dtype != np.int32:
        raise TypeError(f"sums are int32, these are {sums.dtype}")
    if not about.min <= low <= zero_point <= high <= about.max:
        raise ValueError(f"codes from {low} to {high} with {zero_point} for 0: {np.dtype(dtype)} holds {about.min} to {about.max}")
    mantissa, shift = (across(part, sums.ndim) for part in multiplier)
    rescale, y = named(rule).rescale, np.empty_like(sums, dtype)
    step = max(1, BLOCK * len(sums) // max(sums.size, 1))
    for i in range(0, len(sums), step):
        codes = rescale(sums[i : i + step].astype(np.int64), mantissa, shift)
        codes += zero_point
        np.maximum(codes, low, out=codes)
        y[i : i + step] = np.minimum(codes, high, out=codes)
    return y


def named(rule: str) -> Rule:
    """The rule of that name. Raises ValueError."""
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
    return RULES[rule]


def across(x: np.ndarray, ndim: int) -> np.ndarray:
    """One number a channel, ready to meet an array whose second axis is the channels."""
    return x.reshape(-1, *[1] * (ndim - 2)) if x.size > 1 else x.reshape(())


def half_even(v: Ints, n: Ints) -> Ints:
    """v / n to the nearest whole number, ties to even; n positive."""
    floor = v // n
    rest = v - floor * n
    return floor + (2 * rest + (floor & 1) > n)


def _half_up(v: Ints, shift: Ints) -> Ints:
    """v 2^-shift to the nearest whole number, ties up; in v, if it is an array."""
    v += (1 << shift) >> 1
    v >>= shift
    return v


def _shifted_half_even(v: Ints, shift: Ints) -> Ints:
    """`half_even` by 2^shift, without a division."""
    floor = v >> shift
    rest = v - (floor << shift)
    return floor + (2 * rest + (floor & 1) > 1 << shift)


def _as_float32(v: Ints) -> Ints:
    """Whole numbers from 0 to 2^56, each rounded to the 24 bits that a float32 has."""
    bits = np.searchsorted(POWERS, v, side="right")
    spare = np.maximum(bits - 24, 0)
    return _shifted_half_even(v, spare) << spare


def _fp32(a: Ints, m: Ints, shift: Ints) -> Ints:
    """Rounding twice is rounding once, but near a tie: what the first rounding moves onto a tie. Only that is done in full."""
    product = a * m
    bits = max(int(product.max(initial=0)), -int(product.min(initial=0))).bit_length()
    reach = (1 << max(bits - 24, 0)) >> 1  # no product is moved farther
    half = (1 << shift) >> 1
    if bits > 47 or reach >= np.min(half):  # up to 47, for m has 24, a has 24 and is a float32
        return _fp32_in_full(a, m, shift)
    product += half
    near = (product + reach) & ((1 << shift) - 1) <= 2 * reach
    y = product >> shift
    if near.any():
        y[near] = _fp32_in_full(a[near], np.broadcast_to(m, a.shape)[near], np.broadcast_to(shift, a.shape)[near])
    return y


def _fp32_in_full(a: Ints, m: Ints, shift: Ints) -> Ints:
    product = _as_float32(_as_float32(np.abs(a)) * m)
    return np.sign(a) * _shifted_half_even(product, shift)


def _q31_double(a: Ints, m: Ints, shift: Ints) -> Ints:
    left, right = np.maximum(31 - shift, 0), np.maximum(shift - 31, 0)
    widened = np.clip(a << left, INT32.min, INT32.max)  # C has it undefined; far outside of any code
    high = (widened * m + (1 << 30)) >> 31  # gemmlowp's nudge and truncation are this: ties up for either sign
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


def _rounded_once(a: Ints, m: Ints, shift: Ints) -> Ints:
    return _half_up(a * m, shift)


def _pow2(a: Ints, m: Ints, shift: Ints) -> Ints:
    return _half_up(a << np.maximum(-shift, 0), np.maximum(shift, 0))


def _to_31_bits(m: np.ndarray) -> tuple[Ints, Ints]:
    """m in [2^30, 2^31), ties away from zero as std::round has them."""
    fraction, exponent = np.frexp(m)
    mantissa = np.floor(fraction * 2.0**31 + 0.5).astype(np.int64)
    full = mantissa == 1 << 31  # rounded up to the next power of two
    return np.where(full, mantissa >> 1, mantissa), 31 - exponent - full


def _to_24_bits(m: np.ndarray) -> tuple[Ints, Ints]:
    """m in [2^23, 2^24), exactly the float32."""
    fraction, exponent = np.frexp(m)
    return fraction * 2.0**24, 24 - exponent


def _to_a_power(m: np.ndarray) -> tuple[Ints, Ints]:
    """m = 1: the power of two that is nearest to M as a ratio."""
    return np.ones_like(m), -np.rint(np.log2(m))


RULES = {
    rule.name: rule
    for rule in (
        Rule("fp32", "ONNX Runtime, MLAS: MlasRequantizeOutput", np.float32, "24 bits of a float32", _to_24_bits, _fp32),
        Rule("q31-double", "gemmlowp, TFLite: MultiplyByQuantizedMultiplier", np.float64, "31 bits, rounded", _to_31_bits, _q31_double),
        Rule("q31-single", "FBGEMM; TFLite with TFLITE_SINGLE_ROUNDING", np.float64, "31 bits, rounded", _to_31_bits, _rounded_once),
        Rule("rndnu", "XNNPACK: requantization by rndnu", np.float32, "24 bits of a float32", _to_24_bits, _rounded_once),
        Rule("pow2", "microcontrollers: a shift", np.float64, "a shift", _to_a_power, _pow2),
    )
}
