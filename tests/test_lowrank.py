"""Low rank: the nearest factors, the products that they run, and ranks that keep what was asked."""

import numpy as np
import pytest

import kernels
from engine import ops, vjp
from engine.forms import Form, flat, running
from engine.lowrank import (
    FilterFactors,
    LowRank,
    SpatialFactors,
    break_even,
    factorise,
    ranks_by_budget,
    ranks_by_energy,
    ranks_by_measure,
    spectrum,
    table,
)
from engine.models import cnn, mlp
from engine.observe import count
from engine.shapes import ShapeError
from engine.testing import check_gradient

RNG = np.random.default_rng(29)
KERNEL = RNG.normal(size=(5, 3, 4, 2))
WEIGHTS = [("filters", RNG.normal(size=(9, 6))), ("filters", RNG.normal(size=(4, 11))), ("filters", KERNEL), ("spatial", KERNEL)]
IDS = ["tall", "wide", "filters", "spatial"]


def decaying(k, n, rate=0.7):
    """A matrix whose singular values fall as powers of `rate`."""
    (u, _), (v, _) = np.linalg.qr(RNG.normal(size=(k, min(k, n)))), np.linalg.qr(RNG.normal(size=(n, min(k, n))))
    return u * rate ** np.arange(min(k, n)) @ v.T


PARAMS = {"w1": decaying(30, 20), "b1": np.zeros(20), "w2": decaying(20, 12, 0.5), "b2": np.zeros(12), "w3": decaying(12, 1)}
TOTAL = 600 + 20 + 240 + 12 + 12


def numbers(formed):
    return sum(p.count if isinstance(p, Form) else p.size for p in formed.values())


# The nearest factors.


@pytest.mark.parametrize("conv, w", WEIGHTS, ids=IDS)
def test_the_error_is_the_sum_of_the_squares_that_were_cut(conv, w):
    """Eckart & Young (1936)."""
    s = spectrum("w", w, conv=conv).s
    for rank in range(1, len(s) + 1):
        form = factorise({"w": w}, {"w": rank}, conv=conv)["w"]
        assert form.shape == w.shape and form.dtype == w.dtype
        assert np.sum((w - form.expand()) ** 2) == pytest.approx(np.sum(s[rank:] ** 2), rel=1e-12, abs=1e-24)
        assert spectrum("w", w, conv=conv).energy(rank) == pytest.approx(1 - np.sum(s[rank:] ** 2) / np.sum(w**2), rel=1e-12)


@pytest.mark.parametrize("conv, w", WEIGHTS, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_full_rank_is_exact_to_rounding(conv, w, dtype):
    w = w.astype(dtype)
    full = len(spectrum("w", w, conv=conv).s)
    form = factorise({"w": w}, {"w": full}, conv=conv)["w"]
    assert form.expand().dtype == dtype
    np.testing.assert_allclose(form.expand(), w, rtol=0, atol=20 * np.finfo(dtype).eps * np.abs(w).max())


def test_no_matrix_of_that_rank_is_nearer():
    w = RNG.normal(size=(7, 5))
    best = np.linalg.norm(w - factorise({"w": w}, {"w": 2})["w"].expand())
    for _ in range(50):
        u = RNG.normal(size=(7, 2))
        assert np.linalg.norm(w - u @ np.linalg.lstsq(u, w, rcond=None)[0]) >= best


def test_both_factors_are_of_one_size():
    form = factorise({"w": 100 * RNG.normal(size=(7, 5))}, {"w": 3})["w"]
    np.testing.assert_allclose(np.linalg.norm(form.u, axis=0), np.linalg.norm(form.v, axis=1))


@pytest.mark.parametrize("conv, w", WEIGHTS, ids=IDS)
def test_numbers_are_r_times_k_plus_n(conv, w):
    taken = spectrum("w", w, conv=conv)
    k, n = taken.sides
    assert k * n == w.size
    for rank in range(1, len(taken.s) + 1):
        assert taken.cut(rank).count == taken.numbers(rank) == rank * (k + n)
        assert (taken.cut(rank).count < w.size) == (rank <= break_even(k, n))


def test_rows_strides_and_zeros():
    w = np.asfortranarray(RNG.normal(size=(8, 6)))[::2]
    np.testing.assert_allclose(factorise({"w": w}, {"w": 4})["w"].expand(), w, atol=1e-12)
    form = factorise({"w": np.zeros((3, 4))}, {"w": 1})["w"]
    assert not form.expand().any() and spectrum("w", np.zeros((3, 4))).energy(1) == 1


# The products.


def pictures(h=7, w=6):
    return RNG.normal(size=(2, 3, h, w))


CALLS = [
    {},
    {"stride": 2},
    {"stride": (1, 3), "padding": (2, 1)},
    {"padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
    {"stride": (2, 1), "dilation": 2},
]


@pytest.mark.parametrize("conv", ["filters", "spatial"])
@pytest.mark.parametrize("options", CALLS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_convolution_by_factors_is_that_with_the_kernel(conv, options, dtype):
    x = pictures().astype(dtype)
    for backend in (None, *kernels.backends()):
        for rank in (1, 3):
            form = factorise({"w": KERNEL.astype(dtype)}, {"w": rank}, conv=conv)["w"]
            with kernels.use(backend):
                y = running(lambda p, x: ops.conv2d(x, p["w"], **options))({"w": form}, x)
            want = ops.conv2d(np.float64(x), np.float64(form.expand()), **options)
            assert y.dtype == dtype and y.shape == want.shape
            np.testing.assert_allclose(y, want, rtol=0, atol=100 * np.finfo(dtype).eps * np.abs(want).max())


@pytest.mark.parametrize("n", [0, 1, 5])
def test_products_of_any_number_of_rows(n):
    form = factorise({"w": RNG.normal(size=(6, 4))}, {"w": 2})["w"]
    x, b = RNG.normal(size=(n, 6)), RNG.normal(size=4)
    np.testing.assert_allclose(running(lambda p, x: ops.matmul(x, p["w"]))({"w": form}, x), x @ form.expand(), atol=1e-12)
    y = running(lambda p, x: ops.dense(x, p["w"], b, activation="relu"))({"w": form}, x)
    np.testing.assert_allclose(y, np.maximum(x @ form.expand() + b, 0), atol=1e-12)


def test_flops_are_twice_the_numbers_for_each_example_or_place():
    form = factorise({"w": RNG.normal(size=(9, 6))}, {"w": 2})["w"]
    costs = count(running(lambda p, x: ops.matmul(x, p["w"]), like={"w": form}))(flat({"w": form}), RNG.normal(size=(5, 9)))
    assert sum(costs.flops.values()) == 2 * 5 * form.count
    form = factorise({"w": KERNEL}, {"w": 2})["w"]
    costs = count(running(lambda p, x: ops.conv2d(x, p["w"]), like={"w": form}))(flat({"w": form}), pictures())
    assert sum(costs.flops.values()) == 2 * (2 * 4 * 5) * form.count  # 2 pictures, 4 x 5 places


@pytest.mark.parametrize("conv, shapes", [(LowRank, "k r, r n -> k n"), (FilterFactors, "r c i j, o r 1 1 -> o c i j")])
def test_the_weight_is_differentiable_in_its_factors(conv, shapes):
    def weight(u, v):
        return conv(u, v).expand()

    check_gradient(weight, framework="engine", signature=shapes, examples=10).raise_if_failed()


def test_gradients_of_factors_through_a_convolution():
    def through(u, v, x):
        return running(lambda p, x: ops.conv2d(x, p["w"], padding=1))({"w": FilterFactors(u, v)}, x)

    check_gradient(through, framework="engine", signature="r c 2 2, o r 1 1, n c 3 3 -> n o 4 4", examples=10).raise_if_failed()


@pytest.mark.parametrize("options", CALLS, ids=str)
def test_gradients_of_spatial_factors_follow_from_the_kernel(options):
    form, x = factorise({"w": KERNEL}, {"w": 3}, conv="spatial")["w"], pictures()

    def weight(u, v):
        return SpatialFactors(u, v).expand()

    y, pull = vjp(lambda u, v: running(lambda p: ops.conv2d(x, p["w"], **options))({"w": SpatialFactors(u, v)}), form.u, form.v)
    g = RNG.normal(size=y.shape)
    gw = vjp(lambda w: ops.conv2d(x, w, **options), form.expand())[1](g)[0]
    for mine, known in zip(pull(g), vjp(weight, form.u, form.v)[1](gw), strict=True):
        np.testing.assert_allclose(mine, known, rtol=1e-10, atol=1e-11)


# Ranks.


def test_the_break_even_rank_is_the_last_that_saves():
    for k in range(9):
        for n in range(9):
            saving = [r for r in range(1, 10) if r * (k + n) < k * n]
            assert break_even(k, n) == max(saving, default=0)


def test_ranks_by_energy_are_the_smallest_that_keep_it():
    for share in (0.3, 0.9, 0.99):
        ranks = ranks_by_energy(PARAMS, share)
        assert set(ranks) <= {"w1", "w2"}
        for name, rank in ranks.items():
            taken = spectrum(name, PARAMS[name])
            assert taken.energy(rank) >= share > taken.energy(rank - 1)
    assert "w1" not in ranks_by_energy({"w1": RNG.normal(size=(30, 20))}, 0.999)  # it would have more numbers than before
    assert ranks_by_energy({"w": np.zeros((9, 9))}, 0.9) == {"w": 1}


@pytest.mark.parametrize("conv", ["filters", "spatial"])
def test_a_budget_is_met_or_nearly(conv):
    params = {**PARAMS, "k": RNG.normal(size=(8, 4, 3, 3))}
    least = 50 + 20 + 32 + 12 + 12 + (36 + 8 if conv == "filters" else 12 + 24)
    before = None
    for budget in [*range(least, TOTAL + 288, 9), TOTAL + 288, 10_000]:
        ranks = ranks_by_budget(params, budget, conv=conv)
        used = numbers(factorise(params, ranks, conv=conv))
        assert least <= used <= budget
        assert budget - used < 50 or not ranks  # the largest step takes 50
        assert before is None or used >= before
        before = used
    assert ranks_by_budget(params, TOTAL + 288, conv=conv) == {}  # all are whole
    with pytest.raises(ValueError, match=rf"has {least} numbers with all ranks 1, the budget is {least - 1}"):
        ranks_by_budget(params, least - 1, conv=conv)


def test_a_budget_goes_where_the_energy_is():
    params = {"flat": RNG.normal(size=(20, 20)), "steep": decaying(20, 20, 0.3)}
    ranks = ranks_by_budget(params, 320)
    assert sum(ranks.values()) == 8 and ranks["flat"] > ranks["steep"]
    named = ranks_by_budget(params, 600, names=["steep"])
    assert set(named) == {"steep"} and numbers(factorise(params, named)) == 600


@pytest.mark.parametrize("budget", [1200, 2000, 4000])
def test_the_product_of_energies_is_nearly_the_largest(budget):
    """Against all pairs of ranks. To add up shares of energy instead would leave the large weight with next to nothing."""
    params = {"large": RNG.normal(size=(200, 100)), "small": RNG.normal(size=(40, 30))}
    large, small = (spectrum(name, w) for name, w in params.items())

    def product(m, n):
        return large.energy(m) * small.energy(n)

    pairs = [(m, n) for m in range(1, 67) for n in range(1, 18) if large.numbers(m) + small.numbers(n) <= budget]
    whole = [(m, 30) for m in range(1, 67) if large.numbers(m) + 1200 <= budget]
    ranks = {"large": 100, "small": 30} | ranks_by_budget(params, budget)
    best = max(product(*pair) for pair in pairs + whole)
    assert 0.9 * best <= product(ranks["large"], ranks["small"]) <= best * (1 + 1e-12)


def test_ranks_by_measure_are_the_least_that_hold_the_score():
    def score(params):
        return -sum(
            np.sum((p.expand() - PARAMS[name]) ** 2) / np.sum(PARAMS[name] ** 2) for name, p in params.items() if isinstance(p, Form)
        )

    asked = []
    for drop in (0.5, 0.1, 0.01):
        ranks = ranks_by_measure(PARAMS, lambda p: asked.append(1) or score(p), drop)
        formed = factorise(PARAMS, ranks)
        assert score(formed) >= -drop
        fewer = ranks_by_budget(PARAMS, numbers(formed) - 1)
        assert score(factorise(PARAMS, fewer)) < -drop
    assert len(asked) <= 3 * 6
    assert ranks_by_measure(PARAMS, lambda p: 0.0 if not any(isinstance(x, Form) for x in p.values()) else -1.0, 0.5) == {}
    assert ranks_by_measure(PARAMS, lambda p: 0.0, 0) == {"w1": 1, "w2": 1}


def test_a_table_says_what_was_gained():
    said = table(PARAMS, factorise(PARAMS, {"w1": 4, "w2": 3}))
    assert "w1               (30, 20)               4        11        600        200    94.2%" in said
    assert said.splitlines()[-1].split() == ["all", str(TOTAL), str(200 + 20 + 96 + 12 + 12)]
    kernel = {"k": KERNEL}
    assert "spatial" not in table(kernel, factorise(kernel, {"k": 2}, conv="spatial"))
    assert " 120         44 " in table(kernel, factorise(kernel, {"k": 2}, conv="spatial"))


# What is refused.


def test_ranks_that_are_none():
    for rank in (0, -1, 13):
        with pytest.raises(ValueError, match=rf"rank {rank} of w2, a 20 by 12 matrix of \(20, 12\): wanted is 1 <= rank <= 12"):
            factorise(PARAMS, {"w1": 2, "w2": rank})
    with pytest.raises(ValueError, match=r"rank 11 of k, a 12 by 10 matrix of \(5, 3, 4, 2\)"):
        factorise({"k": KERNEL}, {"k": 11}, conv="spatial")


def test_names_that_are_no_weights():
    with pytest.raises(ValueError, match=r"b1 is float64 \(20,\), no weight with a rank"):
        factorise(PARAMS, {"b1": 1})
    with pytest.raises(ValueError, match="there is no parameter 'w9': there are w1, b1"):
        factorise(PARAMS, {"w9": 1})
    with pytest.raises(ValueError, match="no weight with a rank"):
        factorise({"w": np.ones((3, 4), int)}, {"w": 1})
    with pytest.raises(ValueError, match="no weight with a rank"):
        factorise({"w": np.ones((0, 4))}, {"w": 1})
    with pytest.raises(ValueError, match="w holds numbers that are not finite"):
        factorise({"w": np.full((3, 4), np.nan)}, {"w": 1})
    with pytest.raises(ValueError, match='conv is "filters" or "spatial"'):
        factorise({"k": KERNEL}, {"k": 1}, conv="rows")


@pytest.mark.parametrize("conv", ["filters", "spatial"])
def test_groups_are_refused_by_name(conv):
    formed = factorise({"conv1/w": RNG.normal(size=(4, 2, 3, 3))}, {"conv1/w": 1}, conv=conv)
    with pytest.raises(
        ShapeError, match=r"conv1/w, kept as .*Factors of \(4, 2, 3, 3\): conv2d was called with groups=2(.|\n)*leave this weight out"
    ):
        running(lambda p, x: ops.conv2d(x, p["conv1/w"], groups=2))(formed, RNG.normal(size=(1, 4, 5, 5)))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, np.nan])
def test_a_share_that_is_none(share):
    with pytest.raises(ValueError, match="share of the energy"):
        ranks_by_energy(PARAMS, share)


def test_scores_and_drops_that_are_none():
    with pytest.raises(ValueError, match="score is nan"):
        ranks_by_measure(PARAMS, lambda p: np.nan, 0.1)
    for drop in (-0.1, np.nan):
        with pytest.raises(ValueError, match="the drop that is allowed"):
            ranks_by_measure(PARAMS, lambda p: 0.0, drop)


def test_factors_that_do_not_fit():
    a = np.zeros
    for form, u, v in [
        (LowRank, (3, 2), (3, 4)), (LowRank, (3,), (3, 4)), (FilterFactors, (2, 3, 3, 3), (4, 3, 1, 1)),
        (FilterFactors, (2, 3), (4, 2, 1, 1)), (SpatialFactors, (2, 3, 3, 3), (4, 2, 1, 3)), (SpatialFactors, (2, 3, 3, 1), (4, 3, 1, 3)),
    ]:  # fmt: skip
        with pytest.raises(ShapeError, match="factors of shapes"):
            form(a(u), a(v))


def test_nothing_given_is_changed():
    params = {name: p.copy() for name, p in cnn.init_classic(0, (1, 12, 12), 3).items()}
    before = {name: p.copy() for name, p in params.items()}
    formed = factorise(params, ranks_by_budget(params, 3000))
    running(cnn.predict_classic)(formed, np.ones((1, 1, 12, 12), np.float32))
    for name in params:
        np.testing.assert_array_equal(params[name], before[name])
    assert mlp.predict(PARAMS | {"b3": np.zeros(1)}, np.ones((1, 30))).shape == (1, 1)
