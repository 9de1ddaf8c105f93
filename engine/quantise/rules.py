r"""Requantisation: a sum of products of codes, int32, becomes a code again, by one of five named rules.

    m = RULES["q31-single"].store(x_scale * w_scale / y_scale)       # the multiplier M, as whole numbers
    y = requantise(sums, m, rule="q31-single", zero_point=3, low=0, high=255, dtype=np.uint8)

$y = \mathrm{clip}(\mathrm{round}(M a) + z, l, h)$ for a sum a. M is kept as integers, $M \approx m \, 2^{-s}$, and all that is done with
it is done on integers: any language that has 64-bit ones gets the same bits. The rules differ in how M is stored, in how often they round,
and in what becomes of a tie. The first four differ by 1 at most, in few places (one code in 700 between the two of q31, hardly any
between the others), so the choice is one of reproducibility, not of accuracy. For pow2 all scales have to be powers of two, as they are
in `convert.integers`.

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

from engine import ops
from engine.ops.requantisation import RESCALE, Ints

LEAST, MOST = 2.0**-32, 2.0**8  # XNNPACK's bounds: below, every sum becomes 0; above, no product of any rule needs more than 64 bits


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
    rescale     from sums to the rounded products, as `ops.requantise` does it
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
    """`ops.requantise` of sums that have no bias, of any shape. The multiplier is as `Rule.store` keeps it: one number, or (o,), one for
    each place along the second axis."""
    given = sums if sums.ndim > 1 else sums.reshape(-1, 1)
    by = [np.broadcast_to(part, given.shape[1]) for part in multiplier]
    to = {"zero_point": zero_point, "low": low, "high": high, "dtype": np.dtype(dtype).name}
    codes: np.ndarray = ops.requantise(given, np.zeros(given.shape[1], np.int32), *by, rule=rule, **to)
    return codes.reshape(sums.shape)


def named(rule: str) -> Rule:
    """The rule of that name. Raises ValueError."""
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
    return RULES[rule]


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


def _rule(name: str, source: str, precision: type, stored: str, approach: Callable[[np.ndarray], tuple[Ints, Ints]]) -> Rule:
    return Rule(name, source, precision, stored, approach, RESCALE[name])


RULES = {
    rule.name: rule
    for rule in (
        _rule("fp32", "ONNX Runtime, MLAS: MlasRequantizeOutput", np.float32, "24 bits of a float32", _to_24_bits),
        _rule("q31-double", "gemmlowp, TFLite: MultiplyByQuantizedMultiplier", np.float64, "31 bits, rounded", _to_31_bits),
        _rule("q31-single", "FBGEMM; TFLite with TFLITE_SINGLE_ROUNDING", np.float64, "31 bits, rounded", _to_31_bits),
        _rule("rndnu", "XNNPACK: requantization by rndnu", np.float32, "24 bits of a float32", _to_24_bits),
        _rule("pow2", "microcontrollers: a shift", np.float64, "a shift", _to_a_power),
    )
}
