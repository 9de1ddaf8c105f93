"""`python -m benchmarks op-cost`, `kernels [OP ...]`, `framework-ops FRAMEWORK` and `gradient-checkers`: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import kernels
from benchmarks.cases import CASES
from benchmarks.op_cost import CHAINS, cost, report
from benchmarks.race import DEFINITION, Result, race
from engine.machine import cores, linear_algebra, processor, versions

TESTER = {
    "framework-ops": "PyTorch's and JAX's own gradients, judged by the gradient tester",
    "gradient-checkers": "the tester and other gradient checkers on the same wrong rules",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in TESTER:  # these read the rest themselves: what they import is not everybody's
        return int(import_module(f"benchmarks.{given[0].replace('-', '_')}").main(given[1:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("op-cost", help="what one op call on the tape costs over its NumPy time")
    timing = commands.add_parser("kernels", help="kernels against the definitions, verified first")
    timing.add_argument("ops", nargs="*", metavar="OP", help="default: every op that has cases and a kernel")
    timing.add_argument("--backend", default="cpu")
    timing.add_argument("--rungs", choices=("serving", "all"), default="serving")
    timing.add_argument("--threads", type=int, default=cores(), help="for NumPy and for the kernels alike (default: all cores)")
    timing.add_argument("--rounds", type=int, default=15)
    timing.add_argument("--cached", action="store_true", help="use the cache of compiled kernels: `first` is then the time of loading")
    timing.add_argument("--small", action="store_true", help="every case at a small size, to try the harness itself")
    timing.add_argument("--json", metavar="FILE", help="also write the results")
    for name, text in TESTER.items():
        commands.add_parser(name, help=text)
    options = parser.parse_args(given)
    print(machine(getattr(options, "threads", cores())))
    if options.command == "op-cost":
        print("\nmicroseconds a call over NumPy's own time, 4x4 arrays; median, best, and spread = median / best\n")
        print(report([cost(chain) for chain in CHAINS]))
        return 0
    return time_kernels(options, parser)


def machine(threads: int) -> str:
    """What the numbers belong to."""
    known, blas = versions(), linear_algebra()["NumPy was built with"]
    libraries = ", ".join(f"{name} {known[name]}" for name in ("python", "numpy", "numba", "llvmlite"))
    return f"{processor()['name']}, {cores()} cores, {threads} threads on either side; {libraries}; {blas}"


def time_kernels(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    have = [op for op in dict.fromkeys(case.op for case in CASES) if op in kernels.ops(options.backend)]
    unknown = sorted(set(options.ops) - set(have))
    if unknown:
        parser.error(f"no cases or no kernel for {', '.join(unknown)}; there are: {', '.join(have)}")
    results: list[Result] = []
    for op in options.ops or have:
        print(f"\n{op}\n{HEAD}")
        results += race(
            op,
            backend=options.backend,
            every=options.rungs == "all",
            threads=options.threads,
            rounds=options.rounds,
            cold=not options.cached,
            small=options.small,
            ready=show,
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([record(r, results, options) for r in results], file, indent=1)
    return 1 if any(r.time is None for r in results) else 0


HEAD = f"  {'case':<44} {'runner':<26} {'median us':>10} {'best us':>10} {'spread':>6} {'GFLOP/s':>8} {'x numpy':>8} {'first s':>8}"


def show(results: list[Result]) -> None:
    """The rows of one case. Above 1, `x numpy` says how many times faster than NumPy, by medians."""
    for i, r in enumerate(results):
        case = f"{r.case}{' f64' if r.case.dtype == 'float64' else ''}" if i == 0 else f"  {r.case.stands_for}" if i == 1 else ""
        if r.time is None:
            print(f"  {case:<44} {r.runner.name:<26} WRONG by {r.error:.1e}, {r.allowed:.0e} is allowed: not timed")
            continue
        speed = f"{r.gflops:8.1f}" if r.flops else " " * 8
        times = f"{r.time.median * 1e6:>10.1f} {r.time.best * 1e6:>10.1f} {r.time.spread:>6.2f}"
        print(f"  {case:<44} {r.runner.name:<26} {times} {speed} {against_numpy(r, results):>8.2f} {r.first:>8.2f}", flush=True)


def against_numpy(result: Result, results: list[Result]) -> float:
    base = next(r for r in results if r.runner == DEFINITION and r.case == result.case).time
    return base.median / result.time.median if base and result.time else float("nan")


def record(r: Result, results: list[Result], options: argparse.Namespace) -> dict[str, Any]:
    timed = {"best_s": r.time.best, "median_s": r.time.median, "spread": r.time.spread, "gflops": r.gflops} if r.time else {}
    return {
        "case": str(r.case),
        **{k: v for k, v in asdict(r.case).items() if k in ("op", "shapes", "stands_for", "dtype")},
        "impl": r.runner.name,
        "backend": r.runner.backend,
        "threads": options.threads,
        "error": r.error,
        "first_s": r.first,
        **timed,
        "ratio_to": {DEFINITION.name: against_numpy(r, results)} if r.time else {},
    }


if __name__ == "__main__":
    raise SystemExit(main())
