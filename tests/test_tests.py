"""Tests of the tests: broken ops, and the law that catches each. A law that cannot fail proves nothing."""

import laws
import numpy as np
import pytest
from strategies import arguments, laid_out

from engine.domain import Pick
from engine.op import op
from engine.ops import matmul, multiply, permute_dims, sigmoid, sum_to, where


def first_failure(law, record, *more):
    """What the law says of the first of twenty calls that it rejects, or None."""
    pick = Pick(np.random.default_rng(7))
    per_call = law in (laws.promised_shape, laws.inputs_unchanged, laws.gradients_apart, laws.single_precision, laws.any_layout)
    for _ in range(20):
        args, params = arguments(record, pick)
        try:
            if per_call:
                law(record, args, params, *more)
            else:
                for place in laws.differentiable(record, args):
                    law(record, place, args, params)
        except AssertionError as e:
            return str(e)
    return None


@pytest.fixture
def broken(scratch_ops):
    """Ops that are wrong in one way each, by name."""
    made = {}

    @op("... -> ...")
    def crooked_square(x):
        r"""$y = x^2$"""
        return np.square(x)

    @crooked_square.slope("x")
    def _(x):
        r"""wrong in both modes"""
        return 3 * x

    @op("m k, k n -> m n", linear=("x", "w"))
    def untransposed(x, w):
        r"""$y = x w$"""
        return np.matmul(x, w)

    @untransposed.vjp("x")
    def _(g, w):
        r"""right"""
        return matmul(g, permute_dims(w, axes=(1, 0)))

    @untransposed.vjp("w")
    def _(g, x):
        r"""0.1 % too large"""
        return 1.001 * matmul(permute_dims(x, axes=(1, 0)), g)

    @op("n -> n", linear=("x",))
    def not_linear(x):
        r"""$y = x^2$, declared linear"""
        return np.square(x)

    @not_linear.vjp("x")
    def _(g, x):
        r"""the right transpose of the wrong claim is no op at all"""
        return 2 * x * g

    @op("... -> ...")
    def frozen(x):
        r"""$y = x^3$"""
        return np.power(x, 3)

    @frozen.slope("x")
    def _(x):
        r"""right, but computed outside the ops"""
        from engine.traced import primal

        return 3 * np.square(primal(x))

    @op("m n -> n m", linear=("x",))
    def other_shape(x):
        r"""$y = x$, promised as its transpose"""
        return x.copy()

    @other_shape.vjp("x")
    def _(g):
        r"""\bar x = \bar y"""
        return g

    @op("... -> ...")
    def scribbler(x):
        r"""$y = 2x$"""
        x *= 2
        return x.copy()

    @scribbler.slope("x")
    def _():
        r"""dy/dx = 2"""
        return 2

    @op("n -> n", linear=("x",))
    def cotangent_scribbler(x):
        r"""$y = 2x$"""
        return 2 * x

    @cotangent_scribbler.vjp("x")
    def _(g):
        r"""\bar x = 2 \bar y"""
        g *= 2
        return g

    @op("..., ... -> ...")
    def cut_at_ties(x1, x2):
        r"""$y = \ln(e^{x_1} + e^{x_2})$"""
        return np.logaddexp(x1, x2)

    @cut_at_ties.slope("x1")
    def _(x1, x2):
        r"""right, but its own derivative is lost where x_1 = x_2"""
        tie = x1 == x2
        return sigmoid(where(tie, 0.0, x1) - where(tie, 0.0, x2))

    @cut_at_ties.slope("x2")
    def _(x1, x2):
        r"""as above"""
        tie = x1 == x2
        return sigmoid(where(tie, 0.0, x2) - where(tie, 0.0, x1))

    @op("n, n -> n")
    def doubling_precision(x1, x2):
        r"""$y = x_1 x_2$"""
        return np.float64(1) * x1 * x2

    @doubling_precision.slope("x1")
    def _(x2):
        r"""x_2"""
        return x2

    @doubling_precision.slope("x2")
    def _(x1):
        r"""x_1"""
        return x1

    @op("m n -> m n", linear=("x",))
    def layout_reader(x):
        r"""$y = x$, read in memory order"""
        return np.ravel(x, order="K").reshape(x.shape)

    @layout_reader.vjp("x")
    def _(g):
        r"""\bar x = \bar y"""
        return g

    for record in (
        crooked_square, untransposed, not_linear, frozen, other_shape, scribbler, cotangent_scribbler, doubling_precision, layout_reader,
        cut_at_ties,
    ):  # fmt: skip
        made[record.name] = record
    return made


@pytest.mark.parametrize(
    "name, law",
    [
        ("crooked_square", laws.differences),
        ("untransposed", laws.transposition),
        ("not_linear", laws.differences),
        ("frozen", laws.second_order),
        ("cut_at_ties", laws.special_points),
        ("other_shape", laws.promised_shape),
        ("scribbler", laws.inputs_unchanged),
        ("cotangent_scribbler", laws.inputs_unchanged),
        ("doubling_precision", laws.single_precision),
    ],
)
def test_the_law_catches_it(broken, name, law):
    assert first_failure(law, broken[name]) is not None


def test_reading_memory_in_its_own_order_is_caught(broken):
    assert first_failure(laws.any_layout, broken["layout_reader"], "F", laid_out) is not None


def test_a_slope_wrong_in_both_modes_passes_the_law_of_transposition(broken):
    assert first_failure(laws.transposition, broken["crooked_square"]) is None


def test_a_wrong_vjp_passes_the_law_of_differences(broken):
    assert first_failure(laws.differences, broken["untransposed"]) is None


def test_two_gradients_in_one_buffer_are_caught(scratch_ops, monkeypatch):
    from engine.reverse import Gradients

    monkeypatch.setattr(Gradients, "result", lambda self, node: self.sums[node])

    @op("n, n -> n")
    def pair(x1, x2):
        r"""$y = x_1 + x_2$"""
        return x1 + x2

    @pair.vjp("x1", "x2")
    def _(g):
        r"""\bar x_1 = \bar x_2 = \bar y"""
        return g, g

    pair.jvp("x1", "x2")(_tangent)
    assert first_failure(laws.gradients_apart, pair) is not None


def _tangent(d):
    r"""\dot y = \dot x"""
    return d


@pytest.mark.parametrize("mutation", [lambda r: 1.001 * r, lambda r: -r, lambda r: 0 * r], ids=["scaled", "sign", "zero"])
@pytest.mark.parametrize("record, arg", [(multiply, "x1"), (matmul, "w"), (sum_to, "x")], ids=["multiply", "matmul", "sum_to"])
def test_a_mutated_rule_of_ours_is_caught(scratch_ops, monkeypatch, record, arg, mutation):
    from dataclasses import replace

    from engine.traced import OPS

    record = OPS[record.__name__]
    rule = record.vjps[arg]

    def mutant(*args, **kwargs):
        return mutation(rule.function(*args, **kwargs))

    monkeypatch.setitem(record.vjps, arg, replace(rule, function=mutant))
    monkeypatch.setattr(record, "_plans", {})
    assert first_failure(laws.transposition, record) is not None
