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


X, W, Y = (1, 8, 8, 32), (128, 8, 3, 3), (1, 128, 8, 32)  # of convolutions: two tiles of columns, of all their rows
AROUND = {"padding": 1}
CASES: dict[str, Any] = {  # op: shapes of the arrays, parameters, products in the formula
    "conv2d": ((X, W), AROUND, 128 * 256 * 72),
    "conv2d_int8": ((X, W), {**AROUND, "zero_point": 3}, 128 * 256 * 72),
    "conv2d_input_grad": ((X, (8, 128, 3, 3)), {**AROUND, "input_size": (8, 32)}, 128 * 256 * 72),
    "conv2d_weight_grad": (((1, 14, 8, 32), Y), {**AROUND, "kernel_size": (3, 3)}, 128 * 126 * 256),
}
PRODUCT = ((SIDE, SIDE), (SIDE, SIDE)), {}, SIDE**3


def counts(rung: Any) -> Any:
    """Of one call: what the launch took that does most of it, that of the product."""
    shapes, params, _ = CASES.get(rung.op, PRODUCT)
    kinds = min(rung.rtol).split()
    rng = np.random.default_rng(0)
    arrays = [(rng.normal(size=shape) * 3).astype(kind) for shape, kind in zip(shapes, kinds * (2 // len(kinds)), strict=True)]
    with on("emulated", counters=True) as device:
        rung.run(*arrays, **params)
    return max((launch.report.counts for launch in device.launches), key=lambda found: found.total)


def line(rung: Any) -> str:
    c = counts(rung)
    requests = c.global_loads.requests + c.global_stores.requests
    cells = [
        f"{rung.step}{' *' if rung.serves else ''}",
        f"`{rung.name}`",
        f"{c.total / CASES.get(rung.op, PRODUCT)[-1]:.3g}",
        f"{requests:,}",
        f"{c.sectors_per_request():.3g}",
        f"{100 * c.useful_share():.0f} %",
        f"{c.flops_per_l2_byte():.3g}" if c.flops else "",
        "" if c.wavefronts_per_request() is None else f"{c.wavefronts_per_request():.3g}",
    ]
    return f"| {' | '.join(cells)} |"


def table(op: str) -> str:
    """Every rung of a product, counted."""
    return "\n".join([HEADER, *map(line, ladder(op, "cuda"))])
