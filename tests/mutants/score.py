"""How many of the wrong rules does the tester reject, and how many of the right ones? The table that `gnomon check --self` prints.

A mutant counts as killed if its verdict is FAIL and the verdict of the right rule beside it is not: a tester that rejects both
has seen nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mutants.record import CATALOGUE, RIGHT, Mutant, Right

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"


@dataclass(frozen=True)
class Outcome:
    """One run of the tester.

    size     elements in all arguments of the counterexample; 0 without one
    checked  the property that was found broken
    """

    name: str
    family: str
    seed: int
    verdict: str
    seconds: float
    size: int = 0
    checked: str = ""
    text: str = ""


def outcome(record: Mutant | Right, seed: int, **settings: Any) -> Outcome:
    """What the tester says of a mutant or of a right rule."""
    start = time.process_time()
    report = record.check(seed=seed, **settings)
    seconds = time.process_time() - start
    found = report.counterexample
    size, checked = (found.size, found.finding.check) if found is not None else (0, "")
    text = report.explain() if report.verdict == FAIL and isinstance(record, Right) else ""
    return Outcome(record.name, record.family, seed, report.verdict, seconds, size, checked, text)


Progress = Callable[[Outcome, int], None]  # with how many there will be


def outcomes(
    records: Sequence[Mutant | Right], seeds: Sequence[int], progress: Progress | None = None, total: int = 0, **settings: Any
) -> list[Outcome]:
    """One run for each record and seed."""
    found = []
    for record in records:
        for seed in seeds:
            found.append(outcome(record, seed, **settings))
            if progress:
                progress(found[-1], total)
    return found


@dataclass(frozen=True)
class Score:
    """Runs over mutants and over right rules."""

    mutants: list[Outcome]
    rights: list[Outcome]

    def killed(self, runs: Iterable[Outcome]) -> list[Outcome]:
        """The runs in which a mutant was rejected and its right rule, at the same seed, was not."""
        muddled = {(r.name, r.seed) for r in self.rights if r.verdict == FAIL}
        return [m for m in runs if m.verdict == FAIL and (right_of(m.name), m.seed) not in muddled]

    @property
    def rate(self) -> float:
        return len(self.killed(self.mutants)) / len(self.mutants) if self.mutants else 0.0

    @property
    def survivors(self) -> list[Outcome]:
        dead = set(map(id, self.killed(self.mutants)))
        return [m for m in self.mutants if id(m) not in dead]

    @property
    def false_alarms(self) -> list[Outcome]:
        return [r for r in self.rights if r.verdict == FAIL]

    @property
    def median_size(self) -> float:
        sizes = [m.size for m in self.killed(self.mutants)]
        return statistics.median(sizes) if sizes else 0.0

    def table(self) -> str:
        """The score by family, and what went wrong."""
        families = sorted({o.family for o in (*self.mutants, *self.rights)})
        lines = [f"{'family':<14}{'killed':>12}{'shrunk to':>11}{'right':>7}{'PASS':>6}{'INCONCLUSIVE':>14}{'FAIL':>6}{'s each':>8}"]
        lines += [self._row(family, lambda o, family=family: o.family == family) for family in families]
        lines.append(self._row("all", lambda o: True))
        lines += [f"survived: {m.name}, seed {m.seed}: {m.verdict}" for m in self.survivors]
        lines += [f"false alarm: {r.name}, seed {r.seed}" for r in self.false_alarms]
        return "\n".join(lines)

    def _row(self, name: str, belongs: Callable[[Outcome], bool]) -> str:
        mutants, rights = ([o for o in runs if belongs(o)] for runs in (self.mutants, self.rights))
        killed = self.killed(mutants)
        size = f"{statistics.median([m.size for m in killed]):g}" if killed else ""
        seconds = [o.seconds for o in rights]
        each = f"{statistics.mean(seconds):.2f}" if seconds else ""
        verdicts = [sum(o.verdict == v for o in rights) for v in (PASS, INCONCLUSIVE, FAIL)]
        return (
            f"{name:<14}{f'{len(killed)}/{len(mutants)}':>12}{size:>11}{len({o.name for o in rights}):>7}"
            f"{verdicts[0]:>6}{verdicts[1]:>14}{verdicts[2]:>6}{each:>8}"
        )


def right_of(name: str) -> str:
    """The name of the right rule beside a mutant."""
    return CATALOGUE[name].right.name if name in CATALOGUE else name.partition("(")[0]


def score(
    *,
    seeds: Sequence[int] = range(5),
    families: Iterable[str] | None = None,
    catalogue: Iterable[Mutant] | None = None,
    rights: Iterable[Right] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Score:
    """Run the catalogue and the right rules through the tester at its default settings.

    families    only these; None for all
    catalogue   these mutants instead of the whole catalogue; rights likewise
    settings    for check_gradient, to measure with others than its defaults
    """
    import mutants  # noqa: F401  (fills the tables)

    wanted = set(families) if families is not None else None
    chosen = [m for m in (CATALOGUE.values() if catalogue is None else catalogue) if wanted is None or m.family in wanted]
    beside = [r for r in (RIGHT.values() if rights is None else rights) if wanted is None or r.family in wanted]
    total = (len(chosen) + len(beside)) * len(seeds)
    return Score(outcomes(chosen, seeds, progress, total, **settings), outcomes(beside, seeds, progress, total, **settings))
