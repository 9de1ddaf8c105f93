"""Calibration: each place of a model has the range of its own values, by the name of its parameter, and errors say where."""

import numpy as np
import pytest

from engine import ops
from engine.interpret import running
from engine.models import cnn, mlp
from engine.nets import combine, layers
from engine.observe import Observe, Range
from engine.quantise.calibrate import Rounded, calibrate, sqnr, sqnr_by_place
from engine.quantise.numbers import Scheme, choose_grid, dequantise, fake_quant, grid_of, quantise
from engine.quantise.observers import MSE, Entropy, MinMax, MovingAverage, Percentile, PerChannel

AFFINE = Scheme(signed=False, symmetric=False)
RNG = np.random.default_rng(8)
DIGITS = RNG.random((30, 1, 28, 28)).astype(np.float32)


def batches(x=DIGITS, size=10):
    return [(x[i : i + size],) for i in range(0, len(x), size)]


def test_places_have_the_names_of_parameters_and_the_ranges_of_values():
    params = mlp.init(1, (6, 5, 4, 3))
    x = RNG.normal(size=(30, 6)).astype(np.float32)
    found = calibrate(mlp.predict, params, batches(x))
    assert list(found.ranges) == ["0 input", "1 dense w1", "2 dense w2", "3 dense w3"]
    h = x
    for i, place in enumerate(list(found.ranges)):
        h = h if i == 0 else ops.dense(h, params[f"w{i}"], params[f"b{i}"], activation="relu" if i < 3 else "identity")
        np.testing.assert_allclose(found.ranges[place], (h.min(), h.max()), rtol=1e-5)
        assert found.seen[place].seen == h.size
        assert (found.seen[place].low, found.seen[place].high) == found.ranges[place]


@pytest.mark.parametrize("model", ["classic", "caffe", "3x3"])
def test_the_layers_of_a_convolutional_network(model):
    init, predict = getattr(cnn, f"init_{model}"), getattr(cnn, f"predict_{model}")
    params = init(3)
    found = calibrate(predict, params, batches())
    named = [place.split()[-1] for place in found.ranges if "/" in place]
    assert [name for name in named if name.endswith("/w")] == [name for name in params if name.endswith("/w")]
    assert [place for place in found.ranges if place.startswith("0")] == ["0 input"]
    assert "1 conv2d conv1/w" in found.ranges
    assert not [place for place in found.ranges if "[1]" in place]  # the indices of pooling are no numbers to quantise
    assert np.isfinite(list(found.ranges.values())).all()


def test_what_is_made_of_parameters_has_their_name():
    def f(p, x):
        return ops.tanh((x @ np.transpose(p["v"] * 2.0)) + p["b"])

    found = calibrate(f, {"v": np.ones((3, 4)), "b": np.zeros(3)}, [(np.ones((2, 4)),)])
    assert list(found.ranges) == ["0 input", "1 multiply v", "2 permute_dims v", "3 matmul v", "4 add b", "5 tanh"]


def test_a_net_of_ones_own_with_state_and_two_inputs():
    net = combine.serial(layers.dense(5), layers.batch_norm(), ops.tanh, layers.dense(2))
    params, state = net.init(2, (4,))

    def f(p, x, y):
        return net.apply({k: p[k] for k in params}, x + y, {k: p[k] for k in state})[0]

    x = RNG.normal(size=(8, 4)).astype(np.float32)
    found = calibrate(f, {**params, **state}, [(x, x)])
    assert list(found.ranges)[:2] == ["0 input[0]", "0 input[1]"]
    assert any(place.endswith(" dense2/w") for place in found.ranges)


@pytest.mark.parametrize("make", [MinMax, MovingAverage, Entropy, lambda: Percentile(99), lambda: MSE(AFFINE)])
def test_two_calibrations_are_one(make):
    params = cnn.init_classic(4)
    first, again = (calibrate(cnn.predict_classic, params, batches(), make) for _ in range(2))
    assert first == again
    assert str(first) == str(again)


def test_an_observer_for_each_channel():
    params = cnn.init_classic(4)
    found = calibrate(cnn.predict_classic, params, batches(), lambda: PerChannel(MinMax, 1))
    low, high = found.ranges["1 conv2d conv1/w"]
    y = ops.conv2d(DIGITS, params["conv1/w"], padding=2)
    np.testing.assert_allclose([low, high], [y.min(axis=(0, 2, 3)), y.max(axis=(0, 2, 3))], rtol=1e-4, atol=1e-5)
    assert found.grids(Scheme(axis=1))["1 conv2d conv1/w"].scale.shape == (6,)


def test_the_table_has_a_line_for_each_place():
    found = calibrate(mlp.predict, mlp.init(1, (6, 4)), batches(RNG.normal(size=(9, 6)).astype(np.float32)), lambda: Percentile(90))
    head, *lines = str(found).splitlines()
    assert head.split() == ["place", "numbers", "smallest", "largest", "from", "to"]
    assert [line.split()[0] for line in lines] == ["0", "1"] and "dense w1" in lines[1]
    assert len({len(line) for line in [head, *lines]}) == 1
    low, high = found.ranges["0 input"]
    assert lines[0].split()[2:] == ["54", *(f"{v:.4g}" for v in (found.seen["0 input"].low, found.seen["0 input"].high, low, high))]


def test_batches_go_under_a_bar(monkeypatch):
    shown = []
    monkeypatch.setattr("engine.quantise.calibrate.tracked", lambda items, what, bar: shown.append((len(items), what, bar)) or iter(items))
    for progress in (True, False):
        calibrate(mlp.predict, mlp.init(1, (6, 4)), batches(RNG.normal(size=(9, 6)), 3), progress=progress)
    assert shown == [(3, "calibrating", True), (3, "calibrating", False)]


def test_anything_can_be_kept_of_a_value():
    class Shapes:
        def __init__(self):
            self.shapes = []

        def update(self, y):
            self.shapes.append(y.shape)

    observe = Observe(running(), Shapes)
    for n in (2, 3):
        y = observe.run(lambda p, x: x @ p["w"], np.ones((n, 4)), params={"w": np.ones((4, 5))})
        np.testing.assert_array_equal(y, np.full((n, 5), 4.0))
    assert {place: kept.shapes for place, kept in observe.kept.items()} == {"0 input": [(2, 4), (3, 4)], "1 matmul w": [(2, 5), (3, 5)]}
    assert Observe(running()).keep() == Range(np.inf, -np.inf, 0)


# What is refused.


def broken(x, batch):
    x = x.copy()
    x[10 * batch + 1, 1] = np.nan
    return batches(x)


def test_errors_name_the_batch_and_the_place():
    params, x = mlp.init(1, (6, 5, 3)), RNG.normal(size=(30, 6)).astype(np.float32)
    with pytest.raises(
        ValueError, match=r"calibrate: batch 1: 0 input: 1 of 60 numbers are not finite, the first is nan at \(1, 1\)\n  what"
    ):
        calibrate(mlp.predict, params, broken(x, 1))
    params["w2"][2, 1] = np.inf
    with pytest.raises(ValueError, match=r"calibrate: batch 0: 2 dense w2: \d+ of 30 numbers are not finite"):
        calibrate(mlp.predict, params, batches(x))
    with pytest.raises(ValueError, match=r"^dense: axis"):
        calibrate(mlp.predict, params, batches(x[:, :4]))


@pytest.mark.parametrize("given", [[], [(np.zeros((0, 6), np.float32),)]])
def test_no_examples(given):
    with pytest.raises(ValueError, match="calibrate: there are no examples to calibrate on\n  give it some batches"):
        calibrate(mlp.predict, mlp.init(1, (6, 5, 3)), given)


def test_a_batch_is_a_tuple():
    with pytest.raises(TypeError, match=r"batch 0 is ndarray, not a tuple of the model's inputs\n  of one input it is \(x,\)"):
        calibrate(mlp.predict, mlp.init(1, (6, 5, 3)), [np.ones((2, 6))])


# Signal to noise.


def test_the_ratio_in_decibels():
    x = RNG.normal(size=1000)
    assert sqnr(x, 0.9 * x) == pytest.approx(20)
    assert sqnr(x, x) == np.inf
    assert sqnr(np.zeros(2), np.ones(2)) == -np.inf
    even = RNG.uniform(-1, 1, 100_000).astype(np.float32)
    for bits in (4, 6, 8):  # of evenly spread numbers it is 6.02 dB a bit: (2^bits - 2)^2 steps squared
        grid = grid_of(even, Scheme(bits))
        assert sqnr(even, dequantise(quantise(even, grid), grid)) == pytest.approx(20 * np.log10(2**bits - 2), abs=0.1)
    for bad, told in [((np.ones(2), np.ones(3)), r"of one shape, not \(2,\) and \(3,\)"), ((np.ones(0), np.ones(0)), "no numbers")]:
        with pytest.raises(ValueError, match=told):
            sqnr(*bad)
    with pytest.raises(ValueError, match="not finite"):
        sqnr(np.ones(1), np.array([np.nan]))


def test_rounded_values_are_what_the_next_place_sees():
    params = mlp.init(1, (6, 5, 3))
    x = RNG.normal(size=(40, 6)).astype(np.float32)
    grids = calibrate(mlp.predict, params, batches(x)).grids(Scheme(4, signed=False, symmetric=False))
    run = Rounded(running(), grids)
    y = run.run(mlp.predict, x, params=params)
    h = fake_quant(x, grids["0 input"])
    h = fake_quant(ops.dense(h, params["w1"], params["b1"], activation="relu"), grids["1 dense w1"])
    np.testing.assert_array_equal(run.values["1 dense w1"], h)
    np.testing.assert_array_equal(y, fake_quant(ops.dense(h, params["w2"], params["b2"]), grids["2 dense w2"]))
    ratios = sqnr_by_place(mlp.predict, params, grids, x)
    exact = ops.dense(x, params["w1"], params["b1"], activation="relu")
    assert ratios == pytest.approx({"0 input": sqnr(x, fake_quant(x, grids["0 input"])), "1 dense w1": sqnr(exact, h),
                                    "2 dense w2": sqnr(mlp.predict(params, x), y)})  # fmt: skip


def test_more_bits_lose_less_at_every_place_and_one_place_costs_less_than_all():
    params = cnn.init_classic(5)
    found = calibrate(cnn.predict_classic, params, batches())
    four, eight = ({**found.grids(Scheme(bits, signed=False, symmetric=False))} for bits in (4, 8))
    coarse, fine = (sqnr_by_place(cnn.predict_classic, params, grids, DIGITS) for grids in (four, eight))
    assert all(coarse[place] + 15 < fine[place] < 60 for place in coarse)
    last = list(fine)[-1]
    for place in list(eight)[:-1:3]:
        alone = sqnr_by_place(cnn.predict_classic, params, {place: four[place]}, DIGITS)
        assert alone["0 input"] == np.inf or place == "0 input"
        assert alone[last] > coarse[last]
    weights = {name: fake_quant(w, grid_of(w, Scheme(4))) for name, w in params.items()}
    alone = sqnr_by_place(cnn.predict_classic, params, {}, DIGITS, rounded=weights)
    assert alone["0 input"] == np.inf > alone["1 conv2d conv1/w"] > 5


def test_a_grid_of_a_place_that_is_not_there():
    with pytest.raises(ValueError, match="there is no place 7 dense w9; there are 0 input, 1 dense w1"):
        sqnr_by_place(mlp.predict, mlp.init(1, (6, 3)), {"7 dense w9": choose_grid(0, 1)}, np.ones((2, 6), np.float32))
