"""How many cases of each law ran on each backend, and what did not run and why. Printed at the end of a run."""

from collections import Counter

COUNTS: Counter[tuple[str, str]] = Counter()
NOT_RUN: Counter[str] = Counter()


def ran(backend, law, cases=1):
    COUNTS[backend, law] += cases


def not_run(reason, cases=1):
    NOT_RUN[reason] += cases
