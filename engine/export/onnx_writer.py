"""Nodes of ONNX, one call of a graph after the other: what the forms in `onnx_forms` write with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from engine.graph import Graph, Size, Value, follows
from engine.op import as_array

OLDEST = 13  # from here on Squeeze, Unsqueeze, Split and ReduceSum take their axes as inputs, and Softmax is along one axis
SINCE = {
    "Gelu": 20, "LayerNormalization": 17, "ReduceL1": 18, "ReduceL2": 18, "ReduceLogSumExp": 18, "ReduceMax": 18, "ReduceMean": 18,
    "ReduceMin": 18, "ReduceProd": 18, "Trilu": 14,
}  # fmt: skip
"""By kind of node, the first opset in which it is as it is written here, if it is not OLDEST."""

Form = Callable[..., Any]


class ExportError(ValueError):
    """A model that ONNX, or this opset of it, cannot say; or a file that was not what the model is. Nothing was written."""


@dataclass(frozen=True)
class Tensor:
    """What a node takes: by name. What is known before the model runs, a parameter or a constant, is in `array`.

    Of what a node in the middle of a form gives, shape and dtype are not kept: None.
    """

    name: str
    shape: Any = None
    dtype: Any = None
    array: Any = None

    @property
    def ndim(self) -> int:
        return len(self.shape)


@dataclass
class Node:
    """A node as it is going to be written."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]


class Writer:
    """Turns the calls of a graph into nodes, one call after the other. A form calls it, `to("Relu", x)`, for a node."""

    def __init__(self, graph: Graph, params: Mapping[str, Any], opset: int, forms: Mapping[str, Form]):
        self.graph = graph
        self.opset = opset
        self.forms = forms
        self.nodes: list[Node] = []
        self.arrays: dict[str, np.ndarray] = {}  # those that are used
        self.tensors = {v: Tensor(v.name, v.shape, v.dtype) for v in graph.inputs}
        self.tensors |= {v: Tensor(v.name, v.shape, v.dtype, as_array(params[v.name])) for v in graph.parameters}
        self.uses = [v for call in graph.calls for v in call.args] + list(graph.outputs)
        self.made = 0
        for call in graph.calls:
            self.call = call
            self._write()

    # What a form asks.

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the result."""
        return self.call.outputs[0].dtype

    @property
    def shape(self) -> tuple[Any, ...]:
        """Of the result."""
        return self.call.outputs[0].shape

    @property
    def wanted(self) -> list[bool]:
        """Which outputs of the call are used."""
        return [y in self.uses for y in self.call.outputs]

    def alone(self, x: Tensor, kind: str) -> Node | None:
        """The node that made x, if it is of this kind and x is used by this call only."""
        node = next((node for node in reversed(self.nodes) if x.name in node.outputs), None)
        names = [self.tensors[v].name for v in self.uses if v in self.tensors]  # several values have one name where a form has no node
        return node if node is not None and node.kind == kind and names.count(x.name) == 1 else None

    def refuse(self, why: str) -> NoReturn:
        """Raise the error for a call that cannot be written."""
        raise ExportError(
            f"{self.place}: {self.call.op.name} {why}\n  write it in other ops, or leave it out of the function that is exported"
        )

    @property
    def place(self) -> str:
        """The call, for an error."""
        return f"call {self.graph.calls.index(self.call) + 1}, {self.call}"

    # What a form writes.

    def __call__(self, kind: str, *inputs: Tensor | None, **attributes: Any) -> Tensor:
        """A node, and what it gives; None stands for an input that is left out. Raises ExportError if the opset is too old for it."""
        return self.several(1, kind, *inputs, **attributes)[0]

    def several(self, count: int, kind: str, *inputs: Tensor | None, **attributes: Any) -> tuple[Tensor, ...]:
        """A node that gives so many."""
        since = SINCE.get(kind, OLDEST)
        if self.opset < since:
            raise ExportError(
                f"{self.place}: {self.call.op.name} is written as {kind}, as it is from opset {since} on, and this is {self.opset}\n"
                f"  pass opset={since} or more, or write it in other ops"
            )
        self.made += 1
        name = f"{self.call.outputs[0].name}/{kind}{self.made}"
        names = [name] if count == 1 else [f"{name}.{i}" for i in range(count)]
        self.nodes.append(Node(kind, ["" if x is None else self.name(x) for x in inputs], names, attributes))
        return tuple(map(Tensor, names))

    def name(self, x: Tensor) -> str:
        """The name of x; of an array that is known, after it has been put into the model."""
        if x.array is not None:
            self.arrays[x.name] = np.asarray(x.array)
        return x.name

    def known(self, array: Any) -> Tensor:
        """An array that the form made up."""
        self.made += 1
        return Tensor(f"{self.call.outputs[0].name}/{self.made}", np.shape(array), array.dtype, array)

    def number(self, x: Any) -> Tensor:
        """A number, or an array, in the dtype of the result."""
        return self.known(np.asarray(x, self.dtype))

    def integers(self, numbers: Any, shape: Any = None) -> Tensor:
        """Sizes, axes or places: an integer, or a list of them, each of which may follow the batch."""
        if isinstance(numbers, Size):
            return self("Reshape", self.integers([numbers]), self.integers([]))
        if not isinstance(numbers, int) and follows(numbers):
            return self("Concat", *map(self._size, numbers), axis=0)
        found = np.asarray(numbers, np.int64)
        return self.known(found if shape is None else found.reshape(shape))

    def _size(self, size: Any) -> Tensor:
        if type(size) is not Size:
            return self.integers([size])
        first = next(v for v in self.graph.inputs if v.shape and type(v.shape[0]) is Size)
        n = self("Gather", self("Shape", self.tensors[first]), self.integers([0]))
        return self("Add", self("Mul", n, self.integers([size.times])), self.integers([size.plus])) if size != Size() else n

    def cast(self, x: Tensor, dtype: Any = None) -> Tensor:
        """x in this dtype, or in that of the result."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        if x.array is not None:
            return x if x.dtype == dtype else self.known(np.asarray(x.array).astype(dtype))
        if x.dtype == dtype:
            return x
        from onnx import helper

        return Tensor(self("Cast", x, to=helper.np_dtype_to_tensor_dtype(dtype)).name, x.shape, dtype)

    def alike(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """These in the dtype of the result."""
        return tuple(map(self.cast, xs))

    def promoted(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """These in the dtype in which NumPy compares them."""
        dtype = np.result_type(*[x.array if isinstance(x.array, (bool, int, float)) else x.dtype for x in xs])
        return tuple(self.cast(x, dtype) for x in xs)

    def masks(self, *xs: Tensor) -> tuple[Tensor, ...]:
        """These, if they are booleans."""
        if any(x.dtype != bool for x in xs):
            self.refuse("is on integers, bit by bit; there is a form for booleans only")
        return xs

    def reshaped(self, x: Tensor, shape: Sequence[Any]) -> Tensor:
        """x in another shape, of which one size may be -1."""
        shape = tuple(shape)
        if x.shape == shape:
            return x
        if x.array is not None and not follows(shape):
            array = np.reshape(x.array, shape)
            return Tensor(f"{x.name}/{'x'.join(map(str, array.shape))}", array.shape, x.dtype, array)
        open_ = [type(n) is Size for n in shape]
        sizes = self.integers([-1 if o else n for n, o in zip(shape, open_, strict=True)] if sum(open_) == 1 else shape)
        return Tensor(self("Reshape", x, sizes).name, shape, x.dtype)

    def line(self, x: Tensor, axis: Any) -> Tensor:
        """x; for an axis of None all its numbers in a line, as which a single one counts, too."""
        return self.reshaped(x, (-1,)) if axis is None or not x.ndim else x

    def expanded(self, x: Tensor, shape: Sequence[Any]) -> Tensor:
        """x, repeated to this shape."""
        return x if x.shape == tuple(shape) else Tensor(self("Expand", x, self.integers(shape)).name, tuple(shape), x.dtype)

    def finished(self, ins: Sequence[str], outs: Sequence[str]) -> dict[str, str]:
        """Give inputs and outputs these names. Returns the new name of each tensor that has one. Raises ExportError where two are alike."""
        given = [*ins, *outs]
        twice = [name for name in given if given.count(name) > 1 or name in self.arrays]
        if twice:
            raise ExportError(f"two things are called {twice[0]!r}\n  pass names={{{twice[0]!r}: another name}}")
        called = {v.name: name for v, name in zip(self.graph.inputs, ins, strict=True)}
        made = {name for node in self.nodes for name in node.outputs}
        for v, name in zip(self.graph.outputs, outs, strict=True):
            x = self._argument(v)
            if x.name in called or x.name not in made:  # an input, a parameter, or an output that has a name already
                self.nodes.append(Node("Identity", [self.name(x)], [name], {}))
            else:
                called[x.name] = name
        for node in self.nodes:
            node.inputs[:] = [called.get(name, name) for name in node.inputs]
            node.outputs[:] = [called.get(name, name) for name in node.outputs]
        return called

    # One call.

    def _write(self) -> None:
        call, args = self.call, [self._argument(v) for v in self.call.args]
        if any(0 in v.shape for v in (*call.args, *call.outputs) if v in self.uses):
            self.refuse("is on arrays without elements, on which ONNX Runtime may end the process")
        if all(x.array is not None for x in args) and not follows(call.params):
            y: Any = call.op(*[x.array for x in args], **call.params)
            found: Sequence[Any] = [
                Tensor(v.name, array=part) for v, part in zip(call.outputs, y if type(y) is tuple else (y,), strict=True)
            ]
        elif call.op.name in self.forms:
            y = self.forms[call.op.name](self, *args, **call.params)
            found = y if type(y) is tuple else (y,)
        else:
            self.refuse("has no form in ONNX here")
        self.tensors.update(
            (v, Tensor(x.name, v.shape, v.dtype, x.array)) for v, x in zip(call.outputs, found, strict=True) if x is not None
        )

    def _argument(self, v: Value) -> Tensor:
        if v not in self.tensors:
            if type(v.constant) is Size:
                self.tensors[v] = Tensor(self.integers(v.constant).name, (), v.dtype)
            else:
                self.tensors[v] = Tensor(v.name, v.shape, v.dtype, v.constant)
        return self.tensors[v]
