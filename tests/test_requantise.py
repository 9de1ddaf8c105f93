"""The five rules equal an oracle in fractions, bit for bit, and a rule that rounds otherwise does not."""

from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.ops import requantisation
from engine.quantise.rules import RULES, Multiplier, Rule, requantise

INT32 = np.iinfo(np.int32)

# The oracle: whole numbers and fractions, written from the sources and not from the module.


def nearest(q, tie):
    """The fraction q to a whole number."""
    down = floor(q)
    if q - down != Fraction(1, 2):
        return down + (q - down > Fraction(1, 2))
    return {"up": down + 1, "even": down + down % 2, "away": down + (q > 0)}[tie]


def exponent(q):
    """e with 2^(e-1) <= q < 2^e."""
    e = 0
    while q >= 2:
        q, e = q / 2, e + 1
    while q < 1:
        q, e = q * 2, e - 1
    return e + 1


def to_bits(q, bits, tie):
    """The fraction q with so many bits."""
    if q == 0:
        return q
    unit = Fraction(2) ** (exponent(abs(q)) - bits)
    return nearest(q / unit, tie) * unit


def by_fp32(a, m):
    product = to_bits(to_bits(Fraction(a), 24, "even") * m, 24, "even")
    return nearest(product, "even")


def by_q31_double(a, m):
    """SaturatingRoundingDoublingHighMul and RoundingDivideByPOT as gemmlowp's fixedpoint.h has them; / truncates."""
    e = exponent(m)
    q = nearest(m / Fraction(2) ** e * 2**31, "away")
    if q == 2**31:
        q, e = 2**30, e + 1
    a = max(INT32.min, min(INT32.max, a * 2 ** max(e, 0)))
    nudged = a * q + (2**30 if a * q >= 0 else 1 - 2**30)
    high = abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)
    return nearest(Fraction(high, 2 ** max(-e, 0)), "away")


def by_q31_single(a, m):
    return nearest(a * to_bits(m, 31, "away"), "up")


def by_rndnu(a, m):
    return nearest(a * m, "up")


def by_pow2(a, m):
    e = exponent(m)
    low = Fraction(2) ** (e - 1)
    return nearest(a * (low if m * m < 2 * low * low else 2 * low), "up")


ORACLE = {"fp32": by_fp32, "q31-double": by_q31_double, "q31-single": by_q31_single, "rndnu": by_rndnu, "pow2": by_pow2}

sums = st.integers(INT32.min, INT32.max) | st.integers(-5000, 5000) | st.integers(-(2**26), 2**26)
edges = st.sampled_from([INT32.min, INT32.min + 1, INT32.max, 0, 1, -1, 2**24 + 1, -(2**24) - 3, 2**25 + 2, 2**30, -(2**30), 2**30 - 1])
powers = st.integers(-20, 0).map(lambda e: 2.0**e)
halves = st.integers(1, 2**9).map(lambda k: k / 2**9)  # many ties
multipliers = st.floats(2**-20, 2) | powers | halves | st.just(2 - 2**-40) | st.just(1 - 2**-33)


def equals_the_oracle(rule, a, m, low=-128, high=127, z=0, dtype=np.int8):
    """Whether `rule`, a Rule, has the oracle's codes, before and after they saturate."""
    m = float(rule.precision(m))
    given_sums = np.array([a], np.int32)
    stored = rule.store(m)
    raw = rule.rescale(given_sums.astype(np.int64), *stored)[0]
    wanted = ORACLE[rule.name](a, Fraction(m))
    code = max(low, min(high, wanted + z))
    return raw == wanted and requantised(rule, given_sums, stored, low, high, z, dtype) == code


def requantised(rule, given_sums, stored, low, high, z, dtype):
    return requantise(given_sums[None], stored, rule=rule.name, zero_point=z, low=low, high=high, dtype=dtype)[0, 0]


@pytest.mark.parametrize("name", RULES)
@given(a=sums | edges, m=multipliers, z=st.integers(-128, 127))
@example(a=INT32.min, m=0.5, z=0)
@example(a=INT32.min, m=2.0, z=-128)
@example(a=INT32.max, m=2 - 2**-40, z=127)
@example(a=3, m=0.5, z=0)
@example(a=-3, m=0.5, z=0)
@example(a=-1, m=0.5, z=0)
@example(a=5, m=0.25 + 2**-30, z=0)
@example(a=-6, m=0.25, z=0)
def test_a_rule_equals_its_oracle(name, a, m, z):
    assert equals_the_oracle(RULES[name], a, m, z=z)
    assert equals_the_oracle(RULES[name], a, m, 0, 255, z + 128, np.uint8)


@pytest.mark.parametrize("name", RULES)
@given(a=sums | edges, more=st.integers(0, 2**33) | st.integers(0, 9), m=multipliers)
def test_a_larger_sum_has_no_smaller_code(name, a, more, m):
    """What lets a network pool first."""
    rule = RULES[name]
    small, large = rule.rescale(np.array([a, min(a + more, INT32.max)]), *rule.store(m))
    assert small <= large


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("m", [2.0**-32, 2.0**-31 * 1.3, 3.7, 2.0**8 - 2**-13])
def test_a_rule_is_exact_up_to_the_ends_of_what_it_takes(name, m):
    for a in (INT32.min, INT32.min + 1, -(2**24) - 1, -1, 0, 1, 3, 2**29 + 7, INT32.max - 1, INT32.max):
        assert equals_the_oracle(RULES[name], a, m)


def test_fp32_is_what_the_machine_does_with_float32():
    rng = np.random.default_rng(0)
    a = rng.integers(INT32.min, INT32.max, 200_000, dtype=np.int32) >> rng.integers(0, 31, 200_000).astype(np.int32)
    m = rng.uniform(2**-20, 2, 200_000).astype(np.float32)
    found = RULES["fp32"].rescale(a.astype(np.int64), *RULES["fp32"].store(m))
    assert np.array_equal(found, np.rint(a.astype(np.float32) * m).astype(np.int64))


@pytest.mark.parametrize("bits", [12, 20, 24, 25])
def test_fp32_is_what_the_machine_does_near_ties(bits):
    """Most sums take the short way there; what is near a tie does not."""
    rng = np.random.default_rng(bits)
    for m in np.float32([2**-3, 3 * 2**-9, *rng.uniform(2**-12, 2**-3, 20)]):
        a = rng.integers(-(2**bits), 2**bits + 1, 20_000, dtype=np.int32)
        found = RULES["fp32"].rescale(a.astype(np.int64), *RULES["fp32"].store(m))
        assert np.array_equal(found, np.rint(a.astype(np.float32) * m).astype(np.int64))


def test_rounding_once_where_fp32_rounds_twice_is_caught(monkeypatch):
    monkeypatch.setattr(requantisation, "_fp32_in_full", lambda a, m, shift: requantisation._shifted_half_even(a * m, shift))
    with pytest.raises(AssertionError):
        test_fp32_is_what_the_machine_does_near_ties(20)


# Mutants: what a wrong rule would do is caught by the laws above.


def ties(name, tie):
    """The rule with its last rounding replaced by one that treats ties otherwise."""

    def rescale(a, m, shift):
        exact = [Fraction(int(x) * int(m)) / Fraction(2) ** int(shift) for x in a]
        return np.array([nearest(q, tie) for q in exact])

    return replace(RULES[name], rescale=rescale)


def shifted_by_one(name):
    return replace(RULES[name], rescale=lambda a, m, shift: RULES[name].rescale(a, m, shift + 1))


def drawn():
    """Sums and multipliers with ties, at either side of 0."""
    for m in (0.5, 0.25, 2.0**-7, 0.3, 1.5, 0.75):
        for a in (*range(-70, 71), -(2**25) - 3, 2**25 + 3, INT32.min, INT32.max):
            yield a, m


MUTANTS = [ties(name, tie) for name, right in [("q31-single", "up"), ("rndnu", "up"), ("fp32", "even"), ("q31-double", "away")]
           for tie in ("up", "even", "away") if tie != right]  # fmt: skip


@pytest.mark.parametrize("mutant", [*MUTANTS, *map(shifted_by_one, RULES)])
def test_a_rule_that_rounds_or_shifts_otherwise_is_caught(mutant):
    def agrees(rule):
        return all(
            ORACLE[rule.name](a, Fraction(float(rule.precision(m)))) == rule.rescale(np.array([a]), *rule.store(m))[0] for a, m in drawn()
        )

    assert agrees(RULES[mutant.name])
    assert not agrees(mutant)


def test_codes_that_wrap_around_are_caught(monkeypatch):
    targets = [(-128, 127, 5, np.int8), (0, 255, 7, np.uint8), (3, 9, 3, np.int8)]

    def saturates():
        return all(equals_the_oracle(RULES["rndnu"], a, 0.5, *to) for a in (-600, 600, INT32.min, INT32.max) for to in targets)

    assert saturates()
    for bound in ("maximum", "minimum"):
        with monkeypatch.context() as m:
            m.setattr(np, bound, lambda y, bound, out: out)
            assert not saturates()


# How far the rules are from each other.


def test_rules_differ_by_one_at_most_and_as_rarely_as_is_said():
    rng = np.random.default_rng(1)
    m = 2.0 ** rng.uniform(-10, -8, 400)
    a = (rng.uniform(-128, 127, (2000, 400)) / m).astype(np.int64)
    by = {name: rule.rescale(a.copy(), *rule.store(m)) for name, rule in RULES.items()}

    def apart(one, other):
        assert np.abs(by[one] - by[other]).max() <= 1
        return np.mean(by[one] != by[other])

    assert apart("q31-double", "q31-single") == pytest.approx(0.00149, abs=0.0003)
    assert apart("fp32", "rndnu") < 1e-4
    assert apart("fp32", "q31-single") < 1e-4


@given(multipliers)
def test_what_is_stored_is_whole_and_near(m):
    for rule in RULES.values():
        mantissa, shift = rule.store(m)
        assert mantissa.dtype == shift.dtype == np.int64
        value = Fraction(int(mantissa)) / Fraction(2) ** int(shift)
        error = abs(value / Fraction(float(rule.precision(m))) - 1)
        assert error <= {"pow2": Fraction(415, 1000)}.get(rule.name, Fraction(1, 2**31))


# Channels, and what is refused.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 4, 5), (0, 3), (2, 3, 0, 4)])
def test_each_channel_has_its_multiplier(name, shape):
    rng = np.random.default_rng(2)
    a = rng.integers(-40_000, 40_000, shape, dtype=np.int32)
    m = np.array([0.001, 0.004, 0.0007])
    together = requantise(a, RULES[name].store(m), rule=name)
    assert together.shape == shape and together.dtype == np.int8
    for c in range(3):
        alone = requantise(a[:, c : c + 1], RULES[name].store(m[c]), rule=name)
        assert np.array_equal(together[:, c : c + 1], alone)


def test_sums_in_any_order_of_memory_are_left_as_they_are():
    a = np.arange(-60, 60, dtype=np.int32).reshape(4, 30)
    before = a.copy()
    for name in RULES:
        m = RULES[name].store(0.37)
        assert np.array_equal(requantise(a[::-1, ::3], m, rule=name), requantise(a, m, rule=name)[::-1, ::3])
    assert np.array_equal(a, before)


@pytest.mark.parametrize("m", [0.0, -1.0, np.nan, np.inf, 2.0**-33, 256.0])
def test_a_multiplier_that_no_rule_holds_is_refused(m):
    for rule in RULES.values():
        with pytest.raises(ValueError, match="multiplier"):
            rule.store([0.5, m])


def test_wrong_arguments_are_named():
    m = RULES["fp32"].store(0.5)
    with pytest.raises(ValueError, match=r"no rule 'nearest'.*fp32, q31-double"):
        requantise(np.zeros((1, 1), np.int32), m, rule="nearest")
    with pytest.raises(TypeError, match="int64"):
        requantise(np.zeros((1, 1), np.int64), m, rule="fp32")
    with pytest.raises(ValueError, match="int8 holds -128 to 127"):
        requantise(np.zeros((1, 1), np.int32), m, rule="fp32", high=128)


def test_a_ratio_is_computed_in_the_precision_of_its_source():
    x, w, y = 0.1, 0.3, 0.7
    assert RULES["fp32"].ratio(x, w, y) == np.float32(np.float32(x) * np.float32(w)) / np.float32(y)
    assert RULES["fp32"].ratio(x, w, y).dtype == np.float32
    assert RULES["q31-double"].ratio(x, w, y) == x * w / y
    assert all(isinstance(rule, Rule) and isinstance(rule.store(0.1), Multiplier) for rule in RULES.values())


def test_sums_of_any_shape_have_codes():
    m = RULES["fp32"].store(0.01)
    sums = np.arange(-300, 300, 25, dtype=np.int32)
    line = requantise(sums, m, rule="fp32")
    for shape in ((24,), (4, 6), (2, 3, 4), (1, 2, 3, 4)):
        assert np.array_equal(requantise(sums.reshape(shape), m, rule="fp32"), line.reshape(shape))
    assert requantise(sums[3], m, rule="fp32") == line[3]
