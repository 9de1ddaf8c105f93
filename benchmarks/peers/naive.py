"""Numba without an idea: the first rung, which is the definition as plain loops."""

from __future__ import annotations

from typing import Any

import kernels
from benchmarks import peers
from benchmarks.peers.gnomon import Rungs

PATIENCE = 2e9  # products: a few seconds


def available() -> str | None:
    return Rungs("").available()


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    first = Rungs(kernels.ladder(case.op, "cpu")[0].name) if case.op in kernels.ops("cpu") else Rungs("")
    if case.products > PATIENCE:
        raise peers.Missing(f"plain loops over {case.products:.0e} products take too long")
    return first.prepare(case, args, params)


def allowed(case: Any) -> float:
    return Rungs("").allowed(case)
