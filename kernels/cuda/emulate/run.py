"""One call that runs a kernel on arrays and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernels.cuda.emulate.checks import launchable, watchers
from kernels.cuda.emulate.counters import Counters, Counts
from kernels.cuda.emulate.faults import CHECKS, ON_REQUEST
from kernels.cuda.emulate.machine import Machine, Three
from kernels.cuda.emulate.parse import parse
from kernels.cuda.emulate.picture import Touch, Touches, draw


@dataclass
class Report:
    """What a run did: the kernel, its launch, what it printed; counters and requests of the first warp if they were asked for."""

    kernel: str
    grid: Three
    block: Three
    target: str
    checks: tuple[str, ...]
    output: list[str] = field(default_factory=list)
    counts: Counts | None = None
    touches: list[Touch] = field(default_factory=list)

    def picture(self) -> Any:
        """Who touches which address: a matplotlib figure of the requests of the first warp."""
        if not self.touches:
            raise ValueError("nothing to draw: run with touches=True a kernel that touches memory")
        return draw(self.touches)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON knows it."""
        counts = self.counts.as_dict() if self.counts else None
        same = {name: getattr(self, name) for name in ("kernel", "grid", "block", "target", "checks", "output")}
        return {**same, "emulated": True, "counts": counts, "requests": [" ".join(t.title.splitlines()) for t in self.touches]}

    def __str__(self) -> str:
        """A table of what was counted. Emulated: no number in it is a time."""
        blocks, threads = (" x ".join(str(n) for n in sizes) for sizes in (self.grid, self.block))
        lines = [
            f"{blocks} blocks of {threads} threads, {self.target}, emulated",
            f"checks passed: {', '.join(self.checks) or 'none'}",
        ]
        if self.counts:
            lines += [f"{name:<34}{value:>16}" for name, value in self.counts.rows()]
        return "\n".join(lines)


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
    touches: bool = False,
    target: str | None = None,
    uninitialised: Sequence[int] = (),
    names: Sequence[str] = (),
) -> Report:
    """Run a kernel of a PTX text on NumPy arrays, which it writes in place, and numbers.

    kernel         its name; None if the text has one only
    grid, block    sizes along x, y, z
    shared         bytes of dynamic shared memory
    checks         all of CHECKS, none, or some by name: "warp" and "grid" look for races within a warp and in global memory.
                   Bounds and alignment are always checked
    counters       count instructions, sectors, wavefronts: `Report.counts`
    touches        keep the requests of the first warp, for `Report.picture`
    target         the device to hold the launch against, such as "sm_90"; that of the PTX by default
    uninitialised  positions in `args` of arrays whose contents are not to be read before they are written
    names          of the arguments, for messages

    Raises `Fault` for what a check finds, `Unsupported` for an instruction that is not interpreted, `PtxError` for text that is not
    understood and `TypeError` for arguments that do not fit the kernel's parameters. What was written before a fault stays written.
    """
    module = parse(ptx)
    function = module.kernel(kernel)
    named = frozenset(CHECKS if checks is True else checks or ())
    if unknown := named - {*CHECKS, *ON_REQUEST}:
        raise ValueError(f"no check {', '.join(sorted(unknown))}: there are {', '.join([*CHECKS, *ON_REQUEST])}")
    with np.errstate(all="ignore"):
        machine = Machine(module, function, three(grid), three(block), list(args), shared=shared, checks=named, names=names)
        if "limit" in named:
            used = machine.static, machine.memory.local_used
            launchable(function, module.target, target or module.target, machine.grid, machine.block, shared, *used)
        counting = [Counters(function.body)] if counters else []
        seeing = [Touches()] if touches else []
        machine.watchers += [*watchers(named, tuple(uninitialised)), *counting, *seeing]
        try:
            machine.run()
        finally:
            machine.memory.give_back()
    report = Report(function.name, machine.grid, machine.block, target or module.target, tuple(sorted(named)), machine.output)
    report.counts = counting[0].counts() if counting else None
    report.touches = list(seeing[0].found.values()) if seeing else []
    return report


def three(sizes: int | Sequence[int]) -> Three:
    """A size in each of three directions."""
    n = [int(s) for s in np.atleast_1d(sizes)]
    return tuple([*n, 1, 1, 1][:3])  # type: ignore[return-value]
