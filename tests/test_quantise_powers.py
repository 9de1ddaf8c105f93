"""Powers of two: near in ratio, and products by shifts that are exact."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from engine import ops
from engine.interpret import Interpreter, interpreting, running
from engine.quantise import choose, convert, powers
from engine.quantise.folded import fold
from engine.quantise.integer import Network
from engine.quantise.numbers import Scheme, choose_grid, dequantise, grid_of, quantise
from engine.quantise.powers import Powers, logarithmic, of_powers, run_by_shifts, shift_product
from tests.test_quantise_folded import MODELS

seeds = st.integers(0, 2**32 - 1)


def weights(seed, shape=(7, 9), dtype=np.float64):
    w = (np.random.default_rng(seed).standard_t(3, shape) * 0.1).astype(dtype)
    w.flat[0] = 0.0
    return w


def law_of_ratios(approximate, seed, bits, root, dtype):
    """From the smallest power up no weight is farther from its number than half a step; below it has the nearer of that and 0."""
    w = weights(seed, dtype=dtype)
    numbers, powers = approximate(w, bits, root)
    smallest, step = 2.0 ** ((powers.top - powers.count + 1) / root), 2.0 ** (0.5 / root)
    inside = np.abs(w) >= smallest / step
    assert inside.any()
    ratio = numbers[inside] / w[inside]
    assert (ratio <= step * (1 + 1e-6)).all() and (ratio >= (1 - 1e-6) / step).all()
    nearest = np.minimum(np.abs(w), np.abs(np.abs(w) - smallest))[~inside]
    np.testing.assert_allclose(np.abs(numbers - w)[~inside], nearest, rtol=1e-5)


@given(seeds, st.integers(2, 8), st.sampled_from([1, 2]), st.sampled_from([np.float32, np.float64]))
def test_the_nearest_in_ratio(seed, bits, root, dtype):
    def approximate(w, bits, root):
        codes, powers = logarithmic(w, bits, root=root)
        return powers.expand(codes, dtype), powers

    law_of_ratios(approximate, seed, bits, root, dtype)


@pytest.mark.parametrize("rounded", [np.floor, np.ceil, lambda e: np.rint(e + 0.2)], ids=["floor", "ceil", "shifted"])
def test_other_roundings_break_the_law(rounded):
    def approximate(w, bits, root):
        _, powers = logarithmic(w, bits, root=root)
        e = rounded(root * np.log2(np.abs(w) + 1e-30))
        kept = np.abs(w) >= 2.0 ** ((powers.top - powers.count + 1) / root - 1)
        return np.sign(w) * kept * 2.0 ** (np.clip(e, powers.top - powers.count + 1, powers.top) / root), powers

    with pytest.raises(AssertionError):
        law_of_ratios(approximate, 0, 4, 1, np.float64)


@given(seeds, st.integers(2, 8), st.sampled_from([1, 2]))
def test_numbers_of_the_grid_stay_and_order_and_signs_too(seed, bits, root):
    w = weights(seed)
    codes, powers = logarithmic(w, bits, root=root)
    assert codes.dtype == np.int8 and codes.shape == w.shape and codes.flat[0] == 0
    assert np.abs(codes).max() == powers.count == 2 ** (bits - 1) - 1
    numbers = powers.expand(codes, np.float64)
    again, same = logarithmic(numbers, bits, root=root)
    assert same == powers
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(logarithmic(-w, bits, root=root)[0], -codes)
    order = np.argsort(w, axis=None)
    assert (np.diff(codes.reshape(-1)[order].astype(int)) >= 0).all()


def test_known_powers():
    w = np.array([1.0, -0.5, 0.26, 0.3, 0.12, -0.13, 0.0, 1.4])
    codes, powers = logarithmic(w, 3)
    assert powers == Powers(3, 0) and powers.count == 3
    assert codes.tolist() == [3, -2, 1, 1, 0, -1, 0, 3]
    assert powers.expand(codes).tolist() == [1, -0.5, 0.25, 0.25, 0, -0.25, 0, 1]
    assert logarithmic(np.array([1.0, 0.7]), 3, root=2)[0].tolist() == [3, 2]
    codes, powers = logarithmic(np.zeros((2, 2), np.float32))
    assert not powers.expand(codes).any()


def loss(w, numbers):
    return np.mean(np.square(numbers - w))


def test_heavy_tails_fare_better_evenly_spread_weights_worse():
    rng = np.random.default_rng(1)
    for w, better in [(rng.standard_t(3, 4000), True), (rng.uniform(-1, 1, 4000), False)]:
        codes, powers = logarithmic(w, 4, root=2)
        grid = grid_of(w, Scheme(4))
        assert (loss(w, powers.expand(codes)) < loss(w, dequantise(quantise(w, grid), grid))) == better


def plain_product(x, codes, powers):
    """In Python's integers."""
    w = np.sign(codes).astype(int).astype(object) * 2 ** np.maximum(np.abs(codes.astype(int)) - 1, 0).astype(object)
    return x.astype(int).astype(object) @ w


@given(seeds, st.integers(2, 5), st.sampled_from([np.uint8, np.int8]), st.integers(0, 5), st.integers(0, 12), st.integers(1, 5))
def test_shifts_and_sums_are_the_product(seed, bits, dtype, m, k, n):
    rng = np.random.default_rng(seed)
    x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (m, k)).astype(dtype)
    powers = Powers(bits, 3)
    codes = rng.integers(-powers.count, powers.count + 1, (k, n)).astype(np.int8)
    y, exponent = shift_product(x, codes, powers)
    assert y.dtype == np.int64 and y.shape == (m, n)
    np.testing.assert_array_equal(y.astype(object), plain_product(x, codes, powers) if k else np.zeros((m, n)))
    np.testing.assert_array_equal(y * 2.0**exponent, x.astype(float) @ powers.expand(codes, np.float64))


def test_shifts_by_kernels_and_of_stacked_rows():
    rng = np.random.default_rng(2)
    x, w = rng.integers(0, 256, (2, 30, 784)).astype(np.uint8), rng.normal(size=(784, 20))
    codes, powers = logarithmic(w)
    y, _ = shift_product(x, codes, powers)
    np.testing.assert_array_equal(y[1].astype(object), plain_product(x[1], codes, powers))
    with kernels.use("cpu"):
        np.testing.assert_array_equal(shift_product(x[:, ::2], codes, powers)[0], y[:, ::2])


@pytest.mark.parametrize(
    "call, kind, message",
    [
        (lambda: logarithmic(np.ones(3), 0), ValueError, "given are bits=0, root=1"),
        (lambda: logarithmic(np.ones(3), root=3), ValueError, "given are bits=4, root=3"),
        (lambda: logarithmic(np.array([1.0, np.nan])), ValueError, "not finite"),
        (lambda: logarithmic(np.ones(0)), ValueError, "no numbers"),
        (lambda: logarithmic(np.ones(3, int)), TypeError, "floats are wanted"),
        (
            lambda: shift_product(np.ones((1, 3), np.uint8), np.ones((3, 1), np.int8), Powers(4, 0, 2)),
            ValueError,
            "is no shift: take root=1",
        ),
        (
            lambda: shift_product(np.ones((1, 3), np.uint8), np.full((3, 1), 100, np.int8), Powers(8, 0)),
            ValueError,
            "sums of 3 products with shifts of 99 places leave int64",
        ),
        (lambda: shift_product(np.ones((1, 3)), np.ones((3, 1), np.int8), Powers(4, 0)), TypeError, "uint8 or int8"),
    ],
)
def test_what_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# Networks.


def network(name, bits=4, rule="pow2"):
    predict, params, x = MODELS[name]()
    params, x = {key: p.astype(np.float32) for key, p in params.items()}, x.astype(np.float32)
    net, grids = of_powers(fold(predict, params, x[:2]), bits)
    return net, convert.integers(net, convert.calibrated(net, [x]), grids=grids, rule=rule), x


class SignsOnly(Interpreter):
    """No product of codes but with 0, 1 and -1, and no sum but with the multiplier 1."""

    def __init__(self, below):
        self.below, self.seen = below, 0

    def apply(self, op, args, params):
        assert op in (ops.matmul_int8, ops.conv2d_int8, ops.requantise)
        assert np.abs(args[1].astype(int)).max() <= 1 if op is not ops.requantise else np.all(args[2] == 1)
        self.seen += 1
        return self.below.apply(op, args, params)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("name", MODELS)
def test_a_network_of_powers_runs_by_shifts_and_sums_to_the_same_bits(name, bits):
    net, small, x = network(name, bits)
    for layer in net.weighted:
        nonzero = np.abs(layer.w[layer.w != 0])
        assert nonzero.size and np.all(np.frexp(nonzero)[0] == 0.5)
    assert {int(v) for layer in small.layers if hasattr(layer, "w") for v in np.unique(np.abs(layer.w))} <= {0, *(1 << np.arange(7))}
    codes = small.input.quantise(x)
    with interpreting(SignsOnly(running())) as spy:
        shifted = run_by_shifts(small, codes)
    assert spy.seen >= 2 * len(net.weighted)
    np.testing.assert_array_equal(shifted, small.run(codes))
    assert len(np.unique(shifted)) > 4
    assert np.abs(small(x) - net(x)).max() <= 16 * small.output.scale


def test_a_shift_forgotten_is_caught(monkeypatch):
    _, small, x = network("mlp")
    codes = small.input.quantise(x)
    places = powers._places
    monkeypatch.setattr(powers, "_places", lambda w: (np.sign(places(w)[0]).astype(np.int8), 1))
    assert not np.array_equal(run_by_shifts(small, codes), small.run(codes))


@pytest.mark.parametrize("name", MODELS)
def test_under_pow2_all_scales_are_powers_and_the_noise_is_that_of_8_bits(name):
    predict, params, x = MODELS[name]()
    params, x = {key: p.astype(np.float32) for key, p in params.items()}, x.astype(np.float32)
    net = fold(predict, params, x[:2])
    ranges = convert.calibrated(net, [x])
    small, other = (convert.integers(net, ranges, rule=rule) for rule in ("pow2", "fp32"))
    assert all(np.all(np.frexp(scale)[0] == 0.5) for scale in [small.input.scale, *small.scales.values()])
    loud, quiet = choose.noise(net, small, x), choose.noise(net, other, x)
    assert all(loud[layer] > quiet[layer] - 9 for layer in loud)  # a bit for the weights, and half of one for what flows
    with pytest.raises(ValueError, match=r"of the weights of .* are not: `weight_grids\(net, power=True\)`"):
        convert.integers(net, ranges, grids=convert.weight_grids(net), rule="pow2")


@given(seeds)
def test_a_power_holds_the_range_and_no_smaller_one_does(seed):
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.normal(size=(2, 5)) * 10.0 ** rng.integers(-3, 4), axis=0)
    for scheme in (Scheme(axis=0), Scheme(signed=False, symmetric=False, axis=0)):
        plain, power = (choose_grid(low, high, scheme, power=p) for p in (False, True))
        assert np.all(np.frexp(power.scale)[0] == 0.5)
        assert np.all(power.scale >= plain.scale) and np.all(power.scale < 2 * plain.scale)
    assert choose_grid(-127.0, 1.0, Scheme(), power=True).scale == 1.0


def test_what_shifts_cannot_run_is_told():
    _, small, x = network("mlp", rule="fp32")
    with pytest.raises(ValueError, match="rule fp32 multiplies sums"):
        run_by_shifts(small, small.input.quantise(x))
    predict, params, x = MODELS["mlp"]()
    net = fold(predict, params, x[:2])
    small = convert.integers(net, convert.calibrated(net, [x]), rule="pow2")
    with pytest.raises(ValueError, match="the weights are no powers of two: take `of_powers`"):
        run_by_shifts(small, small.input.quantise(x))
    for bits in (0, 5):
        with pytest.raises(ValueError, match=f"bits={bits}: powers of two that are int8 have 2 to 4 bits"):
            of_powers(net, bits)
    with pytest.raises(ValueError, match=r"the weights of w1: .* not finite"):
        of_powers(net.put(*[replace(net["w1"], w=net["w1"].w * np.nan)]))


def test_dead_channels_and_saved_networks(tmp_path):
    predict, params, x = MODELS["mlp"]()
    params["w1"][:, 2] = 0
    net, grids = of_powers(fold(predict, params, x[:2]))
    small = convert.integers(net, convert.calibrated(net, [x]), grids=grids, rule="pow2")
    small.save(tmp_path / "small.safetensors")
    codes = small.input.quantise(x)
    np.testing.assert_array_equal(run_by_shifts(Network.load(tmp_path / "small.safetensors"), codes), small.run(codes))
    assert not np.any(net["w1"].w[:, 2])
