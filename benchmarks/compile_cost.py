"""What compiling costs: seconds of the first calls of an op where nothing is compiled, and where all is and has only to be loaded.

    python -m benchmarks compile-cost                   each op by itself, then all kernels that `gnomon demo` needs
    python -m benchmarks compile-cost matmul demo       only these

Each pair is two fresh processes and an empty NUMBA_CACHE_DIR. A process makes the same calls twice, and the second time is taken off: what
the kernels themselves take does not count. An op is called in all cases of the suites, but for those in float64, at a small size. The demo
is a step of training and a prediction of each of its models, and the verdict on the gradient, which is in float64. Seconds are of the
processor.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import process_time
from typing import Any

import kernels
from benchmarks import peers
from benchmarks.suites import cases_of

DEMO = "demo"
TARGET = (40.0, 2.0)  # seconds, cold and warm, of the demo
WORKER = "import sys; from benchmarks.compile_cost import first_calls; print(first_calls(sys.argv[1]))"


@dataclass(frozen=True)
class Cost:
    """Seconds of compiling, and of loading what was compiled."""

    name: str
    cold: float
    warm: float


def cost(name: str) -> Cost:
    with tempfile.TemporaryDirectory() as folder:
        return Cost(name, *[in_a_process(name, folder) for _ in range(2)])


def in_a_process(name: str, folder: str) -> float:
    """`first_calls(name)`, with one thread, and compiled code in this folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WORKER, name], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def first_calls(name: str) -> float:
    """By how many seconds the first calls take longer than the same calls again."""
    calls, seconds = demo() if name == DEMO else of_op(name), []
    for _ in range(2):
        began = process_time()
        for call in calls:
            call()
        seconds.append(process_time() - began)
    return seconds[0] - seconds[1]


def of_op(op: str) -> list[Callable[[], Any]]:
    ours, cases = peers.find(peers.OURS), dict.fromkeys(case.small() for case in cases_of(op) if case.dtype != "float64")
    return [ours.prepare(case, *case.call()) for case in cases]


def demo() -> list[Callable[[], Any]]:
    from engine.demo import HURRIED, SHOWS
    from engine.experiment import Experiment

    def call(e: Experiment, backend: str | None) -> None:
        with kernels.use(backend):
            e.warm_up()
            e.judged(e.start(), backend=backend, **HURRIED)

    experiments = [Experiment.of(show.model, show.data, **show.hurried) for show in SHOWS]
    for e in experiments:  # on the definitions: data are read and modules imported, which is not to count
        call(e, None)
    return [partial(call, e, "cpu") for e in experiments]


def row(found: Cost) -> str:
    met = all(seconds <= target for seconds, target in zip((found.cold, found.warm), TARGET, strict=True))
    said = f"   targets {TARGET[0]:g} and {TARGET[1]:g}: {'met' if met else 'missed'}" if found.name == DEMO else ""
    return f"{found.name:<26}{found.cold:>8.1f}{found.warm:>8.2f}{said}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*kernels.ops("cpu"), DEMO]
    parser.add_argument("names", nargs="*", metavar="OP", help=f"ops, or {DEMO} (default: all)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no kernel for {', '.join(unknown)}; there are {', '.join(known)}")
    from kernels.cpu.features import tier

    print(f"tier {tier()}, seconds of the processor, one thread\n\n{'op':<26}{'cold':>8}{'warm':>8}")
    for name in options.names or known:
        print(row(cost(name)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
