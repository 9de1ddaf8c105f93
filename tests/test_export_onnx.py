"""What is exported gives, in ONNX Runtime, what the model gives: each op of the table, whole models, any batch. Else there is no file."""

import importlib.util
import os
import re
import sys

import numpy as np
import pytest
import tally
from strategies import arguments

from engine import forms, nets, ops
from engine.domain import Pick
from engine.graph import GraphError, trace
from engine.lowrank import factorise
from engine.models import MODELS, cnn, mlp
from engine.traced import OPS

if importlib.util.find_spec("onnx") is None or importlib.util.find_spec("onnxruntime") is None:
    tally.not_run("export to ONNX: onnx or onnxruntime is not installed")
    pytest.skip("onnx and onnxruntime are wanted", allow_module_level=True)

import onnx
import onnxruntime

from engine.export.onnx import FORMS, OLDEST, OPSET, ExportError, export, written
from engine.export.onnx_forms import node
from engine.export.onnx_verify import verified


def rows(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def run(path, *xs):
    """What ONNX Runtime gives."""
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    return session.run(None, {v.name: x for v, x in zip(session.get_inputs(), xs, strict=True)})


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


# The table.

SEEDS = 40


def compared(f, args, opset=OPSET):
    """Export f at these arguments, and compare it there."""
    graph = trace(f, {}, *args, batch=False)

    def write(graph):
        return written(graph, {}, opset=opset)[:2]

    verified(write(graph)[0], f, graph, {}, [args], write)


def without_form(name, options):
    """Why the table does not have this call; the rest of it does."""
    if name == "getitem":
        key = options["key"] if isinstance(options["key"], tuple) else (options["key"],)
        arrays = [k for k in key if isinstance(k, (np.ndarray, bool))]
        return len(arrays) > 1 or (len(arrays) == 1 and any(isinstance(k, (bool, int)) for k in key))
    return name == "vector_norm" and options["ord"] not in (1, 2, np.inf, -np.inf)


def drawn(name, seed):
    """A call of the op in float32, its arguments and parameters."""
    args, options = arguments(OPS[name], Pick(np.random.default_rng(seed)))
    if name == "astype":
        options["dtype"] = np.dtype(("f8", "i4", "i8", "?")[seed % 4])
    return [a.astype(np.float32) if a.dtype == np.float64 else a for a in map(np.asarray, args)], options


def tried(name, seed, opset=OPSET):
    """Whether a call is exported and compared; None if the table says in words that it has no form for it."""
    args, options = drawn(name, seed)

    def f(_, *xs):
        return OPS[name](*xs, **options)

    y = f(None, *args)
    if any(0 in part.shape for part in (*args, *(y if type(y) is tuple else (y,)))) or without_form(name, options):
        with pytest.raises(ExportError, match=f"call 1, .*{name}"):
            compared(f, args)
        return False
    compared(f, args, opset)
    return True


@pytest.mark.parametrize("name", sorted(FORMS.keys() & OPS.keys()))
def test_each_op_of_the_table_gives_what_the_op_gives(name):
    ran = sum(tried(name, seed) for seed in range(SEEDS))
    assert ran >= SEEDS / 5
    tally.ran("onnxruntime", "an op of the table", ran)


@pytest.mark.parametrize("name", sorted(name for name in FORMS.keys() & OPS.keys() if len(OPS[name].args) == 1 and not OPS[name].variadic))
def test_an_op_for_any_batch(name):
    """The first axis left open, where the drawn parameters allow it; then compared with other numbers of examples."""
    ran = 0
    for seed in range(SEEDS):
        (x, *_), options = drawn(name, seed)

        def f(_, x, options=options):
            return OPS[name](x, **options)

        try:
            graph = trace(f, {}, x)
        except (ValueError, IndexError):  # a shape, a key or a width that is of this batch
            continue
        try:
            data, *_ = written(graph, {})
        except ExportError as e:
            assert re.search("is open|without elements|norm of order|more than one array", str(e)), e
            continue
        batches = [np.resize(x, (n, *x.shape[1:])) for n in (2, 5)]
        verified(data, f, graph, {}, [[x] for x in batches], lambda graph: written(graph, {})[:2])
        ran += 1
    assert ran or name in ("broadcast_to", "sum_to")  # whose shape is drawn for one batch
    tally.ran("onnxruntime", "an op for any batch", ran)


@pytest.mark.parametrize("opset", [OLDEST, 17, 18, 20])
def test_an_older_opset_is_right_or_refused(opset):
    refused = set()
    for name in sorted(FORMS.keys() & OPS.keys()):
        for seed in range(3):
            try:
                tried(name, seed, opset)
            except ExportError as e:
                assert re.search(
                    rf"call 1, .*{name} is written as (\w+), as it is from opset \d+ on, and this is {opset}\n  pass opset=\d+", str(e)
                ), e
                refused.add(name)
    assert ("gelu" in refused) == (opset < 20) and ("mean" in refused) == (opset < 18) and "conv2d" not in refused and "sum" not in refused


UFUNCS = sorted(FORMS.keys() - OPS.keys())


@pytest.mark.parametrize("name", UFUNCS)
def test_comparisons_and_roundings(name):
    x1, x2 = rows(4, 3), rows(3, seed=1)
    x1[0] = np.inf, np.nan, x2[2]
    ufunc = getattr(np, name)
    masks = name.startswith(("bitwise", "logical", "invert"))
    compared(lambda _, *xs: ufunc(*[x > 0 if masks else x for x in xs]), [x1, x2][: ufunc.nin])
    if ufunc.nin == 2 and name.startswith(("less", "greater", "equal")):
        compared(lambda _, x: ufunc(x, 0.1), [x1])  # the number is a float32 then, as NumPy has it
        compared(lambda _, x: ufunc(x, np.float64(0.1)), [x1])


# Models.


@pytest.mark.parametrize("name", MODELS)
def test_a_model_for_any_batch(name, tmp_path):
    shape = (7,) if MODELS[name].task == "regression" else (1, 20, 17)
    params = {key: p + rows(*p.shape) / 10 for key, p in MODELS[name].init(0, shape, 10, np.float32).items()}
    report = export(tmp_path / "model.onnx", MODELS[name].predict, params, rows(4, *shape))
    assert report.inputs == [("x", f"float32 (n, {str(shape)[1:]}".replace(",)", ")"))]
    for n in (1, 2, 9):
        x = rows(n, *shape, seed=n)
        (y,) = run(tmp_path / "model.onnx", x)
        np.testing.assert_allclose(y, MODELS[name].predict(params, x), rtol=1e-4, atol=1e-4)


def everything():
    """A net of all layers, its predict, its arrays and a batch."""
    net = nets.serial(
        nets.conv(4, 3, padding="same"), nets.batch_norm(), nets.relu, nets.dropout(0.5),
        nets.residual(nets.conv(4, 3, padding=1, groups=2), nets.gelu, nets.layer_norm(), nets.silu),
        nets.concat(nets.max_pool(3, stride=1, padding=1), nets.avg_pool(3, stride=1, padding=1), nets.conv(3, 1, activation="tanh")),
        nets.conv(6, (3, 1), stride=2, dilation=(1, 2)), nets.leaky_relu, nets.elu, nets.softplus,
        nets.concat(nets.global_avg_pool, nets.serial(nets.flatten, nets.dense(4, bias=False))), nets.reshape(2, 5), nets.log_softmax,
    )  # fmt: skip
    params, state = net.init(0, (2, 7, 5))
    arrays = {key: np.abs(x + 0.3 * rows(*x.shape)) if key in state else x + 0.3 * rows(*x.shape) for key, x in {**params, **state}.items()}
    return lambda p, x: net(p, x, p), arrays, rows(3, 2, 7, 5)


def test_a_net_of_all_layers(tmp_path):
    report = export(tmp_path / "net.onnx", *everything())
    assert report.runtime == onnxruntime.__version__ and [c.examples for c in report.compared] == [(1,), (3,)]
    assert report.bytes == (tmp_path / "net.onnx").stat().st_size
    found = kinds(tmp_path / "net.onnx")
    assert {"LayerNormalization", "Gelu", "Concat", "AveragePool", "MaxPool", "ReduceMean"} <= {*found}
    assert "Sqrt" not in found and found.count("Conv") == 4  # batch norm's scale is worked out, and biases are the convolutions' own


def test_lenet_is_a_node_a_layer(tmp_path):
    params = cnn.init_classic(0)
    export(tmp_path / "a.onnx", lambda p, x: cnn.predict_classic(p, x, activation="tanh", pool=ops.avg_pool2d), params, rows(2, 1, 28, 28))
    assert kinds(tmp_path / "a.onnx") == [*["Conv", "Tanh", "AveragePool"] * 2, "Reshape", *["Gemm", "Tanh"] * 2, "Gemm"]


def test_a_bias_goes_into_the_convolution_only_if_nobody_else_uses_it(tmp_path):
    def f(p, x):
        y = ops.conv2d(x, p["w"])
        return ops.bias_activation(ops.stop_gradient(y), p["b"], activation="relu") + y, ops.bias_activation(ops.conv2d(x, p["w"]), p["b"])

    export(tmp_path / "f.onnx", f, {"w": rows(3, 2, 2, 2), "b": rows(3)}, rows(2, 2, 4, 4))
    assert [len(node.input) for node in onnx.load(tmp_path / "f.onnx").graph.node if node.op_type == "Conv"] == [2, 3]


def test_what_follows_the_batch(tmp_path):
    def f(p, x):
        flat = ops.reshape(x, shape=(-1,)) + len(x)
        whole = ops.broadcast_to(p["w"], shape=(len(x) + 1, 6))[1:] + x[: len(x) - 1].sum(axis=0) / len(x)
        return {"flat": flat, "parts": (whole, ops.reshape(x, shape=(3 * len(x), 2, 1))[:, None, ..., 0], x[len(x) - 1], x[-1, ::-1])}

    export(tmp_path / "f.onnx", f, {"w": rows(6)}, rows(4, 6))


def test_several_inputs_and_outputs(tmp_path):
    def f(p, left, ids):
        y = left @ p["table"].T + np.where(left[:, :1] > 0, ids, 1.5)
        return {"y": y, "more": (ops.take(p["table"], ids, axis=0), left, p["table"])}

    names = {"left": "numbers", "more/0": "rows"}
    report = export(tmp_path / "f.onnx", f, {"table": rows(5, 3)}, (rows(4, 3), np.arange(20).reshape(4, 5) % 5), names=names)
    assert [name for name, _ in report.inputs] == ["numbers", "ids"]
    assert [name for name, _ in report.outputs] == ["y", "rows", "more/1", "more/2"]
    assert "rows" in str(report) and "float64 (n, 5)" in str(report) and "opset 21" in str(report)


def test_a_model_for_one_size_of_batch(tmp_path):
    def f(p, x):
        return x * np.arange(len(x), dtype=np.float32)[:, None]

    with pytest.raises(GraphError, match="array of numbers for this batch"):
        export(tmp_path / "f.onnx", f, {}, rows(4, 3))
    report = export(tmp_path / "f.onnx", f, {}, rows(4, 3), batch=False)
    assert report.inputs == [("x", "float32 (4, 3)")]


def test_float64_where_the_runtime_has_it(tmp_path):
    params = mlp.init(0, (6, 4, 3), dtype=np.float64)
    report = export(tmp_path / "m.onnx", mlp.predict, params, rows(2, 6, dtype=np.float64))
    assert max(c.allowed for c in report.compared) < 1e-12
    with pytest.raises(ExportError, match="export parameters and example in float32"):
        export(tmp_path / "c.onnx", cnn.predict_classic, cnn.init_classic(0, dtype=np.float64), rows(2, 1, 28, 28, dtype=np.float64))
    assert not (tmp_path / "c.onnx").exists()


def test_factors_of_weights_are_two_products(tmp_path):
    params = mlp.init(0, (20, 16, 12, 4))
    formed = factorise(params, {"w1": 3, "w2": 2})
    report = export(tmp_path / "m.onnx", forms.running(mlp.predict, like=formed), forms.flat(formed), rows(3, 20))
    assert kinds(tmp_path / "m.onnx") == [*["MatMul", "Gemm", "Relu"] * 2, "Gemm"] and report.bytes < 4 * sum(
        p.size for p in params.values()
    )


# What is refused, and what is left then.


def refused(tmp_path, f, x, says, **options):
    (tmp_path / "model.onnx").write_bytes(b"the one before")
    with pytest.raises(ExportError, match=says):
        export(tmp_path / "model.onnx", f, {"w": rows(3, 3)}, x, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"the one before"


@pytest.mark.parametrize(
    "f, says",
    [
        (lambda p, x: ops.tanh(ops.cumprod(ops.exp(x), axis=1)), r"call 2, v2 = cumprod\(v1, axis=1\): cumprod has no form"),
        (lambda p, x: ops.vector_norm(x, axis=1, ord=3), "norm of order 3"),
        (lambda p, x: ops.roll(x, shift=1, axis=0), "examples of the batch, whose number is open"),
        (lambda p, x: ops.split(ops.concat(x, x), indices_or_sections=2)[0], "equal parts"),
        (lambda p, x: ops.var(x, axis=0, correction=1), "correction of 1"),
        (lambda p, x: ops.pad(x, pad_width=((1, 0), (0, 0)), mode="wrap"), "repeats examples"),
        (lambda p, x: x[:, [0, 1], None][:, 0, 0] + x[np.array([0]), np.array([1])], "more than one array"),
        (lambda p, x: ops.concat(x[:, :0], x, axis=1), "without elements"),
    ],
)
def test_what_has_no_form_is_named(tmp_path, f, says):
    refused(tmp_path, f, rows(4, 3), says)


def test_names(tmp_path):
    def f(p, x):
        return x @ p["w"]

    refused(tmp_path, f, rows(4, 3), "two things are called 'y'", names={"x": "y"})
    refused(tmp_path, f, rows(4, 3), "two things are called 'w'", names={"y": "w"})
    refused(tmp_path, f, rows(4, 3), "there is no z among x, y", names={"z": "w"})
    params = {"y": rows(3, 3), "y0": rows(3)}  # names that outputs would have, and those in a comparison at every call
    report = export(tmp_path / "model.onnx", lambda p, y1: (y1 @ p["y"], ops.tanh(y1 + p["y0"])), params, rows(2, 3))
    assert [name for name, _ in report.inputs + report.outputs] == ["y1", "y0_", "y1_"]


def test_an_opset_that_is_not_there(tmp_path):
    refused(tmp_path, lambda p, x: x, rows(4, 3), "opset 12: there are 13 to .*\n  pass opset=13", opset=12)
    refused(tmp_path, lambda p, x: x, rows(4, 3), "pass opset=", opset=10_000)


MUTANTS = {
    "avg_pool2d": lambda to, x, **_: to("AveragePool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), strides=(1, 1)),  # without the padding
    "concat": lambda to, *xs, axis: to("Concat", *xs[::-1], axis=axis),
    "conv2d": lambda to, x, w, *, stride, padding, dilation, groups: to("Conv", x, w, pads=(1, 1, 1, 1), group=groups),  # without strides
    "dense": lambda to, x, w, b, *, activation: to("Gemm", x, w, b),
    "gelu": lambda to, x, *, approximate: to("Gelu", x, approximate="tanh"),
    "leaky_relu": lambda to, x, *, negative_slope: to("LeakyRelu", x, alpha=0.011),
    "log_softmax": lambda to, x, *, axis: to("LogSoftmax", x, axis=1),
    "mean": lambda to, x, *, axis, keepdims: to("Cast", to("ReduceMean", x, to.integers([2, 3]), keepdims=0), to=11),  # to float64
    "normalise": lambda to, x, w, b, *, axis, eps: (to("LayerNormalization", x, w, b, epsilon=1e-4), None, None),
    "relu": node("Abs"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_line_in_the_table_is_caught_and_named(name, tmp_path, monkeypatch):
    predict, params, x = everything()
    params["dense1/b"] = rows(10)
    monkeypatch.setitem(FORMS, name, MUTANTS[name])
    with pytest.raises(ExportError, match=rf"call \d+, v\d.* = {name}\(|onnx.checker refuses"):
        export(
            tmp_path / "net.onnx",
            lambda p, x: ops.dense(predict(p, x), p["w"], p["b"], activation="relu"),
            {**params, "w": rows(5, 3), "b": rows(3)},
            x,
        )
    assert not list(tmp_path.iterdir())


def test_without_the_runtime_the_report_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = export(tmp_path / "m.onnx", mlp.predict, mlp.init(0, (6, 4, 3)), rows(2, 6))
    assert report.runtime is None and "not run, for ONNX Runtime is not installed" in str(report)
    assert (tmp_path / "m.onnx").is_file()


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="could not be written"):
        export(tmp_path / "nowhere" / "m.onnx", mlp.predict, mlp.init(0, (6, 4, 3)), rows(2, 6))
