"""softmax and log_softmax to the last digits, layer and batch norm against their definitions in exact arithmetic."""

import mpmath
import numpy as np
import pytest

from engine import grad, hvp, jvp, ops, vjp
from engine.shapes import ShapeError

BOTH = [ops.softmax, ops.log_softmax]
ROWS = [
    [0.0, 0.0, 0.0],
    [1.5, -2.25, 0.5, 3.0],
    [1000.0, 999.0, -1000.0],
    [-1000.0, -1001.0],
    [0.0, -50.0, -60.0],  # the sum is 1 + 2e-22: log must not lose it
    [300.0, 300.0, 260.0],
    [5.0],
]


def exact(row):
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(v) - mpmath.mpf(max(row))) for v in row]
        total = mpmath.fsum(e)
        logs = [mpmath.mpf(v) - mpmath.mpf(max(row)) - mpmath.log(total) for v in row]
        return [v / total for v in e], logs


def differences(f, x, d, h=1e-4):
    """The derivative of f along d, by differences extrapolated once."""
    coarse, fine = ((f(x + s * d) - f(x - s * d)) / (2 * s) for s in (h, h / 2))
    return (4 * fine - coarse) / 3


@pytest.mark.parametrize("row", ROWS)
def test_to_a_few_roundings(row):
    probabilities, logs = exact(row)
    for got, want in ((ops.softmax(np.array(row)), probabilities), (ops.log_softmax(np.array(row)), logs)):
        for a, b in zip(got, want, strict=True):
            assert abs(mpmath.mpf(float(a)) - b) <= 4 * np.finfo(float).eps * abs(b) + mpmath.mpf(2) ** -1074


def test_a_distance_that_overflows():
    x = np.array([1e308, -1e308])
    np.testing.assert_array_equal(ops.softmax(x), [1, 0])
    np.testing.assert_array_equal(ops.log_softmax(x), [0, -np.inf])


def test_minus_infinity_is_probability_zero():
    x = np.array([[0.0, -np.inf, np.log(3)], [-np.inf, 2.0, -np.inf]])
    np.testing.assert_allclose(ops.softmax(x), [[0.25, 0, 0.75], [0, 1, 0]], rtol=1e-15)
    np.testing.assert_allclose(ops.log_softmax(x), [[np.log(0.25), -np.inf, np.log(0.75)], [-np.inf, 0, -np.inf]], rtol=1e-15)
    gx = vjp(ops.softmax, x)[1](np.array([[1.0, 5.0, 2.0], [3.0, 4.0, 5.0]]))[0]
    np.testing.assert_allclose(gx, [[0.25 * (1 - 1.75), 0, 0.75 * (2 - 1.75)], [0, 0, 0]], atol=1e-15)
    finite = np.isfinite(x)
    gx = grad(lambda x: ops.sum(ops.where(finite, ops.log_softmax(x), 0.0)))(x)
    np.testing.assert_allclose(gx, [[1 - 2 * 0.25, 0, 1 - 2 * 0.75], [0, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize("row", [[-np.inf, -np.inf], [np.inf, 0.0], [np.nan, 0.0]])
def test_a_row_without_an_answer_is_nan_and_alone(f, row):
    y = f(np.array([row, [0.0, 1.0]]))
    assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize(("axis", "flat"), [(0, (0,)), (1, (1,)), (-1, (2,)), ((0, 2), (0, 2)), (None, (0, 1, 2))])
def test_axes(f, axis, flat):
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    e = np.exp(x)
    want = e / e.sum(axis=flat, keepdims=True)
    np.testing.assert_allclose(f(x, axis=axis), want if f is ops.softmax else np.log(want), rtol=1e-13)


@pytest.mark.parametrize("f", BOTH)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 2), (1, 1)])
def test_empty_and_single(f, shape):
    y, pull = vjp(f, np.ones(shape))
    assert y.shape == shape and pull(y)[0].shape == shape
    assert np.all(y == (1 if f is ops.softmax else 0))


@pytest.mark.parametrize("f", BOTH)
def test_dtypes_strides_and_a_wrong_axis(f):
    x = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)[::2, ::-2].T
    assert f(x).dtype == np.float32
    np.testing.assert_allclose(f(x), f(np.ascontiguousarray(x, dtype=float)), rtol=1e-5)
    assert f(np.array([1, 2])).dtype == np.float64
    assert f(np.float64(3.0), axis=None) == (1 if f is ops.softmax else 0)
    with pytest.raises((ShapeError, IndexError), match="axis 2"):
        f(x, axis=2)


@pytest.mark.parametrize("f", BOTH)
def test_derivatives_of_probabilities(f):
    rng = np.random.default_rng(2)
    x, d, g = (rng.normal(size=(3, 4)) for _ in range(3))
    slope = differences(lambda x: f(x, axis=0), x, d)
    _, dy = jvp(lambda x: f(x, axis=0), (x,), (d,))
    np.testing.assert_allclose(dy, slope, atol=1e-9)
    assert np.vdot(vjp(lambda x: f(x, axis=0), x)[1](g)[0], d) == pytest.approx(np.sum(g * slope), abs=1e-9)
    product = hvp(lambda x: ops.sum(g * f(x)), (x,), (d,))
    np.testing.assert_allclose(product, differences(grad(lambda x: ops.sum(g * f(x))), x, d), atol=1e-8)


def test_a_shift_changes_nothing():
    x = np.random.default_rng(3).normal(size=(2, 5))
    gx = vjp(ops.log_softmax, x)[1](np.random.default_rng(4).normal(size=(2, 5)))[0]
    np.testing.assert_allclose(gx.sum(axis=1), 0, atol=1e-14)
    np.testing.assert_allclose(ops.softmax(x + 512.0), ops.softmax(x), rtol=1e-12)


# Mean 0, variance 1.


def normal_rows(rows, w, b, eps):
    """Each row normalised in exact arithmetic."""
    out = []
    with mpmath.workdps(60):
        for row in rows:
            values = [mpmath.mpf(float(v)) for v in row]
            mean = mpmath.fsum(values) / len(values)
            var = mpmath.fsum([(v - mean) ** 2 for v in values]) / len(values)
            scale = mpmath.sqrt(var + mpmath.mpf(eps))
            out.append([float((v - mean) / scale * float(w[i]) + float(b[i])) for i, v in enumerate(values)])
    return np.array(out)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6])
def test_layer_norm(offset):
    rng = np.random.default_rng(5)
    x, w, b = offset + rng.normal(size=(4, 7)), rng.normal(size=7), rng.normal(size=7)
    np.testing.assert_allclose(ops.layer_norm(x, w, b, eps=1e-5), normal_rows(x, w, b, 1e-5), atol=1e-15 * abs(offset) + 1e-13)
    cube = x.reshape(2, 2, 7)
    np.testing.assert_allclose(ops.layer_norm(cube, w, b), ops.layer_norm(x, w, b).reshape(2, 2, 7), rtol=1e-14)
    inner = rng.normal(size=(2, 7)), rng.normal(size=(2, 7))
    whole = ops.layer_norm(cube.reshape(2, 14), inner[0].ravel(), inner[1].ravel())
    np.testing.assert_allclose(ops.layer_norm(cube, *inner), whole.reshape(2, 2, 7), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.1, 1e4 / 3, -1e8 / 3])
def test_equal_values_give_the_shift(dtype, value):
    """The mean of equal values is that value: a rounding of it, times 1 / sqrt(eps), would show."""
    x, w, b = np.full((3, 77), value, dtype), np.full(77, 2, dtype), np.linspace(0, 1, 77, dtype=dtype)
    y, pull = vjp(ops.layer_norm, x, w, b)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, np.broadcast_to(b, y.shape))
    gx, gw, gb = pull(np.ones_like(y))
    assert np.all(gw == 0) and np.all(gb == 3) and np.all(np.abs(gx) <= 1e5 * np.finfo(dtype).eps)


def channels(x, axis=1):
    """(c, everything else)"""
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((4, 3, 2, 2), 1), ((2, 6, 3), -1), ((3, 4), 0)])
def test_batch_norm_of_a_batch(shape, axis):
    rng = np.random.default_rng(6)
    c = shape[axis]
    x, w, b = rng.normal(size=shape), rng.normal(size=c), rng.normal(size=c)
    y, mean, var = ops.batch_norm(x, w, b, axis=axis, eps=1e-3)
    assert y.shape == shape and mean.shape == var.shape == (c,)
    for k, row in enumerate(channels(x, axis)):
        want = normal_rows([row], np.full(row.size, w[k]), np.full(row.size, b[k]), 1e-3)[0]
        np.testing.assert_allclose(channels(y, axis)[k], want, atol=1e-13)
    np.testing.assert_allclose(mean, channels(x, axis).mean(axis=1), atol=1e-14)
    np.testing.assert_allclose(var, channels(x, axis).var(axis=1), rtol=1e-13)
    again = ops.batch_norm_inference(x, w, b, mean, var, axis=axis, eps=1e-3)
    np.testing.assert_allclose(again, y, atol=1e-13)


def test_every_derivative_of_batch_norm():
    """Of y, mean and var, in x, w and b: against differences, with a random cotangent for each output."""
    rng = np.random.default_rng(7)
    args = [rng.normal(size=(4, 2, 3)), rng.normal(size=2), rng.normal(size=2)]
    moves = [rng.normal(size=a.shape) for a in args]
    out, pull = vjp(ops.batch_norm, *args)
    g = tuple(rng.normal(size=part.shape) for part in out)
    pulled = pull(g)
    for i, d in enumerate(moves):

        def f(a, i=i):
            return np.concatenate([part.ravel() for part in ops.batch_norm(*args[:i], a, *args[i + 1 :])])

        slope = differences(f, args[i], d)
        _, pushed = jvp(lambda a, i=i: ops.batch_norm(*args[:i], a, *args[i + 1 :]), (args[i],), (d,))
        np.testing.assert_allclose(np.concatenate([part.ravel() for part in pushed]), slope, atol=1e-8)
        want = np.dot(np.concatenate([part.ravel() for part in g]), slope)
        assert np.vdot(pulled[i], d) == pytest.approx(want, abs=1e-8)


@pytest.mark.parametrize("norm", [ops.layer_norm, lambda x, w, b: ops.batch_norm(x, w, b)[0]])
def test_second_derivatives_of_norms(norm):
    rng = np.random.default_rng(8)
    args = tuple(rng.normal(size=s) for s in ((3, 4), (4,), (4,)))
    moves = tuple(rng.normal(size=a.shape) for a in args)
    weight = rng.normal(size=(3, 4))

    def loss(*args):
        return ops.sum(weight * norm(*args) ** 2)

    both = grad(loss, argnums=(0, 1, 2))
    for i, product in enumerate(hvp(loss, args, moves)):
        slope = differences(lambda t, i=i: both(*(a + t * m for a, m in zip(args, moves, strict=True)))[i], 0.0, 1.0)
        np.testing.assert_allclose(product, slope, atol=1e-6 * (1 + np.max(np.abs(slope))))


def test_one_example_and_none():
    w, b = np.array([2.0, 3.0]), np.array([0.5, -0.5])
    y, mean, var = ops.batch_norm(np.array([[7.0, 1 / 3]]), w, b)
    np.testing.assert_array_equal(y, [b])
    np.testing.assert_array_equal((mean, var), [[7.0, 1 / 3], [0, 0]])
    (y, mean, var), pull = vjp(ops.batch_norm, np.zeros((0, 2)), w, b)
    assert y.shape == (0, 2) and np.all(mean == 0) and np.all(var == 0)
    assert [gx.shape for gx in pull((y, mean, var))] == [(0, 2), (2,), (2,)]
    assert ops.layer_norm(np.zeros((0, 2)), w, b).shape == (0, 2)


def test_running_statistics():
    rng = np.random.default_rng(9)
    mean, var, batches = np.zeros(3), np.ones(3), [rng.normal(size=(n, 3, 2)) for n in (4, 2, 5)]
    want_mean, want_var = [0.0] * 3, [1.0] * 3
    for x in batches:
        _, *seen = ops.batch_norm(x, np.ones(3), np.zeros(3))
        mean, var = ops.batch_norm_update(mean, var, *seen, count=x.size // 3, momentum=0.25)
        for k in range(3):
            want_mean[k] = 0.75 * want_mean[k] + 0.25 * np.mean(x[:, k])
            want_var[k] = 0.75 * want_var[k] + 0.25 * np.var(x[:, k], ddof=1)  # unbiased, as in torch.nn.BatchNorm
    np.testing.assert_allclose(mean, want_mean, rtol=1e-13)
    np.testing.assert_allclose(var, want_var, rtol=1e-13)
    one = ops.batch_norm_update(mean, var, np.ones(3), np.zeros(3), count=1)
    np.testing.assert_allclose(one[0], 0.9 * mean + 0.1)
    assert one[1] is var  # one value has no variance
    assert ops.batch_norm_update(mean, var, np.zeros(3), np.zeros(3), count=0) == (mean, var)


def test_running_statistics_keep_single_precision():
    four = [np.ones(2, np.float32)] * 4
    assert all(a.dtype == np.float32 for a in ops.batch_norm_update(*four, count=7))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ops.layer_norm(np.ones((2, 3)), np.ones(2), np.ones(2)), "w has shape .* not that of the last axes"),
        (lambda: ops.layer_norm(np.ones((2, 3)), np.ones(()), np.ones(())), "w has shape"),
        (lambda: ops.batch_norm(np.ones((2, 3)), np.ones(2), np.ones(3)), r"w has shape \(2,\), but x .* has 3 channels on axis 1"),
        (lambda: ops.batch_norm_inference(np.ones((2, 3)), *[np.ones(3)] * 3, np.ones(1)), r"var has shape \(1,\), but x"),
        (lambda: ops.batch_norm(np.ones((2, 3)), np.ones(3), np.ones(3), axis=2), "no axis 2 for the channels"),
        (lambda: ops.normalise(np.ones((2, 3)), np.ones((4, 2, 3)), 0.0), "w of shape .* does not broadcast"),
        (lambda: ops.normalise(np.ones((2, 1)), 1.0, np.ones((2, 3))), "b of shape .* does not broadcast"),
    ],
)
def test_what_does_not_fit_is_said(call, reason):
    with pytest.raises(ShapeError, match=reason):
        call()
