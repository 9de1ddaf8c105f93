"""Interpreters nest: derivatives of derivatives, perturbation confusion, deep chains, memory, watching."""

import gc
import weakref
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from engine import EscapedValue, checkpoint, grad, hessian, hvp, jacobian, jvp, ops, stop_gradient, value_and_grad, vjp
from engine.explain import explain, plain, rules
from engine.interpret import EVAL, interpreting
from engine.observe import count, observe
from engine.reverse import Tape
from engine.traced import Traced


def test_third_derivative_of_tanh():
    x = 0.3
    t = np.tanh(x)
    want = (1 - t**2) * (6 * t**2 - 2)
    assert np.isclose(grad(grad(grad(ops.tanh)))(x), want, rtol=1e-13)


def test_the_modes_mix_in_any_order():
    def f(x):
        return ops.sin(x) * ops.exp(x * x)

    x = 0.7
    forward_reverse = jvp(grad(f), (x,), (1.0,))[1]
    reverse_forward = grad(lambda z: jvp(f, (z,), (1.0,))[1])(x)
    forward_forward = jvp(lambda z: jvp(f, (z,), (1.0,))[1], (x,), (1.0,))[1]
    reverse_reverse = grad(grad(f))(x)
    assert np.allclose([reverse_forward, forward_forward, reverse_reverse], forward_reverse, rtol=1e-13)


def test_perturbation_confusion():
    """d/dx [x d/dy (x + y)] = 1: the inner derivative must not see the outer perturbation. Siskind & Pearlmutter (2005)."""

    def by_grad(x):
        return x * grad(lambda y: x + y)(1.0)

    def by_push(x):
        return x * jvp(lambda y: x + y, (1.0,), (1.0,))[1]

    assert grad(by_grad)(1.0) == 1.0
    assert grad(by_push)(1.0) == 1.0
    assert jvp(by_grad, (1.0,), (1.0,))[1] == 1.0
    assert jvp(by_push, (1.0,), (1.0,))[1] == 1.0


def test_a_hundred_thousand_ops_without_recursion():
    def chain(x):
        for _ in range(100_000):
            x = x * 1.00001
        return x

    assert np.isclose(grad(chain)(1.0), 1.00001**100_000, rtol=1e-9)


def test_doubling_many_times_is_linear_work():
    def doubled(x):
        for _ in range(60):
            x = x + x
        return x

    assert grad(doubled)(1.0) == 2.0**60


def test_values_are_freed_as_the_walk_goes_back():
    alive = []

    class Watching(Tape):
        def watch(self, x):
            if isinstance(x, np.ndarray) and x.base is None:
                alive.append(weakref.ref(x))
            return super().watch(x)

    from engine.reverse import walk

    tape = Watching(EVAL)
    x = tape.watch(np.ones(1000))
    with interpreting(tape):
        y = x
        for _ in range(50):
            y = ops.exp(y * 1e-3)
        total = ops.sum(y)
    del y
    gc.collect()
    before = sum(ref() is not None for ref in alive)
    counts = []
    walk(tape, [(total.slot, np.float64(1))], consume=True, watcher=lambda *_: counts.append(sum(ref() is not None for ref in alive)))
    assert before >= 50
    assert counts[-1] <= 3
    assert counts == sorted(counts, reverse=True)


def test_the_tape_keeps_only_what_the_rules_name():
    tape = Tape(EVAL)
    x = tape.watch(np.ones(1000))
    with interpreting(tape):
        dead = weakref.ref((x + 1.0).value)
        y = ops.sum((x + 1.0) + 2.0)
    gc.collect()
    assert dead() is None
    assert all(v is None or isinstance(v, tuple) for entry in tape.entries for v in entry.saved)
    assert y.value == 4000


def test_pull_may_be_called_again():
    _, pull = vjp(lambda x: ops.exp(x), np.arange(3.0))
    assert np.array_equal(pull(np.ones(3))[0], pull(np.ones(3))[0])


def test_nested_arguments_and_aux():
    params = {"w": np.ones((2, 2)), "layers": [np.ones(2), (np.float32(2.0), None)]}

    def f(p, x):
        y = ops.sum(p["w"] @ x * p["layers"][0]) * p["layers"][1][0]
        return y, {"y": y, "n": 3}

    (value, aux), g = value_and_grad(f, has_aux=True)(params, np.ones(2))
    assert value == 8.0
    assert aux["n"] == 3
    assert not isinstance(aux["y"], Traced)
    assert g["layers"][1][1] is None
    assert np.array_equal(g["w"], np.full((2, 2), 2.0))
    assert g["layers"][1][0].dtype == np.float32


def test_several_argnums():
    g = grad(lambda a, b, c: a * b * c, argnums=(0, -1))(2.0, 3.0, 4.0)
    assert g == (12.0, 6.0)


def test_jacobian_both_ways():
    rng = np.random.default_rng(0)
    a, x = rng.normal(size=(5, 3)), rng.normal(size=3)
    assert np.allclose(jacobian(lambda z: a @ z)(x), a)
    assert np.allclose(jacobian(lambda z: a.T @ z)(rng.normal(size=5)), a.T)
    tall = jacobian(lambda z: ops.expand_dims(z, axis=0) * np.ones((4, 3)))(x)
    assert tall.shape == (4, 3, 3)
    assert np.array_equal(tall[1], np.eye(3))


@pytest.mark.parametrize("f, x", [(lambda x: (x, x), np.ones(2)), (lambda x: [x], np.ones(2)), (lambda x: x["a"], {"a": 1.0})])
def test_jacobian_of_a_nesting_is_refused(f, x):
    with pytest.raises(TypeError, match=r"one array in and one array out are wanted, not a (tuple|list|dict)"):
        jacobian(f)(x)
    assert np.array_equal(jacobian(lambda x: x * x)([1.0, 2.0]), np.diag([2.0, 4.0]))


def test_hessian_is_symmetric_and_agrees_with_hvp():
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=4), rng.normal(size=4)

    def f(z):
        return ops.sum(ops.sin(z) * ops.exp(z)) * ops.sum(z * z)

    h = hessian(f)(x)
    assert np.allclose(h, h.T, rtol=1e-12)
    assert np.allclose(hvp(f, (x,), (v,)), h @ v, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_checkpoint_gives_the_same_derivatives(order):
    def f(x):
        return ops.sin(ops.exp(x) * x)

    plain_f, kept_f = f, checkpoint(f)
    for _ in range(order):
        plain_f, kept_f = grad(plain_f), grad(kept_f)
    assert np.isclose(kept_f(0.4), plain_f(0.4), rtol=1e-13)


def test_checkpoint_of_a_method_and_of_words():
    class Layer:
        scale = np.array([1.0, 2.0])

        @checkpoint
        def __call__(self, x, how):
            return self.scale * (x * x if how == "squared" else x)

    assert np.array_equal(grad(lambda x: ops.sum(Layer()(x, "squared")))(np.ones(2)), [2, 4])
    assert np.array_equal(hessian(lambda x: ops.sum(Layer()(x, "squared")))(np.ones(2)), np.diag([2, 4]))


def test_checkpoint_keeps_less():
    def block(x):
        for _ in range(20):
            x = ops.exp(x * 1e-3)
        return x

    def peak(f):
        return count(grad(lambda x: ops.sum(f(f(f(f(f(x))))))))(np.ones(10_000)).peak_bytes

    assert peak(checkpoint(block)) < peak(block) / 2


def test_checkpoint_refuses_a_generator_and_a_captured_trace():
    with pytest.raises(TypeError, match="pass a seed"):
        checkpoint(lambda x, rng: x)(1.0, np.random.default_rng(0))
    with pytest.raises(EscapedValue):
        grad(lambda w: checkpoint(lambda x: x * w)(2.0))(1.0)


def test_stop_gradient_cuts_every_level():
    assert grad(lambda x: x * stop_gradient(x))(3.0) == 3.0
    assert grad(grad(lambda x: x * x * stop_gradient(x)))(3.0) == 6.0
    assert jvp(lambda x: stop_gradient(x) + 0 * x, (3.0,), (1.0,))[1] == 0.0


@pytest.mark.parametrize("f", [np.sum, lambda x: np.where(x[0] > 0, x[0], 0.0), lambda x: np.reshape(x[0], ()), lambda x: np.array(2.0)])
def test_the_value_is_a_number(f):
    value, g = value_and_grad(f)(np.ones(3))
    assert type(value) is np.float64
    assert g.shape == (3,)


def test_gradient_of_what_does_not_depend_is_zero():
    assert np.array_equal(grad(lambda x: np.float64(1.0))(np.ones(3)), np.zeros(3))
    assert jvp(lambda x: np.ones(2), (1.0,), (1.0,))[1].tolist() == [0, 0]


def test_float32_survives_a_python_number():
    g = grad(lambda x: ops.sum(2.0 * x / 3 + 1 - x**2))(np.ones(3, np.float32))
    assert g.dtype == np.float32


def test_inputs_from_elsewhere_are_taken_without_a_copy():
    class Speaks:
        def __init__(self, a):
            self.a = a

        def __dlpack__(self, **kwargs):
            return self.a.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.a.__dlpack_device__()

    a = np.arange(3.0)
    assert np.array_equal(grad(lambda x: ops.sum(x * x))(Speaks(a)), 2 * a)
    assert np.array_equal(ops.exp(memoryview(a)), np.exp(a))
    assert np.array_equal(grad(lambda x: ops.sum(x * [1.0, 2.0, 3.0]))(a), [1, 2, 3])


def test_two_threads_do_not_mix():
    from concurrent.futures import ThreadPoolExecutor

    def work(i):
        return grad(lambda x: x * x * i)(1.0)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(50))) == [2.0 * i for i in range(50)]


def test_explain_tells_the_story_of_b_equals_a_plus_a():
    def f(a):
        b = a + a
        return b + b

    story = explain(f)(3.0)
    assert [str(c) for c in story.forward] == ["v1 = add(a, a)", "v2 = add(v1, v1)"]
    assert [float(s.total) for step in story.backward for s in step.shares] == [1, 2, 2, 4]
    assert story.gradients["a"] == 4
    assert "sum so far 4" in str(story)
    assert "<table>" in story._repr_html_()


def test_explain_shows_the_work_of_the_rules():
    story = explain(lambda x, w: ops.tanh(x * w))(0.5, 2.0)
    assert np.isclose(story.gradients["w"], 0.5 * (1 - np.tanh(1) ** 2))
    assert any(call.op.name == "multiply" for step in story.backward for call in step.work)


def test_explain_of_a_nest_names_its_leaves():
    story = explain(lambda p, x: ops.sum(p["w"] * x) + p["b"])({"w": np.ones(2), "b": 1.0}, np.arange(2.0))
    assert list(story.inputs) == ["p/w", "p/b", "x"]


def test_rules_as_text():
    text = rules("multiply")
    assert "slope" in text
    assert plain(r"$\bar x = \frac{1}{2} \bar y$") == "x\u0304 = (1) / (2) y\u0304"
    with pytest.raises(KeyError, match="no op is called"):
        rules("multiplied")


def test_count_sees_both_passes():
    x, w = np.ones((3, 4)), np.ones((4, 5))
    forward = count(lambda x, w: ops.sum(ops.matmul(x, w)))(x, w)
    both = count(grad(lambda x, w: ops.sum(ops.matmul(x, w)), argnums=(0, 1)))(x, w)
    assert forward.flops["matmul"] == 2 * 3 * 4 * 5
    assert both.flops["matmul"] == 3 * 2 * 3 * 4 * 5
    assert "matmul" in str(both)


def test_observe_widens_over_batches():
    seen = observe(lambda x: ops.exp(x) * 2.0, [(np.array([0.0, 1.0]),), (np.array([-1.0]),)])
    assert list(seen) == ["0 input", "1 exp", "2 multiply"]
    assert (seen["0 input"].low, seen["0 input"].high) == (-1, 1)
    assert np.isclose(seen["1 exp"].low, np.exp(-1))
    assert np.isclose(seen["2 multiply"].high, 2 * np.e)
    assert seen["1 exp"].seen == 3


def test_dicts_fit_by_their_keys_in_any_order():
    p, moves = {"a": 1.0, "b": [2.0, None]}, {"b": [5.0, None], "a": 1.0}
    assert jvp(lambda p: 100 * p["a"] + p["b"][0], (p,), (moves,))[1] == 105.0
    _, pull = vjp(lambda x: {"a": x, "b": 2 * x}, 1.0)
    assert pull({"b": 0.0, "a": 1.0}) == (1.0,)


def test_other_kinds_of_dict_stay_what_they_are():
    params = defaultdict(lambda: 7.0, a=2.0)
    value, g = value_and_grad(lambda p: p["a"] ** 2 * p["not there"])(params)
    assert value == 28.0
    assert type(g) is defaultdict
    assert g == {"a": 28.0}
    assert params == {"a": 2.0}
    assert list(grad(lambda p: p["b"])(OrderedDict(b=1.0, a=2.0)).items()) == [("b", 1.0), ("a", 0.0)]


@pytest.mark.parametrize("y", [True, np.True_, np.int64(3), 1j, np.arange(3)[1:2]], ids=str)
def test_a_value_that_is_not_real_has_no_gradient(y):
    with pytest.raises(TypeError, match="a real floating-point number is wanted"):
        grad(lambda x: y)(1.0)
    assert grad(lambda x: 0)(1.0) == 0.0


def test_arguments_are_named_by_integers():
    f = lambda a, b: a * b**2  # noqa: E731
    assert grad(f, np.int64(-1))(2.0, 3.0) == 12.0
    assert grad(f, [np.int64(1)])(2.0, 3.0) == (12.0,)
    assert jacobian(f, -1)(2.0, 3.0) == 12.0
    assert hessian(f, -1)(2.0, 3.0) == 4.0
    for argnums, message in {(0, -2): "twice", "ab": "'a', an integer is wanted", 0.5: "0.5, an integer", 2: "has 2, but 2"}.items():
        with pytest.raises(TypeError, match=message):
            grad(f, argnums)(2.0, 3.0)
    with pytest.raises(TypeError, match="jacobian: argnums has 2, but 2 positional"):
        jacobian(f, 2)(2.0, 3.0)
