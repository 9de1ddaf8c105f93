"""The networks of the benchmark are the same in every framework: weights after some steps, and logits. Nothing here is timed."""

import importlib

import numpy as np
import pytest
import tally

import kernels
from benchmarks import peers
from benchmarks.networks import gnomon
from benchmarks.networks.case import APART, BATCH, EVERY, PICTURES, STEPS, Accuracy, Run, Step
from benchmarks.networks.jax import turned
from benchmarks.networks.layers import LAYERS, Layer, init, products, spread
from benchmarks.networks.quantised import Quantised
from engine import ops

NETS = list(LAYERS)
TRAINED = [Step(net, PICTURES) for net in NETS]
ASKED = [Step(net, PICTURES, training=False) for net in NETS]


def in_doubles(case):
    (weights, x, t), _ = case.call()
    return [{name: w.astype(np.float64) for name, w in weights.items()}, x.astype(np.float64), t]


def error(case, net):
    args = in_doubles(case)
    return case.error(args, {}, case.prepared(net(case.net, args[0]), *args[1:])().result())


class Defined(gnomon.Net):
    """On the definitions."""

    def __init__(self, name, params):
        super().__init__(name, params, kernels=False)


@pytest.mark.parametrize("case", TRAINED + ASKED, ids=str)
def test_ours_is_its_definition_in_float64(case):
    assert error(case, Defined) <= 1e-9
    if "cpu" in kernels.backends():
        with kernels.use("cpu"):
            assert error(case, gnomon.Net) <= 1e-9
        tally.ran("cpu", "a network is its definition")


@pytest.mark.parametrize("case", [Quantised(net, PICTURES) for net in ("lenet", "cnn")], ids=str)
@pytest.mark.parametrize("name", ["gnomon", "onnxruntime", "f32", "jax"])
def test_networks_in_int8_have_the_bits_of_the_definition(name, case):
    module = importlib.import_module(f"benchmarks.networks.{name}")
    if why := module.available():
        tally.not_run(f"networks of the benchmark in {name}: {why}")
        pytest.skip(why)
    args, params = case.call()
    if name == "jax":
        with pytest.raises(peers.Missing, match="no network in int8"):
            module.prepare(case, args, params)
        return
    with gnomon.IN_FORCE:  # what is in force ends with the test
        y = module.as_numpy(module.prepare(case, args, params)())
    wanted = case.reference(args, params)
    assert case.error(args, params, y, wanted) <= (module.allowed(case) if name == "f32" else 0.0)
    assert case.error(args, params, {"logits": y["logits"][::-1]}, wanted) > 0.1
    tally.ran(name, "a network in int8")


@pytest.mark.parametrize("case", TRAINED + ASKED, ids=str)
@pytest.mark.parametrize("name", ["torch", "onnxruntime", "jax"])
def test_other_frameworks_have_the_same_network(name, case):
    if name == "jax" and case.training:
        pytest.skip("compiles for seconds; the race verifies it")
    if absent := peers.absent(*{"onnxruntime": ("onnxruntime", "onnx")}.get(name, (name,))):
        tally.not_run(f"networks of the benchmark in {name}: {absent}")
        pytest.skip(absent)
    module = importlib.import_module(f"benchmarks.networks.{name}")
    args, params = case.call()
    try:
        call = module.prepare(case, args, params)
    except peers.Missing:
        assert name == "onnxruntime" and case.training
        return
    assert case.error(args, params, module.as_numpy(call())) <= case.allowed


def test_every_framework_is_given_batches_that_do_not_change():
    for case in TRAINED:
        (weights, x, t), _ = case.call()
        again, x_again, t_again = case.call()[0]
        assert all(np.array_equal(weights[name], again[name]) for name in weights)
        assert np.array_equal(x, x_again) and np.array_equal(t, t_again)


def narrowest(net, params, x):
    """How near a network is to another choice, over the root mean square: the largest two pixels of a window to one another, or what a
    relu is given to 0."""
    layers, gaps = list(LAYERS[net]), []
    for i in range(len(layers) - 1):
        if [layer.kind for layer in layers[i : i + 2]] == ["relu", "pool"]:  # the order does not matter, and fewer numbers are near 0
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    for layer in layers:
        size = np.sqrt(np.mean(x * x))
        if layer.kind == "conv":
            x = ops.conv2d(x, params[layer.w], padding=layer.padding) + params[layer.b][:, None, None]
        elif layer.kind == "dense":
            x = x @ params[layer.w] + params[layer.b]
        elif layer.kind == "flatten":
            x = x.reshape(len(x), -1)
        elif layer.kind == "relu":
            gaps.append(np.min(np.abs(x)) / size)
            x = np.maximum(x, 0)
        else:
            n, c, h, w = x.shape
            windows = x.reshape(n, c, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(n, c, h // 2, w // 2, 4)
            second, x = np.moveaxis(np.sort(windows), -1, 0)[2:]
            gaps.append(np.min((x - second)[x > 0]) / size)
    return min(gaps)


def narrowest_of_all_steps(case):
    weights, x, t = in_doubles(case)
    net, gaps = Defined(case.net, weights), []
    for _ in range(STEPS):
        gaps.append(narrowest(case.net, net.params(), x))
        net.step(x, t)
    return min(gaps)


@pytest.mark.parametrize("net", NETS)
def test_no_choice_of_a_network_is_one_of_rounding(net):
    """In single precision an element is off by about 1e-6 of them at most."""
    assert narrowest_of_all_steps(Step(net, PICTURES)) > 3e-6
    _, x, t = Step(net, 8 * PICTURES).call()[0]
    assert all(np.array_equal(part, x[:PICTURES]) for part in np.split(x, 8)) and np.array_equal(t, np.tile(t[:PICTURES], 8))


def test_pixels_that_are_nearly_equal_are_seen(monkeypatch):
    monkeypatch.setitem(APART, "cnn", 1)
    assert narrowest_of_all_steps(Step("cnn", PICTURES)) < 1e-6


class Faster(Defined):
    """With another learning rate."""

    def __init__(self, name, params):
        super().__init__(name, params)
        self.adam = type(self.adam)(lr=1.005e-3)


class Forgetful(Defined):
    """With another memory of squares."""

    def __init__(self, name, params):
        super().__init__(name, params)
        self.adam = type(self.adam)(lr=1e-3, beta2=0.9)


class Turned(Defined):
    """Gives back one matrix transposed in its square corner."""

    def params(self):
        found = super().params()
        name = next(name for name, a in reversed(found.items()) if a.ndim == 2)
        w = found[name].copy()
        n = min(w.shape)
        w[:n, :n] = w[:n, :n].T
        return {**found, name: w}


class Shifted(Defined):
    """Its logits are off in one place."""

    def logits(self, x):
        y = super().logits(x).copy()
        y[0, 0] += 0.002 * np.linalg.norm(y)
        return y


@pytest.mark.parametrize("net", [Faster, Forgetful, Turned])
@pytest.mark.parametrize("case", TRAINED, ids=str)
def test_another_training_is_seen(case, net):
    assert error(case, net) > case.allowed


@pytest.mark.parametrize("case", ASKED, ids=str)
def test_other_logits_are_seen(case):
    assert error(case, Shifted) > case.allowed


def test_weights_in_the_layout_of_channels_last_come_back_as_they_were():
    for net in NETS:
        params = init(net, 0)
        for layer, picture in spread(LAYERS[net], params):
            if layer.w:
                w = params[layer.w]
                assert np.array_equal(turned(turned(w, layer, picture), layer, picture, back=True), w)
    w = np.arange(2 * 3 * 3).reshape(18, 1)  # rows in the order channels, rows, columns
    assert turned(w, Layer("dense", "w", "b"), (2, 3, 3))[:3, 0].tolist() == [0, 9, 1]


def test_the_products_of_a_picture_are_counted():
    assert products("mlp") == [784 * 300, 300 * 100, 100 * 10]
    assert products("lenet") == [28 * 28 * 6 * 25, 10 * 10 * 16 * 6 * 25, 400 * 120, 120 * 84, 84 * 10]
    assert products("cnn") == [28 * 28 * 32 * 9, 14 * 14 * 64 * 32 * 9, 7 * 7 * 64 * 64 * 9, 49 * 64 * 10]


class Learner:
    """Knows everything after so many steps."""

    def __init__(self, needs):
        self.needs, self.steps, self.looks = needs, 0, 0

    def batch(self, x, t):
        return x, t

    def step(self, x, t):
        assert len(x) == BATCH
        self.steps += 1

    def logits(self, x):
        self.looks += 1
        return np.eye(10)[x.astype(int) if self.steps >= self.needs else (x.astype(int) + 1) % 10]


def test_training_up_to_an_accuracy_counts_its_steps_once_and_then_only_trains():
    made = []

    def begin():
        made.append(Learner(needs=EVERY + 1))
        return made[-1]

    case = Accuracy("mlp", "none", 0.97)
    labels = np.arange(7 * BATCH) % 10
    run = Run(case, begin, [labels.astype(float), labels, labels.astype(float), labels])
    assert run().result() == {"accuracy": 1.0, "steps": 2 * EVERY}
    run()
    assert [(net.steps, net.looks > 0) for net in made] == [(2 * EVERY, True), (2 * EVERY, False)]
    assert case.error([], {}, run.result()) == 0.0
    assert case.error([], {}, {"accuracy": 0.9, "steps": 1}) > case.allowed
