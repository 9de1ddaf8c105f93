"""What a run found, as records: written after each case, read again to go on, to compare, and to make tables of.

A record is one implementation in one case:

    case, op, shape, dtype, stands_for      what was raced
    impl, backend, tier, threads            who: of ours the backend and the vector instructions in force, of others the version
    clock, cold, machine                    how and where
    first_s                                 preparing and the first call, which compiles
    best_s, median_s, spread, rounds_s      seconds a call; the median of each round, in order
    gflops, gbs, share_of_limit             over the best time
    ratio_to                                of ours: {impl: {median, low, high}}, above 1 where ours is faster
    error, missing                          what was not timed: how wrong it is, or why it is not there
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import interval
from benchmarks.peers import OURS
from benchmarks.race import Plan, Result
from benchmarks.roofline import Roof

Record = dict[str, Any]
HOW = ("threads", "tier", "clock", "cold", "small")  # what two runs must share to be compared


def ours(impl: str) -> bool:
    """The rung that serves, another rung, or a function of the user's."""
    return impl.partition("/")[0] == OURS or ":" in impl


def records(results: Sequence[Result], plan: Plan, roof: Roof | None, tier: str, machine: str) -> list[Record]:
    """Of the results of one case."""
    rounds = {r.impl: r.rounds for r in results if r.rounds}
    return [
        {
            **{key: getattr(r.case, key) for key in ("op", "shape", "dtype", "stands_for")},
            "case": str(r.case),
            "impl": r.impl,
            "backend": "cpu" if ours(r.impl) else version(r.impl),
            "tier": tier,
            "threads": plan.threads,
            "clock": plan.clock,
            "cold": plan.cold,
            "small": plan.small,
            "machine": machine,
            "first_s": r.first or None,
            "error": r.error if not r.missing else None,
            "missing": r.missing or (f"wrong by {r.error:.1e}, {r.allowed:.0e} is allowed" if r.wrong else None),
            **timed(r, roof, plan.cold),
            "ratio_to": {
                impl: asdict(interval.ratio(theirs, r.rounds)) for impl, theirs in rounds.items() if impl != r.impl
            } if ours(r.impl) and r.rounds else {},
        }
        for r in results
    ]  # fmt: skip


def timed(r: Result, roof: Roof | None, cold: bool) -> Record:
    if r.time is None:
        return dict.fromkeys(("best_s", "median_s", "spread", "gflops", "gbs", "share_of_limit"), None) | {"rounds_s": []}
    limit = roof.limit(r.case.dtype, r.flops, r.bytes, cold) if roof and (r.flops or r.bytes) else None
    return {
        "best_s": r.time.best,
        "median_s": r.time.median,
        "spread": r.time.spread,
        "rounds_s": list(r.rounds),
        "gflops": r.flops / r.time.best / 1e9 if r.flops else None,
        "gbs": r.bytes / r.time.best / 1e9 if r.bytes else None,
        "flops": r.flops,
        "bytes": r.bytes,
        "share_of_limit": limit / r.time.best if limit else None,
    }


def version(impl: str) -> str:
    """The library behind a peer, with its version."""
    library = {"torch-compile": "torch", "naive": "numba", "f32": "numba", "door": "numba"}.get(impl, impl)
    try:
        return f"{library} {metadata.version(library)}"
    except metadata.PackageNotFoundError:
        return library


@dataclass
class Book:
    """The records of a run, in a file if it has a name. A case is written when it is done, all or nothing."""

    file: Path | None
    all: list[Record]

    def add(self, found: Sequence[Record]) -> None:
        """The records of one case, in the place of what was known about it."""
        cases = {r["case"] for r in found}
        self.all = [r for r in self.all if r["case"] not in cases] + list(found)
        if self.file:
            part = self.file.with_name(f"{self.file.name}.part")
            part.write_text(json.dumps(self.all, indent=1) + "\n", encoding="utf-8")
            os.replace(part, self.file)

    def has(self, case: str, impls: Iterable[str]) -> bool:
        """Is the case done, for all of these?"""
        return set(impls) <= {r["impl"] for r in self.all if r["case"] == case}


def read(file: Path) -> list[Record]:
    """The records in a file. Raises ValueError if these are no such records."""
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, list) or not all(isinstance(r, dict) and {"case", "impl", "rounds_s"} <= set(r) for r in found):
        raise ValueError(f"{file} does not hold records of gnomon bench")
    return found


def how(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record.get(key) for key in HOW}


@dataclass(frozen=True)
class Change:
    """One of ours, then and now. Below 1: it has become slower."""

    case: str
    impl: str
    ratio: interval.Ratio

    @property
    def regression(self) -> bool:
        """The whole interval is below 1."""
        return self.ratio.high < 1


def compare(old: Sequence[Record], new: Sequence[Record]) -> list[Change]:
    """Ours in both runs, under the same conditions.

    Where NumPy ran in the case both times, its change is the machine's and is taken off.
    """
    changes = []
    before = {(r["case"], r["impl"]): r for r in old if r["rounds_s"]}
    after = {(r["case"], r["impl"]): r for r in new if r["rounds_s"]}
    for (case, impl), now in after.items():
        then = before.get((case, impl))
        if then is None or how(then) != how(now) or not ours(impl):
            continue
        draws = interval.drawn(then["rounds_s"], now["rounds_s"], paired=False)
        point = float(np.median(then["rounds_s"]) / np.median(now["rounds_s"]))
        machine = [side.get((case, "numpy")) for side in (before, after)]
        if machine[0] and machine[1]:
            a, b = (r["rounds_s"] for r in machine)
            draws = draws / interval.drawn(a, b, paired=False, seed=1)
            point /= float(np.median(a) / np.median(b))
        changes.append(Change(case, impl, interval.of_draws(point, draws)))
    return changes
