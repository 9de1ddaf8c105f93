"""What is found out about a claimed gradient, and the count of what has been done."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

WRONG, TAIL = "wrong", "tail"
RTOL = {8: 1e-8, 4: 1e-4, 2: 0.05, 10: 1e-8, 12: 1e-8, 16: 1e-8}  # by the bytes of a number


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    check: str
    text: str
    severity: str = WRONG
    element: int | None = None  # in the flattened floating-point arguments
    claimed: float = math.nan
    reference: float = math.nan
    bound: float = math.nan
    oracle: str = ""


@dataclass
class Tally:
    """What has been done so far."""

    compared: int = 0
    spent: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        self.counts["inconclusive"] += 1
        self.reasons[reason] += 1


def worst(findings: Sequence[Finding]) -> Finding:
    """The one to show first."""
    return max(findings, key=lambda f: (f.severity == WRONG, abs(f.claimed - f.reference) if math.isfinite(f.claimed) else math.inf))
