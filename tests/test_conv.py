"""Convolution against seven loops and SciPy, its gradients against differences, and what it refuses."""

import itertools

import numpy as np
import pytest
from scipy.signal import correlate

from engine import grad, hvp, jvp, ops, vjp
from engine.observe import count
from engine.shapes import ShapeError

CASES = [
    # n, channels, filters, (h, w), (i, j), stride, padding, dilation, groups
    (2, 3, 4, (6, 5), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (2, 3, 4, (7, 6), (3, 2), (2, 3), (1, 1, 2, 2), (1, 1), 1),
    (1, 2, 2, (8, 9), (3, 3), (1, 2), (0, 0, 1, 1), (2, 3), 1),
    (2, 4, 6, (5, 5), (2, 3), (2, 1), (1, 0, 0, 2), (1, 2), 2),
    (1, 3, 6, (4, 4), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 3),  # depthwise, two filters a channel
    (2, 2, 3, (3, 4), (3, 4), (5, 5), (0, 0, 0, 0), (1, 1), 1),  # one window: a dense layer
    (2, 3, 5, (2, 3), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (1, 1, 1, (1, 1), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1),  # more padding than picture
    (0, 2, 2, (4, 4), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),  # no examples
]


def loops(x, w, stride, padding, dilation, groups):
    """The sum of products, one number at a time."""
    (n, _, h, v), (o, k, ki, kj) = x.shape, w.shape
    top, bottom, left, right = padding
    p = (h + top + bottom - (ki - 1) * dilation[0] - 1) // stride[0] + 1
    q = (v + left + right - (kj - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((n, o, p, q))
    for example, f, a, b in itertools.product(range(n), range(o), range(p), range(q)):
        for channel, i, j in itertools.product(range(k), range(ki), range(kj)):
            row, column = a * stride[0] + i * dilation[0] - top, b * stride[1] + j * dilation[1] - left
            if 0 <= row < h and 0 <= column < v:
                seen = x[example, f // (o // groups) * k + channel, row, column]
                y[example, f, a, b] += seen * w[f, channel, i, j]
    return y


def case(n, c, o, size, kernel, stride, padding, dilation, groups, seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(n, c, *size)), rng.normal(size=(o, c // groups, *kernel))
    top, bottom, left, right = padding
    return x, w, {"stride": stride, "padding": ((top, bottom), (left, right)), "dilation": dilation, "groups": groups}


@pytest.mark.parametrize("sizes", CASES)
def test_seven_loops(sizes):
    x, w, params = case(*sizes)
    want = loops(x, w, *sizes[5:])
    y = ops.conv2d(x, w, **params)
    assert y.shape == want.shape
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", CASES)
@pytest.mark.parametrize("argument", ["x", "w"])
def test_gradients_are_limits_of_differences(sizes, argument):
    x, w, params = case(*sizes)
    rng = np.random.default_rng(1)
    y, pull = vjp(lambda x, w: ops.conv2d(x, w, **params), x, w)
    g = rng.normal(size=y.shape)
    gradient = pull(g)["xw".index(argument)]
    a = x if argument == "x" else w

    def nudged(step):
        return (x + step, w) if argument == "x" else (x, w + step)

    for flat in rng.choice(a.size, size=min(a.size, 12), replace=False):
        nudge = np.zeros(a.size)
        nudge[flat] = 0.5  # bilinear: the central difference is exact for any step
        up, down = [ops.conv2d(*nudged(s * nudge.reshape(a.shape)), **params) for s in (1, -1)]
        np.testing.assert_allclose(gradient.ravel()[flat], np.sum(g * (up - down)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("sizes", CASES)
def test_three_maps_are_one_trilinear_form(sizes):
    """<gy, conv(x, w)> = <input_grad(gy, w), x> = <weight_grad(x, gy), w>."""
    x, w, params = case(*sizes)
    y = ops.conv2d(x, w, **params)
    gy = np.random.default_rng(2).normal(size=y.shape)
    gx = ops.conv2d_input_grad(gy, w, input_size=x.shape[2:], **params)
    gw = ops.conv2d_weight_grad(x, gy, kernel_size=w.shape[2:], **params)
    assert gx.shape == x.shape and gw.shape == w.shape
    values = [np.vdot(gy, y), np.vdot(gx, x), np.vdot(gw, w)]
    np.testing.assert_allclose(values, values[0], rtol=0, atol=1e-12 * (1 + np.sum(np.abs(gy * y))))


def test_without_stride_it_is_scipys_correlation():
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(1, 1, 9, 8)), rng.normal(size=(1, 1, 3, 4))
    np.testing.assert_allclose(ops.conv2d(x, w)[0, 0], correlate(x[0, 0], w[0, 0], mode="valid"), atol=1e-12)
    full = ops.conv2d(x, w, padding=(2, 3))
    np.testing.assert_allclose(full[0, 0], correlate(x[0, 0], w[0, 0], mode="full"), atol=1e-12)
    np.testing.assert_allclose(ops.conv2d(x, w, padding=(2, 3), stride=(2, 3)), full[:, :, ::2, ::3], atol=1e-12)


def test_the_derivative_of_a_derivative():
    x, w, params = case(*CASES[3])

    def f(x, w):
        return ops.sum(ops.conv2d(x, w, **params) ** 3)

    rng = np.random.default_rng(4)
    dx, dw = rng.normal(size=x.shape), rng.normal(size=w.shape)
    product = hvp(f, (x, w), (dx, dw))
    h = 1e-4
    both = grad(f, argnums=(0, 1))
    for got, up, down in zip(product, both(x + h * dx, w + h * dw), both(x - h * dx, w - h * dw), strict=True):
        np.testing.assert_allclose(got, (up - down) / (2 * h), rtol=1e-5, atol=1e-5 * np.max(np.abs(got)))


def test_forward_mode_is_the_product_rule():
    x, w, params = case(*CASES[1])
    rng = np.random.default_rng(5)
    dx, dw = rng.normal(size=x.shape), rng.normal(size=w.shape)
    _, dy = jvp(lambda x, w: ops.conv2d(x, w, **params), (x, w), (dx, dw))
    np.testing.assert_allclose(dy, loops(dx, w, *CASES[1][5:]) + loops(x, dw, *CASES[1][5:]), atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_strides(dtype):
    rng = np.random.default_rng(6)
    x, w = rng.normal(size=(5, 12, 3, 2)).astype(dtype), rng.normal(size=(8, 3, 2, 2)).astype(dtype)
    view, flipped = x[::-1, ::2].transpose(3, 2, 0, 1), w[::2, :, ::-1]
    y, pull = vjp(lambda x, w: ops.conv2d(x, w, padding=1), view, flipped)
    assert y.dtype == dtype
    assert all(g.dtype == dtype for g in pull(y))
    want = loops(view.astype(float), flipped.astype(float), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    np.testing.assert_allclose(y, want, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("padding", [1, (1, 1), [1, 1], ((1, 1), (1, 1))])
def test_the_ways_to_write_padding(padding):
    x, w, _ = case(*CASES[0])
    np.testing.assert_array_equal(ops.conv2d(x, w, padding=padding), ops.conv2d(np.pad(x, [(0, 0)] * 2 + [(1, 1)] * 2), w))


def test_no_channels_and_no_filters():
    assert np.array_equal(ops.conv2d(np.ones((2, 0, 3, 3)), np.ones((4, 0, 2, 2))), np.zeros((2, 4, 2, 2)))
    assert ops.conv2d(np.ones((2, 3, 3, 3)), np.ones((0, 3, 2, 2))).shape == (2, 0, 2, 2)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, (2, 0), 2), (3, (0, 1), 1)])
def test_conv1d(stride, padding, dilation):
    rng = np.random.default_rng(7)
    x, w = rng.normal(size=(2, 4, 9)), rng.normal(size=(6, 2, 3))
    before, after = padding if isinstance(padding, tuple) else (padding, padding)
    want = loops(x[:, :, None], w[:, :, None], (1, stride), (0, 0, before, after), (1, dilation), 2)[:, :, 0]
    y, pull = vjp(lambda x, w: ops.conv1d(x, w, stride=stride, padding=padding, dilation=dilation, groups=2), x, w)
    np.testing.assert_allclose(y, want, atol=1e-12)
    g = rng.normal(size=y.shape)
    gx, gw = pull(g)
    assert np.vdot(gx, x) == pytest.approx(np.vdot(g, y)) == np.vdot(gw, w)
    np.testing.assert_allclose(ops.conv1d(x[:1, :1], w[:1, :1])[0, 0], np.correlate(x[0, 0], w[0, 0]), atol=1e-12)


def test_a_convolution_costs_two_operations_a_product():
    x, w = np.ones((2, 4, 6, 5)), np.ones((6, 2, 3, 2))
    forward = 2 * (2 * 6 * 4 * 4) * (2 * 3 * 2)
    assert count(lambda x, w: ops.conv2d(x, w, groups=2))(x, w).flops["conv2d"] == forward
    both = count(grad(lambda x, w: ops.sum(ops.conv2d(x, w, groups=2)), argnums=(0, 1)))(x, w).flops
    assert both["conv2d_input_grad"] == both["conv2d_weight_grad"] == forward


X = np.ones((1, 4, 5, 5))


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: ops.conv2d(X, np.ones((2, 4, 6, 3))), "the kernel reaches over 6 rows, the input has 5 with its padding"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), dilation=(1, 3)), "the kernel reaches over 7 columns, the input has 5"),
        (lambda: ops.conv2d(X, np.ones((2, 3, 3, 3))), "x has 4 channels in 1 groups, so a filter has 4 channels, not 3"),
        (lambda: ops.conv2d(X, np.ones((4, 2, 3, 3)), groups=3), "3 groups do not divide 4 channels and 4 filters"),
        (lambda: ops.conv2d(X, np.ones((4, 2, 3, 3)), groups=0), "0 groups do not divide"),
        (lambda: ops.conv2d(X[0], np.ones((2, 4, 3, 3))), "x has 3 axes where 4 are wanted"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), stride=0), "stride is at least 1, not 0"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), padding=-1), "padding is at least 0, not -1"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), stride=(1, 2, 3)), "stride is an integer or a pair"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), dilation=1.5), "dilation is an integer or a pair"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 3, 3)), padding=((1, 1),)), "padding is an integer"),
        (lambda: ops.conv2d(X, np.ones((2, 4, 0, 3))), "the kernel has no rows"),
        (
            lambda: ops.conv2d_input_grad(np.ones((1, 2, 3, 3)), np.ones((2, 4, 3, 3)), input_size=(5, 6)),
            r"gy has shape \(1, 2, 3, 3\), conv2d returns \(1, 2, 3, 4\)",
        ),
        (lambda: ops.conv2d_weight_grad(X, np.ones((1, 2, 3, 3)), kernel_size=(3, 2)), "gy has shape"),
        (lambda: ops.conv1d(X, np.ones((2, 4, 3))), "conv1d: x has shape .* where 3 axes are wanted"),
    ],
)
def test_what_does_not_fit_is_said(call, reason):
    with pytest.raises(ShapeError, match=reason):
        call()


def test_the_message_names_op_shapes_and_parameters():
    with pytest.raises(ShapeError) as e:
        ops.conv2d(X, np.ones((2, 4, 6, 3)))
    assert str(e.value).splitlines()[1:] == [
        "  wants  n c h w, o k i j -> n o p q",
        "  given  x: (1, 4, 5, 5)  w: (2, 4, 6, 3)  stride=1  padding=0  dilation=1  groups=1",
    ]
