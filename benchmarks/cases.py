"""What a case is: one call of one op, as data; how it becomes arguments, and how a result is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np

import engine  # noqa: F401  (registers the ops)
from engine.ops.chain import Call, Chain, drawn_codes, drawn_conv, drawn_dense
from engine.ops.requantisation import drawn
from engine.traced import OPS

Shape = tuple[int, ...]
Pairs = tuple[tuple[str, Any], ...]
Draw = Callable[["Case", np.random.Generator, dict[str, Any]], tuple[list[Any], dict[str, Any]]]

ALLOWED = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2e-2, "int8": 0.0}  # where no rung says: bfloat16 may round the result too


DIFFERENCES = ("normalise", "cross_entropy")  # ops that take off a mean: the largest result is the scale


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
        if "density" in dict(self.about):  # blocks and groups of four divide these
            return replace(self, shapes=tuple(tuple(min(size, 64) for size in shape) for shape in self.shapes))
        least = 3 if "pool" in self.op or "normalise" in self.op else 1000 if self.op.endswith("_step") and len(self.shapes) == 1 else 40
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

    @property
    def there(self) -> bool:
        """Is there such an op?"""
        return self.op in OPS

    def reference(self, args: list[Any], params: dict[str, Any]) -> tuple[Any, Any]:
        """The definition in float64, and what its rounding is measured against: the definition of absolute values."""
        if isinstance(args[0], dict):
            return self.reference_of_dicts(args, params)
        definition = REFERENCES.get(self.op) or OPS[self.op].definition
        doubles = [as_doubles(a) for a in args]
        want, size = (parts(definition(*some, **params)) for some in (doubles, [np.abs(a) if is_float(a) else a for a in doubles]))
        scales = [np.abs(s) + np.abs(w) for s, w in zip(size, want, strict=True)]
        if self.op.startswith(DIFFERENCES):
            scales = [s + np.max(np.abs(w), initial=0.0) for s, w in zip(scales, want, strict=True)]
        if self.op.endswith("_step"):
            scales = [s + np.abs(doubles[0]) for s in scales]
        return want, scales

    def reference_of_dicts(self, args: list[Any], params: dict[str, Any]) -> tuple[Any, Any]:
        """Of a step over all the arrays of a network: array by array."""
        found = [self.reference([arrays[name] for arrays in args], params) for name in sorted(args[0])]
        wants, scales = (tuple(part for each in zip(*(f[i] for f in found), strict=True) for part in each) for i in range(2))
        return wants, scales

    def error(self, args: list[Any], params: dict[str, Any], y: Any, reference: tuple[Any, Any] | None = None) -> float:
        """The largest error of `y` against the definition in float64, relative to the definition of absolute values."""
        wants, scales = reference or self.reference(args, params)
        got = parts(y)
        if len(got) != len(wants) or any(g is not None and np.shape(g) != np.shape(w) for g, w in zip(got, wants, strict=True)):
            return float("inf")
        worst = 0.0
        for g, w, s in zip(got, wants, scales, strict=True):
            if g is None:  # an output that this implementation has no use for
                continue
            gap = np.abs(g - w) / np.maximum(s, np.finfo(np.float64).tiny)
            worst = max(worst, float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0)))
        return worst

    def work(self, args: list[Any], params: dict[str, Any], y: Any) -> tuple[int, int]:
        """Operations by the op's own formula (0 if it has none), and bytes if each array is moved once."""
        outputs = parts(y)
        args = [a for arg in args for a in parts(arg)]
        return 2 * self.products, sum(a.nbytes for a in (*args, *outputs) if isinstance(a, np.ndarray))

    @property
    def products(self) -> int:
        """How many products are added up; 0 for an op that is none of products."""
        if self.op.startswith("conv"):
            window = OPS["conv2d"].defaults
            grid = OPS["conv2d"].infer(self.shapes, {**window, **{k: v for k, v in self.params if k in window}})[0]
            return prod(grid) * prod(self.shapes[1][1:])
        if self.op.startswith(("matmul", "dense")):
            (*stack, m, k), (*_, n) = self.shapes[:2]
            return round(prod(stack) * m * k * n * dict(self.about).get("density", 1.0))
        return 0

    @property
    def shape(self) -> str:
        if "net" in dict(self.about):
            return f"{len(self.shapes)} arrays"
        return " ".join("x".join(map(str, shape)) + ("'" if i in self.turned else "") for i, shape in enumerate(self.shapes))

    def __str__(self) -> str:
        kind = {"float32": "", "float64": "f64 ", "bfloat16": "bf16 "}.get(self.dtype, f"{self.dtype} ")
        return " ".join([f"{self.op} {kind}{self.shape}", *(f"{name}={value}" for name, value in (*self.params, *self.about))])


def parts(y: Any) -> tuple[Any, ...]:
    """The outputs of a call, one by one."""
    if isinstance(y, dict):
        return tuple(y[name] for name in sorted(y))
    return tuple(part for each in y for part in parts(each)) if isinstance(y, (tuple, list)) else (y,)


def is_float(a: Any) -> bool:
    return isinstance(a, np.ndarray) and a.dtype.kind == "f"


def as_doubles(a: Any) -> Any:
    return a.astype(np.float64) if is_float(a) else a


def plain(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Normal numbers."""
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


def step(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Parameter, gradient and moments; of a whole network, dicts of them."""
    hyper = {**params, "lr": 0.01, **({"t": 3} if "adam" in case.op else {})}
    each = [[rng.normal(size=shape) ** (2 if name == "v" else 1) for shape in case.shapes] for name in OPS[case.op].args]
    if "net" not in dict(case.about):
        return [arrays[0] for arrays in each], hyper
    return [{f"p{i}": a.astype(case.dtype) for i, a in enumerate(arrays)} for arrays in each], hyper


def targets(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Logits and classes, as rows with a single one."""
    b, c = case.shapes[0]
    return [3 * rng.normal(size=(b, c)), np.eye(c)[rng.integers(0, c, b)]], params


def bias_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A gradient, and what bias_activation returned."""
    x, b = case.shapes
    return [rng.normal(size=x), OPS["bias_activation"].definition(rng.normal(size=x), rng.normal(size=b), **params)], params


def loss_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Logarithms of probabilities, classes, and the gradient of each loss."""
    (z, t), _ = targets(case, rng, params)
    return [OPS["cross_entropy"].definition(z, t)[1], t, rng.normal(size=len(z))], params


def norm_grad(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A gradient, the arguments of normalise, and its mean and variance."""
    x, w, b = (rng.normal(size=shape) for shape in case.shapes)
    _, mean, var = OPS["normalise"].definition(x, w, b, **{k: v for k, v in params.items() if k in ("axis", "eps")})
    return [rng.normal(size=x.shape), x, w, mean, var], {**params, "b_shape": b.shape}


def narrow(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Integers of eight bits over their whole range, the left ones with a sign or without."""
    left = np.dtype(dict(case.about).get("left", "int8"))
    kinds = [left, *[np.dtype("int8")] * (len(case.shapes) - 1)]
    return [rng.integers(np.iinfo(d).min, np.iinfo(d).max + 1, s, d) for s, d in zip(case.shapes, kinds, strict=True)], params


def quantised(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Sums, or what sums are made of, and the multipliers by which a rule makes codes of them."""
    codes = {"dtype": "uint8", "zero_point": 5, "pool": 1}
    if case.op == "requantise":
        return drawn(rng, case.shapes[0], params["rule"], **codes)  # type: ignore[no-any-return]
    pictures = case.op.startswith("conv")
    (_, *by), how = drawn(rng, (0, case.shapes[1][0 if pictures else 1]), params["rule"], **codes)
    return [*narrow(case, rng, params)[0], *by], {**params, **{k: v for k, v in how.items() if pictures or k != "pool"}}


CHAINS: dict[str, tuple[Any, ...]] = {  # filters, kernel and geometry of a convolution, or outputs of a product
    "LeNet-5": ((6, (5, 5), {"padding": 2, "pool": 2}), (16, (5, 5), {"pool": 2}), 120, 84, 10),
    "CNN 32-64-64": (*[(filters, (3, 3), {"padding": 1, "pool": pool}) for filters, pool in ((32, 2), (64, 2), (64, 1))], 10),
    "a 3x3 layer": ((64, (3, 3), {"padding": 1}),),
}


def chained(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Codes, and the layers of a network."""
    (shape,), calls = case.shapes, []
    x = drawn_codes(rng, shape, "uint8")
    for layer in CHAINS[dict(case.about)["layers"]]:
        kind = calls[-1].params["dtype"] if calls and calls[-1].arrays else "uint8"
        if isinstance(layer, tuple):
            filters, kernel, geometry = layer
            calls.append(drawn_conv(rng, shape, filters, kernel, kind, "fp32", **geometry))
        else:
            if len(shape) == 4:
                calls.append(Call("flatten"))
                shape = calls[-1].shape(shape)
            calls.append(drawn_dense(rng, shape[1], layer, kind, "fp32"))
        shape = calls[-1].shape(shape)
    return [x], {**params, "chain": Chain(tuple(calls))}


def sampled(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The gradient of a sparse product, the dense factor, and where the sparse one has numbers."""
    (_, indices, indptr, b), _ = pruned(case, rng, params)
    return [rng.normal(size=(len(indptr) - 1, b.shape[1])), b, indices, indptr], params


def pruned(case: Case, rng: np.random.Generator, params: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """A matrix with zeros at random, in the form that the op wants, and a dense one."""
    (m, k), (_, _n) = case.shapes
    density, b = dict(case.about)["density"], rng.normal(size=case.shapes[1])
    if case.op == "matmul_2to4":
        kept = np.sort(np.argsort(rng.random((m, k // 4, 4)), axis=2)[:, :, :2], axis=2)
        return [rng.normal(size=(m, k // 2)), kept.reshape(m, k // 2).astype(np.uint8), b], params
    r = c = BLOCK if case.op == "matmul_bsr" else 1
    rows, columns = np.nonzero(rng.random((m // r, k // c)) < density)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m // r))])
    data = rng.normal(size=(len(rows), r, c))
    return [data if r > 1 else data.reshape(-1), columns.astype(np.int32), starts.astype(np.int64), b], params


BLOCK = 16  # rows and columns of a block that is kept or not

DRAWS: dict[str, Draw] = {  # ops whose arguments are not just normal numbers of these shapes
    "conv2d_input_grad": conv_input_grad,
    "conv2d_weight_grad": conv_weight_grad,
    "max_pool2d_input_grad": max_pool_grad,
    "avg_pool2d_input_grad": avg_pool_grad,
    "cross_entropy": targets,
    "cross_entropy_grad": loss_grad,
    "normalise_grad": norm_grad,
    "bias_activation_grad": bias_grad,
    "matmul_csr_data_grad": sampled,
    **dict.fromkeys(("matmul_csr", "matmul_bsr", "matmul_2to4"), pruned),
    "matmul_int8": narrow,
    "conv2d_int8": narrow,
    **dict.fromkeys(("requantise", "matmul_codes", "conv2d_codes"), quantised),
    "network_codes": chained,
    **{f"{name}_step": step for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")},
}
REFERENCES: dict[str, Callable[..., Any]] = {  # what stands for a definition in float64, where it takes no float64 or takes for ever
    "matmul_int8": lambda a, b: np.matmul(a.astype(np.float64), b.astype(np.float64)),  # exact up to 2 ** 53
}
