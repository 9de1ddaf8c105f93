"""The verdict on a gradient: a right one passes, a broken one fails, and a kink is neither."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine import op, ops
from engine.branches import run
from engine.difference import complex_step, ridders
from engine.verdict import FAIL, INCONCLUSIVE, PASS, judge

X = np.random.default_rng(1).normal(size=(12, 5))
T = np.random.default_rng(2).integers(0, 4, 12)


def net(activation: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    """The loss of a net with one hidden layer on X and T."""

    def loss(p: dict[str, Any]) -> Any:
        h = activation(X @ p["w1"] + p["b1"])
        z = h @ p["w2"] + p["b2"]
        shifted = z - ops.stop_gradient(ops.max(z, axis=1, keepdims=True))
        return ops.mean(ops.log(ops.sum(ops.exp(shifted), axis=1)) - shifted[np.arange(len(T)), T])

    return loss


def params(seed: int, h: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"w1": rng.normal(size=(5, h)), "b1": rng.normal(size=h), "w2": rng.normal(size=(h, 4)), "b2": rng.normal(size=4)}


def broken_tanh(slope: Callable[[Any, Any], Any]) -> Any:
    @op("... -> ...")
    def tanh_with_a_fault(x):
        r"""$y = \tanh x$"""
        return np.tanh(x)

    @tanh_with_a_fault.slope("x")
    def _(y, x):
        r"""dy/dx = ?"""
        return slope(y, x)

    return tanh_with_a_fault


def test_a_smooth_net_passes_by_complex_step():
    found = judge(net(ops.tanh), params(0))
    assert found.verdict == PASS and found.inconclusive == 0
    assert found.worst < 1e-13
    assert {p.judge for a in found.arrays for p in a.probes} == {"complex step"}
    assert [a.name for a in found.arrays] == ["w1", "b1", "w2", "b2"]


@pytest.mark.parametrize("seed", range(5))
def test_relus_and_winners_of_maxima_give_no_false_alarm(seed):
    found = judge(net(ops.relu), params(seed, h=40), seed=seed)
    assert found.verdict == PASS and found.worst < 1e-8


def test_where_complex_numbers_do_not_go_a_difference_judges():
    def loss(p: Any) -> Any:
        return ops.sum(ops.sqrt(1 + ops.abs(p["x"]) * 1.5))  # np.abs of a complex number drops the direction

    found = judge(loss, {"x": np.random.default_rng(0).normal(size=9) + 3})
    assert found.verdict == PASS and found.worst < 1e-8
    assert {p.judge for a in found.arrays for p in a.probes} == {"Ridders"}


FAULTS = {
    "a thousandth too large": lambda y, x: (1 - y * y) * 1.001,
    "wrong sign": lambda y, x: -(1 - y * y),
    "no gradient": lambda y, x: 0 * y,
    "forgotten square": lambda y, x: 1 - y,
    "wrong in the tail only": lambda y, x: ops.where(np.asarray(x > 2.0), 0.0, 1 - y * y),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_rule_fails(fault, scratch_ops):
    found = judge(net(broken_tanh(FAULTS[fault])), params(0, h=30))
    assert found.verdict == FAIL
    verdicts = {a.name: a.verdict for a in found.arrays}
    assert verdicts["w1"] == FAIL and verdicts["b2"] == PASS  # the fault is below the second layer: it is found there only
    assert "they differ by" in str(found)


def test_one_wrong_entry_among_many_fails(scratch_ops):
    @op("n -> ", constant=())
    def energy(x):
        r"""$y = \sum_i x_i^3$"""
        return np.sum(x**3)

    @energy.vjp("x")
    def _(g, x):
        r"""\bar x_i = 3 x_i^2 \bar y"""
        wrong = 3 * x * x
        wrong[17] *= 1.01
        return g * wrong

    found = judge(lambda p: energy(p["x"]), {"x": np.random.default_rng(0).normal(size=400) + 2})
    assert found.verdict == FAIL


def test_a_rule_for_a_gradient_that_vanishes_wrongly_fails(scratch_ops):
    @op("... -> ...")
    def modulus(x):
        r"""$y = |x|$"""
        return np.abs(x)

    @modulus.slope("x")
    def _():
        r"""dy/dx = 0"""
        return 0

    found = judge(lambda p: ops.sum(modulus(p["x"])), {"x": np.array([1.0, -2.0, 3.0])})
    assert found.verdict == FAIL  # a complex step says 0 as well: the difference does not believe it


def test_at_a_kink_the_verdict_is_open():
    found = judge(lambda p: ops.sum(ops.relu(p["x"])), {"x": np.zeros(1)})
    assert found.verdict == INCONCLUSIVE and math.isnan(found.worst)
    assert "at a kink" in str(found)


def test_where_several_kinks_meet_no_rule_is_blamed():
    """relu(x) - relu(-x) is x, yet every engine's rules say 0 at 0: the rule of relu cannot know of the other."""
    found = judge(lambda p: ops.sum(ops.relu(p["x"]) - ops.relu(-p["x"]) + p["x"]), {"x": np.zeros(1)})
    assert found.verdict == INCONCLUSIVE and "the slopes are 2 and 2" in str(found)


@pytest.mark.parametrize("seed", range(3))
def test_units_that_rest_on_their_kink_give_no_false_alarm(seed):
    p = params(seed, h=40)
    p["w1"][:, ::4] = 0
    p["b1"][::4] = 0
    found = judge(net(ops.relu), p, seed=seed)
    verdicts = {a.name: a.verdict for a in found.arrays}
    assert FAIL not in verdicts.values() and found.inconclusive > 0
    assert verdicts["b2"] == verdicts["w2"] == PASS


def test_a_kink_nearby_shortens_the_step():
    found = judge(lambda p: ops.sum(ops.relu(p["x"]) * ops.abs(p["x"])), {"x": np.array([1e-6, 3.0, -2.0])})
    assert found.verdict == PASS and found.worst < 1e-6


@pytest.mark.parametrize("above, verdict", [(2.0, PASS), (2.1, FAIL)])
@pytest.mark.parametrize("seed", range(5))
def test_a_kink_that_an_op_does_not_declare_is_not_blamed_on_its_rule(seed, above, verdict, scratch_ops):
    @op("... -> ...")
    def bent(x):
        r"""$y = 2x \text{ above } 1/2, \text{ else } x + 1/2$"""
        return np.where(np.asarray(x, float) > 0.5, 2 * x, x + 0.5)  # no complex step goes through here

    @bent.slope("x")
    def _(x):
        r"""dy/dx = 2 \text{ or } 1"""
        return ops.where(np.asarray(x > 0.5), above, 1.0)

    rng = np.random.default_rng(seed)
    x = 0.5 + rng.choice([-1, 1], 8) * 10.0 ** -rng.uniform(0, 4, 8)
    x[0] = 0.9
    assert judge(lambda p: ops.sum(ops.square(bent(p["x"]))), {"x": x}, seed=seed, coordinates=8).verdict == verdict


def test_pools_with_equal_values_pass():
    x = np.zeros((2, 1, 6, 6))
    x[:, :, 2:5, 1:4] = np.random.default_rng(0).normal(size=(2, 1, 3, 3))

    def loss(p: Any) -> Any:
        y = ops.max_pool2d(ops.conv2d(x, p["w"]) + p["b"], kernel_size=2)
        return ops.sum(ops.square(y))

    rng = np.random.default_rng(3)
    found = judge(loss, {"w": rng.normal(size=(3, 1, 3, 3)), "b": rng.normal(size=(3, 1, 1))})
    assert found.verdict == PASS and found.worst < 1e-8


@pytest.mark.parametrize("normalised", [ops.softmax, ops.log_softmax])
def test_a_complex_step_goes_through_a_convolutional_net(normalised):
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(3, 2, 7, 7)), rng.normal(size=(3, 4))

    def loss(p: Any) -> Any:
        h = ops.max_pool2d(ops.relu(ops.conv2d(x, p["k"], padding=1)), kernel_size=2)
        return ops.sum(normalised(ops.reshape(h, shape=(3, 36)) @ p["w"]) * c)

    found = judge(loss, {"k": rng.normal(size=(4, 2, 3, 3)), "w": 0.1 * rng.normal(size=(36, 4))})
    assert found.verdict == PASS and found.worst < 1e-13
    assert {p.judge for a in found.arrays for p in a.probes} == {"complex step"}


def test_noise_and_nan_are_no_verdict():
    rng = np.random.default_rng(0)
    noisy = judge(lambda p: ops.sum(p["x"] * rng.normal(size=3)), {"x": np.ones(3)})
    assert noisy.verdict == INCONCLUSIVE and "not the same twice" in str(noisy)
    with np.errstate(invalid="ignore"):
        assert judge(lambda p: ops.sum(ops.log(p["x"])), {"x": -np.ones(3)}).verdict == INCONCLUSIVE


def test_a_gradient_that_is_nan_where_the_loss_is_not_fails():
    with np.errstate(all="ignore"):
        found = judge(lambda p: ops.sum(ops.sqrt(p["x"]) * 0), {"x": np.zeros(2)})
    assert found.verdict == FAIL and "not finite" in str(found)


def test_parameters_of_every_shape():
    found = judge(
        lambda p: ops.sum(p["a"][0] * p["a"][1] ** 2) + ops.sum(p["none"]) + p["dead"] * 0.0,
        {"a": [np.float32(2.0), np.ones((2, 3), np.float32)[:, ::2]], "none": np.zeros((0, 3)), "dead": np.ones(())},
    )
    assert [(a.name, a.shape) for a in found.arrays] == [("a/0", ()), ("a/1", (2, 2)), ("none", (0, 3)), ("dead", ())]
    assert found.verdict == PASS
    assert found.as_dict()["arrays"][2]["probes"] == ()


def test_the_verdict_is_the_same_for_the_same_seed():
    assert judge(net(ops.tanh), params(0), seed=4).as_dict() == judge(net(ops.tanh), params(0), seed=4).as_dict()


# What stands behind it.

SMOOTH = [
    (np.exp, 0.3, math.exp(0.3)),
    (lambda t: np.sin(50 * t), 0.1, 50 * math.cos(5.0)),
    (lambda t: 1 / (1 + t * t), 0.7, -1.4 / (1 + 0.49) ** 2),
    (lambda t: t**3, 1e-5, 3e-10),
    (lambda t: 1e6 + np.sin(t), 1.0, math.cos(1.0)),
    (lambda t: np.tanh(t), 9.0, 4 / (math.exp(9.0) + math.exp(-9.0)) ** 2),
]


@pytest.mark.parametrize("f, x, slope", SMOOTH)
def test_an_extrapolated_difference_is_as_good_as_it_says(f, x, slope):
    found = ridders(lambda t: float(f(x + t)), 0.1 * x)
    assert abs(found.value - slope) <= found.error
    assert found.error <= max(1e-7 * abs(slope), 1e-7 * abs(f(x)))


def test_a_noisy_function_has_a_wide_bound():
    rng = np.random.default_rng(0)
    found = ridders(lambda t: t + 1e-3 * rng.normal(), 0.1)
    assert found.error > 1e-3


def test_complex_step():
    assert complex_step(lambda t: np.exp(0.5 + t), math.exp(0.5)) == pytest.approx(math.exp(0.5), rel=1e-15)
    assert complex_step(lambda t: math.exp((0.5 + t).real), math.exp(0.5)) == 0.0  # fooled: why a difference must confirm
    assert complex_step(lambda t: math.exp(0.5 + t), math.exp(0.5)) is None
    assert complex_step(lambda t: np.array([0.5 + t]).astype(float)[0], 0.5) is None


def test_branches_tell_pieces_apart():
    def f(p: Any) -> Any:
        return ops.sum(
            ops.relu(p["x"]) + ops.max(p["x"], axis=0) + ops.clip(p["x"], min=-1.0, max=1.0) + ops.where(p["x"] > 3, p["x"], 0.0)
        )

    base = run(f, {"x": np.array([0.5, -0.5])})
    assert run(f, {"x": np.array([0.6, -0.4])})[1] == base[1]
    for other in ([0.5, 0.5], [0.5, 0.1], [1.5, -0.5], [0.5, -1.5], [-0.1, -0.5], [4.0, -0.5]):
        assert run(f, {"x": np.array(other)})[1] != base[1]
    assert base[0] == f({"x": np.array([0.5, -0.5])})
