"""A function of one number, written down: calls of ops on x and on numbers, so that it can be computed, tabulated and saved.

swish = Function("multiply", (X, Function("sigmoid", (X,))))
swish(x)                                     # by the ops in force
Function.told_by(json.loads(json.dumps(swish.told())))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine import ops  # noqa: F401  they are in OPS then
from engine.traced import OPS

X = "x"


@dataclass(frozen=True)
class Function:
    """op(*of, **params), elementwise. What it is of: `X`, a number, or another function of x."""

    op: str
    of: tuple[Any, ...]
    params: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, x: Any, *, defined: bool = False) -> Any:
        """f(x), in the dtype of x; `defined`: by the definitions of the ops, which have the same bits on every machine's kernels."""
        op = OPS[self.op]
        args = [_argument(a, x, defined) for a in self.of]
        return (op.definition if defined else op)(*args, **self.params)

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.params.items() if value != OPS[self.op].defaults.get(name)]
        return f"{self.op}({', '.join([*map(str, self.of), *options])})"

    def told(self) -> list[Any]:
        """As JSON holds it; `told_by` is the way back."""
        return [self.op, [a.told() if isinstance(a, Function) else a for a in self.of], dict(self.params)]

    @classmethod
    def told_by(cls, told: list[Any]) -> Function:
        """What `told` wrote down."""
        op, args, params = told
        return cls(op, tuple(cls.told_by(a) if isinstance(a, list) else a for a in args), params)


def _argument(a: Any, x: Any, defined: bool) -> Any:
    if isinstance(a, Function):
        return a(x, defined=defined)
    return x if a == X else np.asarray(a, x.dtype)
