"""What every test shares: how hard to try, and a count of what ran, so that nothing is skipped in silence."""

import os

import pytest
import tally
from hypothesis import HealthCheck, settings

LOUD = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
SAME = {"derandomize": True, **LOUD}  # what is green once stays green: new cases are the night's to find
settings.register_profile("dev", max_examples=10, **SAME)
settings.register_profile("ci", max_examples=25, **SAME)
settings.register_profile("night", max_examples=1000, **LOUD)
settings.load_profile(os.environ.get("GNOMON_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def scratch_ops():
    """Ops defined in a test leave the registry when it ends."""
    from engine.traced import NUMPY, OPS

    ops, stand_ins = dict(OPS), dict(NUMPY)
    yield
    for registry, before in ((OPS, ops), (NUMPY, stand_ins)):
        registry.clear()
        registry.update(before)


def pytest_sessionfinish(session):
    """A worker of pytest-xdist hands over what it counted."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = tally.handed_over()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """The counts of a worker join the others."""
    tally.taken(getattr(node, "workeroutput", {}).get("tally", ([], [])))


def pytest_terminal_summary(terminalreporter):
    if tally.COUNTS:
        terminalreporter.section("cases by backend")
        for (backend, law), n in sorted(tally.COUNTS.items()):
            terminalreporter.write_line(f"{backend:<12} {law:<40} {n:>7}")
    for reason, n in sorted(tally.NOT_RUN.items()):
        terminalreporter.write_line(f"not run: {reason} ({n} cases)")
