"""One implementation in a process of its own: `python -m benchmarks.side NAME` answers what a race asks of it.

    {"begin": case, "clock": "wall" or "cpu", "cold": false, "reference": file}
                        -> {"error", "allowed", "first", "flops", "bytes"}; error > allowed: it is wrong
                        or {"missing": why it cannot do this case}
    {"round": n}        -> {"seconds": of each of n timings of a call}

Questions and answers are pickled: a case is an object of any class that `benchmarks/peers/__init__.py` describes. They go through
standard input and output; what a library prints goes to standard error. `first` is the time of preparing and of the first call, which
compiles. The reference is computed by whoever is asked first, and kept in the file.

Two thread pools in one process would spin against each other on the same cores.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import peers
from benchmarks.clock import CLOCKS, Sweep, repeats_for, seconds

LONG = 0.2  # seconds of a call that fills a round by itself: what the caches held before it does not matter


class Side:
    """What runs, on which arguments, how often a timing."""

    def __init__(self, name: str):
        self.name = name
        self.repeats, self.long = 0, False
        self.call: Any = None
        self.clock = CLOCKS["wall"]
        self.sweep: Sweep | None = None

    def begin(self, case: Any, clock: str = "wall", cold: bool = False, reference: str | None = None) -> dict[str, Any]:
        """Draw the arguments, call once, and compare."""
        self.call, self.repeats, self.long, self.clock = None, 0, False, CLOCKS[clock]
        self.sweep = self.sweep or Sweep(cache_bytes()) if cold else None
        try:
            peer = peers.find(self.name, case.home)
            if reason := peer.available():
                return {"missing": reason}
            args, params = case.call()
            start = perf_counter()
            call = peer.prepare(case, args, params)
            y = call()
            first = perf_counter() - start
        except peers.Missing as e:
            return {"missing": str(e)}
        y = getattr(peer, "as_numpy", peers.as_numpy)(y)
        error = case.error(args, params, y, known(case, args, params, reference))
        allowed = peer.allowed(case) if hasattr(peer, "allowed") else case.allowed
        flops, moved = case.work(args, params, y)
        self.call = call
        return {"error": error, "allowed": allowed, "first": first, "flops": flops, "bytes": moved}

    def round(self, count: int) -> dict[str, Any]:
        """Seconds a call, so many times, but once if a call is long. The first time it also finds out how many calls a timing takes."""
        if self.sweep:
            return {"seconds": [self.swept() for _ in range(count)]}
        if not self.long:
            self.call()  # another process had the caches
        if not self.repeats:
            self.repeats = repeats_for(self.call, clock=self.clock)
        taken = [seconds(self.call, self.repeats, self.clock)]
        self.long = self.repeats == 1 and taken[0] > LONG
        return {"seconds": taken + [seconds(self.call, self.repeats, self.clock) for _ in range(0 if self.long else count - 1)]}

    def swept(self) -> float:
        assert self.sweep
        self.sweep()
        return seconds(self.call, 1, self.clock)


def known(case: Any, args: Any, params: dict[str, Any], file: str | None) -> Any:
    """The reference, from the file if somebody has computed it already."""
    path = Path(file) if file else None
    if path and path.exists():
        return pickle.loads(path.read_bytes())
    found = case.reference(args, params)
    if path:
        path.write_bytes(pickle.dumps(found, protocol=5))
    return found


def cache_bytes() -> int:
    """What the caches hold, the last level among them."""
    from kernels.cpu.features import caches

    return sum(caches().values())


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    side = Side(sys.argv[1])
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        answer = side.round(message["round"]) if "round" in message else side.begin(message.pop("begin"), **message)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
