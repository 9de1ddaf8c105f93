"""Channels are found from the notations alone, and a net without them is the net with zeros in their place."""

import numpy as np
import pytest

from engine import nets, ops
from engine.masks import masked
from engine.models import cnn, mlp
from engine.prune import (
    ChannelError,
    ScoreError,
    batch_norm_scale,
    channel_masks,
    channels,
    kept_by,
    magnitude,
    norm_scales,
    select_channels,
    shrink,
)
from engine.prune.channels import Couple

ACTIVATIONS = [nets.relu, nets.tanh, nets.sigmoid, nets.softplus]
SEEDS = range(24)


def block(rng, depth, channels_in):
    """A random piece of network that leaves the height and width of its picture, and how many channels it gives."""
    kind = rng.choice(["conv", "norm", "act", "residual", "concat", "twice"])
    if depth == 0 or kind in ("conv", "norm", "act"):
        if kind == "norm":
            return nets.batch_norm(), channels_in
        if kind == "act":
            return ACTIVATIONS[rng.integers(len(ACTIVATIONS))], channels_in
        out = int(rng.integers(2, 7))
        return nets.conv(out, 3, padding=1), out
    if kind == "residual":
        inner, out = chain(rng, depth - 1, channels_in, 2)
        shortcut = None if out == channels_in and rng.random() < 0.7 else nets.conv(out, 1)
        return nets.residual(*inner, shortcut=shortcut), out
    if kind == "concat":
        left, m = chain(rng, depth - 1, channels_in, 2)
        right, n = chain(rng, depth - 1, channels_in, 1)
        return nets.concat(nets.serial(*left), nets.serial(*right)), m + n
    shared = nets.conv(channels_in, 3, padding=1)
    return nets.serial(shared, nets.tanh, shared), channels_in


def chain(rng, depth, channels_in, length):
    layers = []
    for _ in range(length):
        inner, channels_in = block(rng, depth, channels_in)
        layers.append(inner)
    return layers, channels_in


def random_net(seed):
    """A net with all that joins channels, its arrays in float64 as one dict, and a batch."""
    rng = np.random.default_rng(seed)
    layers, _ = chain(rng, 2, 4, 3)
    ends = [nets.max_pool(2), nets.flatten] if rng.random() < 0.5 else [nets.global_avg_pool]
    net = nets.serial(nets.conv(4, 3, padding=1), *layers, *ends, nets.dense(7), nets.tanh, nets.dense(3))
    params, state = net.init(seed, (2, 6, 6), np.float64)
    arrays = {name: x + 0.3 * rng.random(x.shape) for name, x in {**params, **state}.items()}
    return net, arrays, list(state), rng.normal(size=(2, 2, 6, 6))


def in_use(net):
    return lambda arrays, x: net(arrays, x, arrays)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_net_without_channels_is_the_net_with_zeros(seed):
    net, arrays, state, x = random_net(seed)
    f, rng = in_use(net), np.random.default_rng(seed)
    groups = channels(f, arrays, x)
    kept = {group.name: rng.random(len(group)) < 0.5 for group in groups}
    for which in kept.values():
        which[rng.integers(len(which))] = True
    params = {name: a for name, a in arrays.items() if name not in state}
    masks = channel_masks(groups, kept, params)
    with_zeros = f({**arrays, **masked(params, masks)}, x)
    small = shrink(arrays, groups, kept)
    np.testing.assert_allclose(f(small, x), with_zeros, rtol=1e-9, atol=1e-9 * np.abs(with_zeros).max())
    assert sum(a.size for a in small.values()) < sum(a.size for a in arrays.values())
    again = kept_by(groups, masks)
    assert all(np.array_equal(again[name], kept[name]) for name in kept)
    regrouped = {group.name: len(group) for group in channels(f, small, x)}
    assert all(regrouped.get(name, 1) == which.sum() for name, which in kept.items())  # of one channel nothing can go


def test_the_law_catches_channels_that_are_not_joined(monkeypatch):
    """Without the unions a residual's two sides lose different channels: the small net cannot even run."""
    monkeypatch.setattr(Couple, "join", lambda self, a, b: None)
    failures = 0
    for seed in SEEDS:
        try:
            test_a_net_without_channels_is_the_net_with_zeros(seed)
        except (AssertionError, ValueError, ChannelError):
            failures += 1
    assert failures == len(SEEDS)


def test_the_law_catches_channels_in_a_wrong_order(monkeypatch):
    """As many columns of the layer behind `flatten`, but of other pixels: the shapes fit, the numbers do not."""
    moved = Couple._moved
    monkeypatch.setattr(Couple, "_moved", lambda *given: [tuple(p[::-1] for p in places) for places in moved(*given)])
    net = nets.serial(nets.conv(4, 3, padding=1), nets.tanh, nets.flatten, nets.dense(3))
    arrays, _ = net.init(0, (1, 4, 4), np.float64)
    x = np.random.default_rng(0).normal(size=(2, 1, 4, 4))
    groups = channels(net, arrays, x)
    kept = {"conv1/w": np.array([True, True, False, False])}
    gap = net(shrink(arrays, groups, kept), x) - net(masked(arrays, channel_masks(groups, kept, arrays)), x)
    assert np.abs(gap).max() > 1e-3


def test_the_channels_of_lenet():
    params = cnn.init_classic(0)
    groups = channels(cnn.predict_classic, params, np.zeros((1, 1, 28, 28), np.float32))
    assert [str(group) for group in groups] == [
        "6 channels of conv1/w[i], conv1/b[i], conv2/w[:, i]",
        "16 channels of conv2/w[i], conv2/b[i], dense1/w[i]",
        "120 channels of dense1/w[:, i], dense1/b[i], dense2/w[i]",
        "84 channels of dense2/w[:, i], dense2/b[i], dense3/w[i]",
    ]
    assert groups[1].members["dense1/w", 0].shape == (16, 25)  # a channel of 5 x 5 pixels


def beside_a_value(p, h):
    """cos(0) is 1: what stands beside the weight is not 0 where a channel is gone."""
    return ops.matmul(h, p["b"]), ops.matmul(ops.cos(h), np.concatenate([p["b"], ops.cos(h).T], axis=1))


@pytest.mark.parametrize(
    "f, fixed",
    [
        (lambda p, x: ops.matmul(ops.softmax(ops.matmul(x, p["a"])), p["b"]), "the axis of a softmax"),
        (lambda p, x: ops.matmul(ops.layer_norm(ops.matmul(x, p["a"]), p["s"], p["s"]), p["b"]), "the axis of a layer norm"),
        (lambda p, x: ops.matmul(ops.cumsum(ops.matmul(x, p["a"]), axis=1), p["b"]), "sums along the axis"),
        (lambda p, x: ops.matmul(ops.mean(ops.matmul(x, p["a"]), axis=1, keepdims=True) + ops.matmul(x, p["a"]), p["b"]), "a mean over it"),
        (lambda p, x: ops.matmul(x, p["a"]), "the output"),
        (lambda p, x: ops.matmul(p["a"], p["b"]) * ops.sum(ops.matmul(x, p["a"])), "a sum over all"),
        (lambda p, x: ops.vecdot(ops.tanh(ops.matmul(x, p["a"]) + p["s"]), ops.cos(ops.matmul(x, p["a"]))), "a product of two values"),
        (
            lambda p, x: ops.matmul(ops.matmul(ops.matmul(x, p["a"]), ops.inv(ops.matmul(p["b"], p["c"]))), p["b"]),
            "both axes of an inverse",
        ),
        (lambda p, x: ops.cross_entropy(ops.matmul(x, p["a"]) + p["s"], ops.matmul(x, p["a"])), "the axis of a cross-entropy"),
        (lambda p, x: beside_a_value(p, ops.matmul(x, p["a"]) + p["s"]), "a weight with a value beside it"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_must_stay_stays(f, fixed):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=(5, 3)), "s": np.ones(5), "c": rng.normal(size=(3, 5))}
    assert channels(f, params, rng.normal(size=(2, 4))) == []


def test_a_tied_weight_has_one_set_of_channels():
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(6, 4)), "b": rng.normal(size=4)}

    def autoencoder(p, x):
        return ops.matmul(ops.sigmoid(ops.matmul(x, p["w"]) + p["b"]), p["w"].T)

    (group,) = channels(autoencoder, params, rng.normal(size=(2, 6)))
    assert list(group.members) == [("w", 1), ("b", 0)]


def test_convolutions_in_groups_keep_their_channels():
    net = nets.serial(nets.conv(4, 3, padding=1), nets.relu, nets.conv(4, 3, groups=2), nets.relu, nets.global_avg_pool, nets.dense(2))
    params, _ = net.init(0, (1, 6, 6))
    assert channels(net, params, np.zeros((1, 1, 6, 6), np.float32)) == []


def test_the_most_important_channels_are_kept_and_never_none():
    params = mlp.init(0, (8, 6, 5, 3))
    groups = channels(mlp.predict, params, np.zeros((1, 8), np.float32))
    scores = magnitude(params, names=list(params))
    kept = select_channels(groups, scores, 0.5)
    assert {name: int(which.sum()) for name, which in kept.items()} == {"w1": 3, "w2": 2}
    worth = np.abs(params["w1"]).sum(0) + np.abs(params["b1"]) + np.abs(params["w2"]).sum(1)
    assert set(np.flatnonzero(kept["w1"])) == set(np.argsort(-worth)[:3])
    assert {name: int(w.sum()) for name, w in select_channels(groups, scores, {"w1": 1.0, "w2": 0.2}).items()} == {"w1": 6, "w2": 1}
    small = {**scores, "w2": 1e-9 * scores["w2"], "w3": 1e-9 * scores["w3"], "b2": 0 * scores["b2"]}
    everywhere = select_channels(groups, small, 0.3, scope="global")
    assert all(which.any() for which in everywhere.values())
    best = {name: np.argmax(w) for name, w in (("w1", small["w1"].sum(0) + small["b1"]), ("w2", small["w2"].sum(0)))}
    assert everywhere["w1"].sum() == 3 and everywhere["w1"][best["w1"]] and list(np.flatnonzero(everywhere["w2"])) == [best["w2"]]


def test_over_all_layers_channels_compare_by_their_mean():
    """A channel of the first layer has 54 parts of 0.1, one of the second 7, of which two are 1."""
    params = mlp.init(0, (50, 4, 3, 2))
    groups = channels(mlp.predict, params, np.zeros((1, 50), np.float32))
    scores = {name: np.full(p.shape, 1.0 if name == "w3" else 0.1) for name, p in params.items()}
    kept = select_channels(groups, scores, 3 / 7, scope="global")
    assert {name: int(which.sum()) for name, which in kept.items()} == {"w1": 1, "w2": 3}


def test_scales_of_norms_choose_channels():
    net = nets.serial(nets.conv(4, 3), nets.batch_norm(), nets.relu, nets.conv(3, 3), nets.batch_norm(), nets.flatten, nets.dense(2))
    params, state = net.init(0, (1, 8, 8))
    params["batch_norm1/w"] = np.array([0.1, -3, 0.2, 2], np.float32)
    names = norm_scales(params, state)
    assert names == ("batch_norm1/w", "batch_norm2/w")
    groups = channels(in_use(net), {**params, **state}, np.zeros((1, 1, 8, 8), np.float32))
    kept = select_channels(groups, batch_norm_scale(params, names=names), 0.5)
    assert np.array_equal(kept["conv1/w"], [False, True, False, True])
    with pytest.raises(ChannelError, match="no score for 2 channels of dense1"):
        bare = nets.serial(nets.conv(4, 3), nets.batch_norm(), nets.flatten, nets.dense(2), nets.relu, nets.dense(2))
        params, state = bare.init(0, (1, 8, 8))
        groups = channels(in_use(bare), {**params, **state}, np.zeros((1, 1, 8, 8), np.float32))
        select_channels(groups, batch_norm_scale(params, names=norm_scales(params, state)), 0.5)


def test_a_channel_that_is_pruned_in_one_array_only_is_told():
    net = nets.serial(nets.conv(4, 3, padding=1), nets.residual(nets.conv(4, 3, padding=1)), nets.flatten, nets.dense(2))
    params, _ = net.init(0, (1, 4, 4))
    groups = channels(net, params, np.zeros((1, 1, 4, 4), np.float32))
    masks = channel_masks(groups, {"conv1/w": np.array([True, False, True, True])}, params)
    masks["residual1/conv1/w"] = np.ones_like(masks["residual1/conv1/w"])
    with pytest.raises(ChannelError, match=r"channel 1 of conv1/w is pruned in conv1/w \(axis 0\), .*but not in residual1/conv1/w"):
        kept_by(groups, masks)


def test_arrays_of_another_net_are_told():
    groups = channels(mlp.predict, mlp.init(0, (8, 6, 3)), np.zeros((1, 8), np.float32))
    kept = {"w1": np.array([True] * 5 + [False])}
    with pytest.raises(ChannelError, match=r"w1 has 4 places along axis 1"):
        shrink(mlp.init(0, (8, 4, 3)), groups, kept)
    with pytest.raises(ChannelError, match=r"which of the 6 channels of 'w1' are kept; there are w2"):
        shrink(mlp.init(0, (8, 6, 3)), groups, {"w2": kept["w1"]})
    with pytest.raises(ChannelError, match="which of the 6 channels"):
        channel_masks(groups, {"w1": kept["w1"][:4]}, mlp.init(0, (8, 6, 3)))
    with pytest.raises(ScoreError, match="nan"):
        select_channels(groups, {"w1": np.full((8, 6), np.nan)}, 0.5)


# Programs of plain ops, without layers: what users write.


def linear(rng, weight, c):
    """A product over the channels, the weight the one way round or the other, or a kernel."""
    out = int(rng.integers(2, 7))
    kind = rng.integers(4)
    if kind == 0:
        w = weight(out, c, 3, 3)
        return lambda p, h: ops.conv2d(h, p[w], padding=1), out
    if kind == 1:
        w = weight(c, out)
        return lambda p, h: np.moveaxis(np.moveaxis(h, 1, -1) @ p[w], -1, 1), out
    if kind == 2:
        w = weight(out, c)
        return lambda p, h: np.swapaxes(np.swapaxes(h, 1, 3) @ p[w].T, 1, 3), out
    w = weight(c, out)
    return lambda p, h: (p[w].T @ h.reshape(h.shape[0], h.shape[1], -1)).reshape(h.shape[0], -1, *h.shape[2:]), out


def scaled(rng, weight, c):
    s, b = weight(1, c, 1, 1), weight(c)
    return lambda p, h: ops.sigmoid(ops.bias_activation(h * p[s], p[b])), c


def backwards(rng, weight, c):
    return lambda p, h: np.cos(h[:, ::-1]), c


def first_ones(rng, weight, c):
    return (lambda p, h: h[:, : c - 1]), max(c - 1, 1)


def in_halves(rng, weight, c):
    """Other weights for each half: which channel is in which is told by a number in the code."""
    u, v = weight(c // 2, 3), weight(c - c // 2, 3)

    def halves(p, h):
        y = h[:, : c // 2].mean(axis=(2, 3)) @ p[u] + h[:, c // 2 :].mean(axis=(2, 3)) @ p[v]
        return y[:, :, None, None] * np.ones((1, 1, 4, 4))

    return halves, 3


def split(rng, weight, c):
    if c % 2:
        return scaled(rng, weight, c)
    return lambda p, h: np.multiply(*np.split(h, 2, axis=1)), c // 2


def one_of_all(rng, weight, c):
    """A hidden layer of one channel, which multiplies all: an axis of one place."""
    w, b = weight(1, c, 1, 1), weight(1)
    return lambda p, h: h * ops.sigmoid(ops.bias_activation(ops.conv2d(h, p[w]), p[b])), c


def gated(rng, weight, c):
    u, v = weight(c, 3), weight(3, c)
    return lambda p, h: h * ops.sigmoid(np.tanh(h.mean(axis=(2, 3)) @ p[u]) @ p[v])[:, :, None, None], c


def there_and_back(rng, weight, c):
    w = weight(c, 5)
    return lambda p, h: np.moveaxis(np.tanh(np.moveaxis(h, 1, -1) @ p[w]) @ p[w].T, -1, 1), c


def depthwise(rng, weight, c):
    w = weight(4, 4, c)
    return lambda p, h: h * np.transpose(p[w], (2, 0, 1)), c


def product_of_branches(rng, weight, c):
    f, out = linear(rng, weight, c)
    w = weight(out, c, 1, 1)
    return lambda p, h: f(p, h) * ops.conv2d(h, p[w]), out


def side_by_side(rng, weight, c):
    (f, m), (g, n) = linear(rng, weight, c), backwards(rng, weight, c)
    return lambda p, h: np.concatenate([f(p, h), g(p, h)], axis=1), m + n


def stacked(rng, weight, c):
    w = weight(c, c, 1, 1)
    return lambda p, h: np.stack([h, ops.conv2d(h, p[w])], axis=1).sum(axis=1), c


def centred(rng, weight, c):
    return lambda p, h: h - h.mean(axis=1, keepdims=True), c


PIECES = [
    scaled, backwards, first_ones, in_halves, split, one_of_all, gated, there_and_back, depthwise, product_of_branches, side_by_side,
    stacked, centred,
]  # fmt: skip


def random_program(seed, pieces):
    """A function of params and pictures of 4 x 4: pieces with products between them. The weights in any order, and a batch."""
    rng = np.random.default_rng(seed)
    params, steps, c = {}, [], 4

    def weight(*shape):
        params[f"w{len(params)}"] = 0.3 + rng.normal(size=shape)
        return f"w{len(params) - 1}"

    for piece in pieces:
        for made in (linear, piece):
            step, c = made(rng, weight, c)
            steps.append(step)
    last = weight(c * 16, 3) if rng.random() < 0.5 else weight(c, 3)

    def f(p, h):
        for step in steps:
            h = step(p, h)
        return (h.reshape(h.shape[0], -1) if len(params[last]) == 16 * c else h.mean(axis=(2, 3))) @ p[last]

    return f, {name: params[name] for name in rng.permutation(list(params))}, rng.normal(size=(2, 4, 4, 4))


def gap_without_channels(f, params, x, seed):
    """How far the small model is from the one with zeros, and what part of its numbers it has."""
    rng = np.random.default_rng(seed)
    groups = channels(f, params, x)
    kept = {group.name: rng.random(len(group)) < 0.6 for group in groups}
    for which in kept.values():
        which[rng.integers(len(which))] = True
    want = f(masked(params, channel_masks(groups, kept, params)), x)
    small = shrink(params, groups, kept)
    return np.abs(f(small, x) - want).max() / max(1, np.abs(want).max()), sum(map(np.size, small.values())) / sum(
        map(np.size, params.values())
    )


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_a_program_without_channels_is_the_program_with_zeros(piece):
    shares = []
    for seed in range(8):
        f, params, x = random_program(seed, [piece, *np.random.default_rng(seed).choice(PIECES, size=1)])
        gap, share = gap_without_channels(f, params, x, seed)
        assert gap < 1e-9, seed
        shares.append(share)
    assert min(shares) < 1  # something is found beside it


def test_what_is_taken_by_its_place_stays():
    params = {"a": np.ones((4, 6)), "b": np.ones((3, 2)), "c": np.ones((6, 2))}
    x = np.ones((2, 4))
    taken = {
        "a slice": lambda h: h[:, :3],
        "every second": lambda h: h[:, ::2],
        "from the dots": lambda h: h[..., 3:],
        "a list": lambda h: h[:, [5, 3, 1]],
        "booleans": lambda h: h[:, np.arange(6) < 3],
        "a part": lambda h: np.split(h, 2, axis=1)[1],
    }
    for how, part in taken.items():
        assert channels(lambda p, x, part=part: part(x @ p["a"]) @ p["b"], params, x) == [], how
    whole = {"all": lambda h: h[:, :], "dots": lambda h: h[...], "backwards": lambda h: h[:, ::-1], "a new axis": lambda h: h[None, ...][0]}
    for how, part in whole.items():
        (group,) = channels(lambda p, x, part=part: part(x @ p["a"]) @ p["c"], params, x)
        assert str(group) == "6 channels of a[:, i], c[i]", how


def test_two_values_of_the_same_channels_may_stand_one_below_the_other():
    params = {"a": np.ones((4, 6)), "b": np.ones(6), "c": np.ones((6, 2))}

    def f(p, x):
        h = x @ p["a"]
        return np.concatenate([h, p["b"] + h], axis=0) @ p["c"]

    (group,) = channels(f, params, np.ones((2, 4)))
    assert str(group) == "6 channels of a[:, i], b[i], c[i]"


def test_groups_that_stand_first_in_one_array_have_names_of_their_own():
    """The middle layer's weight comes first in the dict: the channels on both of its sides stand first there."""
    first = mlp.init(0, (8, 6, 5, 3))
    params = {name: first[name] for name in ("w2", "b2", "w1", "b1", "w3", "b3")}
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    groups = channels(mlp.predict, params, x)
    assert [(group.name, len(group)) for group in groups] == [("w2", 6), ("w2 (2)", 5)]
    kept = select_channels(groups, magnitude(params), 0.5)
    assert {name: int(which.sum()) for name, which in kept.items()} == {"w2": 3, "w2 (2)": 2}
    small = shrink(params, groups, kept)
    assert small["w1"].shape == (8, 3) and small["w2"].shape == (3, 2) and small["w3"].shape == (2, 3)
    want = mlp.predict(masked(params, channel_masks(groups, kept, params)), x)
    np.testing.assert_allclose(mlp.predict(small, x), want, rtol=1e-5, atol=1e-6)


def test_an_axis_of_one_place_stays():
    """Without it there would be nothing left to go along with the other axes."""
    params = {"a": np.ones((4, 1)), "b": np.ones(1), "c": np.ones(5), "d": np.ones((5, 2))}
    (group,) = channels(lambda p, x: (ops.bias_activation(x @ p["a"], p["b"]) + p["c"]) @ p["d"], params, np.ones((2, 4)))
    assert str(group) == "5 channels of c[i], d[i]"
