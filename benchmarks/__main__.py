"""`python -m benchmarks`: what stands in `APART`, and `op-cost`; all else is `gnomon bench`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

APART = {  # these read the rest of the line themselves, and what they import is not everybody's
    "compile-cost": "benchmarks.compile_cost",
    "compression": "benchmarks.compression",
    "emulator": "benchmarks.emulator",
    "fewest-bytes": "benchmarks.fewest_bytes",
    "framework-ops": "benchmarks.framework_ops",
    "gradient-checkers": "benchmarks.gradient_checkers",
    "quantization": "benchmarks.quantization",
    "sparse-break-even": "benchmarks.sparse_break_even",
}


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in APART:
        return int(import_module(APART[given[0]]).main(given[1:]))
    if given == ["op-cost"]:
        return op_cost()
    from engine.cli.group import run

    return run(["bench", *given])


def op_cost() -> int:
    """What one op call on the tape costs over its NumPy time."""
    from benchmarks.job import machine
    from benchmarks.op_cost import CHAINS, cost, report

    print(machine())
    print("\nmicroseconds a call over NumPy's own time, 4x4 arrays; median, best, and spread = median / best\n")
    print(report([cost(chain) for chain in CHAINS]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
