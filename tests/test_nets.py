"""Nets of one's own: names, shapes, numbers, gradients, and messages that say where."""

from functools import partial

import numpy as np
import pytest

import engine.nets as nets
from engine import ops, value_and_grad
from engine.initialise import orthogonal
from engine.nets import (
    Layer,
    NetError,
    avg_pool,
    batch_norm,
    concat,
    conv,
    count,
    dense,
    dropout,
    embedding,
    flatten,
    function,
    global_avg_pool,
    identity,
    layer,
    layer_norm,
    max_pool,
    relu,
    reshape,
    residual,
    serial,
    tanh,
)
from engine.op import Op
from engine.optim import Adam
from engine.train import fit, objective

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 2, 9, 8))


def made(net, shape, seed=0):
    return net.init(seed, shape, np.float64)


def moved(arrays):
    """The arrays with all numbers away from where they start."""
    return {name: a + 0.3 * RNG.random(a.shape) for name, a in arrays.items()}


def check_gradient(net, params, x, state=None, **options):
    """Every array's gradient of a scalar of the output, along two directions, against differences."""
    y, _ = net.apply(params, x, state, **options)
    weights = RNG.normal(size=y.shape)

    def loss(p):
        return ops.sum(net.apply(p, x, state, **options)[0] * weights)

    value, gradient = value_and_grad(loss)(params)
    assert list(gradient) == list(params)
    for name, p in params.items():
        for _ in range(2):
            along = RNG.normal(size=p.shape)
            along = along / max(np.linalg.norm(along), 1e-300)
            ends = [float(loss({**params, name: p + h * along})) for h in (1e-5, -1e-5)]
            assert np.sum(gradient[name] * along) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7 * (1 + abs(value))), name


# A network of one's own in ten lines.


def test_a_network_of_ones_own():
    net = serial(
        conv(6, 5, padding=2), relu, max_pool(2),
        residual(conv(6, 3, padding="same"), tanh),
        flatten, dense(12), lambda x: x * np.exp(-x), dense(4),
    )  # fmt: skip
    params, state = net.init(0, (1, 8, 8))
    logits, state = net.apply(params, RNG.normal(size=(5, 1, 8, 8)).astype(np.float32), state, train=True, seed=3)
    assert logits.shape == (5, 4) and logits.dtype == np.float32 and state == {}
    assert list(params) == [
        "conv1/w", "conv1/b", "residual1/conv1/w", "residual1/conv1/b", "dense1/w", "dense1/b", "dense2/w", "dense2/b",
    ]  # fmt: skip


def test_it_learns():
    x = RNG.normal(size=(120, 1, 6, 6)).astype(np.float32)
    t = (x[:, 0, :3].mean(axis=(1, 2)) > x[:, 0, 3:].mean(axis=(1, 2))).astype(np.int64)
    net = serial(conv(8, 3, padding="same"), batch_norm(), relu, avg_pool(3), dropout(0.1), flatten, dense(2))
    params, state = net.init(1, (1, 6, 6))
    run = fit(
        objective(net, ops.cross_entropy), params, (x, t), state=state, optimizer=Adam(1e-2), epochs=25, batch_size=20, progress=False
    )
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2
    assert np.mean(net(run.params, x, run.state).argmax(axis=1) == t) >= 0.9
    assert run.state["batch_norm1/mean"].any()


def test_layers_of_ones_own():
    def scale(start):
        return layer("scale", lambda rng, shape, dtype: {"s": np.full(shape, start, dtype)}, lambda p, x: x * p["s"])

    def softplus_of(x):
        return np.log1p(np.exp(x))

    net = serial(scale(2.0), softplus_of, scale(3.0), ops.tanh, function(lambda x: x[:, ::2], kind="every_other"))
    params, _ = made(net, (4,))
    assert list(params) == ["scale1/s", "scale2/s"]
    x = X[0, 0, :, :4]
    assert np.allclose(net(params, x), np.tanh(3 * np.log1p(np.exp(2 * x)))[:, ::2])
    assert "softplus_of1" in net.table((4,)) and "every_other1" in net.table((4,))
    check_gradient(net, moved(params), x)


# Each layer: numbers against NumPy, gradients against differences.


def test_dense():
    net = dense(3)
    p = moved(made(net, (8,))[0])
    assert np.allclose(net(p, X), X @ p["w"] + p["b"])
    assert net.out((2, 9, 8)) == (2, 9, 3)
    assert list(dense(3, bias=False).init(0, (4,))[0]) == ["w"]
    check_gradient(net, p, X)


PADDED = [
    {}, {"padding": 2}, {"padding": (1, 0)}, {"padding": "valid"}, {"padding": "same"}, {"padding": "same", "stride": 2},
    {"padding": "same", "stride": (1, 3), "dilation": 2}, {"stride": 2, "padding": ((0, 1), (2, 0))},
    {"groups": 2}, {"groups": 2, "padding": "same", "bias": False},
]  # fmt: skip


@pytest.mark.parametrize("options", PADDED, ids=str)
@pytest.mark.parametrize("kernel", [3, (2, 3), (4, 1)])
def test_conv_promises_the_shape_that_it_gives(options, kernel):
    net = conv(4, kernel, **options)
    p = moved(made(net, (2, 9, 8))[0])
    y = net(p, X)
    assert y.shape[1:] == net.out((2, 9, 8))
    if options.get("padding") == "same":
        strides = np.broadcast_to(options.get("stride", 1), 2)
        assert y.shape[2:] == (-(-9 // strides[0]), -(-8 // strides[1]))
    check_gradient(net, p, X)


def test_same_padding_puts_the_odd_pixel_last():
    """With an even kernel: the window of the last row reaches over the edge, that of the first does not."""
    net = conv(1, 2, padding="same", bias=False)
    x = np.arange(1.0, 7.0).reshape(1, 1, 2, 3)
    assert net({"w": np.ones((1, 1, 2, 2))}, x)[0, 0].tolist() == [[12, 16, 9], [9, 11, 6]]


def test_conv_is_a_sum_over_windows():
    p = moved(made(conv(3, (2, 3)), (2, 9, 8))[0])
    windows = np.lib.stride_tricks.sliding_window_view(X, (2, 3), axis=(2, 3))
    assert np.allclose(conv(3, (2, 3))(p, X), np.einsum("ncpqij,ocij->nopq", windows, p["w"]) + p["b"][:, None, None])


def test_pooling():
    blocks = X[:, :, :8].reshape(3, 2, 4, 2, 4, 2)
    assert np.array_equal(max_pool(2)({}, X), blocks.max(axis=(3, 5)))
    assert np.allclose(avg_pool(2)({}, X), blocks.mean(axis=(3, 5)))
    assert np.allclose(global_avg_pool({}, X), X.mean(axis=(2, 3)))
    for net in (max_pool(3, stride=2, padding=1), avg_pool((2, 3), stride=(3, 1)), global_avg_pool):
        assert net({}, X).shape[1:] == net.out((2, 9, 8))
        wrapped = serial(conv(2, 1), net)
        check_gradient(wrapped, moved(made(wrapped, (2, 9, 8))[0]), X)


def test_shapes():
    assert flatten({}, X).shape == (3, 144) and flatten.out((2, 9, 8)) == (144,)
    assert reshape(8, 18)({}, X).shape == (3, 8, 18) == (3, *reshape(8, 18).out((2, 9, 8)))
    assert flatten({}, X[:0]).shape == (0, 144) and identity({}, X) is X
    with pytest.raises(ValueError, match="144 numbers"):
        reshape(5).init(0, (2, 9, 8))


def test_layer_norm():
    net = layer_norm(eps=0.0)
    p = moved(made(net, (2, 9, 8))[0])
    want = (X - X.mean(axis=-1, keepdims=True)) / X.std(axis=-1, keepdims=True) * p["w"] + p["b"]
    assert np.allclose(net(p, X), want)
    check_gradient(layer_norm(), p, X)


def test_embedding():
    net = serial(embedding(5, 3), flatten, dense(2))
    ids = np.array([[0, 4], [4, 4], [2, 1]])
    params, _ = made(net, (2,))
    assert np.allclose(net(params, ids), params["embedding1/table"][ids].reshape(3, 6) @ params["dense1/w"])
    assert net.out((2,)) == (2,)
    check_gradient(net, params, ids)
    with pytest.raises(NetError, match="embedding1: embedding: ids from 0 to 5"):
        net(params, np.array([[0, 5]]))


def test_activations():
    for name in ("relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "softplus", "tanh", "softmax", "log_softmax"):
        net = getattr(nets, name)
        assert isinstance(net, Layer) and isinstance(getattr(ops, name), Op)
        assert np.array_equal(net({}, X), getattr(ops, name)(X)) and net.kind == name and net.out((4, 5)) == (4, 5)


def test_everything_that_is_exported_is_a_layer_or_makes_one():
    for name in nets.__all__:
        assert isinstance(getattr(nets, name), Layer) or callable(getattr(nets, name))


# State.


def test_batch_norm_in_training_and_in_use():
    net = batch_norm(momentum=0.25, eps=0.0)
    params, state = made(net, (2, 9, 8))
    p = moved(params)
    y, after = net.apply(p, X, state, train=True)
    mean, var, n = X.mean(axis=(0, 2, 3)), X.var(axis=(0, 2, 3)), 3 * 72
    of = (slice(None), None, None)
    assert np.allclose(y, (X - mean[of]) / np.sqrt(var[of]) * p["w"][of] + p["b"][of])
    assert np.allclose(after["mean"], 0.25 * mean) and np.allclose(after["var"], 0.75 + 0.25 * var * n / (n - 1))
    assert np.all(state["mean"] == 0) and np.all(state["var"] == 1)
    y, same = net.apply(p, X, after)
    assert np.allclose(y, (X - after["mean"][of]) / np.sqrt(after["var"][of]) * p["w"][of] + p["b"][of])
    assert list(same) == list(state) and all(same[k] is after[k] for k in same)
    check_gradient(batch_norm(), p, X, after)
    check_gradient(batch_norm(), p, X, after, train=True)
    check_gradient(batch_norm(), moved(made(net, (5,))[0]), X.reshape(-1)[:100].reshape(20, 5), made(net, (5,))[1], train=True)


def test_the_state_is_no_part_of_the_derivative_and_keeps_its_dtype():
    net = serial(dense(3), batch_norm(), dense(2))
    params, state = net.init(0, (8,))

    def loss(p):
        y, new = net.apply(p, X[:, 0, 0], state, train=True)
        return ops.sum(y), new

    (_, new), _ = value_and_grad(loss, has_aux=True)(params)
    assert {name: (type(a), a.dtype) for name, a in new.items()} == dict.fromkeys(state, (np.ndarray, np.dtype(np.float32)))
    assert list(new) == ["batch_norm1/mean", "batch_norm1/var"]


def test_the_state_of_nested_layers_comes_back_whole():
    net = serial(batch_norm(name="a"), residual(serial(batch_norm(), dense(8), batch_norm()), name="b"), concat(batch_norm(), identity))
    params, state = made(net, (8,))
    x = X[:, 0, 0]
    assert list(state) == [
        f"{path}/{name}"
        for path in ("a", "b/serial1/batch_norm1", "b/serial1/batch_norm2", "concat1/batch_norm1")
        for name in ("mean", "var")
    ]
    _, after = net.apply(params, x, state, train=True)
    assert list(after) == list(state) and all(np.any(after[k] != state[k]) for k in state)
    check_gradient(net, moved(params), x, after, train=True)


# Randomness.


def test_dropout():
    net = serial(dropout(0.4), identity, dropout(0.4))
    x = np.ones((100, 50))
    y, _ = net.apply({}, x, train=True, seed=7)
    assert set(np.unique(np.round(y, 9))) == {0.0, round(1 / 0.36, 9)}
    assert np.mean(y != 0) == pytest.approx(0.36, abs=0.03)  # the two layers drop independently
    assert np.array_equal(y, net.apply({}, x, train=True, seed=7)[0])
    assert not np.array_equal(y, net.apply({}, x, train=True, seed=8)[0])
    assert np.array_equal(net({}, x), x) and dropout(0.0).apply({}, x, train=True)[0] is x
    with pytest.raises(NetError, match="dropout1: dropout in training is random: pass seed="):
        net.apply({}, x, train=True)
    with pytest.raises(ValueError, match="rate is a probability"):
        dropout(1.0)


def test_one_dropout_used_twice_drops_anew():
    d = dropout(0.5)
    y, _ = serial(d, d).apply({}, np.ones(2000), train=True, seed=0)
    assert np.mean(y != 0) == pytest.approx(0.25, abs=0.05)


def test_init_is_a_function_of_seed_and_path():
    small, large = serial(dense(4), dense(3, name="head")), serial(dense(4), relu, conv_free := dense(9), dense(3, name="head"))
    a, b = made(small, (4,))[0], made(large, (4,))[0]
    assert np.array_equal(a["dense1/w"], b["dense1/w"])
    assert a["head/w"].shape == (4, 3) and conv_free.kind == "dense"
    assert not np.array_equal(a["dense1/w"], made(small, (4,), seed=1)[0]["dense1/w"])
    twins = made(serial(dense(4), dense(4)), (4,))[0]
    assert not np.array_equal(twins["dense1/w"], twins["dense2/w"])


def test_the_initialiser_and_the_dtype_can_be_chosen():
    params, _ = dense(4, init=partial(orthogonal, gain=2.0)).init(0, (4,), np.float64)
    assert np.allclose(params["w"].T @ params["w"], 4 * np.eye(4))
    params, state = serial(conv(2, 3), batch_norm(), dense(2), layer_norm()).init(0, (1, 5, 5))
    assert {a.dtype for a in (*params.values(), *state.values())} == {np.dtype(np.float32)}


# Combinations.


def test_residual_and_concat():
    x = X[:, 0]
    net = residual(dense(8), tanh)
    p = moved(made(net, (9, 8))[0])
    assert np.allclose(net(p, x), np.tanh(x @ p["dense1/w"] + p["dense1/b"]) + x)
    check_gradient(net, p, x)
    net = residual(conv(4, 3, padding=1, stride=2), shortcut=conv(4, 1, stride=2, bias=False))
    p = moved(made(net, (2, 9, 8))[0])
    assert list(p) == ["conv1/w", "conv1/b", "shortcut/w"]
    check_gradient(net, p, X)
    net = concat(conv(3, 1), identity, max_pool(3, stride=1, padding=1))
    p = moved(made(net, (2, 9, 8))[0])
    assert net.out((2, 9, 8)) == (7, 9, 8) and np.array_equal(net(p, X)[:, 3:5], X)
    check_gradient(net, p, X)
    assert concat(identity, identity, axis=-1).out((2, 9, 8)) == (2, 9, 16)


def test_a_layer_given_twice_has_its_arrays_once():
    d = dense(8, name="d")
    net = serial(d, relu, d, relu, d)
    p, _ = made(net, (8,))
    assert list(p) == ["d/w", "d/b"]
    h = X[:, 0, 0]
    for _ in range(2):
        h = np.maximum(h @ p["d/w"] + p["d/b"], 0)
    assert np.allclose(net(p, X[:, 0, 0]), h @ p["d/w"] + p["d/b"])
    check_gradient(net, moved(p), X[:, 0, 0])
    inner = serial(dense(8), tanh)
    twice = serial(inner, inner)
    assert list(made(twice, (8,))[0]) == ["serial1/dense1/w", "serial1/dense1/b"]
    assert [line.split()[-1] for line in twice.table((8,)).splitlines() if "dense1" in line] == ["72", "tied"]


def test_a_tied_batch_norm_sees_both_batches():
    b = batch_norm(momentum=0.5)
    net = serial(b, lambda x: x + 4.0, b)
    params, state = made(net, (8,))
    _, after = net.apply(params, X[:, 0, 0], state, train=True)
    assert np.allclose(after["batch_norm1/mean"], 0.25 * X[:, 0, 0].mean(axis=0) + 0.5 * 4)


def test_tying_by_name_is_a_line_of_dicts():
    net = serial(dense(3, name="in", bias=False), tanh, dense(8, name="out", bias=False))
    params, _ = made(net, (8,))
    del params["out/w"]

    def loss(p):
        return ops.sum(ops.square(net({**p, "out/w": p["in/w"].T}, X[:, 0, 0])))

    _, g = value_and_grad(loss)(params)
    step = 1e-6 * g["in/w"] / np.linalg.norm(g["in/w"])
    rise = (loss({"in/w": params["in/w"] + step}) - loss({"in/w": params["in/w"] - step})) / 2e-6
    assert rise == pytest.approx(np.linalg.norm(g["in/w"]), rel=1e-6)


def test_an_empty_batch():
    net = serial(conv(3, 3), relu, batch_norm(), flatten, dense(2))
    params, state = made(net, (2, 9, 8))
    assert net(params, X[:0], state).shape == (0, 2)


# What is said.


@pytest.mark.parametrize(
    "net, shape, message",
    [
        (serial(dense(3), conv(4, 3)), (8,), "conv1: conv wants a picture (channels, rows, columns), it was given (3,)"),
        (serial(serial(conv(4, 3), conv(4, 9), name="block")), (2, 9, 8), "block/conv2: the kernel reaches over 9 rows, the input has 7"),
        (serial(conv(4, 3), max_pool(9)), (2, 9, 8), "max_pool1: the kernel reaches over 9 rows"),
        (serial(conv(4, 3, groups=3)), (2, 9, 8), "conv1: conv in 3 groups cannot take 2 channels to 4"),
        (serial(residual(dense(3))), (8,), "residual1: the layers take (8,) to (3,), the shortcut gives (8,)"),
        (serial(concat(dense(3), flatten)), (2, 8), "concat1: "),
        (serial(dense(3), name="net"), (), "dense1: dense wants inputs of at least one axis"),
        (serial(identity, lambda x: x.sum()), (8,), "function1: a batch of 1 came out with shape ()"),
        (serial(lambda x: x @ np.ones((3, 3))), (8,), "function1: "),
    ],
)
def test_shapes_that_clash_are_named_with_their_path(net, shape, message):
    with pytest.raises(NetError) as e:
        net.init(0, shape)
    assert str(e.value).startswith(message)


def test_arrays_that_clash_are_named_with_their_path():
    net = serial(serial(dense(3), name="block"), dense(2))
    params, _ = made(net, (8,))
    with pytest.raises(NetError, match=r"^block/dense1: dense: axis k is 7 in x but 8 in w"):
        net(params, np.ones((2, 7)))
    with pytest.raises(NetError, match=r"^block/dense1: 'w' is not among the arrays of this layer; there are: b"):
        net({"block/dense1/b": params["block/dense1/b"]}, np.ones((2, 8)))


def test_names():
    with pytest.raises(ValueError, match="two layers are called 'a'"):
        serial(dense(3, name="a"), dense(3, name="a"))
    with pytest.raises(ValueError, match="two layers are called 'dense1'"):
        serial(dense(3, name="dense1"), dense(3))
    with pytest.raises(ValueError, match="a name is not empty and has no slash"):
        dense(3, name="a/b")
    with pytest.raises(TypeError, match="conv makes a layer: write conv"):
        serial(conv)
    with pytest.raises(TypeError, match="not of 3"):
        serial(dense(3), 3)


def test_a_net_prints_as_a_table():
    net = serial(conv(6, 5, padding=2, name="c"), batch_norm(), relu, flatten, residual(dense(96), name="r"), dense(10))
    assert str(net) == "<serial, whose shapes are open: init it, or ask for table(shape)>"
    params, _ = net.init(0, (1, 4, 4))
    assert str(net) == (
        "layer        kind           output  parameters\n"
        "----------------------------------------------\n"
        "(input)                  1 x 4 x 4            \n"
        "c            conv        6 x 4 x 4         156\n"
        "batch_norm1  batch_norm  6 x 4 x 4          12\n"
        "relu1        relu        6 x 4 x 4           0\n"
        "flatten1     flatten            96           0\n"
        "r/dense1     dense              96       9,312\n"
        "dense1       dense              10         970\n"
        "----------------------------------------------\n"
        "total                                   10,450"
    )
    assert count(params) == 10_450


def test_a_net_that_observes_statistics_can_be_explained_and_counted():
    from engine.explain import explain
    from engine.observe import count

    net = serial(dense(4), batch_norm(), dense(2))
    params, state = net.init(0, (3,))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)

    def loss(p):
        y, moved = net.apply(p, x, state, train=True)
        assert {type(v) for v in moved.values()} == {np.ndarray}
        return ops.sum(y)

    assert "normalise" in str(explain(loss)(params))
    assert count(loss)(params).calls["normalise"] == 1
