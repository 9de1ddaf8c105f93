"""Which way a run went at every kink: two runs with the same branches lie on the same smooth piece."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.op import Op
from engine.traced import Traced, primal
from engine.tree import tree_map

PAIRS = {"maximum", "minimum"}
WINNERS = {"max", "min"}


class Branches(Interpreter):
    """Note on which side of each kink the arguments lie, which element won each maximum, and every index."""

    def __init__(self, below: Interpreter):
        self.below = below
        self.notes = hashlib.blake2b(digest_size=16)

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        y = self.below.apply(op, values, params)
        for choice in choices(op, values, params, y):
            self.notes.update(np.ascontiguousarray(choice).tobytes())
        if len(op.constant) == len(op.args):  # cut off on purpose, to be read as plain numbers
            return y
        return tuple(self.watch(part) for part in y) if type(y) is tuple else self.watch(y)

    def watch(self, y: Any) -> Any:
        """Integers are indices: they are handed on as they are."""
        return Traced(self, y) if y.dtype.kind in "fc" else y


def choices(op: Op, values: Sequence[Any], params: dict[str, Any], y: Any) -> list[Any]:
    """The small integers that say which way `op` went."""
    xs = [np.asarray(primal(v)).real for v in values]
    found = [np.sign(x - kink).astype(np.int8) for i, x in enumerate(xs) for kink in op.domain[op.argument(i)].kinks]
    if op.name in PAIRS:
        found.append(np.sign(xs[0] - xs[1]).astype(np.int8))
    if op.name == "clip":
        found += [np.sign(xs[0] - bound).astype(np.int8) for bound in params.values() if bound is not None]
    if op.name in WINNERS:
        found.append(xs[0] == winner(primal(y).real, xs[0], **params))
    discrete = (primal(part) for part in (*values, *(y if type(y) is tuple else ())))
    return found + [np.asarray(part) for part in discrete if np.asarray(part).dtype.kind in "biu"]


def winner(y: Any, x: np.ndarray, *, axis: Any = None, keepdims: bool = False, **_: Any) -> Any:
    """The reduced `y` in a shape that broadcasts against `x`."""
    if keepdims or axis is None:
        return y
    return np.expand_dims(y, tuple(a % x.ndim for a in np.atleast_1d(axis)))


def run(f: Callable[[Any], Any], params: Any) -> tuple[Any, bytes]:
    """The value of `f(params)` and a digest of the branches it took."""
    branches = Branches(running())
    with interpreting(branches):
        y = f(tree_map(lambda p: Traced(branches, p), params))
    return primal(y), branches.notes.digest()
