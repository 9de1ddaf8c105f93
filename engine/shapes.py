"""The shape notation: `"m k, k n -> m n"` says what an op takes and gives.

    name        an axis; the same name must have the same size wherever it stands
    3           an axis of just this size
    ...         any number of leading axes, broadcast against one another as NumPy does
    (h+1)//2    on the right, an expression in the names and in the op's integer parameters

One string serves four readers: the check, its message, the generator of test data and the cost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

Shape = tuple[int, ...]

ANY = "..."


class ShapeError(ValueError):
    """The shapes given to an op clash with its notation."""


class Notation:
    """A parsed shape notation."""

    def __init__(self, text: str):
        self.text = text
        left, arrow, right = text.partition("->")
        if not arrow:
            raise ValueError(f"a shape notation has an arrow, this has none: {text!r}")
        self.inputs = [side.split() for side in left.split(",")] if left.strip() else []
        self.outputs = [side.split() for side in right.split(",")]
        self._code = [[t if t == ANY else compile(t, text, "eval") for t in out] for out in self.outputs]
        self.broadcasts = any(ANY in side for side in self.inputs)
        self.elementwise = all(side == [ANY] for side in self.inputs + self.outputs)

    @cached_property
    def names(self) -> list[str]:
        """The axis names, in the order in which they first stand."""
        tokens = (t for side in self.inputs for t in side if re.fullmatch(r"[a-z_]\w*", t))
        return list(dict.fromkeys(tokens))

    def bind(self, args: Sequence[str], shapes: Sequence[Shape]) -> tuple[dict[str, int], Shape]:
        """The size of each name, and the shape that `...` stands for.

        Raises ShapeError with the first clash.
        """
        sizes: dict[str, int] = {}
        seen: dict[str, str] = {}
        rest: Shape = ()
        for arg, tokens, shape in zip(args, self.inputs, shapes, strict=True):
            axes = [t for t in tokens if t != ANY]
            if len(shape) < len(axes) or (ANY not in tokens and len(shape) != len(axes)):
                wanted = f"at least {len(axes)}" if ANY in tokens else str(len(axes))
                raise ShapeError(f"{arg} has {len(shape)} axes where {wanted} {'is' if wanted == '1' else 'are'} wanted")
            if ANY in tokens:
                split = len(shape) - len(axes)
                rest = _broadcast(rest, shape[:split], arg)
                shape = shape[split:]
            for token, size in zip(axes, shape, strict=True):
                known = int(token) if token.isdigit() else sizes.setdefault(token, size)
                if known != size:
                    clash = f"wanted as {known}" if token.isdigit() else f"{known} in {seen[token]}"
                    raise ShapeError(f"axis {token} is {clash} but {size} in {arg}")
                seen.setdefault(token, arg)
        return sizes, rest

    def infer(self, args: Sequence[str], shapes: Sequence[Shape], params: Mapping[str, Any]) -> list[Shape]:
        """The shape of each output."""
        sizes, rest = self.bind(args, shapes)
        return [self._evaluate(code, sizes, rest, params) for code in self._code]

    def _evaluate(self, code: Sequence[Any], sizes: Mapping[str, int], rest: Shape, params: Mapping[str, Any]) -> Shape:
        names = {"__builtins__": {}, **params, **sizes}  # the text is the op author's own, and sees nothing else
        out: Shape = ()
        for token in code:
            out += rest if token == ANY else (eval(token, names),)
        if any(size < 0 for size in out):
            raise ShapeError(f"the output would have shape {out}: the input is smaller than the window")
        return out


def _broadcast(a: Shape, b: Shape, arg: str) -> Shape:
    if len(a) < len(b):
        a, b = (1,) * (len(b) - len(a)) + a, b
    else:
        b = (1,) * (len(a) - len(b)) + b
    out = []
    for i, (m, n) in enumerate(zip(a, b, strict=True)):
        if m != n and 1 not in (m, n):
            raise ShapeError(f"cannot broadcast: axis {i - len(a)} is {m} so far but {n} in {arg}")
        out.append(n if m == 1 else m)
    return tuple(out)
