"""Every rung of the convolutions on CUDA equals its definition, on the emulator with all checks on; mutants of them are caught.

What the counters say of them is a closed form of the sizes.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import tally
from convolutions import calls, mutate
from hypothesis import given, settings
from hypothesis import strategies as st
from laws_of_rungs import agrees, has_the_signature_of_its_op, leaves_alone, one_serves, same_bits
from products import checked, numbers

import kernels
from engine.traced import OPS
from kernels.registry import ladder

pytestmark = pytest.mark.numba_cuda
NAMES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_int8")
PLAIN = {"stride": 1, "dilation": 1, "groups": 1}
FEWER = settings(max_examples=max(5, settings().max_examples * 2 // 5))  # to compile and to check takes seconds
RUNGS = [rung for op in NAMES for rung in ladder(op, "cuda")] if find_spec("numba_cuda") else []


def named(rung):
    return f"{rung.op}-{rung.step}"


def call(op, x, w, dtype="float32", **params):
    """Arguments of `op` for shapes of x and w, and its parameters."""
    rng = np.random.default_rng(0)
    x, w = (numbers(rng, shape, dtype) for shape in (x, w))
    gy = numbers(rng, OPS["conv2d"].definition(x, w, **params).shape, dtype)
    return {
        "conv2d": ((x, w), params),
        "conv2d_input_grad": ((gy, w), {"input_size": x.shape[2:], **params}),
        "conv2d_weight_grad": ((x, gy), {"kernel_size": w.shape[2:], **params}),
    }[op]


@pytest.mark.parametrize("rung", RUNGS, ids=named)
@FEWER
@given(data=st.data())
def test_a_rung_agrees_with_the_definition(rung, data):
    args, params, dtype = data.draw(calls(rung.op, rung.rtol))
    with checked():
        agrees(rung, dtype, args, params)
    tally.ran("cuda", "a rung agrees")


@pytest.mark.parametrize("op", NAMES)
def test_one_rung_serves_and_all_have_the_signature_of_the_op(op):
    one_serves(ladder(op, "cuda"))
    for rung in ladder(op, "cuda"):
        has_the_signature_of_its_op(rung)


@pytest.mark.parametrize("rung", [r for r in RUNGS if r.op != "conv2d_int8"], ids=named)
def test_a_rung_leaves_its_arguments_alone_and_writes_where_it_is_told(rung):
    args, params = call(rung.op, (1, 2, 6, 7), (3, 2, 3, 2), padding=1)
    with checked():
        leaves_alone(rung, args, params)
        got = rung.run(*args, **params)
        room = np.empty(got.size + 1, got.dtype)
        out = room[1:].reshape(got.shape)  # not at a multiple of 16 bytes
        assert rung.run(*args, **params, out=out) is out
    assert same_bits(out, got)
    with pytest.raises(ValueError, match="out is a NumPy array"):
        rung.run(*args, **params, out=np.empty((1, 2), np.float32))


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad"])
def test_the_bits_of_all_rungs_are_the_same(op):
    args, params = call(op, (2, 10, 7, 36), (10, 5, 3, 2), stride=(1, 2), padding=(1, 2), groups=2)
    with checked():
        first, *others = [rung.run(*args, **params) for rung in ladder(op, "cuda")]
    assert all(same_bits(first, other) for other in others)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sum_in_parts_and_groups_in_pieces(monkeypatch, dtype):
    """Five pictures in parts of two, the last of one; three groups, of which a grid here holds two."""
    monkeypatch.setattr("kernels.cuda.conv.PART", 40)
    monkeypatch.setattr("kernels.cuda.conv.MOST", 6)
    args, params = call("conv2d_weight_grad", (5, 6, 7, 6), (6, 2, 3, 2), dtype, groups=3)
    with checked():
        agrees(kernels.serving("conv2d_weight_grad", "cuda"), dtype, args, params)


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
def test_what_does_not_fit_into_shared_memory_goes_by_the_rung_above(op):
    args, params = call(op, (1, 1, 70, 200), (1, 1, 2, 2), dilation=(60, 160))
    with checked():
        agrees(ladder(op, "cuda")[2], "float32", args, params)


@pytest.mark.parametrize("op", ["conv2d", "conv2d_input_grad"])
def test_infinity_reaches_only_the_windows_that_see_it(op):
    """Nine terms of a sum are two tiles deep, the second mostly beyond its end: what is fetched for it is 0 times 0."""
    args, params = call(op, (1, 1, 12, 12), (9, 1, 3, 3))
    args[0][0, 0, 0, 0] = np.inf
    args[1][-1] = np.inf
    rung = ladder(op, "cuda")[3]
    with checked():
        got = rung.run(*args, **params)
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(ladder(op, "cuda")[0].run(*args, **params)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_or_a_zero_is_what_its_twin_says(dtype):
    from numba import cuda

    from kernels.cuda.intrinsics import copy1_or_zero, copy1_or_zero_twin, wait_for_copies
    from kernels.cuda.launch import launch

    u = np.uint32

    def kernel(x, y):
        tile = cuda.shared.array(32, x.dtype)
        t = u(cuda.threadIdx.x)
        copy1_or_zero(tile, t, x, u(u(31) - t) if t > u(3) else u(1 << 20), t > u(3))  # where nothing is read, nothing need be
        wait_for_copies()
        y[t] = tile[t]

    x, y, want = np.arange(1, 33).astype(dtype), np.empty(32, dtype), np.empty(32, dtype)
    with checked():
        launch(kernel, (1,), (32,), x, y, writes=[y])
    for t in range(32):
        copy1_or_zero_twin(want, t, x, 31 - t, t > 3)
    np.testing.assert_array_equal(y, want)


# Mutants: an edge guard removed, an index swapped, a barrier dropped. Each is caught, and it is said by which check.

MUTANTS = [
    ("conv2d", 2, ["window_hoisted"], "if at < y.size:", "if True:", "bounds"),
    ("conv2d", 2, ["inside", "window_hoisted"], "if i32(start) >= i32(0) else", "if True else", "bounds"),
    ("conv2d", 2, ["window_hoisted"], "from_w = u(o * ", "from_w = u(n * ", None),
    ("conv2d_input_grad", 2, ["meeting", "pixel_hoisted"], "u(window - skipped * move)", "window", "bounds"),
    ("conv2d_weight_grad", 2, ["weight_hoisted"], "u(at_x + g.across)", "u(at_x + u(1))", None),
    ("conv2d", 3, ["window_halo"], "cuda.syncthreads()\n            from_tile", "from_tile", "race"),
    ("conv2d", 3, ["window_halo"], "cuda.syncthreads()\n            from_x", "from_x", "race"),
    ("conv2d", 3, ["window_halo"], "row * g.down * wide + lane * g.across", "lane * g.down * wide + row * g.across", "bounds"),
    ("conv2d", 3, ["fetch", "window_halo"], "if a < height and b < width else", "if True else", "bounds"),
    ("conv2d", 3, ["fetch", "window_halo"], "while s < wide:", "while s < u(wide - u(1)):", "uninitialised"),
    ("conv2d_input_grad", 3, ["pixel_halo"], "cuda.syncthreads()\n            from_tile", "from_tile", "race"),
    ("conv2d_weight_grad", 3, ["weight_halo"], "while z < here:", "while z < filters:", "bounds"),
    ("conv2d_weight_grad", 3, ["weight_halo"], "cuda.syncthreads()\n                q0", "q0", "race"),
    ("conv2d", 4, ["implicit_by", "implicit"], "            wait_for_copies()\n", "", "uninitialised"),
    ("conv2d", 4, ["implicit_by", "implicit"], "            cuda.syncthreads()\n", "", "race"),
    ("conv2d", 4, ["implicit_by", "implicit"], "(u(row + rows) < height) & ", "", "bounds"),
    ("conv2d", 4, ["implicit_by", "implicit"], "if i < rows and u(j + u(e)) < columns:", "if u(j + u(e)) < columns:", "bounds"),
    ("conv2d", 4, ["implicit_by", "implicit"], "r, z = u(0), u(z + u(1))", "r = u(0)", None),
    ("conv2d_weight_grad", 5, ["implicit_by", "implicit"], "u(a_at[e] + of_a), u(p + a_p) < depth)", "u(a_at[e] + of_a), True)", "bounds"),
    ("conv2d_weight_grad", 5, ["add_parts"], "u(1), u(at + size)", "u(0), u(at + size)", "bounds"),
]


@pytest.mark.parametrize("op, step, names, old, new, check", MUTANTS, ids=[f"{m[0]}-{m[1]}-{i}" for i, m in enumerate(MUTANTS)])
def test_a_mutant_is_caught(monkeypatch, op, step, names, old, new, check):
    from kernels.cuda import conv
    from kernels.cuda.emulate import Fault

    if step == 3:
        monkeypatch.setattr(conv, "THREADS", 36)  # six filters a block of seven: two blocks, of two warps
    monkeypatch.setattr(conv, "PART", 150)
    args, params = call(op, (3, 6, 11, 35), (14, 3, 3, 2), stride=2, padding=((1, 2), (1, 0)), dilation=(1, 2), groups=2)
    mutate(monkeypatch, conv, names, old, new)
    rung = ladder(op, "cuda")[step - 1]
    with checked():
        if check is None:  # what it does is allowed, and wrong
            with pytest.raises(AssertionError, match="off by"):
                agrees(rung, "float32", args, params)
        else:
            with pytest.raises(Fault) as caught:
                rung.run(*args, **params)
            assert caught.value.check == check
    tally.ran("cuda", "a mutant is caught")


@pytest.mark.parametrize(
    "names, old, new",
    [
        (["pack"], " & u(255)", ""),  # the sign of one byte in the others
        (["pack"], "(z * channels + k + u(e)) * plane", "(z * channels + k) * plane"),
        (["sum_up"], "zero_point * total", "total"),
        (["implicit_words"], "shifted=True", "shifted=False"),
    ],
)
def test_a_mutant_of_whole_numbers_is_caught(monkeypatch, names, old, new):
    from kernels.cuda import conv_int8

    rng = np.random.default_rng(0)
    args = numbers(rng, (1, 5, 6, 7), "int8"), numbers(rng, (9, 5, 3, 2), "int8")
    mutate(monkeypatch, conv_int8, names, old, new)
    with checked(), pytest.raises(AssertionError, match="off by"):
        agrees(
            ladder("conv2d_int8", "cuda")[2], "int8 int8", args, {"zero_point": 3, "padding": 1, "stride": 1, "dilation": 1, "groups": 1}
        )


# What the counters say: of 8 channels of 8 by 32 pixels, with a pixel of padding, 128 filters of 3 by 3. That is two tiles of 128 windows.

PRODUCTS = 128 * 256 * 72
ON_THE_PICTURE = 128 * 8 * (3 * 8 - 2) * (3 * 32 - 2)  # a row of windows and a column each miss two rows of weights at the border


def counted(op, step):
    from kernels.cuda.lesson import counts

    return counts(ladder(op, "cuda")[step - 1])


def test_as_many_fused_products_as_the_formula_has():
    """One sum a thread leaves out what lies beside the picture; tiles multiply it by zeros."""
    first, second, third, fourth = (counted("conv2d", step) for step in (1, 2, 3, 4))
    assert first.instructions["fma"] == second.instructions["fma"] == ON_THE_PICTURE
    assert third.instructions["fma"] == fourth.instructions["fma"] == PRODUCTS
    assert second.total < first.total / 2, "no test at each product"


def test_a_halo_is_loaded_once_a_tile_and_a_channel():
    counts = counted("conv2d", 3)
    weights, rows, stores = (
        PRODUCTS // 32,
        128 * 8 * 8 * 2,
        128 * 256 // 32,
    )  # two requests a row of 34 pixels
    assert counts.global_loads.requests + counts.global_stores.requests == weights + rows + stores
    assert counts.wavefronts_per_request() == 1.0
    assert counts.barriers == 2 * 128 * 8, "two a channel"


@pytest.mark.parametrize("op", ["conv2d", "conv2d_int8"])
def test_the_implicit_product_asks_no_bank_twice_and_waits_once_a_tile(op):
    counts = counted(op, 3 if op == "conv2d_int8" else 4)
    depth = 72 // 4 if op == "conv2d_int8" else 72
    assert counts.barriers == 2 * -(-depth // 8), "one a tile, of two blocks"
    assert counts.wavefronts_per_request() == 1.0
    assert counts.divergent_branches == 0 and counts.instructions["local"] == 0
    assert counts.total / PRODUCTS < (0.65 if op == "conv2d_int8" else 1.65)
    assert counts.useful_share() >= (0.95 if op == "conv2d" else 0.8)


@pytest.mark.parametrize("op", ["conv2d", "conv2d_int8"])  # the gradients run the kernel of the first
def test_the_machine_code_of_the_implicit_product_is_products_for_the_most_part(op):
    from kernels.cuda.launch import on
    from kernels.cuda.lesson import CASES
    from kernels.cuda.static.assemble import MissingAssembler
    from kernels.cuda.static.evidence import evidence

    shapes, params, _ = CASES[op]
    kinds = ("uint8", "int8") if op == "conv2d_int8" else ("float32", "float32")
    with on("recorded") as device:
        kernels.serving(op, "cuda").run(*(np.ones(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)), **params)
    (launch,) = (launch for launch in device.launches if launch.function.__qualname__.startswith("implicit_by"))
    for cc in ((8, 0), (10, 0)):  # of each compiler one
        try:
            found = evidence(launch, cc)
        except MissingAssembler as why:
            tally.not_run(f"cuda: {why}")
            pytest.skip(str(why))
        assert found.share >= 0.6 and found.product == ("IDP" if op == "conv2d_int8" else "FFMA")
        assert found.spills == found.stack == 0 and found.registers <= 128, "two blocks an SM"
        assert not found.forbidden
