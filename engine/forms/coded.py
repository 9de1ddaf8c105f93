r"""Weights kept as codes: back to floats at each product, or multiplied as they are by inputs that become codes as they come.

    formed = in_codes(params, bits=4, group=32)             # codes packed two a byte, a scale for each 32 inputs of an output
    formed = in_codes(params, inputs="row")                 # 8 bits, and products of whole numbers
    running(mlp.predict)(formed, x)

A weight W is kept as codes q with a grid, $W \approx s_w (q - z_w)$. Then either $y = x\, s_w (q - z_w)$, in floats, or x becomes codes p
by its own smallest and largest number,

    $y = s_x s_w \sum (p - z_x)\, q = s_x s_w \left( \sum p\, q - z_x \sum q \right)$

whose sums are int32 and exact. Nothing is calibrated. Both are for use: they do not learn.
Source: ONNX, DynamicQuantizeLinear and MatMulInteger, whose arithmetic in float32 this is; the name is that of PyTorch's
`quantize_dynamic`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from engine import ops
from engine.forms.form import Form
from engine.ops.requantisation import INT32
from engine.ops.windows import padded
from engine.quantise.numbers import Grid, NotFinite, Scheme, by_output, dequantise, grid_of, pack, quantise, unpack
from engine.shapes import Shape, ShapeError

Inputs = Literal["row", "batch"]

MOST_INPUTS = INT32.max // (255 * 127)  # of an output: so many products of a code without and one with a sign stay in int32


@dataclass(frozen=True, eq=False)
class Coded(Form):
    """W as codes and their grid; each product is that of W in floats.

    codes   int8 or uint8 in the shape of W; those of up to 4 bits packed, as by `numbers.pack`
    grid    scale and zero point, per tensor, channel or group
    of      the shape of W
    """

    learned: ClassVar[tuple[str, ...]] = ()
    codes: np.ndarray
    grid: Grid
    of: Shape

    @classmethod
    def rounded(cls, w: Any, grid: Grid, **how: Any) -> Coded:
        """W with each number rounded to the nearest of the grid. Raises as `numbers.quantise`."""
        codes, bits = quantise(w, grid), packed_bits(grid.scheme)
        return cls(pack(codes, bits) if bits < 8 else codes, grid, np.shape(w), **how)

    @property
    def shape(self) -> Shape:
        return self.of

    @property
    def dtype(self) -> Any:
        return np.asarray(self.grid.scale).dtype

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All that is kept: codes, scale, and the zero point, if it is not 0 everywhere."""
        found = {"codes": self.codes, "scale": np.asarray(self.grid.scale)}
        return {**found, "zero_point": np.asarray(self.grid.zero_point)} if np.any(self.grid.zero_point) else found

    def unpacked(self) -> np.ndarray:
        """The codes, one a byte, in the shape of W."""
        bits, signed = packed_bits(self.grid.scheme), self.grid.scheme.signed
        return self.codes if bits == 8 else unpack(self.codes, self.of, bits, signed=signed)

    def expand(self) -> Any:
        return dequantise(self.unpacked(), self.grid)


@dataclass(frozen=True, eq=False)
class Dynamic(Coded):
    """W as codes, multiplied by codes of the inputs: products of matrices and convolutions on whole numbers.

    inputs   "row": each row of a matrix and each picture has a scale and a zero point of its own, so that no answer hangs on what else is
             in the batch; "batch": all have one
    Raises ValueError for weights that are not symmetric with a sign, and for groups of a convolution, OverflowError if sums could leave
    int32.
    """

    inputs: Inputs = "row"

    def __post_init__(self) -> None:
        if self.inputs not in ("row", "batch"):
            raise ValueError(f'inputs have a scale each "row" or each "batch", not {self.inputs!r}')
        if np.any(self.grid.zero_point) or not self.grid.scheme.signed:
            raise ValueError("products of whole numbers want symmetric weights with a sign: Scheme(signed=True, symmetric=True)")
        if self.grid.scheme.group is not None and len(self.of) != 2:
            raise ValueError("a convolution has a scale for each channel, no groups of inputs: Scheme(axis=0)")
        count = math.prod(self.of[:-1] if len(self.of) == 2 else self.of[1:])
        if count > MOST_INPUTS:
            raise OverflowError(f"a sum of {count:,} products may leave int32; {MOST_INPUTS:,} never do: keep this weight in floats")

    def matmul(self, x: Any) -> Any:
        k, n = self.of
        x = np.asarray(x)
        if x.shape[-1:] != (k,):
            raise ShapeError(f"x has the shape {x.shape}, wanted are rows of {k}")
        rows = x.reshape(math.prod(x.shape[:-1]), k)
        codes, s, z = self._codes(rows, rows)
        w, w_sums, w_scale = self._by_group
        if len(w) == 1:
            y = (ops.matmul_int8(codes, w[0]) - z * w_sums[0]).astype(x.dtype) * (s * w_scale[0])
        else:
            y = ((ops.matmul_int8(self._in_groups(codes), w) - z * w_sums).astype(x.dtype) * (s * w_scale)).sum(axis=0)
        return y.reshape(*x.shape[:-1], n)

    def conv2d(self, x: Any, *, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
        x = np.asarray(x)
        codes, s, z = self._codes(x, padded(x, padding))  # what is 0 has the code z: sums over the padding need nothing else
        w = self._kernel
        sums = ops.conv2d_int8(codes, w, stride=stride, padding=0, dilation=dilation, groups=groups)
        channels = (-1, 1, 1)
        sums = sums - z * w.sum(axis=(1, 2, 3), dtype=np.int32).reshape(channels)
        scale = np.asarray(self.grid.scale)
        return sums.astype(x.dtype) * (s * (scale.reshape(channels) if scale.ndim else scale))

    def _codes(self, x: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Codes of `of`, $s = (\max - \min) / 255$ and $z = \mathrm{clip}(\mathrm{round}(-\min / s))$ by the range of x with 0 in it."""
        axes = tuple(range(1 if self.inputs == "row" else 0, x.ndim))
        low, high = x.min(axis=axes, keepdims=True, initial=0.0), x.max(axis=axes, keepdims=True, initial=0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            s = (high - low) / np.asarray(255, x.dtype)
        if not np.isfinite(s).all():
            raise NotFinite("what is to become codes is not finite, or too far apart for a scale: look at the input and the layers before")
        s = np.where(s < np.finfo(s.dtype).tiny, np.ones_like(s), s)
        z = np.clip(np.rint(-low / s), 0, 255)
        return ops.quantise(of, s, z.astype(np.uint8), low=0, high=255), s, z.astype(np.int32)

    def _in_groups(self, codes: np.ndarray) -> np.ndarray:
        """(m, k) as (groups, m, inputs of a group)."""
        size = self.grid.scheme.group
        if size is None or size >= codes.shape[1]:
            return codes[None]
        filled = np.pad(codes, ((0, 0), (0, -codes.shape[1] % size)))
        return np.asarray(filled.reshape(len(codes), -1, size).swapaxes(0, 1))

    @cached_property
    def _by_group(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes, one a byte (groups, inputs, n), their sums over the inputs, and the scales, both (groups, 1, n)."""
        w = np.ascontiguousarray(self._in_groups(self.unpacked().T).swapaxes(1, 2))
        scale = np.asarray(self.grid.scale)
        return w, w.sum(axis=1, dtype=np.int32, keepdims=True), scale.reshape(len(w), 1, -1)

    @cached_property
    def _kernel(self) -> np.ndarray:
        return self.unpacked()


def in_codes(
    params: Mapping[str, Any],
    *,
    bits: int = 8,
    group: int | None = None,
    inputs: Inputs | None = None,
    names: Collection[str] | None = None,
) -> dict[str, Any]:
    """The parameters with matrices and kernels of convolutions kept as codes; what has other numbers of axes stays an array.

    bits     2 to 8, symmetric, with one scale an output
    group    so many inputs of an output of a matrix have a scale of their own
    inputs   None: products in floats. "row", "batch": on whole numbers, see `Dynamic`
    names    of those that are to be codes; None: all
    Raises ValueError for other bits or groups, and, with the name, for weights that are not finite and as `Dynamic`.
    """
    kept: dict[str, Any] = dict(params)
    for name, p in params.items():
        if np.ndim(p) in (2, 4) and (names is None or name in names):
            try:
                grid = grid_of(p, by_output(Scheme(bits=bits), np.ndim(p), group))
                kept[name] = Dynamic.rounded(p, grid, inputs=inputs) if inputs else Coded.rounded(p, grid)
            except (ValueError, OverflowError) as e:
                raise type(e)(f"{name}: {e}") from e
    return kept


def packed_bits(scheme: Scheme) -> int:
    """How many bits a code has where it is kept: 2, 4 or 8."""
    return next(bits for bits in (2, 4, 8) if scheme.bits <= bits)
