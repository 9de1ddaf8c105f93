"""The cases on a GPU: arrays lie on the device before the clock starts, and the clock is the device's own (`benchmarks.clock.Device`).

A module here is an implementation as `benchmarks/peers/__init__.py` describes it. All launch on the device's default stream.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import ClassVar

from benchmarks.cases import Case
from benchmarks.suites import Suite
from kernels.registry import has_gpu

PEERS = ("torch", "cupy")
NO_GPU = "no GPU here: gnomon bench --cuda-static says what the assembler makes of the kernels, gnomon emulate runs and counts them"


class OnDevice(Case):
    """A case whose implementations are those of this folder."""

    home: ClassVar[str] = "benchmarks.cuda_peers"


def moved(suite: Suite, ops: list[str]) -> Suite:
    """A suite on the device: those of its cases whose op has a kernel there."""
    cases = [OnDevice(**{f.name: getattr(c, f.name) for f in fields(Case)}) for c in suite.cases if type(c) is Case and c.op in ops]
    return replace(suite, cases=cases, against=PEERS, of=(), target=None)


def absent() -> str | None:
    return None if has_gpu() else "there is no GPU"
