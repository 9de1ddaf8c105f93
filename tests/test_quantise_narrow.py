"""Weights as codes in networks of floats: expanded they are the rounded network; dynamic, sums are whole numbers, as in ONNX Runtime."""

from dataclasses import replace

import numpy as np
import pytest

import kernels
from engine import checkpoints, ops
from engine.forms import Coded, Dynamic, coded, in_codes, running
from engine.models import cnn, mlp
from engine.quantise import choose, convert
from engine.quantise.folded import Folded, Layer, fold
from engine.quantise.narrow import Narrow, dynamic, weight_only
from engine.quantise.numbers import Grid, Scheme, dequantise, grid_of
from tests import tally
from tests.test_integer import session
from tests.test_quantise_folded import MODELS

RNG = np.random.default_rng(8)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before():
    RNG.bit_generator.state = START


def model(name, dtype=np.float32):
    predict, params, x = MODELS[name]()
    params, x = {key: np.asarray(p, dtype) for key, p in params.items()}, x.astype(dtype)
    return fold(predict, params, x[:2]), x


def every(net, bits):
    return dict.fromkeys([layer.name for layer in net.weighted], bits)


SCHEMES = {
    "int8": (Scheme(), None),
    "int4 by 32": (Scheme(bits=4), 32),
    "int4 by 7": (Scheme(bits=4), 7),
    "uint4 affine by 16": (Scheme(bits=4, signed=False, symmetric=False), 16),
    "int3": (Scheme(bits=3), None),
    "int2 affine by 8": (Scheme(bits=2, symmetric=False), 8),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_weights_alone_give_the_rounded_network_to_the_bit_and_saved_too(name, dtype, scheme, tmp_path):
    net, x = model(name, dtype)
    of, group = SCHEMES[scheme]
    grids = convert.weight_grids(net, of, group=group)
    small = weight_only(net, grids)
    wanted = convert.rounded(net, grids)(x)
    assert small(x).dtype == dtype and np.array_equal(small(x), wanted)
    small.save(tmp_path / "small.safetensors")
    again = Narrow.load(tmp_path / "small.safetensors")
    assert np.array_equal(again(x), wanted) and again.bytes == small.bytes
    assert len(again.arrays) == len(small.arrays)


def test_bytes_are_those_of_codes_scales_zero_points_and_biases():
    net = Folded((Layer("a", "dense", ("input",), RNG.normal(size=(100, 30)).astype(np.float32), np.zeros(30, np.float32)),))
    biases, groups = 4 * 30, 4 * 30  # 100 inputs by 32 are 4 groups
    for scheme, group, wanted in [
        (Scheme(), None, 100 * 30 + 4 * 30 + biases),
        (Scheme(bits=4), None, 100 * 30 // 2 + 4 * 30 + biases),
        (Scheme(bits=4), 32, 100 * 30 // 2 + 4 * groups + biases),
        (Scheme(bits=4, symmetric=False), 32, 100 * 30 // 2 + 4 * groups + groups + biases),
        (Scheme(bits=2), 32, 100 * 30 // 4 + 4 * groups + biases),
    ]:
        small = weight_only(net, convert.weight_grids(net, scheme, group=group))
        assert small.bytes == wanted == sum(a.nbytes for a in small.arrays.values())
        assert small.weights[1] == 100 * 30 + 30


def test_groups_lose_less_where_some_inputs_have_large_weights():
    w = RNG.normal(size=(128, 16)).astype(np.float32)
    w[::40] *= 30
    net = Folded((Layer("a", "dense", ("input",), w, np.zeros(16, np.float32)),))
    x = RNG.normal(size=(40, 128)).astype(np.float32)
    lost = [
        choose.noise(net, form(net, convert.weight_grids(net, Scheme(bits=4), group=group)), x)["a"]
        for form in (weight_only, dynamic)
        for group in (None, 32, 8)
    ]
    assert lost[0] < lost[1] - 1 < lost[2] - 4 and lost[3] < lost[4] - 1 < lost[5] - 4


# Dynamic.


def exact(layer, form, x):
    """What a layer gives before its bias, one number of x after the other: codes by fractions of float32, sums in Python's integers."""
    w, w_scale = form.unpacked(), np.asarray(form.grid.scale)
    rows = [x] if form.inputs == "batch" else list(x[:, None])
    done = []
    for part in rows:
        low, high = min(np.float32(0), part.min()), max(np.float32(0), part.max())
        s = np.float32(high - low) / np.float32(255) or np.float32(1)
        z = int(min(max(round(float(-low / s)), 0), 255))
        q = np.clip(np.rint(part / s) + z, 0, 255).astype(int).astype(object) - z
        if layer.kind == "dense":
            sums = q @ w.astype(int).astype(object)
        else:
            sums = ops.conv2d.definition(q.astype(np.int64), w.astype(np.int64), **layer.options)
        along = w_scale.reshape(-1, 1, 1) if layer.kind == "conv" else w_scale
        done.append(sums.astype(np.float32) * (s * along))
    return np.concatenate(done)


LAYERS = [
    ("dense", {}, (17, 9), (6, 17)), ("conv", {}, (4, 3, 3, 3), (3, 3, 8, 7)), ("conv", {"padding": 1}, (4, 3, 3, 3), (3, 3, 8, 7)),
    ("conv", {"padding": ((0, 2), (1, 0)), "stride": 2}, (4, 3, 3, 3), (3, 3, 8, 7)),
    ("conv", {"groups": 2, "padding": 2, "dilation": 2}, (4, 2, 3, 3), (3, 4, 8, 7)),
]  # fmt: skip


def a_layer(kind, options, w, x, shift=1.5):
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options} if kind == "conv" else {}
    w = RNG.normal(size=w).astype(np.float32)
    b = np.zeros(w.shape[0 if kind == "conv" else 1], np.float32)
    return Layer("a", kind, ("input",), w, b, options=options), (RNG.normal(size=x) + shift).astype(np.float32)


def law_of_whole_numbers(kind, options, w, x, inputs, backend):
    layer, x = a_layer(kind, options, w, x)
    small = dynamic(Folded((layer,)), inputs=inputs)
    with kernels.use(backend):
        np.testing.assert_array_equal(small(x), exact(layer, small.net.layers[0].w, x))


@pytest.mark.parametrize("backend", [None, *(["cpu"] if "cpu" in kernels.backends() else [])])
@pytest.mark.parametrize("inputs", ["row", "batch"])
@pytest.mark.parametrize("kind, options, w, x", LAYERS)
def test_sums_are_those_of_whole_numbers(kind, options, w, x, inputs, backend):
    law_of_whole_numbers(kind, options, w, x, inputs, backend)


def test_padding_by_another_code_is_caught(monkeypatch):
    padded = coded.padded
    monkeypatch.setattr(coded, "padded", lambda x, by: padded(x, by, fill=-9.0))
    with pytest.raises(AssertionError):
        law_of_whole_numbers(*LAYERS[2], "row", None)


def test_a_zero_point_forgotten_is_caught(monkeypatch):
    codes = Dynamic._codes
    monkeypatch.setattr(Dynamic, "_codes", lambda self, x, of: (*codes(self, x, of)[:2], np.int32(0)))
    for layer in LAYERS[:2]:
        with pytest.raises(AssertionError):
            law_of_whole_numbers(*layer[:2], *layer[2:], "row", None)


@pytest.mark.parametrize("bits, group", [(8, None), (4, None), (4, 32), (8, 7)])
def test_groups_are_added_up(bits, group):
    layer, x = a_layer("dense", {}, (50, 9), (6, 50))
    grids = convert.weight_grids(Folded((layer,)), Scheme(bits=bits), group=group)
    small, rough = dynamic(Folded((layer,)), grids), convert.rounded(Folded((layer,)), grids)
    low, high = np.minimum(x.min(axis=1), 0), np.maximum(x.max(axis=1), 0)
    s = ((high - low) / 255)[:, None]
    np.testing.assert_array_less(np.abs(small(x) - rough(x)), 1e-4 + 0.5 * s * np.abs(rough["a"].w).sum(axis=0))


@pytest.mark.parametrize("name", MODELS)
def test_an_answer_does_not_hang_on_the_batch_and_is_near(name):
    net, x = model(name)
    small = dynamic(net)
    assert min(choose.noise(net, small, x).values()) > 25
    for i in range(len(x)):
        np.testing.assert_array_equal(small(x[i : i + 1]), small(x)[i : i + 1])
    louder = np.concatenate([x, 100 * x[:1]])
    assert not np.array_equal(dynamic(net, inputs="batch")(louder)[: len(x)], dynamic(net, inputs="batch")(x))


@pytest.mark.parametrize("inputs", ["row", "batch"])
def test_dynamic_networks_are_saved(inputs, tmp_path):
    for name in MODELS:
        net, x = model(name)
        small = dynamic(net, convert.weight_grids(net, Scheme(bits=4), group=16), inputs=inputs)
        small.save(tmp_path / "small.safetensors")
        np.testing.assert_array_equal(Narrow.load(tmp_path / "small.safetensors")(x), small(x))


def test_functions_are_saved(tmp_path):
    params = {"a/w": RNG.normal(size=(5, 6)), "b/w": RNG.normal(size=(6, 3))}
    x = RNG.normal(size=(4, 5))
    net = fold(lambda p, x: (lambda y: y * ops.clip(y + 3, min=0, max=6) / 6)(x @ p["a/w"]) @ p["b/w"], params, x)
    small = dynamic(net)
    small.save(tmp_path / "small.safetensors")
    np.testing.assert_array_equal(Narrow.load(tmp_path / "small.safetensors")(x), small(x))


@pytest.mark.parametrize("kind, options, w, x", LAYERS[:3])
def test_a_dynamic_layer_has_the_bits_of_onnx_runtime(kind, options, w, x):
    onnx = pytest.importorskip("onnx")
    for shift in (-3.0, 0.0, 1.5, 4.0):
        layer, x_ = a_layer(kind, options, w, x, shift)
        small = dynamic(Folded((layer,)), inputs="batch")
        ours, form = small(x_), small.net.layers[0].w

        def nodes(node, layer=layer):
            yield node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
            if layer.kind == "dense":
                yield node("MatMulInteger", ["q", "w", "z"], ["sums"])
            else:
                yield node("ConvInteger", ["q", "w", "z"], ["sums"], pads=[layer.options["padding"]] * 4)
            yield node("Cast", ["sums"], ["whole"], to=onnx.TensorProto.FLOAT)
            yield node("Mul", ["s", "w_s"], ["scale"])
            yield node("Mul", ["whole", "scale"], ["y"])

        scale = form.grid.scale.reshape(-1, 1, 1) if kind == "conv" else form.grid.scale
        theirs = session(lambda node, n=nodes: list(n(node)), x_, ours.shape, "float32", {"w": form.unpacked(), "w_s": scale})(x_)
        np.testing.assert_array_equal(ours, theirs)
    tally.ran("onnxruntime", "DynamicQuantizeLinear and products of integers, bit for bit", 4)


# Any model, on forms.


@pytest.mark.parametrize("how", [{}, {"bits": 4, "group": 32}, {"inputs": "row"}, {"inputs": "batch", "bits": 4}])
def test_a_model_as_it_is_written_runs_on_codes(how):
    for predict, params, x in (
        (mlp.predict, mlp.init(0, (20, 16, 5)), RNG.normal(size=(7, 20)).astype(np.float32)),
        (cnn.predict_3x3, cnn.init_3x3(0, (1, 12, 12)), RNG.normal(size=(3, 1, 12, 12)).astype(np.float32)),
    ):
        formed = in_codes(params, **how)
        kinds = {name: type(p) for name, p in formed.items() if np.ndim(params[name]) in (2, 4)}
        assert set(kinds.values()) == {Dynamic if "inputs" in how else Coded}
        net = fold(predict, params, x[:2])
        grids = convert.weight_grids(net, Scheme(bits=how.get("bits", 8)), group=how.get("group"))
        small = dynamic(net, grids, inputs=how["inputs"]) if "inputs" in how else weight_only(net, grids)
        np.testing.assert_array_equal(running(predict)(formed, x), small(x))
    only = in_codes(params, names=["conv1/w"])
    assert isinstance(only["conv1/w"], Coded) and only["dense1/w"] is params["dense1/w"]


def test_rows_of_more_axes_and_other_uses_of_a_weight():
    w = RNG.normal(size=(6, 4)).astype(np.float32)
    x = RNG.normal(size=(3, 5, 6)).astype(np.float32)
    formed = in_codes({"w": w}, inputs="row")
    y = running(lambda p, x: ops.matmul(x, p["w"]))(formed, x)
    flat = running(lambda p, x: ops.matmul(x, p["w"]))(formed, x.reshape(15, 6))
    np.testing.assert_array_equal(y.reshape(15, 4), flat)
    np.testing.assert_array_equal(running(lambda p: ops.sum(p["w"]))(formed), ops.sum(formed["w"].expand()))


# Edges and errors.


@pytest.mark.parametrize("form", [weight_only, dynamic, lambda net: dynamic(net, inputs="batch")])
@pytest.mark.parametrize("name", ["mlp", "cnn3x3"])
def test_one_example_none_and_nothing_but_zeros(form, name):
    net, x = model(name)
    assert form(net)(x[:0]).shape == net(x[:0]).shape and form(net)(x[:1]).shape == (1, net(x).shape[1])
    np.testing.assert_allclose(form(net)(0 * x), net(0 * x), atol=0.05)


def test_a_dead_channel_a_constant_and_the_smallest_numbers():
    layer, x = a_layer("dense", {}, (17, 9), (6, 17))
    dead = layer.w.copy()
    dead[:, 3] = 0
    net = Folded((replace(layer, w=dead),))
    for form in (weight_only, dynamic):
        small = form(net)
        assert not np.any(small(x)[:, 3])
        assert np.all(np.isfinite(small(x * np.float32(1e-44)))) and np.all(np.isfinite(small(np.full_like(x, 7.0))))
    tiny = Folded((replace(layer, w=layer.w * np.float32(1e-42)),))
    assert np.all(np.isfinite(dynamic(tiny)(x)))


def test_what_cannot_be_is_named():
    net, x = model("mlp")
    for spoiled, said in ((np.nan, "w1: "), (np.inf, "w1: what is to become codes is not finite")):
        bad = x.copy()
        bad[1, 2] = spoiled
        with pytest.raises(ValueError, match=said):
            dynamic(net)(bad)
    with pytest.raises(ValueError, match=r"w2: .*symmetric weights"):
        dynamic(net, {**convert.weight_grids(net), "w2": grid_of(net["w2"].w, Scheme(symmetric=False, axis=1))})
    with pytest.raises(ValueError, match="no grid of w2"):
        weight_only(net, {"w1": convert.weight_grids(net)["w1"]})
    with pytest.raises(ValueError, match="w1: the scale is of shape"):
        weight_only(net, {**convert.weight_grids(net), "w1": convert.weight_grids(net)["w2"]})
    with pytest.raises(ValueError, match="the weights of w1: a scheme has 2 to 8 bits, not 0"):
        convert.weight_grids(net, bits={"w1": 0})
    with pytest.raises(ValueError, match="the weights of w1: a group is of 1 or more"):
        convert.weight_grids(net, group=0)
    with pytest.raises(ValueError, match='"row" or each "batch", not \'token\''):
        dynamic(net, inputs="token")
    wide = Folded((Layer("big", "dense", ("input",), np.ones((66_312, 1), np.float32), np.zeros(1, np.float32)),))
    with pytest.raises(OverflowError, match="big: a sum of 66,312 products may leave int32"):
        dynamic(wide)
    conv, _ = a_layer(*LAYERS[1])
    with pytest.raises(ValueError, match="a convolution has a scale for each channel"):
        Dynamic.rounded(conv.w, grid_of(conv.w, Scheme(axis=1, group=2)))
    with pytest.raises(ValueError, match=r"w1: 1 of .* not finite"):
        in_codes({"w1": np.array([[np.nan, 1.0]])})


def test_another_file_is_refused(tmp_path):
    net, x = model("mlp")
    path = tmp_path / "integers.safetensors"
    convert.integers(net, convert.calibrated(net, [x])).save(path)
    with pytest.raises(checkpoints.CheckpointError, match="holds no narrow network"):
        Narrow.load(path)


def test_an_expanded_weight_is_that_of_its_grid():
    w = RNG.normal(size=(5, 3))
    form = Coded.rounded(w, Grid(Scheme(bits=4), np.float64(0.3), np.int8(0)))
    np.testing.assert_array_equal(form.expand(), dequantise(form.unpacked(), form.grid))
    assert form.dtype == np.float64 and form.shape == (5, 3) and form.codes.nbytes == 8 and form.count == 0
