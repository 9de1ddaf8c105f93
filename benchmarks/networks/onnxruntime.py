"""ONNX Runtime: the network as a graph with its weights inside, input and output bound. It infers and does not train."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.networks.case import Step, as_numpy
from benchmarks.networks.case import prepare as prepare_with
from benchmarks.networks.layers import LAYERS, Params
from benchmarks.peers.onnxruntime import available

__all__ = ["Net", "as_numpy", "available", "prepare"]


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if not (isinstance(case, Step) and not case.training):
        raise peers.Missing("ONNX Runtime is raced at inference only")
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


class Net:
    """See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = peers.threads(), 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model(name, params), options, providers=["CPUExecutionProvider"])
        self.bound = self.session.io_binding()
        self.bound.bind_output("logits")

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        import onnxruntime

        self.bound.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)))
        return self.bound, t

    def logits(self, x: Any) -> Any:
        self.session.run_with_iobinding(x)
        return x.copy_outputs_to_cpu()[0]
