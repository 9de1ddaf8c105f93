"""How a NumPy function gets its stand-in, and what a stand-in does with options that it cannot honour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine import ops
from engine.traced import NUMPY, primal

StandIn = Callable[..., Any]


class Refused:
    """The default of an option that a stand-in takes at NumPy's default only."""

    def __init__(self, why: str, *defaults: Any):
        self.why = why
        self.defaults = (None, np._NoValue, *defaults)

    def accepts(self, value: Any) -> bool:
        return any(value is d for d in self.defaults) or (isinstance(value, str) and value in self.defaults)


OUT = Refused("a derivative cannot follow a write into an array: give the result a name of its own, y = ...")
WHERE = Refused("choose with np.where(mask, a, b) instead", True)
CASTING = Refused("convert with x.astype instead", "same_kind")
ORDER = Refused("an order in memory is wanted", "K", "C", "A", "F")
UNUSED = Refused("it has no meaning for the derivative", True, False)
KIND = Refused("a kind of sorting is wanted", "quicksort", "mergesort", "heapsort", "stable", "introselect")


def function_named(name: str) -> Any:
    """The function np.`name`, or (ufunc, method) for "add.reduce"; None if this NumPy does not have it."""
    found: Any = np
    for part in name.split("."):
        if isinstance(found, np.ufunc):
            return found, part
        found = getattr(found, part, None)
    return found


def stands_in(*names: str) -> Callable[[StandIn], StandIn]:
    """The decorated function, which has NumPy's signature, answers for np.`names` where an argument is traced."""

    def register(function: StandIn) -> StandIn:
        function.__qualname__ = f"np.{names[0]}"  # Python's own message about a wrong argument then names this
        stand_in = guarded(names[0], function)
        for name in names:
            numpy_function = function_named(name)
            if numpy_function is not None:
                NUMPY[numpy_function] = stand_in
        return function

    return register


def guarded(name: str, function: StandIn) -> StandIn:
    """`function`, that says why if one of its `Refused` options is given."""
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    by_name = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True)) | (function.__kwdefaults__ or {})
    refused = {option: r for option, r in by_name.items() if isinstance(r, Refused)}
    if not refused:
        return function
    places = [(i, option) for i, option in enumerate(names) if option in refused]

    def call(*args: Any, **kwargs: Any) -> Any:
        for i, option in places:
            if i < len(args):
                _check_option(name, option, args[i], refused[option])
        for option in [k for k in kwargs if k in refused]:
            _check_option(name, option, kwargs.pop(option), refused[option])
        return function(*args, **kwargs)

    return call


def _check_option(name: str, option: str, value: Any, refused: Refused) -> None:
    if type(value) is tuple and option == "out":  # a ufunc wraps its out in a tuple
        value = next((v for v in value if v is not None), None)
    if not refused.accepts(value):
        raise TypeError(f"np.{name}: {option}= is not possible where an argument is differentiated\n  {refused.why}")


def plain(nest: Any) -> Any:
    """The same nesting of the plain arrays."""
    if type(nest) in (list, tuple):
        return type(nest)(map(plain, nest))
    if type(nest) is dict:
        return dict(zip(nest, map(plain, nest.values()), strict=True))
    return primal(nest)


def value(x: Any) -> Any:
    """`x` as something with a shape and a dtype: a traced value as it is, a list of traced values stacked."""
    if hasattr(x, "dtype"):
        return x
    if isinstance(x, (list, tuple)) and any(map(holds_traced, x)):
        return ops.stack([value(part) for part in x])
    return np.asarray(x)


def rearranged(function: StandIn, *arrays: Any) -> Any:
    """`function` of the arrays, which only moves their elements: it is run on their places, and the elements taken from there."""
    sizes = np.cumsum([0, *(a.size for a in arrays)])
    places = [start + np.arange(a.size).reshape(a.shape) for start, a in zip(sizes, arrays, strict=False)]
    elements = [ops.reshape(a, shape=(a.size,)) for a in arrays]
    return ops.take(elements[0] if len(arrays) == 1 else ops.concat(elements), function(*places))


def checked_axis(axis: Any, shape: tuple[int, ...]) -> Any:
    """`axis`, a list as a tuple, where it fits an array of this shape. Raises NumPy's AxisError."""
    axis = tuple(axis) if isinstance(axis, list) else axis
    if axis is not None:
        np.flip(np.broadcast_to(np.False_, shape), axis)  # a view: nothing is computed
    return axis


def holds_traced(x: Any) -> bool:
    """Is `x`, or something in this list, traced?"""
    return any(map(holds_traced, x)) if isinstance(x, (list, tuple)) else primal(x) is not x


def converted(x: Any, dtype: Any) -> Any:
    """`x` in the dtype that an option asks for. Raises TypeError where that would end the derivative."""
    if dtype is None or x.dtype == dtype:
        return x
    if np.dtype(dtype).kind not in "fc":
        raise TypeError(
            f"dtype={np.dtype(dtype)}: a derivative needs floating-point numbers\n  convert the result of stop_gradient(x) instead"
        )
    return ops.astype(x, dtype=np.dtype(dtype))
