"""Functions of each number, tables in an integer network: the definition for every code, in C, in ONNX Runtime and in training."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from engine import ops
from engine.export import onnx_integer
from engine.models import cnn, mlp
from engine.quantise import choose, convert, qat
from engine.quantise.folded import fold
from engine.quantise.functions import Function, X
from engine.quantise.integer import Codes, Lookup, Network
from tests import tally
from tests.test_c99 import agrees
from tests.test_integer import described, session

RNG = np.random.default_rng(6)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers_whatever_ran_before():
    RNG.bit_generator.state = START


def hard_swish(y):
    return y * ops.clip(y + 3, min=0, max=6) / 6


ACTIVATIONS = {
    "tanh": ops.tanh, "sigmoid": ops.sigmoid, "gelu": ops.gelu, "silu": ops.silu, "softplus": ops.softplus,
    "elu": partial(ops.elu, alpha=1.3), "leaky_relu": partial(ops.leaky_relu, negative_slope=0.1), "hard_swish": hard_swish,
    "square": ops.square, "swish": lambda y: y * ops.sigmoid(y), "with a branch": lambda y: ops.tanh(y) + y,
}  # fmt: skip
CODES = [Codes(0.04, 131), Codes(0.031, -7, "int8")]


def model(activation, dtype=np.float32):
    """Two products with an activation between, and data that reach far out of where tanh changes."""
    params = {name: RNG.normal(size=shape).astype(dtype) for name, shape in {"a/w": (9, 12), "a/b": 12, "b/w": (12, 5)}.items()}
    return (lambda p, x: activation(x @ p["a/w"] + p["a/b"]) @ p["b/w"]), params, 2 * RNG.normal(size=(200, 9)).astype(dtype)


def folded(activation, **more):
    predict, params, x = model(activation, **more)
    return fold(predict, params, x[:2]), x


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_with_a_function_is_the_model(name, dtype):
    predict, params, x = model(ACTIVATIONS[name], dtype)
    net = fold(predict, params, x[:2])
    assert [layer.kind for layer in net.layers] == ["dense", "function", "dense"] and str(net.layers[1].function) in str(net)
    np.testing.assert_allclose(net(x), predict(params, x), rtol=1e-4 if dtype is np.float32 else 1e-10, atol=1e-4)
    assert net(x).dtype == dtype


def law_of_all_codes(table_of, f, x, y):
    """One code after the other: the code of the function of its number."""
    codes = range(x.low, x.high + 1)
    table = table_of("t", f, x, y)
    for q in codes:
        wanted = y.quantise(f(np.float32(x.scale) * np.float32(q - x.zero_point)))
        assert table(np.array([[q]], x.dtype)) == wanted, q


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("x", CODES, ids=["uint8", "int8"])
@pytest.mark.parametrize("y", [Codes(1 / 128, 128), Codes(0.02, -20, "int8")], ids=["to uint8", "to int8"])
def test_a_table_has_the_definition_for_every_code(name, x, y):
    net, _ = folded(ACTIVATIONS[name])
    law_of_all_codes(Lookup.of, partial(net.layers[1].function, defined=True), x, y)


def test_a_table_read_by_signed_places_is_caught():
    def shifted(name, f, x, y):
        right = Lookup.of(name, f, x, y)
        return replace(right, table=np.roll(right.table, 128 if x.dtype == "int8" else 1))

    for x in CODES:
        with pytest.raises(AssertionError):
            law_of_all_codes(shifted, np.tanh, x, Codes(1 / 128, 128))


def test_strided_codes_and_none():
    table = Lookup.of("t", np.tanh, CODES[1], CODES[0])
    q = RNG.integers(-128, 128, (6, 4, 8)).astype(np.int8)
    assert np.array_equal(table(q[::2, :, ::-1]), table(np.ascontiguousarray(q[::2, :, ::-1])))
    assert table(q[:0]).shape == (0, 4, 8)


NETS = {
    "mlp": lambda: (
        lambda p, x: ops.dense(ops.dense(x, p["w1"], p["b1"], activation="tanh"), p["w2"], p["b2"]),
        mlp.init(0, (12, 16, 4)), RNG.normal(size=(300, 12)).astype(np.float32),
    ),
    "LeNet-5": lambda: (
        partial(cnn.predict_classic, activation="tanh", pool=ops.avg_pool2d), cnn.init_classic(0),
        RNG.normal(size=(300, 1, 28, 28)).astype(np.float32),
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", ["fp32", "rndnu"])
@pytest.mark.parametrize("name", NETS)
def test_networks_with_tanh_in_integers_in_c_and_saved(name, rule, tmp_path):
    predict, params, x = NETS[name]()
    net = fold(predict, params, x[:2])
    small = convert.integers(net, convert.calibrated(net, [x]), rule=rule)
    assert any(isinstance(layer, Lookup) for layer in small.layers)
    assert np.abs(small(x) - net(x)).max() <= 8 * small.output.scale
    assert min(choose.noise(net, small, x).values()) > 20
    codes = small.input.quantise(x)
    assert len(np.unique(small.run(codes))) > 50
    small.save(tmp_path / "net.safetensors")
    assert np.array_equal(Network.load(tmp_path / "net.safetensors").run(codes), small.run(codes))
    assert agrees(small, codes, tmp_path)
    tally.ran("gcc", "tables in C, bit for bit")


@pytest.mark.parametrize("y", CODES, ids=["uint8", "int8"])
@pytest.mark.parametrize("x", CODES, ids=["uint8", "int8"])
def test_a_table_in_c_of_all_types(x, y, tmp_path):
    every = np.arange(256, dtype=np.uint8).view(x.dtype).reshape(1, -1)
    assert agrees(Network(x, y, (Lookup.of("t", lambda v: 5 * np.sin(v), x, y),)), every, tmp_path)


IN_ONNX = {"tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus", "gelu": "Gelu", "hard_swish": "HardSwish"}


@pytest.mark.parametrize("x", CODES, ids=["uint8", "int8"])
@pytest.mark.parametrize("name", IN_ONNX)
def test_onnx_runtime_has_the_codes_by_floats_and_by_a_table(name, x):
    y = Codes(0.021, 3, x.dtype)
    every = np.arange(256, dtype=np.uint8).view(x.dtype).reshape(1, -1)
    ours = Lookup.of("t", partial(folded(ACTIVATIONS[name])[0].layers[1].function, defined=True), x, y)

    def by_floats(node):
        yield node("DequantizeLinear", ["x", "x_s", "x_z"], ["number"])
        yield node(IN_ONNX[name], ["number"], ["function"])
        yield node("QuantizeLinear", ["function", "y_s", "y_z"], ["y"])

    def by_a_table(node):
        yield node("Cast", ["x"], ["place"], to=6)  # int32, of which those below 0 count from the end
        yield node("Gather", ["table", "place"], ["y"])

    for nodes, arrays in ((by_floats, {**described("x", x), **described("y", y)}), (by_a_table, {"table": ours.table})):
        theirs = session(lambda node, nodes=nodes: list(nodes(node)), every, every.shape, y.dtype, arrays)(every)
        np.testing.assert_array_equal(ours(every), theirs)
    tally.ran("onnxruntime", "a function of codes as a table, bit for bit")


@pytest.mark.parametrize("qdq", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_a_network_with_tables_as_an_onnx_file(name, qdq, tmp_path):
    pytest.importorskip("onnxruntime")
    predict, params, x = NETS[name]()
    net = fold(predict, params, x[:2])
    small = convert.integers(net, convert.calibrated(net, [x]))
    report = onnx_integer.export(tmp_path / "net.onnx", small, x[:20], qdq=qdq)
    assert (tmp_path / "net.onnx").is_file() and report.runtime is not None


# Ranges.


def test_what_tanh_reads_has_steps_where_tanh_changes():
    net, x = folded(ops.tanh)
    x = 5 * x
    ranges = convert.calibrated(net, [x])
    low, high = ranges["a"]
    assert -3.2 < low < -2.7 and 2.7 < high < 3.2 and net.layers[0](x).max() > 40
    wide = {**ranges, "a": (float(net.layers[0](x).min()), float(net.layers[0](x).max()))}
    quiet, loud = (choose.noise(net, convert.integers(net, r), x)["b"] for r in (ranges, wide))
    assert quiet > loud + 3
    assert "a" not in choose.noise(net, convert.integers(net, ranges), x)


@pytest.mark.parametrize("size", [1e3, 1e8, 1e20])
def test_however_far_numbers_reach(size):
    net, x = folded(ops.tanh)
    low, high = convert.calibrated(net, [x, np.float32(size) * x])["a"]
    assert -3.3 < low < -2.7 and 2.7 < high < 3.3


def test_ranges_stay_where_others_read_or_nothing_changes():
    _, params, x = model(ops.tanh)
    seen = fold(lambda p, x: (lambda y: ops.tanh(y) @ p["b/w"] + y @ p["b/w"])(x @ p["a/w"]), params, x[:2])
    ranges = convert.calibrated(seen, [x])
    assert ranges["a"][1] == seen.layers[0](x).max()
    flat = fold(lambda p, x: (ops.tanh(x @ p["a/w"]) * 0) @ p["b/w"], params, x[:2])
    assert convert.calibrated(flat, [x])["a"][1] == flat.layers[0](x).max()
    small = convert.integers(flat, convert.calibrated(flat, [x]))
    assert not np.any(small(x))


def test_training_with_rounding_sees_the_tables():
    net, x = folded(ops.gelu)
    ready = qat.prepared(net, convert.calibrated(net, [x]))
    small = ready.integers(ready.params)
    assert np.array_equal(ready.evaluate(ready.params, x), small(x))
    assert np.abs(ready(ready.params, x) - small(x)).max() <= 2 * small.output.scale


def test_a_layer_may_stay_in_floats():
    net, x = folded(ops.tanh)
    ranges = convert.calibrated(net, [x])
    name = net.layers[1].name
    assert np.array_equal(convert.integers(net, ranges, in_floats=[name])(x), convert.integers(net, ranges)(x))


# Written down, and refused.


def test_a_function_is_told_and_made_again():
    f = Function("multiply", (X, Function("clip", (Function("add", (X, 3.0)),), {"min": 0, "max": 6})))
    again = Function.told_by(json.loads(json.dumps(f.told())))
    assert again == f and str(f) == "multiply(x, clip(add(x, 3.0), min=0, max=6))"
    x = RNG.normal(size=7)
    np.testing.assert_array_equal(again(x), x * np.clip(x + 3, 0, 6))


def test_a_function_that_is_nan_somewhere_is_named():
    net, x = folded(lambda y: ops.log(ops.abs(y) + 0.1))
    convert.integers(net, convert.calibrated(net, [x]))
    with np.errstate(invalid="ignore"):
        net, x = folded(ops.sqrt)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="sqrt1 gives is not finite"):
        convert.calibrated(net, [x])
    with pytest.raises(ValueError, match=r"sqrt1: the function of -5 is nan, and that number has a code"):
        convert.integers(net, {"input": (-5, 5), "a": (-5.0, 0.0), "sqrt1": (0, 2), "b": (-9, 9)})


def test_tables_that_cannot_be_are_named():
    for table, kind, said in [
        (np.zeros(256, np.int32), TypeError, "t: a table has codes of int8 or uint8, not int32"),
        (np.zeros(255, np.int8), ValueError, "t: a table has a code for each of 256"),
    ]:
        with pytest.raises(kind, match=said):
            Lookup("t", table, 0, 0)
