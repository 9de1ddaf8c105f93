"""A model as layers is the model; what has no integer form is told with its place; corrections keep or better the function."""

from dataclasses import replace

import numpy as np
import pytest

from engine import nets, ops
from engine.masks import masked
from engine.models import cnn, mlp
from engine.prune import magnitude, select
from engine.quantise import choose, convert, correct, qat, rounding
from engine.quantise.folded import Folded, Layer, NoIntegerForm, fold
from engine.quantise.integer import Codes
from engine.quantise.numbers import Scheme, dequantise, grid_of, quantise

RNG = np.random.default_rng(4)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before():
    RNG.bit_generator.state = START


def residual_net():
    net = nets.serial(
        nets.conv(6, 3, padding=1), nets.batch_norm(), nets.relu, nets.max_pool(2),
        nets.residual(nets.conv(6, 3, padding=1), nets.batch_norm(), nets.relu, nets.conv(6, 3, padding=1), nets.batch_norm()), nets.relu,
        nets.conv(8, 3, stride=2), nets.relu, nets.global_avg_pool, nets.dense(7), nets.relu, nets.dense(4),
    )  # fmt: skip
    params, state = net.init(0, (2, 10, 10), np.float64)
    arrays = {name: x + 0.4 * RNG.random(x.shape) for name, x in {**params, **state}.items()}
    return (lambda p, x: net(p, x, p)), arrays, RNG.normal(size=(5, 2, 10, 10))


MODELS = {
    "residual with norms": residual_net,
    "lenet5_classic": lambda: (cnn.predict_classic, cnn.init_classic(0, dtype=np.float64), RNG.normal(size=(3, 1, 28, 28))),
    "lenet5_caffe": lambda: (cnn.predict_caffe, cnn.init_caffe(0, dtype=np.float64), RNG.normal(size=(3, 1, 28, 28))),
    "cnn3x3": lambda: (cnn.predict_3x3, cnn.init_3x3(0, dtype=np.float64), RNG.normal(size=(3, 1, 28, 28))),
    "mlp": lambda: (mlp.predict, mlp.init(0, (9, 8, 5), dtype=np.float64), RNG.normal(size=(6, 9))),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_folded_model_is_the_model(name):
    predict, params, x = MODELS[name]()
    net, y = fold(predict, params, x[:2]), predict(params, x)
    np.testing.assert_allclose(net(x), y, rtol=1e-9, atol=1e-11 * np.abs(y).max())
    assert len({layer.name for layer in net.layers}) == len(net.layers)
    assert str(net).count("\n") == len(net.layers) - 1


def test_a_norm_becomes_a_part_of_the_layer_before_by_its_formula():
    predict, params, x = residual_net()
    layer = fold(predict, params, x[:2])["conv1"]
    factor = params["batch_norm1/w"] / np.sqrt(params["batch_norm1/var"] + 1e-5)
    np.testing.assert_allclose(layer.w, params["conv1/w"] * factor[:, None, None, None])
    np.testing.assert_allclose(layer.b, params["batch_norm1/b"] + (params["conv1/b"] - params["batch_norm1/mean"]) * factor)


def test_pruned_weights_stay_0_through_folding_and_rounding():
    predict, params, x = residual_net()
    names = [name for name in params if np.ndim(params[name]) > 1]
    masks = select(magnitude(params, names=names), 0.3)
    net = fold(predict, masked(params, masks), x[:2])
    rough = convert.rounded(net, convert.weight_grids(net))
    for layer in net.weighted:
        mask = masks[f"{layer.name}/w"]
        assert np.all(layer.w[~mask] == 0) and np.all(rough[layer.name].w[~mask] == 0)


@pytest.mark.parametrize(
    "predict, said",
    [
        (lambda p, x: ops.tanh(x @ p["w"]) @ p["v"], None),
        (lambda p, x: ops.dense(x, p["w"], p["b"], activation="sigmoid") @ p["v"], None),
        (lambda p, x: (x @ p["w"]) * (x @ p["w"]) @ p["v"], "multiply of two results"),
        (lambda p, x: (lambda y: np.where(y > 0, y, y / 2) @ p["v"])(x @ p["w"]), "greater has no form"),
        (lambda p, x: (1 / (x @ p["w"])) @ p["v"], None),
        (lambda p, x: (p["b"] / (x @ p["w"])) @ p["v"], "a number divided by a result"),
        (lambda p, x: ops.maximum(x @ p["w"], p["b"]) @ p["v"], "maximum has no form"),
        (lambda p, x: (x * p["s"]) @ p["w"], "nothing comes before it but the input"),
        (lambda p, x: (ops.relu(x @ p["w"]) * p["b"]) @ p["v"], "after relu"),
        (lambda p, x: ((x @ p["w"]) * p["b"] + (x @ p["w"]) * 0 + x @ p["w"]) @ p["v"], None),
        (lambda p, x: (lambda y: (y + p["b"]) @ p["v"] + y @ p["v"])(x @ p["w"]), "is used elsewhere as well"),
        (lambda p, x: ops.softmax(x @ p["w"]), "softmax has no form in integers"),
        (lambda p, x: ops.mean(x @ p["w"], axis=1), "only that over the pixels"),
    ],
)
def test_what_has_no_form_in_integers_is_told_with_its_place(predict, said):
    params = {"w": RNG.normal(size=(4, 5)), "b": RNG.normal(size=5), "v": RNG.normal(size=(5, 3)), "s": np.ones(4)}
    x = RNG.normal(size=(3, 4))
    if said is None:
        np.testing.assert_allclose(fold(predict, params, x)(x), predict(params, x))
        return
    with pytest.raises(NoIntegerForm, match=said) as e:
        fold(predict, params, x)
    assert " = " in str(e.value).splitlines()[0] and "keep this part in floats" in str(e.value)


# Into integers.


def trained_like():
    """Weights of an MLP that give a wide spread of answers, and data."""
    params = mlp.init(3, (12, 16, 10, 4))
    x = RNG.normal(size=(300, 12)).astype(np.float32)
    return fold(mlp.predict, params, x[:2]), x


def test_integers_give_what_floats_give_to_a_step():
    for name in ("residual with norms", "lenet5_classic", "cnn3x3"):
        predict, params, x = MODELS[name]()
        params, x = {k: v.astype(np.float32) for k, v in params.items()}, x.astype(np.float32)
        net = fold(predict, params, x[:2])
        for rule in ("fp32", "q31-double", "q31-single", "rndnu"):
            small = convert.integers(net, convert.calibrated(net, [x]), rule=rule)
            gap = np.abs(small(x) - net(x)) / small.output.scale
            assert gap.max() <= 12, (name, rule, gap.max())  # steps of 8 bits, after layers of rounding
            assert np.mean(gap) <= 3


def test_ranges_are_those_of_the_layers():
    net, x = trained_like()
    ranges = convert.calibrated(net, [x[:100], x[100:]])
    values = correct.values_of(net, x)
    assert set(ranges) == {"input", "w1", "w2", "w3"}
    for name, (low, high) in ranges.items():
        assert low == values[name].min() and high == values[name].max()
    assert convert.flowing(ranges["w1"], relu=True) == Codes(np.float32(ranges["w1"][1] / 255), 0)


def test_what_cannot_be_converted_is_told():
    net, x = trained_like()
    with pytest.raises(ValueError, match="at least one"):
        convert.calibrated(net, [])
    with pytest.raises(ValueError, match="what input gives is not finite"):
        convert.calibrated(net, [np.full((2, 12), np.nan, np.float32)])
    with pytest.raises(ValueError, match="no range of w2, w3"):
        convert.integers(net, {"input": (-1, 1), "w1": (0, 1)})
    ranges = convert.calibrated(net, [x])
    wide = Layer("big", "dense", ("input",), np.ones((70_000, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(OverflowError, match="big"):
        convert.integers(Folded((wide,)), {"input": (0, 1), "big": (0, 1)})
    with pytest.raises(OverflowError, match="w1"):
        convert.integers(net.put(replace(net["w1"], b=np.full(16, 1e12, np.float32))), ranges)
    with pytest.raises(ValueError, match="2 to 8 bits"):
        convert.weight_grids(net, bits={"w1": 0})


def test_a_constant_layer_has_codes():
    net, x = trained_like()
    dead = net.put(replace(net["w2"], w=np.zeros_like(net["w2"].w), b=np.zeros_like(net["w2"].b)))
    small = convert.integers(dead, convert.calibrated(dead, [x]))
    np.testing.assert_allclose(small(x), dead(x), atol=small.output.scale)


@pytest.mark.parametrize("rule", ["fp32", "q31-single", "pow2"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-12, 1e-30])
def test_channels_that_are_dead_or_nearly_keep_their_biases(size, rule):
    """Of pixels from 0 to 255: where weights are 0 a unit would be a whole pixel, and where they nearly are the bias no int32."""
    net, _ = trained_like()
    x = np.random.default_rng(5).integers(0, 256, (300, 12)).astype(np.float32)
    w, b = net["w1"].w / 255, net["w1"].b.copy()
    w[:, :8] *= size
    b[:8] = 0.4
    net = net.put(replace(net["w1"], w=w.astype(np.float32), b=b))
    ranges = convert.calibrated(net, [x])
    small = convert.integers(net, ranges, rule=rule)
    assert min(choose.noise(net, small, x).values()) > 30
    trained = qat.prepared(net, ranges)
    whole = trained.integers(trained.params)
    np.testing.assert_array_equal(trained.evaluate(trained.params, x), whole(x))


def test_an_empty_batch_changes_nothing():
    net, x = trained_like()
    ranges = convert.calibrated(net, [x, x[:0]])
    assert ranges == convert.calibrated(net, [x])
    rough = convert.rounded(net, convert.weight_grids(net, Scheme(bits=3)))
    one, two = (correct.bias_corrected(net, rough, batches) for batches in ([x], [x, x[:0]]))
    np.testing.assert_array_equal(one["w1"].b, two["w1"].b)
    with pytest.raises(ValueError, match="no inputs of w1"):
        rounding.gram(net["w1"], [x[:0]])
    with pytest.raises(ValueError, match="there is no example to calibrate on"):
        convert.calibrated(net, [x[:0]])


def test_grids_that_integers_cannot_have_are_told():
    net, x = trained_like()
    ranges, grids = convert.calibrated(net, [x]), convert.weight_grids(net)
    for scheme, group in [(Scheme(symmetric=False), None), (Scheme(signed=False), None), (Scheme(), 4)]:
        with pytest.raises(ValueError, match="the weights of w1 have a grid that is without a sign, or affine, or in groups"):
            convert.integers(net, ranges, grids=convert.weight_grids(net, scheme, group=group))
    with pytest.raises(ValueError, match="there is no grid of w3"):
        convert.integers(net, ranges, grids={name: grid for name, grid in grids.items() if name != "w3"})
    with pytest.raises(TypeError, match="what input gives cannot be calibrated: floats are wanted"):
        convert.calibrated(net, [x.astype(np.uint8)])


# Corrections.


@pytest.mark.parametrize("name", ["mlp", "cnn3x3", "lenet5_classic", "residual with norms"])
def test_equalising_keeps_the_function_and_equals_the_ranges(name):
    predict, params, x = MODELS[name]()
    net = fold(predict, params, x[:2])
    equal = correct.equalised(net)
    assert correct.pairs(net)
    np.testing.assert_allclose(equal(x), net(x), rtol=1e-8, atol=1e-10)
    for first, second in correct.pairs(net):
        a, b = equal[first], equal[second]
        outputs = np.abs(np.moveaxis(a.w, a.channels, 0)).reshape(len(a.b), -1).max(axis=1)
        inputs = np.abs(np.moveaxis(b.w, 1 if b.kind == "conv" else 0, 0)).reshape(len(a.b), -1).max(axis=1)
        np.testing.assert_allclose(outputs, inputs, rtol=0.1)


def test_equalising_leaves_a_sum_and_dead_channels_alone():
    predict, params, x = residual_net()
    names = {name for pair in correct.pairs(fold(predict, params, x[:2])) for name in pair}
    assert "conv1" not in {first for first, _ in correct.pairs(fold(predict, params, x[:2]))}  # two layers read it
    assert "residual1/conv1" in names
    net, x = trained_like()
    dead = net["w1"].w.copy()
    dead[:, 3] = 0
    net = net.put(replace(net["w1"], w=dead))
    np.testing.assert_allclose(correct.equalised(net)(x), net(x), rtol=1e-4, atol=1e-5)


def test_corrected_biases_give_the_mean_back():
    net, x = trained_like()
    rough = convert.rounded(net, convert.weight_grids(net, Scheme(bits=3)))
    batches = [x[:90], x[90:]]
    better = correct.bias_corrected(net, rough, batches)
    values = correct.values_of(net, x)
    for layer in net.weighted:
        source = values[layer.reads[0]]
        whole, before, after = (replace(n[layer.name], relu=False)(source).mean(axis=0) for n in (net, rough, better))
        np.testing.assert_allclose(after, whole, atol=1e-5)
        assert np.abs(before - whole).max() > 1e-3
    with pytest.raises(ValueError, match="at least one"):
        correct.bias_corrected(net, rough, [])


# Rounding all together.


def a_layer(kind="dense", dtype=np.float64, **options):
    x = RNG.normal(size=(60, 8)) @ RNG.normal(size=(8, 8)) if kind == "dense" else RNG.normal(size=(6, 4, 7, 6)).cumsum(axis=3)
    shape = (8, 5) if kind == "dense" else (6, 4 // options.get("groups", 1), 3, 2)
    return Layer(
        "a", kind, ("input",), RNG.normal(size=shape).astype(dtype), np.zeros(6 if kind == "conv" else 5, dtype), options=options
    ), x


KINDS = [("dense", {}), ("conv", {}), ("conv", {"stride": 2, "padding": 1}), ("conv", {"dilation": (1, 2)}), ("conv", {"groups": 2})]


@pytest.mark.parametrize("kind, options", KINDS)
def test_the_gram_matrix_foresees_the_change_of_the_sums(kind, options):
    layer, x = a_layer(kind, **options)
    other = replace(layer, w=layer.w + 0.1 * RNG.normal(size=layer.w.shape))
    g = rounding.gram(layer, [x[:2], x[2:]])
    change = (other(x) - layer(x)) ** 2
    np.testing.assert_allclose(rounding.loss(layer, other, g), change.sum(axis=1).mean(), rtol=1e-9)


@pytest.mark.parametrize("kind, options", KINDS)
def test_rounding_all_together_is_on_the_grid_and_better(kind, options):
    better = {"gptq": 0, "adaround": 0}
    for _ in range(4):
        layer, x = a_layer(kind, **options)
        grid, g = grid_of(layer.w, Scheme(bits=3, axis=layer.channels)), rounding.gram(layer, [x])
        least = rounding.loss(layer, rounding.nearest(layer, grid), g)
        for name, found in (("gptq", rounding.gptq(layer, grid, g)), ("adaround", rounding.adaround(layer, grid, g, steps=200))):
            np.testing.assert_allclose(dequantise(quantise(found.w, grid), grid), found.w, rtol=1e-12)
            better[name] += rounding.loss(layer, found, g) < least
            assert name == "gptq" or rounding.loss(layer, found, g) <= least
    assert better["gptq"] >= 3 and better["adaround"] >= 3


def test_weights_that_are_0_stay_0_however_they_are_rounded():
    layer, x = a_layer("conv")
    mask = RNG.random(layer.w.shape) < 0.5
    layer = replace(layer, w=np.where(mask, layer.w, 0))
    grid, g = grid_of(layer.w, Scheme(bits=3, axis=0)), rounding.gram(layer, [x])
    for found in (rounding.gptq(layer, grid, g), rounding.adaround(layer, grid, g, steps=100)):
        assert np.all(found.w[~mask] == 0) and rounding.loss(layer, found, g) < rounding.loss(layer, rounding.nearest(layer, grid), g)


def test_an_input_that_is_always_0_does_not_disturb():
    layer, x = a_layer()
    x[:, 2] = 0
    grid, g = grid_of(layer.w, Scheme(bits=4, axis=1)), rounding.gram(layer, [x])
    found = rounding.gptq(layer, grid, g)
    assert np.isfinite(found.w).all() and np.all(found.w[2] == 0)
    with pytest.raises(ValueError, match="no inputs of a"):
        rounding.gram(layer, [])


# What to do for layers that rounding hurts.


def answers(net, x):
    return net(x).argmax(axis=1)


def test_noise_is_told_layer_by_layer_and_a_bit_is_6_decibels():
    net, x = trained_like()
    ranges = convert.calibrated(net, [x])
    eight = choose.noise(net, convert.integers(net, ranges), x)
    four = choose.noise(net, convert.integers(net, ranges, grids=convert.weight_grids(net, Scheme(bits=4))), x)
    assert list(eight) == ["w1", "w2", "w3"] and min(eight.values()) > 25
    assert all(eight[name] > four[name] + 6 for name in eight)
    lines = choose.table(four).splitlines()
    assert len(lines) == 3 and lines[-1].startswith(min(four, key=four.get))


def test_the_worst_layer_stays_in_floats():
    net, x = trained_like()
    spoiled = net["w2"].w.copy()
    spoiled[0] *= 3000  # each channel has one weight that takes all the grid: the others are rounded to 0
    net = net.put(replace(net["w2"], w=spoiled), replace(net["w1"], w=np.where(np.arange(16) == 0, 0, net["w1"].w).astype(np.float32)))
    ranges, right = convert.calibrated(net, [x]), answers(net, x)
    alone = choose.own_noise(net, ranges, x)
    assert min(alone, key=alone.get) == "w2" and alone["w2"] < alone["w1"] - 10

    def measure(small):
        return np.mean(answers(small, x) == right)

    small, floats = choose.with_fallback(net, ranges, x, measure=measure, least=0.95)
    assert floats == ["w2"] and measure(small) >= 0.95 > measure(convert.integers(net, ranges))
    assert choose.with_fallback(net, ranges, x, measure=measure, least=0.0)[1] == []
    with pytest.raises(ValueError, match="no layer w9"):
        convert.integers(net, ranges, in_floats=["w9"])


def test_bits_go_where_they_cost_least():
    net, x = trained_like()
    grams = {layer.name: rounding.gram(layer, correct.inputs_of(net, layer.name, [x])) for layer in net.weighted}
    sizes = {layer.name: layer.w.size for layer in net.weighted}
    for mean in (8, 6, 5, 4):
        bits = choose.mixed_bits(net, grams, mean_bits=mean)
        used = sum(bits[name] * n for name, n in sizes.items()) / sum(sizes.values())
        assert used <= mean or (mean == 4 and used == 4)
    assert set(choose.mixed_bits(net, grams, mean_bits=8).values()) == {8}
    assert set(choose.mixed_bits(net, grams, mean_bits=4).values()) == {4}
    with pytest.raises(ValueError, match="a mean of 9 bits"):
        choose.mixed_bits(net, grams, mean_bits=9)
