"""Update steps against the optimisers of torch, against their formulas by hand, and what they refuse."""

import inspect

import numpy as np
import pytest

from engine import grad, ops
from engine.op import MissingRule
from engine.shapes import ShapeError
from engine.traced import OPS

# Parameters after five steps from (1, -2, 0.5) with the gradients of `slopes`, by torch.optim of torch 2.13 in float64:
# lr 0.1, momentum 0.8, alpha 0.7, betas (0.7, 0.9), eps 0.01. The second column is weight_decay.
TORCH = [
    (ops.sgd_step, 0.0, [0.9499999999999998, -1.9, 0.3999999999999999]),
    (ops.sgd_step, 0.25, [0.8228051269531251, -1.6611554882812498, 0.3515501904296875]),
    (ops.momentum_step, 0.0, [1.12824, -1.8929599999999998, 0.09919999999999994]),
    (ops.momentum_step, 0.25, [0.814823876953125, -1.33239298828125, -0.0088591845703126]),
    (ops.nesterov_step, 0.0, [1.052592, -1.814368, 0.0793599999999999]),
    (ops.nesterov_step, 0.25, [0.664090750765625, -1.1471259938062497, -0.02486510595156256]),
    (ops.adagrad_step, 0.0, [1.0102659385635577, -1.991529386182388, 0.4258375045420322]),
    (ops.adagrad_step, 0.25, [0.9592954048450717, -1.9074586439516017, 0.3215483737016533]),
    (ops.rmsprop_step, 0.0, [0.9807044483141903, -1.9659338672727564, 0.37884365641118645]),
    (ops.rmsprop_step, 0.25, [0.8779071989495657, -1.8015215781106917, 0.2062211168131584]),
    (ops.adam_step, 0.0, [1.0941948600280438, -2.015476919959305, 0.33620616798799]),
    (ops.adam_step, 0.25, [1.009089634059626, -1.8524575361155033, 0.2172147701802335]),
    (ops.adamw_step, 0.0, [1.0941948600280438, -2.015476919959305, 0.33620616798799]),
    (ops.adamw_step, 0.25, [0.9628173439264038, -1.769824526740571, 0.285406061056902]),
]
HYPER = {"lr": 0.1, "momentum": 0.8, "alpha": 0.7, "beta1": 0.7, "beta2": 0.9, "eps": 0.01}
STEPS = list(dict.fromkeys(step for step, _, _ in TORCH))
BY_NAME = {"ids": lambda value: getattr(value, "name", str(value))}


def slopes(t):
    return np.array([((3 * t + 5 * i) % 7 - 3) / 2 for i in range(3)])


def hyper(step, t=1, **others):
    """The parameters that `step` takes, out of HYPER."""
    every = {**HYPER, "t": t, **others}
    return {name: every[name] for name in inspect.signature(step.definition).parameters if name in every}


def state(step, like):
    return [np.zeros_like(like) for _ in step.args[2:]]


@pytest.mark.parametrize(("step", "weight_decay", "want"), TORCH, **BY_NAME)
def test_five_steps_end_where_torch_does(step, weight_decay, want):
    p = np.array([1.0, -2.0, 0.5])
    held = state(step, p)
    for t in range(5):
        p, *held = step(p, slopes(t), *held, **hyper(step, t + 1, weight_decay=weight_decay))
    np.testing.assert_allclose(p, want, rtol=1e-14)
    assert len(held) == len(step.args) - 2


def test_one_step_by_hand():
    p, g, m, v = (np.array(a) for a in (2.0, 0.5, 0.25, 4.0))
    assert ops.sgd_step(p, g, lr=0.5) == (1.75,)
    assert ops.sgd_step(p, g, lr=0.5, weight_decay=0.25) == (2 - 0.5 * (0.5 + 0.5),)
    assert ops.momentum_step(p, g, m, lr=0.5, momentum=0.5) == (2 - 0.5 * 0.625, 0.625)
    assert ops.nesterov_step(p, g, m, lr=0.5, momentum=0.5) == (2 - 0.5 * (0.5 + 0.5 * 0.625), 0.625)
    assert ops.adagrad_step(p, g, np.array(2.0), lr=0.5, eps=0.5) == (2 - 0.5 * 0.5 / (1.5 + 0.5), 2.25)
    assert ops.rmsprop_step(p, g, v, lr=0.5, alpha=0.5, eps=1e-8)[1] == 0.5 * 4 + 0.5 * 0.25
    new, m1, v1 = ops.adam_step(p, g, m, v, lr=0.5, t=2, beta1=0.5, beta2=0.5, eps=0.25)
    assert (m1, v1) == (0.375, 2.125)
    assert new == pytest.approx(2 - 0.5 * (0.375 / 0.75) / (np.sqrt(2.125 / 0.75) + 0.25), rel=1e-15)
    shrunk, *_ = ops.adamw_step(p, g, m, v, lr=0.5, t=2, beta1=0.5, beta2=0.5, eps=0.25, weight_decay=0.125)
    assert new - shrunk == pytest.approx(0.5 * 0.125 * 2, rel=1e-14)


@pytest.mark.parametrize("step", [ops.adam_step, ops.adamw_step], **BY_NAME)
def test_the_first_step_of_adam_is_as_long_as_lr(step):
    """Whatever the gradient's scale: that is what the bias corrections are for."""
    p = np.zeros(4)
    new, *_ = step(p, np.array([1e-3, -1.0, 1e3, 1e6]), p, p, lr=0.1, t=1, eps=1e-12)
    np.testing.assert_allclose(new, [-0.1, 0.1, -0.1, -0.1], rtol=1e-8)


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
def test_each_walks_down_a_bowl(step):
    curvature = np.array([1.0, 4.0])
    p = np.array([2.0, -1.0])
    held = state(step, p)
    for t in range(1, 301):
        p, *held = step(p, curvature * p, *held, **hyper(step, t, lr=0.05, momentum=0.5, eps=1e-8, weight_decay=0.0))
    assert np.sum(curvature * p * p) < (1.5 if step is ops.adagrad_step else 1e-2)


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_dtypes_are_kept(step, shape, dtype):
    arrays = [np.full(shape, 0.5, dtype) for _ in step.args]
    before = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    new = step(*arrays, **hyper(step, weight_decay=0.01))
    assert type(new) is tuple and len(new) == len(step.outputs) == len(step.args) - 1
    for y in new:
        assert y.shape == shape and y.dtype == dtype
        assert not any(np.shares_memory(y, a) for a in arrays)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
def test_single_precision_is_near_double(step):
    rng = np.random.default_rng(0)
    arrays = [abs(rng.normal(size=(5, 6))).astype(np.float32)[::2, ::-1] for _ in step.args]
    single = step(*arrays, **hyper(step, t=3))
    double = step(*[a.astype(float) for a in arrays], **hyper(step, t=3))
    for a, b in zip(single, double, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
def test_a_gradient_that_would_broadcast_is_refused(step):
    p = np.zeros((2, 3))
    for bad in (np.zeros(3), np.zeros((1, 3)), np.zeros((3, 2))):
        with pytest.raises(ShapeError, match=rf"{step.name}: g has shape .*, p has \(2, 3\): all arrays of one step"):
            step(p, bad, *state(step, p), **hyper(step))


@pytest.mark.parametrize("step", [ops.adam_step, ops.adamw_step], **BY_NAME)
def test_steps_count_from_one(step):
    p = np.zeros(2)
    with pytest.raises(ValueError, match="t is 0, but counts steps from 1"):
        step(p, p, p, p, lr=0.1, t=0)


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
def test_a_step_ends_a_derivative(step):
    p = np.ones(2)
    with pytest.raises(MissingRule, match=rf"{step.name} has no vjp rule for p"):
        grad(lambda p: ops.sum(step(p, p, *state(step, np.ones(2)), **hyper(step))[0]))(p)


@pytest.mark.parametrize("step", STEPS, **BY_NAME)
def test_a_long_run_does_not_pile_up_what_it_checked(step):
    p = np.zeros(1)
    for t in range(1, 5001):
        step(p, p, *state(step, p), **hyper(step, t, lr=0.1 / t))
    assert len(step._known) < 5000


def test_every_step_is_here():
    assert {step.name for step in STEPS} == {name for name in OPS if name.endswith("_step")}
