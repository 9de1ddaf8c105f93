"""Reductions: the value against NumPy's, slopes against formulas lane by lane, the tails against mpmath."""

import itertools
import math
import warnings

import mpmath
import numpy as np
import pytest

from engine import ShapeError, grad, hessian, jvp, ops, vjp

INF = math.inf
SHAPE = (2, 3, 4)
AXES = [None, (), 0, -1, 1, (0,), (0, 1), (2, 0), (-1, 1), (0, 1, 2), (-3, -1)]
NAMES = ["sum", "mean", "prod", "max", "min", "var", "std"]


# Values.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, np.uint16, np.int64, bool])
def test_values_shapes_and_dtypes_are_numpy_s(name, dtype):
    x = (np.random.default_rng(0).normal(size=SHAPE) * 3).astype(dtype)
    x.flags.writeable = False
    for axis, keepdims, view in itertools.product(AXES, (False, True), (x, x[:, ::-2], x.T)):
        want = getattr(np, name)(view, axis=axis, keepdims=keepdims)
        y = getattr(ops, name)(view, axis=axis, keepdims=keepdims)
        assert y.shape == want.shape and y.dtype == want.dtype
        assert np.array_equal(y, want)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [None, (), 0, -1])
def test_a_0d_array_reduces_as_in_numpy(name, axis):
    for x in (np.array(2.5), np.float32(2.5), 2.5):
        try:
            want = getattr(np, name)(x, axis=axis)
        except np.exceptions.AxisError:
            with pytest.raises(np.exceptions.AxisError):
                getattr(ops, name)(x, axis=axis)
            continue
        y = getattr(ops, name)(x, axis=axis)
        assert y == want and y.dtype == want.dtype and y.shape == want.shape
        slope = 0.0 if name in ("var", "std") else 1.0
        assert np.array_equal(grad(lambda x: getattr(ops, name)(x, axis=axis))(np.float64(2.5)), slope)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_size_0_follows_numpy(name, shape):
    x = np.zeros(shape)
    for axis in (None, *range(len(shape)), tuple(range(len(shape)))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of means of nothing, and so do we
            try:
                want = getattr(np, name)(x, axis=axis)
            except ValueError:
                with pytest.raises(ShapeError, match=f"{name}: zero-size array"):
                    getattr(ops, name)(x, axis=axis)
                continue
            y, pull = vjp(lambda x, axis=axis: getattr(ops, name)(x, axis=axis), x)
            dy = jvp(lambda x, axis=axis: getattr(ops, name)(x, axis=axis), (x,), (x,))[1]
        assert np.array_equal(y, want, equal_nan=True) and y.shape == want.shape == dy.shape
        assert pull(np.ones(y.shape))[0].shape == shape


@pytest.mark.parametrize("name", [*NAMES, "logsumexp", "vector_norm"])
@pytest.mark.parametrize(
    "axis, error", [(3, np.exceptions.AxisError), (-4, np.exceptions.AxisError), ((0, 0), ShapeError), ((0, -3), ShapeError)]
)
def test_an_axis_that_is_not_there(name, axis, error):
    with pytest.raises(error, match=rf"^{name}: .*\n  given  x: \(2, 3, 4\)  axis="):
        getattr(ops, name)(np.ones(SHAPE), axis=axis)
    with pytest.raises(error):
        grad(lambda x: ops.sum(getattr(ops, name)(x, axis=axis)))(np.ones(SHAPE))


@pytest.mark.parametrize("correction", [0, 1, 0.5, 2])
def test_correction_is_numpy_s_ddof(correction):
    x = np.random.default_rng(1).normal(size=SHAPE)
    assert np.array_equal(ops.var(x, axis=1, correction=correction), np.var(x, axis=1, ddof=correction))
    assert np.array_equal(ops.std(x, axis=(0, 2), correction=correction), np.std(x, axis=(0, 2), ddof=correction))


# Slopes, lane by lane. A lane is the numbers that go into one.


def prod_slopes(x):
    return [math.prod(np.delete(x, i)) for i in range(len(x))]


def shared(hits):
    return hits / max(hits.sum(), 1)


SLOPES = {
    "sum": np.ones_like,
    "mean": lambda x: np.full(len(x), 1 / len(x)),
    "prod": prod_slopes,
    "max": lambda x: shared(x == max(x)),
    "min": lambda x: shared(x == min(x)),
    "var": lambda x: [2 * (v - math.fsum(x) / len(x)) / len(x) for v in x],
    "std": lambda x: [(v - math.fsum(x) / len(x)) / len(x) / (np.std(x) or 1) for v in x],
    "logsumexp": lambda x: [1 / sum(math.exp(other - v) for other in x) for v in x],
    "vector_norm": lambda x: x / (math.hypot(*x) or 1),
}
DATA = {
    "spread": lambda rng: rng.normal(size=SHAPE),
    "tied": lambda rng: rng.integers(-1, 2, SHAPE) * 1.0,  # ties for max, zeros for prod
    "zeros": lambda rng: np.zeros(SHAPE),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", SLOPES)
def test_slopes_in_both_modes(name, data):
    rng = np.random.default_rng(2)
    x, dx = DATA[data](rng), rng.normal(size=SHAPE)
    for axis, keepdims in itertools.product(AXES, (False, True)):
        axes = tuple(range(3)) if axis is None else tuple(a % 3 for a in np.atleast_1d(axis).astype(int))
        lanes = np.moveaxis(np.arange(24).reshape(SHAPE), axes, range(-len(axes), 0)).reshape(-1, math.prod(SHAPE[a] for a in axes))

        def f(x, axis=axis, keepdims=keepdims):
            return getattr(ops, name)(x, axis=axis, keepdims=keepdims)

        y, pull = vjp(f, x)
        g = rng.normal(size=y.shape)
        want, tangents = np.zeros(24), np.zeros(y.size)
        for i, lane in enumerate(lanes):
            slopes = np.asarray(SLOPES[name](x.reshape(-1)[lane]))
            want[lane] = slopes * g.reshape(-1)[i]
            tangents[i] = slopes @ dx.reshape(-1)[lane]
        assert np.allclose(pull(g)[0], want.reshape(SHAPE), rtol=1e-12, atol=1e-15)
        assert np.allclose(jvp(f, (x,), (dx,))[1], tangents.reshape(y.shape), rtol=1e-11, atol=1e-13)


# prod: every order is a product of what is left.


@pytest.mark.parametrize("zeros", [0, 1, 2, 3, 4])
def test_prod_is_exact_with_any_number_of_zeros_to_third_order(zeros):
    rng = np.random.default_rng(3)
    x = rng.permutation(np.r_[np.zeros(zeros), rng.normal(size=5 - zeros)])

    def left_out(*places):
        return 0.0 if len(set(places)) < len(places) else math.prod(np.delete(x, places))

    def f(x):
        return ops.prod(x)

    assert np.allclose(grad(f)(x), [left_out(i) for i in range(5)], rtol=1e-14, atol=0)
    assert np.allclose(hessian(f)(x), [[left_out(i, j) for j in range(5)] for i in range(5)], rtol=1e-14, atol=0)
    third = [hessian(lambda x, i=i: grad(f)(x)[i])(x) for i in range(5)]
    assert np.allclose(third, [[[left_out(i, j, k) for k in range(5)] for j in range(5)] for i in range(5)], rtol=1e-14, atol=0)


def test_prod_whose_value_underflows():
    x = np.array([1e-200, 1e-150, 3.0])
    assert ops.prod(x) == 0
    assert np.allclose(grad(lambda x: ops.prod(x))(x), [3e-150, 3e-200, 0], rtol=1e-15, atol=0)


@pytest.mark.parametrize("axis", [(0, 2), (2, 1), None, (), -2])
def test_prod_over_several_axes_at_second_order(axis):
    rng = np.random.default_rng(4)
    x, v = rng.normal(size=SHAPE) * rng.integers(0, 3, SHAPE), rng.normal(size=SHAPE)

    def gradient(x):
        return grad(lambda x: ops.sum(ops.prod(x, axis=axis) ** 2))(x)

    h = 1e-5
    assert np.allclose(jvp(gradient, (x,), (v,))[1], (gradient(x + h * v) - gradient(x - h * v)) / (2 * h), rtol=1e-6, atol=1e-6)


# max and min.


def test_a_nan_that_wins_takes_the_gradient():
    x = np.array([1.0, np.nan, 3.0, np.nan])
    y, pull = vjp(lambda x: ops.max(x), x)
    assert np.isnan(y) and np.array_equal(pull(1.0)[0], [0, 0.5, 0, 0.5])


def test_infinities_tie_too():
    x = np.array([INF, 1.0, INF])
    assert np.array_equal(grad(lambda x: ops.max(x))(x), [0.5, 0, 0.5])
    assert np.array_equal(grad(lambda x: ops.min(x))(-x), [0.5, 0, 0.5])


# var and std.


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 3.3, 1e-300, 1e17])
@pytest.mark.parametrize("n", [1, 3, 7, 10])
def test_std_of_equal_values_has_slope_0(value, n):
    x = np.full((2, n), value)
    for axis, keepdims in ((1, False), (None, True), ((0, 1), False)):

        def f(x, axis=axis, keepdims=keepdims):
            return ops.sum(ops.std(x, axis=axis, keepdims=keepdims))

        assert np.array_equal(grad(f)(x), np.zeros((2, n)))
        assert np.array_equal(jvp(f, (x,), (np.arange(2.0 * n).reshape(2, n),))[1], 0)
        assert np.array_equal(hessian(f)(x), np.zeros((2, n, 2, n)))


def test_std_of_equal_and_other_rows():
    x = np.array([[1.0, 1.0], [1.0, 3.0]])
    assert np.allclose(grad(lambda x: ops.sum(ops.std(x, axis=1)))(x), [[0, 0], [-0.5, 0.5]])


def test_var_far_from_zero_loses_nothing():
    x = 1e8 + np.array([0.0, 1.0, 3.0, 8.0])
    assert np.array_equal(grad(lambda x: ops.var(x))(x), [-1.5, -1, 0, 2.5])
    assert np.allclose(hessian(lambda x: ops.var(x))(x), 0.5 * np.eye(4) - 0.125, rtol=1e-15)


def test_no_degrees_of_freedom_left_is_nan_as_in_numpy():
    x = np.array([1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y, pull = vjp(lambda x: ops.var(x, correction=1), x)
    assert np.isnan(y) and np.isnan(pull(1.0)[0]).all()


# logsumexp.


def ulps(value, exact):
    """How far `value` is from an mpmath number, in units of its last place."""
    return float(abs(mpmath.mpf(float(value)) - exact) / mpmath.mpf(float(np.spacing(abs(value))) if value else 5e-324))


LANES = [
    [0.0, -40.0],
    [0.0, -800.0, -3.0],
    [1000.0, 999.0, -1000.0],
    [-1000.0, -1001.5],
    [1e6, 1e6 + 1],
    [2.0],
    [3.0, 3.0, 3.0],
    [-745.2, -745.0, -INF],
    [5.0, 5.0 - 1e-9],
]


@pytest.mark.parametrize("lane", LANES, ids=str)
def test_logsumexp_against_mpmath(lane):
    with mpmath.workdps(60):
        terms = [mpmath.exp(mpmath.mpf(v)) for v in lane]
        value, slopes = mpmath.log(mpmath.fsum(terms)), [t / mpmath.fsum(terms) for t in terms]
        x = np.array(lane)
        assert ulps(ops.logsumexp(x), value) <= 3
        assert all(ulps(a, b) <= 4 or abs(b) < 1e-300 for a, b in zip(grad(lambda x: ops.logsumexp(x))(x), slopes, strict=True))
        want = [[float(p * (i == j) - p * q) for j, q in enumerate(slopes)] for i, p in enumerate(slopes)]
        assert np.allclose(hessian(lambda x: ops.logsumexp(x))(x), want, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "lane, value, slopes",
    [
        ([-INF, -INF], -INF, [0, 0]),
        ([INF, 1.0], INF, [1, 0]),
        ([INF, 0.0, INF, -INF], INF, [0.5, 0, 0.5, 0]),
        ([-INF, 2.0], 2.0, [0, 1]),
        ([np.finfo(np.float32).max, np.finfo(np.float32).min], np.finfo(np.float32).max, [1, 0]),
    ],
)
def test_logsumexp_at_infinity(lane, value, slopes, dtype):
    x = np.array([lane, np.zeros(len(lane))], dtype)

    def f(x):
        return ops.sum(ops.logsumexp(x, axis=1) * np.array([1, 0], dtype))

    y, (gx,) = ops.logsumexp(x, axis=1), vjp(lambda x: ops.logsumexp(x, axis=1), x)[1](np.array([1, 0], dtype))
    assert y.dtype == gx.dtype == dtype
    assert y[0] == np.dtype(dtype).type(value) and np.array_equal(gx, [slopes, np.zeros(len(lane))])
    if np.isfinite(value):
        assert np.isfinite(hessian(f)(x)).all()
    second = jvp(grad(lambda x: ops.sum(ops.logsumexp(x, axis=1)[1:])), (x,), (np.ones_like(x),))[1]
    assert np.allclose(second, 0, atol=1e-6)  # and no nan from the first row


def test_logsumexp_of_nothing_of_nan_and_of_integers():
    assert np.array_equal(ops.logsumexp(np.zeros((0, 2)), axis=0), [-INF, -INF])
    assert ops.logsumexp(np.zeros((0, 2))) == -INF
    assert grad(lambda x: ops.logsumexp(x))(np.zeros(0)).shape == (0,)
    assert np.isnan(ops.logsumexp([1.0, np.nan]))
    assert np.isnan(grad(lambda x: ops.logsumexp(x))(np.array([1.0, np.nan]))).all()
    assert ops.logsumexp([[1, 2], [3, 4]], axis=1, keepdims=True).shape == (2, 1)
    assert np.allclose(ops.logsumexp([1, 2]), math.log(math.e + math.e**2), rtol=1e-15)
    assert ops.logsumexp(3.0) == 3 and ops.logsumexp(np.float32(3)).dtype == np.float32


def test_logsumexp_takes_a_complex_step():
    x = np.array([0.3, -2.0, 0.3])
    step = [ops.logsumexp(x + 1e-30j * e).imag / 1e-30 for e in np.eye(3)]
    assert np.allclose(grad(lambda x: ops.logsumexp(x))(x), step, rtol=1e-14)


# vector_norm.

ORDERS = [2, 1, INF, -INF, 0, 3, 4, 1.5, 0.5, -1, -2]


@pytest.mark.parametrize("order", ORDERS)
def test_the_value_of_vector_norm(order):
    x = np.random.default_rng(5).normal(size=SHAPE)
    for axis in (0, 1, -1):
        for keepdims in (False, True):
            want = np.linalg.norm(x, order, axis, keepdims)
            y = ops.vector_norm(x, axis=axis, keepdims=keepdims, ord=order)
            assert y.shape == want.shape and np.allclose(y, want, rtol=1e-14)
    assert np.allclose(ops.vector_norm(x, ord=order), np.linalg.norm(x.reshape(-1), order), rtol=1e-14)
    assert ops.vector_norm(x.astype(np.float32), ord=order).dtype == np.float32
    assert ops.vector_norm([3, -4], ord=order).dtype == np.float64


@pytest.mark.parametrize("order", [2, 3, 4, 1.5, 0.5, -2])
def test_slopes_of_vector_norm_against_mpmath(order):
    lane = [0.3, -2.0, 1.1]
    p = mpmath.mpf(order)

    def norm(*v):
        return mpmath.fsum(abs(t) ** p for t in v) ** (1 / p)

    with mpmath.workdps(40):
        unit = [[int(i == j) for j in range(3)] for i in range(3)]
        slopes = [float(mpmath.diff(norm, lane, n=tuple(u))) for u in unit]
        second = [[float(mpmath.diff(norm, lane, n=tuple(a + b for a, b in zip(u, v, strict=True)))) for v in unit] for u in unit]
    x = np.array(lane)
    assert np.allclose(grad(lambda x: ops.vector_norm(x, ord=order))(x), slopes, rtol=1e-13)
    assert np.allclose(hessian(lambda x: ops.vector_norm(x, ord=order))(x), second, rtol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_vector_norm_at_zero_has_slope_0(order):
    x = np.zeros((2, 3))
    x[1] = 1.0, -2.0, 2.0

    def f(x):
        return ops.sum(ops.vector_norm(x, axis=1, ord=order)[:1])

    assert np.array_equal(grad(f)(x), np.zeros((2, 3)))
    assert np.array_equal(hessian(f)(x), np.zeros((2, 3, 2, 3)))


def test_a_zero_in_a_vector_bends_the_euclidean_norm():
    x = np.array([0.0, 2.0])
    assert np.allclose(hessian(lambda x: ops.vector_norm(x))(x), [[0.5, 0], [0, 0]])
    assert np.allclose(hessian(lambda x: ops.vector_norm(x, ord=4))(x), 0, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e-160, 1e160, 1e200, 2e307])
@pytest.mark.parametrize("order", [2, 3, 1.5])
def test_vector_norm_neither_overflows_nor_underflows(scale, order):
    x = scale * np.array([[3.0, -4.0], [0.0, 0.0]])
    with mpmath.workdps(40):
        a, b = (mpmath.mpf(abs(float(v))) for v in x[0])
        want = float((a ** mpmath.mpf(order) + b ** mpmath.mpf(order)) ** (1 / mpmath.mpf(order)))
    y = ops.vector_norm(x, axis=1, ord=order)
    assert np.allclose(y, [want, 0], rtol=1e-14, atol=0)
    slopes = grad(lambda x: ops.sum(ops.vector_norm(x, axis=1, ord=order)))(x)
    expected = np.sign(x) * (abs(x) / want) ** (order - 1)
    assert np.allclose(slopes, expected, rtol=1e-12, atol=0)


def test_vector_norm_in_single_precision_keeps_its_range():
    x = np.array([3e25, 4e25], np.float32)
    assert np.allclose(ops.vector_norm(x), np.float32(5e25), rtol=1e-6) and ops.vector_norm(x).dtype == np.float32
    assert np.allclose(grad(lambda x: ops.vector_norm(x))(x), [0.6, 0.8], rtol=1e-6)


def test_the_largest_and_smallest_size_share_ties():
    x = np.array([1.0, -3.0, 3.0, -1.0])
    assert np.array_equal(grad(lambda x: ops.vector_norm(x, ord=INF))(x), [0, -0.5, 0.5, 0])
    assert np.array_equal(grad(lambda x: ops.vector_norm(x, ord=-INF))(x), [0.5, 0, 0, -0.5])
    assert np.array_equal(grad(lambda x: ops.vector_norm(x, ord=1))(np.array([2.0, 0, -1])), [1, 0, -1])
