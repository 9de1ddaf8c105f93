"""Our kernels: the rung that serves, or the rung called by name, `gnomon/packed`. Called as the engine calls it, past the door.

A step of an optimiser works in place, as that of a framework does.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import kernels
from benchmarks import peers


@dataclass(frozen=True)
class Rungs:
    """The ladders of a backend, at the rung of this name; at the one that serves for an empty name."""

    rung: str
    backend: str = "cpu"

    def available(self) -> str | None:
        return None if self.backend in kernels.backends() else f"there is no backend {self.backend} here"

    def of(self, case: Any) -> kernels.Rung:
        try:
            rungs = kernels.ladder(case.op, self.backend)
        except kernels.MissingKernel:
            raise peers.Missing("no kernel") from None
        found = [r for r in rungs if (r.name == self.rung if self.rung else r.serves)]
        if not found:
            raise peers.Missing(f"{case.op} has no rung {self.rung}")
        return found[0]

    def prepare(self, case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
        run = self.of(case).run
        if case.op.endswith("_step") and "out" in inspect.signature(run, follow_wrapped=False).parameters:
            p, g, *state = [copied(a) for a in args]
            return lambda: run(p, g, *state, out=(p, *state), **params)
        return lambda: run(*args, **params)

    def allowed(self, case: Any) -> float:
        rtol = self.of(case).rtol
        return rtol[case.dtype] if case.dtype in rtol else max(rtol.values())


def copied(a: Any) -> Any:
    """An array, or a dict of arrays, that may be written to."""
    return {name: x.copy() for name, x in a.items()} if isinstance(a, dict) else a.copy()


def called(name: str) -> Rungs:
    return Rungs(name.partition("/")[2])
