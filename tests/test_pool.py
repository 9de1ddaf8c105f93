"""Pooling against windows cut out one by one; ties, nan, infinities and padding; gradients that scatter."""

import itertools

import numpy as np
import pytest

from engine import grad, jvp, ops, vjp
from engine.shapes import ShapeError

CASES = [
    # (h, w), kernel, stride, padding
    ((6, 4), (2, 2), None, (0, 0)),
    ((7, 5), (3, 2), (1, 1), (0, 0)),  # windows overlap
    ((7, 8), (2, 2), (3, 3), (0, 0)),  # and leave gaps
    ((5, 6), (3, 3), (2, 2), (1, 1)),
    ((4, 5), (3, 2), (2, 1), (1, 0)),
    ((3, 4), (3, 4), None, (0, 0)),  # the whole picture
    ((1, 1), (1, 1), None, (0, 0)),
    ((2, 2), (3, 3), None, (2, 2)),  # more padding than picture
]


def windows(x, kernel, stride, padding):
    """For each window: its place in the output, and the (row, column) of its pixels, without padding."""
    h, w = x.shape[2:]
    step = kernel if stride is None else stride
    p, q = ((size + 2 * pad - k) // s + 1 for size, pad, k, s in zip((h, w), padding, kernel, step, strict=True))
    for n, c, a, b in itertools.product(range(x.shape[0]), range(x.shape[1]), range(p), range(q)):
        rows = [a * step[0] + i - padding[0] for i in range(kernel[0])]
        columns = [b * step[1] + j - padding[1] for j in range(kernel[1])]
        yield (n, c, a, b), [(r, s) for r in rows for s in columns if 0 <= r < h and 0 <= s < w]


def picture(size, seed=0, n=2, c=3):
    rng = np.random.default_rng(seed)
    return rng.permutation(n * c * size[0] * size[1]).reshape(n, c, *size) / 7.0 - 3.0


def options(kernel, stride, padding):
    return {"kernel_size": kernel, "stride": stride, "padding": padding}


@pytest.mark.parametrize("sizes", CASES)
def test_the_largest_of_each_window_and_its_place(sizes):
    x = picture(sizes[0])
    y, indices = ops.max_pool2d_with_indices(x, **options(*sizes[1:]))
    assert indices.dtype == np.int64
    seen = 0
    for at, pixels in windows(x, *sizes[1:]):
        values = [x[(*at[:2], *pixel)] for pixel in pixels]
        assert y[at] == max(values)
        row, column = pixels[int(np.argmax(values))]
        assert indices[at] == row * x.shape[3] + column
        seen += 1
    assert seen == y.size > 0
    np.testing.assert_array_equal(ops.max_pool2d(x, **options(*sizes[1:])), y)


@pytest.mark.parametrize("sizes", CASES)
def test_each_window_hands_its_cotangent_to_its_largest(sizes):
    x = picture(sizes[0])
    y, pull = vjp(lambda x: ops.max_pool2d(x, **options(*sizes[1:])), x)
    g = np.random.default_rng(1).normal(size=y.shape)
    want = np.zeros_like(x)
    for at, pixels in windows(x, *sizes[1:]):
        best = max(pixels, key=lambda pixel: x[(*at[:2], *pixel)])
        want[(*at[:2], *best)] += g[at]
    np.testing.assert_allclose(pull(g)[0], want, atol=1e-14)


@pytest.mark.parametrize("sizes", CASES)
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_the_mean_of_each_window(sizes, count_include_pad):
    x = picture(sizes[0])
    params = {**options(*sizes[1:]), "count_include_pad": count_include_pad}
    y, pull = vjp(lambda x: ops.avg_pool2d(x, **params), x)
    g = np.random.default_rng(2).normal(size=y.shape)
    want = np.zeros_like(x)
    area = sizes[1][0] * sizes[1][1]
    for at, pixels in windows(x, *sizes[1:]):
        values = [x[(*at[:2], *pixel)] for pixel in pixels]
        size = area if count_include_pad else len(values)
        assert y[at] == pytest.approx(sum(values) / size, abs=1e-12)
        for pixel in pixels:
            want[(*at[:2], *pixel)] += g[at] / size
    np.testing.assert_allclose(pull(g)[0], want, atol=1e-14)


def test_of_equal_values_the_first_counts():
    x = np.zeros((1, 1, 2, 4))
    x[0, 0, 1, 2:] = 1.0
    y, indices = ops.max_pool2d_with_indices(x, kernel_size=2)
    np.testing.assert_array_equal(y, [[[[0, 1]]]])
    np.testing.assert_array_equal(indices, [[[[0, 6]]]])
    gx = grad(lambda x: ops.sum(ops.max_pool2d(x, kernel_size=2)))(x)
    np.testing.assert_array_equal(gx, [[[[1, 0, 0, 0], [0, 0, 1, 0]]]])


def test_nan_wins_and_the_first_of_them():
    x = np.array([[1.0, np.nan, 9.0, np.nan]]).reshape(1, 1, 1, 4)
    y, indices = ops.max_pool2d_with_indices(x, kernel_size=(1, 4))
    assert np.isnan(y).all() and indices.item() == 1


def test_padding_is_never_chosen():
    x = np.full((1, 1, 2, 2), -np.inf)
    y, indices = ops.max_pool2d_with_indices(x, kernel_size=2, stride=1, padding=1)
    assert np.all(y == -np.inf)
    np.testing.assert_array_equal(indices[0, 0], [[0, 0, 1], [0, 0, 1], [2, 2, 3]])
    assert np.all(ops.max_pool2d(np.full((1, 1, 2, 2), -5.0), kernel_size=2, stride=1, padding=1) == -5.0)


def test_padding_on_one_side():
    x = picture((3, 3))
    padded = np.pad(x, [(0, 0), (0, 0), (0, 1), (1, 0)], constant_values=-99.0)
    one_sided = {"kernel_size": 2, "padding": ((0, 1), (1, 0))}
    np.testing.assert_array_equal(ops.max_pool2d(x, **one_sided), ops.max_pool2d(padded, kernel_size=2))
    zeros = np.pad(x, [(0, 0), (0, 0), (0, 1), (1, 0)])
    np.testing.assert_allclose(ops.avg_pool2d(x, **one_sided), ops.avg_pool2d(zeros, kernel_size=2))


def test_integers_and_no_examples():
    x = np.arange(16).reshape(1, 1, 4, 4) - 20
    y = ops.max_pool2d(x, kernel_size=3, stride=1, padding=1)
    assert y.dtype == x.dtype and y[0, 0, 0, 0] == x[0, 0, 1, 1]
    assert ops.avg_pool2d(x, kernel_size=2).dtype == np.float64
    for pool in (ops.max_pool2d, ops.avg_pool2d):
        empty, pull = vjp(lambda x, pool=pool: pool(x, kernel_size=2), np.zeros((0, 3, 4, 4)))
        assert empty.shape == (0, 3, 2, 2) and pull(empty)[0].shape == (0, 3, 4, 4)


@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
def test_single_precision_and_strides(pool):
    x = picture((5, 8)).astype(np.float32)[:, ::-1, :, ::2]
    y, pull = vjp(lambda x: pool(x, kernel_size=(2, 3), stride=1), x)
    assert y.dtype == pull(y)[0].dtype == np.float32
    np.testing.assert_array_equal(y, pool(np.ascontiguousarray(x), kernel_size=(2, 3), stride=1))


@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
def test_the_derivative_of_a_derivative(pool):
    """A cube after pooling: the Hessian is diagonal over windows, and windows overlap."""
    x = picture((4, 5), n=1, c=1)
    rng = np.random.default_rng(3)
    d, h = rng.normal(size=x.shape), 1e-4

    def gradient(x):
        return grad(lambda x: ops.sum(pool(x, kernel_size=2, stride=1) ** 3))(x)

    _, pushed = jvp(gradient, (x,), (d,))
    _, pull = vjp(gradient, x)
    quotient = (gradient(x + h * d) - gradient(x - h * d)) / (2 * h)
    np.testing.assert_allclose(pushed, quotient, rtol=0, atol=1e-6 * np.max(np.abs(quotient)))
    np.testing.assert_allclose(pull(d)[0], pushed, rtol=0, atol=1e-11 * np.max(np.abs(pushed)))  # a Hessian is symmetric


X = np.ones((1, 1, 4, 4))


@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.avg_pool2d])
@pytest.mark.parametrize(
    ("x", "params", "reason"),
    [
        (X, {"kernel_size": 5}, "the kernel reaches over 5 rows, the input has 4 with its padding"),
        (X, {"kernel_size": (2, 7), "padding": (0, 1)}, "the kernel reaches over 7 columns, the input has 6"),
        (X, {"kernel_size": 2, "padding": 2}, "a window would hold nothing else"),
        (X, {"kernel_size": 0}, "kernel_size is at least 1"),
        (X, {"kernel_size": 2, "stride": 0}, "stride is at least 1"),
        (X[:, :, :0], {"kernel_size": 2, "padding": 1}, "the input has 0 rows and 4 columns: nothing to pool"),
        (X[0], {"kernel_size": 2}, "x has 3 axes where 4 are wanted"),
    ],
)
def test_what_does_not_fit_is_said(pool, x, params, reason):
    with pytest.raises(ShapeError, match=reason):
        pool(x, **params)
