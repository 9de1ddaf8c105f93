r"""An integer network as one file of C99, which needs no library and no memory but its own.

    written = write("digits.c", network, name="digits", shape=(1, 28, 28))
    written.constants, written.memory                       # bytes that go to flash, bytes of RAM

    void digits_run(const uint8_t *x, uint8_t *y);          /* in the file: codes in, codes out, those of Network.run bit for bit */

The file includes <stdint.h> only. There is no float in it and no allocation: what layers give lies in one static array, in places that
are taken again when nobody reads them any more. So a run is not reentrant. Every rule is 64-bit integer arithmetic, "fp32" too: what
ONNX Runtime does in floats is spelled out, so no option of a compiler (-ffast-math, contraction) has a say in it.

With -DDIGITS_MAIN it is a program: codes of one input after the other from stdin, the codes of their outputs to stdout.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from engine.checkpoints import write_whole
from engine.export import c99_parts as parts
from engine.ops.pool import windows
from engine.ops.windows import pair, sides, window_grid
from engine.quantise.integer import Add, AvgPool, Conv, Dense, Flatten, Layer, Lookup, MaxPool, Network, Requantise

Shape = tuple[int, ...]
Record = dict[str, Any]  # the members of a struct: numbers, tuples of them, arrays, and records
Variant = tuple[Any, ...]  # a function, its rule, and the types of its codes


@dataclass(frozen=True)
class Written:
    """The file, the bytes of its constant arrays, and those of the memory that a run uses besides x and y."""

    path: Path
    constants: int
    memory: int


def write(path: str | os.PathLike[str], network: Network, name: str = "digits", shape: Shape = (1, 28, 28)) -> Written:
    """Write the network to `path` as C99; the file is there whole or not at all.

    name    what its function and its constants begin with: digits_run, DIGITS_INPUT_SIZE
    shape   of one input, without the batch

    The codes that NAME_run gives are those of `Network.run`, bit for bit, under each rule.
    Raises ValueError for a name that C does not take, and, naming the layer, for shapes that do not fit; TypeError for an unknown layer;
    OSError if the file cannot be written.
    """
    made = _Source(network, name, shape)
    write_whole(Path(path), made.text().encode())
    return Written(Path(path), made.constants, made.memory)


def source(network: Network, name: str = "digits", shape: Shape = (1, 28, 28)) -> str:
    """The text of that file. Raises as `write`."""
    return _Source(network, name, shape).text()


@dataclass(frozen=True)
class _Value:
    """Codes of a layer. `home` is the step that computes them, -1 for the input: a flattening gives what it reads."""

    shape: Shape
    dtype: str
    home: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        return " x ".join(map(str, self.shape))


@dataclass(frozen=True)
class _Form:
    """A layer in C.

    function, struct   of `c99_parts`
    shape, dtype       of the codes that it gives
    record             the members of its struct; an array stands for a constant of its own
    rule               of requantisation
    """

    function: str
    struct: str
    shape: Shape
    dtype: str
    record: Record
    rule: str | None = None


@dataclass(frozen=True)
class _Step:
    """One call: C names, what it reads, and what it gives."""

    called: str
    form: _Form
    reads: tuple[_Value, ...]
    value: _Value

    @property
    def variant(self) -> Variant:
        """What its function is compiled for."""
        return self.form.function, self.form.rule, *(x.dtype for x in self.reads), self.form.dtype


# Layers.


def _conv(layer: Conv, x: _Value) -> _Form:
    outputs, inputs, *kernel = layer.w.shape
    if len(x.shape) != 3 or x.shape[0] != inputs * layer.groups:
        raise ValueError(f"it reads {inputs * layer.groups} channels of pictures, not {x}")
    if outputs % layer.groups:
        raise ValueError(f"{outputs} outputs are not parted by {layer.groups} groups")
    grid = window_grid(x.shape[1:], (kernel[0], kernel[1]), layer.stride, layer.padding, layer.dilation)
    at = _windows(x, grid, kernel, layer.stride, layer.padding, layer.dilation)
    record = {"at": at, "inputs": inputs, "outputs": outputs, "groups": layer.groups, **_weights(layer, layer.w)}
    return _Form("conv", "conv", (outputs, *grid), layer.to.dtype, record, layer.to.rule)


def _dense(layer: Dense, x: _Value) -> _Form:
    inputs, outputs = layer.w.shape
    if x.shape != (inputs,):
        raise ValueError(f"it reads {inputs} codes, not {x}: flatten pictures before")
    record = {"inputs": inputs, "outputs": outputs, **_weights(layer, layer.w.T)}  # so that each output's weights are neighbours
    return _Form("dense", "dense", (outputs,), layer.to.dtype, record, layer.to.rule)


def _weights(layer: Conv | Dense, w: np.ndarray) -> Record:
    zeros: Any = 0 if layer.w_zero_point is None else layer.w_zero_point.astype(np.int32)
    return {"zero": layer.zero_point, "w": w, "w_zeros": zeros, "bias": layer.bias, "to": _codes(layer.to, len(w))}


def _codes(to: Requantise, outputs: int) -> Record:
    mantissa, shift = (np.broadcast_to(np.ravel(part), (outputs,)) for part in (to.mantissa, to.shift))
    return {"mantissa": mantissa.astype(np.int32), "shift": shift.astype(np.int8), "zero": to.zero_point, "low": to.low, "high": to.high}


def _max_pool(layer: MaxPool, x: _Value) -> _Form:
    return _pool("max_pool", layer, x, {"zero": 0, "count_padding": 0})


def _average_pool(layer: AvgPool, x: _Value) -> _Form:
    return _pool("average_pool", layer, x, {"zero": layer.zero_point, "count_padding": int(layer.count_include_pad)})


def _pool(function: str, layer: MaxPool | AvgPool, x: _Value, record: Record) -> _Form:
    if len(x.shape) != 3:
        raise ValueError(f"it reads pictures, not {x}")
    kernel, stride, grid = windows(x.shape[1:], layer.kernel_size, layer.stride, layer.padding)
    at = _windows(x, grid, kernel, stride, layer.padding, 1)
    return _Form(function, "pool", (x.shape[0], *grid), x.dtype, {"at": at, "channels": x.shape[0], **record})


def _windows(x: _Value, grid: Shape, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> Record:
    (top, _), (left, _) = sides(padding)
    steps = {"stride": pair(stride, "stride", 1), "before": (top, left), "dilation": pair(dilation, "dilation", 1)}
    return {"in": x.shape[1:], "out": grid, "kernel": tuple(kernel), **steps}


def _add(layer: Add, a: _Value, b: _Value) -> _Form:
    if a.shape != b.shape:
        raise ValueError(f"codes of one shape are added, these are {a} and {b}")
    between = {"mantissa": tuple(map(int, layer.mantissa)), "shift": layer.shift, "zeros": layer.zero_points}
    record = {"size": a.size, **between, "zero": layer.zero_point, "low": layer.low, "high": layer.high}
    return _Form("add", "add", a.shape, layer.dtype, record)


def _lookup(layer: Lookup, x: _Value) -> _Form:
    table = (layer.table.astype(np.int16) - np.iinfo(layer.dtype).min).astype(np.uint8)  # from the least code of y, whatever its dtype
    return _Form("lookup", "lookup", x.shape, layer.dtype, {"size": x.size, "table": table})


FORMS: dict[type[Layer], Callable[..., _Form]] = {
    Conv: _conv,
    Dense: _dense,
    MaxPool: _max_pool,
    AvgPool: _average_pool,
    Add: _add,
    Lookup: _lookup,
}


def _steps(network: Network, shape: Shape) -> tuple[list[_Step], _Value]:
    """The calls in their order, and the value that is the answer."""
    x = _Value(tuple(shape), network.input.dtype, -1)
    values, steps, names = {"input": x}, list[_Step](), set[str]()
    for layer in network.layers:
        read = tuple(values[name] for name in layer.reads) or (x,)
        if isinstance(layer, Flatten):
            x = _Value((read[0].size,), read[0].dtype, read[0].home)
        else:
            form = _form(layer, read)
            x = _Value(form.shape, form.dtype, len(steps))
            steps.append(_Step(_called(layer.name, names), form, read, x))
        values[layer.name] = x
    if x.home < 0:
        raise ValueError("the network gives what it is given: there is nothing to compute")
    return steps, x


def _form(layer: Layer, read: tuple[_Value, ...]) -> _Form:
    if type(layer) not in FORMS:
        raise TypeError(f"{layer.name}: there is no C for a layer of the kind {type(layer).__name__}")
    try:
        form = FORMS[type(layer)](layer, *read)
    except ValueError as e:
        raise ValueError(f"{layer.name}: {e}") from e
    if 0 in form.shape or any(x.size == 0 for x in read):
        raise ValueError(f"{layer.name}: it reads or gives no codes at all, and C has no arrays without numbers")
    return form


def _called(name: str, taken: set[str]) -> str:
    """A name that C takes and that no other layer has. It occurs with a suffix only, so it may be a word of C."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    plain = called = plain if re.match("[A-Za-z]", plain) else f"layer{plain}"
    while called in taken:
        called = f"{plain}_{len(taken)}"
    taken.add(called)
    return called


# Memory.


def _lives(steps: Sequence[_Step]) -> list[tuple[int, int]]:
    """For what each step gives, the step itself and the last one that reads it."""
    last = list(range(len(steps)))
    for i, step in enumerate(steps):
        for x in step.reads:
            if x.home >= 0:
                last[x.home] = i
    return list(enumerate(last))


def placed(sizes: Sequence[int], lives: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """Offsets of buffers in one array, and its size: no two overlap while both are alive, from the first of `lives` to the last.

    The largest comes first, each to the lowest place that is free for all its life.
    Source: Pisarchyk & Lee (2020), Efficient memory management for deep neural net inference, sec. 5.
    """
    offsets = [0] * len(sizes)
    done: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        beside = [j for j in done if lives[j][0] <= lives[i][1] and lives[i][0] <= lives[j][1]]
        for j in sorted(beside, key=lambda j: offsets[j]):
            if offsets[i] + sizes[i] > offsets[j]:
                offsets[i] = max(offsets[i], offsets[j] + sizes[j])
        done.append(i)
    return offsets, max((offset + size for offset, size in zip(offsets, sizes, strict=True)), default=0)


# Text.


class _Source:
    """The file of a network, part by part."""

    def __init__(self, network: Network, name: str, shape: Shape) -> None:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"a name in C is letters, digits and _, the first a letter, not {name!r}")
        self.network, self.name, self.upper, self.shape = network, name, name.upper(), shape
        self.steps, self.answer = _steps(network, shape)
        self.functions = _functions(self.steps)
        self.constants = sum(_bytes(step.form.record) for step in self.steps)
        sizes = [0 if step.value.home == self.answer.home else step.value.size for step in self.steps]
        self.offsets, self.memory = placed(sizes, _lives(self.steps))
        self.kind = next((step.value.dtype for step, size in zip(self.steps, sizes, strict=True) if size), "uint8")  # of the memory

    def text(self) -> str:
        functions = [_function(step, name) for name, step in self.functions.values()]
        return "\n".join(
            [self._head(), self._sizes(), *_needed(self.steps), *functions, *map(_tables, self.steps), self._run(), self._main()]
        )

    def _head(self) -> str:
        return f"""\
/*
 * {self.name}: a network of integers in C99. It needs <stdint.h> only; there is no float and no allocation.
 *
 * x and y are codes, which stand for SCALE (code - ZERO_POINT); they do not overlap. A run uses a static array: one at a time.
 * Bytes of constant arrays: {self.constants}. Bytes of RAM besides x and y: {self.memory}.
 * With -D{self.upper}_MAIN it is a program: codes from stdin, codes to stdout.
 */
#include <stdint.h>
"""

    def _prototype(self) -> str:
        return f"void {self.name}_run(const {_type(self.network.input.dtype)} *x, {_type(self.answer.dtype)} *y)"

    def _sizes(self) -> str:
        lines = []
        for which, size, codes in (("INPUT", math.prod(self.shape), self.network.input), ("OUTPUT", self.answer.size, self.network.output)):
            about = {"SIZE": size, "SCALE": f"{float(np.float32(codes.scale)):.8e}f", "ZERO_POINT": f"({codes.zero_point})"}
            lines += [f"#define {self.upper}_{which}_{what} {value}" for what, value in about.items()]
        return "\n".join([*lines, "", f"{self._prototype()};", ""])

    def _run(self) -> str:
        """The calls in order. The answer goes to y, what comes between to places in `memory`."""
        lines = []
        for step in self.steps:
            function, _ = self.functions[step.variant]
            where = ", ".join(map(self._place, (*step.reads, step.value)))
            lines.append(f"    {function}({where}, &{step.called}_layer); /* {' + '.join(map(str, step.reads))} -> {step.value} */")
        memory = f"static {_type(self.kind)} memory[{self.memory}];\n\n" if self.memory else ""
        return "\n".join([f"{memory}{self._prototype()}", "{", *lines, "}", ""])

    def _place(self, x: _Value) -> str:
        if x.home in (-1, self.answer.home):
            return "x" if x.home < 0 else "y"
        at = f"memory + {self.offsets[x.home]}" if self.offsets[x.home] else "memory"
        return at if x.dtype == self.kind else f"({_type(x.dtype)} *)({at})"

    def _main(self) -> str:
        types = {"x": _type(self.network.input.dtype), "y": _type(self.answer.dtype)}
        return Template(parts.MAIN).substitute(types, name=self.name, upper=self.upper)


def _functions(steps: Sequence[_Step]) -> dict[Variant, tuple[str, _Step]]:
    """For each variant what its function is called, conv, and conv_2 for other types or another rule, and a step that calls it."""
    names: dict[Variant, tuple[str, _Step]] = {}
    for step in steps:
        function = step.form.function
        number = 1 + sum(variant[0] == function for variant in names)
        names.setdefault(step.variant, (function if number == 1 else f"{function}_{number}", step))
    return names


def _needed(steps: Sequence[_Step]) -> list[str]:
    """What the functions of the layers use, once each."""
    rules = list(dict.fromkeys(step.form.rule for step in steps if step.form.rule))
    kinds = dict.fromkeys(step.form.struct for step in steps)
    adds = "add" in kinds
    text = [parts.SHIFTED] if adds or set(rules) - {"fp32"} else []
    text += [parts.HALF_UP] if adds or set(rules) & set(parts.ROUNDED_ONCE) else []
    text += [parts.CODES] if adds or rules else []
    for rule in rules:
        names = {"rule": _plain(rule), "code": _code(rule)}
        text += [Template(part).substitute(names) for part in (parts.RULES[rule], parts.CODE)]
    text += [parts.WINDOWS] if {"conv", "pool"} & kinds.keys() else []
    return text + [parts.STRUCTS[kind] for kind in kinds]


def _function(step: _Step, name: str) -> str:
    types = {"x": _type(step.reads[0].dtype), "x2": _type(step.reads[-1].dtype), "y": _type(step.form.dtype)}
    least = "INT8_MIN" if step.form.dtype == "int8" else "0"
    code = _code(step.form.rule) if step.form.rule else ""
    return Template(parts.FUNCTIONS[step.form.function]).substitute(types, name=name, least=least, code=code)


def _tables(step: _Step) -> str:
    """The constants of a layer: its arrays, and the record that points to them."""
    arrays: list[str] = []
    members = _members(step.called, step.form.record, arrays)
    record = ",\n    ".join(members)
    return "\n".join([*arrays, f"static const struct {step.form.struct} {step.called}_layer = {{\n    {record}\n}};", ""])


def _members(called: str, record: Record, arrays: list[str]) -> list[str]:
    """The members of a struct; what arrays stand in it are declared in `arrays`."""
    members = []
    for name, value in record.items():
        if isinstance(value, np.ndarray):
            arrays.append(_array(f"{called}_{name}", value))
            text = f"{called}_{name}"
        elif isinstance(value, dict):
            text = f"{{{', '.join(_members(called, value, arrays))}}}"
        else:
            text = f"{{{', '.join(map(str, value))}}}" if isinstance(value, tuple) else str(value)
        members.append(f".{name} = {text}")
    return members


def _array(called: str, x: np.ndarray) -> str:
    numbers = textwrap.fill(", ".join(map(str, x.ravel().tolist())), 120, initial_indent="    ", subsequent_indent="    ")
    return f"static const {_type(x.dtype.name)} {called}[{x.size}] = {{\n{numbers}\n}};"


def _bytes(record: Record) -> int:
    """Of all arrays in it."""
    return sum(_bytes(value) if isinstance(value, dict) else getattr(value, "nbytes", 0) for value in record.values())


def _type(dtype: str) -> str:
    return f"{dtype}_t"


def _plain(rule: str) -> str:
    return rule.replace("-", "_")


def _code(rule: str) -> str:
    return f"{_plain(rule)}_code"
