"""Searches for a call that fails, and makes it small: first by the choices it was drawn from, then by its arrays."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException

from engine.testing.case import Case
from engine.testing.contract import Contract
from engine.testing.examine import Examiner, Judged, NotHere
from engine.testing.finding import worst
from engine.testing.shrink import shrunk

CHOICES = 120  # calls that may be spent on simpler choices, of shapes and options, for a counterexample
ARRAYS = 300  # and on simpler arrays
SHRINKING_SECONDS = 1.5  # for either


class Found(Exception):
    """A call that fails."""


class Enough(BaseException):
    """No more time for simpler choices. Not an Exception: Hypothesis would take it for another failure."""


@dataclass
class Search:
    """A search for a call that fails.

    known   what failed so far
    last    the one that Hypothesis holds for the simplest
    kept    calls with many elements, of those that passed
    """

    examiner: Examiner
    examples: int
    seed: int
    known: dict[str, tuple[Case, Judged]] = field(default_factory=dict)
    last: str = ""
    kept: list[Case] = field(default_factory=list)
    shrinking: int = 0
    since: float = 0.0

    def run(self, strategy: st.SearchStrategy[Case]) -> None:
        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=self.examples, database=None, deadline=None, report_multiple_bugs=False, print_blob=False,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink), verbosity=Verbosity.quiet,
        )  # fmt: skip
        @hypothesis.given(strategy)
        def one(case: Case) -> None:
            if self.fails(case):
                raise Found

        try:
            one()
        except (Found, Enough):
            pass
        except HypothesisException as e:
            self.examiner.tally.reasons[f"no calls could be drawn: {type(e).__name__}"] += 1

    def fails(self, case: Case) -> bool:
        """Judge one call. What failed once fails again: whether it is always so is asked at the end."""
        key = repr(case)
        if key in self.known:
            self.last = key
            return True
        if self.known and not self.goes_on(CHOICES):
            raise Enough
        try:
            judged = self.examiner.judge(case)
        except NotHere as e:
            self.examiner.tally.counts["refused"] += 1
            self.examiner.tally.reasons[str(e)] += 0
            hypothesis.reject()
        if not self.known:
            self.examiner.tally.counts["examples"] += 1
            self.keep(case)
        if judged.findings:
            self.found(key, case, judged)
        return bool(judged.findings)

    def found(self, key: str, case: Case, judged: Judged) -> None:
        if not self.known:
            self.since = time.perf_counter()
            self.examiner.stop_counting()
        self.known[key], self.last = (case, judged), key

    def goes_on(self, calls: int) -> bool:
        self.shrinking += 1
        return self.shrinking <= calls and time.perf_counter() - self.since < SHRINKING_SECONDS

    def smallest(self, contract: Contract) -> tuple[Case, Judged]:
        """The smallest call found that fails by the same check."""
        case, judged = self.known[self.last]
        check = worst(judged.findings).check
        self.shrinking, self.since = 0, time.perf_counter()

        def fails(case: Case) -> bool:
            if not self.goes_on(ARRAYS):
                return False
            try:
                judged = self.examiner.judge(case)
            except NotHere:
                return False
            if not judged.findings or worst(judged.findings).check != check:
                return False
            self.known[repr(case)] = case, judged
            return True

        smallest = shrunk(case, fails, contract=contract, tries=ARRAYS)
        return self.known.get(repr(smallest), (case, judged))

    def keep(self, case: Case) -> None:
        """A few calls with many elements, for the test of determinism."""
        self.kept = sorted([*self.kept, case], key=lambda c: -c.size)[:2]
