"""The text of the errors that a student meets."""

import numpy as np
import pytest

from engine import MissingRule, ShapeError, grad, jvp, op, ops, vjp
from engine.reverse import RuleError


def message(error, f, *args):
    with pytest.raises(error) as e:
        f(*args)
    return str(e.value)


def test_a_wrong_inner_axis():
    assert message(ShapeError, ops.matmul, np.zeros((2, 3)), np.zeros((4, 5))) == (
        "matmul: axis k is 3 in x but 4 in w\n  wants  ... m k, ... k n -> ... m n\n  given  x: (2, 3)  w: (4, 5)"
    )


def test_shapes_that_do_not_broadcast():
    text = message(ShapeError, ops.add, np.zeros((2, 3)), np.zeros(4))
    assert text.startswith("add: operands could not be broadcast together")
    assert text.endswith("wants  ..., ... -> ...\n  given  x1: (2, 3)  x2: (4,)")


def test_a_loss_that_is_no_scalar():
    assert message(TypeError, grad(lambda x: x * 2), np.ones(3)) == (
        "grad: f returned shape (3,), a scalar is wanted\n  reduce it, np.sum(y), or use vjp or jacobian for a function with array values"
    )


def test_integers_cannot_be_nudged():
    assert message(TypeError, grad(ops.sum), np.arange(3)) == (
        "grad: argument 0 is int64: a derivative needs floating-point numbers\n  convert it, x.astype(float), or leave it out of argnums"
    )


def test_words_are_no_numbers():
    assert "an array of numbers is wanted, list holds <U1: ['a', 'b']" in message(TypeError, ops.sum, ["a", "b"])


def test_an_array_of_words_is_named():
    assert message(TypeError, ops.tanh, np.array(["a"])) == "tanh: an array of numbers is wanted, x holds <U1"
    assert message(TypeError, ops.add, np.ones(1), np.array([None])) == "add: an array of numbers is wanted, x2 holds object"


def test_float_would_cut_the_gradient():
    import math

    text = message(TypeError, grad(lambda x: math.exp(x)), 1.0)
    assert text.startswith(
        "float() (a function of `math`, an assignment to an element of a plain array) would cut this value off from its derivative."
    )


def test_assignment_into_an_array_would_cut_the_gradient():
    def f(x):
        out = np.zeros(2)
        out[0] = x
        return out.sum()

    with pytest.raises(ValueError) as e:
        grad(f)(1.0)
    assert "would cut this value off" in str(e.value.__cause__)


def test_assignment_into_a_traced_array():
    def f(x):
        x[0] = 1.0
        return x

    assert "cannot be assigned into" in message(TypeError, grad(f), np.ones(2))


def test_a_missing_rule_says_where_to_write_it(scratch_ops):
    @op("... -> ...")
    def opaque(x):
        r"""$y = x$"""
        return x

    text = message(MissingRule, grad(opaque), 1.0)
    assert text.startswith("opaque has no vjp rule for x (rules: none).")
    assert "@opaque.vjp('x')" in text
    assert "has no jvp rule for x" in message(MissingRule, lambda: jvp(opaque, (1.0,), (1.0,)))


def test_a_rule_of_the_wrong_shape_is_named(scratch_ops):
    @op("m n -> n m", linear=("x",))
    def turned(x):
        r"""$y = x^T$"""
        return x.T

    @turned.vjp("x")
    def _(g):
        r"""wrong"""
        return g

    _, pull = vjp(turned, np.ones((2, 3)))
    assert message(RuleError, pull, np.ones((3, 2))) == "turned: the rule for x returned shape (3, 2), x has (2, 3)"


def test_an_op_without_a_formula_is_refused():
    def bare(x):
        return x

    assert "the first line of its docstring is the formula" in message(ValueError, op("... -> ..."), bare)


def test_a_rule_that_asks_for_what_there_is_not(scratch_ops):
    @op("... -> ...")
    def one(x):
        r"""$y = x$"""
        return x

    def rule(g, z):
        r"""\bar x"""

    assert "'z' is neither y nor one of x" in message(ValueError, one.vjp("x"), rule)


def test_a_cotangent_of_the_wrong_shape():
    _, pull = vjp(ops.exp, np.ones(3))
    assert message(ValueError, pull, np.ones(2)) == "pull: the cotangent has shape (2,), f returned (3,)"


def test_an_escaped_value():
    kept = []
    grad(lambda x: kept.append(x) or x)(1.0)
    assert "was used after the traced function had returned" in message(TypeError, lambda: kept[0] * 2)


def test_tangents_that_do_not_fit():
    assert "jvp: argument 0 has shape (3,), its tangent (2,)" in message(ValueError, lambda: jvp(ops.exp, (np.ones(3),), (np.ones(2),)))
    assert "jvp takes tuples" in message(TypeError, lambda: jvp(ops.exp, np.ones(3), np.ones(3)))
