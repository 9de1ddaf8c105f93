"""Every rung of the products on CUDA equals its definition, on the emulator with all checks on; what its counters say is a closed form."""

from importlib.util import find_spec

import numpy as np
import pytest
import tally
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked, factors

import kernels
from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
OPS = ("matmul", "matmul_bf16")
RUNGS = [rung for op in OPS for rung in ladder(op, "cuda")] if find_spec("numba_cuda") else []
IN_ORDER = [rung for rung in RUNGS if rung.op == "matmul" and rung.step <= 10]


def named(rung):
    return f"{rung.op}-{rung.step}"


def square(rung, n, dtype="float32"):
    """A product of n by n on a device that counts, and its counts."""
    from kernels.cuda.launch import on

    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, n)).astype(dtype) for _ in range(2))
    with on("emulated", counters=True) as device:
        c = rung.run(a, b)
    return a, b, c, device.launches[-1].report.counts


@pytest.mark.parametrize("rung", RUNGS, ids=named)
@given(data=st.data())
def test_a_rung_agrees_with_the_definition(rung, data):
    args, dtype = data.draw(factors(rung.rtol))
    with checked():
        agrees(rung, dtype, args, {})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_a_rung_leaves_its_arguments_alone_and_writes_where_it_is_told(rung):
    dtype = min(rung.rtol)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 10)).astype(dtype), rng.normal(size=(10, 8)).astype(dtype)
    room = np.empty(3 * 8 + 1, dtype)
    out = room[1:].reshape(3, 8)  # not at a multiple of 16 bytes
    with checked():
        leaves_alone(rung, [a, b], {})
        assert rung.run(a, b, out=out) is out
        assert same_bits(out, rung.run(a, b))
        with pytest.raises(ValueError, match=r"given \(3, 7\)"):
            rung.run(a, b, out=np.empty((3, 7), dtype))


@pytest.mark.parametrize("op", OPS)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(op):
    one_serves(ladder(op, "cuda"))
    for rung in ladder(op, "cuda"):
        has_the_signature_of_its_op(rung)


def test_the_bits_of_all_rungs_in_order_are_the_same():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(37, 29)).astype(np.float32), rng.normal(size=(29, 36)).astype(np.float32)
    with checked():
        first, *others = [rung.run(a, b) for rung in IN_ORDER]
    assert all(same_bits(first, c) for c in others)


def test_a_product_with_infinity_beyond_an_edge_is_not_touched_by_it():
    """Rows and columns beyond an edge are read again from inside of it: what they hold must not reach a sum that is kept."""
    a, b = np.ones((130, 11), np.float32), np.ones((11, 132), np.float32)
    a[129], b[:, 131] = np.inf, np.nan
    with checked():
        c = kernels.serving("matmul", "cuda").run(a, b)
    assert np.all(c[:129, :131] == 11)
    assert np.all(np.isinf(c[129, :131])) and np.all(np.isnan(c[:, 131]))


# What the counters say: of 128 by 128 by 128, a block of the last rungs.


@pytest.mark.parametrize("rung", IN_ORDER, ids=named)
def test_as_many_fused_products_as_the_formula_has(rung):
    counts = square(rung, 128)[-1]
    assert counts.instructions["fma"] == 128**3
    assert counts.instructions["local"] == 0, "sums are in registers"
    assert counts.divergent_branches == 0


def test_a_warp_across_rows_meets_a_sector_a_lane_and_one_across_columns_four():
    rows, columns = (square(rung, 128)[-1] for rung in IN_ORDER[:2])
    requests = 2 * 128**3 // 32  # one of a and one of b for each p of each warp
    assert rows.global_loads.requests == columns.global_loads.requests == requests
    assert rows.global_loads.cost == requests // 2 * (32 + 1)
    assert columns.global_loads.cost == requests // 2 * (4 + 1)


def test_flat_indices_halve_the_instructions():
    two, three = (square(rung, 128)[-1] for rung in IN_ORDER[1:3])
    assert three.total < two.total / 2


def test_shared_squares_divide_the_bytes_by_the_side_of_a_square():
    counts = square(IN_ORDER[3], 128)[-1]
    assert counts.global_loads.useful == 2 * 4 * 128**3 / 32
    assert counts.useful_share() == 1.0


def test_the_served_rung_uses_all_that_it_moves_and_no_bank_is_asked_twice():
    counts = square(kernels.serving("matmul", "cuda"), 128)[-1]
    assert counts.useful_share() >= 0.95
    assert counts.wavefronts_per_request() == 1.0
    assert counts.global_loads.useful == 2 * 4 * 128 * 128
    assert counts.barriers == 128 // 8, "one barrier a tile"
    assert counts.instructions["fma"] / counts.total >= 0.7


def test_conflicts_are_what_the_eighth_rung_removes():
    seven, eight = (square(rung, 128)[-1] for rung in IN_ORDER[6:8])
    assert seven.wavefronts_per_request() > 1.2
    assert eight.wavefronts_per_request() == 1.0


def test_a_tensor_core_does_as_many_products_as_it_is_told():
    """16 by 8 by 8 (tf32) or 16 (float16) a warp."""
    by_name = {rung.name: rung for rung in RUNGS}
    for name, dtype, deep in (("tensor_tf32", "float32", 8), ("tensor_f16", "float16", 16), ("tensor_bf16", "float32", 16)):
        counts = square(by_name[name], 128, dtype)[-1]
        assert counts.instructions["tensor"] == 32 * 128**3 // (16 * 8 * deep)
        assert counts.wavefronts_per_request() == 1.0


# Where nothing can run, it is said what is missing.


def test_without_a_gpu_use_names_the_emulator(monkeypatch):
    monkeypatch.setattr("kernels.cuda.launch.has_gpu", lambda: False)
    with pytest.raises(kernels.MissingKernel, match='device="emulated"'), kernels.use("cuda"):
        pass
    with pytest.raises(ValueError, match="no device 'imagined': there is emulated"), kernels.use("cuda", device="imagined"):
        pass
    with pytest.raises(ValueError, match="device='emulated' is for cuda; given backend 'cpu'"), kernels.use("cpu", device="emulated"):
        pass


def test_the_engine_runs_on_the_emulator():
    from engine.ops import matmul

    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(5, 6)).astype(np.float32), rng.normal(size=(6, 7)).astype(np.float32)
    with kernels.use("cuda", device="emulated", require=("matmul",)):
        c = matmul(a, b)
        whole = matmul(np.arange(6).reshape(2, 3), np.arange(6).reshape(3, 2))  # of integers: the definition
    assert same_bits(np.asarray(c), IN_ORDER[0].run(a, b))
    np.testing.assert_array_equal(whole, [[10, 13], [28, 40]])


def test_a_number_without_a_width_is_no_argument():
    from kernels.cuda.launch import ptx_of

    with pytest.raises(TypeError, match=r"np.uint32\(1\); given int 3"):
        ptx_of(IN_ORDER[0].run, [np.zeros(3), 3])
