r"""A model's function as a graph: the calls of ops that it makes, which are then data, and need the model no longer.

    graph = trace(predict, params, x)
    print(graph)
    graph(params, x)                    # what predict(params, x) gives, bit for bit
    for call in graph.calls: ...        # to export, quantise or compile it

    x              float32 (n, 1, 28, 28)
    conv1/w        float32 (6, 1, 5, 5)
    v1 = conv2d(x, conv1/w, padding=2)                                  float32 (n, 6, 28, 28)
    v2, v3 = max_pool2d_with_indices(v1, kernel_size=2)                 float32 (n, 6, 14, 14), int64 (n, 6, 14, 14)

The function is run on batches of several sizes; what grows with the batch, a shape, a key, is written as a `Size`, n or 7n + 1. It is
run on numbers, as ever, but what it is handed are stand-ins that do not show them: a choice by the numbers (`if x > 0`) would hold for
these examples only, and is refused. A choice that is part of the computation, `np.where(x > 0, x, 0)`, is recorded: comparisons and
roundings stand in a graph under the names of NumPy's functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NoReturn

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from engine import ops
from engine.forward import kept
from engine.interpret import Interpreter, interpreting
from engine.op import Op, as_array
from engine.shapes import Notation
from engine.traced import NUMPY, OPS, Traced
from engine.tree import Rebuild, flatten

BATCHES = (2, 3, 5)  # the first two tell a line, the third that it is one; not 1, along which arrays broadcast


class GraphError(ValueError):
    """A function that is no graph, or a graph that was given what it was not traced with."""


# What a graph is.


@dataclass(frozen=True)
class Size:
    """A size that follows the batch: `times` n `+ plus` with n examples."""

    times: int = 1
    plus: int = 0

    def at(self, n: int) -> int:
        """The size with n examples."""
        return self.times * n + self.plus

    def __str__(self) -> str:
        n = "n" if self.times == 1 else f"{self.times}n"
        return n if not self.plus else f"{n} {'+' if self.plus > 0 else '-'} {abs(self.plus)}"

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class Value:
    """What calls take and give. It is told apart by identity; `name` is for readers, and of a parameter its key.

    shape      integers, and a Size where it follows the batch
    constant   the array or the number, if it is neither an input nor a parameter nor computed
    """

    name: str
    shape: tuple[int | Size, ...]
    dtype: np.dtype[Any]
    constant: Any = None

    def __str__(self) -> str:
        return f"{self.dtype} {_told(self.shape)}"


@dataclass(frozen=True, eq=False)
class Call:
    """One call of an op. A Size may stand anywhere in `params`, in the place of an integer."""

    op: Op
    args: tuple[Value, ...]
    params: dict[str, Any]
    outputs: tuple[Value, ...]

    def __str__(self) -> str:
        given = [_number(a) if a.constant is not None and a.shape == () else a.name for a in self.args]
        options = [f"{k}={_told(v)}" for k, v in self.params.items() if k not in self.op.defaults or not _same(v, self.op.defaults[k])]
        return f"{', '.join(y.name for y in self.outputs)} = {self.op.name}({', '.join(given + options)})"


@dataclass(frozen=True, eq=False)
class Graph:
    """What a function computes: `graph(params, *inputs)` is the function again, differentiable as it was.

    inputs      in the order of the function's arguments; the batch axis, if it has one, is the first of each
    parameters  those that are used; their names are the keys of `params`
    calls       in an order in which they can run. Each has a use
    outputs     the leaves of what the function returns; `nest` puts them together
    """

    inputs: tuple[Value, ...]
    parameters: tuple[Value, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Value, ...]
    nest: Rebuild

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        """Run the calls. Raises GraphError for parameters that are missing, and for other shapes than those traced."""
        known = self.run(params, *inputs)
        return self.nest([known[y] for y in self.outputs])

    def run(self, params: Mapping[str, Any], *inputs: Any) -> dict[Value, Any]:
        """Every value on the way, as `graph(params, *inputs)` finds it."""
        n, known = self._given(params, inputs)
        known.update((v, at(v.constant, n)) for v in self.constants)
        for call in self.calls:
            y = call.op(*[known[a] for a in call.args], **at(call.params, n))
            known.update(zip(call.outputs, y if type(y) is tuple else (y,), strict=True))
        return known

    def _given(self, params: Mapping[str, Any], inputs: Sequence[Any]) -> tuple[int, dict[Value, Any]]:
        """The number of examples, and the arrays for parameters and inputs."""
        if len(inputs) != len(self.inputs):
            raise GraphError(
                f"this graph has {len(self.inputs)} inputs, {', '.join(v.name for v in self.inputs)}; {len(inputs)} were given"
            )
        missing = [v.name for v in self.parameters if v.name not in params]
        if missing:
            raise GraphError(f"there is no {', '.join(missing)} among the parameters {', '.join(params) or '(none)'}")
        known = dict(zip(self.inputs, map(kept, inputs), strict=True))
        first = next((x.shape[0] for v, x in known.items() if v.shape and type(v.shape[0]) is Size and x.shape), 0)
        known.update((v, params[v.name]) for v in self.parameters)
        for v, x in known.items():
            if np.shape(x) != at(v.shape, first):
                raise GraphError(f"{v.name} has shape {np.shape(x)}, this graph was traced with {_told(v.shape)}")
        return first, known

    @cached_property
    def constants(self) -> list[Value]:
        """What is neither an input nor a parameter nor computed, in the order of its first use."""
        used = [v for call in self.calls for v in call.args] + list(self.outputs)
        return [v for v in dict.fromkeys(used) if v.constant is not None]

    def __str__(self) -> str:
        arrays = [*self.inputs, *self.parameters, *(c for c in self.constants if c.shape != ())]
        calls = [str(call) for call in self.calls]
        wide, long = max((len(v.name) for v in arrays), default=0), max(map(len, calls), default=0)
        lines = [f"{v.name:<{wide}}  {v}" for v in arrays]
        lines += [f"{text:<{long}}  {', '.join(map(str, call.outputs))}" for text, call in zip(calls, self.calls, strict=True)]
        return "\n".join([*lines, f"return {', '.join(v.name for v in self.outputs)}"])


def at(what: Any, n: int) -> Any:
    """`what` with n examples: each Size in it is a number."""
    if type(what) is Size:
        return what.at(n)
    if type(what) in (tuple, list):
        return type(what)([at(part, n) for part in what])
    if type(what) is dict:
        return {key: at(part, n) for key, part in what.items()}
    return slice(at(what.start, n), at(what.stop, n), at(what.step, n)) if type(what) is slice else what


def follows(what: Any) -> bool:
    """Is there a Size in `what`?"""
    if type(what) is slice:
        return follows((what.start, what.stop, what.step))
    return type(what) is Size or (type(what) in (tuple, list, dict) and any(map(follows, what.values() if type(what) is dict else what)))


# How it is found.


def trace(f: Callable[..., Any], params: Mapping[str, Any], *inputs: Any, batch: bool = True) -> Graph:
    """The graph of f(params, *inputs).

    params   arrays by name: parameters, and a net's state with them if f takes them so, {**params, **state}
    inputs   arrays of some examples, one at least: their numbers do not matter, as long as f takes them
    batch    the first axis of every input is the batch, and its size is left open; else all shapes are those of `inputs`

    Raises GraphError, naming the call, if f chooses by the numbers, or if something depends on the size of the batch that a graph cannot
    say: which calls are made, an array of numbers made for this batch, a size that is not a multiple of the batch and some.
    """
    arrays = [as_array(x) for x in inputs]
    if not batch:
        return _graph(f, params, [_recorded(f, params, arrays)], (0,))
    sizes = {x.shape[:1] for x in arrays}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = ", ".join(str(x.shape) for x in arrays) or "none"
        raise GraphError(f"the first axis of all inputs is the batch, of one example at least; these have the shapes {shapes}\n  {FIXED}")
    batches = [[x[np.arange(n) % len(x)] for x in arrays] for n in BATCHES]
    return _graph(f, params, [_recorded(f, params, given) for given in batches], BATCHES)


FIXED = "with trace(..., batch=False) the graph is for inputs of just these shapes"


class Recorder(Interpreter):
    """Run, and note the calls. Each value has a place; slot is that place."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.calls: list[tuple[Op, tuple[int, ...], dict[str, Any], tuple[int, ...]]] = []
        self.constants: dict[int, int] = {}  # by the id of the array, which is in `arrays` and so keeps its id

    def new(self, x: Any) -> Traced:
        """A value that nothing was known of."""
        self.arrays.append(x)
        place = len(self.arrays) - 1
        return Traced(self, Symbol(self, x, place), place)

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        places = tuple(map(self.place, args))
        y = op.run([self.arrays[p] for p in places], params)
        traced = tuple(map(self.new, y)) if type(y) is tuple else (self.new(y),)
        self.calls.append((op, places, params, tuple(t.slot for t in traced)))
        return traced if type(y) is tuple else traced[0]

    def refusal(self, what: str) -> Exception:
        return GraphError(
            f"{what} looks at the numbers, and a graph is to hold for others, too.\n"
            "  a choice between arrays is np.where(x > 0, a, b); one that is the same for all inputs is made from shapes, or outside"
        )

    def place(self, x: Any) -> int:
        """Where x is among the values; what is not ours is a constant."""
        if type(x) is Traced and x.owner is self:
            return int(x.slot)
        if type(x) is Symbol and x.recorder is self:
            return x.place
        if id(x) in self.constants:
            return self.constants[id(x)]
        self.arrays.append(x if isinstance(x, (bool, int, float, complex, np.generic)) else as_array(x))
        if type(x) is np.ndarray:  # not a number: of the number 2 there is but one object, whatever it counts
            self.constants[id(x)] = len(self.arrays) - 1
        return len(self.arrays) - 1


class Symbol(NDArrayOperatorsMixin):
    """What a traced value of a Recorder shows to those who look under it: shape and dtype. What is done with it is recorded."""

    def __init__(self, recorder: Recorder, array: Any, place: int):
        self.recorder = recorder
        self.shape = array.shape
        self.dtype = array.dtype
        self.size = array.size
        self.place = place

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> Any:
        return self._called(ops.getitem, self, key=key)

    def astype(self, dtype: Any) -> Any:
        """The same in another dtype, a mask as numbers say."""
        return self._called(ops.astype, self, dtype=np.dtype(dtype))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc.nout != 1 or ufunc.signature is not None:
            self._refuse(f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}"))
        return self._called(_of_ufunc(ufunc), *inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if Traced in types:
            return NotImplemented
        stand_in = NUMPY.get(function)
        if function in OF_SHAPES:
            plain = [np.broadcast_to(np.zeros((), a.dtype), a.shape) if type(a) is Symbol else a for a in args]
            return function(*plain, **kwargs)
        if stand_in is None or stand_in.__module__ == "engine.ops.numpy_protocol.constants":
            self._refuse(f"np.{function.__name__}")
        return stand_in(*args, **kwargs)

    def _called(self, op: Op, *args: Any, **params: Any) -> Any:
        """A mask is a Symbol again, for it has operators that a traced value has not; anything else is traced."""
        with interpreting(self.recorder):
            y = op(*args, **params)
        return y.value if y.dtype == bool else y

    def _refuse(self, what: str) -> NoReturn:
        raise self.recorder.refusal(what)

    def __bool__(self) -> bool:
        self._refuse("a choice (if, while, and, or, not)")

    def __int__(self) -> int:
        self._refuse("int()")

    def __float__(self) -> float:
        self._refuse("float()")

    def __index__(self) -> int:
        self._refuse("use as an index")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self._refuse("use as a plain array")

    def __repr__(self) -> str:
        return f"<{self.dtype} {self.shape}>"


OF_SHAPES = {np.shape, np.ndim, np.size, np.zeros_like, np.ones_like}


@lru_cache
def _of_ufunc(ufunc: np.ufunc) -> Op:
    """The op of a ufunc: of the registry, or one without rules, for a comparison or a rounding."""
    if ufunc.__name__ in OPS:
        return OPS[ufunc.__name__]

    def definition(*xs: Any) -> Any:
        return ufunc(*xs)

    args = ("x",) if ufunc.nin == 1 else tuple(f"x{i + 1}" for i in range(ufunc.nin))
    notation = Notation(f"{', '.join(['...'] * ufunc.nin)} -> ...")
    return Op(ufunc.__name__, definition, args, False, {}, notation, f"$y = {ufunc.__name__}$", constant=args)


@dataclass(frozen=True)
class Trace:
    """One run: what the recorder noted, and the places of inputs, parameters and outputs."""

    recorder: Recorder
    inputs: tuple[int, ...]
    parameters: dict[str, int]
    outputs: tuple[int, ...]
    nest: Rebuild


def _recorded(f: Callable[..., Any], params: Mapping[str, Any], inputs: Sequence[Any]) -> Trace:
    recorder = Recorder()
    given = [recorder.new(x) for x in inputs]
    traced = {name: recorder.new(as_array(p)) for name, p in params.items()}
    with interpreting(recorder):
        leaves, nest = flatten(f(traced, *given))
    places = {name: int(x.slot) for name, x in traced.items()}
    return Trace(recorder, tuple(x.slot for x in given), places, tuple(map(recorder.place, leaves)), nest)


def _graph(f: Callable[..., Any], params: Mapping[str, Any], traces: Sequence[Trace], sizes: Sequence[int]) -> Graph:
    """One graph for all runs, of batches of these sizes."""
    first, calls = traces[0], [trace.recorder.calls for trace in traces]
    if len({tuple([op.name for op, *_ in of]) for of in calls}) > 1:
        told = "; ".join(f"{len(of)} with {n} examples" for of, n in zip(calls, sizes, strict=True))
        raise GraphError(f"the size of the batch decides which ops are called, and how often: {told}\n  {FIXED}")
    live = _live(first)
    build = Builder(traces, sizes)
    inputs = tuple(build.value(p, name) for p, name in zip(first.inputs, _names(f, len(first.inputs), params), strict=True))
    used = {a for i in live for a in calls[0][i][1]} | {*first.outputs}
    parameters = tuple(build.value(p, name) for name, p in first.parameters.items() if p in used)
    for i in live:
        build.call(i)
    outputs = tuple(build.argument(p, "what the function returns") for p in first.outputs)
    return Graph(inputs, parameters, tuple(build.calls), outputs, first.nest)


def _live(run: Trace) -> list[int]:
    """The calls on which an output depends, in order."""
    wanted, live = {*run.outputs}, []
    for i in range(len(run.recorder.calls) - 1, -1, -1):
        _, args, _, outputs = run.recorder.calls[i]
        if wanted.intersection(outputs):
            wanted.update(args)
            live.append(i)
    return live[::-1]


def _names(f: Callable[..., Any], count: int, taken: Mapping[str, Any]) -> list[str]:
    """The names of f's arguments after the first, as far as it has any; no two alike, and none a parameter's."""
    try:
        said = [p.name for p in inspect.signature(f).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
    except (TypeError, ValueError):  # a builtin without a signature
        said = []
    names: list[str] = []
    for i in range(count):
        name = said[i] if i < len(said) else "x" if count == 1 else f"x{i + 1}"
        while name in taken or name in names:
            name += "_"
        names.append(name)
    return names


class Builder:
    """Values and calls that all runs have in common, by the place of a value in the runs."""

    def __init__(self, traces: Sequence[Trace], sizes: Sequence[int]):
        self.runs = [trace.recorder for trace in traces]
        self.sizes = sizes
        self.values: dict[int, Value] = {}
        self.taken: set[str] = set()
        self.counts = {"v": 0, "c": 0}
        self.calls: list[Call] = []

    def value(self, place: int, name: str | None = None) -> Value:
        """A new value; one that is computed is called by the next number."""
        arrays = [run.arrays[place] for run in self.runs]
        name = name or self._next("v")
        shape = self._common([np.shape(x) for x in arrays], f"the shape of {name}")
        self.values[place] = Value(name, shape, arrays[0].dtype)
        self.taken.add(name)
        return self.values[place]

    def call(self, i: int) -> None:
        """The call number i of each run."""
        op, args, _, outputs = self.runs[0].calls[i]
        if any(run.calls[i][1] != args for run in self.runs):
            raise GraphError(f"the size of the batch decides what {op.name} is called with (call {i})\n  {FIXED}")
        given = tuple(self.argument(a, op.name) for a in args)
        params = self._common([run.calls[i][2] for run in self.runs], op.name)
        self.calls.append(Call(op, given, params, tuple(map(self.value, outputs))))

    def argument(self, place: int, where: str) -> Value:
        """The value at a place; what no call has computed is a constant."""
        if place not in self.values:
            self.values[place] = self._constant([run.arrays[place] for run in self.runs], where)
        return self.values[place]

    def _constant(self, arrays: list[Any], where: str) -> Value:
        name, dtype = self._next("c"), np.asarray(arrays[0]).dtype
        shape = self._common([np.shape(x) for x in arrays], where)
        if not follows(shape):
            return Value(name, shape, dtype, self._common(arrays, f"an argument of {where}"))
        numbers = np.concatenate([np.ravel(x) for x in arrays])
        if numbers.size == 0 or np.any(numbers != numbers[0]):
            raise GraphError(f"{where}: an argument is an array of numbers for this batch, {_told(shape)}\n  {FIXED}")
        y = Value(self._next("v"), shape, dtype)
        self.calls.append(Call(ops.broadcast_to, (Value(name, (), dtype, numbers[0]),), {"shape": shape}, (y,)))
        return y

    def _next(self, letter: str) -> str:
        self.counts[letter] += 1
        name = f"{letter}{self.counts[letter]}"
        return name if name not in self.taken else self._next(letter)

    def _common(self, given: Sequence[Any], where: str) -> Any:
        """What stands in all runs; a number that follows the batch is a Size."""
        one = given[0]
        if type(one) in (tuple, list) and all(type(x) is type(one) and len(x) == len(one) for x in given):
            return type(one)([self._common(parts, where) for parts in zip(*given, strict=True)])
        if type(one) is dict:
            return {key: self._common([x[key] for x in given], f"{where}, {key}") for key in one}
        if type(one) is slice:
            return slice(*(self._common([getattr(x, part) for x in given], where) for part in ("start", "stop", "step")))
        if all(_same(x, one) for x in given):
            return one
        if all(isinstance(x, (int, np.integer)) for x in given):
            return self._size([int(x) for x in given], where)
        raise GraphError(f"{where}: {_told(one)} with {self.sizes[0]} examples, {_told(given[1])} with {self.sizes[1]}\n  {FIXED}")

    def _size(self, numbers: list[int], where: str) -> Size:
        times, over = divmod(numbers[1] - numbers[0], self.sizes[1] - self.sizes[0])
        size = Size(times, numbers[0] - times * self.sizes[0])
        if over or any(size.at(n) != number for n, number in zip(self.sizes, numbers, strict=True)):
            told = ", ".join(f"{number} with {n} examples" for n, number in zip(self.sizes, numbers, strict=True))
            raise GraphError(f"{where}: a size is {told}, which is no multiple of their number and some\n  {FIXED}")
        return size


def _same(a: Any, b: Any) -> bool:
    """Are these the same parameter, or the same constant?"""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    return type(a) is type(b) and bool(a == b or (a != a and b != b))


# How it is told.


def _number(value: Value) -> str:
    return _told(value.constant) if not isinstance(value.constant, np.generic) else f"{value.constant.item():g}"


def _told(x: Any) -> str:
    """A parameter as one would write it; an array by its shape."""
    if type(x) is tuple:
        return f"({', '.join(map(_told, x))}{',' * (len(x) == 1)})"
    if type(x) is list:
        return f"[{', '.join(map(_told, x))}]"
    if type(x) is slice:
        return ":".join("" if part is None else _told(part) for part in _parts(x))
    if isinstance(x, np.ndarray):
        return f"<{x.dtype} {x.shape}>"
    return "..." if x is Ellipsis else str(x) if isinstance(x, (np.dtype, np.integer, Size)) else repr(x)


def _parts(x: slice) -> Iterator[Any]:
    yield from (x.start, x.stop) if x.step is None else (x.start, x.stop, x.step)
