"""ONNX Runtime: a model of one node, with inputs and outputs bound, so that nothing is copied in or out.

Weights of convolutions and dense layers, the second argument on, are part of the model, as they are in a trained one: the runtime may lay
them out as it likes. Both factors of a product are inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers

Node = tuple[list[tuple[str, dict[str, Any]]], int]  # operators in a row with their attributes, and how many arguments are inputs


def available() -> str | None:
    return peers.absent("onnxruntime", "onnx")


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    import onnxruntime

    if case.op not in BUILDS:
        raise peers.Missing(f"no operator for {case.op}")
    operators, inputs = BUILDS[case.op](params)
    arrays = [np.ascontiguousarray(a) for a in args]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = peers.threads(), 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model(operators, arrays, inputs), options, providers=["CPUExecutionProvider"])
    bound = session.io_binding()
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in arrays[:inputs]]
    for i, value in enumerate(held):
        bound.bind_ortvalue_input(f"x{i}", value)
    bound.bind_output("y")

    def call() -> Any:
        session.run_with_iobinding(bound)
        return bound

    return call


def as_numpy(bound: Any) -> Any:
    return bound.copy_outputs_to_cpu()[0]


def model(operators: list[tuple[str, dict[str, Any]]], arrays: list[Any], inputs: int) -> bytes:
    """A chain: the first operator takes all arguments, each of the others what came before."""
    from onnx import TensorProto, helper, numpy_helper

    names = [f"x{i}" for i in range(len(arrays))]
    nodes, before = [], names
    for number, (operator, attributes) in enumerate(operators):
        after = "y" if number == len(operators) - 1 else f"y{number}"
        takes = before[: attributes.pop("takes", None)]
        nodes.append(helper.make_node(operator, takes, [after], **attributes))
        before = [after, *before[len(takes) :]]
    kinds = [helper.np_dtype_to_tensor_dtype(a.dtype) for a in arrays]
    whole = operators[0][0].endswith("Integer")
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info(n, k, a.shape) for n, k, a in list(zip(names, kinds, arrays, strict=True))[:inputs]],
        [helper.make_tensor_value_info("y", TensorProto.INT32 if whole else kinds[0], None)],
        [numpy_helper.from_array(a, n) for n, a in list(zip(names, arrays, strict=True))[inputs:]],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()  # type: ignore[no-untyped-call]
    )


def pads(value: Any) -> list[int]:
    return [value] * 4 if isinstance(value, int) else [*value, *value]


def pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def windows(params: dict[str, Any]) -> dict[str, Any]:
    return {
        "strides": pair(params["stride"]),
        "pads": pads(params["padding"]),
        **({"dilations": pair(params["dilation"]), "group": params["groups"]} if "groups" in params else {}),
    }


def activation(params: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    name = {"identity": None, "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[params["activation"]]
    return [(name, {})] if name else []


def pool(operator: str, params: dict[str, Any]) -> Node:
    kernel = pair(params["kernel_size"])
    about = {"strides": pair(params["stride"] or kernel), "pads": pads(params["padding"]), "kernel_shape": kernel}
    if "count_include_pad" in params:
        about["count_include_pad"] = int(params["count_include_pad"])
    return [(operator, about)], 1


def conv_integer(params: dict[str, Any]) -> Node:
    if params.get("zero_point"):
        raise peers.Missing("not tried with a zero point")
    return [("ConvInteger", windows(params))], 1


BUILDS: dict[str, Callable[[dict[str, Any]], Node]] = {
    "matmul": lambda params: ([("MatMul", {})], 2),
    "matmul_int8": lambda params: ([("MatMulInteger", {})], 2),
    "dense": lambda params: ([("MatMul", {"takes": 2}), ("Add", {}), *activation(params)], 1),
    "conv2d": lambda params: ([("Conv", windows(params))], 1),
    "conv2d_int8": conv_integer,
    "avg_pool2d": lambda params: pool("AveragePool", params),
    "softmax": lambda params: ([("Softmax", {"axis": params["axis"]})], 1),
}
