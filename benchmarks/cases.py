"""The cases of the kernel benchmark, as data, and how a case becomes arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import engine  # noqa: F401  (registers the ops)
from engine.observe import flops
from engine.traced import OPS

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One call of one op.

    shapes      of the arguments; for the transposes of a convolution or a pooling, those of the forward op
    stands_for  where a call like this comes from
    params      what is not at its default
    turned      places of arguments that are transposed views: their last two axes lie the other way round in memory
    """

    op: str
    shapes: tuple[Shape, ...]
    stands_for: str
    params: tuple[tuple[str, Any], ...] = ()
    turned: tuple[int, ...] = ()
    dtype: str = "float32"

    def small(self) -> Case:
        """The same case at a size at which it is verified in no time."""
        if self.op.startswith("conv"):
            (n, c, h, w), kernel = self.shapes
            return replace(self, shapes=((min(n, 2), c, min(h, 14), min(w, 14)), kernel))
        least = 3 if "pool" in self.op else 1000 if self.op.endswith("_step") else 40
        return replace(self, shapes=tuple(tuple(min(size, least + size % 3) for size in shape) for shape in self.shapes))

    def call(self, seed: int = 0) -> tuple[list[np.ndarray], dict[str, Any]]:
        """Arguments and parameters."""
        rng = np.random.default_rng(seed)
        args, params = _call(self, rng, {**OPS[self.op].defaults, **dict(self.params)})
        return [_laid(a.astype(self.dtype) if a.dtype.kind == "f" else a, i in self.turned) for i, a in enumerate(args)], params

    def flops(self, args: list[np.ndarray], y: Any, params: dict[str, Any]) -> int:
        """Floating-point operations, where the op has a formula for them; else 0."""
        return flops(OPS[self.op], args, y if isinstance(y, tuple) else (y,), params) if OPS[self.op].flops else 0

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) + ("'" if i in self.turned else "") for i, shape in enumerate(self.shapes))
        return " ".join([shapes, *(f"{name}={value}" for name, value in self.params)])


def _laid(a: np.ndarray, turned: bool) -> np.ndarray:
    return np.ascontiguousarray(a.swapaxes(-1, -2)).swapaxes(-1, -2) if turned else np.ascontiguousarray(a)


def _call(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    arrays = [rng.normal(size=shape) for shape in case.shapes]
    if case.op in ("conv2d_input_grad", "conv2d_weight_grad"):
        x, w = arrays
        gy = rng.normal(size=OPS["conv2d"].infer(case.shapes, params)[0])
        return ([gy, w], {**params, "input_size": x.shape[2:]}) if "input" in case.op else ([x, gy], {**params, "kernel_size": w.shape[2:]})
    if case.op == "max_pool2d_input_grad":
        y, indices = OPS["max_pool2d_with_indices"](arrays[0], **params)
        return [rng.normal(size=y.shape), indices], {"input_size": case.shapes[0][2:]}
    if case.op == "avg_pool2d_input_grad":
        size = case.shapes[0][2:]
        grid = OPS["avg_pool2d"].infer(case.shapes, params)[0]
        return [rng.normal(size=grid)], {**params, "input_size": size}
    if case.op.endswith("_step"):
        named = dict(zip(OPS[case.op].args, [rng.normal(size=case.shapes[0]) for _ in OPS[case.op].args], strict=True))
        hyper = {**params, "lr": 0.01, **({"t": 3} if "adam" in case.op else {})}
        return [np.square(a) if name == "v" else a for name, a in named.items()], hyper
    return arrays, params


def error(case: Case, args: list[np.ndarray], params: dict[str, Any], y: Any) -> float:
    """The largest error of `y` against the definition in float64, relative to the definition of absolute values."""
    definition = OPS[case.op].definition
    doubles = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in args]
    want = definition(*doubles, **params)
    size = definition(*[np.abs(a) for a in doubles], **params)
    p = np.abs(doubles[0]) if case.op.endswith("_step") else 0.0
    parts = [part if isinstance(part, tuple) else (part,) for part in (y, want, size)]
    worst = 0.0
    for got, w, s in zip(*parts, strict=True):
        if got.shape != w.shape:
            return float("inf")
        gap = np.abs(got - w) / np.maximum(np.abs(s) + np.abs(w) + p, np.finfo(np.float64).tiny)
        worst = max(worst, float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0)))
    return worst


def gradients(x: Shape, w: Shape, stands_for: str, *params: tuple[str, Any], first: bool = False) -> list[Case]:
    """A convolution and its two transposes; the first layer of a network has no use for the gradient in x."""
    names = ["conv2d", "conv2d_weight_grad"] if first else ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]
    return [Case(name, (x, w), stands_for, params) for name in names]


CASES = [
    Case("matmul", ((32, 784), (784, 300)), "MLP, first layer"),
    Case("matmul", ((784, 32), (32, 300)), "its gradient in w", turned=(0,)),
    Case("matmul", ((32, 300), (300, 100)), "MLP, second layer"),
    Case("matmul", ((32, 100), (100, 300)), "its gradient in x", turned=(1,)),
    Case("matmul", ((32, 100), (100, 10)), "MLP, last layer"),
    Case("matmul", ((1, 784), (784, 300)), "one example"),
    Case("matmul", ((255, 129), (129, 63)), "nothing divides anything: the ragged edge"),
    Case("matmul", ((128, 64, 16), (128, 16, 64)), "attention, 4 heads for 32 examples"),
    *[Case("matmul", ((n, n), (n, n)), "square") for n in (64, 128, 256, 512, 1024, 2048)],
    *[Case("matmul", ((256, 256), (256, 256)), "square, transposed", turned=turned) for turned in ((0,), (1,), (0, 1))],
    *[Case("matmul", ((n, n), (n, n)), "ragged square") for n in (65, 333, 1000)],
    Case("matmul", ((4096, 64), (64, 16)), "tall and narrow"),
    Case("matmul", ((16, 4096), (4096, 64)), "a long sum"),
    Case("matmul", ((2048, 2048), (2048, 8)), "a few columns"),
    Case("matmul", ((8, 2048), (2048, 2048)), "a few rows"),
    Case("matmul", ((1000, 1000), (1000, 1)), "one column"),
    *[Case("matmul", ((n, n), (n, n)), "square", dtype="float64") for n in (64, 256, 512, 1024)],
    Case("matmul", ((333, 777), (777, 555)), "ragged", dtype="float64"),
    Case("matmul", ((32, 784), (784, 300)), "MLP, first layer", dtype="float64"),
    *gradients((32, 1, 28, 28), (6, 1, 5, 5), "LeNet-5, first layer", ("padding", 2), first=True),
    *gradients((32, 6, 14, 14), (16, 6, 5, 5), "LeNet-5, second layer"),
    *gradients((32, 20, 12, 12), (50, 20, 5, 5), "LeNet-5 of Caffe, second layer"),
    *gradients((32, 32, 28, 28), (64, 32, 3, 3), "a 3x3 layer", ("padding", 1)),
    *gradients((32, 16, 32, 32), (32, 16, 3, 3), "ResNet, halving the picture", ("stride", 2), ("padding", 1)),
    *gradients((32, 64, 14, 14), (64, 1, 3, 3), "depthwise", ("padding", 1), ("groups", 64)),
    *gradients((32, 64, 14, 14), (64, 64, 1, 1), "1x1"),
    *[
        Case(name, (shape,), stands_for, (("kernel_size", 2),))
        for name in ("max_pool2d_with_indices", "max_pool2d_input_grad", "avg_pool2d", "avg_pool2d_input_grad")
        for shape, stands_for in [((32, 6, 28, 28), "LeNet-5, first"), ((32, 64, 28, 28), "a wider network")]
    ],
    *[
        Case(f"{name}_step", ((size,),), stands_for)
        for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
        for size, stands_for in [(1_000, "a bias, a small kernel"), (235_200, "MLP, first layer"), (4_000_000, "out of cache")]
    ],
]
