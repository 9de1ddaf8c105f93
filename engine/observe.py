"""Run a function and watch it: Count adds up what it costs, Observe keeps the range of every value."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.op import Op, as_array
from engine.shapes import ANY
from engine.traced import Traced
from engine.tree import flatten


@dataclass
class Costs:
    """What a run cost.

    calls       how often each op was called
    flops       floating-point operations of each op
    bytes       read and written by the ops, if each array is moved once a call
    peak_bytes  most bytes of results that were alive at once, inputs not included
    """

    calls: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    live_bytes: int = 0
    peak_bytes: int = 0

    def __str__(self) -> str:
        rows = [f"  {name:<22} {n:>8} {self.flops[name]:>16,}" for name, n in self.calls.most_common()]
        total = f"  {'total':<22} {sum(self.calls.values()):>8} {sum(self.flops.values()):>16,}"
        memory = f"  moved {self.bytes / 1e6:,.3f} MB, at most {self.peak_bytes / 1e6:,.3f} MB of results alive"
        return "\n".join([f"  {'op':<22} {'calls':>8} {'flops':>16}", *rows, total, memory])


class Count(Interpreter):
    """Add up the cost that each op's notation implies."""

    def __init__(self, below: Interpreter):
        self.below = below
        self.costs = Costs()

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        y = self.below.apply(op, values, params)
        outputs = y if type(y) is tuple else (y,)
        self.costs.calls[op.name] += 1
        self.costs.flops[op.name] += flops(op, values, outputs, params)
        self.costs.bytes += sum(a.nbytes if isinstance(a, (np.ndarray, np.generic)) else 0 for a in (*values, *outputs))
        for part in outputs:
            self._watch_life(part)
        return tuple(Traced(self, part) for part in y) if type(y) is tuple else Traced(self, y)

    def _watch_life(self, y: Any) -> None:
        if type(y) is not np.ndarray or y.base is not None:  # a view has no bytes of its own
            return
        self.costs.live_bytes += y.nbytes
        self.costs.peak_bytes = max(self.costs.peak_bytes, self.costs.live_bytes)
        weakref.finalize(y, self._free, y.nbytes).atexit = False

    def _free(self, nbytes: int) -> None:
        self.costs.live_bytes -= nbytes


def flops(op: Op, values: Sequence[Any], outputs: Sequence[Any], params: dict[str, Any]) -> int:
    """The floating-point operations of one call: by the op's own formula, else one for each element of its largest array."""
    if op.flops is None or op.notation is None:
        return max((int(np.prod(v.shape)) for v in (*values, *outputs) if hasattr(v, "shape")), default=0)
    sizes, rest = op.notation.bind(op.args, [np.shape(v) for v in values])
    for tokens, y in zip(op.notation.outputs, outputs, strict=False):  # a window's size stands only in the output
        sizes.update(zip(tokens, y.shape, strict=False) if ANY not in tokens else ())
    return int(np.prod(rest)) * int(eval(op.flops, {"__builtins__": {}}, {**params, **sizes}))


def count(f: Callable[..., Any]) -> Callable[..., Costs]:
    """`count(f)(*args)` runs f and returns its costs; count(grad(f)) counts the way back too."""

    def run(*args: Any) -> Costs:
        counter = Count(running())
        leaves, rebuild = flatten(args)
        with interpreting(counter):
            f(*rebuild([Traced(counter, as_array(x)) for x in leaves]))
        return counter.costs

    return run


@dataclass
class Range:
    """The smallest and the largest value seen."""

    low: float
    high: float
    seen: int

    def include(self, y: Any) -> None:
        """Widen to hold `y`."""
        self.low, self.high = min(self.low, float(np.min(y))), max(self.high, float(np.max(y)))
        self.seen += y.size


class Observe(Interpreter):
    """Keep the range of every value, by its place in the run ("3 matmul"). Calibration is a run over some batches."""

    def __init__(self, below: Interpreter):
        self.below = below
        self.ranges: dict[str, Range] = {}
        self.place = 0

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        values = [a.value if type(a) is Traced and a.owner is self else a for a in args]
        y = self.below.apply(op, values, params)
        self.place += 1
        if type(y) is tuple:
            return tuple(self._note(part, f"{self.place} {op.name}[{i}]") for i, part in enumerate(y))
        return self._note(y, f"{self.place} {op.name}")

    def _note(self, y: Any, name: str) -> Traced:
        if y.size:
            self.ranges.setdefault(name, Range(np.inf, -np.inf, 0)).include(y)
        return Traced(self, y)

    def run(self, f: Callable[..., Any], *args: Any) -> None:
        """Run `f` once more, from place 1: each call widens the ranges."""
        self.place = 0
        leaves, rebuild = flatten(args)
        with interpreting(self):
            f(*rebuild([Traced(self, as_array(x)) for x in leaves]))


def observe(f: Callable[..., Any], batches: Sequence[tuple[Any, ...]]) -> dict[str, Range]:
    """The range of every value of f over `batches`, each a tuple of f's arguments."""
    observer = Observe(running())
    for batch in batches:
        observer.run(f, *batch)
    return observer.ranges
