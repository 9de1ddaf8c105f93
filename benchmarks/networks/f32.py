"""Our own network in float32, where one in int8 is asked for."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.networks.case import as_numpy
from benchmarks.networks.gnomon import Net, available
from benchmarks.networks.quantised import Quantised

__all__ = ["Net", "allowed", "as_numpy", "available", "prepare"]


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    if not isinstance(case, Quantised):
        raise peers.Missing("the case is in float32 itself")
    weights, x, t = args
    return case.prepared(Net(case.net, weights), x, t)


def allowed(case: Any) -> float:
    return 0.1  # what rounding to 8 bits changes
