"""Optimisers against their formulas, worked out number by number; schedules against a table."""

import math
from dataclasses import replace

import numpy as np
import pytest

import kernels
from engine import optim
from engine.optim import SGD, Adagrad, Adam, AdamW, Momentum, RMSprop, clip_by_global_norm, global_norm
from engine.schedule import Constant, Cosine, LinearWarmup, StepDecay, rate
from engine.seed import fold
from engine.shapes import ShapeError

ALL = [
    SGD(0.1),
    SGD(0.1, weight_decay=0.02),
    Momentum(0.1, momentum=0.8),
    Momentum(0.1, nesterov=True, weight_decay=0.02),
    Adagrad(0.1, weight_decay=0.02),
    RMSprop(0.1, alpha=0.9, weight_decay=0.02),
    Adam(0.1, beta1=0.8, beta2=0.95),
    Adam(0.1, weight_decay=0.02),
    AdamW(0.1, weight_decay=0.3),
]
RNG = np.random.default_rng(1)
SHAPES = {"conv/w": (2, 1, 3), "conv/b": (2,), "scale": (), "none": (0, 3)}


def one_number(o, p, gradients):
    """The values that the documentation of torch.optim prescribes for a single parameter, in Python floats."""
    trace, m, v = [], None, 0.0
    for t, g in enumerate(gradients, 1):
        lr = rate(o.lr, t - 1)
        decoupled = isinstance(o, AdamW)
        p_before = p
        if o.weight_decay and not decoupled:
            g = g + o.weight_decay * p
        if isinstance(o, (Adam, AdamW)):
            m = (1 - o.beta1) * g + (o.beta1 * m if m is not None else 0.0)
            v = o.beta2 * v + (1 - o.beta2) * g**2
            denominator = math.sqrt(v) / math.sqrt(1 - o.beta2**t) + o.eps
            p = p - (lr / (1 - o.beta1**t)) * (m / denominator) - (lr * o.weight_decay * p_before if decoupled else 0.0)
        elif isinstance(o, Momentum):
            m = g if m is None else o.momentum * m + g
            p = p - lr * (g + o.momentum * m if o.nesterov else m)
        elif isinstance(o, Adagrad):
            v = v + g**2
            p = p - lr / (math.sqrt(v) + o.eps) * g
        elif isinstance(o, RMSprop):
            v = o.alpha * v + (1 - o.alpha) * g**2
            p = p - lr / (math.sqrt(v) + o.eps) * g
        else:
            p = p - lr * g
        trace.append(p)
    return trace


def some_params(dtype=np.float64):
    return {name: np.asarray(RNG.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def train(o, params, gradients):
    trace, moments = [], o.init(params)
    for g in gradients:
        params, moments = o.step(params, g, moments)
        trace.append(params)
    return trace, moments


@pytest.mark.parametrize("lr", [0.1, Cosine(0.2, 4, end=0.01)], ids=["a number", "a schedule"])
@pytest.mark.parametrize("o", ALL, ids=repr)
def test_every_number_follows_the_formula(o, lr):
    o = type(o)(**{**vars(o), "lr": lr})
    params, gradients = some_params(), [some_params() for _ in range(6)]
    trace, moments = train(o, params, gradients)
    assert moments["t"] == 6
    for name, shape in SHAPES.items():
        for place in np.ndindex(shape):
            want = one_number(o, float(params[name][place]), [float(g[name][place]) for g in gradients])
            assert [float(p[name][place]) for p in trace] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("o", ALL, ids=repr)
def test_dtype_shape_and_layout_are_kept_and_nothing_is_written(o):
    params = some_params(np.float32)
    params["conv/w"] = np.asfortranarray(params["conv/w"])
    grads = [some_params(np.float32) for _ in range(2)]
    given = [params, *grads]
    before = [{name: x.copy() for name, x in arrays.items()} for arrays in given]
    for arrays in given:
        for x in arrays.values():
            x.flags.writeable = False
    trace, moments = train(o, params, grads)
    for arrays in (*trace, *(x for x in moments.values() if isinstance(x, dict))):
        for name, x in arrays.items():
            assert type(x) is np.ndarray and x.dtype == np.float32 and x.shape == SHAPES[name] and x.flags.c_contiguous
    assert all(np.array_equal(x[name], y[name]) for x, y in zip(given, before, strict=True) for name in SHAPES)


def test_a_float64_gradient_does_not_change_a_float32_parameter():
    (last,), _ = train(Adam(0.1), {"w": np.ones(2, np.float32)}, [{"w": np.ones(2)}])
    assert last["w"].dtype == np.float32


def test_decay_spares_the_names_that_are_excepted():
    params = {"a/w": np.ones(1), "a/b": np.ones(1), "norm1/w": np.ones(1)}
    grads = {name: np.zeros(1) for name in params}
    for o in (SGD(0.1, 0.5, ("*/b", "norm*")), AdamW(0.1, weight_decay=0.5, no_decay=("*/b", "norm*"))):
        after, _ = o.step(params, grads, o.init(params))
        assert {name: p.item() for name, p in after.items()} == {"a/w": 0.95, "a/b": 1.0, "norm1/w": 1.0}


def test_all_go_downhill():
    """A bowl whose axes are a hundred times apart."""
    slope = np.array([1.0, 0.01])
    for o in (SGD(0.5), Momentum(0.1), Momentum(0.1, nesterov=True), Adagrad(0.5), RMSprop(0.01), Adam(0.05), AdamW(0.05)):
        params, moments = {"x": np.array([1.0, 1.0])}, o.init({"x": np.zeros(2)})
        for _ in range(1000):
            params, moments = o.step(params, {"x": slope * params["x"]}, moments)
        assert 0.5 * np.sum(slope * params["x"] ** 2) < 1e-4, o


@pytest.mark.parametrize("o", [SGD(0.1), Adam()], ids=repr)
def test_names_and_shapes_that_do_not_fit(o):
    params = {"w": np.ones(2), "b": np.ones(1)}
    with pytest.raises(ValueError, match=r"the gradients do not fit the parameters: missing \['b'\], not a parameter \['c'\]"):
        o.step(params, {"w": np.ones(2), "c": np.ones(1)}, o.init(params))
    with pytest.raises(ShapeError, match="g has shape"):
        o.step(params, {"w": np.ones((2, 1)), "b": np.ones(1)}, o.init(params))
    with pytest.raises(TypeError, match="parameter 'n' is int64"):
        o.init({"n": np.arange(2)})


def test_moments_of_another_optimiser():
    params = {"w": np.ones(2)}
    with pytest.raises(ValueError, match="the moments 'v' do not fit"):
        Adam().step(params, params, Momentum(0.1).init(params))


# All parameters in one call.


def counting(monkeypatch, used):
    """Kernels in force that enter each call that they answer in `used`: the name of the op, and whether it was for all parameters."""

    def counted(rung):
        def run(*args, **params):
            answer = rung.run(*args, **params)
            used.append((rung.op, isinstance(args[0], dict)))
            return answer

        return replace(rung, run=run)

    table = {op: counted(kernels.serving(op, "cpu")) for op in kernels.ops("cpu") if op.endswith("_step")}
    monkeypatch.setattr(optim, "running_kernels", lambda: table)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("o", ALL, ids=repr)
def test_one_call_ends_in_the_same_bits_as_a_call_for_each_array(o, dtype, monkeypatch):
    o = replace(o, no_decay=("*/b",))
    params, gradients, used = some_params(dtype), [some_params(dtype) for _ in range(3)], []
    with kernels.use("cpu"):
        with monkeypatch.context() as m:
            m.setattr(optim, "running_kernels", dict)  # then each array's op finds its kernel by itself
            want, want_moments = train(o, params, gradients)
        counting(monkeypatch, used)
        got, got_moments = train(o, params, gradients)
    assert [all_at_once for _, all_at_once in used] == [True] * 3
    assert got_moments["t"] == want_moments["t"] == 3
    for a, b in zip([*want, *(want_moments[s] for s in o.slots)], [*got, *(got_moments[s] for s in o.slots)], strict=True):
        assert list(a) == list(b)
        assert all(a[name].tobytes() == b[name].tobytes() and a[name].dtype == b[name].dtype for name in a)


@pytest.mark.parametrize("backend", [None, "cpu"])
@pytest.mark.parametrize("o", ALL, ids=repr)
def test_moments_given_away_may_be_written_over_and_nothing_else(o, backend):
    params, grads = some_params(), some_params()
    with kernels.use(backend):
        _, moments = o.step(params, grads, o.init(params))
        want, want_moments = o.step(params, grads, moments)
        before = [{name: x.copy() for name, x in d.items()} for d in (params, grads)]
        got, got_moments = o.step(params, grads, moments, donate=True)
    for slot in o.slots:
        for name, x in got_moments[slot].items():
            assert x.tobytes() == want_moments[slot][name].tobytes()
            assert backend is None or x is moments[slot][name]
    for d, old in zip((params, grads, got), (*before, want), strict=True):
        assert all(x.tobytes() == old[name].tobytes() for name, x in d.items())
    assert not any(np.shares_memory(got[name], params[name]) for name in SHAPES)


@pytest.mark.parametrize("o", ALL, ids=repr)
def test_parameters_in_place_are_those_of_a_step_and_stand_where_the_old_ones_stood(o):
    params, grads = some_params(), some_params()
    with kernels.use("cpu"):
        _, moments = o.step(params, grads, o.init(params))
        want, want_moments = o.step(params, grads, moments)
        before = {slot: {name: x.copy() for name, x in moments[slot].items()} for slot in o.slots}
        got, got_moments = o.step(params, grads, moments, in_place=True)
    assert all(got[name] is params[name] and got[name].tobytes() == want[name].tobytes() for name in SHAPES)
    for slot in o.slots:
        assert all(moments[slot][name].tobytes() == x.tobytes() for name, x in before[slot].items())
        assert all(x.tobytes() == want_moments[slot][name].tobytes() for name, x in got_moments[slot].items())


def test_moments_that_cannot_be_written_over_are_not():
    params = some_params()
    moments = Adam().init(params)
    moments["m"]["scale"].flags.writeable = False
    with kernels.use("cpu"):
        _, after = Adam().step(params, params, moments, donate=True)
    assert not any(moments[slot][name].any() for slot in ("m", "v") for name in SHAPES)
    assert after["m"]["conv/w"].any()


@pytest.mark.parametrize(
    "params",
    [
        {"a": np.ones(2, np.float32), "b": np.ones(3)},
        {"a": np.ones(2, np.float16)},
        {"a": np.ones(2, ">f8")},
    ],
    ids=["two dtypes", "half precision", "another byte order"],
)
def test_what_one_call_does_not_take_goes_array_by_array(params, monkeypatch):
    used = []
    want, _ = Adam(0.1).step(params, params, Adam().init(params))
    counting(monkeypatch, used)
    with kernels.use("cpu"):
        got, _ = Adam(0.1).step(params, params, Adam().init(params))
    assert used == []
    for name, x in want.items():
        assert got[name].dtype == x.dtype
        np.testing.assert_allclose(got[name], x, rtol=1e-5)


def test_who_watches_the_ops_sees_each_step_under_kernels_too(monkeypatch):
    from engine.interpret import Interpreter, interpreting, running

    class Watch(Interpreter):
        def __init__(self):
            self.below, self.seen = running(), []

        def apply(self, op, args, params):
            self.seen.append(op.name)
            return self.below.apply(op, args, params)

    params = some_params()
    with kernels.use("cpu"), interpreting(Watch()) as watch:
        SGD(0.1).step(params, params, SGD(0.1).init(params))
    assert watch.seen == ["sgd_step"] * len(SHAPES)


def test_clipping():
    grads = {"a": np.float32([3, 0]), "b": np.float32([[4]])}
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert norm == 5 and np.allclose(clipped["a"], [0.6, 0]) and np.allclose(clipped["b"], 0.8) and clipped["a"].dtype == np.float32
    same, _ = clip_by_global_norm(grads, 5.0)
    assert all(same[name] is grads[name] for name in grads)
    assert clip_by_global_norm({"a": np.zeros(2)}, 1.0)[1] == 0
    assert clip_by_global_norm({}, 1.0) == ({}, 0.0)
    assert global_norm({"a": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30, rel=1e-6)  # its square is no float32


def test_clipping_what_is_not_finite():
    with pytest.raises(FloatingPointError, match="the gradient of a, c is not finite"):
        clip_by_global_norm({"a": np.array([np.nan]), "b": np.ones(1), "c": np.array([np.inf])}, 1.0)


def test_schedules():
    assert [rate(0.5, t) for t in (0, 9)] == [0.5, 0.5] == [Constant(0.5)(t) for t in (0, 9)]
    assert [LinearWarmup(1.0, 4)(t) for t in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [LinearWarmup(1.0, 2, then=StepDecay(1.0, 2, 0.5))(t) for t in range(7)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    assert [StepDecay(8.0, 3, 0.5)(t) for t in (0, 2, 3, 5, 6)] == [8, 8, 4, 4, 2]
    assert [Cosine(1.0, 4, end=0.2)(t) for t in range(6)] == pytest.approx(
        [1.0, 0.6 + 0.4 / math.sqrt(2), 0.6, 0.6 - 0.4 / math.sqrt(2), 0.2, 0.2]
    )
    assert type(rate(lambda t: np.float64(0.1), 3)) is float


def test_schedules_print_as_they_are_written():
    assert repr(Adam(lr=Cosine(0.001, 100))).startswith("Adam(lr=Cosine(lr=0.001, steps=100, end=0.0), beta1=0.9")
    assert Cosine(0.1, 5) == Cosine(0.1, 5) != Cosine(0.1, 6)


@pytest.mark.parametrize("make", [lambda: Cosine(0.1, 0), lambda: LinearWarmup(0.1, 0), lambda: StepDecay(0.1, 0)])
def test_schedules_of_no_steps(make):
    with pytest.raises(ValueError, match="a number of steps >= 1"):
        make()


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_is_none(bad):
    params = {"w": np.ones(1)}
    with pytest.raises(ValueError, match="the learning rate at step 0 is"):
        SGD(lambda step: bad).step(params, params, SGD(0.1).init(params))


def test_seeds_from_seeds():
    assert fold(3, "dropout1") == 14353301965022143830  # for ever: a checkpoint relies on it
    uses = [fold(s, w) for s in range(20) for w in ("a", "b", 1, 2)] + [fold(1, "a", "b"), fold(fold(1, "a"), "b"), fold(1)]
    assert len(set(uses)) == len(uses) and all(0 <= u < 2**64 for u in uses)
    assert fold(np.int64(5), "a") == fold(5, "a")
