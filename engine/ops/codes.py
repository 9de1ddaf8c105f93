r"""Layers of a quantised network: products of codes that become codes at once.

They compute what their two halves compute. As one op a kernel may requantise sums while they are near, and a small layer is one call.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 2.4.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.int8 import conv2d_int8, matmul_int8
from engine.ops.requantisation import RESCALE, drawn, requantise

__all__ = ["conv2d_codes", "matmul_codes"]


@op("m k, k n, n, n, n -> m n", constant=("a", "b", "bias", "mantissa", "shift"), flops="2*m*k*n")
def matmul_codes(a, b, bias, mantissa, shift, *, rule: str, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8"):
    r"""$y = \mathrm{requantise}(a b)$: `matmul_int8` of two matrices, then `requantise`, with what these take and raise"""
    sums = matmul_int8.definition(a, b)
    return requantise.definition(sums, bias, mantissa, shift, rule=rule, zero_point=zero_point, low=low, high=high, dtype=dtype)


@op("n c h w, o k i j, o, o, o -> n o p q", constant=("x", "w", "bias", "mantissa", "shift"))
def conv2d_codes(
    x, w, bias, mantissa, shift, *,
    x_zero_point: int = 0, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    rule: str, pool: int = 1, zero_point: int = 0, low: int = -128, high: int = 127, dtype: Any = "int8",
):  # fmt: skip
    r"""$y = \mathrm{requantise}(x * w)$: `conv2d_int8`, then `requantise`, with what these take and raise

    x_zero_point   the `zero_point` of `conv2d_int8`
    """
    sums = conv2d_int8.definition(x, w, zero_point=x_zero_point, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return requantise.definition(sums, bias, mantissa, shift, rule=rule, pool=pool, zero_point=zero_point, low=low, high=high, dtype=dtype)


@conv2d_codes.shape
def _(
    x, w, bias, mantissa, shift, *,
    x_zero_point, stride, padding, dilation, groups, rule, pool, zero_point, low, high, dtype,
):  # fmt: skip
    assert conv2d_int8.shape_rule is not None and requantise.shape_rule is not None
    sums = conv2d_int8.shape_rule(x, w, zero_point=x_zero_point, stride=stride, padding=padding, dilation=dilation, groups=groups)
    to = {"rule": rule, "pool": pool, "zero_point": zero_point, "low": low, "high": high, "dtype": dtype}
    return requantise.shape_rule(sums, bias, mantissa, shift, **to)


@matmul_codes.sample
def _(pick: Pick):
    m, k, n = pick.size(0, 4), pick.size(0, 6), pick.size(0, 4)
    a, b = (pick.rng.integers(-128, 128, shape).astype(np.int8) for shape in [(m, k), (k, n)])
    by, to = _multipliers(pick, n)
    return [a.view(pick.choice([np.uint8, np.int8])), b, *by], to


@conv2d_codes.sample
def _(pick: Pick):
    assert conv2d_int8.sampler is not None
    (x, w), params = conv2d_int8.sampler(pick)
    by, to = _multipliers(pick, len(w))
    return [x, w, *by], {"x_zero_point": params.pop("zero_point"), **params, **to, "pool": pick.choice([1, 2])}


def _multipliers(pick: Pick, channels: int) -> tuple[list[Any], dict[str, Any]]:
    """A bias, mantissas and shifts, and the codes they lead to."""
    (_, *by), to = drawn(pick.rng, (0, channels), pick.choice(list(RESCALE)), dtype=pick.choice(["uint8", "int8"]), zero_point=3, pool=1)
    del to["pool"]
    return by, to
