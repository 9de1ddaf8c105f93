"""Networks of integers as ONNX files: in ONNX Runtime they have our codes, to the bit, and a file that has others is not written."""

import importlib.util
import os
import re
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tally

from tests.test_integer import DTYPES, GEOMETRIES, WINDOWS, alone, drawn_conv, drawn_dense, lenet, pictures, residual, saturating, whole

if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
    tally.not_run("export of integers to ONNX: onnx or onnxruntime is not installed")
    pytest.skip("onnx and onnxruntime are wanted", allow_module_level=True)

import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from engine.export import onnx_integer_forms as table
from engine.export.onnx import ExportError
from engine.export.onnx_integer import Found, export, written
from engine.models import cnn
from engine.quantise import convert
from engine.quantise.folded import fold
from engine.quantise.integer import Add, AvgPool, Codes, Conv, Dense, Flatten, InFloats, MaxPool, Network, Requantise
from engine.quantise.rules import RULES

FORMS = ["codes", "qdq"]


@pytest.fixture(params=DTYPES)
def dtype(request):
    if request.param == "int8" and saturating():
        tally.not_run("int8 in ONNX Runtime: its sums saturate at 16 bits on a processor without VNNI")
        pytest.skip("a processor without VNNI")
    return request.param


def run(path, x, dtype="uint8"):
    """What a user gets who sets no option but the one that codes of uint8 need on a processor without VNNI."""
    options = onnxruntime.SessionOptions()
    if dtype == "uint8":
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def floats(network, shape, n=0):
    return network.input.dequantise(pictures(network.input.dtype, max(n, 1), shape))[:n]


MADE = {"lenet": (lenet, (1, 28, 28)), "residual": (partial(residual, rule="fp32"), (3, 8, 8))}


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("name", MADE)
def test_a_file_has_the_answers_of_the_network(name, qdq, dtype, tmp_path):
    make, shape = MADE[name]
    network, path = make(dtype), tmp_path / "net.onnx"
    report = export(path, network, floats(network, shape, 5), qdq=qdq)
    assert report.runtime == onnxruntime.__version__ and report.bytes == path.stat().st_size and report.nodes == len(kinds(path))
    assert report.examples == 5 + 64 and report.answers.differing == 0
    assert report.layers.differing <= 0.01 * report.layers.compared if qdq else report.layers.differing == 0
    (x,) = onnx.load(path).graph.input
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["n", *shape]
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert domains == ({""} if qdq else {"", "com.microsoft"})
    for n in (1, 7):
        x = network.input.dequantise(whole(np.random.default_rng(n), (n, *shape), dtype))
        assert np.array_equal(run(path, x, dtype), network(x))
    tally.ran("onnxruntime", f"a network of integers as a file, {report.form}", report.answers.compared)


def test_codes_in_and_out(dtype, tmp_path):
    network, path = lenet(dtype), tmp_path / "net.onnx"
    report = export(path, network, floats(network, (1, 28, 28)), codes=True)
    q = pictures(dtype, 20)
    assert np.array_equal(run(path, q, dtype), network.run(q))
    assert kinds(path) == ["QLinearConv", "MaxPool"] * 2 + ["Flatten", "QGemm", "QGemm"]
    assert report.inputs == [("x", f"{dtype} (n, 1, 28, 28), {1 / 255:.9g} (q - 3)")]
    out = network.output
    assert report.outputs == [("y", f"{dtype} (n, 10), {out.scale:.9g} (q - {out.zero_point})")]


def test_scaling_is_a_part_of_the_file(tmp_path):
    network, x = lenet(), np.random.default_rng(1).uniform(0, 255, (9, 1, 28, 28)).astype(np.float32)
    report = export(tmp_path / "net.onnx", network, x, scaled=(33.3, 78.5))
    assert report.answers == Found(0, (1 + 9 + 64) * 10)
    assert np.array_equal(run(tmp_path / "net.onnx", x), network((x - np.float32(33.3)) / np.float32(78.5)))
    with pytest.raises(ValueError, match="leave out codes, or scaled"):
        export(tmp_path / "net.onnx", network, x, codes=True, scaled=(0.5, 1.0))


def test_what_is_told(tmp_path):
    network = lenet()
    lines = str(export(tmp_path / "net.onnx", network, floats(network, (1, 28, 28), 3), opset=17)).splitlines()
    assert re.fullmatch(r".*net.onnx: [\d,]+ bytes, opset 17, 9 nodes, QOperator", lines[0])
    assert lines[1:3] == ["  input   x  float32 (n, 1, 28, 28)", "  output  y  float32 (n, 10)"]
    assert f"on 67 examples by ONNX Runtime {onnxruntime.__version__}" in lines[3]
    assert lines[4] == "  0 of 680 outputs differ" and re.fullmatch(r"  0 of [\d,]+ codes of a layer differ, from the same codes", lines[5])


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("number", range(len(GEOMETRIES)))
def test_a_convolution_of_each_geometry(number, qdq, tmp_path):
    layer, x, w_scale, y, codes = drawn_conv(number, GEOMETRIES[number], "uint8", per_channel=number % 3 > 0, relu=number % 4 == 1)
    if number % 2:
        layer = replace(layer, w_zero_point=np.full(8, 7 - number, np.int32))
    network = alone(layer, x, y, w_scale)
    report = export(tmp_path / "net.onnx", network, x.dequantise(codes), qdq=qdq)
    assert report.layers.differing <= (0.001 * report.layers.compared if qdq else 0)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dense_layer(asymmetric, per_channel, dtype, tmp_path):
    layer, x, w_scale, y, codes = drawn_dense(3, dtype, per_channel=per_channel)
    layer = replace(layer, w_zero_point=np.arange(-5, 6, dtype=np.int32)) if asymmetric else layer
    for qdq in (False, True):
        report = export(tmp_path / "net.onnx", alone(layer, x, y, w_scale), x.dequantise(codes), qdq=qdq)
        assert report.layers.differing <= (0.01 * report.layers.compared if qdq else 0)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_pools_of_each_geometry(window, include, dtype, tmp_path):
    """A mean of codes with an odd zero point has many ties, which fall otherwise when the distance from it is rounded: in the form qdq."""
    z = -7 if dtype == "int8" else 33
    of = Codes(0.03, z, dtype)
    for layer in (MaxPool("pool", **window), AvgPool("pool", **window, zero_point=z, count_include_pad=include)):
        network = Network(of, of, (layer,))
        codes = whole(np.random.default_rng(3), (4, 3, 9, 10), dtype)
        report = export(tmp_path / "net.onnx", network, of.dequantise(codes), codes=True)
        assert report.layers.differing == 0 and np.array_equal(run(tmp_path / "net.onnx", codes, dtype), network.run(codes))
        assert (export(tmp_path / "net.onnx", network, of.dequantise(codes), qdq=True).layers.differing > 0) <= isinstance(layer, AvgPool)


def test_a_relu_whose_zero_is_inside_of_the_codes(tmp_path, dtype):
    layer, x, w_scale, y, codes = drawn_conv(2, {}, dtype, per_channel=True)
    y = replace(y, zero_point=60)
    layer = replace(layer, to=Requantise.between(x, w_scale, y, rule="fp32", relu=True))
    network = alone(layer, x, y, w_scale)
    assert network.run(codes).min() == 60
    export(tmp_path / "a.onnx", network, x.dequantise(codes), codes=True)
    assert kinds(tmp_path / "a.onnx") == ["QLinearConv", "Clip"]
    export(tmp_path / "b.onnx", network, x.dequantise(codes), codes=True, qdq=True)
    assert kinds(tmp_path / "b.onnx")[-2:] == ["Relu", "QuantizeLinear"]


@pytest.mark.parametrize("ratio", [2.0**-10, 1.0, 2.0**8 * 0.999])
def test_sums_of_the_widest_and_the_narrowest_scales(ratio, tmp_path):
    a, y = Codes(ratio, 255), Codes(1.0, 128)
    network = Network(a, y, (MaxPool("pool", 1), Add.between("sum", a, a, y, reads=("pool", "input"))), {"sum": np.float32(1)})
    codes = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert export(tmp_path / "net.onnx", network, a.dequantise(codes)).layers.differing == 0
    assert len(np.unique(network.run(codes))) == (1 if ratio < 0.01 else 2 if ratio > 100 else 65)


def floating(names):
    """A convolutional network in integers, of which these layers stay in floats, and some inputs."""
    params, x = cnn.init_classic(0), np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    net = fold(cnn.predict_classic, params, x[:1])
    return convert.integers(net, convert.calibrated(net, [x]), in_floats=names), x


@pytest.mark.parametrize("qdq", [False, True])
def test_layers_in_floats(qdq, tmp_path):
    network, x = floating(["conv1", "dense2"])
    report = export(tmp_path / "net.onnx", network, x, qdq=qdq)
    assert report.layers.differing <= 0.001 * report.layers.compared
    assert np.abs(run(tmp_path / "net.onnx", x) - network(x)).max() <= 2 * network.output.scale
    if not qdq:
        assert [kind for kind in kinds(tmp_path / "net.onnx") if kind in ("Conv", "QLinearConv", "Gemm", "QGemm")] == [
            "Conv", "QLinearConv", "QGemm", "Gemm", "QGemm",
        ]  # fmt: skip


def test_layers_in_floats_are_saved(tmp_path):
    pytest.importorskip("safetensors")
    network, x = floating(["conv1", "dense2"])
    network.save(tmp_path / "net.safetensors")
    again = Network.load(tmp_path / "net.safetensors")
    assert np.array_equal(again(x), network(x))
    assert [layer.name for layer in again.layers if isinstance(layer, InFloats)] == ["conv1", "dense2"]
    assert again.codes() == network.codes()


def test_the_standard_itself_has_these_codes(tmp_path):
    """Another program than ONNX Runtime: the reference of ONNX, in NumPy."""
    network = residual(rule="fp32")
    export(tmp_path / "net.onnx", network, floats(network, (3, 8, 8)), qdq=True)
    x = network.input.dequantise(pictures("uint8", 4, (3, 8, 8)))
    (theirs,) = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx")).run(None, {"x": x})
    assert np.abs(theirs - network(x)).max() <= 2 * network.output.scale
    assert np.mean(theirs == network(x)) > 0.8


# Refusals.


def other_rule(network, rule):
    first = network.layers[0]
    return replace(network, layers=(replace(first, to=replace(first.to, rule=rule)), *network.layers[1:]))


def with_zeros(values):
    layer, x, w_scale, y, _ = drawn_conv(0, {}, "uint8", per_channel=True)
    return alone(replace(layer, w_zero_point=np.asarray(values, np.int32)), x, y, w_scale)


class Strange(Flatten):
    """A kind that no table knows."""


X = Codes(1.0)
REFUSED = {
    **{rule: (lambda rule=rule: other_rule(lenet(), rule), {}, rf"conv1 requantises by the rule {rule}.*\n.*--rule fp32.*--c")
       for rule in RULES if rule != "fp32"},
    "old": (lenet, {"opset": 12}, "opset 12: there are 13 to .*\n  pass opset=13"),
    "new": (lenet, {"opset": 999}, "opset 999"),
    "no scales": (lambda: replace(lenet(), scales={}), {}, "does not tell the scale of the codes of conv1"),
    "no scale of w": (lambda: replace(lenet(), scales={n: s for n, s in lenet().scales.items() if n != "fc2/w"}), {}, "the weights of fc2"),
    "zeros of channels": (lambda: with_zeros(range(8)), {}, "conv: .* one zero point\n  make them symmetric"),
    "zeros beyond int8": (lambda: with_zeros([200] * 8), {}, "conv: zero points of weights are int8 in ONNX, these reach from 200 to 200"),
    "kind": (lambda: Network(X, X, (Strange("odd"),)), {}, "odd: there is no form in ONNX for a layer of the kind Strange"),
}  # fmt: skip


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_and_nothing_is_written(name, qdq, tmp_path):
    make, options, message = REFUSED[name]
    if name == "zeros of channels" and qdq:
        return  # the standard has them
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the one before")
    network = make()
    shape = (1, 28, 28) if network.layers[0].name == "conv1" else (4, 9, 10)
    with pytest.raises(ExportError, match=message):
        export(path, network, floats(network, shape), qdq=qdq, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"] and path.read_bytes() == b"the one before"


# Files that are wrong are found.


def scaled_by(network, **factors):
    return replace(network, scales={name: np.float32(s * factors.get(name.replace("/", "_"), 1)) for name, s in network.scales.items()})


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("name, factor", [("conv1", 1.02), ("conv2_w", 1.02), ("fc1", 0.98), ("fc2_w", 0.9)])
def test_scales_of_another_network_are_found(name, factor, qdq, tmp_path):
    with pytest.raises(ExportError, match=r"(conv1|conv2|fc1|fc2): [\d,]+ of [\d,]+ codes differ, by up to \d+\n.*convert it again"):
        export(tmp_path / "net.onnx", scaled_by(lenet(), **{name: factor}), floats(lenet(), (1, 28, 28)), qdq=qdq)
    assert not (tmp_path / "net.onnx").exists()


def test_another_scale_of_the_answers_is_found(tmp_path):
    network = lenet()
    network = replace(network, output=replace(network.output, scale=network.output.scale * 1.001))
    with pytest.raises(ExportError, match=r"outputs differ, and each layer is right\n.*another scale than its layers"):
        export(tmp_path / "net.onnx", network, floats(network, (1, 28, 28)))
    assert not (tmp_path / "net.onnx").exists()


def by_arrays(form, change):
    """A form whose arrays are changed after it has written them."""

    def wrong(to, layer, reads, y):
        before = dict(to.arrays)
        form(to, layer, reads, y)
        for name in to.arrays:
            if to.arrays[name] is not before.get(name):
                to.arrays[name] = change(name, to.arrays[name])

    return wrong


def by_attribute(form, kind, **attributes):
    """A form one of whose nodes has other attributes."""

    def wrong(to, layer, reads, y):
        form(to, layer, reads, y)
        for node in to.nodes:
            if node.op_type == kind:
                kept = [a for a in node.attribute if a.name not in attributes]
                del node.attribute[:]
                node.attribute.extend(kept + [onnx.helper.make_attribute(*item) for item in attributes.items()])

    return wrong


def moved(part, by):
    return lambda name, array: array + np.asarray(by, array.dtype) if name.endswith(part) else array


def flipped(name, array):
    return array[..., ::-1] if name == "conv1/w" else array


WRONG = {
    "zero point of x": (Conv, moved("input/zero", 1)),
    "zero point of w": (Conv, moved("conv2/w_zero", 1)),
    "zero point of y": (Dense, moved("fc/zero", 1)),
    "bias": (Dense, moved("fc/bias", 200)),
    "kernel": (Conv, flipped),
    "ratio": (Add, moved("sum/ratio0", 0.01)),
    "half": (Add, moved("sum/start", -0.5)),
    "zero point of a sum": (Add, moved("sum/start", 1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_form_is_found(name, monkeypatch, tmp_path):
    """A convolution's mutant is in codes and in floats; that of a sum is in one form only."""
    kind, change = WRONG[name]
    network = residual(rule="fp32")
    for forms, qdq in ((table.ON_CODES, False), (table.ON_FLOATS, True)):
        if qdq and kind is Add:
            continue
        monkeypatch.setitem(forms, kind, by_arrays(forms[kind], change))
        with pytest.raises(ExportError, match=r"ONNX Runtime does not give what the network gives: .* codes differ"):
            export(tmp_path / "net.onnx", network, floats(network, (3, 8, 8)), qdq=qdq)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "kind, node, attributes",
    [(Conv, "QLinearConv", {"pads": [0, 1, 2, 1]}), (AvgPool, "AveragePool", {"kernel_shape": [4, 3], "strides": [4, 1]})],
)
def test_a_wrong_attribute_is_found(kind, node, attributes, monkeypatch, tmp_path):
    network = residual(rule="fp32")
    monkeypatch.setitem(table.ON_CODES, kind, by_attribute(table.ON_CODES[kind], node, **attributes))
    with pytest.raises(ExportError, match=r"does not give what the network gives|onnx.checker refuses|cannot (run|load)"):
        export(tmp_path / "net.onnx", network, floats(network, (3, 8, 8)))
    assert not list(tmp_path.iterdir())


def test_a_mean_of_zeros_around_the_picture_is_found(monkeypatch, tmp_path):
    of = Codes(0.5, 100)
    network = Network(of, of, (AvgPool("pool", 3, 1, 1, zero_point=100),))
    example = np.zeros((0, 2, 6, 6), np.float32)
    export(tmp_path / "net.onnx", network, example)
    monkeypatch.setitem(table.ON_CODES, AvgPool, by_arrays(table.ON_CODES[AvgPool], moved("pool/around", -100)))
    with pytest.raises(ExportError, match=r"pool: .* codes differ, by up to"):
        export(tmp_path / "net.onnx", network, example)


def test_a_clip_that_is_left_out_is_found(monkeypatch, tmp_path):
    layer, x, w_scale, y, codes = drawn_conv(2, {}, "uint8", per_channel=True)
    y = replace(y, zero_point=60)
    network = alone(replace(layer, to=Requantise.between(x, w_scale, y, rule="fp32", relu=True)), x, y, w_scale)
    monkeypatch.setattr(table, "_clipped", lambda to, of, v, kind, inputs, **more: to(kind, inputs, v.tensor, **more))
    with pytest.raises(ExportError, match=r"conv: .* codes differ"):
        export(tmp_path / "net.onnx", network, x.dequantise(codes))


def test_without_onnx_runtime_the_file_is_checked_only(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    network = lenet()
    report = export(tmp_path / "net.onnx", network, floats(network, (1, 28, 28)))
    assert report.runtime is report.answers is report.layers is None and "not run" in str(report)
    assert (tmp_path / "net.onnx").is_file()


def test_numbers_that_are_none_and_folders_that_are_not_there(tmp_path):
    network = lenet()
    with pytest.raises(ValueError, match="nan"):
        export(tmp_path / "net.onnx", network, np.full((1, 1, 28, 28), np.nan))
    with pytest.raises(OSError, match="could not be written"):
        export(tmp_path / "nowhere" / "net.onnx", network, floats(network, (1, 28, 28)))
    assert not list(tmp_path.iterdir())


def test_layers_whose_names_are_those_of_other_things(tmp_path):
    """x and y are the file's own names, and a layer may be called as a part of another."""
    rng = np.random.default_rng(2)
    of, y = Codes(0.02, 4), Codes(0.5, 7)
    first = Dense(
        "y", rng.integers(-9, 9, (6, 5)).astype(np.int8), np.arange(5, dtype=np.int32), Requantise.between(of, 0.1, of, rule="fp32"), 4
    )
    last = Dense(
        "y/a", rng.integers(-9, 9, (5, 3)).astype(np.int8), np.arange(3, dtype=np.int32), Requantise.between(of, 0.1, y, rule="fp32"), 4
    )
    scales = {name: np.float32(s) for name, s in {"y": 0.02, "y/a": 0.5, "y/w": 0.1, "y/a/w": 0.1}.items()}
    network = Network(of, y, (Flatten("x"), first, last), scales)
    for qdq in (False, True):
        assert export(tmp_path / "net.onnx", network, np.zeros((0, 6), np.float32), qdq=qdq, scaled=(0.5, 2.0)).answers.differing == 0


def test_it_is_written_for_any_opset_between(tmp_path):
    network = residual(rule="fp32")
    for opset in (13, 16, 19, 21):
        for qdq in (False, True):
            data, *_ = written(network, (3, 8, 8), opset=opset, qdq=qdq)
            assert onnx.load_from_string(data).opset_import[0].version == opset
            export(tmp_path / "net.onnx", network, floats(network, (3, 8, 8)), opset=opset, qdq=qdq)
