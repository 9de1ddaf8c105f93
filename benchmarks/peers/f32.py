"""Our own product in float32, where another one is asked for: what half the bits are worth."""

from __future__ import annotations

from typing import Any

import kernels
from benchmarks import peers

OPS = {"matmul_bf16": "matmul", "matmul_int8": "matmul", "conv2d_int8": "conv2d"}


def available() -> str | None:
    return None if "cpu" in kernels.backends() else "there is no backend cpu here"


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if case.op not in OPS:
        raise peers.Missing("the case is in float32 or float64 itself")
    run = kernels.serving(OPS[case.op], "cpu").run
    singles = [a.astype("float32") for a in args]
    options = {k: v for k, v in params.items() if k != "zero_point"}
    return lambda: run(*singles, **options)


def allowed(case: Any) -> float:
    return 1e-2
