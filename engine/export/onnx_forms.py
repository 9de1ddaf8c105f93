"""How each op is written in ONNX: the table, and the forms that are longer than a line.

To add an op, add a line: a function of the writer, the op's arguments and its parameters, as the op's definition is, with
`to("Kind", ...)` for a node and `to.call` for what is known of the call. `tests/test_export_onnx.py` draws its arguments from the op.

Source: the ONNX operator schemas, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.export.onnx_writer import Form, Tensor, Writer
from engine.graph import Size, follows
from engine.ops.layout import axes_of
from engine.ops.windows import pair, sides


def node(kind: str, **attributes: Any) -> Form:
    """One node, whose inputs have the dtype of the result."""
    return lambda to, *xs: to(kind, *to.alike(*xs), **attributes)


def comparison(kind: str) -> Form:
    """One node that gives booleans, whose inputs have one dtype."""
    return lambda to, *xs: to(kind, *to.promoted(*xs))


def logical(kind: str) -> Form:
    """One node on booleans, for NumPy's operators that are bitwise on integers."""
    return lambda to, *xs: to(kind, *to.masks(*xs))


FORMS: dict[str, Form] = {
    # elementwise
    "abs": node("Abs"),
    "add": node("Add"),
    "arccos": node("Acos"),
    "arccosh": node("Acosh"),
    "arcsin": node("Asin"),
    "arcsinh": node("Asinh"),
    "arctan": node("Atan"),
    "arctanh": node("Atanh"),
    "astype": lambda to, x, *, dtype: to.cast(x, dtype),
    "cbrt": lambda to, x: to("Mul", to("Sign", x), to("Pow", to("Abs", x), to.number(1 / 3))),
    "clip": lambda to, x, *, min, max: _clip(to, x, min, max),
    "cos": node("Cos"),
    "cosh": node("Cosh"),
    "deg2rad": lambda to, x: to("Mul", to.cast(x), to.number(math.pi / 180)),
    "divide": node("Div"),
    "elu": lambda to, x, *, alpha: to("Elu", to.cast(x), alpha=alpha),
    "erf": node("Erf"),
    "exp": node("Exp"),
    "exp2": lambda to, x: to("Pow", to.number(2), to.cast(x)),
    "fmod": node("Mod", fmod=1),
    "gelu": lambda to, x, *, approximate: to("Gelu", to.cast(x), approximate=approximate),
    "leaky_relu": lambda to, x, *, negative_slope: to("LeakyRelu", to.cast(x), alpha=negative_slope),
    "log": node("Log"),
    "log10": lambda to, x: to("Mul", to("Log", to.cast(x)), to.number(1 / math.log(10))),
    "log2": lambda to, x: to("Mul", to("Log", to.cast(x)), to.number(1 / math.log(2))),
    "logaddexp": lambda to, x1, x2: _logaddexp(to, to.cast(x1), to.cast(x2)),
    "maximum": node("Max"),
    "mean_absolute_error": lambda to, *xs: to("Abs", to("Sub", *to.alike(*xs))),
    "minimum": node("Min"),
    "multiply": node("Mul"),
    "negative": node("Neg"),
    "pow": node("Pow"),
    "rad2deg": lambda to, x: to("Mul", to.cast(x), to.number(180 / math.pi)),
    "reciprocal": node("Reciprocal"),
    "relu": node("Relu"),
    "remainder": lambda to, x1, x2: _remainder(to, to.cast(x1), to.cast(x2)),
    "sigmoid": node("Sigmoid"),
    "sign": node("Sign"),
    "silu": lambda to, x: to("Mul", to.cast(x), to("Sigmoid", to.cast(x))),
    "sin": node("Sin"),
    "sinh": node("Sinh"),
    "softplus": node("Softplus"),
    "sqrt": node("Sqrt"),
    "square": lambda to, x: _squared(to, x),
    "squared_error": lambda to, *xs: _squared(to, to("Sub", *to.alike(*xs))),
    "stop_gradient": lambda to, x: x,
    "subtract": node("Sub"),
    "tan": node("Tan"),
    "tanh": node("Tanh"),
    "where": lambda to, c, *xs: to("Where", *to.masks(c), *to.alike(*xs)),
    # comparisons and roundings, which stand in graphs under NumPy's names
    "bitwise_and": logical("And"),
    "bitwise_or": logical("Or"),
    "bitwise_xor": logical("Xor"),
    "ceil": node("Ceil"),
    "equal": comparison("Equal"),
    "floor": node("Floor"),
    "greater": comparison("Greater"),
    "greater_equal": comparison("GreaterOrEqual"),
    "invert": logical("Not"),
    "isfinite": lambda to, x: to("Not", to("Or", to("IsNaN", x), to("IsInf", x))),
    "isinf": lambda to, x: to("IsInf", x),
    "isnan": lambda to, x: to("IsNaN", x),
    "less": comparison("Less"),
    "less_equal": comparison("LessOrEqual"),
    "logical_and": logical("And"),
    "logical_not": logical("Not"),
    "logical_or": logical("Or"),
    "logical_xor": logical("Xor"),
    "not_equal": lambda to, *xs: to("Not", to("Equal", *to.promoted(*xs))),
    "rint": node("Round"),
    # layers
    "avg_pool2d": lambda to, x, *, kernel_size, stride, padding, count_include_pad: to(
        "AveragePool", x, **window(kernel_size, stride, padding), count_include_pad=int(count_include_pad)
    ),
    "bias_activation": lambda to, x, b, *, axis, activation: _bias_activation(to, to.cast(x), to.cast(b), axis, activation),
    "conv2d": lambda to, x, w, **params: to("Conv", to.cast(x), to.cast(w), **geometry(**params)),
    "dense": lambda to, x, w, b, *, activation: _activated(to, _dense(to, to.cast(x), to.cast(w), to.cast(b)), activation),
    "det": node("Det"),
    "einsum": lambda to, *xs, subscripts: to("Einsum", *to.alike(*xs), equation=subscripts),
    "log_softmax": lambda to, x, *, axis: _softmax(to, "LogSoftmax", to.cast(x), axis),
    "matmul": node("MatMul"),
    "matvec": lambda to, x, w: _matvec(to, to.cast(x), to.cast(w)),
    "max_pool2d_with_indices": lambda to, x, *, kernel_size, stride, padding: _max_pool(to, x, window(kernel_size, stride, padding)),
    "normalise": lambda to, x, w, b, *, axis, eps: _normalise(to, to.cast(x), to.cast(w), to.cast(b), axes_of(axis, x.ndim), eps),
    "softmax": lambda to, x, *, axis: _softmax(to, "Softmax", to.cast(x), axis),
    "vecdot": lambda to, x, w: _reduce(to, "ReduceSum", to("Mul", to.cast(x), to.cast(w)), -1, False),
    # layout
    "broadcast_to": lambda to, x, *, shape: to.expanded(x, to.shape),
    "concat": lambda to, *xs, axis: to("Concat", *[to.line(x, axis) for x in to.alike(*xs)], axis=axis or 0),
    "cumsum": lambda to, x, *, axis: to("CumSum", to.line(to.cast(x), axis), to.integers(axis or 0)),
    "expand_dims": lambda to, x, *, axis: to.reshaped(x, to.shape),
    "flip": lambda to, x, *, axis: _flip(to, x, axes_of(axis, x.ndim)),
    "getitem": lambda to, x, *, key: _getitem(to, x, key if type(key) is tuple else (key,)),
    "matrix_transpose": lambda to, x: to("Transpose", x, perm=[*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]),
    "pad": lambda to, x, *, pad_width, mode, constant_values: _pad(to, x, pad_width, mode, constant_values),
    "permute_dims": lambda to, x, *, axes: to("Transpose", x, perm=[a % x.ndim for a in axes] if axes is not None else range(x.ndim)[::-1]),
    "repeat": lambda to, x, *, repeats, axis: _moved(to, x, axis, lambda places: np.repeat(places, repeats)),
    "reshape": lambda to, x, *, shape: to.reshaped(x, to.shape),
    "roll": lambda to, x, *, shift, axis: _roll(to, x, shift, axis),
    "sort_with_indices": lambda to, x, *, axis, descending: to.several(
        2, "TopK", x, to.integers([x.shape[axis]]), axis=axis, largest=int(descending)
    ),
    "split": lambda to, x, *, indices_or_sections, axis: _split(to, x, axis % x.ndim),
    "squeeze": lambda to, x, *, axis: to.reshaped(x, to.shape),
    "stack": lambda to, *xs, axis: to("Concat", *[to("Unsqueeze", x, to.integers([axis])) for x in to.alike(*xs)], axis=axis),
    "sum_to": lambda to, x, *, shape: to.reshaped(_reduce(to, "ReduceSum", x, _summed(x.shape, to.shape), True), to.shape),
    "take": lambda to, x, indices, *, axis: to("Gather", to.line(x, axis), to.cast(indices, np.int64), axis=axis or 0),
    "take_along_axis": lambda to, x, indices, *, axis: _take_along_axis(to, x, to.cast(indices, np.int64), axis),
    "tile": lambda to, x, *, repetitions: _tile(to, x, repetitions if isinstance(repetitions, tuple) else (repetitions,)),
    "tril": lambda to, x, *, k: to("Trilu", to.expanded(x, to.shape), to.integers(k), upper=0),
    "triu": lambda to, x, *, k: to("Trilu", to.expanded(x, to.shape), to.integers(k), upper=1),
    # reductions
    "logsumexp": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceLogSumExp", to.cast(x), axis, keepdims),
    "max": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceMax", x, axis, keepdims),
    "mean": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceMean", to.cast(x), axis, keepdims),
    "min": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceMin", x, axis, keepdims),
    "prod": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceProd", to.cast(x), axis, keepdims),
    "std": lambda to, x, *, axis, keepdims, correction: to("Sqrt", _variance(to, to.cast(x), axis, keepdims, correction)),
    "sum": lambda to, x, *, axis, keepdims: _reduce(to, "ReduceSum", to.cast(x), axis, keepdims),
    "var": lambda to, x, *, axis, keepdims, correction: _variance(to, to.cast(x), axis, keepdims, correction),
    "vector_norm": lambda to, x, *, axis, keepdims, ord: _norm(to, to.cast(x), axis, keepdims, ord),
}


# The forms that are longer than a line.


def _activated(to: Writer, x: Tensor, activation: str) -> Tensor:
    kind = {"identity": None, "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[activation]
    return to(kind, x) if kind else x


def _bias_activation(to: Writer, x: Tensor, b: Tensor, axis: int, activation: str) -> Tensor:
    before = to.alone(x, "Conv") if axis % x.ndim == 1 else None
    if before is not None and len(before.inputs) == 2 and b.array is not None:
        before.inputs.append(to.name(b))  # a convolution has a bias of its own
        return _activated(to, x, activation)
    return _activated(to, to("Add", x, to.reshaped(b, (*b.shape, *(1,) * (x.ndim - 1 - axis % x.ndim)))), activation)


def _clip(to: Writer, x: Tensor, low: Any, high: Any) -> Tensor:
    x = to.cast(x)
    if np.ndim(low) == np.ndim(high) == 0:
        return to("Clip", x, *[None if bound is None else to.number(bound) for bound in (low, high)])
    x = x if low is None else to("Max", x, to.number(low))
    return x if high is None else to("Min", x, to.number(high))


def _dense(to: Writer, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return to("Gemm", x, w, b) if x.ndim == 2 else to("Add", to("MatMul", x, w), b)


def _flip(to: Writer, x: Tensor, axes: Sequence[int]) -> Tensor:
    ones = [1] * len(axes)
    return _slice(to, x, [-n for n in ones], [-END] * len(axes), list(axes), [-n for n in ones]) if axes else x


def _logaddexp(to: Writer, x1: Tensor, x2: Tensor) -> Tensor:
    return to("Add", to("Max", x1, x2), to("Softplus", to("Neg", to("Abs", to("Sub", x1, x2)))))


def _matvec(to: Writer, x: Tensor, w: Tensor) -> Tensor:
    if w.ndim == 1:
        return to("MatMul", x, w)
    last = to.integers([-1])
    return to("Squeeze", to("MatMul", x, to("Unsqueeze", w, last)), last)


def _max_pool(to: Writer, x: Tensor, window: Mapping[str, Any]) -> Any:
    if not to.wanted[1]:
        return to("MaxPool", x, **window), None
    y, places = to.several(2, "MaxPool", x, **window)
    return y, to("Mod", places, to.integers(x.shape[2] * x.shape[3]))  # theirs count on from one picture to the next


def _moved(to: Writer, x: Tensor, axis: int | None, move: Callable[[Any], Any]) -> Tensor:
    """Elements in other places along an axis."""
    sizes = x.shape if axis is None else (x.shape[axis],)
    if follows(sizes):
        to.refuse("moves examples of the batch, whose number is open")
    return to("Gather", to.line(x, axis), to.integers(move(np.arange(math.prod(sizes))).tolist()), axis=axis or 0)


def _norm(to: Writer, x: Tensor, axis: Any, keepdims: bool, ord: float) -> Tensor:
    if ord in (1, 2):
        return _reduce(to, f"ReduceL{ord:.0f}", x, axis, keepdims)
    if ord not in (math.inf, -math.inf):
        to.refuse(f"is a norm of order {ord}; there are 1, 2, inf and -inf")
    return _reduce(to, "ReduceMax" if ord > 0 else "ReduceMin", to("Abs", x), axis, keepdims)


def _normalise(to: Writer, x: Tensor, w: Tensor, b: Tensor, axes: Sequence[int], eps: float) -> Any:
    last = x.shape[x.ndim - len(axes) :]
    if tuple(axes) == tuple(range(x.ndim))[-len(axes) :] and w.shape == b.shape == last and not any(to.wanted[1:]):
        return to("LayerNormalization", x, w, b, axis=-len(axes), epsilon=eps), None, None
    mean = _reduce(to, "ReduceMean", x, tuple(axes), True)
    centred = to("Sub", x, mean)
    var = _reduce(to, "ReduceMean", _squared(to, centred), tuple(axes), True)
    x_hat = to("Div", centred, to("Sqrt", to("Add", var, to.number(eps))))
    return to("Add", to("Mul", x_hat, w), b), mean, var


def _pad(to: Writer, x: Tensor, pad_width: Any, mode: str, value: Any) -> Tensor:
    widths = np.broadcast_to(pad_width, (x.ndim, 2))
    if mode == "constant":
        return to("Pad", x, to.integers(widths.T.ravel().tolist()), to.number(value))
    for axis in np.flatnonzero(widths.any(axis=1)).tolist():
        if type(x.shape[axis]) is Size:
            to.refuse("repeats examples of the batch, whose number is open")
        places = np.pad(np.arange(x.shape[axis]), widths[axis], mode=mode)  # type: ignore[call-overload]
        x = Tensor(to("Gather", x, to.integers(places.tolist()), axis=axis).name, x.shape, x.dtype)
    return x


def _reduce(to: Writer, kind: str, x: Tensor, axis: Any, keepdims: bool) -> Tensor:
    if axis == ():  # over nothing: ONNX has no word for that
        return to(kind, to("Unsqueeze", x, to.integers([-1])), to.integers([-1]), keepdims=0)
    axes = () if axis is None else (to.integers([*axis] if isinstance(axis, tuple) else [axis]),)
    return to(kind, x, *axes, keepdims=int(keepdims))


def _remainder(to: Writer, x1: Tensor, x2: Tensor) -> Tensor:
    """Mod has the sign of x1; NumPy's remainder that of x2."""
    rest, zero = to("Mod", x1, x2, fmod=1), to.number(0)
    other = to("And", to("Not", to("Equal", rest, zero)), to("Xor", to("Less", rest, zero), to("Less", x2, zero)))
    return to("Where", other, to("Add", rest, x2), rest)


def _roll(to: Writer, x: Tensor, shift: Any, axis: Any) -> Tensor:
    if axis is None:
        return to.reshaped(_moved(to, x, None, partial(np.roll, shift=np.sum(shift))), to.shape)
    for by, along in np.broadcast(shift, axis):
        x = Tensor(_moved(to, x, int(along), partial(np.roll, shift=by)).name, x.shape, x.dtype)
    return x


def _slice(to: Writer, x: Tensor, starts: Sequence[Any], ends: Sequence[Any], axes: Sequence[int], steps: Sequence[int]) -> Tensor:
    return to("Slice", x, *map(to.integers, (starts, ends, axes, steps)))


def _softmax(to: Writer, kind: str, x: Tensor, axis: Any) -> Tensor:
    axes = axes_of(axis, x.ndim)
    if len(axes) == 1:
        return to(kind, x, axis=axes[0])
    if kind == "LogSoftmax":
        return to("Sub", x, _reduce(to, "ReduceLogSumExp", x, axes, True))
    e = to("Exp", to("Sub", x, _reduce(to, "ReduceMax", x, axes, True)))
    return to("Div", e, _reduce(to, "ReduceSum", e, axes, True))


def _split(to: Writer, x: Tensor, axis: int) -> Any:
    sizes: list[Any] = [y.shape[axis] for y in to.call.outputs]
    cuts = to.call.params["indices_or_sections"]
    if not follows(sizes) and sum(sizes) == x.shape[axis]:
        return to.several(len(sizes), "Split", x, to.integers(sizes), axis=axis)
    if not isinstance(cuts, (tuple, list)):
        to.refuse("cuts the batch into equal parts, and its size is open")
    return tuple(_slice(to, x, [start], [end], [axis], [1]) for start, end in zip((0, *cuts), (*cuts, END), strict=True))


def _squared(to: Writer, x: Tensor) -> Tensor:
    return to("Mul", x, x)


def _summed(shape: Sequence[Any], left: Sequence[Any]) -> tuple[int, ...]:
    """The axes over which `sum_to` sums."""
    more = len(shape) - len(left)
    return (*range(more), *(i + more for i, n in enumerate(left) if n == 1 and shape[i + more] != 1))


def _take_along_axis(to: Writer, x: Tensor, indices: Tensor, axis: int | None) -> Tensor:
    if axis is None:
        return to("GatherElements", to.line(x, None), indices, axis=0)
    axis %= x.ndim
    whole = (*to.shape[:axis], x.shape[axis], *to.shape[axis + 1 :])
    return to("GatherElements", to.expanded(x, whole), to.expanded(indices, to.shape), axis=axis)


def _tile(to: Writer, x: Tensor, times: Sequence[int]) -> Tensor:
    more = len(times) - x.ndim
    x = to.reshaped(x, (*(1,) * more, *x.shape)) if more > 0 else x
    return to("Tile", x, to.integers([*(1,) * -more, *times]))


def _variance(to: Writer, x: Tensor, axis: Any, keepdims: bool, correction: float) -> Tensor:
    centred = to("Sub", x, _reduce(to, "ReduceMean", x, axis, True))
    var = _reduce(to, "ReduceMean", _squared(to, centred), axis, keepdims)
    if not correction:
        return var
    sizes = [x.shape[a] for a in axes_of(axis, x.ndim)]
    if follows(sizes):
        to.refuse(f"has a correction of {correction} for a number of examples that is open")
    n = math.prod(sizes)
    return to("Mul", var, to.number(n / (n - correction) if n > correction else math.nan))


def geometry(*, stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    """The attributes of a convolution."""
    return {
        "strides": pair(stride, "stride", 1), "pads": _pads(padding), "dilations": pair(dilation, "dilation", 1), "group": groups,
    }  # fmt: skip


def window(kernel_size: Any, stride: Any, padding: Any) -> dict[str, Any]:
    """The attributes of a pool."""
    kernel = pair(kernel_size, "kernel_size", 1)
    return {"kernel_shape": kernel, "strides": kernel if stride is None else pair(stride, "stride", 1), "pads": _pads(padding)}


def _pads(padding: Any) -> tuple[int, ...]:
    (top, bottom), (left, right) = sides(padding)
    return top, left, bottom, right


END = 2**63 - 1  # of an axis, however long


def _getitem(to: Writer, x: Tensor, key: tuple[Any, ...]) -> Tensor:
    """Slices and integers are one Slice; what they drop and what None puts in is one Reshape. One array of places is a Gather."""
    if not any(k is Ellipsis for k in key):
        key = (*key, Ellipsis)
    gap = next(i for i, k in enumerate(key) if k is Ellipsis)
    full = x.ndim - sum(k is not None for k in key) + 1
    key = (*key[:gap], *[slice(None)] * full, *key[gap + 1 :])
    if any(isinstance(k, (list, np.ndarray, bool, np.bool_)) for k in key):
        x, key = _chosen(to, x, key)
    cuts = []
    for axis, k in enumerate(k for k in key if k is not None):
        if type(k) is not slice:
            cuts.append((k, END if k == -1 else Size(k.times, k.plus + 1) if type(k) is Size else k + 1, axis, 1))
        elif k != slice(None):
            step = 1 if k.step is None else k.step
            first, last = (0, END) if step > 0 else (END, -END)
            cuts.append((first if k.start is None else k.start, last if k.stop is None else k.stop, axis, step))
    y = _slice(to, x, *map(list, zip(*cuts, strict=True))) if cuts else x
    return y if all(type(k) is slice for k in key) else to.reshaped(y, to.shape)


def _chosen(to: Writer, x: Tensor, key: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
    """x with the places that the one array in the key chooses, and the key that is left to do."""
    arrays = [i for i, k in enumerate(key) if type(k) is not slice and k is not None]
    where, places = arrays[0], np.asarray(key[arrays[0]])
    if len(arrays) > 1 or places.ndim == 0 or (places.dtype == bool and places.ndim > 1):
        to.refuse("has a key with more than one array or integer beside an array, or a mask over several axes")
    axis = sum(k is not None for k in key[:where])
    places = np.flatnonzero(places) if places.dtype == bool else places
    shape = (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
    y = to("Gather", x, to.integers(places.tolist(), places.shape), axis=axis)
    return Tensor(y.name, shape, x.dtype), (*key[:where], *[slice(None)] * places.ndim, *key[where + 1 :])
