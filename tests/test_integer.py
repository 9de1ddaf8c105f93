"""Integer layers: sums equal those of whole numbers of any size, codes equal ONNX Runtime's, and there is no float between."""

import platform
from contextlib import nullcontext
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest

import kernels
from engine import checkpoints, ops
from engine.export import onnx_integer
from engine.interpret import Interpreter, interpreting, running
from engine.ops.requantisation import RESCALE
from engine.ops.windows import sides
from engine.quantise import integer
from engine.quantise.integer import Add, AvgPool, Codes, Conv, Dense, Flatten, MaxPool, Network, Requantise, whole_bias
from engine.quantise.rules import RULES
from tests import tally
from tests.test_requantise import ORACLE

DTYPES = ["uint8", "int8"]
BACKENDS = ["definition", *(["cpu"] if "cpu" in kernels.backends() else [])]


def on(backend):
    return nullcontext() if backend == "definition" else kernels.use(backend, require=("conv2d_codes", "matmul_codes"))


def whole(rng, shape, dtype):
    """Codes, the extreme ones often."""
    about = np.iinfo(dtype)
    x = rng.integers(about.min, about.max + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([about.min, about.max], shape), x).astype(dtype)


def zero_point(rng, dtype):
    about = np.iinfo(dtype)
    return int(rng.choice([0, about.min, about.max, rng.integers(about.min, about.max)]))


GEOMETRIES = [
    {}, {"stride": 2}, {"stride": (2, 3)}, {"padding": 1}, {"padding": (2, 1)}, {"padding": ((0, 2), (1, 0))}, {"dilation": 2},
    {"dilation": (1, 2), "padding": 1}, {"groups": 2}, {"groups": 2, "stride": 2, "padding": 1}, {"groups": 4, "padding": 1},
    {"groups": 4, "stride": 2, "dilation": 2, "padding": 2}, {"stride": 3, "padding": 2, "dilation": (2, 1)}, {"kernel": 1},
    {"kernel": 1, "stride": 2, "groups": 4}, {"kernel": 5, "padding": 2},
]  # fmt: skip


def drawn_conv(seed, geometry, dtype, *, per_channel, rule="fp32", relu=False):
    """A convolution of 4 channels to 8, the codes it reads and writes, the scale of its weights, and some codes."""
    rng = np.random.default_rng([seed, len(dtype)])
    geometry = dict(geometry)
    groups, kernel = geometry.get("groups", 1), geometry.pop("kernel", 3)
    x = Codes(float(rng.uniform(0.01, 0.1)), zero_point(rng, dtype), dtype)
    w = whole(rng, (8, 4 // groups, kernel, kernel), np.int8)
    w_scale = rng.uniform(0.001, 0.01, 8 if per_channel else ()).astype(np.float32)
    y = Codes(float(x.scale * w_scale.mean() * 9000 * np.sqrt(w[0].size) / 60), zero_point(rng, dtype), dtype)
    bias = rng.integers(-20_000, 20_000, 8).astype(np.int32)
    layer = Conv("conv", w, bias, Requantise.between(x, w_scale, y, rule=rule, relu=relu), x.zero_point, **geometry)
    return layer, x, w_scale, y, whole(rng, (2, 4, 9, 10), dtype)


def drawn_dense(seed, dtype, *, per_channel, rule="fp32", k=37, n=11):
    rng = np.random.default_rng([seed, len(dtype)])
    x = Codes(float(rng.uniform(0.01, 0.1)), zero_point(rng, dtype), dtype)
    w_scale = rng.uniform(0.001, 0.01, n if per_channel else ()).astype(np.float32)
    y = Codes(float(x.scale * w_scale.mean() * 9000 * np.sqrt(k) / 60), zero_point(rng, dtype), dtype)
    bias = rng.integers(-20_000, 20_000, n).astype(np.int32)
    layer = Dense("fc", whole(rng, (k, n), np.int8), bias, Requantise.between(x, w_scale, y, rule=rule), x.zero_point)
    return layer, x, w_scale, y, whole(rng, (5, k), dtype)


# Sums.


class Sums:
    """In place of a requantisation, for a layer that is asked for its sums."""

    mantissa = np.ones(1, np.int64)


def exact_sums(layer, x):
    """By numbers that do not run out."""
    v = 0 if layer.w_zero_point is None else layer.w_zero_point.astype(np.int64)
    shifted = x.astype(np.int64) - layer.zero_point
    if isinstance(layer, Dense):
        return shifted @ (layer.w.astype(np.int64) - v) + layer.bias
    w = layer.w.astype(np.int64) - np.reshape(v, (-1, 1, 1, 1))
    geometry = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    return ops.conv2d.definition(shifted, w, **geometry) + layer.bias[:, None, None]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("asymmetric", [False, True])
def test_sums_are_those_of_whole_numbers(backend, dtype, asymmetric):
    rng = np.random.default_rng(0)
    for seed, geometry in enumerate(GEOMETRIES):
        conv, *_, x = drawn_conv(seed, geometry, dtype, per_channel=False)
        dense, *_, rows = drawn_dense(seed, dtype, per_channel=False)
        for layer, codes in ((conv, x), (dense, rows)):
            v = rng.integers(-128, 128, len(layer.bias)).astype(np.int32) if asymmetric else None
            layer = replace(layer, to=Sums(), w_zero_point=v)
            with on(backend):
                sums = layer.sums(codes)
                assert sums.dtype == np.int32
                assert np.array_equal(sums, exact_sums(layer, codes))
    tally.ran(backend, "an integer layer's sums are exact", 2 * len(GEOMETRIES))


def test_sums_without_the_zero_point_are_caught():
    layer, *_, x = drawn_dense(1, "uint8", per_channel=False)
    layer = replace(layer, to=Sums(), zero_point=7)
    assert not np.array_equal(replace(layer, zero_point=0).sums(x), exact_sums(layer, x))


@pytest.mark.parametrize("shape", [(0, 4, 9, 10), (1, 4, 3, 3)])
def test_no_and_one_picture(shape):
    layer, *_ = drawn_conv(0, {}, "uint8", per_channel=True)
    y = layer(np.ones(shape, np.uint8))
    assert y.dtype == np.uint8 and y.shape == (shape[0], 8, shape[2] - 2, shape[3] - 2)


def test_strided_codes():
    layer, *_, x = drawn_conv(3, {"padding": 1}, "uint8", per_channel=True)
    for view in (x[::-1], x[..., ::2], x.transpose(0, 1, 3, 2)):
        assert np.array_equal(layer(view), layer(view.copy()))


@pytest.mark.parametrize("kind", [Conv, Dense])
def test_a_layer_whose_sums_could_leave_int32_is_refused(kind):
    to = Requantise.between(Codes(1.0), 1.0, Codes(2.0), rule="fp32")

    def layer(k, value=127, bias=0):
        w = np.full((1, k, 1, 1) if kind is Conv else (k, 1), value, np.int8)
        return kind("wide", w, np.array([bias], np.int32), to)

    full = layer(66_311, bias=127)
    x = np.full((1, 66_311, 1, 1) if kind is Conv else (1, 66_311), 255, np.uint8)
    assert np.array_equal(full.sums(x), exact_sums(full, x))
    with pytest.raises(OverflowError, match=r"wide: .*66,312 products.*66,311"):
        layer(66_312, value=0)
    with pytest.raises(OverflowError, match=r"wide: .*output 0 may leave int32"):
        layer(66_311, value=-128)
    with pytest.raises(OverflowError, match=r"bias is 2,147,483,647"):
        layer(1, bias=2**31 - 1)
    with pytest.raises(OverflowError, match="does not fit"):
        whole_bias([1.0], 1e-6, [1e-6])
    assert whole_bias([0.5, -0.25], 0.1, [0.01, 0.1]).tolist() == [500, -25]


def test_arrays_that_do_not_fit_a_layer_are_named():
    to = Requantise.between(Codes(1.0), 1.0, Codes(2.0), rule="fp32")
    with pytest.raises(TypeError, match=r"fc: .*float64"):
        Dense("fc", np.ones((2, 3)), np.zeros(3, np.int32), to)
    with pytest.raises(ValueError, match=r"fc: .*3 outputs"):
        Dense("fc", np.ones((2, 3), np.int8), np.zeros(2, np.int32), to)
    with pytest.raises(ValueError, match=r"fc: .*3 outputs"):
        three_to_two = Requantise.between(Codes(1.0), [1.0, 1.0], Codes(2.0), rule="fp32")
        Dense("fc", np.ones((2, 3), np.int8), np.zeros(3, np.int32), three_to_two)
    with pytest.raises(ValueError, match=r"fc: no code of x is 256"):
        Dense("fc", np.ones((2, 3), np.int8), np.zeros(3, np.int32), to, 256)


# ONNX Runtime.


def session(nodes, x, y_shape, y_dtype, arrays):
    """A function of codes that ONNX Runtime computes, or skip."""
    onnx = pytest.importorskip("onnx")
    kinds = {"uint8": onnx.TensorProto.UINT8, "int8": onnx.TensorProto.INT8, "float32": onnx.TensorProto.FLOAT}
    graph = onnx.helper.make_graph(
        nodes(onnx.helper.make_node), "integers",
        [onnx.helper.make_tensor_value_info("x", kinds[str(x.dtype)], x.shape)],
        [onnx.helper.make_tensor_value_info("y", kinds[y_dtype], y_shape)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    return run_of(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString(), x.dtype)


def run_of(data, dtype):
    """A file as a function of codes of that dtype, in ONNX Runtime, or skip."""
    try:
        import onnxruntime
    except ImportError:
        tally.not_run("integer layers against ONNX Runtime: onnxruntime is not installed")
        pytest.skip("onnxruntime is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if dtype != np.int8:
        options.add_session_config_entry("session.x64quantprecision", "1")  # else its sums saturate on a processor without VNNI
    elif saturating():
        tally.not_run("int8 against ONNX Runtime: its sums saturate at 16 bits on a processor without VNNI")
        pytest.skip("a processor without VNNI")
    run = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda codes: run.run(["y"], {"x": codes})[0]


def exported(network, codes):
    """What ONNX Runtime makes of codes by the file that is written of a network, or skip."""
    pytest.importorskip("onnx")
    data, *_ = onnx_integer.written(network, codes.shape[1:], codes=True)
    return run_of(data, codes.dtype)(codes)


def alone(layer, x, y, w_scale):
    """A network of one layer."""
    return Network(x, y, (layer,), {layer.name: np.float32(y.scale), f"{layer.name}/w": w_scale})


def saturating():
    """Whether this machine is an x86 that is not known to have the products of four bytes."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    features = pytest.importorskip("kernels.cpu.features").of_machine()
    return not (features.get("avx512vnni") or features.get("avxvnni"))


def pads(padding):
    (top, bottom), (left, right) = sides(padding)
    return [top, left, bottom, right]


def pairs(value):
    return list(value) if isinstance(value, tuple) else [value, value]


def described(name, codes):
    return {f"{name}_s": np.float32(codes.scale), f"{name}_z": np.array(codes.zero_point, codes.dtype)}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_has_the_codes_of_onnx_runtime(dtype, per_channel):
    for seed, geometry in enumerate(GEOMETRIES):
        layer, x, w_scale, y, codes = drawn_conv(seed, geometry, dtype, per_channel=per_channel)
        ours = layer(codes)
        theirs = exported(alone(layer, x, y, w_scale), codes)
        assert np.array_equal(ours, theirs)
        assert len(np.unique(ours)) > 20  # not all at the ends
        for backend in BACKENDS[1:]:
            with on(backend):
                assert np.array_equal(layer(codes), theirs)
    tally.ran("onnxruntime", "QLinearConv, bit for bit", len(GEOMETRIES))


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_has_the_codes_of_onnx_runtime(dtype, asymmetric):
    for seed in range(8):
        layer, x, w_scale, y, codes = drawn_dense(
            seed, dtype, per_channel=seed % 2 == 1, k=[1, 7, 64, 400][seed % 4], n=[1, 10, 33][seed % 3]
        )
        layer = replace(layer, bias=layer.bias * 0)  # QLinearMatMul has none
        v = np.random.default_rng(seed).integers(-9, 9, np.shape(w_scale)).astype(np.int8) if asymmetric else None
        if asymmetric:
            layer = replace(layer, w_zero_point=np.broadcast_to(v, layer.bias.shape).astype(np.int32))
        weights = {"fc_w": layer.w, "fc_w_s": w_scale, "fc_w_z": np.zeros(np.shape(w_scale), np.int8) if v is None else v}
        arrays = {**described("x", x), **described("y", y), **weights}
        names = ["x", "x_s", "x_z", "fc_w", "fc_w_s", "fc_w_z", "y_s", "y_z"]
        theirs = session(lambda node, names=names: [node("QLinearMatMul", names, ["y"])], codes, layer(codes).shape, dtype, arrays)(codes)
        assert np.array_equal(layer(codes), theirs)
        for backend in BACKENDS[1:]:
            with on(backend):
                assert np.array_equal(layer(codes), theirs)
    tally.ran("onnxruntime", "QLinearMatMul, bit for bit", 8)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "fp32"])
def test_another_rule_is_caught_against_onnx_runtime_or_differs_by_one(rule):
    differ = 0
    for seed, geometry in enumerate(GEOMETRIES):
        layer, x, w_scale, y, codes = drawn_conv(seed, geometry, "uint8", per_channel=True)
        other = replace(layer, to=Requantise.between(x, w_scale, y, rule=rule))
        apart = np.abs(other(codes).astype(int) - layer(codes))
        assert rule == "pow2" or apart.max() <= 1
        differ += np.count_nonzero(apart)
    assert {"pow2": differ > 1000, "q31-double": 0 < differ < 100}.get(rule, differ < 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_with_a_bias_has_the_codes_of_onnx_runtime(dtype):
    for seed in range(8):
        layer, x, w_scale, y, codes = drawn_dense(seed, dtype, per_channel=seed % 2 == 1)
        assert np.array_equal(layer(codes), exported(alone(layer, x, y, w_scale), codes))
    tally.ran("onnxruntime", "QGemm, bit for bit", 8)


# Networks.


def lenet(dtype="uint8", rule="fp32"):
    """Two convolutions with relu and pooling, two dense layers, each with the codes that its numbers fill."""
    rng = np.random.default_rng(0)
    before = x = Codes(1 / 255, 3, dtype)
    codes, scales, layers = pictures(dtype, 8), {}, []
    for name, shape in [("conv1", (6, 1, 5, 5)), ("conv2", (16, 6, 5, 5)), ("fc1", (400, 84)), ("fc2", (84, 10))]:
        kind, outputs, relu = (Conv, shape[0], True) if len(shape) == 4 else (Dense, shape[1], name == "fc1")
        w = np.clip(np.rint(rng.normal(0, 40, shape)), -127, 127).astype(np.int8)
        bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
        w_scale = rng.uniform(0.001, 0.003, outputs).astype(np.float32)
        layer = kind(name, w, bias, Sums(), before.zero_point, **({"padding": 2} if name == "conv1" else {}))
        widest = np.abs(layer.sums(codes)).max() * before.scale * w_scale.mean()
        after = Codes(float(np.float32(widest / (250 if relu else 120))), np.iinfo(dtype).min if relu else np.iinfo(dtype).min + 130, dtype)
        layers.append(replace(layer, to=Requantise.between(before, w_scale, after, rule=rule, relu=relu)))
        layers += {"conv1": [MaxPool("pool1", 2)], "conv2": [MaxPool("pool2", 2), Flatten("flat")]}.get(name, [])
        scales[name], scales[name + "/w"], before = np.float32(after.scale), w_scale, after
        codes = Network(x, after, tuple(layers)).run(pictures(dtype, 8))
    return Network(x, before, tuple(layers), scales)


def residual(dtype="uint8", rule="q31-single"):
    """A convolution, a second one added to the first, mean pooling and a dense layer."""
    rng = np.random.default_rng(5)
    x, h, r, y = Codes(0.02, 100, dtype), Codes(0.05, 0, dtype), Codes(0.03, 90, dtype), Codes(0.11, 120, dtype)
    w1, w2, w3 = (rng.integers(-127, 128, shape).astype(np.int8) for shape in [(4, 3, 3, 3), (4, 4, 3, 3), (4, 5)])
    bias = rng.integers(-500, 500, 5).astype(np.int32)
    scales = {"conv1": h.scale, "conv1/w": 0.01, "conv2": r.scale, "conv2/w": 0.005, "sum": h.scale, "fc": y.scale, "fc/w": 0.002}
    return Network(x, y, (
        Conv("conv1", w1, bias[:4], Requantise.between(x, 0.01, h, rule=rule, relu=True), x.zero_point, padding=1, stride=2),
        Conv("conv2", w2, bias[1:], Requantise.between(h, 0.005, r, rule=rule), h.zero_point, padding=1),
        Add.between("sum", h, r, h, reads=("conv1", "conv2"), relu=True),
        AvgPool("mean", 4, zero_point=h.zero_point),
        Flatten("flat"),
        Dense("fc", w3, bias, Requantise.between(h, 0.002, y, rule=rule), h.zero_point),
    ), {name: np.float32(s) for name, s in scales.items()})  # fmt: skip


def pictures(dtype, n=4, shape=(1, 28, 28)):
    return np.random.default_rng(n).integers(0, 128, (n, *shape)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_has_the_codes_of_onnx_runtime(dtype):
    network, x = lenet(dtype), pictures(dtype, 64)
    theirs = exported(network, x)
    assert np.array_equal(network.run(x), theirs)
    assert len(np.unique(theirs)) > 50
    for backend in BACKENDS[1:]:
        with on(backend):
            assert np.array_equal(network.run(x), theirs)
    tally.ran("onnxruntime", "a network of integers, bit for bit")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_those_of_the_oracle_under_each_rule(rule, dtype):
    layer, x, w_scale, y, codes = drawn_conv(7, {"groups": 2, "padding": 1}, dtype, per_channel=True, rule=rule, relu=True)
    sums, ratio = exact_sums(layer, codes[:1]), RULES[rule].ratio(x.scale, w_scale, y.scale)
    wanted = [
        [
            [max(layer.to.zero_point, min(y.high, ORACLE[rule](int(a), Fraction(float(m))) + y.zero_point)) for a in row]
            for row in sums[0, o]
        ]
        for o, m in enumerate(ratio)
    ]
    assert np.array_equal(layer(codes[:1])[0], wanted)


def test_relu_is_the_least_code():
    layer, x, w_scale, y, codes = drawn_conv(2, {}, "int8", per_channel=True)
    y = replace(y, zero_point=-20)
    plain, relu = (replace(layer, to=Requantise.between(x, w_scale, y, rule="fp32", relu=relu)) for relu in (False, True))
    assert plain(codes).min() < -20
    assert np.array_equal(relu(codes), np.maximum(plain(codes), -20))


# No float between.


class NoFloats(np.ndarray):
    """Codes of which no float can be made, nor of anything that is computed from them."""

    def __array_finalize__(self, of):
        if self.dtype.kind not in "biu":
            raise AssertionError(f"{self.dtype} between the input and the logits")


class Forbid(Interpreter):
    """What an op gives is of that kind too, and so is all that a requantisation makes on its way."""

    def __init__(self, below):
        self.below, self.seen = below, []

    def apply(self, op, args, params):
        assert all(np.asarray(a).dtype.kind in "iu" for a in args)
        self.seen.append(op.name)
        codes = self.below.apply(op, [np.asarray(a) for a in args], params)
        if op in (ops.requantise, ops.conv2d_codes, ops.matmul_codes):
            assert np.array_equal(op.definition(*[np.asarray(a).view(NoFloats) for a in args], **params), codes)
        return codes.view(NoFloats)


def run_without_floats(network, x):
    with interpreting(Forbid(running())) as forbid:
        y = network.run(x.view(NoFloats))
    assert isinstance(y, NoFloats) and forbid.seen
    return np.asarray(y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("make", [lenet, residual])
def test_there_is_no_float_between_input_and_logits(make, rule, backend):
    network = make("uint8", rule)
    x = pictures("uint8", 4, (1, 28, 28) if make is lenet else (3, 8, 8))
    with on(backend):
        assert np.array_equal(run_without_floats(network, x), network.run(x))
    tally.ran(backend, "a network without a float")


def test_a_float_between_is_caught(monkeypatch):
    network, x = lenet(), pictures("uint8")
    monkeypatch.setitem(RESCALE, "fp32", lambda a, m, s: np.rint(np.float32(1) * a * m * 0.5**s).astype(np.int64))
    with pytest.raises(AssertionError, match="float64 between"):
        run_without_floats(network, x)


def test_the_kernels_serve(monkeypatch):
    if "cpu" not in kernels.backends():
        tally.not_run("kernels under a network of integers: Numba is not installed")
        pytest.skip("no kernels")
    network, x = residual("uint8", "fp32"), pictures("uint8", 4, (3, 8, 8))
    wanted = network.run(x)

    def refuse(*_, **__):
        raise AssertionError("the definition ran")

    for op in (ops.conv2d_codes, ops.matmul_codes):
        monkeypatch.setattr(op, "definition", refuse)
        monkeypatch.setattr(op, "_known", {})
    with pytest.raises(AssertionError, match="the definition ran"):
        network.run(x)
    with on("cpu"):
        assert np.array_equal(network.run(x), wanted)


# Pooling and sums.


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [{"kernel_size": 2}, {"kernel_size": 3}, {"kernel_size": 3, "stride": 2}, {"kernel_size": (2, 2)}])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_convolution_that_is_pooled_at_once_has_the_codes_of_two_layers(window, asymmetric, backend):
    layer, x, _, y, codes = drawn_conv(4, {"padding": 1}, "uint8", per_channel=True)
    layer, pool = replace(layer, w_zero_point=np.arange(8, dtype=np.int32) if asymmetric else None), MaxPool("pool", **window)
    with on(backend):
        assert np.array_equal(Network(x, y, (layer, pool)).run(codes), pool(layer(codes)))


WINDOWS = [
    {"kernel_size": 2}, {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (2, 3), "stride": (3, 1), "padding": ((0, 1), (2, 0))}, {"kernel_size": (9, 10)}, {"kernel_size": 1},
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
def test_the_largest_code_of_each_window(window, dtype):
    x = whole(np.random.default_rng(3), (2, 3, 9, 10), dtype)
    y = MaxPool("pool", **window)(x)
    assert y.dtype == dtype
    assert np.array_equal(y, ops.max_pool2d(x.astype(float), **window))


def mean_of_fractions(x, layer):
    """In Python's fractions, one window after the other."""
    rows, columns = (layer.kernel_size,) * 2 if isinstance(layer.kernel_size, int) else layer.kernel_size
    (top, bottom), (left, right) = sides(layer.padding)
    step = (rows, columns) if layer.stride is None else (layer.stride,) * 2 if isinstance(layer.stride, int) else layer.stride
    around = ((0, 0), (0, 0), (top, bottom), (left, right))
    fill = layer.zero_point if layer.count_include_pad else 0
    values, there = np.pad(x.astype(int), around, constant_values=fill), np.pad(np.ones(x.shape, int), around)
    p, q = ((size - k) // s + 1 for size, k, s in zip(values.shape[2:], (rows, columns), step, strict=True))
    y = np.zeros((*x.shape[:2], p, q), int)
    for at in np.ndindex(y.shape):
        n, c, i, j = at
        window = n, c, slice(i * step[0], i * step[0] + rows), slice(j * step[1], j * step[1] + columns)
        count = rows * columns if layer.count_include_pad else int(there[window].sum())
        y[at] = round(Fraction(int(values[window].sum()), count))  # Python's round: ties to even
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("include", [True, False])
def test_the_mean_code_of_each_window(window, dtype, include):
    rng = np.random.default_rng(4)
    x = whole(rng, (2, 3, 9, 10), dtype)
    for z in (0, 5, zero_point(rng, dtype)):
        layer = AvgPool("mean", **window, zero_point=z, count_include_pad=include)
        y = layer(x)
        assert y.dtype == dtype
        assert np.array_equal(y, mean_of_fractions(x, layer))


def test_a_mean_with_ties_rounded_otherwise_is_caught(monkeypatch):
    layer = AvgPool("mean", 2, zero_point=3)
    x = whole(np.random.default_rng(4), (2, 3, 8, 8), "uint8")
    assert np.array_equal(layer(x), mean_of_fractions(x, layer))
    monkeypatch.setattr(integer, "half_even", lambda v, n: (2 * v + n) // (2 * n))
    assert not np.array_equal(layer(x), mean_of_fractions(x, layer))


def drawn_sum(seed, dtype, **more):
    rng = np.random.default_rng([seed, len(dtype)])
    a, b, y = (Codes(float(np.float32(rng.uniform(0.01, 0.1))), zero_point(rng, dtype), dtype) for _ in range(3))
    layer = Add.between("sum", a, b, y, reads=("a", "b"), **more)
    return layer, a, b, y, whole(rng, (2, 3, 40, 40), dtype), whole(rng, (2, 3, 40, 40), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_of_branches_is_rounded_once(dtype):
    for seed in range(6):
        layer, a, b, y, p, q = drawn_sum(seed, dtype, relu=seed == 5)
        m, n = (int(mantissa) for mantissa in layer.mantissa)
        assert 2**20 <= max(m, n) <= 2**21
        assert abs(Fraction(m, 2**layer.shift) / Fraction(a.scale / y.scale) - 1) < Fraction(1, 2**16)
        exact = (p.astype(object) - a.zero_point) * m + (q.astype(object) - b.zero_point) * n
        wanted = np.array([(2 * v + 2**layer.shift) // 2 ** (layer.shift + 1) for v in exact.ravel()]).reshape(p.shape)
        low = y.zero_point if seed == 5 else y.low
        assert np.array_equal(layer(p, q), np.clip((wanted + y.zero_point).astype(int), low, y.high))


@pytest.mark.parametrize("ratio", [2.0**-10, 2.0**8 * 0.999, 1.0])
def test_a_sum_of_the_widest_codes_stays_in_int32(ratio):
    for z in (0, 255):
        layer = Add.between("sum", Codes(ratio, z), Codes(ratio, z), Codes(1.0, 128), reads=("a", "b"))
        x = np.array([[0, 255]], np.uint8)
        assert layer(x, x).tolist() == [[max(0, min(255, round(2 * ratio * (int(v) - z)) + 128)) for v in x[0]]]


def test_what_cannot_be_added_is_named():
    with pytest.raises(ValueError, match=r"sum: the scales .* 512 times"):
        Add.between("sum", Codes(512.0), Codes(1.0), Codes(1.0), reads=("a", "b"))
    layer = drawn_sum(0, "uint8")[0]
    with pytest.raises(ValueError, match=r"sum: codes of one shape"):
        layer(np.zeros((2, 3), np.uint8), np.zeros((1, 3), np.uint8))


def near_onnx_runtime(node, ours, x, arrays, dtype):
    """How many of the codes of that node are not ours; they are next to them."""
    theirs = session(lambda make: [node(make)], x, ours.shape, dtype, arrays)(x)
    apart = np.abs(ours.astype(int) - theirs)
    assert apart.max() <= 1
    return np.count_nonzero(apart) / apart.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_next_to_that_of_onnx_runtime(dtype):
    """QLinearAdd multiplies and adds in float32, with or without fused products as the processor has them: no integers have its bits."""
    names = ["x", "x_s", "x_z", "b", "b_s", "b_z", "y_s", "y_z"]
    for seed in range(6):
        layer, a, b, y, p, q = drawn_sum(seed, dtype)
        arrays = {**described("x", a), **described("b", b), **described("y", y), "b": q}
        differ = near_onnx_runtime(lambda make: make("QLinearAdd", names, ["y"], domain="com.microsoft"), layer(p, q), p, arrays, dtype)
        assert differ < 0.001


@pytest.mark.parametrize("scale", [2.0**-5, 0.03])
def test_a_mean_is_next_to_that_of_onnx_runtime(scale):
    """QLinearAveragePool adds up floats: a tie falls as the rounding of its sum has it, unless the scale is a power of two."""
    for window in WINDOWS[:3]:
        layer, codes = AvgPool("mean", **window, zero_point=7, count_include_pad=False), Codes(scale, 7)
        x = whole(np.random.default_rng(8), (2, 3, 9, 10), "uint8")
        stride = pairs(layer.stride or layer.kernel_size)
        shape = {"kernel_shape": pairs(layer.kernel_size), "strides": stride, "pads": pads(layer.padding)}
        names = ["x", "x_s", "x_z", "y_s", "y_z"]
        differ = near_onnx_runtime(
            lambda make, shape=shape, names=names: make("QLinearAveragePool", names, ["y"], domain="com.microsoft", **shape),
            layer(x), x, {**described("x", codes), **described("y", codes)}, "uint8",
        )  # fmt: skip
        assert differ == 0 or (scale == 0.03 and differ < 0.1)


# Wiring, files.


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("window", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}])
def test_pooling_before_the_codes_is_pooling_after(rule, window):
    conv, x, _, y, codes = drawn_conv(3, {"padding": 1}, "int8", per_channel=True, rule=rule, relu=True)
    pool = MaxPool("pool", **window)
    assert np.array_equal(Network(x, y, (conv, pool)).run(codes), pool(conv(codes)))
    again = MaxPool("again", 1)
    assert np.array_equal(Network(x, y, (conv, pool, again)).run(codes), pool(conv(codes)))


def test_a_convolution_that_others_read_is_not_pooled_first():
    conv, x, _, y, codes = drawn_conv(3, {"padding": 1}, "uint8", per_channel=True)
    network = Network(x, y, (conv, MaxPool("pool", 1), Add.between("sum", y, y, y, reads=("conv", "pool"))))
    assert np.array_equal(network.run(codes), network.layers[2](conv(codes), conv(codes)))


@pytest.mark.parametrize("make", [lenet, residual])
@pytest.mark.parametrize("rule", RULES)
def test_what_is_saved_runs_to_the_same_bits(make, rule, tmp_path):
    pytest.importorskip("safetensors")
    network = make("uint8", rule)
    x = pictures("uint8", 4, (1, 28, 28) if make is lenet else (3, 8, 8))
    network.save(tmp_path / "net.safetensors")
    again = Network.load(tmp_path / "net.safetensors")
    assert np.array_equal(again.run(x), network.run(x))
    assert np.array_equal(again(x / np.float32(255)), network(x / np.float32(255)))
    assert (again.input, again.output) == (network.input, network.output)
    assert {name: s.tolist() for name, s in again.scales.items()} == {name: s.tolist() for name, s in network.scales.items()}
    for one, other in zip(network.layers, again.layers, strict=True):
        assert type(one) is type(other)
        for part in fields(one):
            a, b = getattr(one, part.name), getattr(other, part.name)
            assert isinstance(a, Requantise) or (np.array_equal(a, b) and type(a) is type(b))


@pytest.mark.parametrize("low, high, each", [(-8, 7, 2), (-7, 7, 2), (-2, 1, 4), (-1, 1, 4), (-9, 7, 1), (-8, 8, 1), (0, 0, 4)])
def test_weights_of_few_bits_are_saved_several_a_byte(low, high, each, tmp_path):
    pytest.importorskip("safetensors")
    layer, x, _, y, codes = drawn_conv(5, {}, "uint8", per_channel=True)
    few = replace(layer, w=np.clip(layer.w, low, high))
    few.w[0, 0, 0, 0], few.w[0, 0, 0, 1] = low, high
    Network(x, y, (few,)).save(tmp_path / "net")
    (again,) = Network.load(tmp_path / "net").layers
    assert again.w.dtype == np.int8 and np.array_equal(again.w, few.w) and np.array_equal(again(codes), few(codes))
    stored = checkpoints.load(tmp_path / "net")[0]["layers"][f"{few.name}/w"]
    assert stored.size == -(-few.w.size // each)


def test_a_geometry_of_pairs_is_saved(tmp_path):
    pytest.importorskip("safetensors")
    layer, x, _, y, codes = drawn_conv(5, {"stride": (2, 3), "padding": ((0, 2), (1, 0))}, "int8", per_channel=True)
    v = np.arange(8, dtype=np.int32)
    Network(x, y, (replace(layer, w_zero_point=v),)).save(tmp_path / "net")
    (again,) = Network.load(tmp_path / "net").layers
    assert (again.stride, again.padding) == ((2, 3), ((0, 2), (1, 0)))
    assert np.array_equal(again(codes), replace(layer, w_zero_point=v)(codes))


def test_another_file_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    checkpoints.save(tmp_path / "run", {"params": {"w": np.ones(2)}}, {"epoch": 3})
    with pytest.raises(checkpoints.CheckpointError, match="holds no integer network, but params"):
        Network.load(tmp_path / "run")


def test_every_array_of_a_network_is_whole():
    for network in (lenet(), residual()):
        for record in (*network.layers, *(layer.to for layer in network.layers if hasattr(layer, "to"))):
            for part in fields(record):
                value = getattr(record, part.name)
                assert not isinstance(value, (float, np.floating))
                assert not isinstance(value, np.ndarray) or value.dtype.kind in "iu"


def test_layers_that_cannot_be_joined_are_named():
    x, pool, flat = Codes(1.0), MaxPool("pool", 2), Flatten("flat")
    with pytest.raises(ValueError, match=r"flat reads conv; before it there are input, pool"):
        Network(x, x, (pool, replace(flat, reads=("conv",))))
    with pytest.raises(ValueError, match=r"sum takes 2, but reads pool"):
        Network(x, x, (pool, Add.between("sum", x, x, x, reads=("pool",))))
    with pytest.raises(ValueError, match="two layers are called pool"):
        Network(x, x, (pool, pool))
    with pytest.raises(ValueError, match=r"mean takes codes with the zero point 7, pool gives them with 0"):
        Network(x, x, (pool, AvgPool("mean", 2, zero_point=7)))
    with pytest.raises(ValueError, match=r"codes of pool have the zero point 0, the network's output has 5"):
        Network(x, Codes(1.0, 5), (pool,))
    with pytest.raises(ValueError, match="one layer or more"):
        Network(x, x, ())
    with pytest.raises(TypeError, match="reads codes of uint8, these are float64"):
        Network(x, x, (pool,)).run(np.zeros((1, 1, 2, 2)))


def test_a_branch_from_the_input():
    x, y = Codes(1.0), Codes(2.0)
    network = Network(x, y, (MaxPool("pool", 1), Add.between("sum", x, x, y, reads=("pool", "input"))))
    assert network.run(np.array([[[[0, 7, 255]]]], np.uint8)).tolist() == [[[[0, 7, 255]]]]


def test_codes_stand_for_floats():
    codes = Codes(0.5, 3)
    assert codes.quantise([-9, -1.5, 0, 0.25, 0.75, 0.8, 200]).tolist() == [0, 0, 3, 3, 5, 5, 255]
    assert codes.dequantise(np.array([0, 3, 5], np.uint8)).tolist() == [-1.5, 0.0, 1.0]
    assert Codes(0.5, -3, "int8").quantise(np.float32([-100, np.inf])).tolist() == [-128, 127]
    with pytest.raises(ValueError, match="nan"):
        codes.quantise([1.0, np.nan])
    for wrong in ({"scale": 0.0}, {"scale": np.inf}, {"scale": 1.0, "zero_point": 256}, {"scale": 1.0, "dtype": "int4"}):
        with pytest.raises(ValueError, match=r"positive|holds|not int4"):
            Codes(**wrong)
