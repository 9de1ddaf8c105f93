"""What `gnomon bench` does, without its words: which cases, by whom, in what way, and where the records go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import kernels
from benchmarks import records, roofline
from benchmarks.peers import OURS
from benchmarks.race import Plan, race
from benchmarks.records import Book, Record
from benchmarks.suites import Suite
from engine.machine import linear_algebra, processor, versions

EVERY = 3  # of the cases of a suite that a quick run leaves out all but one
QUICK = {"rounds": 5, "limit": 2.0}


@dataclass
class Job:
    """Suites to be run.

    against  peers by name; None for those of each suite
    all      race every rung, not only the one that serves
    quick    every third case
    """

    suites: Sequence[Suite]
    plan: Plan
    book: Book
    against: Sequence[str] | None = None
    all: bool = False
    quick: bool = False
    only: str = ""
    backend: str = "cpu"
    _impls: dict[Any, list[str]] = field(default_factory=dict)

    def cases(self) -> list[Any]:
        """Each once, in the order of the suites, with those who race in it."""
        for suite in self.suites:
            there = [case for case in suite.cases if case.there and self.only in str(case)]
            for case in there[:: EVERY if self.quick else 1]:
                impls = self._impls.setdefault(case, self.ours(case))
                if ":" in suite.name and suite.name not in impls:  # the user's function
                    impls.insert(0, suite.name)
                impls += [peer for peer in (self.against if self.against is not None else suite.against) if peer not in impls]
        return list(self._impls)

    def ours(self, case: Any) -> list[str]:
        """The rung that serves; or it, and the others by name."""
        if not self.all or case.op not in kernels.ops(self.backend):
            return [OURS]
        return [OURS, *(f"{OURS}/{rung.name}" for rung in kernels.ladder(case.op, self.backend) if not rung.serves)]

    def left(self) -> list[Any]:
        """The cases that the book does not have."""
        return [case for case in self.cases() if not self.book.has(str(case), self._impls[case])]

    def run(self, ready: Callable[[list[Record]], None], roof: roofline.Roof | None) -> None:
        """Race; each case is in the book when `ready` is told of it."""
        tier = tier_in_force()
        left = self.left()
        for results in race(left, lambda case: self._impls[case], self.plan):
            found = records.records(results, self.plan, roof, tier, machine(self.backend))
            self.book.add(found)
            ready(found)

    def mine(self) -> Iterator[Record]:
        """The records of this job's cases."""
        names = {str(case) for case in self.cases()}
        return (r for r in self.book.all if r["case"] in names)


def tier_in_force() -> str:
    from kernels.cpu.features import tier

    return tier()


def machine(backend: str = "cpu") -> str:
    """What the numbers belong to."""
    if backend == "cuda":
        return f"{gpu()}; {processor()['name']}"
    known, blas = versions(), linear_algebra()["NumPy was built with"]
    libraries = ", ".join(f"{name} {known[name]}" for name in ("python", "numpy", "numba", "llvmlite"))
    return f"{processor()['name']}, {processor()['cores']} cores; {libraries}; {blas}"


def gpu() -> str:
    from numba import cuda

    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)
