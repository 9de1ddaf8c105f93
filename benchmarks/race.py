"""Implementations of one op against one another: each in a process of its own, in rounds A B A B, verified before it is timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernels
from benchmarks.cases import CASES, Case
from benchmarks.clock import Times, times

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Runner:
    """An implementation: the definition (backend none), or a rung."""

    name: str
    backend: str
    step: int


@dataclass(frozen=True)
class Result:
    """What came of one runner in one case. `time` is None if it was wrong."""

    case: Case
    runner: Runner
    error: float
    allowed: float
    first: float
    flops: int
    time: Times | None

    @property
    def gflops(self) -> float:
        return self.flops / self.time.best / 1e9 if self.time else 0.0


DEFINITION = Runner("numpy", "none", 0)


def runners(op: str, backend: str, every: bool) -> list[Runner]:
    """The definition first, then the rung that serves, or every rung."""
    return [DEFINITION, *(Runner(r.name, backend, r.step) for r in kernels.ladder(op, backend) if every or r.serves)]


class Worker:
    """A process that runs one implementation."""

    def __init__(self, runner: Runner, environment: dict[str, str]):
        self.runner = runner
        command = [sys.executable, "-m", "benchmarks.side", runner.backend, str(runner.step)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def ask(self, **message: Any) -> dict[str, Any]:
        """The worker's answer. Raises RuntimeError with its last words if it has died."""
        assert self.process.stdin and self.process.stdout and self.process.stderr
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.runner.name} ended in its process:\n{self.process.stderr.read()}")
        return dict(json.loads(line))

    def stop(self) -> None:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


@contextmanager
def workers(entries: Sequence[Runner], threads: int, cold: bool) -> Iterator[list[Worker]]:
    """A process for each runner, all with as many threads; `cold`: with a cache of compiled code that is empty and thrown away."""
    with ExitStack() as stack:
        environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
        if cold:
            environment["NUMBA_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="kernels-"))
        started = [Worker(runner, environment) for runner in entries]
        for worker in started:
            stack.callback(worker.stop)
        yield started


def race(
    op: str, *, backend: str, every: bool, threads: int, rounds: int, cold: bool, small: bool, ready: Callable[[list[Result]], None]
) -> list[Result]:
    """All cases of `op`; `ready` is given the results of a case when it is done."""
    done: list[Result] = []
    with workers(runners(op, backend, every), threads, cold) as sides:
        for number, case in enumerate(CASES):
            if case.op == op:
                found = _one_case(number, case, sides, rounds, small)
                ready(found)
                done += found
    return done


def _one_case(number: int, case: Case, sides: list[Worker], rounds: int, small: bool) -> list[Result]:
    begun = [side.ask(begin=number, small=small) for side in sides]
    right = [side for side, answer in zip(sides, begun, strict=True) if answer["error"] <= answer["allowed"]]
    seconds: dict[str, list[float]] = {side.runner.name: [] for side in right}
    for _ in range(rounds):
        for side in right:
            seconds[side.runner.name].append(side.ask(round=True)["seconds"])
    return [
        Result(case, side.runner, **answer, time=times(seconds[side.runner.name]) if seconds.get(side.runner.name) else None)
        for side, answer in zip(sides, begun, strict=True)
    ]
