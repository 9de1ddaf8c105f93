r"""Products of small whole numbers, exact: what a quantised network computes.

A number is stood for by an integer, x = scale (q - zero_point). The sums of products of such integers are these ops; scales come after.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, eqs. 1 to 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.conv import conv2d

__all__ = ["conv2d_int8", "matmul_int8"]


@op("... m k, ... k n -> ... m n", constant=("a", "b"), flops="2*m*k*n")
def matmul_int8(a, b):
    r"""$y_{ij} = \sum_p a_{ip} b_{pj}$ in int32, exact

    a        (..., m, k), uint8 or int8
    b        (..., k, n), int8; leading axes broadcast
    returns  (..., m, n), int32. No sum leaves its range up to k = 65793 for uint8, 131071 for int8: 255 * 128 k and 128 * 128 k stay
             below 2^31. A sum that does wraps around
    Raises TypeError for other dtypes.
    """
    _check_dtypes(a, b)
    return np.matmul(a.astype(np.int32), b.astype(np.int32))


@matmul_int8.sample
def _(pick: Pick):
    lead, m, k, n = pick.choice([(), (2,)]), pick.size(0, 4), pick.size(0, 6), pick.size(0, 4)
    return [_small(pick, *lead, m, k, dtype=pick.choice([np.uint8, np.int8])), _small(pick, k, n, dtype=np.int8)], {}


@op("n c h w, o k i j -> n o p q", constant=("x", "w"), flops="2*n*o*p*q*k*i*j")
def conv2d_int8(x, w, *, zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1):
    r"""$y_{nopq} = \sum_{kij} (x_{n, k, ps+id, qs+jd} - z) \, w_{okij}$ in int32, exact; around the picture x - z is 0

    x           (n, c, h, w), uint8 or int8
    w           (o, c / groups, i, j), int8
    zero_point  z, what stands for 0 in x: a number of x's dtype
    returns     (n, o, p, q), int32; wraps around like matmul_int8, with k i j numbers in a sum
    Raises TypeError for other dtypes, ValueError for a zero_point that x's dtype does not hold; else as conv2d, whose parameters it has.
    """
    _check_dtypes(x, w)
    _check_zero_point(x, zero_point)
    shifted = x.astype(np.int32) - np.int32(zero_point)
    return conv2d.definition(shifted, w.astype(np.int32), stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d_int8.shape
def _(x, w, *, zero_point, stride, padding, dilation, groups):
    assert conv2d.shape_rule is not None
    return conv2d.shape_rule(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)


@conv2d_int8.sample
def _(pick: Pick):
    assert conv2d.sampler is not None
    (x, w), params = conv2d.sampler(pick)
    dtype = pick.choice([np.uint8, np.int8])
    params["zero_point"] = pick.choice([0, 3, 127])
    return [_small(pick, *x.shape, dtype=dtype), _small(pick, *w.shape, dtype=np.int8)], params


def _small(pick: Pick, *shape: int, dtype: Any) -> np.ndarray:
    """Numbers of a narrow dtype, the extreme ones often."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = pick.rng.integers(low, high + 1, shape)
    return np.where(pick.rng.random(shape) < 0.3, pick.rng.choice([low, high], shape), x).astype(dtype)


def _check_dtypes(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype not in (np.uint8, np.int8) or b.dtype != np.int8:
        raise TypeError(f"uint8 or int8 times int8 is wanted, given {a.dtype} and {b.dtype}")


def _check_zero_point(x: np.ndarray, zero_point: int) -> None:
    about = np.iinfo(x.dtype)
    if not about.min <= zero_point <= about.max:
        raise ValueError(f"zero_point is {zero_point}, which {x.dtype} does not hold ({about.min} to {about.max})")
