r"""Requantisation: what brings a sum of products of codes, int32, back to a code. Whole numbers only.

A multiplier M is kept as $m \, 2^{-s}$, and `RESCALE` has what becomes of sums times M under each rule, by name. Whose rules these are, how
they differ and how M is stored is told in `engine/quantise/rules.py`.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 2.2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.shapes import ShapeError

__all__ = ["requantise"]

Ints = Any  # int64 arrays: NumPy's types forget so much of a shift

INT32 = np.iinfo(np.int32)
BLOCK = 1 << 14  # sums at a time: four arrays of as many int64 are half a common second-level cache
POWERS = 1 << np.arange(62, dtype=np.int64)


@op(constant=("sums", "bias", "mantissa", "shift"))
def requantise(
    sums, bias, mantissa, shift, *,
    rule: str, pool: int = 1, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8",
):  # fmt: skip
    r"""$y = \mathrm{clip}(\mathrm{round}(M (a + b)) + z, l, h), \quad M = m \, 2^{-s}$, rounded by the rule of that name

    sums        a, int32, (n, o, ...)
    bias        b, int32, (o); a sum that leaves int32 wraps around
    mantissa    m, int64, (o), and
    shift       s, int64, (o): one multiplier a channel, as `engine.quantise.rules.Rule.store` keeps it for the rule
    rule        "fp32", "q31-double", "q31-single", "rndnu" or "pow2"
    pool        of each square of so many by so many sums, (n, o, p, q), the largest counts. A code rises with its sum, and M > 0: as if
                the codes were pooled. What is left over at the edges counts nowhere
    zero_point  z, the code of 0
    low, high   l and h, the least and the largest code: relu is low = z
    dtype       of the codes, "int8" or "uint8"
    returns     codes, (n, o, ...), or (n, o, p // pool, q // pool)
    Raises TypeError for other dtypes, ValueError for an unknown rule, codes that the dtype does not hold, and shapes that do not fit.
    """
    given = [a.dtype for a in (sums, bias, mantissa, shift)]
    if given != [np.int32, np.int32, np.int64, np.int64]:
        raise TypeError(f"sums and bias are int32, mantissa and shift int64, these are {', '.join(map(str, given))}")
    about = np.iinfo(dtype)
    if not about.min <= low <= zero_point <= high <= about.max:
        raise ValueError(f"codes from {low} to {high} with {zero_point} for 0: {np.dtype(dtype)} holds {about.min} to {about.max}")
    if rule not in RESCALE:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RESCALE)}")
    if pool > 1:
        sums = largest(sums, pool)
    bias, mantissa, shift = (part.reshape(-1, *[1] * (sums.ndim - 2)) for part in (bias, mantissa, shift))
    y = np.empty_like(sums, dtype, order="C")
    if not y.size:
        return y
    step = max(1, BLOCK * len(sums) // sums.size)
    for i in range(0, len(sums), step):
        codes = RESCALE[rule]((sums[i : i + step] + bias).astype(np.int64), mantissa, shift)
        codes += zero_point
        np.maximum(codes, low, out=codes)
        y[i : i + step] = np.minimum(codes, high, out=codes)
    return y


@requantise.shape
def _(sums, bias, mantissa, shift, *, rule, pool, zero_point, low, high, dtype):
    if len(sums) < 2 or not (sums[1],) == bias == mantissa == shift:
        raise ShapeError("wants sums (n, o, ...), and a bias, a mantissa and a shift (o)")
    if pool != 1 and (len(sums) != 4 or pool < 1):
        raise ShapeError(f"pools {pool} by {pool} sums, of (n, o, p, q)")
    return (*sums[:2], *[size // pool for size in sums[2:]])


@requantise.sample
def _(pick: Pick):
    """Multipliers as they are stored, also the extreme ones, and sums near ties and at the ends."""
    rule, pool, rng = pick.choice(list(RESCALE)), pick.choice([1, 1, 2, 3]), pick.rng
    n, o = pick.size(0, 3), pick.size(0, 5)
    rest = (pick.size(0, 7), pick.size(0, 9)) if pool > 1 else pick.choice([(), (pick.size(0, 5),), (pick.size(0, 5), pick.size(0, 20))])
    return drawn(rng, (n, o, *rest), rule, pool=pool, zero_point=pick.choice([0, 3, 127]), dtype=pick.choice(["uint8", "int8"]))


def drawn(rng: np.random.Generator, shape: tuple[int, ...], rule: str, *, dtype: str, zero_point: int, pool: int) -> Any:
    """Arguments and parameters of `requantise`."""
    bits = {"fp32": 24, "rndnu": 24, "pow2": 1}.get(rule, 31)
    full = bits - np.where(rng.random(shape[1]) < 0.8, rng.integers(-12, 0, shape[1]), rng.integers(-31, 9, shape[1]))
    mantissa = rng.integers(1 << bits - 1, 1 << bits, shape[1])
    mantissa = np.where(rng.random(shape[1]) < 0.3, 1 << bits - 1, mantissa)  # a power of two has ties
    sums = rng.integers(INT32.min, INT32.max, shape, endpoint=True) >> rng.integers(0, 31, shape)
    sums = np.where(rng.random(shape) < 0.1, rng.choice([INT32.min, INT32.max, (1 << 24) + 1, -(1 << 25) - 3], shape), sums)
    bias = rng.integers(-2000, 2000, shape[1]).astype(np.int32)
    about = np.iinfo(dtype)
    low = zero_point if rng.random() < 0.5 else int(about.min)
    params = {"rule": rule, "pool": pool, "zero_point": zero_point, "low": low, "high": int(about.max), "dtype": dtype}
    return [sums.astype(np.int32), bias, mantissa.astype(np.int64), full.astype(np.int64)], params


def largest(x: np.ndarray, size: int) -> np.ndarray:
    """Of each square of `size` by `size` numbers in the last two axes."""
    p, q = (length // size for length in x.shape[-2:])
    x = x[..., : p * size, : q * size]
    x = reduce(np.maximum, [x[..., i::size, :] for i in range(size)])
    return reduce(np.maximum, [x[..., j::size] for j in range(size)])


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


RESCALE: dict[str, Callable[[Ints, Ints, Ints], Ints]] = {
    "fp32": _fp32,
    "q31-double": _q31_double,
    "q31-single": _rounded_once,
    "rndnu": _rounded_once,
    "pow2": _pow2,
}
"""From sums, which may be overwritten, m and shift, int64 all, to the rounded products, int64; exact for every sum that int32 holds."""
