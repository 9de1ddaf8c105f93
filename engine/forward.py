"""Forward mode: push a tangent through the jvp rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine import ops
from engine.interpret import Interpreter, interpreting, running
from engine.op import Op, as_array
from engine.traced import Traced
from engine.tree import flatten, leaves_as, skeleton


class Push(Interpreter):
    """Carry a tangent beside each value: slot is dx."""

    def __init__(self, below: Interpreter):
        self.below = below

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        moving = [i for i, a in enumerate(args) if type(a) is Traced and a.owner is self]
        values = [a.value if type(a) is Traced and a.owner is self else kept(a) for a in args]
        y = self.below.apply(op, values, params)
        moving = [i for i in moving if op.argument(i) not in op.constant]
        if not moving:
            return y
        with interpreting(self.below):
            dy = self._tangent(op, y, values, params, moving, [a.slot if i in moving else None for i, a in enumerate(args)])
        if type(y) is tuple:
            return tuple(Traced(self, part, d) if _real(part) else part for part, d in zip(y, dy, strict=True))
        return Traced(self, y, dy) if _real(y) else y

    def _tangent(self, op: Op, y: Any, values: list[Any], params: dict[str, Any], moving: list[int], tangents: list[Any]) -> Any:
        if op.variadic and op.args[0] in op.jvps:
            every = tuple(np.zeros(v.shape, v.dtype) if d is None else d for v, d in zip(values, tangents, strict=True))
            return op.jvps[op.args[0]](every, y, values, params)
        total: Any = None
        for i in moving:
            arg, d = op.argument(i), tangents[i]
            if arg in op.linear:
                dy = op(*values[:i], d, *values[i + 1 :], **params)
            elif arg in op.jvps:
                dy = op.jvps[arg](d, y, values, params)
            else:
                raise op.missing(arg, "jvp")
            total = dy if total is None else tuple(map(_add, total, dy)) if type(y) is tuple else _add(total, dy)
        return tuple(map(_spread, total, y)) if type(y) is tuple else _spread(total, y)


def _real(y: Any) -> bool:
    return y.dtype.kind in "fc"


def _add(a: Any, b: Any) -> Any:
    return a + b


def _spread(dy: Any, y: Any) -> Any:
    """dy in the shape and dtype of y: an elementwise rule knows nothing of broadcasting."""
    if dy.shape != y.shape:
        dy = ops.broadcast_to(dy, shape=y.shape)
    return dy if dy.dtype == y.dtype else ops.astype(dy, dtype=y.dtype)


def jvp(f: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    r"""$y = f(x), \quad \dot y = J_f(x)\, \dot x$

    args, tangents   tuples of the same nesting of floating-point arrays; each tangent has the shape of its argument
    Returns y and dy, in the nesting that f returns.
    Raises TypeError for arguments that are not floating-point, ValueError where a tangent does not fit.
    """
    if not isinstance(args, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError("jvp takes tuples: jvp(f, (x,), (dx,))")
    if skeleton(tuple(args)) != skeleton(tuple(tangents)):
        raise ValueError(f"jvp: arguments and tangents are nested differently:\n  {skeleton(args)}\n  {skeleton(tangents)}")
    push = Push(running())
    leaves, rebuild = flatten(tuple(args))
    moves = leaves_as(tuple(args), tuple(tangents))
    with interpreting(push):
        out = f(*rebuild([_dual(push, x, d, i) for i, (x, d) in enumerate(zip(leaves, moves, strict=True))]))
    ys, nest = flatten(out)
    mine = [type(y) is Traced and y.owner is push for y in ys]
    primals = [y.value if m else y for y, m in zip(ys, mine, strict=True)]
    changes = [y.slot if m else np.zeros_like(as_array(y)) for y, m in zip(ys, mine, strict=True)]
    return nest(primals), nest(changes)


def _dual(push: Push, x: Any, d: Any, i: int) -> Traced:
    x, d = differentiable(x, f"jvp: argument {i}"), as_value(d)
    if x.shape != d.shape:
        raise ValueError(f"jvp: argument {i} has shape {x.shape}, its tangent {d.shape}")
    return Traced(push, x, d if d.dtype == x.dtype else ops.astype(d, dtype=x.dtype))


def as_value(x: Any) -> Any:
    """A traced value or a NumPy array."""
    return x if type(x) is Traced or isinstance(x, np.generic) else as_array(x)


def kept(x: Any) -> Any:
    """`x` as a rule can use it: a list or another library's array becomes an array."""
    return x if type(x) in (np.ndarray, Traced, float, int) or isinstance(x, np.generic) else as_value(x)


def differentiable(x: Any, what: str) -> Any:
    """`x` as an array of floating-point numbers; a Python number becomes float64.

    Raises TypeError for integers: they cannot be nudged.
    """
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return np.float64(x)
    try:
        x = as_value(x)
    except TypeError as e:
        raise TypeError(f"{what}: {e}\n  an argument is an array, a number, or a nesting of these in dicts, lists and tuples") from None
    if x.dtype.kind not in "fc":
        raise TypeError(
            f"{what} is {x.dtype}: a derivative needs floating-point numbers\n  convert it, x.astype(float), or leave it out of argnums"
        )
    return x
