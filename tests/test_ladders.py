"""The laws of rungs, over every rung of every ladder of every backend that can run here.

A rung is judged by its op's definition in float64, and the definition shares no code with it. What is allowed is the rung's own
`rtol`, relative to the definition applied to absolute values: the natural scale of the rounding in a sum of products.
"""

import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import tally
from hypothesis import given
from hypothesis import strategies as st
from strategies import LAYOUTS, calls, laid_out

import engine  # noqa: F401  (registers the ops)
import kernels
from engine.op import Op
from engine.traced import OPS
from kernels.registry import Rung

ROOT = Path(__file__).resolve().parent.parent
LADDERS = [kernels.ladder(op, backend) for backend in kernels.backends() for op in kernels.ops(backend)]
RUNGS = [rung for ladder in LADDERS for rung in ladder]
CASES = [(rung, dtype) for rung in RUNGS for dtype in rung.rtol]
SERVING = [rung for rung in RUNGS if rung.serves]


def named(case):
    rung, dtype = case
    return f"{rung.backend}-{rung.op}-{rung.step}-{dtype.replace(' ', '-')}"


# The laws, as functions that assert.


def same_bits(a, b):
    """Compared here, not in an assertion: pytest would look for the first difference in a megabyte for minutes."""
    return bool(a.tobytes() == b.tobytes())


def tupled(y):
    return y if isinstance(y, tuple) else (y,)


def cast(args, dtype):
    """The arguments in another precision; or, if `dtype` names one for each, "uint8 int8", in these."""
    if len(str(dtype).split()) == len(args) > 1 and isinstance(dtype, str):
        return [np.asarray(a).astype(name, copy=False) for a, name in zip(args, dtype.split(), strict=True)]
    return [a.astype(dtype, copy=False) if a.dtype.kind == "f" else a for a in map(np.asarray, args)]  # strides stay


def scale(op, args, params, want):
    """What a rounding error is relative to. A step subtracts from p, so p itself counts."""
    if op.name.startswith("max_pool2d_with"):
        return [np.zeros(w.shape) for w in want]  # chosen, not computed
    if op.name.startswith("normalise"):
        return scale_of_norms(op, args, params)
    if op.name == "dense":  # a squashed sum has the error of the sum
        params = {**params, "activation": "identity"}
    size = tupled(op.definition(*[np.abs(a) if a.dtype.kind == "f" else a for a in args], **params))
    p = np.abs(args[0]) if op.name.endswith("_step") else 0.0
    return [np.abs(s) + np.abs(w) + p for s, w in zip(size, want, strict=True)]


def scale_of_norms(op, args, params):
    """Where a mean is subtracted, absolute values cancel: the sizes of what is subtracted count."""
    x, w = args[:2] if op.name == "normalise" else args[1:3]
    mean, var = op.definition(*args, **params)[1:] if op.name == "normalise" else args[3:]
    s = np.sqrt(var + params["eps"])
    if op.name == "normalise":
        x_hat = (np.abs(x) + np.abs(mean)) / s
        means = [np.mean(np.abs(x) ** p, axis=params["axis"], keepdims=True) if x.size else mean for p in (1, 2)]
        return [np.abs(w) * x_hat + np.abs(args[2]), *means]
    gy, h = np.abs(args[0]), np.abs(args[0] * w)
    minus, *sums = op.definition(gy, np.abs(x), np.abs(w), -np.abs(mean), var, **params)
    return [2 * h / s - minus, *sums]


def agrees(rung, dtype, args, params):
    """The rung says what the definition says in float64, within its rtol, in shape and dtype, in memory of its own."""
    op, args = OPS[rung.op], cast(args, dtype)
    doubles = cast(args, np.float64)
    want = tupled(op.definition(*doubles, **params))
    got = tupled(rung.run(*args, **params))
    assert len(got) == len(want)
    for g, w, s in zip(got, map(np.asarray, want), scale(op, doubles, params, want), strict=True):
        assert g.shape == w.shape, f"shape {g.shape}, the definition has {w.shape}"
        assert g.dtype == (np.dtype(dtype) if w.dtype.kind == "f" else w.dtype), f"{dtype} in, {g.dtype} out"
        error = np.abs(g - w)
        assert np.all(error <= rung.rtol[dtype] * s), f"off by {np.max(error / np.maximum(s, 1e-300)):.1e}, allowed {rung.rtol[dtype]:.0e}"
        assert g.flags.c_contiguous and g.flags.writeable
        assert not any(np.shares_memory(g, a) for a in args)


def leaves_alone(rung, args, params):
    """The rung does not write into its arguments."""
    before = [np.copy(a) for a in args]
    rung.run(*args, **params)
    assert all(np.array_equal(a, b) for a, b in zip(args, before, strict=True)), "an argument was written into"


def one_serves(ladder):
    """Steps count from 1, each with an idea of its own; exactly one serves."""
    assert [rung.step for rung in ladder] == list(range(1, len(ladder) + 1))
    assert len({rung.idea for rung in ladder}) == len(ladder)
    assert all(len(rung.idea) > 10 for rung in ladder)
    assert sum(rung.serves for rung in ladder) == 1, "exactly one rung serves"


def has_the_signature_of_its_op(rung):
    """Arguments positional and parameters by name, with the op's names and defaults."""
    parameters = inspect.signature(rung.run, follow_wrapped=False).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert keywords.pop("out", None) is None, "where to write the result, if given: a kernel's own parameter"
    wanted = inspect.signature(OPS[rung.op].definition).parameters.values()
    assert len(positional) == len(OPS[rung.op].args)
    assert keywords == {p.name: p.default for p in wanted if p.kind is p.KEYWORD_ONLY}


# Sizes that a sampler does not draw: over the edges of blocks and tiles, long enough to be cut for threads.


def matrices(m, k, n, left=(), right=()):
    return lambda rng: ([rng.normal(size=(*left, m, k)), rng.normal(size=(*right, k, n))], {})


def a_layer(m, k, n, activation):
    def draw(rng):
        return [rng.normal(size=m + (k,)), rng.normal(size=(k, n)), rng.normal(size=n)], {"activation": activation}

    return draw


def small_numbers(m, k, n, left=(), right=(), a=np.uint8):
    """Mostly the extreme ones: where a sum of two products leaves 16 bits, and a sign counts most."""

    def draw(rng):
        return [
            np.where(rng.random(shape) < 0.2, rng.integers(low, high + 1, shape), rng.choice([low, high], shape)).astype(dtype)
            for shape, dtype, low, high in [((*left, m, k), a, np.iinfo(a).min, np.iinfo(a).max), ((*right, k, n), np.int8, -128, 127)]
        ], {}

    return draw


def all_alike(m, k, n, a, b):
    return lambda rng: ([np.full((m, k), a), np.full((k, n), b)], {})


def convolution(what, x, w, **geometry):
    def draw(rng):
        full = {**OPS["conv2d"].defaults, **geometry}
        a, b = rng.normal(size=x), rng.normal(size=w)
        gy = rng.normal(size=OPS["conv2d"](a, b, **full).shape)
        if what == "conv2d":
            return [a, b], full
        if what == "conv2d_input_grad":
            return [gy, b], {**full, "input_size": x[2:]}
        return [a, gy], {**full, "kernel_size": w[2:]}

    return draw


def small_pictures(x, w, dtype=np.uint8, **geometry):
    def draw(rng):
        (a, b), _ = small_numbers(x[0], int(np.prod(x[1:])), w[0], a=dtype)(rng)
        b = rng.choice([-128, 127, 3], size=w).astype(np.int8)
        return [a.reshape(x), b], {**OPS["conv2d_int8"].defaults, **geometry}

    return draw


def pooling(what, x, **geometry):
    def draw(rng):
        full = {**OPS[what].defaults, **geometry}
        a = np.round(rng.normal(size=x), 1)  # with ties
        forward = "max_pool2d_with_indices" if what.startswith("max") else "avg_pool2d"
        y = tupled(OPS[forward](a, **geometry))
        if what == forward:
            return [a], full
        if what == "max_pool2d_input_grad":
            return [rng.normal(size=y[0].shape), y[1]], {"input_size": x[2:]}
        return [rng.normal(size=y[0].shape)], {**full, "input_size": x[2:]}

    return draw


def stepping(what, size):
    def draw(rng):
        arrays = {name: rng.normal(size=size) for name in OPS[what].args}
        hyper = {**OPS[what].defaults, "lr": 0.01}
        return [np.square(a) if name == "v" else a for name, a in arrays.items()], {**hyper, "t": 3} if "adam" in what else hyper

    return draw


def biased(what, shape, **params):
    def draw(rng):
        full = {**OPS[what].defaults, **params}
        x, b = rng.normal(size=shape), rng.normal(size=shape[full["axis"]])
        return ([x, b] if what == "bias_activation" else [rng.normal(size=shape), OPS["bias_activation"](x, b, **full)]), full

    return draw


def a_layer_back(before, k, n, activation):
    def draw(rng):
        gy, y, x, w = [rng.normal(size=shape) for shape in ((*before, n), (*before, n), (*before, k), (k, n))]
        return [gy, np.tanh(y), x, w], {"activation": activation}

    return draw


def classified(what, *shape):
    def draw(rng):
        z, t = 5 * rng.normal(size=shape), rng.multinomial(3, [1 / shape[-1]] * shape[-1], size=shape[:-1]) / 3
        if what == "cross_entropy":
            return [z, t], {}
        return [OPS["cross_entropy"](z, t)[1], t, rng.normal(size=shape[:-1])], {}

    return draw


def normalised(what, shape, axis, small):
    def draw(rng):
        x, w, b = 3 + 2 * rng.normal(size=shape), rng.normal(size=small), rng.normal(size=small)
        params = {"axis": axis, "eps": 1e-5}
        if what == "normalise":
            return [x, w, b], params
        _, mean, var = OPS["normalise"](x, w, b, **params)
        return [rng.normal(size=shape), x, w, mean, var], {**params, "b_shape": small}

    return draw


def sparse(what, m, k, n, density, *, block=(1, 1), tidy=True):
    """A matrix of blocks, some of its rows empty. Not `tidy`: columns in any order, and some of them twice."""

    def draw(rng):
        b = rng.normal(size=(k, n))
        if what == "matmul_2to4":
            return [rng.normal(size=(m, k // 2)), rng.integers(0, 4, (m, k // 2)).astype(np.uint8), b], {}
        kept = rng.random((m, k)) < density * (rng.random((m, 1)) > 0.2)
        rows, indices = np.nonzero(kept)
        if not tidy:
            indices = rng.integers(0, k, len(rows))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=m))])
        data = rng.normal(size=(len(rows), *block) if what == "matmul_bsr" else len(rows))
        if what == "matmul_bsr":
            b = rng.normal(size=(k * block[1], n))
        if what == "matmul_csr_data_grad":
            return [rng.normal(size=(m, n)), b, indices.astype(np.int32), indptr], {}
        return [data, indices.astype(np.int32), indptr, b], {}

    return draw


def rows(shape, axis):
    return lambda rng: ([5 * rng.normal(size=shape)], {"axis": axis})


LARGE = {
    "matmul": [
        matrices(67, 263, 541),  # over every edge: of tiles, of blocks, of what is worth packing
        matrices(1000, 70, 1030),  # more blocks of rows than each make their own copy of b
        matrices(5, 257, 1100),
        matrices(600, 100, 37),
        matrices(1, 600, 1),
        matrices(33, 40, 31, left=(3, 5), right=(3, 5)),
        matrices(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        matrices(40, 50, 60, left=(12,)),
        matrices(300, 520, 700),  # worth copying to where it is read in line, and longer than a block of sums
        matrices(8, 300, 600),
        matrices(3, 200, 301),
        matrices(70, 200, 3),  # narrow
        matrices(2, 3, 200, left=(3, 1), right=(4,)),
        matrices(65, 66, 74),  # a few columns are left over
    ],
    "dense": [
        a_layer((67,), 263, 541, "relu"),
        a_layer((130,), 1100, 70, "relu"),  # longer than two blocks of sums
        a_layer((5, 40), 257, 110, "tanh"),
        a_layer((300,), 200, 500, "sigmoid"),
        a_layer((1,), 700, 300, "relu"),
        a_layer((), 40, 70, "sigmoid"),
        a_layer((70,), 200, 3, "relu"),  # narrow
        a_layer((60,), 300, 1, "identity"),
        a_layer((7,), 0, 20, "relu"),
    ],
    "dense_grad": [
        a_layer_back((67,), 263, 541, "relu"),
        a_layer_back((5, 40), 257, 110, "tanh"),
        a_layer_back((1100,), 70, 40, "sigmoid"),  # longer than two blocks of sums
        a_layer_back((), 40, 70, "identity"),
        a_layer_back((1,), 700, 3, "relu"),
        a_layer_back((7,), 0, 20, "relu"),
    ],
    "matmul_bf16": [
        matrices(67, 263, 541),
        matrices(40, 1100, 70),  # longer than a block of words
        matrices(1, 600, 1),
        matrices(5, 257, 1100),
        matrices(33, 40, 31, left=(3, 5), right=(3, 5)),
        matrices(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        matrices(300, 520, 700),
    ],
    "conv2d_int8": [
        small_pictures((3, 3, 28, 28), (6, 3, 5, 5), padding=2, zero_point=127),
        small_pictures((3, 6, 40, 37), (10, 3, 5, 3), np.int8, stride=(2, 1), padding=((0, 3), (1, 0)), groups=2, zero_point=5),
        small_pictures((2, 2, 64, 70), (5, 2, 3, 3), dilation=(2, 3), zero_point=9),
        small_pictures((9, 3, 5, 5), (7, 3, 5, 5), np.int8),
        small_pictures((5, 8, 9, 9), (8, 1, 3, 3), padding=1, groups=8, zero_point=127),  # depthwise
        small_pictures((2, 9, 10, 10), (13, 9, 1, 1), np.int8, stride=3),
        small_pictures((1, 130, 12, 11), (37, 130, 3, 3), padding=1, zero_point=100),  # longer than a block of words
        small_pictures((1, 64, 30, 30), (40, 64, 3, 3), np.int8, padding=1, stride=2, zero_point=3),
    ],
    "matmul_int8": [
        small_numbers(67, 263, 541),
        small_numbers(40, 2100, 70, a=np.int8),  # longer than a block of words
        small_numbers(1, 600, 1),
        small_numbers(5, 257, 1100, a=np.int8),
        small_numbers(33, 40, 31, left=(3, 5), right=(3, 5)),
        small_numbers(9, 20, 70, left=(4, 1), right=(3, 1, 5)),
        small_numbers(300, 520, 700),
        all_alike(20, 1030, 35, np.uint8(255), np.int8(-128)),
        all_alike(20, 1030, 35, np.int8(-128), np.int8(-128)),
        all_alike(20, 1030, 35, np.uint8(255), np.int8(127)),
    ],
    **{
        op: [
            convolution(op, (33, 3, 28, 28), (6, 3, 5, 5), padding=2),
            convolution(op, (5, 6, 40, 37), (10, 3, 5, 3), stride=(2, 1), padding=((0, 3), (1, 0)), groups=2),
            convolution(op, (2, 2, 64, 70), (5, 2, 3, 3), dilation=(2, 3)),  # longer than a block
            convolution(op, (40, 3, 5, 5), (7, 3, 5, 5)),  # one window: pictures side by side
            convolution(op, (13, 8, 9, 9), (8, 1, 3, 3), padding=1, groups=8),  # depthwise
            convolution(op, (6, 9, 10, 10), (13, 9, 1, 1), stride=3),
            convolution(op, (21, 33, 9, 12), (35, 33, 3, 3), padding=1),  # by patches; five pictures are left over
            convolution(op, (18, 32, 7, 6), (32, 32, 3, 3), padding=((0, 2), (1, 0))),
            convolution(op, (1, 3, 40, 40), (9, 3, 5, 5), padding=2),  # one picture, rows longer than a vector
        ]
        for op in ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")
    },
    **{
        op: [
            pooling(op, (32, 7, 29, 28), kernel_size=2, stride=None, padding=0),
            pooling(op, (3, 40, 31, 30), kernel_size=3, stride=2, padding=1),
        ]
        for op in ("max_pool2d_with_indices", "max_pool2d_input_grad", "avg_pool2d", "avg_pool2d_input_grad")
    },
    **{
        op: [
            biased(op, (37, 7, 29, 28), activation="relu"),
            biased(op, (3, 5, 9000), activation="tanh"),
            biased(op, (700, 130), axis=-1, activation="sigmoid"),
            biased(op, (130, 600), axis=0),
        ]
        for op in ("bias_activation", "bias_activation_grad")
    },
    **{
        op: [classified(op, 300, 10), classified(op, 7, 5, 1003), classified(op, 3000, 37)]
        for op in ("cross_entropy", "cross_entropy_grad")
    },
    **{
        op: [
            normalised(op, (700, 131), -1, (131,)),  # layer norm
            normalised(op, (9, 5, 4, 700), (-2, -1), (4, 700)),
            normalised(op, (40, 7, 29, 28), (0, 2, 3), (7, 1, 1)),  # batch norm
            normalised(op, (90, 33), 0, (33,)),
            normalised(op, (4, 60, 5, 7), (1, 3), (5, 1)),  # others
            normalised(op, (4, 60, 5, 7), (0, 2), ()),
            normalised(op, (30, 40, 50), None, (1, 40, 1)),
        ]
        for op in ("normalise", "normalise_grad")
    },
    **{
        op: [
            sparse(op, 67, 264, 141, 0.3),
            sparse(op, 300, 784, 64, 0.1, tidy=False),
            sparse(op, 250, 200, 130, 1.0, tidy=False),  # full, and cut for threads
            sparse(op, 40, 90, 37, 0.0),  # all empty
            sparse(op, 3, 400, 100, 0.01),  # b is not worth copying
            sparse(op, 90, 300, 1, 0.5),
            sparse(op, 700, 1000, 1, 0.05, tidy=False),
            sparse(op, 33, 70, 18, 0.5),
        ]
        for op in ("matmul_csr", "matmul_csr_data_grad")
    },
    "matmul_bsr": [
        sparse("matmul_bsr", m, k, n, density, block=block, tidy=tidy)
        for m, k, n, density, block, tidy in [
            (67, 64, 141, 0.3, (4, 4), True),
            (30, 20, 64, 0.2, (16, 1), False),
            (60, 30, 100, 1.0, (13, 7), False),
            (90, 20, 33, 0.3, (1, 16), True),
            (3, 90, 70, 0.02, (3, 2), True),
            (20, 30, 1, 0.5, (2, 2), False),
            (10, 10, 7, 0.0, (5, 3), True),
        ]
    ],
    "matmul_2to4": [
        sparse("matmul_2to4", m, k, n, 0.5)
        for m, k, n in [(67, 264, 141), (300, 784, 64), (90, 300, 1), (33, 140, 18), (1, 404, 7), (5, 36, 1), (250, 200, 100)]
    ],
    **{op: [rows((300, 37), -1), rows((7, 5, 1003), (1, 2)), rows((40, 50, 30), 1)] for op in ("softmax", "log_softmax")},
    **{op: [stepping(op, (3 * (1 << 16) + 5,)), stepping(op, (7, 11, 13))] for op in OPS if op.endswith("_step")},
}


def test_every_ladder_has_large_cases():
    assert {rung.op for rung in RUNGS} <= set(LARGE)


# Over all rungs.


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: f"{ladder[0].backend}-{ladder[0].op}")
def test_exactly_one_rung_serves(ladder):
    one_serves(ladder)
    tally.ran(ladder[0].backend, "one rung serves")


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: f"{rung.backend}-{rung.op}-{rung.step}")
def test_a_rung_has_the_signature_of_its_op(rung):
    has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("ladder", LADDERS, ids=lambda ladder: f"{ladder[0].backend}-{ladder[0].op}")
def test_a_ladder_says_what_arrays_it_wants(ladder):
    assert ladder[0].contract.wants.count(",") + 1 == len(OPS[ladder[0].op].args)


@pytest.mark.parametrize("case", CASES, ids=named)
@given(data=st.data(), layout=st.sampled_from(LAYOUTS))
def test_a_rung_agrees_with_the_definition(case, data, layout):
    rung, dtype = case
    args, params = data.draw(calls(OPS[rung.op]))
    args = [laid_out(a, layout) for a in cast(args, dtype)]
    leaves_alone(rung, args, params)
    agrees(rung, dtype, args, params)
    tally.ran(rung.backend, "a rung agrees")


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_rung_agrees_at_sizes_that_nothing_divides(case):
    rung, dtype = case
    for seed, draw in enumerate(LARGE[rung.op]):
        args, params = draw(np.random.default_rng(seed))
        layout = LAYOUTS[seed % len(LAYOUTS)]
        agrees(rung, dtype, [laid_out(a, layout) for a in cast(args, dtype)], params)
        tally.ran(rung.backend, "a rung agrees, large")


@pytest.mark.parametrize("rung", [r for r in SERVING if r.op.startswith("max_pool2d_with")], ids=lambda r: r.backend)
def test_the_largest_is_the_first_of_equals_and_nan_is_larger_than_all(rung):
    rng = np.random.default_rng(0)
    for step in kernels.ladder(rung.op, rung.backend):
        x = rng.choice([0.0, 1.0, -np.inf, np.inf, np.nan], size=(3, 4, 9, 38), p=[0.3, 0.3, 0.2, 0.1, 0.1])
        for params in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2}):
            for numbers in (x, x.astype(np.float32)):
                want = OPS[rung.op].definition(numbers, **params)
                for g, w in zip(step.run(numbers, **params), want, strict=True):
                    np.testing.assert_array_equal(g, w)


def test_windows_that_only_look_like_two_by_two_are_put_back_right():
    """Three by three, stride 2, padding 1: half as many windows as pixels, but they overlap."""
    rng = np.random.default_rng(0)
    for size in ((12, 12), (13, 37), (40, 7)):
        x = rng.normal(size=(2, 3, *size))
        window = {"kernel_size": 3, "stride": 2, "padding": ((1, 0), (1, 0))}
        y, indices = OPS["max_pool2d_with_indices"](x, **window)
        assert y.shape[2:] == (size[0] // 2, size[1] // 2)
        want = OPS["max_pool2d_input_grad"](y, indices, input_size=size)
        for step in kernels.ladder("max_pool2d_input_grad", "cpu"):
            np.testing.assert_allclose(step.run(y, indices, input_size=size), want, rtol=1e-15)


# Cross-entropy and norms.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [1e-3, 1.0, 15.0, 40.0, 87.5, 103.0, 500.0])
def test_a_right_answer_keeps_its_digits_in_every_rung(dtype, gap):
    """p - 1 would be 0 here, and so would the loss."""
    z, t = np.array([[gap, 0.0, 0.0], [gap, gap, 0.0]], dtype), np.array([[1.0, 0, 0], [0.5, 0.5, 0]], dtype)
    want = OPS["cross_entropy"].definition(z.astype(np.float64), t.astype(np.float64))
    few, least = 8 * np.finfo(dtype).eps, float(np.finfo(dtype).smallest_subnormal)
    for step in kernels.ladder("cross_entropy", "cpu"):
        for g, w in zip(step.run(z, t), want, strict=True):
            np.testing.assert_allclose(g, w, rtol=few, atol=2 * least)
    for step in kernels.ladder("cross_entropy_grad", "cpu"):
        log_p, target = want[1][:1].astype(dtype), t[:1]  # the other row is the difference of two equal numbers
        slope = OPS["cross_entropy_grad"].definition(log_p.astype(np.float64), target.astype(np.float64), np.ones(1))
        np.testing.assert_allclose(step.run(log_p, target, np.ones(1, dtype)), slope, rtol=few, atol=2 * least)


def test_logits_without_an_answer_are_nan_and_classes_ruled_out_count_nothing():
    inf, nan = np.inf, np.nan
    z = np.array([[-inf, 1, 2], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [0, 1, nan], [-inf, 0, -inf]])
    t = np.array([[0.0, 1, 0]] * 5 + [[1.0, 0, 0]])
    with np.errstate(all="ignore"):
        y, log_p = OPS["cross_entropy"].definition(z, t)
    for step in kernels.ladder("cross_entropy", "cpu"):
        np.testing.assert_allclose(step.run(z, t)[0], y, rtol=1e-15)
        np.testing.assert_allclose(step.run(z, t)[1], log_p, rtol=1e-15)
        few = step.run(np.tile(z, 9)[:, :19].astype(np.float32), np.tile(t, 9)[:, :19].astype(np.float32))[1]
        np.testing.assert_array_equal(np.isnan(few).all(axis=1), [False, True, True, True, True, False])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_values_have_variance_0_and_give_the_shift_in_every_rung(dtype):
    for value in (0.1, 3e4, -7.3):
        x = np.full((5, 333), value, dtype)
        w, b = np.ones(333, dtype), np.arange(333, dtype=dtype)
        for step in kernels.ladder("normalise", "cpu"):
            for axis, scale, shift in ((-1, w, b), (0, w, b)):
                y, mean, var = step.run(x, scale, shift, axis=axis, eps=1e-5)
                np.testing.assert_array_equal(var, np.zeros_like(var))
                np.testing.assert_array_equal(mean, np.full_like(mean, x[0, 0]))
                np.testing.assert_array_equal(y, np.broadcast_to(b, x.shape))


@pytest.mark.parametrize("axis, says", [(2, "axis 2 is out of bounds"), ((0, -2), "names an axis twice")])
def test_an_axis_that_is_not_there_is_said_by_the_op(axis, says):
    x = np.ones((3, 4))
    with kernels.use("cpu"):
        for call in (lambda: OPS["softmax"](x, axis=axis), lambda: OPS["log_softmax"](x, axis=axis)):
            with pytest.raises(ValueError, match=says):
                call()


@pytest.mark.parametrize("axis, small", [(-1, (300,)), ((0, 2), (7, 1))])
def test_a_mean_that_only_rounding_keeps_from_the_values(axis, small):
    """The squares about a mean that is off cancel to nothing: 1e4 + tiny differences in single precision."""
    rng = np.random.default_rng(0)
    x = (1e4 + 0.004 * rng.normal(size=(6, 7, 300))).astype(np.float32)
    w, b = np.ones(small, np.float32), np.zeros(small, np.float32)
    want = OPS["normalise"].definition(*[a.astype(np.float64) for a in (x, w, b)], axis=axis, eps=0.0)
    for step in kernels.ladder("normalise", "cpu"):
        np.testing.assert_allclose(step.run(x, w, b, axis=axis, eps=0.0)[2], want[2], rtol=2e-2)


# Kernels that take dicts of arrays: all names in one call.

BY_NAME = [(rung, dtype) for rung, dtype in CASES if rung.contract.dicts]
SHAPES = {"w": (5, 7), "b": (), "none": (0, 3), "one": (1,), "long": (3 * (1 << 16) + 5,), "k": (2, 3, 4, 6), "row": (1, 67)}


def model(rung, dtype, seed, layout="C"):
    """Dicts of arrays for each argument, and parameters: a weight decay for each name."""
    rng = np.random.default_rng(seed)
    shapes = SHAPES if seed == 0 else {**SHAPES, "long": (261,)}
    given = [{name: np.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()} for _ in OPS[rung.op].args]
    if OPS[rung.op].args[-1] == "v":
        given[-1] = {name: np.square(x) for name, x in given[-1].items()}
    hyper = {**OPS[rung.op].defaults, "lr": 0.01, "weight_decay": {name: 0.1 * (len(name) % 2) for name in SHAPES}}
    given = [{name: laid_out(x, layout) for name, x in d.items()} for d in given]
    return given, {**hyper, "t": 3} if "adam" in rung.op else hyper


def name_by_name(rung, given, params):
    """What a call for each name returns."""
    decay = params["weight_decay"]
    return {name: tupled(rung.run(*[d[name] for d in given], **{**params, "weight_decay": decay[name]})) for name in given[0]}


def does_all_names_at_once(rung, given, params):
    """One call over dicts returns, name by name and bit by bit, what a call for each name returns, in new arrays; it writes nothing."""
    want, before = name_by_name(rung, given, params), [{name: x.copy() for name, x in d.items()} for d in given]
    got = rung.run(*given, **params)
    assert type(got) is tuple
    for k, new in enumerate(got):
        assert list(new) == list(given[0])
        for name, x in new.items():
            assert x.dtype == given[0][name].dtype and x.shape == want[name][k].shape and same_bits(x, want[name][k]), name
            assert x.flags.c_contiguous and x.flags.writeable and not any(np.shares_memory(x, d[name]) for d in given)
    for d, old in zip(given, before, strict=True):
        assert all(same_bits(x, old[name]) for name, x in d.items()), "an argument was written into"


def fenced(x, fences):
    """A copy of x in the middle of memory that nobody may write to."""
    room = np.full(x.size + 128, 7.0, x.dtype)
    fences += [(room[:64], room[:64].copy()), (room[-64:], room[-64:].copy())]
    inside = room[64 : 64 + x.size].reshape(x.shape)
    inside[...] = x
    return inside


def writes_where_it_is_told_and_nowhere_else(rung, given, params):
    """With out=, in place or elsewhere, the results are the same bits, in the arrays named there; gradients and what lies around stay."""
    want = name_by_name(rung, given, params)
    count = len(next(iter(want.values())))
    for places in ("in place", "elsewhere", "moments in place"):
        fences = []
        args = [{name: fenced(x, fences) for name, x in d.items()} for d in given]
        own = [args[0], *args[2:]]
        new = [{name: fenced(np.zeros_like(x), fences) for name, x in d.items()} for d in own]
        out = {"in place": own, "elsewhere": new, "moments in place": [None, *own[1:]]}[places]
        got = rung.run(*args, **params, out=out)
        assert len(got) == count
        for k, (result, to) in enumerate(zip(got, out, strict=True)):
            for name, x in result.items():
                assert same_bits(x, want[name][k]), f"{places}: {name}"
                assert to is None or x is to[name] or np.shares_memory(x, to[name]) or x.size == 0
        kept = args if places == "elsewhere" else [args[1]] if places == "in place" else args[:2]
        for d, old in zip(kept, given if places == "elsewhere" else [given[1]] if places == "in place" else given[:2], strict=True):
            assert all(same_bits(x, old[name]) for name, x in d.items()), f"{places}: an argument was written into"
        assert all(same_bits(x, old) for x, old in fences), f"{places}: written outside of the arrays"


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_one_call_does_what_a_call_for_each_name_does(case):
    rung, dtype = case
    for seed, layout in enumerate(LAYOUTS):
        does_all_names_at_once(rung, *model(rung, dtype, seed, layout))
        tally.ran(rung.backend, "all names at once")


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_results_go_where_they_are_told(case):
    rung, dtype = case
    writes_where_it_is_told_and_nowhere_else(rung, *model(rung, dtype, 0))
    tally.ran(rung.backend, "results where they are told")


@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_a_model_without_parameters(case):
    rung, dtype = case
    _, params = model(rung, dtype, 0)
    given = [{} for _ in OPS[rung.op].args]
    assert rung(*given, **{**params, "weight_decay": {}}) == rung(*given, **{**params, "weight_decay": 0.1}) == ({},) * (len(given) - 1)


@pytest.mark.parametrize("rung", [r for r in SERVING if r.contract.dicts], ids=lambda r: f"{r.backend}-{r.op}")
def test_the_number_of_threads_changes_no_bit_of_a_model(rung, monkeypatch):
    from kernels.cpu import threads, update

    given, params = model(rung, np.float32, 0)
    answers = []
    for count in (1, 2, 3):
        for module in (threads, update):
            monkeypatch.setattr(module, "threads", lambda count=count: count)
        monkeypatch.setattr(threads, "_pool", None)
        answers.append([x.tobytes() for new in rung.run(*given, **params) for x in new.values()])
    assert answers[0] == answers[1] == answers[2]


def test_a_job_waits_for_a_helper_that_took_its_place_before_the_rest_began():
    from threading import Event, Thread

    from kernels.cpu.threads import Job

    began, go_on, done = Event(), Event(), []

    def run(piece):
        if piece == 0:
            began.set()
            go_on.wait(60)
        done.append(piece)

    job = Job(run, [(0,), (1,)], helpers=1)
    helper = Thread(target=job.help)
    helper.start()
    began.wait(60)
    rest = Thread(target=job.finish)
    rest.start()
    rest.join(0.05)
    waits = rest.is_alive()
    go_on.set()
    rest.join(60)
    assert waits, "it is done while a helper is still at work on a piece"
    assert sorted(done) == [0, 1]
    helper.join(60)


@pytest.mark.parametrize("most", [1, 16, 100, 10**9])
def test_pieces_of_a_table_are_all_of_it(most):
    from kernels.cpu.table import cut

    sizes = np.array([0, 5, 1, 200, 3, 0, 64])
    table = np.stack([sizes, 1000 * np.arange(7), 1000 * np.arange(7) + 10**6], axis=1)
    pieces = cut(table, np.arange(7), np.zeros((7, 2), np.float32), most)
    elements = [(g, a + 4 * i, b + 4 * i) for t, groups, _ in pieces for (n, a, b), g in zip(t, groups, strict=True) for i in range(n)]
    assert elements == [(g, a + 4 * i, b + 4 * i) for g, (n, a, b) in enumerate(table) for i in range(n)]
    assert all(t[:, 0].max() <= most and t[:, 0].sum() < 2 * most + 1 for t, _, _ in pieces)
    assert len(pieces) > 1 or most > sizes.sum()


@pytest.mark.parametrize(
    "break_it, error, says",
    [
        (lambda p, g, m, v: g.pop("w"), ValueError, r"names in g are not those in the first dict: missing \['w'\], not there \[\]"),
        (lambda p, g, m, v: v.update(z=v["w"]), ValueError, r"names in v .* missing \[\], not there \['z'\]"),
        (lambda p, g, m, v: g.update(w=g["w"].T), ValueError, r"g of 'w' is \(7, 5\) float64; wanted is \(5, 7\) float64"),
        (lambda p, g, m, v: m.update(b=np.float32(1)), ValueError, r"moment of 'b' is \(\) float32; wanted is \(\) float64"),
        (lambda p, g, m, v: g.update(w="much"), ValueError, "g of 'w' is .*; wanted is"),
        (lambda p, g, m, v: p.update({k: x.astype(int) for k, x in p.items()}), TypeError, "one of float32, float64; given int64"),
    ],
)
def test_dicts_that_do_not_fit(break_it, error, says):
    for rung in kernels.ladder("adam_step", "cpu"):
        given, params = model(rung, np.float64, 0)
        break_it(*given)
        with pytest.raises(error, match=says) as e:
            rung(*given, **params)
        assert str(e.value).startswith("adam_step on cpu: ")


def test_dicts_and_arrays_are_not_mixed():
    rung = kernels.serving("sgd_step", "cpu")
    x = {"w": np.ones(3)}
    for args in [(x, np.ones(3)), (np.ones(3), x)]:
        with pytest.raises(TypeError, match="sgd_step on cpu: all are arrays, or all are dicts of arrays"):
            rung(*args, lr=0.1)
    with pytest.raises(ValueError, match="the names in weight_decay are not those in the first dict: missing"):
        rung(x, x, lr=0.1, weight_decay={"b": 0.1})
    with pytest.raises(ValueError, match=r"the names in out\[0\] are not those in the first dict"):
        rung(x, x, lr=0.1, out=({"b": np.ones(3)},))


@pytest.mark.parametrize(
    "out, says",
    [
        (lambda p, g, m: ({"w": p["w"][:3]}, m), r"out\[0\] of 'w' is \(3,\) float64; wanted is \(6,\) float64, in C order and writable"),
        (lambda p, g, m: ({"w": np.zeros(12)[::2]}, m), r"out\[0\] of 'w' is \(6,\) float64; .* in C order"),
        (lambda p, g, m: ({"w": np.zeros(6, "f4")}, m), "float32; wanted is"),
        (lambda p, g, m: (g, m), r"out\[0\] of 'w' has memory in common with another array"),
        (lambda p, g, m: (m, p), "has memory in common with another array"),
        (lambda p, g, m: (p, p), "has memory in common with another array"),
        (lambda p, g, m: ({"w": m["room"][1:7]}, None), "has memory in common with another array"),
    ],
)
def test_results_that_cannot_go_there(out, says):
    for rung in kernels.ladder("momentum_step", "cpu"):
        room = np.arange(8.0)
        p, g, m = {"w": np.ones(6)}, {"w": np.ones(6)}, {"w": room[:6], "room": room}
        to = out(p, g, m)
        del m["room"]
        before = [x["w"].copy() for x in (p, g, m)]
        with pytest.raises(ValueError, match=says) as e:
            rung(p, g, m, lr=0.1, out=to)
        assert str(e.value).startswith("momentum_step on cpu: ")
        assert all(np.array_equal(x["w"], old) for x, old in zip((p, g, m), before, strict=True))


def test_single_arrays_go_where_they_are_told_too():
    for rung in kernels.ladder("momentum_step", "cpu"):
        p, g, m = np.arange(5.0), np.ones(5), np.ones(5)
        want = rung(p, g, m, lr=0.1)
        got = rung(p, g, m, lr=0.1, out=(p, None))
        assert got[0] is p and np.array_equal(p, want[0]) and np.array_equal(got[1], want[1]) and np.array_equal(m, np.ones(5))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("case", BY_NAME, ids=named)
def test_one_array_goes_where_it_is_told(case, known, monkeypatch):
    from kernels.cpu import table

    rung, dtype = case
    monkeypatch.setattr(table, "known", lambda: known)
    for layout in LAYOUTS:
        given, params = model(rung, dtype, 0, layout)
        want = name_by_name(rung, given, params)
        for name in given[0]:
            args, fences = [d[name] for d in given], []
            own = [fenced(x, fences) for x in (args[0], *args[2:])]
            old = args[1].copy()
            got = rung(own[0], args[1], *own[1:], **{**params, "weight_decay": params["weight_decay"][name]}, out=own)
            assert all(x is to and same_bits(x, w) for x, to, w in zip(got, own, want[name], strict=True)), name
            assert same_bits(args[1], old) and all(same_bits(x, before) for x, before in fences)


@pytest.mark.parametrize(
    "out, says",
    [
        (lambda p, g, m: (p[:3], m), r"out\[0\] is \(3,\) float64; wanted is \(6,\) float64, in C order and writable"),
        (lambda p, g, m: (np.zeros(12)[::2], m), r"out\[0\] is \(6,\) float64; .* in C order"),
        (lambda p, g, m: (np.zeros(6, "f4"), m), "float32; wanted is"),
        (lambda p, g, m: (np.broadcast_to(p[:1], 6), m), "writable"),
        (lambda p, g, m: (p, "m"), r"out\[1\]"),
        (lambda p, g, m: (p,), "out has 1 places for 2 results"),
        (lambda p, g, m: (g, m), r"out\[0\] has memory in common with another array"),
        (lambda p, g, m: (m, p), "has memory in common with another array"),
        (lambda p, g, m: (p, p), "has memory in common with another array"),
    ],
)
def test_results_of_one_array_that_cannot_go_there(out, says):
    for rung in kernels.ladder("momentum_step", "cpu"):
        p, g, m = np.ones(6), np.ones(6), np.arange(6.0)
        before = [x.copy() for x in (p, g, m)]
        with pytest.raises((ValueError, TypeError), match=says) as e:
            rung(p, g, m, lr=0.1, out=out(p, g, m))
        assert str(e.value).startswith("momentum_step on cpu: ")
        assert all(np.array_equal(x, old) for x, old in zip((p, g, m), before, strict=True))


@pytest.mark.parametrize("lr", [1, np.float64(0.5), np.float32(0.5), True])
def test_any_number_will_do_for_a_rate(lr):
    for rung in kernels.ladder("sgd_step", "cpu"):
        p = np.ones(3, "f4")
        assert np.array_equal(rung(p, np.ones(3, "f4"), lr=lr, out=(p,))[0], np.full(3, 1 - float(lr), "f4"))


# What `use` puts in force.


def test_the_engine_runs_the_kernel_only_on_dtypes_that_it_takes():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 4)), rng.integers(-3, 4, (4, 5))
    with kernels.use("cpu", require=("matmul",)):
        for x, w in [
            (a.astype("f4"), b),
            (a.astype("f4"), b * 1.0),
            (a.astype("f2"), b.astype("f2")),
            (b.T, b),
            (a.astype(">f8"), b * 1.0),
        ]:
            got, want = OPS["matmul"](x, w), x @ w
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


def test_a_kernel_called_by_itself_names_the_dtypes_that_it_takes():
    with pytest.raises(TypeError) as e:
        kernels.serving("matmul", "cpu")(np.ones((2, 2), np.float32), np.ones((2, 2), np.int64))
    assert str(e.value) == (
        "matmul on cpu: wants all arrays in one of float32, float64\n  wants  a: ... m k   b: ... k n\n"
        "  given  a: (2, 2) float32   b: (2, 2) int64"
    )


def test_what_is_required_and_missing_is_said_at_the_door():
    with pytest.raises(kernels.MissingKernel, match="no kernel on cpu for tanh"), kernels.use("cpu", require=("matmul", "tanh")):
        pass
    with pytest.raises(kernels.MissingKernel, match="no backend 'abacus'"), kernels.use("abacus"):
        pass


def test_a_kernel_that_refuses_is_explained_by_its_op():
    args = [np.ones(3)] * 4
    with kernels.use("cpu"), pytest.raises(ValueError, match="adam_step: t is 0, but counts steps from 1"):
        OPS["adam_step"](*args, lr=0.1, t=0)


# Threads.


@pytest.mark.parametrize("rung", [r for r in SERVING if r.backend == "cpu"], ids=lambda r: r.op)
def test_the_number_of_threads_changes_no_bit(rung, monkeypatch):
    from kernels.cpu import threads

    answers = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "threads", lambda count=count: count)
        monkeypatch.setattr(threads, "_pool", None)
        for seed, draw in enumerate(LARGE[rung.op]):
            args, params = draw(np.random.default_rng(seed))
            answers.append((seed, tupled(rung.run(*cast(args, np.float32), **params))))
    for seed, answer in answers:
        for got, want in zip(answer, answers[seed][1], strict=True):
            assert same_bits(got, want)
    tally.ran(rung.backend, "threads change no bit", len(answers))


def test_many_python_threads_may_call_kernels_at_once():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 200)).astype("f4"), rng.normal(size=(200, 200)).astype("f4")
    product = kernels.serving("matmul", "cpu")
    want, found = product(a, b), []

    def work():
        found.extend(np.array_equal(product(a, b), want) for _ in range(20))

    crowd = [threading.Thread(target=work) for _ in range(6)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(timeout=60)
    assert found == [True] * 120


def run_alone(code, **environment):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_may_call_kernels_that_its_parent_has_called():
    done = run_alone(
        """
        import os, sys
        import numpy as np
        import kernels
        a = np.random.default_rng(0).normal(size=(300, 300))
        product = kernels.serving("matmul", "cpu")
        want = product(a, a)
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(product(a, a), want) else 3)
        status = os.waitpid(child, 0)[1]
        assert np.array_equal(product(a, a), want)
        print(status)
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"


def test_compiled_kernels_go_where_numba_is_told(tmp_path):
    done = run_alone(
        """
        import numpy as np
        import kernels
        kernels.serving("sgd_step", "cpu")(np.ones(3), np.ones(3), lr=0.1)
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("update.sgd_together*.nbc"))


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
def test_what_lies_in_fresh_memory_does_not_show(op):
    """The room that a kernel takes holds what was there before: here nan, for sizes that were not asked for before."""
    rng = np.random.default_rng(0)
    run = kernels.serving(op, "cpu").run
    for n, h, w in itertools.product((1, 2, 3, 5, 7, 17), range(4, 12), (5, 9, 21)):
        x, k, gy = [rng.normal(size=shape).astype("f4") for shape in ((n, 5, h, w), (9, 5, 3, 3), (n, 9, h, w))]
        args, more = {
            "conv2d": ((x, k), {}),
            "conv2d_input_grad": ((gy, k), {"input_size": (h, w)}),
            "conv2d_weight_grad": ((x, gy), {"kernel_size": (3, 3)}),
        }[op]
        full = [np.full(1 << bits, np.nan, "f4") for bits in range(8, 19) for _ in range(6)]
        del full
        assert np.all(np.isfinite(run(*args, padding=1, **more))), (n, h, w)


# Products.


def products():
    return {r.name: r.run for r in kernels.ladder("matmul", "cpu")}


@pytest.mark.parametrize("m, k, n", [(67, 600, 541), (300, 520, 700), (8, 300, 600), (13, 17, 19), (130, 1100, 65)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_copy_no_layout_and_no_tile_changes_a_bit_of_a_product(m, k, n, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
    want = products()["by_size"](a, b)
    for name in ("register_tile", "by_size", "threaded"):
        for x in (a, np.asfortranarray(a), laid_out(a, "stepped")):
            for y in (b, np.asfortranarray(b), laid_out(b, "reversed")):
                assert products()[name](x, y).tobytes() == want.tobytes(), name
    if k <= 512:  # one block of sums, no inner products: then the place in c does not count either
        assert products()["by_size"](a[1:-1], b[:, 3:-1]).tobytes() == want[1:-1, 3:-1].tobytes()


@pytest.mark.parametrize("rung", [r for op in ("matmul", "dense") for r in kernels.ladder(op, "cpu")], ids=lambda r: f"{r.op}-{r.step}")
def test_a_product_is_written_where_one_wants_it(rung):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(13, 40)), rng.normal(size=(40, 21))
    given = [a, b] if rung.op == "matmul" else [a, b, rng.normal(size=21)]
    room = np.full((13, 21), np.nan)
    assert rung.run(*given, out=room) is room
    np.testing.assert_array_equal(room, rung.run(*given))
    for wrong in (np.empty((13, 22)), np.empty((13, 21), "f4"), np.empty((21, 13)).T):
        with pytest.raises(ValueError, match="out is a NumPy array"):
            rung.run(*given, out=wrong)
    square = np.eye(21)
    with pytest.raises(ValueError, match="shares memory"):
        rung.run(square, square, *given[2:], out=square)


@pytest.mark.parametrize("m, k, n", [(67, 600, 41), (30, 70, 150), (1, 600, 90), (40, 90, 2), (50, 70, 1)])
@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
def test_a_layer_has_the_bits_of_its_three_ops_and_leaves_nan_and_infinity_where_they_were(m, k, n, layout):
    rng = np.random.default_rng(0)
    x, w, b = [rng.normal(size=size).astype("f4") for size in ((m, k), (k, n), (n,))]
    x[m // 2, 1], w[0, n // 2] = np.inf, np.nan
    x, w = laid_out(x, layout), laid_out(w, layout)
    with np.errstate(invalid="ignore"):
        want = products()["by_size"](x, w) + b
        for rung in kernels.ladder("dense", "cpu")[1:]:
            for activation, last in (("identity", want), ("relu", np.maximum(want, 0))):
                np.testing.assert_array_equal(rung.run(x, w, b, activation=activation), last)  # nan equals nan here


@pytest.mark.parametrize("m, k, n", [(5, 3, 7), (14, 20, 33), (1, 40, 150), (3, 40, 1), (40, 70, 2), (30, 600, 18)])
@pytest.mark.parametrize("layout", ["C", "F", "stepped"])
def test_what_is_not_finite_stays_in_its_row_and_column(m, k, n, layout):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    a[m // 2, k // 2], b[k - 1, n - 1], a[0, 0] = np.inf, np.nan, -np.inf
    with np.errstate(invalid="ignore"):
        want = a @ b
    for name in ("register_tile", "by_size", "threaded"):
        got = products()[name](laid_out(a, layout), laid_out(b, layout))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(got[np.isinf(want)], want[np.isinf(want)])


def test_a_product_of_arrays_that_lie_askew_in_memory():
    rng = np.random.default_rng(0)
    room = np.zeros(5 * 7 * 8 + 1, np.uint8)
    askew = room[1:].view(np.float64).reshape(5, 7)
    askew[...] = rng.normal(size=(5, 7))
    assert not askew.flags.aligned
    for name in ("register_tile", "by_size", "threaded"):
        np.testing.assert_allclose(products()[name](askew, askew.T), np.array(askew) @ np.array(askew).T, rtol=1e-13)


def test_compiled_code_is_too_old_when_any_file_that_it_is_made_of_has_changed():
    """Numba has no public word for this; if it changes, this fails, and `kernels/cpu/cache.py` is where to look."""
    from numba import njit

    from kernels.cpu.cache import stamped

    stamp = stamped(njit(cache=True)(products))._cache._cache_file._source_stamp
    assert {"features.py", "gemm.py", "tile.py", "vector.py"} <= {name for name, _, _ in stamp}


def test_the_units_that_a_function_calls_are_found_among_its_names():
    """If one is not, LLVM ends the process that loads the function from the cache."""
    from kernels.cpu import gemm, implicit
    from kernels.cpu.cache import units

    def names(function):
        return {unit.function.__name__ for unit in units(function)}

    assert names(gemm.product) == {"by_shape"}
    assert len(names(implicit.multiply.called_unit.function)) == len(implicit.SPREAD)  # in closures
    assert {"lay", "multiply", "positions"} <= names(implicit.to_x.py_func)  # also in what is inlined
    assert not names(lambda: [gemm.by_shape])  # as an attribute: so no unit may be called like that


def test_what_is_compiled_in_one_process_is_loaded_in_the_next(tmp_path):
    code = """
        import numpy as np
        import kernels
        from kernels.cpu.cache import units
        from kernels.cpu.gemm import of_matrices, product

        def hits(function):
            forms = {(unit, number): form for unit in units(function) for number, form in unit.forms.items()}
            return [form.cache_hits for form in forms.values()] + [hit for unit, _ in forms for hit in hits(unit.function)]

        a = np.arange(12.0).reshape(3, 4)
        assert np.array_equal(kernels.serving("matmul", "cpu")(a, a.T), np.matmul(a, a.T))
        print(sorted(set(hits(product) + list(of_matrices["d"].stats.cache_hits.values()))), len(hits(product)) > 10)
    """
    first, second = [run_alone(code, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert first.stdout.strip() == "[0] True", first.stderr
    assert second.stdout.strip() == "[1] True", second.stderr


# Tiers of the CPU.


def available_tiers():
    from kernels.cpu.features import available

    return available()


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_that_this_machine_has_multiplies_right(tier):
    if tier not in available_tiers():
        tally.not_run(f"the machine does not have {tier}")
        pytest.skip(f"the machine does not have {tier}")
    done = run_alone(
        """
        import numpy as np
        import kernels
        from kernels.cpu import features
        rng = np.random.default_rng(0)
        product = kernels.serving("matmul", "cpu")
        for m, k, n in [(1, 1, 1), (37, 41, 43), (5, 0, 3), (300, 520, 700), (1, 90, 300), (90, 300, 1), (3, 90, 70), (70, 300, 18)]:
            a, b = rng.normal(size=(m, k)).astype("f4"), rng.normal(size=(k, n)).astype("f4")
            for x in (a, np.asfortranarray(a), a[:, ::-1]):
                for y in (b, np.asfortranarray(b), b[::-1]):
                    error = np.abs(product(x, y) - x.astype("f8") @ y.astype("f8"))
                    assert np.all(error <= 1e-5 * (np.abs(x).astype("f8") @ np.abs(y).astype("f8"))), (m, k, n)
        x, w, b = [rng.normal(size=size).astype("f4") for size in ((37, 600), (600, 43), (43,))]
        y = kernels.serving("dense", "cpu")(x, w, b, activation="relu")
        assert np.array_equal(y, np.maximum(product(x, w) + b, 0))
        print(features.tier(), features.lanes(32))
        """,
        GNOMON_CPU=tier,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [tier, {"generic": "4", "avx2": "8"}.get(tier, "16")]


@pytest.mark.parametrize("tier", ["generic", "avx2"])  # from avx512 on all are the same here: what runs anyway
def test_each_tier_that_this_machine_has_convolves_right(tier):
    if tier not in available_tiers():
        tally.not_run(f"the machine does not have {tier}")
        pytest.skip(f"the machine does not have {tier}")
    done = run_alone(
        """
        import numpy as np
        import engine, kernels
        from engine.traced import OPS
        from kernels.cpu import features
        rng = np.random.default_rng(0)
        for x, w, geometry in [
            ((19, 5, 9, 8), (13, 5, 3, 3), {"padding": 1}),  # bundles
            ((3, 4, 11, 37), (7, 4, 3, 5), {"padding": 2}),  # side by side
            ((3, 4, 7, 5), (6, 2, 3, 3), {"groups": 2, "stride": 2, "padding": 1}),  # a few pictures
            ((17, 32, 6, 7), (33, 32, 3, 3), {"padding": 1}),  # patches
        ]:
            params = {**OPS["conv2d"].defaults, **geometry}
            x, w = rng.normal(size=x).astype("f4"), rng.normal(size=w).astype("f4")
            gy = rng.normal(size=OPS["conv2d"].definition(x, w, **params).shape).astype("f4")
            for op, args, more in [
                ("conv2d", (x, w), {}),
                ("conv2d_input_grad", (gy, w), {"input_size": x.shape[2:]}),
                ("conv2d_weight_grad", (x, gy), {"kernel_size": w.shape[2:]}),
            ]:
                size = OPS[op].definition(*[np.abs(a).astype("f8") for a in args], **params, **more)
                want = OPS[op].definition(*[a.astype("f8") for a in args], **params, **more)
                assert np.all(np.abs(kernels.serving(op, "cpu")(*args, **params, **more) - want) <= 1e-5 * size), (op, geometry)
        print(features.tier())
        """,
        GNOMON_CPU=tier,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [tier]


def test_patches_round_relative_to_any_pixel_of_a_window_times_any_weight():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(16, 32, 12, 12)).astype("f4"), rng.normal(size=(32, 32, 3, 3)).astype("f4")
    x[..., 5] *= 1e4
    w[..., 2] *= 1e4  # large pixels never meet large weights in the windows of column 6
    params = {**OPS["conv2d"].defaults, "padding": 1}
    doubles, eps = [a.astype("f8") for a in (x, w)], np.finfo("f4").eps
    want, size = [OPS["conv2d"].definition(*arrays, **params) for arrays in (doubles, list(map(np.abs, doubles)))]
    any_weight = np.broadcast_to(np.abs(doubles[1]).sum(axis=(2, 3), keepdims=True), w.shape)
    crossed = OPS["conv2d"].definition(np.abs(doubles[0]), any_weight, **params)
    windows, patches = [np.abs(r.run(x, w, **params) - want) for r in kernels.ladder("conv2d", "cpu")[-2:]]
    assert np.all(windows <= 16 * eps * size)
    assert np.all(patches <= 16 * eps * crossed)
    assert np.any(patches > 16 * eps * size), "then hold this rung to the bound of the others, and say so"


NARROW = """
    import numpy as np
    import kernels
    from kernels.cpu import features
    rng = np.random.default_rng(0)

    def ints(dtype, *shape):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return np.where(rng.random(shape) < 0.3, rng.integers(low, high + 1, shape), rng.choice([low, high], shape)).astype(dtype)

    def layouts(x):
        return x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::-2]

    whole, bf16 = kernels.serving("matmul_int8", "cpu"), kernels.serving("matmul_bf16", "cpu")
    for m, k, n in [(1, 1, 1), (37, 41, 43), (5, 0, 3), (70, 1100, 50), (3, 90, 70), (130, 64, 33), (20, 1030, 18)]:
        for dtype in (np.uint8, np.int8):
            for x in layouts(ints(dtype, m, k)):
                for y in layouts(ints(np.int8, k, n)):
                    assert np.array_equal(whole(x, y), x.astype("i4") @ y.astype("i4")), (m, k, n, dtype)
        for x in layouts(rng.integers(-64, 65, (m, k)).astype("f4")):  # bfloat16 as they are
            for y in layouts(rng.integers(-64, 65, (k, n)).astype("f4")):
                assert np.array_equal(bf16(x, y), x @ y), (m, k, n)
    special = np.array([1.00390625, 1.01171875, -3.4e38, np.inf, -np.inf, np.nan, 1e-39, -0.0, 2.0**-126, 0.1], "f4")[:, None]
    want = np.array([1.0, 1.015625, -np.inf, np.inf, -np.inf, np.nan, 0.0, 0.0, 2.0**-126, 0.10009765625], "f4")
    assert np.array_equal(bf16(special, np.ones((1, 1), "f4"))[:, 0], want, equal_nan=True)
    assert np.array_equal(bf16(np.ones((9, 1), "f4"), special.T)[4], want, equal_nan=True)
"""

CONVOLVED = """
    from engine.ops.int8 import conv2d_int8
    conv = kernels.serving("conv2d_int8", "cpu")
    for x, w, geometry in [((2, 5, 9, 10), (7, 5, 3, 3), {"padding": 1}), ((1, 8, 7, 7), (8, 1, 3, 3), {"stride": 2, "groups": 8})]:
        for dtype in (np.uint8, np.int8):
            a, b = ints(dtype, *x), ints(np.int8, *w)
            want = conv2d_int8(a, b, zero_point=100, **geometry)
            assert np.array_equal(conv(a, b, zero_point=100, **geometry), want), (x, dtype)
"""


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_multiplies_narrow_numbers_right(tier):
    if tier not in available_tiers():
        tally.not_run(f"the machine does not have {tier}")
        pytest.skip(f"the machine does not have {tier}")
    done = run_alone(NARROW + CONVOLVED if tier == "generic" else NARROW, GNOMON_CPU=tier)
    assert done.returncode == 0, done.stderr


def test_a_machine_without_instructions_for_narrow_numbers_multiplies_them_right():
    if "avx2" not in available_tiers():
        tally.not_run("the machine does not have avx2")
        pytest.skip("the machine does not have avx2")
    without = """
    from llvmlite import binding
    found = binding.get_host_cpu_features()
    fewer = type(found)({name: has for name, has in found.items() if "vnni" not in name and "bf16" not in name})
    binding.get_host_cpu_features = lambda: fewer
"""
    done = run_alone(without + NARROW, GNOMON_CPU="avx2")
    assert done.returncode == 0, done.stderr


def test_where_the_system_lends_no_matrix_registers_vectors_do(monkeypatch):
    from kernels.cpu import narrow

    rng = np.random.default_rng(0)
    (a, b), _ = small_numbers(40, 300, 50)(rng)
    monkeypatch.setattr(narrow, "lent", lambda: False)
    np.testing.assert_array_equal(kernels.serving("matmul_int8", "cpu")(a, b), a.astype("i4") @ b.astype("i4"))


def test_many_python_threads_may_use_matrix_registers_at_once():
    (a, b), _ = small_numbers(100, 300, 90, a=np.int8)(np.random.default_rng(0))
    product, want, found = kernels.serving("matmul_int8", "cpu"), a.astype("i4") @ b.astype("i4"), []

    def work():
        found.extend(np.array_equal(product(a, b), want) for _ in range(30))

    crowd = [threading.Thread(target=work) for _ in range(6)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(timeout=60)
    assert found == [True] * 180


@pytest.mark.parametrize("op", ["matmul_int8", "matmul_bf16", "conv2d_int8"])
def test_narrow_products_are_written_where_they_are_told(op):
    (args, params), rung = LARGE[op][0](np.random.default_rng(0)), kernels.serving(op, "cpu")
    args = cast(args, np.float32)
    want = rung(*args, **params)
    out = np.empty_like(want)
    assert rung(*args, out=out, **params) is out
    np.testing.assert_array_equal(out, want)
    with pytest.raises(ValueError, match="out is a NumPy array"):
        rung(*args, out=np.empty(3), **params)


def test_a_zero_point_that_the_dtype_does_not_hold_is_refused_at_the_door():
    x, w = np.zeros((1, 1, 3, 3), np.uint8), np.zeros((1, 1, 3, 3), np.int8)
    with pytest.raises(ValueError, match=r"zero_point is -1, which uint8 does not hold \(0 to 255\)"):
        kernels.serving("conv2d_int8", "cpu")(x, w, zero_point=-1)
    with pytest.raises(TypeError, match="wants all arrays in one of uint8 x int8, int8 x int8"):
        kernels.serving("conv2d_int8", "cpu")(w, x)


def test_a_tier_that_is_unknown_or_not_there_is_refused_by_name():
    done = run_alone("import kernels; kernels.ladder('matmul', 'cpu')", GNOMON_CPU="mmx")
    assert done.returncode != 0
    assert "GNOMON_CPU=mmx: there is no such tier; the tiers are generic, avx2, avx512, amx" in done.stderr
    missing = [tier for tier in ("avx2", "avx512", "amx") if tier not in available_tiers()]
    if missing:
        done = run_alone("import kernels; kernels.ladder('matmul', 'cpu')", GNOMON_CPU=missing[0])
        assert f"GNOMON_CPU={missing[0]}: this machine does not have it; it has {', '.join(available_tiers())}" in done.stderr


def test_a_lower_tier_is_refused_when_numba_has_already_compiled_for_the_machine():
    if len(available_tiers()) == 1:
        pytest.skip("the machine has one tier")
    done = run_alone(
        """
        from numba import njit
        njit(lambda x: x)(1)
        import kernels
        kernels.ladder("matmul", "cpu")
        """,
        GNOMON_CPU="generic",
    )
    assert "GNOMON_CPU=generic: Numba has compiled for the whole machine already; import the kernels before that" in done.stderr


def test_where_numpys_records_are_not_known_python_asks_for_each_array(monkeypatch):
    from kernels.cpu import table

    rng = np.random.default_rng(0)
    model = [{name: rng.random(shape).astype("f4") for name, shape in (("w", (3, 50)), ("b", 7), ("none", (0, 2)))} for _ in range(4)]
    step = kernels.serving("adam_step", "cpu")
    want = step(*model, lr=0.1, t=2)
    assert table.known(), "this NumPy is not as its header says, or the places are wrong: then steps of a model are slow"
    monkeypatch.setattr(table, "known", lambda: False)
    for got, w in zip(step(*model, lr=0.1, t=2), want, strict=True):
        assert all(same_bits(got[name], w[name]) for name in w)
    with pytest.raises(ValueError, match=r"g of 'b' is \(7,\) float64; wanted is \(7,\) float32"):
        step(model[0], {**model[1], "b": np.ones(7)}, *model[2:], lr=0.1, t=2)


# The texts.


def test_the_readme_prints_the_table_of_rungs():
    text = (ROOT / "kernels" / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- rungs -->\n(.*?)<!-- end of rungs -->", text, re.DOTALL)
    assert found, "kernels/README.md has lost the marks between which its table of rungs stands"
    table = "\n".join(kernels.table(backend) for backend in kernels.backends())
    assert found[1].strip() == table.strip(), "stale: run python -m kernels --write"


# Tests of the tests: broken rungs, and the law that catches each.


def broken(run, op="matmul", step=1, idea="broken on purpose", serves=True):
    return Rung(op, "cpu", step, idea, serves, {"float32": 1e-5, "float64": 1e-13}, (), run)


def forgets_the_edge(a, b):
    return a[..., : a.shape[-1] // 4 * 4] @ b[..., : a.shape[-1] // 4 * 4, :]


def reads_as_if_contiguous(a, b):
    flat = np.lib.stride_tricks.as_strided(a, a.shape, np.empty(a.shape, a.dtype).strides)
    return flat @ b


def sums_in_single_precision(a, b):
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)


def answers_in_double(a, b):
    return a.astype(np.float64) @ b.astype(np.float64)


def hands_back_its_argument(a, b):
    return a if np.array_equal(b, np.eye(len(b))) else a @ b


def scales_its_argument(a, b):
    y = a @ b
    a *= 2.0
    return y


@pytest.mark.parametrize(
    "run, dtype",
    [
        (forgets_the_edge, "float64"),
        (reads_as_if_contiguous, "float64"),
        (sums_in_single_precision, "float64"),
        (answers_in_double, "float32"),
        (hands_back_its_argument, "float64"),
    ],
)
def test_a_broken_rung_does_not_agree(run, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 7)), np.eye(7) if run is hands_back_its_argument else rng.normal(size=(7, 6))
    agrees(broken(np.matmul), dtype, [a, b], {})
    with pytest.raises(AssertionError):
        agrees(broken(run), dtype, [laid_out(a.astype(dtype), "stepped"), b], {})


def sums_pairs_in_16_bits(a, b):
    """As vpmaddubsw does, the usual way before there was vpdpbusd."""
    pairs = a[:, :, None].astype(np.int32) * b[None].astype(np.int32)
    pairs = np.add.reduceat(pairs, range(0, a.shape[1], 2), axis=1)
    return np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(axis=1, dtype=np.int32)


def takes_a_for_signed(a, b):
    return a.view(np.int8).astype(np.int32) @ b.astype(np.int32)


@pytest.mark.parametrize("run", [sums_pairs_in_16_bits, takes_a_for_signed])
def test_a_rung_that_is_not_exact_is_caught(run):
    args, params = small_numbers(3, 8, 5)(np.random.default_rng(0))
    exact = {"uint8 int8": 0.0}
    right = Rung("matmul_int8", "cpu", 1, "as it is defined", True, exact, (), OPS["matmul_int8"].definition)
    agrees(right, "uint8 int8", args, params)
    with pytest.raises(AssertionError, match="off by"):
        agrees(Rung("matmul_int8", "cpu", 1, "broken on purpose", True, exact, (), run), "uint8 int8", args, params)


def forgets_eps(x, w, b, *, axis, eps):
    return OPS["normalise"].definition(x, w, b, axis=axis, eps=0.0)


def divides_by_one_less(x, w, b, *, axis, eps):
    y, mean, var = OPS["normalise"].definition(x, w, b, axis=axis, eps=eps)
    count = x.size // mean.size
    return y, mean, var * count / (count - 1)


@pytest.mark.parametrize("run", [forgets_eps, divides_by_one_less])
def test_a_broken_normalisation_does_not_agree(run):
    for draw in LARGE["normalise"][:3]:
        args, params = draw(np.random.default_rng(0))
        agrees(broken(OPS["normalise"].definition, op="normalise"), "float64", args, params)
        with pytest.raises(AssertionError):
            agrees(broken(run, op="normalise"), "float64", args, params)


def test_a_rung_that_writes_into_its_argument_is_caught():
    with pytest.raises(AssertionError, match="written into"):
        leaves_alone(broken(scales_its_argument), [np.ones((2, 2)), np.ones((2, 2))], {})


@pytest.mark.parametrize("serves", [(True, True), (False, False)])
def test_a_ladder_where_none_or_two_serve_is_caught(serves):
    ladder = [broken(np.matmul, step=i + 1, idea=f"the idea number {i}", serves=s) for i, s in enumerate(serves)]
    with pytest.raises(AssertionError, match="exactly one"):
        one_serves(ladder)


def test_a_rung_with_another_default_is_caught():
    def conv2d(x, w, *, stride=2, padding=0, dilation=1, groups=1):
        return x

    assert isinstance(OPS["conv2d"], Op)
    with pytest.raises(AssertionError):
        has_the_signature_of_its_op(broken(conv2d, op="conv2d"))


def right_by_name(p, g, *, lr, weight_decay, out=None):
    if not isinstance(p, dict):
        return (p - lr * (g + weight_decay * p),)
    new = {name: np.asarray(p[name] - lr * (g[name] + weight_decay[name] * p[name])) for name in p}
    if out is None or out[0] is None:
        return (new,)
    for name, x in new.items():
        out[0][name][...] = x
    return (out[0],)


def forgets_the_last_name(p, g, **params):
    new = right_by_name(p, g, **params)[0]
    return ({**new, "row": p["row"]} if isinstance(p, dict) else new,)


def one_decay_for_all(p, g, *, weight_decay, **params):
    same = dict.fromkeys(p, weight_decay["w"]) if isinstance(p, dict) else weight_decay
    return right_by_name(p, g, weight_decay=same, **params)


def hands_back_what_has_no_elements(p, g, **params):
    new = right_by_name(p, g, **params)[0]
    return ({**new, "none": p["none"].astype("f8")} if isinstance(p, dict) else new,)


def spoils_the_gradient(p, g, **params):
    new = right_by_name(p, g, **params)
    if isinstance(p, dict):
        g["w"] *= 2.0
    return new


def ignores_where_to(p, g, *, out=None, **params):
    return right_by_name(p, g, **params)


def whole_vectors_only(p, g, *, out=None, **params):
    new = right_by_name(p, g, out=out, **params)
    if out is not None and out[0] is not None:
        x = out[0]["row"]
        np.lib.stride_tricks.as_strided(x, (1, 80))[0, 67:] = 0.0
    return new


@pytest.mark.parametrize("run", [forgets_the_last_name, one_decay_for_all, hands_back_what_has_no_elements, spoils_the_gradient])
def test_a_broken_rung_does_not_do_all_names(run):
    given, params = model(broken(right_by_name, op="sgd_step"), np.float32, 0)
    does_all_names_at_once(broken(right_by_name, op="sgd_step"), given, params)
    with pytest.raises(AssertionError):
        does_all_names_at_once(broken(run, op="sgd_step"), given, params)


@pytest.mark.parametrize("run", [ignores_where_to, whole_vectors_only, spoils_the_gradient])
def test_a_broken_rung_writes_elsewhere(run):
    given, params = model(broken(right_by_name, op="sgd_step"), np.float32, 0)
    writes_where_it_is_told_and_nowhere_else(broken(right_by_name, op="sgd_step"), given, params)
    with pytest.raises(AssertionError):
        writes_where_it_is_told_and_nowhere_else(broken(run, op="sgd_step"), given, params)


def test_two_rungs_cannot_claim_one_step():
    kernels.ladder("matmul", "cpu")
    with pytest.raises(ValueError, match="two rungs claim step 1"):
        kernels.rung("matmul", "cpu", step=1, idea="another first step")(np.matmul)
