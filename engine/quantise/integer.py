r"""Networks of integers: codes in, codes out, and no float between.

    x, h, y = Codes(1 / 255, 0), Codes(0.05, 0), Codes(0.2, 131)                       # of the input, of relu's output, of the logits
    net = Network(x, y, (
        Conv("conv1", w1, whole_bias(b1, x.scale, s1), Requantise.between(x, s1, h, rule="fp32", relu=True), padding=2),
        MaxPool("pool1", 2),
        Flatten("flat"),
        Dense("fc", w2, whole_bias(b2, h.scale, s2), Requantise.between(h, s2, y, rule="fp32")),
    ))
    codes = net.run(x.quantise(images))                                               # integers to integers
    logits = net(images)                                                              # the same, from floats to floats

A layer multiplies codes into int32 sums, adds a bias in the same unit, scale $s_x s_w$, and brings them back to codes by a rule of
`engine.quantise.rules`. relu is no layer: it is the least code of the layer before, its zero point. Other functions are tables. Products
and requantisation are ops, so that `kernels.use("cpu")` serves them; all of it is exact, so the bits are the same everywhere.

Letters: n examples; c, o channels in and out; h by w pixels; k, m numbers in and out.
Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 2.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from engine import checkpoints, ops
from engine.ops.chain import Call, Chain, network_codes
from engine.ops.pool import windows
from engine.ops.requantisation import INT32, half_even, largest
from engine.ops.windows import Pair, padded, pair, positions, sides
from engine.quantise import folded, functions
from engine.quantise.numbers import Grid, Scheme, dequantise, pack, quantise, unpack
from engine.quantise.rules import named

WIDEST = 255 * 127  # the largest product of a code less its zero point, int8 or uint8, and a symmetric weight
MOST_PRODUCTS = INT32.max // WIDEST  # 66,311: whatever the numbers are, so many products do not leave int32
ADD_BITS = 20  # of the larger multiplier of a residual sum: two products of 8 + 21 bits and a rounding stay in int32


@dataclass(frozen=True)
class Codes:
    r"""What the integers of an array stand for: $x = s (q - z)$. `dtype` is "uint8" or "int8".

    Raises ValueError for a scale that is not positive and finite, and for a zero point that the dtype does not hold.
    """

    scale: float
    zero_point: int = 0
    dtype: str = "uint8"

    def __post_init__(self) -> None:
        if self.dtype not in ("uint8", "int8"):
            raise ValueError(f"codes are uint8 or int8, not {self.dtype}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"a scale is positive and finite, not {self.scale}")
        if not self.low <= self.zero_point <= self.high:
            raise ValueError(f"the zero point is {self.zero_point}, {self.dtype} holds {self.low} to {self.high}")

    @property
    def low(self) -> int:
        return int(np.iinfo(self.dtype).min)

    @property
    def high(self) -> int:
        return int(np.iinfo(self.dtype).max)

    @property
    def grid(self) -> Grid:
        """The numbers that the codes stand for."""
        scheme = Scheme(bits=8, signed=self.dtype == "int8", symmetric=False)
        return Grid(scheme, np.float32(self.scale), np.asarray(self.zero_point, self.dtype))

    def quantise(self, x: Any) -> np.ndarray:
        """The codes of x, as `numbers.quantise`, in float32. Raises ValueError for nan."""
        return np.asarray(quantise(np.asarray(x, np.float32), self.grid))

    def dequantise(self, q: np.ndarray) -> np.ndarray:
        """x in float32."""
        return np.asarray(dequantise(q, self.grid))

    @property
    def ends(self) -> tuple[Call, Call]:
        """`quantise` and `dequantise` as calls of a chain."""
        by = np.asarray(self.grid.scale), np.asarray(self.grid.zero_point)
        return Call("quantise", by, {"low": self.low, "high": self.high}), Call("dequantise", by)


@dataclass(frozen=True, eq=False)
class Requantise:
    """From int32 sums to codes: `ops.requantise` with everything but the sums and their bias."""

    rule: str
    mantissa: np.ndarray
    shift: np.ndarray
    zero_point: int
    low: int
    high: int
    dtype: str

    @classmethod
    def between(cls, x: Codes, w_scale: Any, y: Codes, *, rule: str, relu: bool = False) -> Requantise:
        """From sums in units of x.scale * w_scale, one number or one a channel, to the codes of y; with relu none stands for less than 0.

        Raises ValueError for an unknown rule, and for scales whose ratio the rule does not hold.
        """
        by = named(rule)
        m = by.store(by.ratio(x.scale, w_scale, y.scale))
        return cls(rule, m.mantissa, m.shift, y.zero_point, y.zero_point if relu else y.low, y.high, y.dtype)

    def __call__(self, sums: np.ndarray, bias: np.ndarray, pool: int = 1) -> np.ndarray:
        codes: np.ndarray = ops.requantise(sums, bias, *self.multipliers(len(bias)), pool=pool, **self.codes)
        return codes

    @cached_property
    def codes(self) -> dict[str, Any]:
        """The parameters of `ops.requantise`."""
        names = ("rule", "zero_point", "low", "high", "dtype")
        return {name: getattr(self, name) for name in names}

    def multipliers(self, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Mantissas and shifts, one a channel."""
        if channels not in self._multipliers:
            self._multipliers[channels] = np.full(channels, self.mantissa), np.full(channels, self.shift)
        return self._multipliers[channels]

    @cached_property
    def _multipliers(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}


def whole_bias(b: Any, x_scale: Any, w_scale: Any) -> np.ndarray:
    r"""$\mathrm{round}(b / (s_x s_w))$ in int32, ties to even: the bias in the unit of the sums. OverflowError if it does not fit."""
    bias = np.rint(np.asarray(b, np.float64) / (np.asarray(x_scale, np.float64) * np.asarray(w_scale, np.float64)))
    if not np.all(np.abs(bias) <= INT32.max):
        raise OverflowError(
            f"a bias of {np.abs(bias).max():.3g} units does not fit int32: the scale of x or of a channel of w is too small"
        )
    return bias.astype(np.int32)


class Layer(ABC):
    """Codes to codes. `reads` are the names of the layers whose codes it takes, "input" for the network's; none means the layer before."""

    name: str
    reads: tuple[str, ...]

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        """The zero points of all codes that it takes and of those that it gives; None: whatever it is, it stays."""
        return (None,), None

    @abstractmethod
    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        """The codes of the next layers."""

    def call(self, pool: int = 1) -> Call | None:
        """The same in a chain, pooled if it is a convolution; None for a layer that is no single call."""
        return None


class Products(Layer):
    """Sums of products that become codes: `Conv` and `Dense`."""

    bias: np.ndarray
    to: Requantise
    zero_point: int

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        return (self.zero_point,), self.to.zero_point

    @property
    @abstractmethod
    def _start(self) -> np.ndarray:
        """What the sums of each output begin with."""

    @cached_property
    def _by(self) -> tuple[np.ndarray, ...]:
        return self._start, *self.to.multipliers(len(self.bias))


@dataclass(frozen=True, eq=False)
class Conv(Products):
    r"""$y_{nopq} = \mathrm{to}\big(b_o + \sum_{kij} (x_{n, k, ps+id, qs+jd} - z)(w_{okij} - v_o)\big)$; around the picture x - z is 0

    w             (o, c / groups, i, j), int8
    bias          (o), int32, in units of x's scale times w's: `whole_bias`
    to            the rule, the multipliers and the codes of y
    zero_point    z, of x
    w_zero_point  v (o), int32; None for symmetric weights, which cost no sums of x
    stride, padding, dilation, groups   as `conv2d`
    Raises, with the name, OverflowError if sums could leave int32, TypeError for other dtypes, ValueError for arrays that do not fit.
    """

    name: str
    w: np.ndarray
    bias: np.ndarray
    to: Requantise
    zero_point: int = 0
    w_zero_point: np.ndarray | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self, 0)

    def __call__(self, *codes: np.ndarray, pool: int = 1) -> np.ndarray:
        """`pool`: the codes as `MaxPool` of so many by so many would leave them."""
        (x,) = codes
        if self.w_zero_point is not None:
            return self.to(self._products(x), self._start, pool)
        y: np.ndarray = ops.conv2d_codes(x, self.w, *self._by, **(self._params if pool == 1 else {**self._params, "pool": pool}))
        return y

    def call(self, pool: int = 1) -> Call | None:
        return None if self.w_zero_point is not None else Call("conv2d_codes", (self.w, *self._by), {**self._params, "pool": pool})

    def sums(self, x: np.ndarray) -> np.ndarray:
        """What is brought to codes, int32."""
        return np.asarray(self._products(x) + self.bias[:, None, None])

    def _products(self, x: np.ndarray) -> np.ndarray:
        geometry = {"zero_point": self.zero_point, **self._geometry}
        sums: np.ndarray = ops.conv2d_int8(x, self.w, **geometry)
        if self.w_zero_point is not None:
            of_x = ops.conv2d_int8(x, np.ones((self.groups, *self.w.shape[1:]), np.int8), **geometry)
            sums -= self.w_zero_point[:, None, None] * np.repeat(of_x, len(self.w) // self.groups, axis=1)
        return sums

    @property
    def _start(self) -> np.ndarray:
        return self.bias

    @cached_property
    def _geometry(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    @cached_property
    def _params(self) -> dict[str, Any]:
        return {"x_zero_point": self.zero_point, **self._geometry, **self.to.codes}


@dataclass(frozen=True, eq=False)
class Dense(Products):
    r"""$y_{nj} = \mathrm{to}\big(b_j + \sum_p (x_{np} - z)(w_{pj} - v_j)\big)$

    w             (k, m), int8
    bias          (m), int32, in units of x's scale times w's: `whole_bias`
    to, zero_point, w_zero_point and what is raised: as `Conv`

    The sum is $\sum x w - z \sum_p w - v \sum_p x + k z v$; all that does not hang on x is added up once, beforehand.
    Source: gemmlowp, doc/low-precision.md.
    """

    name: str
    w: np.ndarray
    bias: np.ndarray
    to: Requantise
    zero_point: int = 0
    w_zero_point: np.ndarray | None = None
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self, 1)

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (x,) = codes
        if self.w_zero_point is not None:
            return self.to(self._products(x), self._start)
        y: np.ndarray = ops.matmul_codes(x, self.w, *self._by, **self.to.codes)
        return y

    def call(self, pool: int = 1) -> Call | None:
        return None if self.w_zero_point is not None else Call("matmul_codes", (self.w, *self._by), self.to.codes)

    def sums(self, x: np.ndarray) -> np.ndarray:
        """What is brought to codes, int32."""
        return np.asarray(self._products(x) + self._start)

    def _products(self, x: np.ndarray) -> np.ndarray:
        sums: np.ndarray = ops.matmul_int8(x, self.w)
        if self.w_zero_point is not None:
            sums -= self.w_zero_point * x.sum(axis=1, dtype=np.int32, keepdims=True)
        return sums

    @cached_property
    def _start(self) -> np.ndarray:
        """The sums of x = 0, code 0."""
        w = self.w.sum(axis=0, dtype=np.int64)
        if self.w_zero_point is not None:
            w = w - len(self.w) * self.w_zero_point.astype(np.int64)
        return np.asarray(self.bias - self.zero_point * w, np.int32)


@dataclass(frozen=True, eq=False)
class MaxPool(Layer):
    """The largest code of each window: codes rise with what they stand for, so scale and zero point stay. See `ops.max_pool2d`."""

    name: str
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    reads: tuple[str, ...] = ()

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (x,) = codes
        return largest(x, self.kernel_size) if self.in_squares else _over_windows(np.maximum, x, self, np.iinfo(x.dtype).min)

    def call(self, pool: int = 1) -> Call:
        return Call("max_pool2d", (), {name: getattr(self, name) for name in ("kernel_size", "stride", "padding")})

    @property
    def in_squares(self) -> bool:
        """Whether windows are squares that lie side by side."""
        size = self.kernel_size
        return isinstance(size, int) and self.stride in (None, size) and self.padding == 0


@dataclass(frozen=True, eq=False)
class AvgPool(Layer):
    r"""$y = \mathrm{round}\big(\frac{1}{|W|} \sum_{ij \in W} x_{n, c, ps+i, qs+j}\big)$, ties to even; scale and zero point stay

    zero_point          of x: what stands in the padding
    count_include_pad   as in `ops.avg_pool2d`, which has the same windows
    ONNX Runtime's QLinearAveragePool adds up floats. If the scale is a power of two it has these codes; else a tie may fall otherwise.
    """

    name: str
    kernel_size: Any
    stride: Any = None
    padding: Any = 0
    zero_point: int = 0
    count_include_pad: bool = True
    reads: tuple[str, ...] = ()

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        return (self.zero_point,), None

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (x,) = codes
        sums = _over_windows(np.add, x.astype(np.int32), self, self.zero_point if self.count_include_pad else 0)
        mean: np.ndarray = half_even(sums, self._pixels(x))
        return mean.astype(x.dtype)

    def _pixels(self, x: np.ndarray) -> Any:
        """What the sum of a window is divided by."""
        if self.count_include_pad:
            return math.prod(pair(self.kernel_size, "kernel_size", 1))
        return _over_windows(np.add, np.ones((1, 1, *x.shape[2:]), np.int32), self, 0)


@dataclass(frozen=True, eq=False)
class Add(Layer):
    r"""$y = \mathrm{clip}\big(\mathrm{round}(2^{-s} \sum_i m_i (x_i - z_i)) + z\big)$, rounded once, ties up: the sum of two branches

    mantissa      $m = \mathrm{round}(2^s s_i / s_y)$ (2), int32, the larger of them in [2^20, 2^21]
    shift         s
    zero_points   of the two
    zero_point, low, high, dtype   of y, as in `requantise`
    Source: XNNPACK, qs8-vadd. ONNX Runtime's QLinearAdd adds up floats, fused where the processor can: one code in 1000 is next to these.
    """

    name: str
    mantissa: np.ndarray
    shift: int
    zero_points: tuple[int, int]
    zero_point: int
    low: int
    high: int
    dtype: str
    reads: tuple[str, ...]

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        return self.zero_points, self.zero_point

    @classmethod
    def between(cls, name: str, a: Codes, b: Codes, y: Codes, *, reads: tuple[str, str], relu: bool = False) -> Add:
        """Raises ValueError, with the name, if the larger of the ratios of scales is not in [2^-10, 2^8)."""
        ratios = np.array([a.scale, b.scale]) / y.scale
        if not 2.0**-10 <= ratios.max() < 2.0**8:
            raise ValueError(f"{name}: the scales of what is added are {ratios.max():g} times that of the sum, wanted is 2^-10 to 2^8")
        shift = ADD_BITS + 1 - int(np.frexp(ratios.max())[1])
        mantissa = np.rint(ratios * 2.0**shift).astype(np.int32)
        low = y.zero_point if relu else y.low
        return cls(name, mantissa, shift, (a.zero_point, b.zero_point), y.zero_point, low, y.high, y.dtype, reads)

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (m, n), (z, v) = self.mantissa, self.zero_points
        a, b = (x.astype(np.int32) for x in codes)
        if a.shape != b.shape:
            raise ValueError(f"{self.name}: codes of one shape are added, these are {a.shape} and {b.shape}")
        sums: np.ndarray = (a - z) * m + (b - v) * n + (1 << self.shift >> 1) >> self.shift
        y: np.ndarray = np.clip(sums + self.zero_point, self.low, self.high)
        return y.astype(self.dtype)


@dataclass(frozen=True, eq=False)
class Lookup(Layer):
    r"""$y = t_x$: whatever becomes of each number alone, tanh or gelu, as a table of all codes

    table           t (256), int8 or uint8: first what the codes 0 to 127 become, then 128 to 255 of uint8, or -128 to -1 of int8
    x_zero_point    of x
    zero_point      of y
    Raises, with the name, TypeError for a table of another dtype, ValueError for one that has not 256 codes.
    """

    name: str
    table: np.ndarray
    x_zero_point: int
    zero_point: int
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.table.dtype not in (np.uint8, np.int8):
            raise TypeError(f"{self.name}: a table has codes of int8 or uint8, not {self.table.dtype}")
        if self.table.shape != (256,):
            raise ValueError(f"{self.name}: a table has a code for each of 256, its shape is not {self.table.shape}")

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        return (self.x_zero_point,), self.zero_point

    @property
    def dtype(self) -> str:
        """That of y."""
        return str(self.table.dtype)

    @classmethod
    def of(cls, name: str, f: Callable[[np.ndarray], Any], x: Codes, y: Codes, *, reads: tuple[str, ...] = ()) -> Lookup:
        r"""$t_q = \mathrm{quantise}(f(s_x (q - z_x)))$ in float32. Raises ValueError, with the name, where f is nan."""
        numbers = x.dequantise(np.arange(256, dtype=np.uint8).view(x.dtype))
        with np.errstate(all="ignore"):
            values = np.asarray(f(numbers))
        if np.isnan(values).any():
            raise ValueError(
                f"{name}: the function of {numbers[np.isnan(values)][0]:g} is nan, and that number has a code\n"
                "  keep what it reads in its domain, as by a maximum before it"
            )
        return cls(name, y.quantise(values), x.zero_point, y.zero_point, reads)

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (x,) = codes
        return np.take(self.table, x.view(np.uint8))


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """(n, c, h, w) to (n, c h w)."""

    name: str
    reads: tuple[str, ...] = ()

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        (x,) = codes
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def call(self, pool: int = 1) -> Call:
        return Call("flatten")


@dataclass(frozen=True, eq=False)
class InFloats(Layer):
    """A layer that stays in floats among layers of integers: its codes are what its floats round to."""

    name: str
    layer: folded.Layer
    before: tuple[Codes, ...]
    after: Codes
    reads: tuple[str, ...]

    @property
    def zeros(self) -> tuple[tuple[int | None, ...], int | None]:
        return tuple(codes.zero_point for codes in self.before), self.after.zero_point

    def __call__(self, *codes: np.ndarray) -> np.ndarray:
        x = [like.dequantise(q) for like, q in zip(self.before, codes, strict=True)]
        return self.after.quantise(self.layer(*x))


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in the order in which they run; the codes of the last one are the answer.

    input, output   what the codes stand for
    layers          each reads the one before it, or those that it names
    scales          what the codes of layers and weights stand for, by name: for reports and for export, nothing is computed with them
    Raises ValueError for no layers, for a name that occurs twice, for a layer that reads what does not come before it, and for codes that
    are given with another zero point than they are taken with.
    """

    input: Codes
    output: Codes
    layers: tuple[Layer, ...]
    scales: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zeros, before = {"input": self.input.zero_point}, "input"
        if not self.layers:
            raise ValueError("a network has one layer or more")
        for layer in self.layers:
            reads, (wanted, given) = layer.reads or (before,), layer.zeros
            unknown = sorted(set(reads) - zeros.keys())
            if unknown:
                raise ValueError(f"{layer.name} reads {', '.join(unknown)}; before it there are {', '.join(zeros)}")
            if len(reads) != len(wanted):
                raise ValueError(f"{layer.name} takes {len(wanted)}, but reads {', '.join(reads)}")
            if layer.name in zeros:
                raise ValueError(f"two layers are called {layer.name}")
            for name, zero in zip(reads, wanted, strict=True):
                if zero not in (None, zeros[name]):
                    raise ValueError(f"{layer.name} takes codes with the zero point {zero}, {name} gives them with {zeros[name]}")
            zeros[layer.name], before = zeros[reads[0]] if given is None else given, layer.name
        if zeros[before] != self.output.zero_point:
            raise ValueError(
                f"the codes of {before} have the zero point {zeros[before]}, the network's output has {self.output.zero_point}"
            )

    def __call__(self, x: Any) -> np.ndarray:
        """From floats to floats: float32 logits. Where a kernel for it is in force, as one op, if no layer reads another by name."""
        if network_codes.served and self._chains:
            x = np.asarray(x, np.float32)
            if x.size and not math.isnan(x.min()):
                y: np.ndarray = network_codes(x, chain=self._chains[1])
                return y
        try:
            codes = self.input.quantise(x)
        except ValueError as e:
            raise ValueError(f"input: {e}\n  give numbers only; infinities get the outermost codes") from e
        return self.output.dequantise(self.run(codes))

    def run(self, codes: np.ndarray) -> np.ndarray:
        """From codes to codes, without a float. Raises TypeError for codes of another dtype than the input's."""
        if codes.dtype != self.input.dtype:
            raise TypeError(f"the network reads codes of {self.input.dtype}, these are {codes.dtype}: Network.input.quantise makes them")
        if network_codes.served and self._chains:
            y: np.ndarray = network_codes(codes, chain=self._chains[0])
            return y
        kept = {"input": codes}
        for layer, pool in self._steps:
            read = [kept[name] for name in layer.reads] or [codes]
            codes = layer(*read) if pool is None else layer(*read, pool=pool.kernel_size)
            name = (pool or layer).name
            if name in self._named:
                kept[name] = codes
        return codes

    @cached_property
    def _chains(self) -> tuple[Chain, Chain] | None:
        """All of it as one op, from codes to codes and from floats to floats; None if a layer reads others by name or is no call."""
        calls = [layer.call() if pool is None else layer.call(pool.kernel_size) for layer, pool in self._steps]
        known = tuple(call for call in calls if call is not None)
        if self._named or len(known) < len(calls):
            return None
        return Chain(known), Chain((self.input.ends[0], *known, self.output.ends[1]))

    @cached_property
    def _named(self) -> set[str]:
        """The layers that others read by name."""
        return {name for layer in self.layers for name in layer.reads}

    @cached_property
    def _steps(self) -> list[tuple[Any, MaxPool | None]]:
        """Each layer, and with a convolution the pooling that alone reads it, if its windows are squares side by side. Codes rise with the
        sums, so the largest sum has the largest code: pooled first, a part of them is left to requantise."""
        steps: list[tuple[Any, MaxPool | None]] = []
        for layer in self.layers:
            before, taken = steps[-1] if steps else (None, None)
            free = isinstance(before, Conv) and taken is None and before.name not in self._named
            if free and isinstance(layer, MaxPool) and layer.in_squares and not layer.reads:
                steps[-1] = before, layer
            else:
                steps.append((layer, None))
        return steps

    def values(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """The codes of "input" and of each layer, by name: layer after layer, none of them joined."""
        known = {"input": codes}
        for layer, reads in self.reading():
            known[layer.name] = layer(*[known[name] for name in reads])
        return known

    def reading(self) -> list[tuple[Layer, tuple[str, ...]]]:
        """Each layer, and the names of the layers that it reads."""
        names = ["input", *(layer.name for layer in self.layers)]
        return [(layer, layer.reads or (before,)) for layer, before in zip(self.layers, names, strict=False)]

    def codes(self) -> dict[str, Codes]:
        """What the codes of "input" and of each layer stand for. Raises KeyError for a layer whose scale is not among `scales`."""
        known = {"input": self.input}
        for layer, reads in self.reading():
            if isinstance(layer, InFloats):
                known[layer.name] = layer.after
            elif isinstance(layer, (Conv, Dense, Add, Lookup)):
                to = layer if isinstance(layer, (Add, Lookup)) else layer.to
                known[layer.name] = Codes(float(self.scales[layer.name]), to.zero_point, to.dtype)
            else:
                known[layer.name] = known[reads[0]]
        return known

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to `path` as safetensors: arrays as they are, all else in the notes. See `engine.checkpoints.save`.

        Weights of 3 and 4 bits are packed, two a byte, those of 1 and 2 bits four: `engine.quantise.numbers.pack`.
        """
        arrays: dict[str, np.ndarray] = {}
        layers = [_notes(layer, layer.name, arrays) for layer in self.layers]
        about = {"integer network": FORMAT, "input": _notes(self.input, "", {}), "output": _notes(self.output, "", {}), "layers": layers}
        few = {name: (bits, x.shape) for name, x in arrays.items() if (bits := _few(x))}
        arrays.update((name, pack(arrays[name], bits)) for name, (bits, _) in few.items())
        checkpoints.save(path, {"layers": arrays, "scales": self.scales}, {**about, "packed": few})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Network:
        """What `save` wrote: it runs to the same bits. Raises as `engine.checkpoints.load`, and CheckpointError for something else."""
        groups, notes = checkpoints.load(path)
        if not isinstance(notes, dict) or notes.get("integer network") != FORMAT:
            raise checkpoints.CheckpointError(f"{os.fspath(path)} holds no integer network, but {', '.join(groups) or 'nothing'}")
        arrays = groups["layers"]
        arrays.update((name, unpack(arrays[name], tuple(shape), bits)) for name, (bits, shape) in notes["packed"].items())
        layers = tuple(_record(layer, layer["name"], arrays) for layer in notes["layers"])
        return cls(_record(notes["input"], "", {}), _record(notes["output"], "", {}), layers, groups["scales"])


def _few(x: np.ndarray) -> int | None:
    """The bits of codes of which a byte holds several."""
    if x.dtype != np.int8 or x.ndim < 2:
        return None
    widest = max(-int(x.min(initial=0)) - 1, int(x.max(initial=0)))
    return 2 if widest <= 1 else 4 if widest <= 7 else None


FORMAT = 2  # of the notes in a file
RECORDS = {
    kind.__name__: kind
    for kind in (Codes, Requantise, Conv, Dense, MaxPool, AvgPool, Add, Lookup, Flatten, InFloats, folded.Layer, functions.Function)
}


def _notes(record: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of a record as JSON holds them; its arrays go to `arrays`."""
    notes: dict[str, Any] = {"record": type(record).__name__}
    for part in fields(record):
        value, key = getattr(record, part.name), f"{path}/{part.name}"
        if isinstance(value, np.ndarray):
            arrays[key] = value
        else:
            notes[part.name] = _noted(value, key, arrays)
    return notes


def _noted(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, tuple):
        return [_noted(part, f"{path}/{i}", arrays) for i, part in enumerate(value)]
    return _notes(value, path, arrays) if is_dataclass(value) else value


def _record(notes: Mapping[str, Any], path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `_notes` took apart."""
    kind = RECORDS[notes["record"]]
    values = {}
    for part in fields(kind):
        key = f"{path}/{part.name}"
        value = arrays[key] if key in arrays else notes[part.name]
        values[part.name] = _value(value, key, arrays)
    return kind(**values)


def _value(noted: Any, path: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """What `_noted` made of it; a tuple, for JSON has lists only."""
    if isinstance(noted, list):
        return tuple(_value(part, f"{path}/{i}", arrays) for i, part in enumerate(noted))
    if isinstance(noted, dict):
        if "record" in noted:
            return _record(noted, path, arrays)
        return {name: _value(part, f"{path}/{name}", arrays) for name, part in noted.items()}
    return noted


def _over_windows(combine: np.ufunc, x: np.ndarray, pool: MaxPool | AvgPool, around: int) -> np.ndarray:
    """`combine` over the rows of each window, then over its columns; `around` stands in the padding."""
    places = _places(x.shape[2:], pool.kernel_size, pool.stride, pool.padding)
    x = padded(x, pool.padding, fill=around)
    for first, *others in places:
        y = x[first]
        for i, seen in enumerate(others):
            y = combine(y, x[seen], out=y if i else None)
        x = y
    return x


@lru_cache
def _places(size: Pair, kernel_size: Any, stride: Any, padding: Any) -> list[list[Any]]:
    """Where the windows of a padded picture have their rows, and where in these they have their columns."""
    kernel, step, grid = windows(size, kernel_size, stride, padding)
    rows = positions((kernel[0], 1), (grid[0], size[1] + sum(sides(padding)[1])), (step[0], 1))
    columns = positions((1, kernel[1]), grid, (1, step[1]))
    return [[seen for *_, seen in places] for places in (rows, columns)]


def _check(layer: Conv | Dense, outputs: int) -> None:
    """That the arrays fit each other, and that no sum leaves int32, whatever x is. `outputs` is the axis of w."""
    name, w, bias, v = layer.name, layer.w, layer.bias, layer.w_zero_point
    if w.dtype != np.int8 or bias.dtype != np.int32:
        raise TypeError(f"{name}: weights are int8 and biases int32, these are {w.dtype} and {bias.dtype}")
    count = w.shape[outputs]
    if bias.shape != (count,) or (v is not None and v.shape != (count,)) or layer.to.mantissa.size not in (1, count):
        raise ValueError(f"{name}: bias, zero points and multipliers are one for each of {count} outputs")
    if not -128 <= layer.zero_point <= 255:
        raise ValueError(f"{name}: no code of x is {layer.zero_point}, its zero point")
    products = w.size // max(count, 1)
    if products > MOST_PRODUCTS:
        raise OverflowError(f"{name}: a sum of {products:,} products may leave int32; {MOST_PRODUCTS:,} never do: keep the layer in float")
    centred = np.abs(np.moveaxis(w, outputs, 0).reshape(count, products).astype(np.int64) - (0 if v is None else v[:, None]))
    largest = 255 * centred.sum(axis=1) + np.abs(bias.astype(np.int64))
    if np.any(largest > INT32.max):
        raise OverflowError(
            f"{name}: the sums of output {np.argmax(largest)} may leave int32, its bias is {bias[np.argmax(largest)]:,}\n"
            "  the scale of x or of this channel of w is too small: choose a larger one, or keep the layer in float"
        )
