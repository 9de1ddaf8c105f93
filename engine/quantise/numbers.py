r"""How numbers are kept in few bits: a scheme, a grid, and three functions.

    scheme = Scheme(bits=8, signed=False, symmetric=False)
    grid = choose_grid(-1.2, 3.4, scheme)           # the scale s and the zero point z
    q = quantise(x, grid)                           # uint8
    y = dequantise(q, grid)                         # s (q - z): of numbers in the range none is farther from x than s / 2

A *scheme* says which integers are the codes, how a range is laid over them, and how much of an array has one scale. A *grid* is a scheme
with the scale and the zero point: the numbers that can be kept. 0 is one of them, exactly, for padding and relu make many zeros.

Ternary and binary weights are codes of two bits and of a sign, on a grid that is fitted and not chosen from a range.
Sources: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 2.1 and 3;
ONNX, QuantizeLinear and DequantizeLinear (opset 21), whose shapes of scales and order of packed codes these are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine import ops
from engine.op import as_array
from engine.shapes import Shape
from engine.traced import Traced, primal


class NotFinite(ValueError):
    """A number that is nan or infinite, where only others have a meaning."""


@dataclass(frozen=True)
class Scheme:
    """Which integers are the codes, and what has a scale of its own.

    bits        2 to 8
    signed      codes from -2^(bits-1), else from 0
    symmetric   0 has the code in the middle and a range is as wide on both sides; else the zero point is chosen with the scale (affine)
    narrow      without the lowest code, so that there are as many on both sides; default: if symmetric
    axis        None: one scale for the array. Else one for each index along this axis: of a kernel (o, c, i, j) 0, of a matrix (m, n) -1
    group       one for each `group` neighbours along the axis, and each index along the others; the last group may be smaller

    A symmetric range reaches from the code -127 to 127 with 8 bits, narrow or not, as in TFLite and ONNX Runtime. PyTorch divides by 127.5
    instead: its steps are 0.4 % smaller, and the largest number is clipped by half a step.
    Raises ValueError for other bits, a group without an axis or below 1.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow: bool | None = None
    axis: int | None = None
    group: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"a scheme has 2 to 8 bits, not {self.bits}; for one bit there is `binary`")
        if self.group is not None and (self.axis is None or self.group < 1):
            raise ValueError(f"a group is of 1 or more neighbours along an axis; given are group={self.group}, axis={self.axis}")
        if self.narrow is None:
            object.__setattr__(self, "narrow", self.symmetric)

    @property
    def lowest(self) -> int:
        """The lowest code."""
        return (-(1 << self.bits - 1) if self.signed else 0) + bool(self.narrow)

    @property
    def highest(self) -> int:
        """The highest code."""
        return (1 << self.bits - self.signed) - 1

    @property
    def middle(self) -> int:
        """The code of 0, if the scheme is symmetric."""
        return 0 if self.signed else 1 << self.bits - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of codes: int8 or uint8, whatever the bits."""
        return np.dtype(np.int8 if self.signed else np.uint8)

    def scales(self, shape: Shape) -> Shape:
        """The shape of the scale of an array of this shape: (), that of one axis, or the array's with groups along the axis."""
        if self.axis is None:
            return ()
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"the scheme has scales along axis {self.axis}, which an array of shape {shape} does not have")
        n = shape[self.axis]
        if self.group is None:
            return (n,)
        return tuple(-(-n // self.group) if a == self.axis % len(shape) else m for a, m in enumerate(shape))


def by_output(scheme: Scheme, axes: int, group: int | None = None) -> Scheme:
    """The scheme with a scale for each output of a matrix (k, m), 2 axes, or of a kernel (o, c, i, j), 4; or, of a matrix, for each `group`
    neighbours among the inputs of an output. Raises ValueError for a group below 1."""
    if axes == 2 and group is not None:
        return replace(scheme, axis=0, group=group)
    return replace(scheme, axis=1 if axes == 2 else 0, group=None)


@dataclass(frozen=True, eq=False)
class Grid:
    """The numbers s (q - z) for the codes q of a scheme.

    scale        s, floats in the scheme's shape
    zero_point   z, codes in the same shape
    """

    scheme: Scheme
    scale: Any
    zero_point: Any

    def over(self, shape: Shape) -> tuple[Any, Any]:
        """s and z, shaped to broadcast with an array of this shape. Raises ValueError if they belong to another."""
        wanted = self.scheme.scales(shape)
        if np.shape(self.scale) != wanted:
            raise ValueError(
                f"the scale is of shape {np.shape(self.scale)}, an array of shape {shape} wants {wanted}\n  is it another array's grid?"
            )
        return self._spread(self.scale, shape), self._spread(self.zero_point, shape)

    def _spread(self, of_each: Any, shape: Shape) -> Any:
        axis, group = self.scheme.axis, self.scheme.group
        if axis is None:
            return of_each
        if group is not None:
            return np.take(of_each, np.arange(shape[axis]) // group, axis=axis)
        along = [1] * len(shape)
        along[axis] = shape[axis]
        return np.reshape(of_each, along)


def choose_grid(low: Any, high: Any, scheme: Scheme = Scheme(), *, dtype: Any = np.float32, power: bool = False) -> Grid:
    r"""$s = (b - a) / (q_{max} - q_{min}), \; z = \mathrm{clip}(\mathrm{round}(q_{min} - a / s), q_{min}, q_{max}), \; a \leq 0 \leq b$

    and symmetric $s = \max(-a, b) / (q_{max} - z)$ with the middle code z. The range is first made to hold 0: a = min(low, 0) and
    b = max(high, 0).

    low, high   numbers, or arrays in the shape of the scheme's scales
    dtype       of the scale. All is computed in float64, and z from the s that was rounded to this dtype
    power       s is the next power of two from there up, as rule pow2 of `engine.quantise.rules` wants all scales

    A range of nothing but 0, or so narrow that s would be no normal number, has s = 1. No number of a range is farther than s / 2 from
    the grid.
    Raises ValueError if an end is not finite, low is above high, or the dtype does not hold s.
    """
    low, high = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    right = np.isfinite(low) & np.isfinite(high) & (low <= high)
    if not right.all():
        where = np.unravel_index(int(np.argmin(right)), right.shape)
        raise ValueError(f"a range reaches from a finite number to one that is not smaller, not from {low[where]} to {high[where]}")
    a, b = np.minimum(low, 0.0), np.maximum(high, 0.0)
    steps = scheme.highest - (scheme.middle if scheme.symmetric else scheme.lowest)
    with np.errstate(over="ignore"):
        s = np.asarray((np.maximum(-a, b) if scheme.symmetric else b - a) / steps).astype(dtype)
    if not np.isfinite(s).all():
        raise ValueError(f"a range from {a.min()} to {b.max()} is too wide for a scale of {s.dtype}")
    s = np.where(s < np.finfo(s.dtype).tiny, np.ones_like(s), s)
    if power:
        s = next_power(s)
    z = np.full(s.shape, scheme.middle) if scheme.symmetric else np.clip(np.rint(scheme.lowest - a / s), scheme.lowest, scheme.highest)
    return Grid(scheme, s, np.asarray(z, scheme.dtype))


def next_power(x: np.ndarray) -> np.ndarray:
    """The smallest power of two from x up, for positive x."""
    part, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.ones_like(x), exponent - (part == 0.5)))


def quantise(x: Any, grid: Grid) -> Any:
    r"""$q = \mathrm{clip}(\mathrm{round}(x / s) + z,\ q_{min},\ q_{max})$, rounded to the nearest and to the even one of two

    x         floats; float32 is divided in float32, as by ONNX's QuantizeLinear. Infinities get the outermost codes
    returns   codes in the shape of x, int8 or uint8
    Raises TypeError for what is not floats, ValueError for nan and for the grid of an array of another shape.
    """
    x = _array(x)
    if x.dtype.kind != "f":
        raise TypeError(f"numbers to quantise are floats, these are {x.dtype}")
    unknown = np.count_nonzero(np.isnan(primal(x)))
    if unknown:
        raise ValueError(f"{unknown} of {x.size} numbers are nan, for which there is no code")
    return ops.quantise(x, *grid.over(x.shape), low=grid.scheme.lowest, high=grid.scheme.highest)


def dequantise(q: Any, grid: Grid) -> Any:
    r"""$x = s\,(q - z)$, in the dtype of s, as by ONNX's DequantizeLinear. Raises ValueError for the grid of another array."""
    q = _array(q)
    return ops.dequantise(q, *grid.over(q.shape))


def fake_quant(x: Any, grid: Grid) -> Any:
    """`dequantise(quantise(x))` to train with: differentiable in x, scale and zero point, as `ops.fake_quant` says; nan stays nan."""
    x = _array(x)
    return ops.fake_quant(x, *grid.over(x.shape), low=grid.scheme.lowest, high=grid.scheme.highest)


def extent(x: Any, scheme: Scheme = Scheme()) -> tuple[Any, Any]:
    """The smallest and the largest number of each part of x that has a scale of its own, in the shape of the scales.

    Raises ValueError if there is none, or one is not finite, TypeError for what is not floats.
    """
    x = np.asarray(x)
    check_numbers(x)
    scheme.scales(x.shape)
    if scheme.group is None:
        others = _others(x, scheme.axis)
        return x.min(axis=others), x.max(axis=others)
    assert scheme.axis is not None
    starts = np.arange(0, x.shape[scheme.axis], scheme.group)
    return np.minimum.reduceat(x, starts, axis=scheme.axis), np.maximum.reduceat(x, starts, axis=scheme.axis)


def grid_of(x: Any, scheme: Scheme = Scheme(), *, power: bool = False) -> Grid:
    """The grid that holds all numbers of x, its scale in their dtype; `power` as in `choose_grid`. Raises as `extent`."""
    return choose_grid(*extent(x, scheme), scheme, dtype=np.asarray(x).dtype, power=power)


def check_numbers(x: np.ndarray) -> None:
    """Raises TypeError if x is not floats, ValueError if there are none in it, NotFinite, with the place, if not all are finite."""
    if x.dtype.kind != "f":
        raise TypeError(f"floats are wanted, these numbers are {x.dtype}")
    if not x.size:
        raise ValueError(f"there are no numbers in an array of shape {x.shape}")
    finite = np.isfinite(x)
    if not finite.all():
        where = tuple(map(int, np.unravel_index(int(np.argmin(finite)), x.shape)))
        raise NotFinite(f"{np.count_nonzero(~finite)} of {x.size} numbers are not finite, the first is {x[where]} at {where}")


# Grids that are fitted.


def ternary(w: Any, axis: int | None = None) -> tuple[np.ndarray, Grid]:
    r"""$w \approx \alpha\, t, \; t = \mathrm{sign}(w) [|w| > \Delta], \; \Delta = 0.7\, \overline{|w|}$, $\alpha$ the mean of |w| above it

    w         finite floats of any shape
    axis      None, or the axis whose indices have a threshold and a scale each
    returns   codes, int8 -1, 0, 1, and the grid: `dequantise(t, grid)`. For a fixed threshold no other scale has a smaller squared error
    Raises ValueError for no numbers and for one that is not finite, TypeError for what is not floats.
    Source: Li, Zhang & Liu (2016), Ternary weight networks, sec. 2.
    """
    return _fitted(w, axis, lambda size, others: size > 0.7 * size.mean(axis=others, keepdims=True))


def binary(w: Any, axis: int | None = None) -> tuple[np.ndarray, Grid]:
    r"""$w \approx \alpha\, t, \; t = \mathrm{sign}(w), \; \alpha = \overline{|w|}$: no other signs and scale have a smaller squared error

    w, axis   as for `ternary`
    returns   codes, int8 -1 and 1 (0 has the sign +), and the grid. `pack(t > 0, 1)` keeps them in a bit each
    Source: Rastegari, Ordonez, Redmon & Farhadi (2016), XNOR-Net: ImageNet classification using binary convolutional neural networks,
    sec. 3.1.
    """
    return _fitted(w, axis, lambda size, others: np.ones(size.shape, bool))


def _fitted(w: Any, axis: int | None, chosen: Callable[[np.ndarray, Any], np.ndarray]) -> tuple[np.ndarray, Grid]:
    """The signs of what is chosen, and the mean of its size as the scale, for each index along the axis."""
    w = np.asarray(w)
    check_numbers(w)
    scheme = Scheme(bits=2, axis=axis)
    zero_point, others = np.zeros(scheme.scales(w.shape), np.int8), _others(w, axis)
    size = np.abs(w, dtype=np.float64)
    kept = chosen(size, others)
    scale = np.sum(size * kept, axis=others) / np.maximum(np.count_nonzero(kept, axis=others), 1)
    return np.where(kept, np.where(w < 0, -1, 1), 0).astype(np.int8), Grid(scheme, np.asarray(scale, w.dtype), zero_point)


def _others(x: np.ndarray, axis: int | None) -> tuple[int, ...]:
    """The axes but this one."""
    return tuple(a for a in range(x.ndim) if axis is None or a != axis % x.ndim)


# Several codes a byte.


def pack(codes: Any, bits: int) -> np.ndarray:
    """Codes of 1, 2 or 4 bits, signed or not, in C order: 8 / bits a byte, the first in the lowest bits, the last byte filled with 0.

    returns   uint8 (bytes). Raises ValueError for other bits, and for a code that they do not hold.
    """
    each = _each(bits)
    codes = np.asarray(codes).reshape(-1)
    lowest, highest = codes.min(initial=0), codes.max(initial=0)
    if lowest < -(2 ** (bits - 1)) or highest >= 2 ** (bits - (lowest < 0)):
        raise ValueError(f"codes from {lowest} to {highest} do not fit into {bits} bits")
    low = codes.astype(np.uint8) & (2**bits - 1)
    rows = np.append(low, np.zeros(-len(low) % each, np.uint8)).reshape(-1, each)
    packed: np.ndarray = np.bitwise_or.reduce(rows << (bits * np.arange(each, dtype=np.uint8)), axis=1)
    return packed


def unpack(packed: Any, shape: Shape, bits: int, *, signed: bool = True) -> np.ndarray:
    """The codes that `pack` packed, in their shape; int8, or uint8 if not signed. Raises ValueError if there are more or fewer."""
    each = _each(bits)
    packed = np.asarray(packed, np.uint8)
    count = int(np.prod(shape))
    if packed.shape != (-(-count // each),):
        raise ValueError(f"{count} codes of {bits} bits are {-(-count // each)} bytes, given are {packed.shape}")
    every = np.empty((len(packed), each), np.uint8)
    for i in range(each):  # a loop over 2 to 8 columns, for NumPy is slow on rows as short
        np.left_shift(packed, 8 - bits * (i + 1), out=every[:, i])
    codes = every.view(np.int8) if signed else every  # each in the highest bits, so that it comes back with copies of its sign
    return np.asarray(codes >> (8 - bits)).reshape(-1)[:count].reshape(shape)


def _each(bits: int) -> int:
    if bits not in (1, 2, 4):
        raise ValueError(f"codes of 1, 2 or 4 bits are packed, not of {bits}")
    return 8 // bits


def _array(x: Any) -> Any:
    return x if isinstance(x, Traced) else as_array(x)
