"""One implementation in a process of its own: `python -m benchmarks.side BACKEND STEP` answers the lines that a race sends it.

    {"begin": number of a case, "small": false}    -> {"error", "allowed", "first", "flops"}; error > allowed: it is wrong
    {"round": true}                                -> {"seconds": of a call}

BACKEND none is the definition, which is NumPy. Two thread pools in one process would spin against each other on the same cores.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import kernels
from benchmarks.cases import CASES, error
from benchmarks.clock import repeats_for, seconds
from engine.traced import OPS

ALLOWED = {"float32": 1e-5, "float64": 1e-13}  # for the definition


class Side:
    """What runs, on which arguments, how often a round."""

    def __init__(self, backend: str, step: int):
        self.backend, self.step = backend, step
        self.repeats = 0
        self.call: Any = None

    def begin(self, number: int, small: bool) -> dict[str, Any]:
        """Draw the arguments, call once, and compare."""
        case = CASES[number].small() if small else CASES[number]
        args, params = case.call()
        rung = None if self.backend == "none" else kernels.ladder(case.op, self.backend)[self.step - 1]
        run = OPS[case.op].definition if rung is None else rung.run
        start = perf_counter()
        y = run(*args, **params)
        first = perf_counter() - start
        self.call, self.repeats = lambda: run(*args, **params), 0
        allowed = (ALLOWED if rung is None else rung.rtol)[case.dtype]
        return {"error": error(case, args, params, y), "allowed": allowed, "first": first, "flops": case.flops(args, y, params)}

    def round(self) -> dict[str, Any]:
        """One round; the first one also finds out how long a round is."""
        if not self.repeats:
            self.repeats = repeats_for(self.call)
        return {"seconds": seconds(self.call, self.repeats)}


def main() -> None:
    side = Side(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        message = json.loads(line)
        answer = side.begin(message["begin"], message["small"]) if "begin" in message else side.round()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
