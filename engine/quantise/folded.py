r"""A model as a list of layers with nothing between them: the form in which it is calibrated, corrected and made of integers.

    net = fold(predict, params, x)                 # {**params, **state} for a net with running statistics
    print(net)
    net(x)                                         # what predict gives, to rounding

A layer is a convolution or a product with its bias and, perhaps, relu; or a pool, a sum of two branches, a flattening. Whatever else a
model does to the numbers of a channel is made part of the layer before: a batch norm in use multiplies and adds,

    $W' = W \gamma / \sqrt{\sigma^2 + \varepsilon}, \quad b' = \beta + (b - \mu) \gamma / \sqrt{\sigma^2 + \varepsilon}$,

and so does any multiplication, division, addition or subtraction with one number a channel. Where a maximum stands between a layer and
its bias or relu, they change places, which changes nothing: neither falls. Weights that are 0 stay 0.

What else is done to each number alone, whatever the channel, is a layer of the kind "function": tanh, gelu, x clip(x + 3, 0, 6) / 6. All
calls between two other layers are one of them.

Source: Jacob et al. (2018), Quantization and training of neural networks for efficient integer-arithmetic-only inference, sec. 3.2, eq. 14.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from engine import ops
from engine.forms.form import Form
from engine.graph import Call, Value, at, trace
from engine.quantise.functions import Function, X
from engine.traced import OPS

Kind = Literal["conv", "dense", "max_pool", "avg_pool", "add", "flatten", "function"]

INPUT = "input"


class NoIntegerForm(ValueError):
    """A model of which a part has no form in integers. The message names the part."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer.

    reads     the names of the layers whose numbers it takes, "input" for the network's
    w, b      of a convolution (o, c / groups, i, j) and (o); of a product (k, m) and (m). w may be a form, see `quantise.narrow`
    relu      what is below 0 becomes 0, at last
    options   of the op: stride, padding, dilation, groups; kernel_size, stride, padding
    function  of each number, if that is what it does
    """

    name: str
    kind: Kind
    reads: tuple[str, ...]
    w: np.ndarray | None = None
    b: np.ndarray | None = None
    relu: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    function: Function | None = None

    def __call__(self, *x: Any) -> Any:
        """What it gives, in floats."""
        if self.function is not None:
            return self.function(x[0])
        act = "relu" if self.relu else "identity"
        if self.kind == "conv":
            return ops.bias_activation(_product(ops.conv2d, x[0], self.w, **self.options), self.b, activation=act)
        if self.kind == "dense":
            return _product(ops.dense, x[0], self.w, self.b, activation=act)
        if self.kind == "max_pool":
            return ops.max_pool2d(x[0], **self.options)
        if self.kind == "avg_pool":
            return ops.avg_pool2d(x[0], **self.options)
        if self.kind == "add":
            return ops.relu(x[0] + x[1]) if self.relu else x[0] + x[1]
        return ops.reshape(x[0], shape=(x[0].shape[0], math.prod(x[0].shape[1:])))

    @property
    def channels(self) -> int:
        """The axis of w that counts the outputs."""
        return 0 if self.kind == "conv" else 1

    def __str__(self) -> str:
        shape = "" if self.w is None else " x ".join(map(str, self.w.shape))
        options = ", ".join(f"{name} {value}" for name, value in self.options.items() if value not in (None, 0, 1))
        words = [self.kind, shape, str(self.function or ""), "relu" if self.relu else "", options, f"of {', '.join(self.reads)}"]
        return f"{self.name:<16} {'  '.join(word for word in words if word)}"


def _product(op: Callable[..., Any], x: Any, w: Any, *b: Any, **options: Any) -> Any:
    return getattr(w, op.name)(x, *b, **options) if isinstance(w, Form) else op(x, w, *b, **options)  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Folded:
    """Layers in the order in which they run; the last one gives the answer."""

    layers: tuple[Layer, ...]

    def __call__(self, x: Any, *, watch: Callable[[str, Any], None] | None = None) -> Any:
        """The answer for a batch x. `watch(name, numbers)` is called with the input and with what each layer gives."""
        known = {INPUT: x}
        if watch:
            watch(INPUT, x)
        for layer in self.layers:
            known[layer.name] = layer(*[known[name] for name in layer.reads])
            if watch:
                watch(layer.name, known[layer.name])
        return known[self.layers[-1].name]

    def __getitem__(self, name: str) -> Layer:
        """The layer of this name. Raises KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def put(self, *layers: Layer) -> Folded:
        """The same network with these layers in the place of those of their names."""
        new = {layer.name: layer for layer in layers}
        return Folded(tuple(new.get(layer.name, layer) for layer in self.layers))

    @property
    def weighted(self) -> tuple[Layer, ...]:
        """The layers with weights."""
        return tuple(layer for layer in self.layers if layer.w is not None)

    def readers(self, name: str) -> list[Layer]:
        """The layers that read this one."""
        return [layer for layer in self.layers if name in layer.reads]

    def __str__(self) -> str:
        return "\n".join(map(str, self.layers))


def fold(predict: Callable[..., Any], params: Mapping[str, Any], x: Any) -> Folded:
    """`predict(params, x)` as layers. x is a batch of the right shape, whose numbers do not matter.

    Raises NoIntegerForm, naming the call and what to do, for what is neither a layer, nor a number for each channel, nor a function of
    each number.
    """
    graph = trace(predict, params, x)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise NoIntegerForm(
            f"a network has one input and one output, this one {len(graph.inputs)} and {len(graph.outputs)}"
            "\n  give a function that takes one array and returns the logits alone"
        )
    folding = _Folding(graph.inputs[0], Counter(v for call in graph.calls for v in call.args))
    folding.known.update((v, np.asarray(params[v.name])) for v in graph.parameters)
    for call in graph.calls:
        folding.take(call)
    last = folding.made.get(graph.outputs[0])
    if last is None or last == INPUT:
        raise NoIntegerForm("what the model returns is not the result of a layer")
    order = [folding.layers[name] for name in folding.order]
    return Folded(_wanted(order[: folding.order.index(last) + 1]))


def _wanted(layers: list[Layer]) -> tuple[Layer, ...]:
    """Without the functions that became parts of others."""
    read = {layers[-1].name}
    for layer in reversed(layers):
        if layer.kind != "function" or layer.name in read:
            read.update(layer.reads)
    return tuple(layer for layer in layers if layer.kind != "function" or layer.name in read)


class _Folding:
    """What is known of the values so far: those that are numbers, and the layers that make the others."""

    def __init__(self, source: Value, uses: Counter[Value]):
        self.uses = uses
        self.known: dict[Value, Any] = {}
        self.made: dict[Value, str] = {source: INPUT}
        self.layers: dict[str, Layer] = {}
        self.order: list[str] = []
        self.passing: set[str] = set()  # the maxima that a bias or a relu may go before: nobody else sees what they read

    def take(self, call: Call) -> None:
        """Make a layer of a call, or a part of the one before, or compute it."""
        args = [self.known.get(v, v.constant) for v in call.args]
        if all(a is not None for a in args):
            y = call.op(*args, **at(call.params, 1))
            self.known.update(zip(call.outputs, y if type(y) is tuple else (y,), strict=True))
            return
        name = call.op.name
        if name in MADE:
            MADE[name](self, call, args)
        elif name == "bias_activation":
            self._biased(call, args[1])
        elif name in ("relu", "add", "subtract", "multiply", "divide"):
            self._part_or_function(call, args)
        elif not self._function(call, args):
            raise _none(call, f"{name} has no form in integers")

    def _part_or_function(self, call: Call, args: list[Any]) -> None:
        """A part of the layer before, if it can be one."""
        try:
            self._rectify(call, call.args[0]) if call.op.name == "relu" else self._arithmetic(call, args)
        except NoIntegerForm:
            if not self._function(call, args):
                raise

    def new(self, call: Call, kind: Kind, name: str | None, *values: Value, **of: Any) -> None:
        """A layer that reads what makes `values`."""
        reads = []
        for v in values:
            if v not in self.made:
                raise _none(call, f"{v.name} is not the result of a layer")
            reads.append(self.made[v])
        self._add(call, kind, name, kind, tuple(reads), **of)

    def _add(self, call: Call, kind: Kind, name: str | None, stem: str, reads: tuple[str, ...], **of: Any) -> None:
        called = name or f"{stem}{sum(n.rstrip('0123456789') == stem for n in self.order) + 1}"
        while called in self.layers or called == INPUT:  # a weight that serves twice
            called += "'"
        self.layers[called] = Layer(called, kind, reads, **of)
        self.order.append(called)
        self.made[call.outputs[0]] = called

    def _function(self, call: Call, args: list[Any]) -> bool:
        """A function of each number that one layer gives, through functions of them too; False if it is none."""
        of, sources = [], set()
        for v, known in zip(call.args, args, strict=True):
            if known is not None and np.size(known) == 1:
                of.append(np.asarray(known).item())
            elif known is None and v in self.made and v.shape == call.outputs[0].shape:
                source, term = self._term(self.made[v])
                sources.add(source)
                of.append(term)
            else:
                return False
        plain = all(isinstance(value, int | float | str | None) for value in call.params.values())
        if not (OPS.get(call.op.name) is call.op and call.op.elementwise and plain and len(sources) == 1):
            return False
        self._apply(call, Function(call.op.name, tuple(of), dict(call.params)), sources.pop())
        return True

    def _term(self, name: str) -> tuple[str, Any]:
        """A layer's numbers as a function of another's, or as themselves."""
        layer = self.layers.get(name)
        return (name, X) if layer is None or layer.function is None else (layer.reads[0], layer.function)

    def _apply(self, call: Call, function: Function, source: str) -> None:
        """The call gives f of what a layer gives."""
        single = all(part == X or not isinstance(part, Function) for part in function.of)
        self._add(call, "function", None, function.op if single else "function", (source,), function=function)

    def weight(self, call: Call, place: int, w: Any) -> str:
        """The name of the weight's layer. Raises NoIntegerForm if it is computed."""
        if w is None:
            raise _none(call, "its second argument is no parameter: a product of two results")
        return call.args[place].name.removesuffix("/w")

    def _arithmetic(self, call: Call, args: list[Any]) -> None:
        """Two results are added up; a number for each channel becomes a part of the layer before."""
        name = call.op.name
        if args[0] is None and args[1] is None:
            if self._function(call, args):
                return
            if name != "add":
                raise _none(call, f"{name} of two results has no form in integers, only their sum has")
            self.new(call, "add", None, *call.args)
            return
        if args[1] is None and name == "divide":
            raise _none(call, "a number divided by a result has no form in integers")
        value, number = (call.args[0], args[1]) if args[0] is None else (call.args[1], args[0])
        n = np.asarray(number, np.float64)
        if name in ("multiply", "divide"):
            self._affine(call, value, 1 / n if name == "divide" else n, 0.0)
        elif name == "add":
            self._affine(call, value, 1.0, n)
        elif args[0] is None:
            self._affine(call, value, 1.0, -n)
        else:
            self._affine(call, value, -1.0, n)

    def _biased(self, call: Call, b: Any) -> None:
        if b is None or call.params["axis"] not in (1, -(len(call.args[0].shape) - 1)):
            raise _none(call, "its bias is no parameter, or not one number for each channel")
        along = (-1, *[1] * (len(call.args[0].shape) - 2))
        self._affine(call, call.args[0], 1.0, np.asarray(b, np.float64).reshape(along))
        self.activated(call)

    def activated(self, call: Call) -> None:
        """What follows in the same call."""
        activation = call.params["activation"]
        if activation == "relu":
            self._rectify(call, call.outputs[0])
        elif activation != "identity":
            self._apply(call, Function(activation, (X,)), self.made[call.outputs[0]])

    def _affine(self, call: Call, value: Value, scale: Any, shift: Any) -> None:
        """The layer that makes `value` makes scale * value + shift instead."""
        layer = self._source(call, value, falls=bool(np.any(np.asarray(scale) < 0)))
        assert layer.w is not None and layer.b is not None
        count = layer.w.shape[layer.channels]
        wide = [1, count, *[1] * (len(value.shape) - 2)]
        try:
            s, t = (np.broadcast_to(np.asarray(part, np.float64), wide).reshape(count) for part in (scale, shift))
        except ValueError:
            raise _none(call, f"{layer.name} has {count} channels, the other array is not one number for each") from None
        along = (count, *[1] * (layer.w.ndim - 1)) if layer.channels == 0 else (1, count)
        w, b = (layer.w * s.reshape(along)).astype(layer.w.dtype), (layer.b * s + t).astype(layer.b.dtype)
        self.layers[layer.name] = replace(layer, w=w, b=b)
        self.made[call.outputs[0]] = self.made[value]

    def _rectify(self, call: Call, value: Value) -> None:
        name = self._behind(call, value, falls=False)
        if self.layers[name].kind not in ("conv", "dense", "add"):
            raise _none(call, f"relu follows {name}, which is no convolution, product or sum")
        self.layers[name] = replace(self.layers[name], relu=True)
        self.made[call.outputs[0]] = self.made[value]

    def _source(self, call: Call, value: Value, *, falls: bool) -> Layer:
        """The layer with weights that makes `value`, if nothing stands between."""
        layer = self.layers[self._behind(call, value, falls=falls)]
        if layer.w is None or layer.relu:
            raise _none(
                call, f"it follows {layer.name}, {'after relu' if layer.relu else 'which has no weights'}: it cannot become a part of it"
            )
        return layer

    def _behind(self, call: Call, value: Value, *, falls: bool) -> str:
        """The name of the layer that makes `value`, through a maximum, with which whatever never falls changes places."""
        name = self.made.get(value, INPUT)
        if name == INPUT:
            raise _none(call, "nothing comes before it but the input: let the data be prepared so")
        if self.uses[value] > 1 and value not in call.outputs:
            raise _none(call, f"what {name} gives is used elsewhere as well, without it")
        layer = self.layers[name]
        return layer.reads[0] if name in self.passing and not falls else name


def _conv(folding: _Folding, call: Call, args: list[Any]) -> None:
    name, w = folding.weight(call, 1, args[1]), np.asarray(args[1])
    folding.new(call, "conv", name, call.args[0], w=w, b=np.zeros(len(w), w.dtype), options=dict(call.params))


def _dense(folding: _Folding, call: Call, args: list[Any]) -> None:
    name, w = folding.weight(call, 1, args[1]), np.asarray(args[1])
    if w.ndim != 2 or len(call.args[0].shape) != 2:
        raise _none(call, "a product has a form in integers if both factors are matrices")
    folding.new(call, "dense", name, call.args[0], w=w, b=np.zeros(w.shape[1], w.dtype))
    if call.op.name == "dense":
        if args[2] is None:
            raise _none(call, "its bias is no parameter")
        layer = folding.layers[folding.order[-1]]
        folding.layers[layer.name] = replace(layer, b=np.asarray(args[2]))
        folding.activated(call)


def _pool(folding: _Folding, call: Call, args: list[Any]) -> None:
    kind: Kind = "avg_pool" if call.op.name == "avg_pool2d" else "max_pool"
    folding.new(call, kind, None, call.args[0], options=dict(call.params))
    if kind == "max_pool" and folding.made[call.args[0]] != INPUT and folding.uses[call.args[0]] == 1:
        folding.passing.add(folding.made[call.outputs[0]])


def _reshape(folding: _Folding, call: Call, args: list[Any]) -> None:
    before, after = call.args[0].shape, call.outputs[0].shape
    if len(after) != 2 or (after[0] is not before[0] and after[0] != before[0]):
        raise _none(call, "of the reshapes only that to (examples, numbers) has a form in integers")
    folding.new(call, "flatten", None, call.args[0])


def _mean(folding: _Folding, call: Call, args: list[Any]) -> None:
    shape, axis = call.args[0].shape, call.params["axis"]
    if len(shape) != 4 or sorted(a % 4 for a in (axis if isinstance(axis, tuple) else (axis,)) if a is not None) != [2, 3]:
        raise _none(call, "of the means only that over the pixels of a picture has a form in integers")
    folding.new(call, "avg_pool", None, call.args[0], options={"kernel_size": shape[2:]})
    if not call.params["keepdims"]:
        folding.new(call, "flatten", None, call.outputs[0])


MADE: dict[str, Callable[[_Folding, Call, list[Any]], None]] = {
    "conv2d": _conv,
    "matmul": _dense,
    "dense": _dense,
    "max_pool2d_with_indices": _pool,
    "avg_pool2d": _pool,
    "reshape": _reshape,
    "mean": _mean,
}


def _none(call: Call, why: str) -> NoIntegerForm:
    cure = "keep this part in floats, or write it by convolutions, products, pools, sums and functions of each number"
    return NoIntegerForm(f"{call}\n  {why}\n  {cure}")
