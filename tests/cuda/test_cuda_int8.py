"""Every rung of the product of whole numbers on CUDA is exact; its counters are closed forms; mutants are caught."""

from importlib.util import find_spec

import numpy as np
import pytest
import tally
from convolutions import mutate
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves
from products import checked, factors, numbers

from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
RUNGS = ladder("matmul_int8", "cuda") if find_spec("numba_cuda") else []
SIDE = 128


def named(rung):
    return f"{rung.op}-{rung.step}"


def pair(shape, other, kind="uint8"):
    rng = np.random.default_rng(0)
    return [numbers(rng, shape, kind), numbers(rng, other, "int8")]


def counted(rung):
    """What the launch of the product took, of matrices of SIDE by SIDE."""
    from kernels.cuda.launch import on

    with on("emulated", counters=True) as device:
        rung.run(*pair((SIDE, SIDE), (SIDE, SIDE)))
    return device.launches[-1].report.counts


@pytest.mark.parametrize("rung", RUNGS, ids=named)
@given(data=st.data())
def test_a_rung_is_exact(rung, data):
    args, dtype = data.draw(factors(rung.rtol))
    with checked():
        agrees(rung, dtype, args, {})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_the_largest_products_are_exact(rung):
    a, b = np.full((3, 300), 255, np.uint8), np.full((300, 5), -128, np.int8)
    with checked():
        np.testing.assert_array_equal(rung.run(a, b), 300 * 255 * -128)


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_a_rung_leaves_its_arguments_alone_and_writes_where_it_is_told(rung):
    args = pair((3, 10), (10, 8))
    out = np.empty(3 * 8 + 1, np.int32)[1:].reshape(3, 8)  # not at a multiple of 16 bytes
    with checked():
        leaves_alone(rung, args, {})
        assert rung.run(*args, out=out) is out
        np.testing.assert_array_equal(out, rung.run(*args))
        with pytest.raises(ValueError, match="out is a NumPy array"):
            rung.run(*args, out=np.empty((3, 8), np.int64))


def test_one_rung_serves_and_all_have_the_signature_of_the_op():
    one_serves(RUNGS)
    for rung in RUNGS:
        has_the_signature_of_its_op(rung)


def test_words_divide_the_requests_by_four():
    first, second = map(counted, RUNGS[:2])
    assert first.global_loads.requests == 2 * SIDE**3 // 32
    assert second.global_loads.requests == first.global_loads.requests // 4
    assert second.total < first.total / 4, "and no byte is converted"


def test_squares_divide_the_bytes_by_their_side():
    counts = counted(RUNGS[2])
    assert counts.global_loads.useful == 2 * SIDE**3 / 32
    assert counts.useful_share() == counts.wavefronts_per_request() == 1.0


def test_tiles_fetch_a_byte_once_and_no_bank_is_asked_twice():
    counts = counted(RUNGS[3])
    assert counts.global_loads.useful == 2 * SIDE**2
    assert counts.useful_share() == counts.wavefronts_per_request() == 1.0
    assert counts.barriers == SIDE // 4 // 8, "one a tile of eight words"
    assert counts.instructions["local"] == 0, "sums are in registers"


def test_a_tensor_core_does_4096_products():
    counts = counted(RUNGS[4])
    assert counts.instructions["tensor"] == 32 * SIDE**3 // 4096
    assert counts.useful_share() == counts.wavefronts_per_request() == 1.0


MUTANTS = [  # the rung, functions from the one that is broken on, what is replaced, and the check that catches it: None is the definition
    (1, ["byte", "byte_thread"], "i32(x) * i32(y)", "i32(np.int8(x)) * i32(y)", None),
    (2, ["words_of"], "np.uint32 if x.dtype == np.uint8 else np.int32", "np.int32", None),
    (2, ["words_of"], "deep = -(-k // 4)", "deep = k // 4", "bounds"),
    (2, ["words_of"], "(many * m, n, 1)", "(many, n, m)", None),
    (3, ["multiply_words"], "deep * n if step(y)", "deep * m if step(y)", None),
    (4, ["multiply_words"], "-(-x.shape[2] // 4)", "x.shape[2]", "bounds"),
]


@pytest.mark.parametrize("step, names, old, new, check", MUTANTS, ids=[f"{m[0]}-{m[1][0]}-{i}" for i, m in enumerate(MUTANTS)])
def test_a_mutant_is_caught(monkeypatch, step, names, old, new, check):
    from kernels.cuda import int8
    from kernels.cuda.emulate import Fault

    args = pair((2, 5, 7), (2, 7, 9))
    mutate(monkeypatch, int8, names, old, new)
    with checked():
        if check is None:  # what it does is allowed, and wrong
            with pytest.raises(AssertionError, match="off by"):
                agrees(RUNGS[step - 1], "uint8 int8", args, {})
        else:
            with pytest.raises(Fault) as caught:
                RUNGS[step - 1].run(*args)
            assert caught.value.check == check
    tally.ran("cuda", "a mutant is caught")
