"""Maps on CUDA equal their definitions, on the emulator with all checks on; what they move is a closed form; mutants are caught."""

import numpy as np
import pytest
import tally
from broken import broken, caught, doubles
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked
from strategies import LAYOUTS, laid_out

import engine
import kernels
from engine.traced import OPS
from kernels.registry import ladder
from kernels.scalars import BINARY, UNARY

pytestmark = pytest.mark.numba_cuda
NAMES = [*UNARY, *BINARY, "leaky_relu", "elu", "bias_activation"]
POSITIVE = ("sqrt", "log", "log2", "log10", "pow", "reciprocal")
SHAPES = [
    ((5,), (5,)), ((0,), (0,)), ((), ()), ((7,), ()), ((), (9,)), ((1, 1), (1,)), ((257,), (1,)), ((3, 1), (1, 5)), ((2, 3, 4), (3, 1)),
    ((6, 8), (8,)), ((6, 8), (6, 1)), ((0, 3), (1, 3)), ((5, 1, 4), (5, 3, 4)), ((33, 35), (33, 35)), ((2, 1, 3, 1), (1, 4, 1, 8)),
]  # fmt: skip
SPECIAL = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e30, -1e30, 88.0, -88.0, 1e-30]


def numbers(name, shape, seed=0):
    x = np.random.default_rng(seed).uniform(0.3, 2.0, shape)
    return x if name in POSITIVE else x * np.random.default_rng(seed + 1).choice([1.0, -0.45], shape)


def arguments(name, shape):
    args = [numbers(name, shape, seed) for seed, _ in enumerate(OPS[name].args)]
    if name == "bias_activation":
        args[1] = numbers(name, shape[1])
    if name == "divide":
        args[1] = np.abs(args[1])
    return args


@pytest.mark.parametrize("step, dtype", [(1, "float32"), (2, "float32"), (3, "float32"), (3, "float64")])
@given(shapes=st.sampled_from(SHAPES), layout=st.sampled_from(LAYOUTS))
def test_a_rung_agrees_for_all_shapes_that_broadcast(step, dtype, shapes, layout):
    rung = ladder("subtract", "cuda")[step - 1]
    args = [laid_out(numbers("subtract", shape, i).astype(dtype), layout) for i, shape in enumerate(shapes)]
    with checked():
        leaves_alone(rung, args, {})
        agrees(rung, dtype, args, {})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("name", NAMES)
def test_a_function_agrees_and_works_in_single_precision(name):
    """So do its values at the ends, but those of pow, which are the C library's."""
    from kernels.cuda.launch import on

    rung, args = ladder(name, "cuda")[0], [x.astype(np.float32) for x in arguments(name, (3, 13))]
    with on("emulated", checks=True, counters=True) as device:
        agrees(rung, "float32", args, OPS[name].defaults)
        if len(args) == 1:
            x = np.array(SPECIAL, np.float32)
            with np.errstate(all="ignore"):
                want = OPS[name].definition(x.astype(np.float64), **OPS[name].defaults).astype(np.float32)
            np.testing.assert_allclose(rung.run(x, **OPS[name].defaults), want, rtol=2e-5)
    assert not any(doubles(launch) for launch in device.launches)
    tally.ran("cuda", "a rung agrees")


def test_a_function_agrees_in_double_precision():
    with checked():
        agrees(kernels.serving("sigmoid", "cuda"), "float64", arguments("sigmoid", (3, 13)), {})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("activation, axis", [("relu", 1), ("sigmoid", -1)])
def test_a_bias_goes_along_its_axis(activation, axis):
    x = numbers("add", (3, 4, 5)).astype(np.float32)
    b = numbers("add", x.shape[axis], 7).astype(np.float32)
    with checked():
        agrees(kernels.serving("bias_activation", "cuda"), "float32", [x, b], {"axis": axis, "activation": activation})


@pytest.mark.parametrize("name", NAMES)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(name):
    one_serves(ladder(name, "cuda"))
    for rung in ladder(name, "cuda"):
        has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("pair, want", [((0.0, np.nan), np.nan), ((np.nan, 0.0), np.nan), ((-np.inf, 1.0), 1.0)])
def test_a_nan_is_larger_than_all(pair, want):
    with checked():
        got = kernels.serving("maximum", "cuda").run(*[np.float32([x]) for x in pair])
    np.testing.assert_array_equal(got, np.float32([want]))


@pytest.mark.parametrize("n", [4096, 4096 + 32])
def test_what_a_map_moves_is_a_closed_form(n):
    """Whole sectors: 12 bytes a number of float32, all of them used; words take a quarter of the requests."""
    from kernels.cuda.launch import on

    args = [np.ones(n, np.float32)] * 2
    requests = []
    for rung in ladder("subtract", "cuda"):
        with on("emulated", counters=True) as device:
            rung.run(*[x.copy() for x in args])
        c = device.launches[0].report.counts
        requests.append(c.global_loads.requests + c.global_stores.requests)
        if rung.step > 1:  # the first one reads the table of axes, too
            assert c.l2_bytes() == 12 * n and c.useful_share() == 1.0
    assert requests[1] == 3 * n // 32 and requests[2] == 3 * -(-n // 128)


def test_the_engine_runs_maps_and_takes_python_numbers():
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(4, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)

    def loss(w, b):
        return OPS["sum"](OPS["relu"](w * 2.0 + b))

    want = engine.grad(loss)(w, b)
    with kernels.use("cuda", device="emulated", require=("relu", "add", "multiply", "sum")):
        got = engine.grad(loss)(w, b)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert got.dtype == np.float32


def test_numbers_of_other_types_run_the_definition():
    rung = kernels.serving("add", "cuda")
    x = np.ones(3, np.float32)
    assert rung.takes([x, 2.0]) and rung.takes([1, x]) and rung.takes([x, x])
    for other in (True, 1j, np.float64(1), np.ones(3), np.ones(3, int)):
        assert not rung.takes([x, other])
    assert not rung.takes([1.0, 2.0])


def test_two_to_the_31_numbers_are_refused():
    x = np.broadcast_to(np.float32(0), (2**16, 1)), np.broadcast_to(np.float32(0), (1, 2**15))
    with checked(), pytest.raises(ValueError, match=r"2.31 numbers or more"):
        kernels.serving("add", "cuda").run(*x)


MUTANTS = [
    ("the guard of the last number", "if i < n:", "if i < n + u(1):", "one_by_one", "bounds"),
    ("the guard of a word", "u(j + u(wide - 1)) < n", "j < n", "by_words", "bounds"),
    ("the guard of what is left over", "if k < n:", "if k <= n:", "by_words", "bounds"),
    ("words where rows begin in their middle", "rows == 1 or n % lanes == 0", "True", "by_words", "alignment"),
    ("the number of a row", "still = 1 if along_1 == 0 else 2 if along_2 == 0 else 0", "still = 0", "strided", "bounds"),
    ("a swapped step of an axis", "u(3) * k + u(2)", "u(3) * k + u(1)", "strided", "bounds"),
    ("a double as a literal", "y[i] = f(", "y[i] = 1.1 * f(", "one_by_one", "double"),
]


@pytest.mark.parametrize("case", [*MUTANTS, ("nothing", "THREADS = 256", "THREADS = 256", "by_words", "nothing")], ids=lambda case: case[0])
def test_a_broken_map_is_caught(case):
    from kernels.cuda import elementwise
    from kernels.scalars import subtract

    _, old, new, run, catches = case
    changed = broken(elementwise, old, new)
    x1, x2 = numbers("add", (5, 7)).astype(np.float32), numbers("add", (5, 1), 3).astype(np.float32)
    others = x2, numbers("add", (5, 7), 5).astype(np.float32)

    def both():
        return [changed.mapped(getattr(changed, run), subtract, x1, x) for x in others]

    assert caught(both, lambda got: all(same_bits(y, x1 - x) for y, x in zip(got, others, strict=True))) == catches
    tally.ran("cuda", "a mutant is caught")
