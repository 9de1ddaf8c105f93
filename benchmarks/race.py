"""Implementations of cases against one another: each in a process of its own, in rounds A B A B, verified before it is timed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import IO, Any

from benchmarks.clock import LONG_ENOUGH, Times, times

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")  # the last one is XLA's
TIMINGS = 3  # of a round
FEWEST = 3  # rounds, however long a call takes


@dataclass(frozen=True)
class Plan:
    """How a race is run.

    rounds  of each implementation; fewer, but FEWEST at least, where a case would take longer than `limit` seconds
    clock   "wall", or "cpu": the processor time of the process, for one thread on a machine that is busy
    cold    empty the caches before each call
    fresh   compile anew: the cache of compiled code is an empty one, thrown away afterwards
    small   every case at a small size, to try the harness itself
    """

    threads: int = 1
    rounds: int = 15
    limit: float = 60.0
    clock: str = "wall"
    cold: bool = False
    fresh: bool = False
    small: bool = False


@dataclass(frozen=True)
class Result:
    """What came of one implementation in one case: rounds of seconds a call, or why there are none.

    missing  it is not here, cannot do this case, or ended in its process: the reason
    """

    case: Any
    impl: str
    error: float = 0.0
    allowed: float = 0.0
    first: float = 0.0
    flops: int = 0
    bytes: int = 0
    rounds: tuple[float, ...] = field(default=(), repr=False)
    best: float = 0.0
    missing: str | None = None

    @property
    def wrong(self) -> bool:
        return not self.missing and not self.error <= self.allowed  # nan is wrong

    @property
    def time(self) -> Times | None:
        return replace(times(self.rounds), best=self.best) if self.rounds else None


class Ended(Exception):
    """A worker's process has ended: its last words."""


class Worker:
    """A process that runs one implementation, and stands still while it is not its turn: thread pools go on spinning after their work."""

    def __init__(self, impl: str, environment: dict[str, str]):
        self.impl = impl
        self.words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (it is closed when the process is stopped)
        command = [sys.executable, "-m", "benchmarks.side", impl]
        path = os.pathsep.join([str(ROOT), os.getcwd(), *filter(None, [environment.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            command, env={**environment, "PYTHONPATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.words
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """The worker's answer. Raises Ended with its last words if it has died."""
        assert self.process.stdin and self.process.stdout
        self._signal("SIGCONT")
        try:
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            self.process.wait()
            self.words.seek(0)
            lines = self.words.read().decode(errors="replace").strip().splitlines()
            raise Ended(f"its process ended with {self.process.returncode}: {lines[-1] if lines else 'without a word'}") from None
        self._signal("SIGSTOP")
        return dict(answer)

    def stop(self) -> None:
        assert self.process.stdin and self.process.stdout
        self._signal("SIGCONT")
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.words):
            try:
                stream.close()
            except BrokenPipeError:  # what was left unsaid
                continue

    def _signal(self, name: str) -> None:
        if hasattr(signal, name) and self.process.poll() is None:
            self.process.send_signal(getattr(signal, name))


class Sides:
    """The workers of a race, started when they are first needed, and again after one has ended."""

    def __init__(self, plan: Plan, stack: ExitStack):
        self.environment = {**os.environ, **dict.fromkeys(THREADS, str(plan.threads))}
        if plan.fresh:
            self.environment["NUMBA_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernels-"))
        self.there: dict[str, Worker] = {}
        stack.callback(self.stop)

    def ask(self, impl: str, **message: Any) -> dict[str, Any]:
        if impl not in self.there:
            self.there[impl] = Worker(impl, self.environment)
        try:
            return self.there[impl].ask(**message)
        except Ended as e:
            self.there.pop(impl).stop()
            return {"missing": str(e)}

    def keep(self, impls: Sequence[str]) -> None:
        """Stop the others: rungs of another op, say."""
        for impl in [i for i in self.there if i not in impls]:
            self.there.pop(impl).stop()

    def stop(self) -> None:
        self.keep([])


def race(cases: Iterable[Any], impls: Sequence[str] | Callable[[Any], Sequence[str]], plan: Plan) -> Iterator[list[Result]]:
    """The results of each case, when it is done. `impls` take turns in this order: of all cases, or as a function of the case."""
    with ExitStack() as stack:
        sides = Sides(plan, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="references-")))
        for number, case in enumerate(cases):
            taking_part = impls(case) if callable(impls) else impls
            sides.keep(taking_part)
            yield one_case(case, taking_part, plan, sides, str(folder / f"{number}"))


def one_case(case: Any, impls: Sequence[str], plan: Plan, sides: Any, reference: str) -> list[Result]:
    """Begin on every side, then rounds of those that are right."""
    found: dict[str, Result] = {}
    for impl in impls:
        chosen = case.small() if plan.small else case
        answer = sides.ask(impl, begin=chosen, clock=plan.clock, cold=plan.cold, reference=reference)
        found[impl] = Result(case, impl, **answer)
    Path(reference).unlink(missing_ok=True)
    racing = [impl for impl, r in found.items() if not r.missing and not r.wrong]
    seconds: dict[str, list[list[float]]] = {impl: [] for impl in racing}
    turn, turns = 0, plan.rounds
    while turn < turns and racing:
        for impl in list(racing):
            answer = sides.ask(impl, round=TIMINGS)
            if "missing" in answer:
                racing.remove(impl)
                found[impl] = replace(found[impl], missing=answer["missing"])
            else:
                seconds[impl].append(answer["seconds"])
        turn += 1
        if turn == 1:
            once = sum(cost(seconds[impl][0]) for impl in racing)
            turns = min(turns, max(FEWEST, int(plan.limit / max(once, 1e-9))))
    return [timed(r, seconds[impl]) if impl in racing else r for impl, r in found.items()]


def timed(result: Result, rounds: Sequence[Sequence[float]]) -> Result:
    """With the median of each round, and the best of all."""
    return replace(result, rounds=tuple(median(taken) for taken in rounds), best=min(min(taken) for taken in rounds))


def cost(timings: Sequence[float]) -> float:
    """About how long a round took: each timing is at least long enough, and a call goes before them if there are several."""
    return sum(max(t, LONG_ENOUGH) for t in timings) + (timings[0] if len(timings) > 1 else 0.0)
