"""Named lists of cases: over each of them a geometric mean is taken, against the peers and the target that stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import Case, Pairs, Shape


@dataclass(frozen=True)
class Suite:
    """A row of the table of targets.

    what     is raced
    against  the peers that the target is about: the better one counts
    target   the geometric mean of (time of the peer) / (our time) that we want; None if there is none
    cases    the list over which the mean is taken
    """

    name: str
    what: str
    against: tuple[str, ...]
    target: float | None
    cases: Sequence[Any]


MATMUL = [
    Case("matmul", ((32, 784), (784, 300)), "MLP, first layer"),
    Case("matmul", ((64, 64), (64, 64)), "square"),
]
SUITES = [Suite("sgemm", "matmul, float32", ("numpy", "torch"), 1.0, MATMUL)]
