r"""Weights that are powers of two: a product with one is a shift, and a layer needs no multiplier.

    codes, powers = logarithmic(w, bits=4)            # w ~ powers.expand(codes): 0 and seven powers of two, with both signs
    y, exponent = shift_product(x, codes, powers)     # x integers: x @ powers.expand(codes) = y 2^exponent, exactly

Numbers are close to each other where they are small, so the error is a share of the weight, from the smallest power up at most 41 %, or
19 % with powers of the root of 2. On a grid of equal steps it is the same for all. With few bits heavy-tailed weights fare better here,
evenly spread ones there.
Sources: Miyashita, Lee & Murmann (2016), Convolutional neural networks using logarithmic data representation, sec. 3; the code for 0 as in
Zhou, Yao, Guo, Xu & Chen (2017), Incremental network quantization: towards lossless CNNs with low-precision weights, eq. 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import ops
from engine.quantise.numbers import check_numbers


@dataclass(frozen=True)
class Powers:
    r"""$\mathrm{sign}(q)\, 2^{(t - n + |q|) / r}$ for the codes q from -n to n, $n = 2^{bits - 1} - 1$, and 0 for the code 0

    bits   2 to 8
    top    t: the largest is 2^(t / r)
    root   r: 1 for powers of 2, 2 for powers of its root
    Raises ValueError for other bits or roots.
    """

    bits: int
    top: int
    root: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.root not in (1, 2):
            raise ValueError(f"powers have 2 to 8 bits and the root 1 or 2; given are bits={self.bits}, root={self.root}")

    @property
    def count(self) -> int:
        """n, how many powers there are."""
        return (1 << self.bits - 1) - 1

    def expand(self, codes: Any, dtype: Any = np.float32) -> np.ndarray:
        """The numbers that codes stand for; powers of 2 are exact where the dtype holds them."""
        codes = np.asarray(codes)
        numbers: np.ndarray = np.sign(codes) * np.exp2((self.top - self.count + np.abs(codes.astype(int))) / self.root)
        return numbers.astype(dtype)


def logarithmic(w: Any, bits: int = 4, *, root: int = 1) -> tuple[np.ndarray, Powers]:
    r"""$|w| \approx 2^{e / r}, \; e = \max(\mathrm{round}(r \log_2 |w|),\ t - n + 1), \; t = \mathrm{round}(r \log_2 \max |w|)$

    w         finite floats of any shape. What is nearer to 0 than to the smallest power has the code 0
    bits      of a code: one for the sign, so that there are n = 2^(bits-1) - 1 powers
    root      r, 1 or 2

    returns   codes, int8 in the shape of w, and the powers
    Raises ValueError for other bits or roots, for no numbers and for one that is not finite, TypeError for what is not floats.
    """
    w = np.asarray(w)
    check_numbers(w)
    size = np.abs(w, dtype=np.float64)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is below them all
        exponents = np.rint(root * np.log2(size))
    largest = exponents.max()
    powers = Powers(bits, int(largest) if np.isfinite(largest) else 0, root)
    lowest = powers.top - powers.count + 1
    codes = np.where(size < np.exp2(lowest / root - 1), 0, np.maximum(exponents, lowest) - lowest + 1)
    return np.copysign(codes, w).astype(np.int8), powers


def shift_product(x: Any, codes: Any, powers: Powers) -> tuple[np.ndarray, int]:
    r"""$\sum_p x_{ip} w_{pj} = y_{ij} 2^e, \; y_{ij} = \sum_{l} 2^{l} \sum_p x_{ip}\, \mathrm{sign}(q_{pj}) [|q_{pj}| = l + 1]$

    No number is multiplied: from the largest power to the smallest, the sum so far is shifted by one place, and the x whose weight is the
    next power are added or subtracted.

    x         (..., m, k), uint8 or int8
    codes     (k, n), those of `logarithmic`
    returns   y (..., m, n), int64, exact, and the integer e
    Raises ValueError for powers of the root of 2, which is no shift, and if a sum could leave int64; TypeError for other x.
    """
    if powers.root != 1:
        raise ValueError("a product with a power of the root of 2 is no shift: take root=1")
    codes = np.asarray(codes)
    size = np.abs(codes.astype(int))
    places = int(size.max(initial=1))
    if len(codes) << places + 7 >= 1 << 63:
        raise ValueError(f"sums of {len(codes)} products with shifts of {places - 1} places leave int64: take fewer bits")
    y = np.int64(0)
    for power in range(places, 0, -1):
        y = (y << 1) + ops.matmul_int8(x, np.where(size == power, np.sign(codes), 0).astype(np.int8))
    return y, powers.top - powers.count + 1
