"""The ladders in numbers: what the emulator counts on each rung, as the table of README.md.

All of it is counted on the PTX for sm_80 (`kernels.cuda.emulate.counters` says how); nothing is a time.
"""

from __future__ import annotations

from itertools import cycle
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


def kept(rows: int, columns: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and starts of a matrix that keeps so many numbers of each row, or blocks, anywhere."""
    order = np.random.default_rng(0).permuted(np.tile(np.arange(columns), (rows, 1)), axis=1)
    return np.sort(order[:, :each]).reshape(-1), np.arange(rows + 1) * each


OF_ROWS, OF_BLOCKS, SQUARE = kept(SIDE, SIDE, SIDE // 4), kept(SIDE // 8, SIDE // 8, SIDE // 32), (SIDE, SIDE)
TWO_OF_FOUR = kept(SIDE * SIDE // 4, 4, 2)[0].reshape(SIDE, SIDE // 2)
CASES |= {  # of sparse products: a quarter is kept, by blocks of 8 by 8, and two of four; places stand for themselves
    "matmul_csr": (((SIDE**2 // 4,), *OF_ROWS, SQUARE), {}, SIDE**3 // 4),
    "matmul_csr_data_grad": ((SQUARE, SQUARE, *OF_ROWS), {}, SIDE**3 // 4),
    "matmul_bsr": (((SIDE**2 // 256, 8, 8), *OF_BLOCKS, SQUARE), {}, SIDE**3 // 4),
    "matmul_2to4": (((SIDE, SIDE // 2), TWO_OF_FOUR, SQUARE), {}, SIDE**3 // 2),
}


def call(rung: Any) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Arrays and parameters of its case."""
    shapes, params, _ = CASES.get(rung.op, PRODUCT)
    rng, kinds = np.random.default_rng(0), cycle(min(rung.rtol).split())
    given = zip(shapes, kinds, strict=False)
    return [x if isinstance(x, np.ndarray) else (rng.normal(size=x) * 3).astype(kind) for x, kind in given], params


def counts(rung: Any) -> Any:
    """Of one call: what the launch took that does most of it, that of the product."""
    arrays, params = call(rung)
    with on("emulated", counters=True) as device:
        rung.run(*arrays, **params)
    return max((launch.report.counts for launch in device.launches), key=lambda found: (found.flops, found.total))


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
