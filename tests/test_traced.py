"""A traced value among Python's own: copies, built-in functions, attributes, and what is refused."""

import copy
import pickle

import numpy as np
import pytest

from engine import EscapedValue, checkpoint, grad, ops, stop_gradient, vjp

X = np.array([1.5, -2.25, 0.5])


def inside(f):
    """What `f` gives for X while it is traced."""
    answers = []
    vjp(lambda x: (answers.append(f(x)), np.sum(x))[1], X)
    return answers[0]


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda x: copy.deepcopy({"w": [x]})["w"][0]], ids=["copy", "deepcopy", "nested"])
def test_a_copy_is_traced_too(how):
    np.testing.assert_array_equal(grad(lambda x: np.sum(how(x) * x))(X), 2 * X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (1.5 in x, 7.0 in x, x[0] in x),
        lambda x: (round(x[0]), round(x[1], 1), max(x) > 0),
        lambda x: (x.itemsize, x.nbytes, x.argpartition(1).tolist()),
    ],
    ids=["contains", "round", "sizes"],
)
def test_plain_answers(f):
    assert inside(f) == f(X)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: sum(x.flat) + x.real[0] + x.conj()[1] + x.imag[2] + x.flatten("F")[0],
        lambda x: divmod(x[1], 0.7)[1] + divmod(3.1, x[0])[1] * divmod(x[1], 0.7)[0],
        lambda x: max(x) * min(x) + sum(x) * abs(x[1]) + pow(x[0], 2) + sorted(x)[1] ** 3,
        lambda x: sum(a * b for a, b in zip(x, reversed(x), strict=True)),
    ],
    ids=["views", "divmod", "builtins", "loops"],
)
def test_python_differentiates(f):
    h = 1e-6
    assert vjp(f, X)[0] == f(X)
    want = [(f(X + h * e) - f(X - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(grad(f)(X), want, rtol=1e-7, atol=1e-7)


def test_augmented_assignment_gives_a_new_value():
    def f(x):
        y = x
        y += 1
        y *= x
        y -= 2.0
        y /= 4
        y **= 2
        return np.sum(y)

    x = X.copy()
    np.testing.assert_allclose(grad(f)(x), (x * x + x - 2) / 8 * (2 * x + 1))
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(
    "f, message",
    [
        (pickle.dumps, "cannot be pickled"),
        (lambda x: x.tolist(), r"\.tolist\(\)"),
        (lambda x: [1, 2, 3][x[0]], "plain integer"),
        (lambda x: range(x[0]), "plain integer"),
        (lambda x: x.sort(), "cannot be assigned into"),
        (lambda x: x.fill(0), "cannot be assigned into"),
        (lambda x: x.flat.__setitem__(0, 1.0), "cannot be assigned into"),
        (lambda x: np.random.default_rng(0).normal(x, 1.0), r"m \+ s \* rng\.normal"),
        (lambda x: {x: 1}, "unhashable"),
    ],
)
def test_what_would_lose_the_derivative_is_refused(f, message):
    with pytest.raises(TypeError, match=message):
        grad(lambda x: np.sum(x) + (f(x) is None))(X)


def test_a_masked_array_is_refused():
    masked = np.ma.array(X, mask=[0, 1, 0])
    with pytest.raises(TypeError, match="its mask would be lost"):
        grad(np.sum)(masked)
    with pytest.raises(TypeError, match="its mask would be lost"):
        ops.exp(masked)


def test_an_argument_of_another_kind_is_named():
    class Params:
        w = X

    with pytest.raises(TypeError, match=r"grad: argument 0: .*Params holds object.*\n.*dicts, lists and tuples"):
        grad(lambda p: np.sum(p.w))(Params())


def test_a_checkpoint_that_captures_says_what_to_do():
    with pytest.raises(EscapedValue, match="pass it to the checkpoint as an argument"):
        grad(lambda w: checkpoint(lambda x: x * w)(2.0))(1.0)


def test_an_error_inside_leaves_nothing_behind():
    def fails(x):
        raise KeyError(x.shape)

    with pytest.raises(KeyError):
        grad(lambda x: x * grad(fails)(x))(1.0)
    assert ops.exp(0.0) == 1.0
    assert type(ops.multiply(2.0, 3.0)) is np.float64
    assert grad(lambda x: stop_gradient(x) * x)(2.0) == 2.0


def test_a_generator_that_is_left_and_entered_again():
    def slopes(x):
        for i in range(3):
            yield grad(lambda z: z * z * x)(float(i))

    assert grad(lambda x: sum(slopes(x)))(2.0) == 6.0


def test_an_element_of_a_plain_array_is_not_assigned():
    with pytest.raises(ValueError, match="setting an array element") as e:  # NumPy's own; it keeps ours as the cause
        grad(lambda x: np.zeros(3).__setitem__(0, x[0]))(X)
    assert "an assignment to an element of a plain array" in str(e.value.__cause__)
