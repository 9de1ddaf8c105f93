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
