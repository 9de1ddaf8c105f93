"""The ladders in numbers: what the emulator counts on each rung, as the table of README.md.

All of it is counted on the PTX for sm_80 (`kernels.cuda.emulate.counters` says how); nothing is a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.cuda.launch import on
from kernels.registry import ladder

SIDE = 128  # of the matrices: one block of the later rungs
HEADER = """\
| step | rung | instructions a product | requests of memory | sectors a request | used of what moves | FLOP a byte | wavefronts a request |
|---|---|---|---|---|---|---|---|"""


def counts(rung: Any) -> Any:
    """Of a product of SIDE by SIDE: what its last launch took, that of the product."""
    dtype = min(rung.rtol)
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(SIDE, SIDE)).astype(dtype) for _ in range(2))
    with on("emulated", counters=True) as device:
        rung.run(a, b)
    return device.launches[-1].report.counts


def line(rung: Any) -> str:
    c = counts(rung)
    requests = c.global_loads.requests + c.global_stores.requests
    cells = [
        f"{rung.step}{' *' if rung.serves else ''}",
        f"`{rung.name}`",
        f"{c.total / SIDE**3:.3g}",
        f"{requests:,}",
        f"{c.sectors_per_request():.3g}",
        f"{100 * c.useful_share():.0f} %",
        f"{c.flops_per_l2_byte():.3g}",
        "" if c.wavefronts_per_request() is None else f"{c.wavefronts_per_request():.3g}",
    ]
    return f"| {' | '.join(cells)} |"


def table(op: str) -> str:
    """Every rung of a product, counted."""
    return "\n".join([HEADER, *map(line, ladder(op, "cuda"))])


# Maps, reductions and steps: of 4096 numbers of float32, all launches together.

NUMBERS = 4096
HEADER_OF_PASSES = """\
| step | rung | launches | bytes a number | requests | used of what is moved | barriers | divergent branches | wavefronts a request |
|---|---|---|---|---|---|---|---|---|"""
STEP = {"lr": 0.01, "t": 1}


def passes(op: str, arrays: int, **params: Any) -> str:
    """Every rung of an op on so many flat arrays, counted."""
    lines = []
    for rung in ladder(op, "cuda"):
        with on("emulated", counters=True) as device:
            rung.run(*[np.full(NUMBERS, 0.5, np.float32) for _ in range(arrays)], **params)
        lines.append(line_of_passes(rung, [launch.report.counts for launch in device.launches]))
    return "\n".join([HEADER_OF_PASSES, *lines])


def line_of_passes(rung: Any, found: list[Any]) -> str:
    requests = sum(c.global_loads.requests + c.global_stores.requests for c in found)
    moved, useful = sum(c.l2_bytes() for c in found), sum(c.global_loads.useful + c.global_stores.useful for c in found)
    shared = sum(c.shared_loads.requests + c.shared_stores.requests for c in found)
    fronts = sum(c.shared_loads.cost + c.shared_stores.cost for c in found)
    cells = [
        f"{rung.step}{' *' if rung.serves else ''}",
        f"`{rung.name}`",
        str(len(found)),
        f"{moved / NUMBERS:.4g}",
        f"{requests:,}",
        f"{100 * useful / moved:.0f} %",
        str(sum(c.barriers for c in found)),
        str(sum(c.divergent_branches for c in found)),
        f"{fronts / shared:.3g}" if shared else "",
    ]
    return f"| {' | '.join(cells)} |"
