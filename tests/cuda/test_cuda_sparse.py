"""Every rung of the sparse products on CUDA equals its definition, on the emulator with all checks on; counters and mutants of them."""

from importlib.util import find_spec

import numpy as np
import pytest
import tally
from convolutions import mutate
from hypothesis import given
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked
from strategies import LAYOUTS, laid_out
from test_cuda_mutants import doubles

import kernels
from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
OPS = ("matmul_csr", "matmul_csr_data_grad", "matmul_bsr", "matmul_2to4")
RUNGS = [rung for op in OPS for rung in ladder(op, "cuda")] if find_spec("numba_cuda") else []
EDGES = st.one_of(st.integers(0, 9), st.sampled_from([16, 31, 32, 33, 65]))
NORMAL = np.random.default_rng(0).normal


def named(rung):
    return f"{rung.op}-{rung.step}"


def kept(rng, rows, columns, most, kind=np.int64):
    """Places and starts: rows that keep nothing, places in any order, some of them twice."""
    counts = rng.integers(0, most + 1, rows) * (rng.random(rows) < 0.8)
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    return rng.integers(0, columns, int(starts[-1])).astype(kind), starts


@st.composite
def calls(draw, op):
    rng, layout = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from(LAYOUTS))
    m, k, n = draw(EDGES), draw(st.integers(1, 40)), draw(EDGES)
    kind, most = draw(st.sampled_from([np.int32, np.int64])), draw(st.sampled_from([0, 3, 40]))
    r, c = draw(st.sampled_from([(1, 1), (2, 3), (8, 4), (9, 33)]))
    if op == "matmul_2to4":
        args = [rng.normal(size=(m, 2 * k)), rng.integers(0, 4, (m, 2 * k)).astype(draw(st.sampled_from([np.uint8, np.int64])))]
        return [laid_out(x, layout) for x in (*args, rng.normal(size=(4 * k, n)))]
    rows = min(m, 9) if op == "matmul_bsr" else m
    places, starts = kept(rng, rows, k, min(most, 3) if op == "matmul_bsr" else most, kind)
    numbers = {
        "matmul_csr": [rng.normal(size=len(places)), rng.normal(size=(k, n))],
        "matmul_csr_data_grad": [rng.normal(size=(rows, n)), rng.normal(size=(k, n))],
        "matmul_bsr": [rng.normal(size=(len(places), r, c)), rng.normal(size=(k * c, n))],
    }[op]
    first, b = (laid_out(x, layout) for x in numbers)
    return [first, b, places, starts] if op == "matmul_csr_data_grad" else [first, places, starts, b]


def example(op, m=37, k=40, n=33, most=70):
    """One call, of rows longer than a warp and of blocks that nothing divides."""
    rng = np.random.default_rng(0)
    if op == "matmul_2to4":
        return [NORMAL(size=(m, 2 * k)), rng.integers(0, 4, (m, 2 * k)).astype(np.uint8), NORMAL(size=(4 * k, n))]
    r, c = (9, 5) if op == "matmul_bsr" else (1, 1)
    places, starts = kept(rng, m // r, k, most // c)
    b = NORMAL(size=(k * c, n))
    if op == "matmul_csr_data_grad":
        return [NORMAL(size=(m, n)), b, places, starts]
    return [NORMAL(size=(len(places), r, c) if op == "matmul_bsr" else len(places)), places, starts, b]


def single(args):
    return [a.astype(np.float32) if a.dtype.kind == "f" else a for a in args]


@pytest.mark.parametrize("rung", RUNGS, ids=named)
@given(data=st.data())
def test_a_rung_agrees_with_the_definition(rung, data):
    args, dtype = data.draw(calls(rung.op)), data.draw(st.sampled_from(sorted(rung.rtol)))
    with checked():
        agrees(rung, dtype, args, {})
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_a_rung_leaves_its_arguments_alone_and_writes_where_it_is_told(rung):
    args = single(example(rung.op, m=9, k=8, n=5, most=6))
    with checked():
        leaves_alone(rung, args, {})
        got = rung.run(*args)
        out = np.empty(got.size + 1, got.dtype)[1:].reshape(got.shape)  # not at a multiple of 16 bytes
        assert rung.run(*args, out=out) is out
    assert same_bits(out, got)
    with pytest.raises(ValueError, match="out is a NumPy array"):
        rung.run(*args, out=np.empty((1, 2), np.float32))


@pytest.mark.parametrize("op", OPS)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(op):
    one_serves(ladder(op, "cuda"))
    for rung in ladder(op, "cuda"):
        has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_places_that_are_none_are_refused_before_anything_is_read(rung):
    args = single(example(rung.op, m=9, k=8, n=5, most=6))
    where = 2 if rung.op == "matmul_csr_data_grad" else 1
    args[where] = args[where].astype(np.int64)
    args[where].flat[0] = -1
    with pytest.raises(ValueError, match="indices run from -1"):
        rung.run(*args)


def test_no_kernel_of_float32_works_in_double_precision():
    from kernels.cuda.launch import on

    for rung in RUNGS:
        with on("recorded") as device:
            rung.run(*single(example(rung.op)))
        for launch in device.launches:
            assert not doubles(launch.ptx((8, 0))[0]), f"{rung.name}: {launch.function}"


# What the counters say, of the cases of the lesson: a quarter of 128 by 128 is kept, two of four of 2:4.

SIDE = 128


@pytest.fixture(scope="module")
def counts():
    """By rung, once."""
    from kernels.cuda.lesson import counts

    return {named(rung): counts(rung) for rung in RUNGS}


@pytest.mark.parametrize("rung", RUNGS, ids=named)
def test_as_many_fused_products_as_the_formula_has(counts, rung):
    found = counts[named(rung)]
    assert found.instructions["fma"] == SIDE**3 // (2 if rung.op == "matmul_2to4" else 4)
    assert found.instructions["local"] == 0


def test_lanes_across_columns_use_what_they_move(counts):
    """Rows of 32 numbers: a request for b each, four sectors; one each for numbers and places; and where the row begins and ends."""
    first, third = counts["matmul_csr-1"], counts["matmul_csr-3"]
    warps = SIDE * SIDE // 32
    assert third.global_loads.requests == warps * (32 + 1 + 1 + 2)
    assert third.global_loads.cost == warps * (4 * (32 + 1 + 1) + 2)
    assert third.useful_share() > 0.95 and first.useful_share() < 0.2
    assert third.instructions["warp"] == 2 * SIDE**3 // 4, "a number and a place handed on a product"


def test_a_row_a_warp_reads_whole_sectors_of_data_and_adds_by_five_shuffles(counts):
    found = counts["matmul_csr-2"]
    assert found.instructions["warp"] == 5 * 32 * SIDE * SIDE, "for each sum"


def test_of_one_column_a_row_a_warp_takes_less_than_columns_across_lanes():
    from kernels.cuda.launch import on

    args = single(example("matmul_csr", n=1))
    found = []
    for rung in ladder("matmul_csr", "cuda"):
        with on("emulated", counters=True) as device:
            rung.run(*args)
        found.append(device.launches[0].report.counts.total)
    assert found[3] == found[1] < found[2] / 2


def test_an_inner_product_a_warp_uses_what_it_moves(counts):
    first, second = counts["matmul_csr_data_grad-1"], counts["matmul_csr_data_grad-2"]
    assert first.useful_share() < 0.2 and second.useful_share() > 0.9


def test_tiles_of_blocks_fetch_a_row_of_b_once_for_eight_rows(counts):
    found = counts["matmul_bsr-2"]
    blocks, slabs = (SIDE // 8) * (SIDE // 32), 1  # 4 blocks of 8 columns are 32: a slab for each block of threads
    assert found.shared_loads.requests == blocks * slabs * 8 * 32 * 2
    assert found.wavefronts_per_request() == 1.0


def test_a_gather_is_one_load_a_product_where_it_was_three(counts):
    """A request of 16 bytes counts as four; a word of positions serves sixteen products."""
    products = SIDE**3 // 2 // 32  # of warps
    assert counts["matmul_2to4-2"].shared_loads.requests == 3 * products
    assert counts["matmul_2to4-3"].shared_loads.requests == products + 4 * products // 4 + products // 16
    assert counts["matmul_2to4-3"].total < 0.8 * counts["matmul_2to4-2"].total
    assert all(counts[f"matmul_2to4-{step}"].wavefronts_per_request() == 1.0 for step in (2, 3))


# Mutants: an edge guard removed, an index swapped, a barrier dropped, a wrong mask in a shuffle. Each is caught, and it is said by what.

MUTANTS = [  # the rung, functions from the one that is broken on, what is replaced, and the check that catches it: None is the definition
    ("matmul_csr", 1, ["row_a_thread"], "if i < m:", "if True:", "bounds"),
    ("matmul_csr", 1, ["row_a_thread"], "y[u(i * n + j)] = total", "y[u(j * m + i)] = total", None),
    ("matmul_csr", 2, ["of_warp", "row_a_warp"], "shfl_down_sync(ALL", "shfl_down_sync(u(0xFFFF)", "shuffle"),
    ("matmul_csr", 2, ["of_warp", "row_a_warp"], "(16, 8, 4, 2, 1)", "(8, 4, 2, 1)", None),
    ("matmul_csr", 2, ["row_a_warp"], "while t < end:", "while t <= end:", "bounds"),
    ("matmul_csr", 3, ["columns_a_warp"], "min(j, u(n - u(1)))", "j", "bounds"),
    ("matmul_csr", 3, ["columns_a_warp"], "u(t + min(lane, u(many - u(1))))", "u(t + lane)", "bounds"),
    ("matmul_csr", 3, ["columns_a_warp"], "number, q)", "number, lane)", None),
    ("matmul_csr_data_grad", 2, ["sample_a_warp"], "if lane == u(0):", "if lane == u(1):", None),
    ("matmul_bsr", 1, ["element_of_blocks"], "if row < r and j < n:", "if j < n:", "bounds"),
    ("matmul_bsr", 2, ["tile_of_blocks"], "cuda.syncthreads()\n        for e", "for e", "race"),
    ("matmul_bsr", 2, ["tile_of_blocks"], "cuda.syncthreads()\n        p = ", "p = ", "race"),
    ("matmul_bsr", 2, ["tile_of_blocks"], "if t_b < end and j < n else", "if j < n else", "bounds"),
    ("matmul_bsr", 2, ["onward", "tile_of_blocks"], "if q >= c else", "if q > c else", "bounds"),
    ("matmul_2to4", 2, ["square_of_fours"], "cuda.syncthreads()\n        for t", "for t", "race"),
    ("matmul_2to4", 2, ["square_of_fours"], "x // u(2) * u(4) + ", "x * u(2) + ", "bounds"),
    ("matmul_2to4", 3, ["gathered"], "cuda.syncthreads()\n        half", "half", "race"),
    ("matmul_2to4", 3, ["gathered"], "if t < u(OF_WORDS):", "if t < u(OF_WORDS - 1):", "uninitialised"),
    ("matmul_2to4", 3, ["gathered"], "if i < m and j < n:\n            y", "if j < n:\n            y", "bounds"),
    ("matmul_2to4", 3, ["gathered"], " & u(3)", " & u(1)", None),
    ("matmul_2to4", 3, ["pack_positions"], "if u(t + u(e)) < h:", "if True:", "bounds"),
]


@pytest.mark.parametrize("op, step, names, old, new, check", MUTANTS, ids=[f"{m[0]}-{m[1]}-{i}" for i, m in enumerate(MUTANTS)])
def test_a_mutant_is_caught(monkeypatch, op, step, names, old, new, check):
    from kernels.cuda import sparse
    from kernels.cuda.emulate import Fault

    args, rung = single(example(op)), ladder(op, "cuda")[step - 1]
    mutate(monkeypatch, sparse, names, old, new)
    with checked():
        if check is None:  # what it does is allowed, and wrong
            with pytest.raises(AssertionError, match="off by"):
                agrees(rung, "float32", args, {})
        else:
            with pytest.raises(Fault) as caught:
                rung.run(*args)
            assert caught.value.check == check
    tally.ran("cuda", "a mutant is caught")


def test_the_engine_trains_on_the_emulator():
    """Forward, and back through the gradient in the numbers that are kept."""
    from engine import grad
    from engine.ops import matmul_csr, sum

    data, places, starts, b = single(example("matmul_csr", m=5, k=6, n=4, most=4))
    with kernels.use("cuda", device="emulated", require=("matmul_csr", "matmul_csr_data_grad")):
        found = grad(lambda d: sum(matmul_csr(d, places, starts, b)))(data)
    np.testing.assert_allclose(found, b[places].sum(axis=1), rtol=1e-5)
