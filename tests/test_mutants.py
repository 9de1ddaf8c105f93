"""The gradient tester against bugs that happened, and against right rules of every kind.

Before the tester is judged, its judges are: every right rule must be right and every wrong one wrong by means that share nothing
with it. The whole score, over five seeds, runs under the marker `exhaustive`; here a sample of it.
"""

import warnings

import numpy as np
import pytest
from mutants import CATALOGUE, RIGHT, generic, truth
from mutants.rows import REPORTED, ROWS
from mutants.score import Score, outcome, outcomes, score

from engine.domain import Pick
from engine.testing import FAIL

DRAWS = 6
BY_DEFAULT = [name for name in CATALOGUE if not CATALOGUE[name].beyond]
ENGINE = [op.name for op in generic.with_rules()]


def sample(names, count, seed):
    """Some of the names, always the same."""
    return sorted(np.random.default_rng(seed).permutation(sorted(names))[:count].tolist())


# The judges.


@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"half_norm", "half_max"}))
def test_a_right_rule_is_right(name):
    record = RIGHT[name]
    for seed in range(DRAWS):
        args, kwargs = record.sample(Pick(np.random.default_rng(seed)))
        with np.errstate(all="ignore"):
            truth.at_smooth_points(record, args, kwargs)


def test_half_precision_rules_against_float64():
    """Half precision cannot be differenced."""
    x = np.array([300.0, 400.0], np.float16)
    (g,) = RIGHT["half_norm"].back(np.float16(1), (x,), RIGHT["half_norm"].f(x))
    np.testing.assert_allclose(g.astype(np.float64), [0.6, 0.8], rtol=1e-3)
    (g,) = RIGHT["half_max"].back(np.float16(1), (np.full(4, 0.5, np.float16),), np.float16(0.5))
    np.testing.assert_array_equal(g, np.full(4, 0.25, np.float16))


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_a_wrong_rule_is_wrong_where_it_says(name):
    mutant = CATALOGUE[name]
    truth.at_the_trigger(mutant)
    assert truth.shows(mutant), f"{name}: nothing distinguishes it from the right rule at its call"


def test_the_validation_of_right_rules_can_fail():
    """Wrong values at generic points must be seen; the faults at special points cannot be."""
    seen = 0
    for mutant in CATALOGUE.values():
        if mutant.part == "vjp" and mutant.kills == "value":
            record = mutant.right
            right, record.back = record.back, mutant.wrong
            try:
                seen += rejected(record)
            finally:
                record.back = right
    assert seen >= 50


def rejected(record):
    for seed in range(DRAWS):
        args, kwargs = record.sample(Pick(np.random.default_rng(seed)))
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                truth.at_smooth_points(record, args, kwargs)
        except Exception:
            return True
    return False


def test_every_row_of_the_catalogue_is_there():
    assert len(ROWS) == 53
    assert not [name for name in REPORTED if name not in CATALOGUE]
    assert len(REPORTED) == len(set(REPORTED)) >= 100
    assert len(RIGHT) + len(ENGINE) >= 350


@pytest.mark.parametrize("name", sample(ENGINE, 12, 0))
def test_operators_break_rules(name):
    """Every rule can be scaled, negated and zeroed; and what is inside of it can be broken."""
    faults = {m.fault for m in generic.broken(generic.OPS[name])}
    assert "scale" in faults or name == "sign"


# The tester.


@pytest.mark.parametrize("name", sample(set(REPORTED) & set(BY_DEFAULT), 24, 1))
def test_a_reported_bug_is_found(name):
    assert outcome(CATALOGUE[name], 0).verdict == FAIL


@pytest.mark.parametrize("name", sample(RIGHT, 16, 2))
def test_no_false_alarm(name):
    found = outcome(RIGHT[name], 0)
    assert found.verdict != FAIL, found.text


@pytest.mark.parametrize("name", sample(ENGINE, 6, 3))
def test_no_false_alarm_on_an_op_of_the_engine(name):
    found = outcome(generic.registry_right(generic.OPS[name]), 0)
    assert found.verdict != FAIL, found.text


@pytest.mark.parametrize("name", sample(ENGINE, 6, 4))
def test_a_broken_rule_of_the_engine_is_found(name):
    mutants = list(generic.broken(generic.OPS[name]))
    mutant = mutants[len(mutants) // 2]
    assert outcome(mutant, 0).verdict == FAIL, mutant.name


# The score.


@pytest.mark.exhaustive
def test_the_score(capsys):
    """At least 95 % of the reported bugs over five seeds, none of the right rules, counterexamples of at most 4 elements."""
    found = score(seeds=range(5), catalogue=[CATALOGUE[name] for name in CATALOGUE])
    with capsys.disabled():
        print("\n" + found.table())
    reported = [m for m in found.mutants if m.name in REPORTED]
    assert len(found.killed(reported)) >= 0.95 * len(reported)
    assert found.rate >= 0.95
    assert not found.false_alarms
    assert found.median_size <= 4


@pytest.mark.exhaustive
def test_the_score_of_the_engines_rules(capsys):
    """Every op of the registry passes, and of each the mutants by the generic operators are found."""
    rights = [generic.registry_right(op) for op in generic.with_rules()]
    broken = [m for op in generic.with_rules() for m in some(list(generic.broken(op)), 8)]
    found = Score(outcomes(broken, [0]), outcomes(rights, [0]))
    with capsys.disabled():
        print("\n" + found.table())
    assert found.rate >= 0.95
    assert not found.false_alarms


def some(mutants, count):
    """A few of them, spread over the operators."""
    return [mutants[i] for i in np.unique(np.linspace(0, len(mutants) - 1, count).astype(int))] if mutants else []
