"""Every op of the engine through the gradient tester: first and second order, in float64 and in float32.

What the tester leaves open is listed by name with the reason; an op that is not listed passes. The calls are the tester's own:
ties, zeros, saturation, any magnitude, odd layouts, with the shapes and options of the op's notation or sampler.
"""

import numpy as np
import pytest
import tally
from hypothesis import given, settings
from strategies import arguments

from engine import grad, op, ops, vjp
from engine.domain import Pick
from engine.interpret import interpreting
from engine.testing import FAIL, INCONCLUSIVE, PASS, check_gradient
from engine.testing.exact import EXACTLY, bare, seen
from engine.testing.ops import contract_of
from engine.testing.precise import exactly, lifted, precision
from engine.traced import OPS

EXAMPLES, MANY = 5, 200
WITH_RULES = sorted(name for name, op in OPS.items() if op.vjps and op.surrogate is None)

UNDECIDED: dict[str, str] = {}
"""By op: why the tester comes to no verdict."""


def told(name, dtype, examples, seed=0, orders=(1, 2)):
    """What the tester says of an op."""
    report = check_gradient(OPS[name], framework="engine", examples=examples, seed=seed, orders=orders, **contract_of(OPS[name], dtype))
    tally.ran("tester", f"engine's ops, order {' and '.join(map(str, orders))}, {dtype}", report.counts.get("elements", 0))
    return report


def judged(name, dtype, examples, seed=0):
    report = told(name, dtype, examples, seed)
    reason = UNDECIDED.get(name)
    if reason is None:
        assert report.verdict == PASS, report.explain()
    else:
        assert report.verdict == INCONCLUSIVE and reason in report.reasons, report.explain()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", WITH_RULES)
def test_an_op_passes(name, dtype):
    judged(name, dtype, EXAMPLES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", WITH_RULES)
def test_an_op_passes_on_many_calls(name, dtype, seed):
    judged(name, dtype, MANY, seed)


def test_every_op_with_a_rule_is_there():
    assert len(WITH_RULES) >= 127
    assert set(UNDECIDED) <= set(WITH_RULES)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["tanh", "add", "sum", "concat", "conv2d", "solve"])
def test_calls_are_in_the_dtype_that_was_asked_for(name, dtype):
    """The strategy is asked itself: the tester takes float32 for one float64 in six, and float64 for its references."""
    strategy = contract_of(OPS[name], dtype).get("cases")
    if strategy is None:
        assert dtype == "float64"
        return
    drawn = set()

    @settings(max_examples=10, database=None)
    @given(strategy)
    def draw(case):
        drawn.update(np.asarray(a).dtype.name for a in case[0])

    draw()
    assert drawn == {dtype}


# A broken rule must be seen by this very test.


@pytest.mark.parametrize("order, slope", [(1, ops.sin), (2, lambda x: ops.stop_gradient(ops.cos(x)))])
def test_a_broken_rule_of_an_op_fails(order, slope, scratch_ops):
    @op("... -> ...")
    def sin_with_a_fault(x):
        r"""$y = \sin x$"""
        return np.sin(x)

    @sin_with_a_fault.slope("x")
    def _(x):
        r"""dy/dx = ?"""
        return slope(x)

    report = told("sin_with_a_fault", "float64", EXAMPLES, orders=(order,))
    assert report.verdict == FAIL and report.counterexample.finding.check == "value", report.explain()
    if order == 2:
        assert told("sin_with_a_fault", "float64", EXAMPLES, orders=(1,)).verdict == PASS


# Special points, at which the tester found rules wrong.


def test_a_power_has_a_mixed_second_derivative_at_exponent_zero():
    x, p = np.array([0.5, 2.0, 3.0]), np.zeros(3)
    mixed = grad(lambda p: np.sum(grad(lambda x: np.sum(ops.pow(x, p)))(x)))(p)
    np.testing.assert_allclose(mixed, 1 / x, rtol=1e-14)
    assert np.array_equal(grad(lambda x: np.sum(ops.pow(x, p)))(np.zeros(3)), np.zeros(3))  # and 0 * 0^-1 stays 0


def test_the_gradient_of_cross_entropy_depends_on_the_cotangent_of_log_p_where_that_is_zero():
    z, t = np.array([[0.5, -1.0, 2.0]]), np.array([[0.0, 1.0, 0.0]])

    def pulled(g2):
        return vjp(lambda z: OPS["cross_entropy"](z, t), z)[1]((np.ones(1), g2))[0]

    weights = np.array([[1.0, 2.0, -3.0]])
    found = grad(lambda g2: np.sum(weights * pulled(g2)))(np.zeros((1, 3)))
    p = np.exp(z) / np.exp(z).sum()
    np.testing.assert_allclose(found, weights - np.sum(weights * p), rtol=1e-13)


@pytest.mark.parametrize("shape", [(0, 1), (1, 2), (2, 1, 3)])
def test_the_op_behind_qr_refuses_what_its_rules_do_not_take(shape):
    with pytest.raises(ValueError, match="at least as many rows"):
        OPS["qr"](np.ones(shape))
    q, r = ops.qr(np.ones(shape))  # which cuts it into pieces first
    np.testing.assert_allclose(q @ r, np.ones(shape), atol=1e-15)


# The arbiter: the ops in high precision.


@pytest.mark.parametrize("name", WITH_RULES)
def test_values_and_gradients_in_high_precision_are_those_in_floats(name):
    compared = 0
    for seed in range(8):
        f, xs = of_floats(OPS[name], seed)
        if not all(x.size for x in xs):
            continue
        want = value_and_gradients(f, xs, lambda x: x)
        try:
            with interpreting(EXACTLY), precision(160):
                got = value_and_gradients(f, xs, lambda x: seen(exactly(x)))
        except TypeError as e:
            if "high precision" in str(e) or "exact in floats" in str(e):
                continue
            raise
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(np.vectorize(as_number, otypes=[float])(bare(b)), a, rtol=1e-9, atol=1e-12)
            compared += np.size(a)
    assert compared
    tally.ran("mpmath", "values and gradients in high precision", compared)


def of_floats(op, seed):
    """The op as a function of its differentiable arguments, and these."""
    args, params = arguments(op, Pick(np.random.default_rng(seed)))
    args = [np.asarray(a) for a in args]
    moving = [i for i, a in enumerate(args) if a.dtype.kind == "f" and op.argument(i) not in op.constant]

    def f(*xs):
        full = dict(enumerate(args)) | dict(zip(moving, xs, strict=True))
        ys = op(*full.values(), **params)
        return tuple(y for y in (ys if isinstance(ys, tuple) else (ys,)) if y.dtype.kind == "f")

    return f, [args[i] for i in moving]


def value_and_gradients(f, xs, convert):
    ys, pull = vjp(f, *map(convert, xs))
    rng = np.random.default_rng(0)
    return [*ys, *pull(tuple(convert(np.asarray(rng.normal(size=y.shape))) for y in ys))]


def as_number(v):
    return float(lifted(v))
