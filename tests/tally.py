"""How many cases of each law ran on each backend, and what did not run and why. Printed at the end of a run."""

from collections import Counter

COUNTS: Counter[tuple[str, str]] = Counter()
NOT_RUN: Counter[str] = Counter()


def ran(backend, law, cases=1):
    COUNTS[backend, law] += cases


def not_run(reason, cases=1):
    NOT_RUN[reason] += cases


def handed_over():
    """All counts, as plain lists: they travel from one process to another."""
    return [[*key, n] for key, n in COUNTS.items()], [[reason, n] for reason, n in NOT_RUN.items()]


def taken(counts):
    """Add what another process handed over."""
    for backend, law, n in counts[0]:
        ran(backend, law, n)
    for reason, n in counts[1]:
        not_run(reason, n)
