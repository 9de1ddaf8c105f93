"""Products and dense layers: which bits do not change, where results go, nan and infinity, tiers."""

import numpy as np
import pytest
from alone import on_tier
from strategies import laid_out

import kernels


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


@pytest.mark.parametrize("tier", ["generic", "avx2", "avx512", "amx"])
def test_each_tier_that_this_machine_has_multiplies_right(tier):
    printed = on_tier(
        tier,
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
    )
    assert printed.split() == [tier, {"generic": "4", "avx2": "8"}.get(tier, "16")]
