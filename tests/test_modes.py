"""Two ways to one derivative: a batch and its entries, a Hessian and its transpose."""

import numpy as np
import pytest

from engine import op, ops
from engine.shapes import Notation
from engine.testing import FAIL, check_gradient
from engine.testing.adapters import Adapted
from engine.testing.check import gradient_of
from engine.testing.modes import against_loop, slices, symmetric
from engine.testing.subject import Subject, outputs

RNG = np.random.default_rng(0)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_vjp(g, args, y):
    return (y * (g - np.sum(g * y, axis=-1, keepdims=True)),)


def over_the_batch(g, args, y):
    return (y * (g - np.sum(g * y)),)


def matmul_vjp(g, args, y):
    a, b = args
    gb = np.swapaxes(a, -1, -2) @ g
    while gb.ndim > b.ndim:
        gb = gb.sum(axis=0)
    return g @ np.swapaxes(b, -1, -2), gb


def first_entry_only(g, args, y):
    a, b = args
    ga, gb = matmul_vjp(g, args, y)
    return ga, (np.swapaxes(a, -1, -2) @ g)[0] if b.ndim < g.ndim else gb


def said(f, vjp, notation, *args):
    """What is found of a call with a random cotangent."""
    subject = Subject(f, vjp)
    y = subject.value(args, {})
    gs = tuple(RNG.uniform(-1, 1, np.shape(p)) for p in outputs(y))
    g = gs if isinstance(y, tuple) else gs[0]
    claims = subject.gradients(g, args, y, {})
    return [f.text for f in slices(subject, Notation(notation), g, args, y, {}, claims, "ab"[: len(args)])]


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4), (1, 3), (5,), (0, 3)])
def test_a_right_rule_for_batches_is_right_for_each_entry(shape):
    assert said(softmax, softmax_vjp, "... n -> ... n", RNG.normal(size=shape)) == []


def test_a_sum_over_the_batch_is_found():
    assert said(softmax, over_the_batch, "... n -> ... n", RNG.normal(size=(4, 3))) == [
        "the gradient of a in a batch is not that of its entries alone"
    ]
    assert said(softmax, over_the_batch, "... n -> ... n", RNG.normal(size=3)) == []  # right without a batch


def test_a_function_of_an_array_of_any_shape_is_no_batch():
    def centred(x):
        return x - x.mean()

    for x in (RNG.normal(size=(4, 3)), np.zeros((4, 3))):  # all entries of the second are what they would be alone
        assert said(centred, lambda g, args, y: (g - g.mean(),), "... -> ...", x) == []


@pytest.mark.parametrize("b", [(3, 2), (4, 3, 2)])
def test_the_gradient_of_a_broadcast_argument_is_the_sum_over_the_entries(b):
    a, b = RNG.normal(size=(4, 5, 3)), RNG.normal(size=b)
    notation = "... m k, ... k n -> ... m n"
    assert said(np.matmul, matmul_vjp, notation, a, b) == []
    wrong = said(np.matmul, first_entry_only, notation, a, b)
    assert len(wrong) == (b.ndim == 2)


def test_terms_that_cancel_are_no_finding():
    x = RNG.normal(size=(6, 40))
    x = np.concatenate([x, -x[:, ::-1]], axis=1) * 1e8
    ones = np.ones((80, 1))
    assert said(np.matmul, matmul_vjp, "... m k, ... k n -> ... m n", x[:, None, :], ones) == []


# Batched functions that an author has beside the function.


def looped(f, vjp):
    """f and its rule for a batch, by a loop."""
    return Subject(
        lambda *args: np.stack([f(*row) for row in zip(*args, strict=True)]),
        lambda g, args, y: tuple(
            map(np.stack, zip(*(vjp(g[i], [a[i] for a in args], y[i]) for i in range(len(g))), strict=True)),
        ),
    )


def test_a_batched_function_against_a_loop():
    one = Subject(softmax, softmax_vjp)
    x = RNG.normal(size=(2, 3))
    assert list(against_loop(one, looped(softmax, softmax_vjp), [x], {}, "x")) == []
    (value,) = against_loop(one, looped(lambda x: softmax(x.T).T, softmax_vjp), [x], {}, "x")
    assert "entry 0 of the batched function" in value.text
    (gradient,) = against_loop(one, looped(softmax, lambda g, args, y: (g * y,)), [x], {}, "x")
    assert "the gradient of x in a batch" in gradient.text and np.isfinite(gradient.claimed)
    (shape,) = against_loop(one, Subject(lambda x: softmax(x)[0], softmax_vjp), [x], {}, "x")
    assert "shape" in shape.text


# Second order.


def hessian_of(f, *args):
    """What is found of the gradient of an engine's function, for a random cotangent."""
    adapted = Adapted(f, "engine")
    y = adapted(*args)
    g = RNG.uniform(0.5, 1, np.shape(y))
    subject = gradient_of(adapted, "f", len(args))
    values = (g, *args)
    return [f.text for f in symmetric(subject, values, subject.value(values, {}), {}, len(args))]


@pytest.mark.parametrize("f, count", [(np.tanh, 1), (np.multiply, 2), (np.arctan2, 2), (lambda a, b: np.exp(a) @ b.T, 2), (ops.softmax, 1)])
def test_a_right_hessian_is_symmetric(f, count):
    assert hessian_of(f, *RNG.uniform(0.5, 1.5, (count, 3, 4))) == []


def test_a_hessian_of_which_one_half_was_cut_off_is_found(scratch_ops):
    @op("..., ... -> ...")
    def half_cut(a, b):
        r"""$y = a b$"""
        return a * b

    @half_cut.slope("a")
    def _(b):
        r"""\partial y / \partial a = b"""
        return ops.stop_gradient(b)

    @half_cut.slope("b")
    def _(a):
        r"""\partial y / \partial b = a"""
        return a

    (text,) = hessian_of(half_cut, *RNG.uniform(0.5, 1.5, (2, 3, 4)))
    assert "not symmetric" in text


def test_a_hessian_that_is_lost_in_rounding_is_no_finding():
    """In float32 softmax of (100, 0) is (1, 0): all products cancel."""
    report = check_gradient(ops.log_softmax, signature=np.zeros((1, 2), np.float32), orders=(2,), examples=60)
    assert report.verdict != FAIL, report.explain()
