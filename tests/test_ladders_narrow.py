"""Products of bfloat16 and int8, on every tier, with matrix registers and without."""

import threading

import numpy as np
import pytest
from alone import on_tier
from large_cases import LARGE, small_numbers
from laws_of_rungs import agrees, cast

import kernels
from engine.traced import OPS
from kernels.registry import Rung

NUMBERS = """
    import numpy as np
    import kernels
    from kernels.cpu import features
    rng = np.random.default_rng(0)
    SIZES = [(1, 1, 1), (37, 41, 43), (5, 0, 3), (70, 1100, 50), (3, 90, 70), (130, 64, 33), (20, 1030, 18)]

    def ints(dtype, *shape):
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return np.where(rng.random(shape) < 0.3, rng.integers(low, high + 1, shape), rng.choice([low, high], shape)).astype(dtype)

    def layouts(x):
        return x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::-2]
"""

WHOLE = """
    whole = kernels.serving("matmul_int8", "cpu")
    for m, k, n in SIZES:
        for dtype in (np.uint8, np.int8):
            for x in layouts(ints(dtype, m, k)):
                for y in layouts(ints(np.int8, k, n)):
                    assert np.array_equal(whole(x, y), x.astype("i4") @ y.astype("i4")), (m, k, n, dtype)
"""

BF16 = """
    bf16 = kernels.serving("matmul_bf16", "cpu")
    for m, k, n in SIZES:
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
    on_tier(tier, NUMBERS + WHOLE + BF16 + (CONVOLVED if tier == "generic" else ""))


def test_a_machine_without_instructions_for_narrow_numbers_multiplies_them_right():
    without = """
    from llvmlite import binding
    found = binding.get_host_cpu_features()
    fewer = type(found)({name: has for name, has in found.items() if "vnni" not in name})
    binding.get_host_cpu_features = lambda: fewer
"""
    on_tier("avx2", without + NUMBERS + WHOLE)


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
