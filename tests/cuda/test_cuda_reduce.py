"""Reductions on CUDA equal their definitions within the bounds that they state, on the emulator with all checks on; mutants are caught."""

import math

import numpy as np
import pytest
import tally
from broken import broken, caught, doubles
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked
from strategies import LAYOUTS, laid_out

import kernels
from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
NAMES = ["sum", "mean", "prod", "max", "min"]
STEPS = [1, 2, 3, 4, 5]
SHAPES = [
    ((5,), None), ((1,), 0), ((), None), ((3, 5, 8), 1), ((3, 5, 8), (0, 2)), ((3, 5, 8), ()), ((2, 3, 4, 5), (-1, 1)), ((1, 7, 1), None),
    ((130, 40), 0), ((257,), 0), ((3, 513), -1), ((2, 1030), -1), ((2, 1000, 3), 1), ((4, 33), 1), ((0, 3), 1), ((2, 0), 0),
]  # fmt: skip
UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}


@pytest.mark.parametrize("step", STEPS)
@given(case=st.sampled_from(SHAPES), layout=st.sampled_from(LAYOUTS), keepdims=st.booleans(), seed=st.integers(0, 9))
def test_a_rung_agrees(step, case, layout, keepdims, seed):
    rung, (shape, axis) = ladder("sum", "cuda")[step - 1], case
    x = laid_out(np.random.default_rng(seed).normal(size=shape).astype(np.float32), layout)
    with checked():
        leaves_alone(rung, [x], {"axis": axis, "keepdims": keepdims})
        agrees(rung, "float32", [x], {"axis": axis, "keepdims": keepdims})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("name", NAMES)
def test_an_op_agrees_and_works_in_single_precision(name):
    from kernels.cuda.launch import on

    x = np.random.default_rng(0).uniform(0.8, 1.25, (3, 133)) * np.random.default_rng(1).choice([-1, 1], (3, 133))
    with on("emulated", checks=True, counters=True) as device:
        agrees(kernels.serving(name, "cuda"), "float32", [x.astype(np.float32)], {"axis": -1, "keepdims": False})
    assert not any(doubles(launch) for launch in device.launches)
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("axis", [0, 1])
def test_a_sum_agrees_in_double_precision(axis):
    """Words are of two numbers there."""
    for shape in ((5, 1034), (130, 35)):
        with checked():
            agrees(
                kernels.serving("sum", "cuda"), "float64", [np.random.default_rng(2).normal(size=shape)], {"axis": axis, "keepdims": False}
            )
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("name", NAMES)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(name):
    one_serves(ladder(name, "cuda"))
    for rung in ladder(name, "cuda"):
        has_the_signature_of_its_op(rung)


@pytest.mark.parametrize(
    "step, roundings",
    [(1, lambda n: n - 1), (3, lambda n: 8 * math.ceil(math.log(n, 256))), (5, lambda n: 13 * math.ceil(math.log(n, 4096)))],
)
def test_a_sum_is_off_by_no_more_than_it_says(step, roundings):
    """Of many numbers that are nearly equal: each rounding goes the same way."""
    for n, value in ((5000, 1.1), (4096, 0.7), (300, 1 / 3)):
        x = np.full(n, value, np.float32)
        with checked():
            y = ladder("sum", "cuda")[step - 1].run(x)
        assert abs(float(y) - math.fsum(map(float, x))) <= roundings(n) * UNIT["float32"] * n * value * 1.001


def test_the_same_numbers_have_the_same_sum_wherever_they_lie():
    """A row that begins in the middle of a word is added up in the order of one that does not."""
    x = np.random.default_rng(3).normal(size=(2, 1025)).astype(np.float32)
    with checked():
        rows = kernels.serving("sum", "cuda").run(x, axis=1)
        each = [kernels.serving("sum", "cuda").run(row.copy()) for row in x]
    assert [same_bits(row, one) for row, one in zip(rows, each, strict=True)] == [True, True]


def test_a_nan_is_larger_than_all_and_smaller():
    x = np.ones((2, 300), np.float32)
    x[0, 77] = np.nan
    with checked():
        for name in ("max", "min"):
            np.testing.assert_array_equal(kernels.serving(name, "cuda").run(x, axis=1), np.float32([np.nan, 1]))


def test_of_nothing():
    x = np.ones((3, 0), np.float32)
    with checked():
        assert [float(kernels.serving(name, "cuda").run(x)) for name in ("sum", "prod")] == [0, 1]
        assert np.isnan(kernels.serving("mean", "cuda").run(x, axis=1)).all()
        assert kernels.serving("max", "cuda").run(x, axis=0).shape == (0,)
        with pytest.raises(ValueError, match="nothing along axis 1"):
            kernels.serving("max", "cuda").run(x, axis=1)
        for axis in (2, -3, (0, 0)):
            with pytest.raises(ValueError, match="of an array with 2 axes"):
                kernels.serving("sum", "cuda").run(x, axis=axis)


def test_what_the_ladder_says_is_what_is_counted():
    """Of 4096 numbers by blocks of 256: divergence, conflicts, barriers and requests, as the ideas of the rungs have it."""
    from kernels.cuda.launch import on

    x = np.ones(4096, np.float32)
    counts = {}
    for rung in ladder("sum", "cuda"):
        with on("emulated", counters=True) as device:
            rung.run(x)
        counts[rung.step] = device.launches[0].report.counts
    assert counts[2].divergent_branches > 5 * counts[3].divergent_branches
    assert counts[2].barriers == counts[3].barriers == 16 * 9
    assert counts[4].barriers == 16 and counts[5].barriers == 1
    assert counts[4].wavefronts_per_request() == counts[3].wavefronts_per_request() == 1
    assert counts[5].global_loads.requests == 32 and counts[5].global_loads.cost == 4096 // 8
    assert counts[4].global_loads.requests == 128


FIRST = "number_of(x, n, inner, pieces, neutral)\n        cuda.syncthreads()\n        apart = u(THREADS // 2)"
TREE = "if t < apart:\n                near[t] = combine(near[t], near[u(t + apart)])\n            cuda.syncthreads()"
LANES = "apart = u(WARP // 2)\n        while apart > u(0):\n            value"
SYNC = "cuda.syncthreads()"
MUTANTS = [
    ("the barrier before the tree", FIRST, FIRST.replace(SYNC, "pass"), "tree_sequential", "race"),
    ("the barrier in the tree", TREE, TREE.replace(SYNC, "pass"), "tree_sequential", "race"),
    ("a barrier that some threads skip", TREE, TREE.replace(SYNC, f"    {SYNC}"), "tree_sequential", "barrier"),
    ("the barrier between warps", f"near[warp] = value\n            {SYNC}", "near[warp] = value", "warp_shuffles", "race"),
    ("the mask of a shuffle", "ALL = 0xFFFFFFFF", "ALL = 0x0000FFFF", "warp_shuffles", "shuffle"),
    ("the guard of the last number", " if j < n else x.dtype.type(neutral)", "", "tree_sequential", "bounds"),
    ("the guard of a word", "words and u(j + far + u(1)) < n", "words", "several_a_thread", "bounds"),
    ("the rows beyond the last", "x[at] if i < inner and j < n else zero", "x[at] if i < inner else zero", "several_a_thread", "bounds"),
    ("warps that are not there", "lane < u(u(cuda.blockDim.x) // u(WARP))", "lane < u(WARP)", "warp_shuffles", "uninitialised"),
    ("a double as a literal", FIRST, f"1.1 * {FIRST}", "tree_sequential", "double"),
    ("half of the lanes", LANES, LANES.replace("// 2", "// 4"), "warp_shuffles", "definition"),
    ("nothing", "THREADS = 256", "THREADS = 256", "several_a_thread", "nothing"),
]


@pytest.mark.parametrize("case", MUTANTS, ids=lambda case: case[0])
def test_a_broken_reduction_is_caught(case):
    from kernels.cuda import reduce

    _, old, new, name, catches = case
    changed = broken(reduce, old, new)
    plan = changed.RUNGS[name][0]
    x = np.random.default_rng(4).normal(size=(517, 3)).astype(np.float32)

    def run():
        return [changed.reduced(plan, changed.REDUCTIONS["sum"], y, axis, False) for y, axis in ((x, 0), (x.reshape(-1), 0))]

    def right(got):
        return all(np.allclose(y, want, rtol=1e-4, atol=1e-4) for y, want in zip(got, (x.sum(0), x.sum()), strict=True))

    assert caught(run, right) == catches
    tally.ran("cuda", "a mutant is caught")
