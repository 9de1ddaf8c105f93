"""Functions of other frameworks as functions of NumPy arrays: real where installed, small stand-ins for the others."""

import functools
import inspect
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tally
from hypothesis import strategies as st

from engine import ops
from engine.testing import adapters, check_gradient
from engine.testing.adapters import FRAMEWORKS, Adapted, NoFramework, adapter, framework_of, installed
from engine.testing.layouts import LAYOUTS, ODD_LAYOUTS, laid_out
from engine.testing.signature import understand

DIFFERENTIATING = ("engine", "torch", "jax", "autograd")

W = np.array([[0.5, -1.0], [2.0, 0.25], [1.5, 1.0]])
X = np.array([[0.1, -0.2, 0.3], [1.0, 0.5, -0.75]])
G = np.array([[1.0, -2.0], [0.5, 3.0]])
I = np.array([1, 1])


def layer(framework):
    """(x, w, i) -> tanh(x w)[i] and an integer, written in that framework."""
    if framework == "torch":
        import torch

        return lambda x, w, i: (torch.tanh(x @ w)[i], torch.argmax(x))
    if framework == "jax":
        import jax.numpy as jnp

        return lambda x, w, i: (jnp.tanh(x @ w)[i], jnp.argmax(x))
    if framework == "autograd":
        import autograd.numpy as anp

        return lambda x, w, i: (anp.tanh(anp.dot(x, w))[i], anp.argmax(x))
    return lambda x, w, i: (ops.take(np.tanh(x @ w), i, axis=0), np.array(5))


def by_hand(g, x, w):
    """The gradient of `layer` in x and w, for the cotangent of its first output."""
    y = np.tanh(x @ w)
    back = np.zeros_like(y)
    np.add.at(back, I, g)
    back = back * (1 - y * y)
    return back @ w.T, x.T @ back


@pytest.fixture(params=DIFFERENTIATING)
def adapted(request):
    """The layer in each framework that is installed."""
    if not find_spec(request.param):
        tally.not_run(f"{request.param} is not installed")
        return None
    return Adapted(layer(request.param), request.param)


def near(a, b):
    return np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_the_value_is_that_of_numpy(adapted):
    if adapted is None:
        return
    y, place = adapted(X, W, I)
    near(y, np.tanh(X @ W)[I])
    assert type(y) is np.ndarray and place.dtype.kind == "i" and place.shape == ()


def test_reverse_mode_gives_a_gradient_for_each_floating_point_argument(adapted):
    if adapted is None:
        return
    y = adapted(X, W, I)
    found = adapted.vjp((G, np.zeros((), int)), (X, W, I), y)
    assert len(found) == 2
    for got, want in zip(found, by_hand(G, X, W), strict=True):
        near(got, want)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # PyTorch's own, on loading its forward mode
def test_forward_mode_is_the_transpose_of_reverse_mode(adapted):
    if adapted is None:
        return
    y = adapted(X, W, I)
    dx, dw = np.cos(X), np.sin(W)
    (dy,) = adapted.jvp((dx, dw), (X, W, I), y)
    gx, gw = by_hand(G, X, W)
    near(np.vdot(G, dy), np.vdot(gx, dx) + np.vdot(gw, dw))


def test_the_gradient_is_a_function_with_derivatives_of_its_own(adapted):
    if adapted is None:
        return
    gradient = adapted.gradient()
    first = gradient(G, X, W, I)
    near(first[1], by_hand(G, X, W)[1])
    u, v = np.ones_like(X), np.cos(W)
    second = gradient.vjp((u, v), (G, X, W, I), first)
    h = 1e-6
    for place, values in enumerate((G, X, W)):
        moved = np.sin(np.arange(values.size) + 1.0).reshape(values.shape)
        there, back = ([G, X, W], [G, X, W])
        there[place], back[place] = values + h * moved, values - h * moved
        slope = sum(np.vdot(c, (a - b) / (2 * h)) for c, a, b in zip((u, v), by_hand(*there), by_hand(*back), strict=True))
        np.testing.assert_allclose(np.vdot(second[place], moved), slope, rtol=1e-7)


@pytest.mark.parametrize("layout", LAYOUTS + ODD_LAYOUTS)
def test_every_layout_gives_the_same(adapted, layout):
    if adapted is None:
        return
    x, w, g = (laid_out(a, layout) for a in (X, W, G))
    before = x.tobytes(), w.tobytes(), g.tobytes()
    y = adapted(x, w, I)
    near(y[0], np.tanh(X @ W)[I])
    for got, want in zip(adapted.vjp((g, np.zeros((), int)), (x, w, I), y), by_hand(G, X, W), strict=True):
        near(got, want)
    assert (x.tobytes(), w.tobytes(), g.tobytes()) == before


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,)])
def test_arrays_without_axes_and_without_elements(adapted, shape):
    if adapted is None:
        return
    square = Adapted(lambda x: x * x, adapted.framework)
    x = np.full(shape, 3.0)
    y = square(x)
    (gx,) = square.vjp(np.ones(shape), (x,), y)
    assert y.shape == gx.shape == shape and np.all(gx == 6.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_dtype_is_kept(adapted, dtype):
    if adapted is None:
        return
    y = adapted(X.astype(dtype), W.astype(dtype), I)
    found = adapted.vjp((G.astype(dtype), np.zeros((), int)), (X.astype(dtype), W.astype(dtype), I), y)
    assert {v.dtype for v in (y[0], *found)} == {np.dtype(dtype)}


def test_what_does_not_depend_on_an_argument_gives_zeros(adapted):
    if adapted is None:
        return
    first = Adapted(lambda x, w: x * 2.0, adapted.framework)
    gx, gw = first.vjp(np.ones_like(X), (X, W), first(X, W))
    assert np.all(gx == 2) and gw.shape == W.shape and not gw.any()


def test_options_and_arrays_among_them(adapted):
    if adapted is None:
        return
    f = Adapted(lambda x, factor, weights: x * weights["w"] * factor, adapted.framework)
    options = {"factor": 2.0, "weights": {"w": np.arange(6.0).reshape(2, 3)}}
    (gx,) = f.vjp(np.ones_like(X), (X,), f(X, **options), **options)
    assert np.array_equal(gx, 2 * options["weights"]["w"])


def test_a_rule_of_ones_own_sees_the_frameworks_arrays(adapted):
    if adapted is None:
        return
    seen = []

    def rule(g, args, y):
        seen.extend(type(a).__module__.partition(".")[0] for a in (g, *args, y))
        return (g * 2.0, None)

    found = adapted.hand_written(rule)(G, (G, W), G)
    assert np.array_equal(found[0], 2 * G) and found[1] is None
    assert set(seen) <= {"numpy", adapted.framework, "jaxlib"}


def test_pytorch_sees_the_very_memory_of_the_arrays():
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        return
    wrap = adapter("torch").wrap
    for layout in ("C", "F", "stepped", "offset", "repeated", "read-only"):
        x = laid_out(np.ones((3, 2)), layout)
        assert wrap(x).data_ptr() == x.__array_interface__["data"][0]
        assert tuple(s * 8 for s in wrap(x).stride()) == x.strides


def test_a_tensor_function_that_writes_into_its_argument_is_seen():
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        return
    x = np.ones(3)
    Adapted(lambda x: x.mul_(2.0), "torch")(x)
    assert np.all(x == 2)


# bfloat16, which NumPy knows through ml_dtypes (JAX brings it).


@pytest.fixture(params=["torch", "jax"])
def half(request):
    """A framework with bfloat16, and an array of it; None where something is not installed."""
    for package in (request.param, "ml_dtypes"):
        if not find_spec(package):
            tally.not_run(f"{package} is not installed")
            return None
    ml_dtypes = __import__("ml_dtypes")
    return request.param, np.array([[0.5, -1.25], [3.0, 0.375]], ml_dtypes.bfloat16)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_bfloat16_comes_back_bit_by_bit(half, layout):
    if half is None:
        return
    framework, x = half
    x = laid_out(x, layout)
    square = Adapted(lambda x: x * x, framework)
    y = square(x)
    (gx,) = square.vjp(np.ones_like(y), (x,), y)
    assert y.dtype == gx.dtype == x.dtype and y.dtype.name == "bfloat16"
    assert np.array_equal(gx.astype(float), 2 * x.astype(float))
    assert square.jvp((x,), (x,), y).dtype == x.dtype


def test_a_gradient_in_bfloat16_is_judged_against_float64_on_the_same_numbers(half):
    if half is None:
        return
    framework, x = half
    settings = {"framework": framework, "signature": (x, x), "examples": 40}

    def gated(x, w):
        return x * w + x * x

    def back(g, args, y):
        x, w = args
        return g * (w + 2 * x), g * x

    def forgot(g, args, y):
        x, w = args
        return g * (w + x), g * x

    right = check_gradient(gated, **settings)
    assert right.verdict == "PASS" and right.counts["elements"] > 50, right.explain()
    assert check_gradient(gated, back, **settings).verdict == "PASS"
    wrong = check_gradient(gated, forgot, **settings)
    assert wrong.verdict == "FAIL" and wrong.counterexample.finding.check == "value"
    assert all(a.dtype.name == "bfloat16" for a in wrong.counterexample.args)


# Complex numbers


@pytest.fixture(params=["torch", "jax"])
def numbers(request):
    """A framework's functions by the names that both have."""
    if not find_spec(request.param):
        tally.not_run(f"{request.param} is not installed")
        return None
    return __import__("jax.numpy", fromlist=["numpy"]) if request.param == "jax" else __import__("torch")


Z = np.array([1 + 2j, 0.5 - 1j, -2 + 0.25j])


def test_a_complex_output_is_judged_as_its_two_parts(numbers):
    if numbers is None:
        return
    report = check_gradient(numbers.fft.rfft, signature=Z.real, reference=np.fft.rfft, examples=30)
    assert report.verdict == "PASS" and report.counts["elements"] > 30, report.explain()


def test_a_complex_argument_is_judged_as_its_two_parts(numbers):
    if numbers is None:
        return
    framework = numbers.__name__.partition(".")[0]
    settings = {"signature": (Z, Z.real), "framework": framework, "examples": 30}
    report = check_gradient(lambda z, x: numbers.exp(numbers.conj(z) * x), reference=lambda z, x: np.exp(np.conj(z) * x), **settings)
    assert report.verdict == "PASS" and report.counts["elements"] > 30, report.explain()


def test_a_forgotten_conjugate_is_found():
    if not find_spec("torch"):
        tally.not_run("torch is not installed")
        return
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return a * b

        @staticmethod
        def backward(ctx, g):
            a, b = ctx.saved_tensors
            return g * b.conj(), g * a

    def product(a, b):
        return Product.apply(a, b)

    report = check_gradient(product, signature=(Z, Z), reference=lambda a, b: a * b, examples=30)
    assert report.verdict == "FAIL" and report.counterexample.finding.check == "value", report.explain()
    assert report.counterexample.element[0].startswith("b_")
    assert report.counts["no forward mode"] > 0


# Stand-ins that speak the calls of TensorFlow and CuPy: a number with a slope is all that is needed.


class Tensor:
    """An array that remembers how it came about."""

    def __init__(self, value, parents=()):
        self.value, self.parents, self.dtype = np.asarray(value), parents, np.asarray(value).dtype

    def __mul__(self, other):
        return Tensor(self.value * other.value, ((self, other.value), (other, self.value)))

    def numpy(self):
        return self.value


class GradientTape:
    def __init__(self, persistent):
        assert persistent

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def watch(self, xs):
        self.watched = list(xs)

    def gradient(self, ys, xs, output_gradients, unconnected_gradients):
        assert unconnected_gradients == "zero" and list(xs) == self.watched
        total = {id(x): np.zeros_like(x.value) for x in xs}
        for y, g in zip(ys, output_gradients, strict=True):
            for parent, slope in y.parents:
                if id(parent) in total:
                    total[id(parent)] = total[id(parent)] + g.value * slope
        return [Tensor(total[id(x)]) for x in xs]


class ForwardAccumulator:
    def __init__(self, primals, tangents):
        self.moving = {id(x): d.value for x, d in zip(primals, tangents, strict=True)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def jvp(self, ys, unconnected_gradients):
        assert unconnected_gradients == "zero"
        return tuple(Tensor(sum(slope * self.moving.get(id(p), 0.0) for p, slope in y.parents)) for y in ys)


def stand_in(monkeypatch, name, **contents):
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, f"engine.testing.adapters.{name}", raising=False)
    monkeypatch.delattr(adapters, name, raising=False)
    return module


def test_tensorflow_calls(monkeypatch):
    forward = ModuleType("autodiff")
    forward.ForwardAccumulator = ForwardAccumulator
    convert = lambda x: x if isinstance(x, Tensor) else Tensor(x)  # noqa: E731
    stand_in(monkeypatch, "tensorflow", GradientTape=GradientTape, autodiff=forward, convert_to_tensor=convert)
    f = Adapted(lambda a, b: (a * b, a * a), "tensorflow")
    a, b = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    y = f(a, b)
    assert np.array_equal(y[0], a * b) and type(y[0]) is np.ndarray
    ga, gb = f.vjp((np.ones(2), np.ones(2)), (a, b), y)
    assert np.array_equal(ga, b + 2 * a) and np.array_equal(gb, a)
    dy = f.jvp((np.ones(2), np.zeros(2)), (a, b), y)
    assert np.array_equal(dy[0], b) and np.array_equal(dy[1], 2 * a)
    monkeypatch.delitem(sys.modules, "engine.testing.adapters.tensorflow")


def test_cupy_calls(monkeypatch):
    stand_in(monkeypatch, "cupy", asarray=Tensor, asnumpy=lambda t: t.value)
    f = Adapted(lambda a, b: a * b, "cupy")
    a, b = np.array([1.0, 2.0]), np.array([3.0, 5.0])
    assert np.array_equal(f(a, b), a * b) and not f.differentiates
    rule = f.hand_written(lambda g, args, y: (g * args[1], g * args[0]))
    ga, gb = rule(np.ones(2), (a, b), f(a, b))
    assert np.array_equal(ga, b) and np.array_equal(gb, a)
    monkeypatch.delitem(sys.modules, "engine.testing.adapters.cupy")


# Whose is it?


def test_the_framework_is_seen_from_the_code_of_a_function():
    def of_the_engine(x):
        return ops.tanh(x)

    def plain(x):
        return np.tanh(x)

    assert framework_of(ops.tanh) == "engine"
    assert framework_of(of_the_engine) == "engine"
    assert framework_of(functools.partial(of_the_engine)) == "engine"
    assert framework_of(lambda x: [of_the_engine(v) for v in x]) == "engine"
    import engine as held

    assert framework_of(lambda x: held.ops.tanh(x)) == "engine"
    assert framework_of(plain) is framework_of(np.tanh) is framework_of(X) is framework_of(3.0) is None


def test_the_framework_is_seen_from_its_own_functions_and_arrays():
    for name, text in {
        "torch": "torch.tanh, torch.Tensor.tanh, torch.special.erf, torch.nn.functional.relu, torch.nn.Linear(1, 1), torch.ones(1)",
        "jax": "jax.numpy.tanh, jax.nn.relu, jax.lax.dot, jax.numpy.ones(1)",
        "autograd": "autograd.numpy.tanh, autograd.numpy.sum",
    }.items():
        if not find_spec(name):
            tally.not_run(f"{name} is not installed")
            continue
        found = eval(text, {name: __import__(name if name != "autograd" else "autograd.numpy")})
        assert [framework_of(f) for f in found] == [name] * len(found)


def test_what_is_not_there_is_named():
    with pytest.raises(NoFramework, match="no adapter for 'paddle'; there are engine, torch, jax"):
        adapter("paddle")
    missing = [f for f in FRAMEWORKS if f not in installed()]
    for name in missing:
        with pytest.raises(NoFramework, match=f"{name} is not installed; installed are engine"):
            adapter(name)
    assert "engine" in installed()


def test_argument_names_are_those_of_the_function():
    assert list(inspect.signature(Adapted(lambda query, key: query * key, "engine")).parameters) == ["query", "key"]


def test_an_adapter_has_at_most_thirty_lines():
    for name in FRAMEWORKS:
        assert len((Path(adapters.__file__).parent / f"{name}.py").read_text().splitlines()) <= 30, name


@pytest.mark.parametrize("key", ["other", "x2", 1])
def test_an_argument_of_a_function_in_c_has_its_documented_name_its_number_and_its_place(key):
    calls = st.just(((np.array([1.5, 2.5]), np.array([3.5, -2.5])), {}))
    for framework, f in {"torch": "torch.fmod", "engine": "lambda *xs: ops.fmod(*xs)"}.items():
        if not find_spec(framework):
            tally.not_run(f"{framework} is not installed")
            continue
        adapted = Adapted(eval(f, {"torch": __import__(framework), "ops": ops}), framework)
        known = understand(adapted, cases=calls).names
        assert known == (["input", "other"] if framework == "torch" else ["x1", "x2"])
        if key in (*known, "x2", 1):
            argument = understand(adapted, cases=calls, domain={key: (0.5, 4.0)}).arguments[1]
            assert 0.49 < argument.region.low <= 0.5 and 4.0 <= argument.region.high < 4.01
    with pytest.raises(ValueError, match="no argument 'x3'; the arguments are"):
        understand(adapted, cases=calls, domain={"x3": (0.5, 4.0)})
