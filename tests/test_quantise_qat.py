"""Training with rounding: slopes are LSQ's, steps stay positive, zeros stay, and what was trained is what the integers compute."""

import sys
from dataclasses import replace

import numpy as np
import pytest

import kernels
from engine import nets, ops
from engine.data.embedded import read_digits
from engine.interrupt import Interrupted
from engine.masks import masked
from engine.models import cnn, mlp
from engine.optim import SGD, Adam, Momentum
from engine.prune import magnitude, select
from engine.quantise import qat as module
from engine.quantise.convert import calibrated, flowing, integers, weight_grids
from engine.quantise.folded import INPUT, Folded, Layer, fold
from engine.quantise.numbers import Scheme
from engine.quantise.qat import across, first_step, prepared, statistics
from engine.reverse import grad
from engine.train import Diverged, fit

RNG = np.random.default_rng(8)


def dense_net(dtype=np.float64, relu=False, k=7, m=5):
    rng = np.random.default_rng(1)
    w, b = rng.normal(size=(k, m)).astype(dtype), rng.normal(size=m).astype(dtype)
    return Folded((Layer("fc", "dense", (INPUT,), w, b, relu),)), rng.normal(size=(40, k)).astype(dtype)


def residual_net(seed=0):
    net = nets.serial(
        nets.conv(6, 3, padding=1), nets.batch_norm(), nets.relu, nets.max_pool(2),
        nets.residual(nets.conv(6, 3, padding=1), nets.batch_norm(), nets.relu, nets.conv(6, 3, padding=1), nets.batch_norm()), nets.relu,
        nets.avg_pool((2, 3), stride=1), nets.conv(8, 3, stride=2), nets.relu, nets.global_avg_pool, nets.dense(7), nets.relu,
        nets.dense(4),
    )  # fmt: skip
    params, state = net.init(seed, (2, 12, 12))
    rng = np.random.default_rng(seed)
    arrays = {name: (p + 0.4 * rng.random(p.shape)).astype(np.float32) for name, p in {**params, **state}.items()}
    x = rng.normal(size=(1000, 2, 12, 12)).astype(np.float32)
    return fold(lambda p, x: net(p, x, p), arrays, x[:2]), x, rng.integers(0, 4, 1000)


def lenet():
    x = RNG.random((1000, 1, 28, 28)).astype(np.float32)
    return fold(cnn.predict_classic, cnn.init_classic(0), x[:2]), x, RNG.integers(0, 10, 1000)


NETS = {"lenet5_classic": lenet, "residual": residual_net}


def trained(net, x, t, *, steps=6, lr=3e-3, **how):
    """A few steps, so that no step or offset is where it began."""
    qat = prepared(net, calibrated(net, [x[:100]]), **how)
    run = fit(qat.loss(ops.cross_entropy), qat.params, (x[: 20 * steps], t[: 20 * steps]), optimizer=Adam(lr), epochs=1, batch_size=20,
              state=qat.state, progress=False)  # fmt: skip
    return qat, run


# Slopes.


def lsq(v, s, low, high):
    """Eq. 3 of Esser et al. (2020)."""
    return np.where(v / s <= low, low, np.where(v / s >= high, high, np.rint(v / s) - v / s))


def law_of_slopes(relu):
    """Every gradient of a layer, by the formulas of the papers, in float64."""
    net, x = dense_net(relu=relu)
    qat = prepared(net, {INPUT: (-1.3, 1.1), "fc": (-1.5, 2.5)}, bits=3)
    params = {**qat.params, "fc/w/step": qat.params["fc/w/step"] - 0.6}  # narrow: some weights are clipped
    g = np.random.default_rng(2).normal(size=(40, 5))
    found = grad(lambda p: ops.sum(g * qat(p, x)))(params)
    s, w, b = np.exp(params["fc/w/step"]), params["fc/w"], params["fc/b"]
    s_x, s_y = np.exp(params["input/step"]), np.exp(params["fc/step"])
    z_x, z_y = np.rint(-params["input/offset"] / s_x), 0.0 if relu else np.rint(-params["fc/offset"] / s_y)

    def inside(v, s, low, high):
        return (low <= v / s) & (v / s <= high)

    x_hat, w_hat = np.clip(np.rint(x / s_x), -z_x, 255 - z_x) * s_x, np.clip(np.rint(w / s), -3, 3) * s
    y = x_hat @ w_hat + np.rint(b / (s * s_x)) * s * s_x
    y, positive = (np.maximum(y, 0), y > 0) if relu else (y, True)
    within, x_within = inside(y, s_y, -z_y, 255 - z_y), inside(x, s_x, -z_x, 255 - z_x)
    assert 0 < within.sum() < y.size and 0 < x_within.sum() < x.size
    of_sums = g * within * positive
    of_w, of_x = x_hat.T @ of_sums, of_sums @ w_hat.T
    wanted = {
        "fc/w": of_w * inside(w, s, -3, 3),
        "fc/b": of_sums.sum(axis=0),
        "fc/w/step": np.sum(of_w * lsq(w, s, -3, 3), axis=0) / np.sqrt(7 * 3) * s,
        "input/step": np.sum(of_x * np.where(x_within, np.rint(x / s_x) - x / s_x, 255.0 * (x > 0))) / np.sqrt(7 * 255) * s_x,
        "input/offset": np.sum(of_x * ~x_within) / np.sqrt(7 * 255),
        "fc/step": np.sum(g * np.where(within, np.rint(y / s_y) - y / s_y, 255.0 * (y > 0))) / np.sqrt(5 * 255) * s_y,
    }
    if not relu:
        wanted["fc/offset"] = np.sum(g * ~within) / np.sqrt(5 * 255)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)
    clipped = ~inside(w, s, -3, 3)
    assert 0 < clipped.sum() < w.size and np.all(found["fc/w"][clipped] == 0) and np.all(found["fc/w"][~clipped] != 0)


def test_slopes_of_signs_are_those_of_the_identity_and_of_a_product():
    """Zhou et al. (2016), eq. 7: whatever the weight; and of the step exactly, times the share."""
    net, x = dense_net()
    qat = prepared(net, {INPUT: (-1e6, 1e6), "fc": (-1e7, 1e7)}, bits=1)
    params = {**qat.params, "fc/w": np.where(np.arange(35).reshape(7, 5) % 4, qat.params["fc/w"], 0.0)}
    g = np.random.default_rng(2).normal(size=(40, 5))
    found = grad(lambda p: ops.sum(g * qat(p, x)))(params)
    codes = qat.codes(params)[INPUT]
    of_w = codes.dequantise(codes.quantise(x)).astype(np.float64).T @ g
    np.testing.assert_allclose(found["fc/w"], of_w, rtol=1e-6)
    wanted = np.sum(of_w * np.sign(params["fc/w"]), axis=0) * np.exp(params["fc/w/step"]) / np.sqrt(7)
    np.testing.assert_allclose(found["fc/w/step"], wanted, rtol=1e-6)


@pytest.mark.parametrize("relu", [False, True])
def test_slopes_are_those_of_lsq_and_lsq_plus(relu):
    law_of_slopes(relu)


def of_codes(x, scale, zero_point, low, high):
    """Wrong: PyTorch's, which clips half a step later."""
    q = np.rint(x / scale) + zero_point
    return (q >= low) & (q <= high)


@pytest.mark.parametrize(
    "where, part, broken",
    [
        (module, "_share", lambda n, highest: 1.0),
        (module, "_share", lambda n, highest: 1 / np.sqrt(n)),
        (module, "_zero", lambda *place, zero=module._zero: ops.stop_gradient(zero(*place))),
        (sys.modules["engine.ops.quantise"], "_inside", of_codes),
    ],
)
def test_the_law_of_slopes_catches_other_formulas(where, part, broken, monkeypatch):
    monkeypatch.setattr(where, part, broken)
    with pytest.raises(AssertionError):
        law_of_slopes(False)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_step_begins_as_lsq_says_or_where_the_largest_weight_is_a_code(bits):
    w = RNG.normal(size=(6, 4, 3, 3))
    w[2] = 0
    w[3, 1:] = 0  # pruned: what is 0 needs no step
    s, top = first_step(w, Scheme(bits, axis=0)), 2 ** (bits - 1) - 1
    signs = first_step(w, Scheme(bits, axis=0), signs=True)
    for channel, step, of_signs in zip(w, s, signs, strict=True):
        some = np.abs(channel[channel != 0])
        assert of_signs == pytest.approx(some.mean() if some.size else 1.0)
        assert step == pytest.approx(min(2 * some.mean() / np.sqrt(top), some.max() / top) if some.size else 1.0)


@pytest.mark.parametrize("direction", [-1, 1])
def test_steps_stay_positive_at_any_rate(direction):
    net, x = dense_net(np.float32)
    qat = prepared(net, calibrated(net, [x]))
    params = qat.params
    grads = {name: direction * np.ones_like(p) for name, p in params.items()}
    for optimizer in (SGD(1e4), Adam(300.0), Momentum(1e30)):
        moments = optimizer.init(params)
        for _ in range(3):
            params, moments = optimizer.step(params, grads, moments)
        params = {**params, **{name: p for name, p in qat.params.items() if not name.endswith("step")}}
        steps = [*(grid.scale for grid in qat.grids(params).values()), *(codes.scale for codes in qat.codes(params).values())]
        assert all(np.all(s > 0) and np.isfinite(s).all() for s in steps)
        assert np.isfinite(qat(params, x)).all()


# What was trained is what the integers compute.


def codes_of(network, x):
    return network.values(network.input.quantise(x))


def law_of_evaluation(qat, params, x, state=None):
    """On every layer the codes of `evaluate` are the integers', and its logits are the network's."""
    network, seen = qat.integers(params, state), {}
    y = qat.evaluate(params, x, state, watch=seen.__setitem__)
    wanted = codes_of(network, x)
    assert list(seen) == list(wanted)
    for name, codes in wanted.items():
        np.testing.assert_array_equal(seen[name], codes, err_msg=name)
    np.testing.assert_array_equal(y, network(x))
    assert y.dtype == np.float32
    return wanted


@pytest.mark.parametrize("bits", [8, {"conv1": 4, "conv2": 2}, 1])
@pytest.mark.parametrize("name", NETS)
def test_evaluation_is_inference_in_integers_to_the_bit(name, bits):
    net, x, t = NETS[name]()
    qat, run = trained(net, x, t, bits=bits)
    codes = law_of_evaluation(qat, run.params, x)
    assert all(len(np.unique(q)) > 2 for q in codes.values())
    if isinstance(bits, dict):
        assert set(np.unique(qat.integers(run.params).layers[0].w)) <= set(range(-7, 8))


def test_evaluation_with_kernels_has_these_bits_too():
    net, x, t = residual_net()
    with kernels.use("cpu"):
        qat, run = trained(net, x, t, bits=4)
        law_of_evaluation(qat, run.params, x)


@pytest.mark.parametrize(
    "part, broken",
    [
        ("whole_bias", lambda b, x, w: np.floor(np.asarray(b, np.float64) / (x * np.asarray(w, np.float64)))),
        ("across", lambda ratio, ndim: across(ratio[::-1], ndim)),
        ("_added", lambda layer, x, before, after: (x[0] * before[0].scale + x[1] * before[1].scale) // after.scale + after.zero_point),
    ],
)
def test_the_law_of_evaluation_catches_other_arithmetic(part, broken, monkeypatch):
    net, x, t = residual_net()
    qat, run = trained(net, x, t)
    monkeypatch.setattr(module, part, broken)
    with pytest.raises(AssertionError):
        law_of_evaluation(qat, run.params, x)


@pytest.mark.parametrize("rule", ["fp32", "q31-single", "rndnu"])
@pytest.mark.parametrize("name", NETS)
def test_a_layer_in_training_is_within_one_code_of_the_integers(name, rule):
    net, x, t = NETS[name]()
    qat, run = trained(net, x, t, bits=4)
    numbers, codes, network = {}, qat.codes(run.params), qat.integers(run.params, rule=rule)
    y = qat(run.params, x, watch=numbers.__setitem__)
    seen = {place: codes[place].quantise(v) for place, v in numbers.items()}
    np.testing.assert_array_equal(seen[INPUT], network.input.quantise(x))
    for layer, reads in network.reading():
        apart = np.abs(layer(*[seen[read] for read in reads]).astype(int) - seen[layer.name])
        assert apart.max() <= 1 and np.mean(apart) < (0.1 if "avg_pool" in layer.name else 1e-3), layer.name
    np.testing.assert_array_equal(y, numbers[net.layers[-1].name])
    np.testing.assert_allclose(y, network.output.dequantise(seen[net.layers[-1].name]), rtol=1e-6)


def test_ranges_are_those_of_the_learned_grids():
    net, x, _ = residual_net()
    qat = prepared(net, calibrated(net, [x[:50]]))
    for seed in range(50):
        rng = np.random.default_rng(seed)
        params = {n: p + rng.normal(size=p.shape).astype(p.dtype) if n.endswith(("step", "offset")) else p for n, p in qat.params.items()}
        codes = qat.codes(params)
        for name, between in qat.ranges(params).items():
            layer = net[name] if name != INPUT else None
            assert flowing(between, relu=bool(layer and layer.relu)) == codes[name]


def test_before_training_8_bits_are_those_of_conversion():
    net, x, _ = lenet()
    ranges = calibrated(net, [x[:100]])
    first, other = prepared(net, ranges).integers(prepared(net, ranges).params), integers(net, ranges, grids=weight_grids(net))
    assert np.mean(np.abs(first(x[:50]) - other(x[:50]))) < 0.1 * np.std(other(x[:50]))


# Norms.


def normed(freeze_after):
    net, x, t = residual_net()
    return prepared(net, calibrated(net, [x[:100]]), norms=statistics(net, [x[:60], x[60:100]]), freeze_after=freeze_after), net, x, t


def test_statistics_are_those_of_the_sums():
    net, x, _ = residual_net()
    layer = net["conv1"]
    y = ops.conv2d(x[:100], layer.w, **layer.options)
    mean, var = statistics(net, [x[:60], x[60:100]])["conv1"]
    np.testing.assert_allclose(mean, y.mean(axis=(0, 2, 3), dtype=np.float64), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(var, y.var(axis=(0, 2, 3), dtype=np.float64), rtol=1e-4)


def test_a_norm_changes_nothing_at_first():
    qat, net, x, _ = normed(5)
    plain = prepared(net, calibrated(net, [x[:100]]))
    assert "conv1/b" not in qat.params and "conv1/norm/w" in qat.params
    for layer in qat.folded(qat.params, qat.state).weighted:
        wanted = plain.folded(plain.params)[layer.name]
        assert np.mean(layer.w == wanted.w) > 0.99 or np.allclose(
            layer.w, wanted.w, atol=1.1 * np.exp(plain.params[f"{layer.name}/w/step"].max())
        )
        np.testing.assert_allclose(layer.b, wanted.b, rtol=1e-3, atol=1e-3)


def test_the_batch_scales_weights_before_they_are_rounded_and_running_statistics_do_so_late():
    """Jacob et al. (2018), eq. 14, on one layer; frozen, the state stays."""
    net, x = dense_net(k=3, m=2)
    qat = prepared(net, calibrated(net, [x]), bits=3, norms=statistics(net, [x], ["fc"]), freeze_after=1)
    moved = {**qat.state, "fc/norm/var": np.array([0.4, 3.0]) * qat.state["fc/norm/var"]}
    loss = qat.loss(lambda y: ops.sum(ops.square(y)))
    codes, scale = qat.codes(qat.params), qat.grids(qat.params)["fc"].scale
    x_hat = codes[INPUT].dequantise(codes[INPUT].quantise(x)).astype(np.float64)

    def rounded(w):
        return np.clip(np.rint(w / scale), -3, 3) * scale

    def by_hand(mean, var, late=False):
        factor = qat.params["fc/norm/w"] / np.sqrt(var + 1e-5)
        w = qat.params["fc/w"]
        y = x_hat @ (rounded(w) * factor if late else rounded(w * factor)) + qat.params["fc/norm/b"] - mean * factor
        return np.square(codes["fc"].dequantise(codes["fc"].quantise(y)), dtype=np.float64).sum()

    sums = x_hat @ qat.params["fc/w"]
    running = moved["fc/norm/mean"], moved["fc/norm/var"]
    batch = sums.mean(axis=0), sums.var(axis=0)
    tolerance = 20 * codes["fc"].scale * np.abs(sums).max()  # ten of the 80 numbers may have the next code
    assert min(abs(by_hand(*batch) - by_hand(*running)), abs(by_hand(*running, late=True) - by_hand(*running))) > 2 * tolerance
    value, after = loss(qat.params, x, state=moved, seed=1)
    assert abs(value - by_hand(*batch)) < tolerance
    np.testing.assert_allclose(after["fc/norm/mean"], 0.9 * running[0] + 0.1 * batch[0])
    np.testing.assert_allclose(after["fc/norm/var"], 0.9 * running[1] + 0.1 * batch[1] * 40 / 39)
    assert after["steps"] == 1
    for state, seed in [({**moved, "steps": np.asarray(1)}, 1), (moved, None)]:  # frozen, and in use
        value, after = loss(qat.params, x, state=state, seed=seed)
        assert abs(value - by_hand(*running)) < tolerance
        assert all(np.array_equal(after[name], state[name]) for name in state if name != "steps")


def test_a_network_with_norms_trains_and_its_evaluation_is_the_integers():
    qat, _, x, t = normed(4)
    run = fit(qat.loss(ops.cross_entropy), qat.params, (x[:160], t[:160]), optimizer=Adam(1e-2), epochs=1, batch_size=20, state=qat.state,
              progress=False)  # fmt: skip
    assert run.state["steps"] == 8
    law_of_evaluation(qat, run.params, x, run.state)
    with pytest.raises(ValueError, match=r"conv1 has a batch norm .*: give state="):
        qat.loss(ops.cross_entropy)(run.params, x, t)


# Training by `fit`.


@pytest.mark.parametrize("bits", [4, 1])
@pytest.mark.parametrize("optimizer", [Adam(1e-2, weight_decay=1e-3), Momentum(1e-4)])
def test_pruned_weights_stay_0(optimizer, bits):
    qat, net, x, t = normed(4)
    masks = select(magnitude(qat.params, names=[f"{layer.name}/w" for layer in net.weighted]), 0.6)
    net = net.put(*(replace(layer, w=masked({"w": layer.w}, {"w": masks[f"{layer.name}/w"]})["w"]) for layer in net.weighted))
    qat = prepared(net, calibrated(net, [x[:100]]), bits=bits, norms=statistics(net, [x[:100]]), freeze_after=2)
    run = fit(qat.loss(ops.cross_entropy), qat.params, (x[:100], t[:100]), optimizer=optimizer, epochs=1, batch_size=20, masks=masks,
              state=qat.state, progress=False)  # fmt: skip
    small = {layer.name: layer for layer in qat.integers(run.params, run.state).layers}
    for layer in qat.folded(run.params, run.state).weighted:
        gone = ~masks[f"{layer.name}/w"]
        assert gone.any() and np.all(layer.w[gone] == 0) and np.all(small[layer.name].w[gone] == 0)
        assert np.any(run.params[f"{layer.name}/w"] != qat.params[f"{layer.name}/w"])


class StopAt:
    """Ctrl-C, by a callback."""

    def __init__(self, step):
        self.at = step

    def start(self, run, plan):
        pass

    def step(self, run, loss):
        if run.step == self.at:
            raise KeyboardInterrupt

    def epoch(self, run, record):
        return False

    def end(self, run):
        pass


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path):
    qat, _, x, t = normed(3)
    how = {"optimizer": Adam(1e-2), "batch_size": 20, "state": qat.state, "progress": False}

    def go(**more):
        return fit(qat.loss(ops.cross_entropy), qat.params, (x[:60], t[:60]), **{**how, **more})

    whole = go(epochs=2)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        go(epochs=2, checkpoint=tmp_path / "c", checkpoint_every=1, callbacks=[StopAt(3)])
    again = go(epochs=2, checkpoint=tmp_path / "c", resume=True)
    assert whole.step == again.step == 6
    for one, other in [(whole.params, again.params), (whole.state, again.state)]:
        assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("bits, codes", [(2, {-1, 0, 1}), (1, {-1, 1})])
def test_weights_of_two_bits_and_of_one_learn_digits_that_rounding_loses(bits, codes):
    x, t = read_digits()
    x = x.reshape(len(x), -1)
    run = fit(mlp.loss, mlp.init(0, (64, 48, 10)), (x[:1300], t[:1300]), optimizer=Adam(5e-3), epochs=6, progress=False)
    net = fold(mlp.predict, run.params, x[:1])
    qat = prepared(net, calibrated(net, [x[:300]]), bits=bits)
    more = fit(qat.loss(ops.cross_entropy), qat.params, (x[:1300], t[:1300]), optimizer=Adam(2e-3), epochs=6, progress=False)

    def right(y):
        return np.mean(y.argmax(axis=1) == t[1300:])

    rounded, learned = qat.integers(qat.params)(x[1300:]), qat.integers(more.params)(x[1300:])
    assert right(learned) > right(mlp.predict(run.params, x[1300:])) - 0.03 > right(rounded)
    assert set(np.unique(qat.integers(more.params).layers[0].w)) == codes


# Errors.


@pytest.mark.parametrize("bits", [0, 9])
def test_bits_that_are_no_scheme_are_told_with_the_layer(bits):
    net, x = dense_net()
    with pytest.raises(ValueError, match=f"the weights of fc: a scheme has 2 to 8 bits, not {bits}"):
        prepared(net, calibrated(net, [x]), bits={"fc": bits})


def test_names_that_are_not_there_are_told():
    net, x = dense_net()
    ranges = calibrated(net, [x])
    with pytest.raises(ValueError, match="bits are given for conv9; the layers with weights are fc"):
        prepared(net, ranges, bits={"conv9": 4})
    with pytest.raises(ValueError, match="norms are given for conv9"):
        prepared(net, ranges, norms={"conv9": (np.zeros(1), np.ones(1))})
    with pytest.raises(ValueError, match="no range of fc"):
        prepared(net, {INPUT: (0, 1)})
    with pytest.raises(ValueError, match="statistics are wanted of conv9; the layers with weights are fc"):
        statistics(net, [x], ["conv9"])
    with pytest.raises(ValueError, match="no batch"):
        statistics(net, [], ["fc"])


def test_a_loss_that_is_nan_is_told_by_fit():
    net, x = dense_net(np.float32)
    qat = prepared(net, calibrated(net, [x]))
    x[3, 2] = np.nan
    with pytest.raises(Diverged, match="the loss is nan at step 1"):
        fit(qat.loss(ops.cross_entropy), qat.params, (x, np.zeros(len(x), int)), optimizer=Adam(), epochs=1, progress=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_that_is_learned_has_the_dtype_of_the_weights(dtype):
    net, x = dense_net(dtype)
    qat = prepared(net, calibrated(net, [x]))
    of = grad(lambda p: ops.sum(qat(p, x)))(qat.params)
    assert all(p.dtype == of[name].dtype == dtype and p.shape == of[name].shape for name, p in qat.params.items())
    assert qat(qat.params, x[:0]).shape == qat.evaluate(qat.params, x[:0]).shape == (0, 5)
