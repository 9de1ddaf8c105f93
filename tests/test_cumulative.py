"""Running sums and products: values against NumPy's, derivatives of any order against products of what is left."""

import math

import numpy as np
import pytest

from engine import ShapeError, grad, hessian, jvp, ops, vjp

SHAPES = [(), (1,), (5,), (0,), (3, 4), (0, 3), (3, 0), (2, 3, 2)]


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_numpy_s(name, shape):
    for dtype in (np.float64, np.float32, np.int16, bool):
        x = (np.random.default_rng(0).normal(size=shape) * 3).astype(dtype)
        for axis in (None, *range(-len(shape), len(shape))):
            for view in (x, x.T):
                y, want = getattr(ops, name)(view, axis=axis), getattr(np, name)(view, axis=axis)
                assert np.array_equal(y, want) and y.dtype == want.dtype and y.shape == want.shape
    with pytest.raises(np.exceptions.AxisError, match=name):
        getattr(ops, name)(np.ones(3), axis=1)


def left_out(x, upto, *places):
    """The product of x[: upto + 1] without the places: a derivative of it in these."""
    if len(set(places)) < len(places) or any(p > upto for p in places):
        return 0.0
    return math.prod(v for i, v in enumerate(x[: upto + 1]) if i not in places)


@pytest.mark.parametrize("zeros", [0, 1, 2, 4])
def test_cumprod_is_exact_with_zeros_to_third_order(zeros):
    rng = np.random.default_rng(1)
    x = rng.permutation(np.r_[np.zeros(zeros), rng.normal(size=4 - zeros)])
    w = rng.normal(size=4)

    def f(x):
        return ops.sum(w * ops.cumprod(x))

    first = [sum(w[k] * left_out(x, k, i) for k in range(4)) for i in range(4)]
    second = [[sum(w[k] * left_out(x, k, i, j) for k in range(4)) for j in range(4)] for i in range(4)]
    third = [[[sum(w[k] * left_out(x, k, i, j, m) for k in range(4)) for m in range(4)] for j in range(4)] for i in range(4)]
    assert np.allclose(grad(f)(x), first, rtol=1e-13, atol=1e-16)
    assert np.allclose(hessian(f)(x), second, rtol=1e-13, atol=1e-16)
    assert np.allclose([hessian(lambda x, i=i: grad(f)(x)[i])(x) for i in range(4)], third, rtol=1e-13, atol=1e-16)
    dx = rng.normal(size=4)
    push = [sum(dx[i] * left_out(x, k, i) for i in range(4)) for k in range(4)]
    assert np.allclose(jvp(lambda x: ops.cumprod(x), (x,), (dx,))[1], push, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("name", ["cumsum", "cumprod"])
@pytest.mark.parametrize("shape", SHAPES)
def test_pulls_along_every_axis(name, shape):
    rng = np.random.default_rng(2)
    x = rng.normal(size=shape) * rng.integers(0, 3, shape)
    for axis in (None, *range(-len(shape), len(shape))):
        y, pull = vjp(lambda x, axis=axis: getattr(ops, name)(x, axis=axis), x)
        g = rng.normal(size=y.shape)
        if not x.size:
            assert pull(g)[0].shape == shape
            continue
        lanes = np.arange(x.size).reshape(shape)
        lanes = lanes.reshape(1, -1) if axis is None or not shape else np.moveaxis(lanes, axis, -1).reshape(-1, shape[axis])
        glanes = g.reshape(1, -1) if axis is None or not shape else np.moveaxis(g, axis, -1).reshape(-1, shape[axis])
        want = np.zeros(x.size)
        for lane, weights in zip(lanes, glanes, strict=True):
            values = x.reshape(-1)[lane]
            for i, place in enumerate(lane):
                reach = [1.0 if name == "cumsum" else left_out(values, k, i) for k in range(i, len(lane))]
                want[place] = np.dot(weights[i:], reach)
        assert np.allclose(pull(g)[0], want.reshape(shape), rtol=1e-12, atol=1e-13)


def loop(a, b):
    y = [b[0]]
    for i in range(1, len(b)):
        y.append(a[i] * y[-1] + b[i])
    return np.array(y)


def test_linear_recurrence():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 5, 3))
    assert np.allclose(ops.linear_recurrence(a, b, axis=0), loop(a, b), rtol=1e-15)
    assert np.allclose(ops.linear_recurrence(a.T, b.T, axis=-1), loop(a, b).T, rtol=1e-15)
    for shape in ((0, 2), (1, 2), (2, 0)):
        assert np.array_equal(ops.linear_recurrence(np.ones(shape), np.ones(shape), axis=0), np.ones(shape))


def test_the_recurrence_takes_a_complex_step_and_agrees_with_it():
    rng = np.random.default_rng(4)
    a, b, w = rng.normal(size=(3, 4))

    def f(a, b):
        return ops.sum(w * ops.linear_recurrence(a, b, axis=0))

    ga, gb = grad(f, argnums=(0, 1))(a, b)
    assert np.allclose(ga, [f(a + 1e-30j * e, b).imag / 1e-30 for e in np.eye(4)], rtol=1e-13)
    assert np.allclose(gb, [f(a, b + 1e-30j * e).imag / 1e-30 for e in np.eye(4)], rtol=1e-13)
    assert ga[0] == 0  # the first factor has nothing to multiply


def test_a_recurrence_of_two_shapes():
    with pytest.raises(ShapeError, match="linear_recurrence: a and b need one shape"):
        ops.linear_recurrence(np.ones(3), np.ones(4), axis=0)
