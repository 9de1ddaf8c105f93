r"""A whole network of codes as one op: calls of other ops, one after the other, known beforehand with all their weights.

    chain = Chain((
        Call("conv2d_codes", (w1, b1, m1, s1), {"padding": 2, "rule": "fp32", "pool": 2, ...}),
        Call("flatten"),
        Call("matmul_codes", (w2, b2, m2, s2), {"rule": "fp32", ...}),
    ))
    y = network_codes(x, chain=chain)

It computes what the calls compute. As one op a kernel may keep weights and pictures in layouts of its own, and what a call costs is paid
once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.domain import Pick
from engine.op import op
from engine.ops.codes import conv2d_codes, matmul_codes
from engine.ops.pool import max_pool2d_with_indices
from engine.ops.quantise import dequantise, quantise
from engine.ops.requantisation import RESCALE
from engine.shapes import Shape, ShapeError

__all__ = ["network_codes"]


@dataclass(frozen=True, eq=False)
class Call:
    """One call: of what, and what it is given behind the array that comes from the call before.

    op   "conv2d_codes", "matmul_codes", "max_pool2d", "quantise" and "dequantise", which are ops, or "flatten", (n, c, h, w) to (n, c h w)
    """

    op: str
    arrays: tuple[np.ndarray, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, x: Any) -> np.ndarray:
        """By definition."""
        return np.asarray(COMPUTED[self.op](x, *self.arrays, **self.params))

    def shape(self, x: Shape) -> Shape:
        """Of what comes out. Raises ShapeError."""
        if self.op == "flatten":
            if not x:
                raise ShapeError("flatten: wants a batch")
            return (x[0], math.prod(x[1:]))
        asked = max_pool2d_with_indices if self.op == "max_pool2d" else OPS[self.op]
        return asked.infer([x, *(a.shape for a in self.arrays)], {**asked.defaults, **self.params})[0]


@dataclass(frozen=True, eq=False)
class Chain:
    """Calls, one after the other. Their arrays are not written to: a kernel copies them when it first sees them, and keeps that.

    Raises ValueError for no calls and for one that is not known, TypeError for arrays of other dtypes than the ops take.
    """

    calls: tuple[Call, ...]

    def __hash__(self) -> int:
        raise TypeError("a chain has no hash: ops remember the parameters of their calls, and it would stay, with all its weights")

    def __post_init__(self) -> None:
        if not self.calls:
            raise ValueError("a chain has one call or more")
        for call in self.calls:
            if call.op not in COMPUTED:
                raise ValueError(f"a chain has no call of {call.op!r}; it may have {', '.join(COMPUTED)}")
            given = tuple(a.dtype.name for a in call.arrays)
            if call.op.endswith("_codes") and given != WEIGHTS:
                raise TypeError(f"{call.op}: weights, bias, mantissa and shift are {', '.join(WEIGHTS)}, these are {', '.join(given)}")

    def shape(self, x: Shape) -> Shape:
        """Of what comes out. Raises ShapeError, naming the call."""
        for i, call in enumerate(self.calls):
            try:
                x = call.shape(x)
            except ShapeError as e:
                raise ShapeError(f"call {i + 1}, {call.op} of {x}: {e}") from None
        return x


WEIGHTS = ("int8", "int32", "int64", "int64")
OPS = {op.name: op for op in (conv2d_codes, matmul_codes, quantise, dequantise)}
COMPUTED: dict[str, Callable[..., Any]] = {
    **{name: op.definition for name, op in OPS.items()},
    "max_pool2d": lambda x, **window: max_pool2d_with_indices.definition(x, **{**max_pool2d_with_indices.defaults, **window})[0],
    "flatten": lambda x: x.reshape(len(x), math.prod(x.shape[1:])),
}


@op(constant=("x",))
def network_codes(x, *, chain: Chain):
    r"""$y = f_L(\cdots f_1(x))$, the calls of a `Chain`

    x         codes, (n, c, h, w) or (n, k), or float32 if the first call is "quantise"
    returns   codes, or float32 if the last call is "dequantise"
    No sum of products with its bias may leave int32, as it is with the layers of `engine.quantise.integer`.
    Raises what the calls raise.
    """
    for call in chain.calls:
        x = call(x)
    return x


@network_codes.shape
def _(x, *, chain):
    return chain.shape(x)


@network_codes.sample
def _(pick: Pick):
    """Perhaps a convolution or two, perhaps a pool, then a product."""
    rng, dtype, rules = pick.rng, pick.choice(["uint8", "int8"]), list(RESCALE)
    x = drawn_codes(rng, (pick.size(0, 3), pick.size(1, 5), pick.size(3, 9), pick.size(3, 9)), dtype)
    calls, shape = [], x.shape
    for _ in range(pick.size(0, 2)):
        if min(shape[2:]) >= 3:
            window = {"stride": pick.choice([1, 2, (2, 1)]), "padding": pick.choice([0, 1, ((0, 2), (1, 0))]), "pool": pick.choice([1, 2])}
            kernel = pick.choice([(1, 1), (2, 3), (3, 3), (3, 1)])
            calls.append(drawn_conv(rng, shape, pick.size(1, 6), kernel, dtype, pick.choice(rules), **window))
            shape, dtype = calls[-1].shape(shape), calls[-1].params["dtype"]
    if min(shape[2:]) > 1 and pick.choice([True, False]):
        calls.append(Call("max_pool2d", (), {"kernel_size": 2, "stride": pick.choice([None, 1]), "padding": pick.choice([0, 1])}))
        shape = calls[-1].shape(shape)
    calls += [Call("flatten"), drawn_dense(rng, math.prod(shape[1:]), pick.size(1, 5), dtype, pick.choice(rules))]
    return [x], {"chain": Chain(tuple(calls))}


def drawn_codes(rng: np.random.Generator, shape: Shape, dtype: Any) -> np.ndarray:
    """Codes, the extreme ones often."""
    about = np.iinfo(dtype)
    x = rng.integers(about.min, about.max + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([about.min, about.max], shape), x).astype(dtype)


def drawn_conv(rng: np.random.Generator, x: Shape, filters: int, kernel: tuple[int, int], dtype: str, rule: str, **geometry: Any) -> Call:
    """A convolution of codes of that dtype, which fills the codes that it gives."""
    w = drawn_codes(rng, (filters, x[1] // geometry.get("groups", 1), *kernel), np.int8)
    by, to = _drawn_multipliers(rng, filters, math.prod(w.shape[1:]), rule)
    about = np.iinfo(dtype)
    return Call("conv2d_codes", (w, *by), {"x_zero_point": int(rng.integers(about.min, about.max + 1)), **geometry, **to})


def drawn_dense(rng: np.random.Generator, k: int, m: int, dtype: str, rule: str) -> Call:
    """A product with a matrix; dtype is that of the codes it reads, whose zero point is in the bias."""
    w = drawn_codes(rng, (k, m), np.int8)
    (bias, *by), to = _drawn_multipliers(rng, m, k, rule)
    bias = (bias - int(np.iinfo(dtype).min + 100) * w.sum(axis=0, dtype=np.int64)).astype(np.int32)
    return Call("matmul_codes", (w, bias, *by), to)


def _drawn_multipliers(rng: np.random.Generator, channels: int, products: int, rule: str) -> tuple[list[np.ndarray], dict[str, Any]]:
    """A bias, mantissas and shifts that bring most sums of so many products into the range of codes, and what these are."""
    bits = {"fp32": 24, "rndnu": 24, "pow2": 1}.get(rule, 31)
    ratio = int(math.log2(9000 * math.sqrt(max(products, 1)) / 60))
    mantissa = rng.integers(1 << bits - 1, 1 << bits, channels)
    mantissa = np.where(rng.random(channels) < 0.3, 1 << bits - 1, mantissa)  # a power of two has ties
    shift, dtype = np.full(channels, bits + ratio) - rng.integers(0, 3, channels), str(rng.choice(["uint8", "int8"]))
    about, bias = np.iinfo(dtype), rng.integers(-20_000, 20_000, channels).astype(np.int32)
    zero = int(rng.integers(about.min, about.max + 1))
    low, high = (zero if rng.random() < 0.5 else int(about.min)), (zero if rng.random() < 0.1 else int(about.max))
    codes = {"rule": rule, "zero_point": zero, "low": low, "high": high, "dtype": dtype}
    return [bias, mantissa.astype(np.int64), shift.astype(np.int64)], codes
