"""Judges functions of a framework's table, one for each line that comes in: a process of its own, since some of them end it.

A line is a request in JSON, {"name", "examples", "seed", "second", "trace"}; the answer is one line too. With `trace`, a program
of each call is written to that file before the call is made: what stands there when the process has died is the call that ended it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from functools import wraps
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.framework_program import program, program_of
from benchmarks.op_table import Entry
from engine.testing import check_gradient
from engine.testing.report import Report

Found = dict[str, Any]
FEW = {"jax"}  # it compiles for each new shape
SIZES = ((1, 1, 1, 1), (2, 3, 4, 1), (3, 2, 1, 4), (4, 1, 3, 2))
AROUND = {
    1: ("", "3", "2 1", "0 2", "2 1 3"),
    2: (",", "3, 3", "2 3, 3", ", 2 3", "2 1, 1 3", "0 2, 2"),
    3: (", ,", "3, 3, 3", "2 3, 3, 2 1", "2, , 2"),
}


def main() -> int:
    """Answer the requests of the standard input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    framework = sys.argv[1]
    module = importlib.import_module(f"benchmarks.{framework}_ops")
    entries = {e.name: e for e in module.table.entries}
    for line in sys.stdin:
        request = json.loads(line)
        found = judged(entries[request["name"]], module, framework, request)
        print(json.dumps(found), file=answers, flush=True)
    return 0


def judged(entry: Entry, module: ModuleType, framework: str, request: Found) -> Found:
    """The verdict on one function."""
    began = time.perf_counter()
    found: Found = {"name": entry.name, "group": entry.group}
    f = traced(entry, module, framework, request["trace"]) if request.get("trace") else entry.f
    signature = list(few_shapes(entry.signature)) if framework in FEW else entry.signature
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = check_gradient(
                f, framework=framework, signature=signature, reference=entry.reference, examples=request["examples"],
                seed=request["seed"], orders=(1, 2) if request["second"] else (1,), **entry.options,
            )  # fmt: skip
    except Exception as e:  # one function that cannot be tried does not end the run
        return {**found, "verdict": "NOT RUN", "text": f"{type(e).__name__}: {e}"[:300], "seconds": round(time.perf_counter() - began, 2)}
    return {**found, **facts(told), **example(told, entry, module, framework)}


def few_shapes(signature: str) -> Iterator[str]:
    """The signature with sizes instead of names, a few times; the first is the smallest."""
    sides = [side.split() for side in signature.split(",")]
    if all(side == ["..."] for side in sides):
        yield from AROUND[len(sides)]
        return
    names = dict.fromkeys(t for side in sides for t in side if t.isidentifier())
    for sizes in SIZES if names or "..." in signature else SIZES[:1]:
        size = dict(zip(names, map(str, cycle(sizes)), strict=False))
        rest = " ".join(str(n) for n in sizes[1 : 1 + sizes[0] % 3])
        yield re.sub(r"\.\.\.", rest, ", ".join(" ".join(size.get(t, t) for t in side) for side in sides))


def facts(told: Report) -> Found:
    counts = {
        k: n for k, n in told.counts.items() if k in ("elements", "examples", "arbitrated", "at a kink", "inconclusive", "tails", "jvp")
    }
    reasons = told.reasons if told.verdict == "INCONCLUSIVE" else {}
    return {"verdict": told.verdict, "counts": counts, "reasons": reasons, "seconds": round(told.seconds, 2), **tail(told)}


def tail(told: Report) -> Found:
    """The largest loss of accuracy that was not counted as wrong."""
    known = [t for t in told.tails if t.reference and math.isfinite(t.claimed) and math.isfinite(t.reference)]
    if not known:
        return {}
    off = max(known, key=lambda t: abs(t.claimed - t.reference) / abs(t.reference))
    return {"tail": {"claimed": off.claimed, "reference": off.reference, "text": off.text}}


def example(told: Report, entry: Entry, module: ModuleType, framework: str) -> Found:
    """What the counterexample says, and a program that shows it."""
    c = told.counterexample
    if c is None:
        return {}
    f = c.finding
    return {
        "check": f.check, "order": c.order, "what": f.text, "claimed": f.claimed, "reference": f.reference, "oracle": f.oracle,
        "diagnosis": told.diagnosis, "element": c.element, "size": sum(np.size(a) for a in c.args),
        "program": program(c, entry, module, framework),
    }  # fmt: skip


def traced(entry: Entry, module: ModuleType, framework: str, file: str) -> Any:
    """The function, which writes down each call before it is made."""

    @wraps(entry.f)
    def f(*args: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(a.detach() if hasattr(a, "detach") else a) for a in args]
        Path(file).write_text(program_of(arrays, kwargs, None, entry, module, framework))
        return entry.f(*args, **kwargs)

    return f


if __name__ == "__main__":
    sys.exit(main())
