"""What a case is: one call of one op, as data; how it becomes arguments, and how a result is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

import engine  # noqa: F401  (registers the ops)
from engine.observe import flops
from engine.traced import OPS

Shape = tuple[int, ...]
Pairs = tuple[tuple[str, Any], ...]
Draw = Callable[["Case", np.random.Generator, dict[str, Any]], tuple[list[Any], dict[str, Any]]]

ALLOWED = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2e-2, "int8": 0.0}  # where no rung says: bfloat16 may round the result too


@dataclass(frozen=True)
class Case:
    """One call of one op.

    shapes      of the arguments; for the transposes of a convolution or a pooling, those of the forward op
    stands_for  where a call like this comes from
    params      what is not at its default
    turned      places of arguments that are transposed views: their last two axes lie the other way round in memory
    dtype       of the arithmetic: matmul_bf16 takes float32 and multiplies in bfloat16
    about       what the arguments are like, where shapes do not say it: (("density", 0.1),)
    """

    op: str
    shapes: tuple[Shape, ...]
    stands_for: str
    params: Pairs = ()
    turned: tuple[int, ...] = ()
    dtype: str = "float32"
    about: Pairs = ()
    home: ClassVar[str] = "benchmarks.peers"

    def small(self) -> Case:
        """The same case at a size at which it is verified in no time."""
        if self.op.startswith("conv"):
            (n, c, h, w), kernel = self.shapes
            return replace(self, shapes=((min(n, 2), c, min(h, 14), min(w, 14)), kernel))
        least = 3 if "pool" in self.op else 1000 if self.op.endswith("_step") else 40
        return replace(self, shapes=tuple(tuple(min(size, least + size % 3) for size in shape) for shape in self.shapes))

    def call(self, seed: int = 0) -> tuple[list[Any], dict[str, Any]]:
        """Arguments and parameters."""
        rng = np.random.default_rng(seed)
        params = {**(OPS[self.op].defaults if self.op in OPS else {}), **dict(self.params)}
        args, params = DRAWS.get(self.op, plain)(self, rng, params)
        return [self.laid(a, i in self.turned) for i, a in enumerate(args)], params

    def laid(self, a: Any, turned: bool) -> Any:
        """An argument in the dtype and the layout of the case."""
        if not isinstance(a, np.ndarray):
            return a
        if a.dtype.kind == "f":
            a = a.astype(self.dtype if self.dtype in ("float32", "float64") else "float32")
        return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2) if turned else np.ascontiguousarray(a)

    @property
    def allowed(self) -> float:
        return ALLOWED[self.dtype]

    def reference(self, args: list[Any], params: dict[str, Any]) -> tuple[Any, Any]:
        """The definition in float64, and what its rounding is measured against: the definition of absolute values."""
        definition = REFERENCES.get(self.op) or OPS[self.op].definition
        doubles = [as_doubles(a) for a in args]
        want, size = (parts(definition(*some, **params)) for some in (doubles, [np.abs(a) if is_float(a) else a for a in doubles]))
        scales = [np.abs(s) + np.abs(w) for s, w in zip(size, want, strict=True)]
        if self.op.endswith("_step"):
            scales = [s + np.abs(doubles[0]) for s in scales]
        return want, scales

    def error(self, args: list[Any], params: dict[str, Any], y: Any, reference: tuple[Any, Any] | None = None) -> float:
        """The largest error of `y` against the definition in float64, relative to the definition of absolute values."""
        wants, scales = reference or self.reference(args, params)
        got = parts(y)
        if [np.shape(g) for g in got] != [np.shape(w) for w in wants]:
            return float("inf")
        worst = 0.0
        for g, w, s in zip(got, wants, scales, strict=True):
            gap = np.abs(g - w) / np.maximum(s, np.finfo(np.float64).tiny)
            worst = max(worst, float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0)))
        return worst

    def work(self, args: list[Any], params: dict[str, Any], y: Any) -> tuple[int, int]:
        """Operations by the op's own formula (0 if it has none), and bytes if each array is moved once."""
        outputs = parts(y)
        count = WORK[self.op](args, outputs, params) if self.op in WORK else self._flops(args, outputs, params)
        return count, sum(a.nbytes for a in (*args, *outputs) if isinstance(a, np.ndarray))

    def _flops(self, args: list[Any], outputs: tuple[Any, ...], params: dict[str, Any]) -> int:
        return flops(OPS[self.op], args, outputs, params) if self.op in OPS and OPS[self.op].flops else 0

    @property
    def shape(self) -> str:
        return " ".join("x".join(map(str, shape)) + ("'" if i in self.turned else "") for i, shape in enumerate(self.shapes))

    def __str__(self) -> str:
        kind = {"float32": "", "float64": "f64 ", "bfloat16": "bf16 "}.get(self.dtype, f"{self.dtype} ")
        return " ".join([f"{self.op} {kind}{self.shape}", *(f"{name}={value}" for name, value in (*self.params, *self.about))])


def parts(y: Any) -> tuple[Any, ...]:
    """The outputs of a call, one by one."""
    return tuple(y) if isinstance(y, (tuple, list)) else (y,)


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def as_doubles(a: Any) -> Any:
    return a.astype(np.float64) if is_float(a) else a


def plain(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Normal numbers."""
    if case.op.endswith("_step"):
        named = dict(zip(OPS[case.op].args, [rng.normal(size=case.shapes[0]) for _ in OPS[case.op].args], strict=True))
        hyper = {**params, "lr": 0.01, **({"t": 3} if "adam" in case.op else {})}
        return [np.square(a) if name == "v" else a for name, a in named.items()], hyper
    return [rng.normal(size=shape) for shape in case.shapes], params


def conv_input_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    x, w = case.shapes
    gy = rng.normal(size=OPS["conv2d"].infer(case.shapes, params)[0])
    return [gy, rng.normal(size=w)], {**params, "input_size": x[2:]}


def conv_weight_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    x, w = case.shapes
    gy = rng.normal(size=OPS["conv2d"].infer(case.shapes, params)[0])
    return [rng.normal(size=x), gy], {**params, "kernel_size": w[2:]}


def max_pool_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    y, indices = OPS["max_pool2d_with_indices"](rng.normal(size=case.shapes[0]), **params)
    return [rng.normal(size=y.shape), indices], {"input_size": case.shapes[0][2:]}


def avg_pool_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    grid = OPS["avg_pool2d"].infer(case.shapes, params)[0]
    return [rng.normal(size=grid)], {**params, "input_size": case.shapes[0][2:]}


DRAWS: dict[str, Draw] = {  # ops whose arguments are not just normal numbers of these shapes
    "conv2d_input_grad": conv_input_grad,
    "conv2d_weight_grad": conv_weight_grad,
    "max_pool2d_input_grad": max_pool_grad,
    "avg_pool2d_input_grad": avg_pool_grad,
}
REFERENCES: dict[str, Callable[..., Any]] = {}  # what stands for a definition in float64, where it takes no float64
WORK: dict[str, Callable[..., int]] = {}  # operations of ops without a formula of their own
