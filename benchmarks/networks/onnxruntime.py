"""ONNX Runtime: the network as a graph with its weights inside, input and output bound. It infers and does not train."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.networks.case import Step, as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import LAYERS, Params
from benchmarks.networks.quantised import Quantised, network
from benchmarks.peers.onnxruntime import available

__all__ = ["Net", "as_numpy", "available", "prepare"]


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if not (isinstance(case, Step) and not case.training):
        raise peers.Missing("ONNX Runtime is raced at inference only")
    if isinstance(case, Quantised):
        from engine.export.onnx_integer import written

        weights, x, t = args
        return case.prepared(Session(written(network(case.net, weights, x), x.shape[1:])[0]), x, t)
    return prepare_with(Net, case, args)


def model(name: str, params: Params) -> bytes:
    """The network as an ONNX model: one node a layer."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, value = [], "x"
    for i, layer in enumerate(LAYERS[name]):
        kind, more = {
            "conv": ("Conv", {"pads": [layer.padding] * 4}),
            "dense": ("Gemm", {}),
            "relu": ("Relu", {}),
            "pool": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
            "flatten": ("Flatten", {}),
        }[layer.kind]
        inputs = [value, layer.w, layer.b] if layer.w else [value]
        value = "logits" if layer is LAYERS[name][-1] else f"y{i}"
        nodes.append(helper.make_node(kind, inputs, [value], **more))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(a, key) for key, a in params.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)  # type: ignore[no-untyped-call]
    return bytes(made.SerializeToString())


class Session:
    """A model whose input and output are bound."""

    def __init__(self, made: bytes):
        import onnxruntime

        from kernels.cpu.features import of_machine

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = peers.threads(), 1
        options.log_severity_level = 3
        if not any(of_machine().get(name) for name in ("avx512vnni", "avxvnni")):
            options.add_session_config_entry(
                "session.x64quantprecision", "1"
            )  # else sums of int8 saturate; where they do not, it halves the speed
        self.session = onnxruntime.InferenceSession(made, options, providers=["CPUExecutionProvider"])
        self.bound = self.session.io_binding()
        self.bound.bind_output(self.session.get_outputs()[0].name)

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        import onnxruntime

        self.bound.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)))
        return self.bound, t

    def logits(self, x: Any) -> Any:
        self.session.run_with_iobinding(x)
        return x.copy_outputs_to_cpu()[0]


class Net(Session):
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params):
        super().__init__(model(name, params))
