"""A graph is the function it was traced from: the same bits, for any batch; what cannot be one is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import calls

import engine
import kernels
from engine import nets, ops
from engine.graph import GraphError, Size, trace
from engine.models import MODELS, mlp
from engine.traced import OPS


def rows(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def assert_same(got, wanted):
    """The same bits, in the same nesting."""
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        got, wanted = list(got.values()), list(wanted.values())
    if isinstance(wanted, (list, tuple)):
        assert type(got) is type(wanted) and len(got) == len(wanted)
        for a, b in zip(got, wanted, strict=True):
            assert_same(a, b)
        return
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    np.testing.assert_array_equal(got, wanted)


def assert_graph(f, params, x, **options):
    """The graph of f for x, which gives what f gives for batches of other sizes, too."""
    graph = trace(f, params, x, **options)
    for n in (1, 2, 7) if not options else (len(x),):
        given = rows(n, *x.shape[1:], seed=n).astype(x.dtype) if x.dtype.kind == "f" else np.resize(x, (n, *x.shape[1:]))
        assert_same(graph(params, given), f(params, given))
    return graph


# The same function.


@pytest.mark.parametrize("backend", [None, "cpu"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_as_a_graph_gives_the_same_bits(name, backend):
    shape = (7,) if MODELS[name].task == "regression" else (1, 16, 18)
    params = MODELS[name].init(0, shape, 10, np.float32)
    with kernels.use(backend):
        assert_graph(MODELS[name].predict, params, rows(4, *shape))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_net_with_everything_gives_the_same_bits(dtype):
    net = nets.serial(
        nets.conv(4, 3, padding="same"), nets.batch_norm(), nets.relu, nets.dropout(0.5),
        nets.residual(nets.conv(4, 3, padding=1, groups=2), nets.gelu, nets.layer_norm()),
        nets.concat(nets.max_pool(3, stride=1, padding=1), nets.avg_pool(3, stride=1, padding=1), nets.conv(3, 1, activation="tanh")),
        nets.global_avg_pool, nets.dense(4), nets.reshape(2, 2), nets.softmax,
    )  # fmt: skip
    params, state = net.init(0, (2, 6, 5), dtype)
    graph = assert_graph(lambda p, x: net(p, x, p), {**params, **state}, rows(3, 2, 6, 5, dtype=dtype))
    assert {v.name for v in graph.parameters} == {*params, *state}


@pytest.mark.parametrize("name", OPS)
@given(data=st.data())
def test_each_op_alone_is_a_graph(name, data):
    """Without a batch: any shape, any parameters, several outputs."""
    args, options = data.draw(calls(OPS[name]))
    args = [np.asarray(a) for a in args]
    with np.errstate(all="ignore"):
        graph = trace(lambda _, *xs: OPS[name](*xs, **options), {}, *args, batch=False)
        assert [call.op for call in graph.calls] == [OPS[name]]
        assert_same(graph({}, *args), OPS[name](*args, **options))


def plain_numpy(p, x):
    inside = (x > 0) & (x < p["w"]) | ~np.isfinite(x)
    y = np.where(inside, x * p["w"], np.zeros_like(x)) + np.floor(x) - 2 * (x >= 1).astype(x.dtype)
    return {"flat": y.reshape(-1), "parts": [y[:, ::-1].sum(axis=0) / len(x), (y.T + 1).T @ np.eye(3, dtype=x.dtype)], "w": p["w"]}


def test_arithmetic_choices_and_nestings():
    graph = assert_graph(plain_numpy, {"w": np.float32(0.7), "not used": np.ones(3)}, rows(4, 3))
    assert [v.name for v in graph.parameters] == ["w"]
    names = [call.op.name for call in graph.calls]
    assert {"greater", "bitwise_and", "isfinite", "where", "floor", "add", "multiply", "broadcast_to"} <= {*names}
    assert graph.outputs[0].shape == (Size(3),)


def test_what_follows_the_batch_is_a_size():
    def f(p, x):
        return ops.reshape(x[: len(x) - 1], shape=(2 * len(x) - 2, 3)), ops.broadcast_to(p["w"], shape=(len(x) + 1, 3))

    graph = assert_graph(f, {"w": rows(3)}, rows(4, 6))
    assert graph.outputs[0].shape == (Size(2, -2), 3) and graph.outputs[1].shape == (Size(1, 1), 3)


def test_the_number_two_is_not_the_batch_of_two():
    assert_graph(lambda p, x: x * 2 / len(x) + 3 * len(x), {}, rows(4, 6))


def test_ids_reach_an_embedding():
    net = nets.serial(nets.embedding(5, 3), nets.flatten, nets.dense(2))
    params, _ = net.init(0, (4,))
    assert_graph(net, params, np.array([[0, 1, 4, 4], [2, 3, 1, 0]]))


def test_several_inputs():
    graph = trace(lambda p, left, right: left @ p["m"] + right, {"m": rows(2, 3), "w": rows(1)}, rows(4, 2), rows(4, 3))
    assert [v.name for v in graph.inputs] == ["left", "right"]
    graph = trace(lambda p, w: w * p["w"], {"w": rows(1)}, rows(4, 2))
    assert graph.inputs[0].name == "w_"


def test_dead_calls_are_not_there():
    def f(p, x):
        ops.exp(x)
        y = ops.tanh(x)
        ops.sin(y)
        return y

    assert [call.op.name for call in assert_graph(f, {}, rows(2, 3)).calls] == ["tanh"]


def test_a_graph_is_differentiable():
    params, x = mlp.init(0, (5, 4, 3)), rows(6, 5)
    graph = trace(mlp.predict, params, x)
    wanted = engine.grad(lambda p: ops.sum(ops.square(mlp.predict(p, x))))(params)
    assert_same(engine.grad(lambda p: ops.sum(ops.square(graph(p, x))))(params), wanted)


def test_a_gradient_is_a_graph_too():
    """Whose rules look at the numbers by masks, which are recorded. That of a mean divides by the batch before the graph sees it."""
    params, t = mlp.init(0, (5, 4, 3)), rows(4, 3)

    def summed(p, x):
        return engine.grad(lambda p: ops.sum(ops.leaky_relu(mlp.predict(p, x)) * (mlp.predict(p, x) > 0).astype(x.dtype)))(p)

    def mean(p, x):
        return engine.value_and_grad(mlp.loss)(p, x, t)

    assert_graph(summed, params, rows(4, 5))
    with pytest.raises(GraphError, match="with 2 examples"):
        trace(lambda p, x: engine.grad(lambda p: ops.mean(mlp.predict(p, x)))(p), params, rows(4, 5))
    assert_graph(mean, params, rows(4, 5), batch=False)


def test_a_graph_tells_itself():
    text = str(trace(mlp.predict, mlp.init(0, (6, 4, 3)), rows(2, 1, 2, 3)))
    assert text.splitlines() == [
        "x   float32 (n, 1, 2, 3)", "w1  float32 (6, 4)", "b1  float32 (4,)", "w2  float32 (4, 3)", "b2  float32 (3,)",
        "v1 = reshape(x, shape=(n, 6))              float32 (n, 6)",
        "v2 = dense(v1, w1, b1, activation='relu')  float32 (n, 4)",
        "v3 = dense(v2, w2, b2)                     float32 (n, 3)",
        "return v3",
    ]  # fmt: skip
    assert "2n" in str(Size(2)) and str(Size(3, -1)) == "3n - 1"
    assert "divide(v1, n)" in str(trace(lambda p, x: x.sum(axis=0) / len(x), {}, rows(2, 3)))


# What is refused.


@pytest.mark.parametrize(
    "f, says",
    [
        (lambda p, x: x * 2 if x.sum() > 0 else x, "a choice .* looks at the numbers"),
        (lambda p, x: x if 1.0 in x else -x, "looks at the numbers"),
        (lambda p, x: x[x > 0], "looks at the numbers"),
        (lambda p, x: x * np.argmax(x), "np.argmax looks at the numbers"),
        (lambda p, x: x * float(x[0, 0]), r"float\(\).* looks at the numbers"),
        (lambda p, x: x * int((x > 0)[0, 0]), "looks at the numbers"),
        (lambda p, x: x * 2 if len(x) > 2 else x + 1, "size of the batch decides which ops"),
        (lambda p, x: sum(row for row in x), "4 with 2 examples; 6 with 3 examples"),
        (lambda p, x: x[:, 0] * x[:, len(x) > 2].sum(), "getitem, key"),
        (lambda p, x: np.arange(len(x))[:, None] * x, "multiply: an argument is an array of numbers for this batch"),
        (lambda p, x: ops.reshape(x @ x.T, shape=(len(x) ** 2,)), "no multiple"),
        (lambda p, x: x * (1 / len(x)), "multiply: 0.5 with 2 examples"),
        (lambda p, x: x * p["v"] if len(x) > 2 else x * p["w"], "decides what multiply is called with"),
    ],
)
def test_what_holds_for_these_examples_only_is_refused(f, says):
    with pytest.raises(GraphError, match=says):
        trace(f, {"w": np.ones(3), "v": np.ones(3)}, rows(4, 3))


def test_what_follows_the_batch_may_be_fixed():
    assert_graph(lambda p, x: np.arange(len(x))[:, None] * x, {}, rows(4, 3), batch=False)


def test_inputs_without_a_batch_are_refused():
    for xs in ([], [rows()], [rows(0, 3)], [rows(3, 2), rows(2, 2)]):
        with pytest.raises(GraphError, match="batch=False"):
            trace(lambda p, *xs: xs, {}, *xs)


def test_a_graph_says_what_it_was_given():
    graph = trace(mlp.predict, mlp.init(0, (6, 4, 3)), rows(2, 6))
    params = mlp.init(0, (6, 4, 3))
    with pytest.raises(GraphError, match="1 inputs, x; 2 were given"):
        graph(params, rows(2, 6), rows(2, 6))
    with pytest.raises(GraphError, match="no w2 among the parameters w1, b1, b2"):
        graph({name: p for name, p in params.items() if name != "w2"}, rows(2, 6))
    with pytest.raises(GraphError, match=r"x has shape \(2, 5\), .* \(n, 6\)"):
        graph(params, rows(2, 5))
    with pytest.raises(GraphError, match=r"w1 has shape"):
        graph({**params, "w1": rows(5, 4)}, rows(2, 6))


def test_a_traced_value_that_escapes_is_told():
    kept = []
    trace(lambda p, x: kept.append(x) or x, {}, rows(2, 3))
    with pytest.raises(engine.EscapedValue, match="Recorder"):
        ops.tanh(kept[0])
