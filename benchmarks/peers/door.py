"""Our rung that serves, called as anybody calls it, `kernels.serving(op)(...)`: through the door, which looks at what it is given."""

from __future__ import annotations

from typing import Any

from benchmarks import peers
from benchmarks.peers.gnomon import Rungs


def available() -> str | None:
    return Rungs("").available()


def prepare(case: Any, args: list[Any], params: dict[str, Any]) -> peers.Call:
    rung = Rungs("").of(case)
    return lambda: rung(*args, **params)


def allowed(case: Any) -> float:
    return Rungs("").allowed(case)
