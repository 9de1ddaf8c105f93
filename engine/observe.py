"""Run a function and watch it: Count adds up what it costs, Observe keeps something of every value, its range or anything else."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.interpret import Interpreter, interpreting, running
from engine.op import Op, as_array
from engine.shapes import ANY
from engine.traced import Traced
from engine.tree import flatten, tree_map


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


class Placed(Interpreter):
    """Meet every value of a run by its place: "0 input", "3 matmul w1", which is the third call, and of the parameter w1.

    A place is named after the first parameter among the arguments; what is made of parameters alone, as a transpose is, has its name too.
    """

    def __init__(self, below: Interpreter):
        self.below = below
        self.place = 0

    @abstractmethod
    def meet(self, y: Any, place: str) -> Any:
        """What goes on to the next op."""

    def apply(self, op: Op, args: Sequence[Any], params: dict[str, Any]) -> Any:
        mine = [a for a in args if type(a) is Traced and a.owner is self]
        y = self.below.apply(op, [a.value if type(a) is Traced and a.owner is self else a for a in args], params)
        name = next((a.slot for a in mine if a.slot is not None), None)
        of_parameters = name if all(a.slot is not None for a in mine) else None
        self.place += 1
        place = f"{self.place} {op.name}" + (f" {name}" if name is not None else "")
        if type(y) is tuple:
            return tuple(Traced(self, self.meet(part, f"{place}[{i}]"), of_parameters) for i, part in enumerate(y))
        return Traced(self, self.meet(y, place), of_parameters)

    def run(self, f: Callable[..., Any], *args: Any, params: Mapping[str, Any] | None = None) -> Any:
        """f(*args), or f(params, *args) with parameters by name, once more from place 0."""
        self.place = 0
        leaves, rebuild = flatten(args)
        places = ["0 input"] if len(leaves) == 1 else [f"0 input[{i}]" for i in range(len(leaves))]
        inputs = rebuild([Traced(self, self.meet(as_array(x), place)) for x, place in zip(leaves, places, strict=True)])
        named = () if params is None else ({name: Traced(self, as_array(p), name) for name, p in params.items()},)
        with interpreting(self):
            y = f(*named, *inputs)
        return tree_map(lambda part: part.value if type(part) is Traced and part.owner is self else part, y)


@dataclass
class Range:
    """The smallest and the largest value seen, and how many were."""

    low: float = np.inf
    high: float = -np.inf
    seen: int = 0

    def update(self, y: Any) -> None:
        """Widen to hold `y`."""
        self.low, self.high = min(self.low, float(np.min(y))), max(self.high, float(np.max(y)))
        self.seen += y.size


class Observe(Placed):
    """Keep something of every value: each is shown to the `update` of what its place keeps, for which `keep` is called at the first one."""

    def __init__(self, below: Interpreter, keep: Callable[[], Any] = Range):
        super().__init__(below)
        self.keep = keep
        self.kept: dict[str, Any] = {}

    def meet(self, y: Any, place: str) -> Any:
        """Errors name the place."""
        if y.size:
            if place not in self.kept:
                self.kept[place] = self.keep()
            try:
                self.kept[place].update(y)
            except (TypeError, ValueError) as e:
                raise type(e)(f"{place}: {e}") from None
        return y


def observe(f: Callable[..., Any], batches: Sequence[tuple[Any, ...]]) -> dict[str, Range]:
    """The range of every value of f over `batches`, each a tuple of f's arguments."""
    observer = Observe(running())
    for batch in batches:
        observer.run(f, *batch)
    return observer.kept
