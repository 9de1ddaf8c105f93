"""Pooling, cross-entropy and normalisation: ties, nan, digits that cancel."""

import numpy as np
import pytest
from large_cases import LARGE
from laws_of_rungs import SERVING, agrees, broken

import kernels
from engine.traced import OPS


@pytest.mark.parametrize("rung", [r for r in SERVING if r.op.startswith("max_pool2d_with")], ids=lambda r: r.backend)
def test_the_largest_is_the_first_of_equals_and_nan_is_larger_than_all(rung):
    rng = np.random.default_rng(0)
    for step in kernels.ladder(rung.op, rung.backend):
        x = rng.choice([0.0, 1.0, -np.inf, np.inf, np.nan], size=(3, 4, 9, 38), p=[0.3, 0.3, 0.2, 0.1, 0.1])
        for params in ({"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2}):
            for numbers in (x, x.astype(np.float32)):
                want = OPS[rung.op].definition(numbers, **params)
                for g, w in zip(step.run(numbers, **params), want, strict=True):
                    np.testing.assert_array_equal(g, w)


def test_windows_that_only_look_like_two_by_two_are_put_back_right():
    """Three by three, stride 2, padding 1: half as many windows as pixels, but they overlap."""
    rng = np.random.default_rng(0)
    for size in ((12, 12), (13, 37), (40, 7)):
        x = rng.normal(size=(2, 3, *size))
        window = {"kernel_size": 3, "stride": 2, "padding": ((1, 0), (1, 0))}
        y, indices = OPS["max_pool2d_with_indices"](x, **window)
        assert y.shape[2:] == (size[0] // 2, size[1] // 2)
        want = OPS["max_pool2d_input_grad"](y, indices, input_size=size)
        for step in kernels.ladder("max_pool2d_input_grad", "cpu"):
            np.testing.assert_allclose(step.run(y, indices, input_size=size), want, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gap", [1e-3, 1.0, 15.0, 40.0, 87.5, 103.0, 500.0])
def test_a_right_answer_keeps_its_digits_in_every_rung(dtype, gap):
    """p - 1 would be 0 here, and so would the loss."""
    z, t = np.array([[gap, 0.0, 0.0], [gap, gap, 0.0]], dtype), np.array([[1.0, 0, 0], [0.5, 0.5, 0]], dtype)
    want = OPS["cross_entropy"].definition(z.astype(np.float64), t.astype(np.float64))
    few, least = 8 * np.finfo(dtype).eps, float(np.finfo(dtype).smallest_subnormal)
    for step in kernels.ladder("cross_entropy", "cpu"):
        for g, w in zip(step.run(z, t), want, strict=True):
            np.testing.assert_allclose(g, w, rtol=few, atol=2 * least)
    for step in kernels.ladder("cross_entropy_grad", "cpu"):
        log_p, target = want[1][:1].astype(dtype), t[:1]  # the other row is the difference of two equal numbers
        slope = OPS["cross_entropy_grad"].definition(log_p.astype(np.float64), target.astype(np.float64), np.ones(1))
        np.testing.assert_allclose(step.run(log_p, target, np.ones(1, dtype)), slope, rtol=few, atol=2 * least)


def test_logits_without_an_answer_are_nan_and_classes_ruled_out_count_nothing():
    inf, nan = np.inf, np.nan
    z = np.array([[-inf, 1, 2], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [0, 1, nan], [-inf, 0, -inf]])
    t = np.array([[0.0, 1, 0]] * 5 + [[1.0, 0, 0]])
    with np.errstate(all="ignore"):
        y, log_p = OPS["cross_entropy"].definition(z, t)
    for step in kernels.ladder("cross_entropy", "cpu"):
        np.testing.assert_allclose(step.run(z, t)[0], y, rtol=1e-15)
        np.testing.assert_allclose(step.run(z, t)[1], log_p, rtol=1e-15)
        few = step.run(np.tile(z, 9)[:, :19].astype(np.float32), np.tile(t, 9)[:, :19].astype(np.float32))[1]
        np.testing.assert_array_equal(np.isnan(few).all(axis=1), [False, True, True, True, True, False])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_values_have_variance_0_and_give_the_shift_in_every_rung(dtype):
    for value in (0.1, 3e4, -7.3):
        x = np.full((5, 333), value, dtype)
        w, b = np.ones(333, dtype), np.arange(333, dtype=dtype)
        for step in kernels.ladder("normalise", "cpu"):
            for axis, scale, shift in ((-1, w, b), (0, w, b)):
                y, mean, var = step.run(x, scale, shift, axis=axis, eps=1e-5)
                np.testing.assert_array_equal(var, np.zeros_like(var))
                np.testing.assert_array_equal(mean, np.full_like(mean, x[0, 0]))
                np.testing.assert_array_equal(y, np.broadcast_to(b, x.shape))


@pytest.mark.parametrize("axis, says", [(2, "axis 2 is out of bounds"), ((0, -2), "names an axis twice")])
def test_an_axis_that_is_not_there_is_said_by_the_op(axis, says):
    x = np.ones((3, 4))
    with kernels.use("cpu"):
        for call in (lambda: OPS["softmax"](x, axis=axis), lambda: OPS["log_softmax"](x, axis=axis)):
            with pytest.raises(ValueError, match=says):
                call()


@pytest.mark.parametrize("axis, small", [(-1, (300,)), ((0, 2), (7, 1))])
def test_a_mean_that_only_rounding_keeps_from_the_values(axis, small):
    """The squares about a mean that is off cancel to nothing: 1e4 + tiny differences in single precision."""
    rng = np.random.default_rng(0)
    x = (1e4 + 0.004 * rng.normal(size=(6, 7, 300))).astype(np.float32)
    w, b = np.ones(small, np.float32), np.zeros(small, np.float32)
    want = OPS["normalise"].definition(*[a.astype(np.float64) for a in (x, w, b)], axis=axis, eps=0.0)
    for step in kernels.ladder("normalise", "cpu"):
        np.testing.assert_allclose(step.run(x, w, b, axis=axis, eps=0.0)[2], want[2], rtol=2e-2)


def forgets_eps(x, w, b, *, axis, eps):
    return OPS["normalise"].definition(x, w, b, axis=axis, eps=0.0)


def divides_by_one_less(x, w, b, *, axis, eps):
    y, mean, var = OPS["normalise"].definition(x, w, b, axis=axis, eps=eps)
    count = x.size // mean.size
    return y, mean, var * count / (count - 1)


@pytest.mark.parametrize("run", [forgets_eps, divides_by_one_less])
def test_a_broken_normalisation_does_not_agree(run):
    for draw in LARGE["normalise"][:3]:
        args, params = draw(np.random.default_rng(0))
        agrees(broken(OPS["normalise"].definition, op="normalise"), "float64", args, params)
        with pytest.raises(AssertionError):
            agrees(broken(run, op="normalise"), "float64", args, params)
