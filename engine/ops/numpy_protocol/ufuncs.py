"""What every ufunc has: options such as dtype=, and the methods .outer and .at. Imported after all stand-ins, for it goes over them."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine import ops
from engine.ops.numpy_protocol.table import CASTING, ORDER, OUT, UNUSED, WHERE, StandIn, converted, guarded, value
from engine.traced import NUMPY


def with_options(name: str, op: StandIn) -> StandIn:
    """The op of a ufunc, with a ufunc's options."""

    def with_dtype(*args, axis=-1, dtype=None, out=OUT, where=WHERE, casting=CASTING, order=ORDER, subok=UNUSED):
        given = args if dtype is None else [converted(value(a), dtype) for a in args]
        return op(*given) if axis == -1 else op(*given, axis=axis)  # vecdot has one

    slow = guarded(name, with_dtype)

    def call(*args: Any, **kwargs: Any) -> Any:
        args = tuple([value(a) if isinstance(a, (list, tuple)) else a for a in args])
        return slow(*args, **kwargs) if kwargs else op(*args)

    return call


def outer(op: StandIn) -> StandIn:
    """The `.outer` of a ufunc: every element of one with every element of the other."""

    def call(a: Any, b: Any) -> Any:
        a, b = value(a), value(b)
        return op(ops.reshape(a, shape=a.shape + (1,) * b.ndim), b)

    return call


def in_place(name: str) -> StandIn:
    """An error for what writes into an array."""

    def call(*_: Any, **__: Any) -> Any:
        raise TypeError(
            f"np.{name} writes into its first argument, and a derivative cannot follow that.\n"
            "  build a new array: np.where(mask, a, b), np.concatenate, or ops.scatter_add(x, indices, values)"
        )

    return call


for _ufunc in [f for f in NUMPY if isinstance(f, np.ufunc)]:
    if NUMPY[_ufunc].__module__ != "engine.ops.numpy_protocol.constants":  # those have their options already
        NUMPY[_ufunc] = with_options(_ufunc.__name__, NUMPY[_ufunc])
        if _ufunc.nin == 2 and _ufunc.signature is None:
            NUMPY[_ufunc, "outer"] = outer(NUMPY[_ufunc])
    NUMPY[_ufunc, "at"] = in_place(f"{_ufunc.__name__}.at")

for _name in ("copyto", "put", "put_along_axis", "place", "putmask", "fill_diagonal"):
    NUMPY[getattr(np, _name)] = in_place(_name)
