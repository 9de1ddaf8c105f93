"""One call that runs a kernel on arrays and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernels.cuda.emulate.faults import CHECKS, STRICT
from kernels.cuda.emulate.machine import Machine, Three
from kernels.cuda.emulate.parse import parse


@dataclass
class Report:
    """What a run did: the kernel, its launch, what it printed."""

    kernel: str
    grid: Three
    block: Three
    target: str
    output: list[str] = field(default_factory=list)


def run(
    ptx: str,
    kernel: str | None,
    grid: int | Sequence[int],
    block: int | Sequence[int],
    args: Sequence[Any],
    *,
    shared: int = 0,
    checks: bool | Sequence[str] = True,
    counters: bool = False,
    target: str | None = None,
) -> Report:
    """Run a kernel of a PTX text on NumPy arrays, which it writes in place, and numbers."""
    module = parse(ptx)
    function = module.kernel(kernel)
    named = frozenset(CHECKS if checks is True else checks or ())
    machine = Machine(module, function, three(grid), three(block), list(args), shared=shared, checks=named)
    try:
        machine.run()
    finally:
        machine.memory.give_back()
    return Report(function.name, machine.grid, machine.block, target or module.target, machine.output)


def three(sizes: int | Sequence[int]) -> Three:
    """A size in each of three directions."""
    n = [int(s) for s in np.atleast_1d(sizes)]
    return tuple([*n, 1, 1, 1][:3])  # type: ignore[return-value]
