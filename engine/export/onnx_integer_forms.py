"""How each layer of integers is written in ONNX: two tables, of operators on codes and of operators on floats between codes.

To add a layer, add a line to both: a function of the writer, the layer, the codes that it reads and those that it gives.

Source: the ONNX operator schemas, https://onnx.ai/onnx/operators/; QGemm: ONNX Runtime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from engine.export.onnx_forms import geometry, window
from engine.export.onnx_writer import ExportError
from engine.ops.windows import sides
from engine.quantise.integer import Add, AvgPool, Codes, Conv, Dense, Flatten, InFloats, Layer, Lookup, MaxPool

RUNTIMES = "com.microsoft"  # the domain of the operators that only ONNX Runtime has


@dataclass(frozen=True)
class Value:
    """Codes in the file: of which layer, the tensor that holds them, and what they stand for."""

    name: str
    tensor: str
    codes: Codes


class Writer:
    """Nodes and arrays. A form calls it, `to("MaxPool", [x], y)`, for a node.

    All that a layer writes is called by the layer's name, a slash, and a word without one: so no two layers write the same name.
    """

    def __init__(self, scales: Mapping[str, np.ndarray]) -> None:
        self.scales = scales
        self.nodes: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node, and the name of what it gives."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def known(self, name: str, array: Any) -> str:
        """An array of the file."""
        self.arrays[name] = np.asarray(array)
        return name

    def number(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """One number of it."""
        return self.known(name, np.asarray(value, dtype))

    def grid(self, v: Value) -> list[str]:
        """Scale and zero point of codes."""
        zero = self.number(f"{v.name}/zero", v.codes.zero_point, v.codes.dtype)
        return [self.number(f"{v.name}/scale", v.codes.scale, np.float32), zero]

    def floats(self, v: Value, name: str) -> str:
        """What codes stand for, under that name."""
        return self("DequantizeLinear", [v.tensor, *self.grid(v)], name)

    def rounded(self, x: str, v: Value) -> None:
        """Floats as codes."""
        self("QuantizeLinear", [x, *self.grid(v)], v.tensor)

    def weights(self, layer: Conv | Dense) -> list[str]:
        """The codes of w, their scales and their zero points: one, or one a channel."""
        name = f"{layer.name}/w"
        scale = np.asarray(self.scales[name], np.float32).reshape(-1)
        zeros = np.zeros(len(scale), np.int64) if layer.w_zero_point is None else layer.w_zero_point
        if zeros.min() < -128 or zeros.max() > 127:
            raise ExportError(f"{layer.name}: zero points of weights are int8 in ONNX, these reach from {zeros.min()} to {zeros.max()}")
        scale, zeros = np.broadcast_arrays(scale, zeros)
        shape = () if len(scale) == 1 else scale.shape
        by = self.known(f"{name}_scale", scale.reshape(shape))
        return [self.known(name, layer.w), by, self.known(f"{name}_zero", zeros.astype(np.int8).reshape(shape))]

    def bias(self, layer: Conv | Dense) -> str:
        """In the unit of the sums."""
        return self.known(f"{layer.name}/bias", layer.bias)


Form = Callable[[Writer, Any, list[Value], Value], None]


# On codes: what comes out are our codes, each of them.


def _conv(to: Writer, layer: Conv, reads: list[Value], y: Value) -> None:
    if layer.w_zero_point is not None and len(set(layer.w_zero_point.tolist())) > 1:
        raise ExportError(f"{layer.name}: in ONNX Runtime the weights of all channels have one zero point\n  make them symmetric")
    x = reads[0]
    inputs = [x.tensor, *to.grid(x), *to.weights(layer), *to.grid(y), to.bias(layer)]
    _clipped(to, layer.to, y, "QLinearConv", inputs, **_geometry(layer))


def _dense(to: Writer, layer: Dense, reads: list[Value], y: Value) -> None:
    x = reads[0]
    inputs = [x.tensor, *to.grid(x), *to.weights(layer), to.bias(layer), *to.grid(y)]
    _clipped(to, layer.to, y, "QGemm", inputs, domain=RUNTIMES)


def _clipped(to: Writer, of: Any, y: Value, kind: str, inputs: list[str], **attributes: Any) -> None:
    """A node and, if its codes do not go to both ends of their dtype, a Clip: a relu, say, whose zero is not at the lower end."""
    whole = (of.low, of.high) == (y.codes.low, y.codes.high)
    x = to(kind, inputs, y.tensor if whole else f"{y.name}/open", **attributes)
    if not whole:
        to("Clip", [x, *(to.number(f"{y.name}/{end}", getattr(of, end), of.dtype) for end in ("low", "high"))], y.tensor)


def _max_pool(to: Writer, layer: MaxPool, reads: list[Value], y: Value) -> None:
    to("MaxPool", [reads[0].tensor], y.tensor, **window(layer.kernel_size, layer.stride, layer.padding))


def _average_pool(to: Writer, layer: AvgPool, reads: list[Value], y: Value) -> None:
    """The mean of codes as floats, which hold their sums exactly; a quotient of float32 rounds onto no tie that it was not."""
    padding = sides(layer.padding)
    x = to("Cast", [reads[0].tensor], f"{y.name}/floats", to=_type("float32"))
    if layer.count_include_pad and any(map(any, padding)):  # there stand zero points, and not zeros
        (top, bottom), (left, right) = padding
        widths = to.known(f"{y.name}/widths", np.array([0, 0, top, left, 0, 0, bottom, right]))
        x = to("Pad", [x, widths, to.number(f"{y.name}/around", layer.zero_point, np.float32)], f"{y.name}/padded")
        padding = ((0, 0), (0, 0))
    x = to("AveragePool", [x], f"{y.name}/mean", **window(layer.kernel_size, layer.stride, padding))
    to("Cast", [to("Round", [x], f"{y.name}/rounded")], y.tensor, to=_type(y.codes.dtype))


def _add(to: Writer, layer: Add, reads: list[Value], y: Value) -> None:
    """In float64, which holds all these numbers exactly: whole ones of 32 bits, over a power of two."""
    one = 2.0**layer.shift
    start = layer.zero_point + (one / 2 - float(np.dot(layer.mantissa.astype(np.int64), layer.zero_points))) / one

    def number(what: str, value: float) -> str:
        return to.number(f"{y.name}/{what}", value, np.float64)

    products = []
    for i, (v, mantissa) in enumerate(zip(reads, layer.mantissa.tolist(), strict=True)):
        x = to("Cast", [v.tensor], f"{y.name}/wide{i}", to=_type("float64"))
        products.append(to("Mul", [x, number(f"ratio{i}", mantissa / one)], f"{y.name}/product{i}"))
    x = to("Add", [to("Add", products, f"{y.name}/sum"), number("start", start)], f"{y.name}/started")
    x = to("Clip", [to("Floor", [x], f"{y.name}/whole"), number("low", layer.low), number("high", layer.high)], f"{y.name}/clipped")
    to("Cast", [x], y.tensor, to=_type(layer.dtype))


def _flatten(to: Writer, layer: Flatten, reads: list[Value], y: Value) -> None:
    to("Flatten", [reads[0].tensor], y.tensor)


def _lookup(to: Writer, layer: Lookup, reads: list[Value], y: Value) -> None:
    """What of the network is known is the table, which has no float. Codes below 0 count from its end, as its bytes do."""
    places = to("Cast", [reads[0].tensor], f"{y.name}/places", to=_type("int32"))
    to("Gather", [to.known(f"{y.name}/table", layer.table), places], y.tensor)


# On floats, between DequantizeLinear and QuantizeLinear.


def _between(to: Writer, layer: Layer, reads: list[Value], y: Value, *, kind: str) -> None:
    """A layer without weights."""
    attributes = {}
    if isinstance(layer, (MaxPool, AvgPool)):
        attributes = window(layer.kernel_size, layer.stride, layer.padding)
    if isinstance(layer, AvgPool):
        attributes["count_include_pad"] = int(layer.count_include_pad)
    _rounded(to, kind, _given(to, reads, y), y, relu=isinstance(layer, Add) and layer.low == layer.zero_point, **attributes)


def _product(to: Writer, layer: Conv | Dense, reads: list[Value], y: Value) -> None:
    """A layer with weights, which are codes as well, and the bias in the unit of the sums."""
    w, scale, zero = to.weights(layer)
    conv = isinstance(layer, Conv)
    along = {"axis": 0 if conv else 1} if to.arrays[scale].ndim else {}
    unit = np.float32(reads[0].codes.scale) * to.arrays[scale]
    bias = [to.bias(layer), to.known(f"{layer.name}/bias_scale", unit), to.known(f"{layer.name}/bias_zero", np.zeros(unit.shape, np.int32))]
    inputs = [
        *_given(to, reads, y),
        to("DequantizeLinear", [w, scale, zero], f"{w}_floats", **along),
        to("DequantizeLinear", bias, f"{layer.name}/bias_floats", **({"axis": 0} if unit.ndim else {})),
    ]
    relu = layer.to.low == layer.to.zero_point
    _rounded(to, "Conv" if conv else "Gemm", inputs, y, relu=relu, **(_geometry(layer) if isinstance(layer, Conv) else {}))


def _in_floats(to: Writer, layer: InFloats, reads: list[Value], y: Value) -> None:
    """A layer that our network has in floats, too."""
    of = layer.layer
    parts = [] if of.w is None else [to.known(f"{of.name}/w", of.w), to.known(f"{of.name}/b", of.b)]
    kind = {"conv": "Conv", "dense": "Gemm", "add": "Add"}[of.kind]
    _rounded(to, kind, [*_given(to, reads, y), *parts], y, relu=of.relu, **(geometry(**of.options) if of.kind == "conv" else {}))


def _given(to: Writer, reads: list[Value], y: Value) -> list[str]:
    return [to.floats(v, f"{y.name}/x{i}") for i, v in enumerate(reads)]


def _rounded(to: Writer, kind: str, inputs: list[str], y: Value, *, relu: bool, **attributes: Any) -> None:
    x = to(kind, inputs, f"{y.name}/floats", **attributes)
    to.rounded(to("Relu", [x], f"{y.name}/relu") if relu else x, y)


def _geometry(layer: Conv) -> dict[str, Any]:
    return geometry(stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)


def _type(dtype: str) -> Any:
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


ON_CODES: dict[type[Layer], Form] = {
    Conv: _conv,
    Dense: _dense,
    MaxPool: _max_pool,
    AvgPool: _average_pool,
    Add: _add,
    Flatten: _flatten,
    Lookup: _lookup,
    InFloats: _in_floats,
}
ON_FLOATS: dict[type[Layer], Form] = {
    Conv: _product,
    Dense: _product,
    MaxPool: partial(_between, kind="MaxPool"),
    AvgPool: partial(_between, kind="AveragePool"),
    Add: partial(_between, kind="Add"),
    Flatten: partial(_between, kind="Flatten"),
    Lookup: _lookup,
    InFloats: _in_floats,
}
