"""Sorting and the median: values against NumPy's, gradients by following the permutation."""

import warnings

import numpy as np
import pytest

from engine import grad, hessian, jvp, ops, vjp


@pytest.mark.parametrize("shape", [(6,), (0,), (1,), (3, 4), (0, 3), (2, 3, 2)])
@pytest.mark.parametrize("values", ["spread", "tied", "nan"])
def test_sort_and_argsort(shape, values):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) if values == "spread" else rng.integers(0, 3, shape) * 1.0
    if values == "nan":
        x = np.where(rng.random(shape) < 0.3, np.nan, x)
    for axis in (None, *range(-len(shape), len(shape))):
        assert np.array_equal(ops.sort(x, axis=axis), np.sort(x, axis=axis), equal_nan=True)
        assert np.array_equal(ops.argsort(x, axis=axis), np.argsort(x, axis=axis, kind="stable"))


def test_descending_keeps_equal_values_in_order():
    x = np.array([1.0, 3.0, 1.0, 3.0, 2.0])
    assert np.array_equal(ops.argsort(x, descending=True), [1, 3, 4, 0, 2])
    assert np.array_equal(ops.sort(x, descending=True), [3, 3, 2, 1, 1])
    assert np.array_equal(ops.sort(np.stack([x, -x]), axis=0, descending=True)[0], abs(x))


@pytest.mark.parametrize("axis", [0, 1, -1, None])
@pytest.mark.parametrize("descending", [False, True])
def test_the_gradient_goes_back_to_its_place(axis, descending):
    rng = np.random.default_rng(1)
    x, dx = rng.normal(size=(2, 3, 4))
    y, pull = vjp(lambda x: ops.sort(x, axis=axis, descending=descending), x)
    g = rng.normal(size=y.shape)
    (gx,) = pull(g)
    where_to = dict(zip(y.reshape(-1), g.reshape(-1), strict=True))
    assert np.array_equal(gx, np.vectorize(where_to.get)(x))
    push = jvp(lambda x: ops.sort(x, axis=axis, descending=descending), (x,), (dx,))[1]
    moved = dict(zip(x.reshape(-1), dx.reshape(-1), strict=True))
    assert np.array_equal(push, np.vectorize(moved.get)(y))


def test_second_order():
    x = np.array([3.0, 1.0, 2.0])
    w = np.array([1.0, 10.0, 100.0])
    assert np.allclose(hessian(lambda x: ops.sum(w * ops.sort(x) ** 2))(x), np.diag([200, 2, 20]))


def test_the_permutation_is_no_traced_value():
    x = np.array([3.0, 1.0, 2.0])
    assert np.array_equal(grad(lambda x: ops.sum(x[ops.argsort(x)] * np.arange(3.0)))(x), [2, 0, 1])


@pytest.mark.parametrize("shape", [(), (1,), (4,), (5,), (3, 4), (2, 3, 5)])
def test_median(shape):
    rng = np.random.default_rng(2)
    for x in (rng.normal(size=shape), rng.integers(0, 9, shape), np.where(rng.random(shape) < 0.1, np.nan, rng.normal(size=shape))):
        axes = [None, *range(-len(shape), len(shape)), *([(0, -1)] if len(shape) > 1 else [])]
        for axis in axes:
            for keepdims in (False, True):
                want = np.median(x, axis=axis, keepdims=keepdims)
                y = ops.median(x, axis=axis, keepdims=keepdims)
                assert y.shape == np.shape(want) and np.allclose(y, want, equal_nan=True, rtol=1e-15)


def test_the_slope_of_the_median():
    assert np.array_equal(grad(lambda x: ops.median(x))(np.array([5.0, 1.0, 3.0])), [0, 0, 1])
    assert np.array_equal(grad(lambda x: ops.median(x))(np.array([5.0, 1.0, 3.0, 4.0])), [0, 0, 0.5, 0.5])
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    assert np.array_equal(grad(lambda x: ops.sum(ops.median(x, axis=1)[1:]))(x), [[0, 0], [0.5, 0.5]])
    assert ops.median(np.ones(3, np.float32)).dtype == np.float32


def test_the_median_of_nothing_is_nan():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of it, and so do we
        assert np.isnan(ops.median(np.zeros(0)))
        assert grad(lambda x: ops.median(x))(np.zeros(0)).shape == (0,)
    assert ops.median(np.zeros((0, 3)), axis=1).shape == (0,)
