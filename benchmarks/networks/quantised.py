"""The networks in int8, made of the same weights in every framework: what is raced is `Quantised`, from floats to floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels
from benchmarks.networks.case import Step
from benchmarks.networks.gnomon import DEFINED
from benchmarks.networks.layers import Params, description
from engine.quantise.convert import calibrated, integers
from engine.quantise.folded import fold
from engine.quantise.integer import Conv, Dense, Flatten, MaxPool, Network


@dataclass(frozen=True)
class Quantised(Step):
    """The logits of a network in int8 under the rule fp32, whose bits everybody has: weights a scale a channel, pictures in uint8."""

    training: bool = False
    dtype: str = "int8"

    @property
    def allowed(self) -> float:
        return 0.0

    @property
    def op(self) -> str:
        return f"{self.net}-int8"

    @property
    def stands_for(self) -> str:
        return f"{description(self.net)} in int8, one inference"

    def reference(self, args: list[Any], params: dict[str, Any]) -> dict[str, Any]:
        with kernels.use(None):
            return {"logits": network(self.net, *args[:2])(args[1])}


def network(name: str, params: Params, x: Any) -> Network:
    """In integers, calibrated on the pictures x."""
    with kernels.use(None):
        net = fold(DEFINED[name], params, x[:1])
        return integers(net, calibrated(net, [x[:64]]))


class Net:
    """Ours. See `benchmarks/networks/__init__.py`."""

    def __init__(self, name: str, params: Params, x: Any):
        self.network = network(name, params, x)

    def batch(self, x: Any, t: Any) -> tuple[Any, Any]:
        return x, t

    def logits(self, x: Any) -> Any:
        return self.network(x)


def onnx_model(net: Network) -> bytes:
    """As an ONNX model: QuantizeLinear, a node a layer, DequantizeLinear."""
    from onnx import TensorProto, helper, numpy_helper

    arrays: dict[str, Any] = {}

    def described(name: str, scale: Any, zero_point: Any, dtype: Any) -> list[str]:
        arrays.update({f"{name}/s": np.asarray(scale, np.float32), f"{name}/z": np.asarray(zero_point, dtype)})
        return [f"{name}/s", f"{name}/z"]

    codes = described("input", net.input.scale, net.input.zero_point, net.input.dtype)
    nodes, value = [helper.make_node("QuantizeLinear", ["x", *codes], ["input"])], "input"
    for layer in net.layers:
        name = layer.name
        if isinstance(layer, (Conv, Dense)):
            scale = np.ravel(net.scales[f"{name}/w"])
            w, to = described(f"{name}/w", scale, np.zeros(len(scale)), np.int8), layer.to
            arrays.update({f"{name}/w": layer.w, f"{name}/b": layer.bias})
            given, codes = [value, *codes, f"{name}/w", *w], described(name, net.scales[name], to.zero_point, to.dtype)
            if isinstance(layer, Conv):
                nodes.append(helper.make_node("QLinearConv", [*given, *codes, f"{name}/b"], [name], pads=[layer.padding] * 4))
            else:
                nodes.append(helper.make_node("QGemm", [*given, f"{name}/b", *codes], [name], domain="com.microsoft"))
        elif isinstance(layer, MaxPool):
            nodes.append(
                helper.make_node("MaxPool", [value], [name], kernel_shape=[layer.kernel_size] * 2, strides=[layer.kernel_size] * 2)
            )
        else:
            assert isinstance(layer, Flatten)
            nodes.append(helper.make_node("Flatten", [value], [name]))
        value = name
    nodes.append(helper.make_node("DequantizeLinear", [value, *codes], ["logits"]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", ["n", 1, 28, 28]), ("logits", ["n", 10]))
    ]
    graph = helper.make_graph(nodes, "integers", ends[:1], ends[1:], [numpy_helper.from_array(a, name) for name, a in arrays.items()])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]  # type: ignore[no-untyped-call]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())  # type: ignore[no-untyped-call]
