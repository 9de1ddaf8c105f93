"""Named lists of cases: over each of them a geometric mean is taken, against the peers and the target that stand beside it.

`SUITES` is all there is. A file that adds suites of its own kind of case is named in `MORE`.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks.cases import Case, Pairs, Shape


@dataclass(frozen=True)
class Suite:
    """A row of the table of targets.

    what     is raced
    against  the peers that are raced if nobody says otherwise; the target holds against each of those in `of`
    of       the peers of the target, all of `against` if empty
    target   the geometric mean of (their time) / (our time) that we want; None if there is none
    cases    the list over which the mean is taken
    """

    name: str
    what: str
    cases: Sequence[Any]
    against: tuple[str, ...] = ("numpy", "torch")
    of: tuple[str, ...] = ()
    target: float | None = None


def square(*sizes: int, **about: Any) -> list[Case]:
    return [Case("matmul", ((n, n), (n, n)), "square", **about) for n in sizes]


def product(m: int, k: int, n: int, stands_for: str, op: str = "matmul", **about: Any) -> Case:
    return Case(op, ((m, k), (k, n)), stands_for, **about)


def shapes_of_products(sizes: Sequence[int], ragged: Sequence[int], **about: Any) -> list[Case]:
    """The list behind the targets of products: squares, ragged, transposed, skinny."""
    return [
        *square(*sizes, **about),
        *[product(n, n, n, "ragged square", **about) for n in ragged],
        product(255, 129, 63, "nothing divides anything", **about),
        *[product(n, n, n, "square, transposed", turned=t, **about) for n in (256, 1000) for t in ((0,), (1,), (0, 1))],
        product(4096, 64, 16, "tall and narrow", **about),
        product(16, 4096, 64, "a long sum", **about),
        product(2048, 2048, 8, "a few columns", **about),
        product(8, 2048, 2048, "a few rows", **about),
    ]


def layers(batch: int, **about: Any) -> list[Case]:
    """MLP 784-300-100-10: forward, gradients in x and in w."""
    sizes = (784, 300, 100, 10)
    return [
        case
        for k, n in itertools.pairwise(sizes)
        for case in (
            product(batch, k, n, f"MLP, layer {k} to {n}", **about),
            product(batch, n, k, "its gradient in x", turned=(1,), **about),
            product(k, batch, n, "its gradient in w", turned=(0,), **about),
        )
    ]


NETWORKS = [
    *layers(32),
    *layers(128),
    product(1, 784, 300, "MLP, one example"),
    product(1, 1024, 1024, "one row"),
    product(1000, 1000, 1, "one column"),
    product(1024, 256, 768, "transformer of width 256, 8 x 128 tokens: queries, keys, values"),
    product(1024, 256, 1024, "its feed-forward layer, up"),
    product(1024, 1024, 256, "its feed-forward layer, down"),
    Case("matmul", ((32, 128, 64), (32, 64, 128)), "its attention, 4 heads of 64: scores"),
    Case("matmul", ((32, 128, 128), (32, 128, 64)), "its attention: mixing the values"),
    Case("matmul", ((128, 64, 16), (128, 16, 64)), "attention of many small heads"),
    *square(32),
]


def dense(b: int, k: int, n: int, stands_for: str, activation: str) -> Case:
    return Case("dense", ((b, k), (k, n), (n,)), stands_for, (("activation", activation),))


DENSE = [
    *[dense(b, 784, 300, "MLP, first layer", "relu") for b in (1, 32, 128, 512)],
    *[dense(b, 300, 100, "MLP, second layer", "relu") for b in (32, 128)],
    *[dense(b, 100, 10, "MLP, last layer", "identity") for b in (32, 128)],
    dense(128, 400, 120, "LeNet-5, first dense layer", "tanh"),
    dense(1024, 256, 1024, "transformer of width 256, feed-forward", "relu"),
    *[
        Case("dense_grad", ((b, 100), (b, 100), (b, 300), (300, 100)), "MLP, second layer, back", (("activation", "relu"),))
        for b in (32, 128)
    ],
]

LOW = [(n, n, n, "square") for n in (256, 512, 1000, 1024, 2048)] + [
    (255, 129, 63, "nothing divides anything"),
    (128, 784, 300, "MLP, first layer"),
    (512, 784, 300, "MLP, first layer"),
    (1024, 256, 1024, "transformer of width 256, feed-forward"),
    (1024, 1024, 256, "transformer of width 256, back down"),
    (4096, 512, 512, "many rows"),
    (32, 1024, 1024, "few rows"),
]
BF16 = [product(m, k, n, text, "matmul_bf16", dtype="bfloat16") for m, k, n, text in LOW]
INT8 = [product(m, k, n, text, "matmul_int8", dtype="int8") for m, k, n, text in LOW]
INT8 += [product(n, n, n, "square, u8 x s8", "matmul_int8", dtype="int8", about=(("left", "uint8"),)) for n in (512, 1024)]
RULE: Pairs = (("rule", "q31-single"),)
CODES = [
    Case("requantise", ((64, 64, 7, 7),), "CNN 32-64-64, layer 3: sums to codes", RULE, dtype="int8"),
    Case("matmul_codes", ((64, 784), (784, 300)), "MLP, first layer", RULE, dtype="int8", about=(("left", "uint8"),)),
    Case(
        "conv2d_codes",
        ((64, 32, 14, 14), (64, 32, 3, 3)),
        "CNN 32-64-64, layer 2",
        (*RULE, ("padding", 1)),
        dtype="int8",
        about=(("left", "uint8"),),
    ),
    *[
        Case("network_codes", (x,), f"{layers} in one call", dtype="int8", about=(("layers", layers),))
        for layers, x in (("LeNet-5", (64, 1, 28, 28)), ("CNN 32-64-64", (64, 1, 28, 28)), ("a 3x3 layer", (1, 64, 56, 56)))
    ],
]


def gradients(x: Shape, w: Shape, stands_for: str, *params: tuple[str, Any], first: bool = False, **about: Any) -> list[Case]:
    """A convolution and its two transposes; the first layer of a network has no use for the gradient in x."""
    names = ["conv2d", "conv2d_weight_grad"] if first else ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]
    return [Case(name, (x, w), stands_for, params, **about) for name in names]


PADDED: Pairs = (("padding", 1),)
HALVED: Pairs = (("stride", 2), ("padding", 1))
LAYERS: list[tuple[Shape, Shape, str, Pairs]] = [  # one picture, weights
    ((1, 28, 28), (6, 1, 5, 5), "LeNet-5, layer 1", (("padding", 2),)),
    ((6, 14, 14), (16, 6, 5, 5), "LeNet-5, layer 2", ()),
    ((1, 28, 28), (32, 1, 3, 3), "CNN 32-64-64, layer 1", PADDED),
    ((32, 14, 14), (64, 32, 3, 3), "CNN 32-64-64, layer 2", PADDED),
    ((64, 7, 7), (64, 64, 3, 3), "CNN 32-64-64, layer 3", PADDED),
    ((3, 32, 32), (16, 3, 3, 3), "ResNet8, stem", PADDED),
    ((16, 32, 32), (16, 16, 3, 3), "ResNet8, block 1", PADDED),
    ((16, 32, 32), (32, 16, 3, 3), "ResNet8, block 2, halving", HALVED),
    ((32, 16, 16), (32, 32, 3, 3), "ResNet8, block 2", PADDED),
    ((16, 32, 32), (32, 16, 1, 1), "ResNet8, block 2, shortcut", (("stride", 2),)),
    ((32, 16, 16), (64, 32, 3, 3), "ResNet8, block 3, halving", HALVED),
    ((64, 8, 8), (64, 64, 3, 3), "ResNet8, block 3", PADDED),
    ((32, 16, 16), (64, 32, 1, 1), "ResNet8, block 3, shortcut", (("stride", 2),)),
]
CONV = [
    case for batch in (32, 128) for x, w, text, params in LAYERS for case in gradients((batch, *x), w, text, *params, first=x[0] in (1, 3))
]
MORE_CONV = [
    *gradients((32, 20, 12, 12), (50, 20, 5, 5), "LeNet-5 of Caffe, layer 2"),
    *gradients((32, 32, 28, 28), (64, 32, 3, 3), "a 3x3 layer, large pictures", *PADDED),
    *gradients((32, 64, 14, 14), (64, 1, 3, 3), "depthwise", ("padding", 1), ("groups", 64)),
    *gradients((32, 64, 14, 14), (64, 64, 1, 1), "1x1"),
    *gradients((32, 16, 14, 14), (16, 16, 3, 3), "dilated", ("padding", 2), ("dilation", 2)),
    *[Case("conv2d", ((1, *x), w), f"{text}, one picture", params) for x, w, text, params in LAYERS[1:5:2]],
]
CONV_INT8 = [Case("conv2d_int8", ((32, *x), w), text, params, dtype="int8") for x, w, text, params in LAYERS[:5]]

POOL = [
    Case(name, (shape,), stands_for, (("kernel_size", 2),))
    for name in ("max_pool2d_with_indices", "max_pool2d_input_grad", "avg_pool2d", "avg_pool2d_input_grad")
    for shape, stands_for in [
        ((32, 6, 28, 28), "LeNet-5, first"),
        ((128, 16, 10, 10), "LeNet-5, second"),
        ((32, 64, 28, 28), "a wider network"),
    ]
]
LOSS = [
    Case(op, (shape, shape), text)
    for op in ("cross_entropy", "cross_entropy_grad")
    for shape, text in [((32, 10), "MLP"), ((128, 10), "LeNet-5"), ((512, 1000), "many classes")]
]
NORM = [
    *[Case(op, ((n, d), (d,), (d,)), "layer norm") for op in ("normalise", "normalise_grad") for n, d in ((1024, 256), (128, 100))],
    *[
        Case(op, (x, (x[1], 1, 1), (x[1], 1, 1)), text, (("axis", (0, 2, 3)),))
        for op in ("normalise", "normalise_grad")
        for x, text in (((32, 16, 32, 32), "batch norm, ResNet8, block 1"), ((32, 64, 8, 8), "batch norm, ResNet8, block 3"))
    ],
    Case("softmax", ((4096, 128),), "attention, 4 heads for 8 x 128 tokens"),
    Case("log_softmax", ((1024, 1000),), "a thousand classes"),
]
BIAS = [
    Case(op, (x, (x[1],)), text, (("activation", activation),))
    for op in ("bias_activation", "bias_activation_grad")
    for x, text, activation in [
        ((32, 6, 28, 28), "LeNet-5, layer 1", "tanh"),
        ((32, 32, 28, 28), "CNN 32-64-64, layer 1", "relu"),
        ((128, 64, 14, 14), "CNN 32-64-64, layer 2", "relu"),
        ((128, 300), "MLP, first layer", "relu"),
    ]
]

NETS: dict[str, tuple[Shape, ...]] = {
    "MLP 784-300-100-10": ((784, 300), (300,), (300, 100), (100,), (100, 10), (10,)),
    "LeNet-5": ((6, 1, 5, 5), (6,), (16, 6, 5, 5), (16,), (400, 120), (120,), (120, 84), (84,), (84, 10), (10,)),
    "ResNet8": (
        (16, 3, 3, 3), (16,), (16,), *[(16, 16, 3, 3), (16,), (16,)] * 2, (32, 16, 3, 3), (32,), (32,), (32, 32, 3, 3), (32,), (32,),
        (32, 16, 1, 1), (64, 32, 3, 3), (64,), (64,), (64, 64, 3, 3), (64,), (64,), (64, 32, 1, 1), (64, 10), (10,),
    ),
    "transformer of width 256, 4 layers": ((256,), (256,), (256, 768), (256, 256), (256,), (256,), (256, 1024), (1024, 256)) * 4,
}  # fmt: skip


def steps(name: str, *sizes: int) -> list[Case]:
    return [Case(f"{name}_step", ((size,),), f"{size:,} parameters in one array") for size in sizes]


ADAM = [*steps("adam", 100_000, 235_200, 1_000_000, 4_000_000, 20_000_000)]
ADAM_SMALL = [*steps("adam", 1_000, 4_000, 16_000)]
ADAM_TEN = [
    Case("adam_step", ((size,),) * 10, f"ten arrays of {size:,} parameters", about=(("net", f"ten arrays of {size}"),))
    for size in (1_000, 4_000, 16_000)
]
ADAM_NETS = [Case("adam_step", shapes, f"all parameters of {net}", about=(("net", net),)) for net, shapes in NETS.items()]
OPTIMISERS = [
    case for name in ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adamw") for case in steps(name, 1_000, 235_200, 4_000_000)
]


def sparse(density: float, m: int = 300, k: int = 784, n: int = 128, op: str = "matmul_csr", text: str = "pruned MLP, first layer") -> Case:
    return Case(op, ((m, k), (k, n)), text, about=(("density", density),))


DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
SPARSE = [
    *[sparse(density) for density in DENSITIES],
    *[sparse(density, 1024, 1024, 128, text="pruned square layer") for density in DENSITIES],
]
TILED = [
    *[sparse(density, 1024, 1024, 128, "matmul_bsr", "blocks of a square layer pruned") for density in (0.5, 0.2, 0.05)],
    *[sparse(density, 300, 784, 128, "matmul_csr_data_grad", "gradient of a pruned MLP, first layer") for density in (0.2, 0.05)],
    sparse(0.5, 1024, 1024, 128, "matmul_2to4", "two of four weights of a square layer"),
]

KERNELS = [
    Suite("sgemm", "matmul, float32", shapes_of_products((64, 128, 256, 512, 1024, 2048, 4096), (65, 100, 333, 1021)), target=1.0),
    Suite(
        "dgemm", "matmul, float64", shapes_of_products((64, 128, 256, 512, 1024, 2048), (65, 333), dtype="float64"),
        of=("numpy",), target=0.95,
    ),
    Suite("products", "matmul, float32, of networks", NETWORKS),
    Suite("dense", "product, bias and activation in one", DENSE),
    Suite("bf16", "matmul in bfloat16, float32 sums", BF16, ("torch", "f32"), ("torch",), 0.8),
    Suite("bf16-gain", "the same against our float32; the target is for matrix registers (AMX) only", BF16, ("f32",), target=4.0),
    Suite("int8", "matmul in int8, exact", INT8, ("onnxruntime", "torch", "f32"), ("onnxruntime", "torch"), 0.8),
    Suite("conv", "conv2d and its gradients, batch 32 and 128", CONV, ("torch", "onnxruntime"), ("torch",), 1.5),
    Suite("conv-more", "other convolutions", MORE_CONV, ("torch", "onnxruntime")),
    Suite("conv-int8", "conv2d in int8, exact", CONV_INT8, ("onnxruntime", "f32")),
    Suite("codes", "sums of int8 products to codes, alone and with the products", CODES, ("numpy",)),
    Suite("adam", "Adam, 100 K to 20 M parameters in one array", ADAM, of=("torch",), target=1.0),
    Suite("adam-small", "Adam, 1 K to 16 K parameters in one array", ADAM_SMALL, of=("torch",), target=5.0),
    Suite("adam-ten", "Adam, ten arrays of 1 K to 16 K parameters in one call", ADAM_TEN),
    Suite("adam-nets", "Adam, all arrays of a network in one call", ADAM_NETS),
    Suite("optimisers", "the other optimisers", OPTIMISERS),
    Suite("pool", "pooling and its transposes", POOL),
    Suite("loss", "softmax and cross-entropy, forward and backward", LOSS),
    Suite("norm", "normalisation, forward and backward", NORM),
    Suite("bias", "bias and activation, forward and backward", BIAS),
    Suite("sparse", "sparse matrix (CSR) times dense", SPARSE, ("scipy", "torch", "dense")),
    Suite("sparse-blocks", "block-sparse and 2:4 times dense, gradients", TILED, ("scipy", "torch", "dense")),
]  # fmt: skip
MORE = ("benchmarks.steps",)  # modules with a list SUITES


@lru_cache(maxsize=1)
def suites() -> dict[str, Suite]:
    """All suites by name."""
    there = [name for name in MORE if importlib.util.find_spec(name)]
    return {suite.name: suite for suite in [*KERNELS, *(s for name in there for s in importlib.import_module(name).SUITES)]}


def cases_of(op: str) -> list[Any]:
    """Every case of an op, each once."""
    return list(dict.fromkeys(case for suite in suites().values() for case in suite.cases if case.op == op))
