"""What the gradient tester promises beyond finding bugs: three verdicts, no false alarm at hard points, contracts, messages."""

import contextlib
import inspect
import io

import hypothesis.strategies as st
import numpy as np
import pytest
from mutants.record import fitted

from engine import ops
from engine.testing import FAIL, INCONCLUSIVE, PASS, GradientError, check_gradient, gradient_test


def slope(rule):
    """A vjp from dy/dx."""

    def back(g, args, y):
        return (g * rule(args[0]),)

    return back


def exactly(*arrays, **kwargs):
    """Just this call."""
    return {"cases": st.just((tuple(np.asarray(a, np.float64) for a in arrays), kwargs)), "vary_values": False, "examples": 20}


RIGHT_SQUARE = slope(lambda x: 2 * x)


# Three verdicts.


def test_a_right_rule_passes_and_says_how_much_it_compared():
    report = check_gradient(np.square, RIGHT_SQUARE)
    assert report.verdict == PASS and bool(report)
    assert report.counts["elements"] > 100 and report.counterexample is None
    report.raise_if_failed()
    assert "PASS" in report.explain()


def test_a_wrong_rule_fails_and_raises():
    report = check_gradient(np.square, slope(lambda x: 3 * x))
    assert report.verdict == FAIL and not report
    with pytest.raises(GradientError, match="FAIL"):
        report.raise_if_failed()


def refuses(x):
    raise ValueError("not today")


def random_noise():
    rng = np.random.default_rng(0)
    return lambda x: x * rng.uniform(1, 2)


NOTHING_TO_SAY = {
    "never finite": (lambda x: np.log(-1 - x * x), slope(lambda x: x)),
    "always refuses": (refuses, slope(lambda x: x)),
    "not the same twice": (random_noise(), slope(lambda x: 1.5 + 0 * x)),
    "infinite everywhere": (lambda x: np.where(x == x, np.inf, x), slope(lambda x: 0 * x)),
}


@pytest.mark.parametrize("name", NOTHING_TO_SAY)
def test_a_run_that_concluded_nothing_is_not_a_pass(name):
    f, vjp = NOTHING_TO_SAY[name]
    report = check_gradient(f, vjp, cases=st.just(((np.array([0.5, 1.5]),), {})), examples=30)
    assert report.verdict == INCONCLUSIVE
    with pytest.raises(GradientError):
        report.raise_if_failed()
    report.raise_if_failed(inconclusive=False)


def test_only_empty_arrays_are_no_proof():
    report = check_gradient(np.square, slope(lambda x: 0 * x), **exactly(np.zeros((0, 3))))
    assert report.verdict == INCONCLUSIVE


SINGULAR = {
    "a jump": (lambda x: 1.0 * (x > 1), slope(lambda x: 0 * x), 1.0),
    "an infinite slope": (np.cbrt, slope(lambda x: 1 / (3 * np.cbrt(x) ** 2)), 0.0),
    "the edge of the domain": (np.sqrt, slope(lambda x: 0.5 / np.sqrt(x)), 0.0),
}


@pytest.mark.parametrize("name", SINGULAR)
def test_a_singular_point_has_no_verdict_but_a_reason(name):
    f, vjp, x = SINGULAR[name]
    report = check_gradient(f, vjp, **exactly([x]))
    assert report.verdict == INCONCLUSIVE
    assert report.reasons and all(isinstance(reason, str) for reason in report.reasons)


# Hard points at which right rules must not be rejected.


def share(a, b):
    return (a > b) + 0.5 * (a == b)


def pair(*rules):
    def back(g, args, y):
        return tuple(fitted(g * rule(*args), x) for rule, x in zip(rules, args, strict=True))

    return back


def sorted_back(g, args, y):
    back = np.empty_like(args[0])
    back[np.argsort(args[0], kind="stable")] = g
    return (back,)


HARD = {
    "sinc at 7e-143": (np.sinc, slope(lambda x: -np.pi**2 / 3 * x), [[7e-143]]),
    "relu at 0, one end": (lambda x: np.maximum(x, 0.0), slope(lambda x: 1.0 * (x > 0)), [[0.0]]),
    "relu at 0, the other": (lambda x: np.maximum(x, 0.0), slope(lambda x: 1.0 * (x >= 0)), [[0.0]]),
    "relu at 0, the middle": (lambda x: np.maximum(x, 0.0), slope(lambda x: np.heaviside(x, 0.5)), [[0.0]]),
    "abs at 0": (np.abs, slope(np.sign), [[0.0]]),
    "the whole of a tie to the first": (np.maximum, pair(lambda a, b: 1.0 * (a >= b), lambda a, b: 1.0 * (b > a)), [[1.0], [1.0]]),
    "a tie shared": (np.maximum, pair(share, lambda a, b: share(b, a)), [[1.0], [1.0]]),
    "sort of three equal values": (np.sort, sorted_back, [[2.0, 2.0, 2.0]]),
    "square at 1e9": (np.square, RIGHT_SQUARE, [[1e9]]),
    "square at 1e-160": (np.square, RIGHT_SQUARE, [[1e-160]]),
    "square of a subnormal": (np.square, RIGHT_SQUARE, [[5e-324]]),
    "x^3 at 1e-5": (lambda x: x**3, slope(lambda x: 3 * x * x), [[1e-5]]),
    "sin at 1e4": (np.sin, slope(np.cos), [[1e4]]),
    "fast oscillation": (lambda x: np.sin(50 * x), slope(lambda x: 50 * np.cos(50 * x)), [[1.3]]),
    "a small change of a large value": (lambda x: 1e6 + np.sin(x), slope(np.cos), [[0.7]]),
    "exp far down": (np.exp, slope(np.exp), [[-700.0]]),
    "exp far up": (np.exp, slope(np.exp), [[709.0]]),
    "tanh, saturated": (np.tanh, slope(lambda x: 1 / np.cosh(x) ** 2), [[30.0]]),
    "log near its edge": (np.log, slope(lambda x: 1 / x), [[1e-300]]),
    "arctan2 near the axis": (np.arctan2, pair(lambda a, b: b / (a * a + b * b), lambda a, b: -a / (a * a + b * b)), [[1e-9], [-1.0]]),
    "fmod, whole but for a rounding": (np.fmod, pair(lambda a, b: 0 * a + 1, lambda a, b: -np.trunc(a / b)), [[1.0], [0.001]]),
    "an origin that is a tip": (np.hypot, pair(lambda a, b: 0 * a, lambda a, b: 0 * b), [[0.0], [0.0]]),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_no_false_alarm_at_hard_points(name):
    f, vjp, args = HARD[name]
    report = check_gradient(f, vjp, **exactly(*args))
    assert report.verdict != FAIL, report.explain()


def test_values_outside_of_the_hull_of_a_kink_are_wrong():
    assert check_gradient(np.abs, slope(lambda x: np.sign(x) + 1.5 * (x == 0)), **exactly([0.0])).verdict == FAIL


def test_a_tail_is_judged_by_its_own_size():
    report = check_gradient(np.tanh, slope(lambda x: 1 - np.tanh(x) ** 2), **exactly([20.0]))
    assert report.verdict == FAIL and report.counterexample.finding.reference == pytest.approx(4 * np.exp(-40), rel=1e-6)


def test_severity_tail_wants_every_digit():
    nearly = slope(lambda x: np.cos(x) * (1 + 1e-9))
    assert check_gradient(np.sin, nearly, severity="wrong").verdict == PASS
    assert check_gradient(np.sin, nearly, severity="tail").verdict == FAIL


# Contracts. What is found broken has a name.


def count_calls(wrong_every, f):
    calls = {"n": 0}

    def back(g, args, y):
        calls["n"] += 1
        return (f(g, args[0]) * (calls["n"] % wrong_every != 0),)

    return back


def writes_into_x(g, args, y):
    (x,) = args
    out = 2 * x * g
    if x.flags.writeable:
        x[...] = 0
    return (out,)


def writes_into_g(g, args, y):
    out = 2 * args[0] * g
    if g.flags.writeable:
        g[...] = 0
    return (out,)


BROKEN = {
    "shape": lambda g, args, y: (np.expand_dims(2 * args[0] * g, 0),),
    "dtype": lambda g, args, y: ((2 * args[0] * g).astype(np.float16),),
    "mutation of x": writes_into_x,
    "mutation of g": writes_into_g,
    "linearity": lambda g, args, y: (2 * args[0] * g * np.abs(g),),
    "nonzero at zero": lambda g, args, y: (2 * args[0] * g + 1e-3,),
    "determinism": count_calls(7, lambda g, x: 2 * x * g),
    "raises": lambda g, args, y: (1 / 0,),
    "too many": lambda g, args, y: (2 * args[0] * g, g),
    "nan": lambda g, args, y: (2 * args[0] * g + np.where(args[0] == 0, np.nan, 0.0),),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract_is_found(name):
    report = check_gradient(lambda x: np.square(x), BROKEN[name])
    assert report.verdict == FAIL
    assert report.counterexample.finding.check and report.explain()


def test_higher_precision_than_the_argument_is_wrong_where_float32_was_asked_for():
    def back(g, args, y):
        return (np.float64(2) * args[0].astype(np.float64) * g,)

    report = check_gradient(np.square, back)
    assert report.verdict == PASS and "x is float32" in report.explain()
    report = check_gradient(np.square, back, signature=np.ones(3, np.float32))
    assert report.verdict == FAIL and report.counterexample.finding.check == "dtype"


def test_nan_must_not_leak_through_a_mask():
    def masked(x):
        return np.sum(np.where(np.isnan(x), 0.0, x) ** 2)

    call = exactly([np.nan, 1.0, 2.0])
    assert check_gradient(masked, lambda g, args, y: (g * 2 * np.where(np.isnan(args[0]), 0.0, args[0]),), **call).verdict == PASS
    report = check_gradient(masked, lambda g, args, y: (g * 2 * args[0],), **call)
    assert report.verdict == FAIL and "left out of the value" in report.explain()


def test_a_rule_may_refuse_a_singular_matrix_where_there_is_no_derivative():
    def refusing(g, args, y):
        (p, q), (r, s) = args[0]
        if p * s == q * r:
            raise np.linalg.LinAlgError("Singular matrix")
        return (np.zeros((2, 2)),)

    a = [[1.0, 2.0], [2.0, 4.0]]
    assert check_gradient(lambda x: np.sqrt(np.abs(np.linalg.det(x))), refusing, **exactly(a)).verdict == INCONCLUSIVE
    report = check_gradient(lambda x: 0 * x, refusing, **exactly(a))
    assert report.verdict == FAIL and "Singular matrix" in report.explain()


def test_one_buffer_for_two_gradients():
    def back(g, args, y):
        both = np.array(g)
        return both, both

    report = check_gradient(np.add, back, signature="n, n -> n")
    assert report.verdict == FAIL and "buffer" in report.explain()


def test_a_view_of_the_cotangent_for_one_argument_is_allowed():
    assert check_gradient(lambda x: np.array(x), lambda g, args, y: (g,)).verdict == PASS
    assert check_gradient(lambda x: x.T, lambda g, args, y: (g.T,), signature="m n -> n m").verdict == PASS


def test_a_push_is_compared_with_the_pull():
    back = slope(np.cos)
    assert check_gradient(np.sin, back, jvp=lambda d, args, y: d[0] * np.cos(args[0])).verdict == PASS
    assert check_gradient(np.sin, back, jvp=lambda d, args, y: d[0] * -np.cos(args[0])).verdict == FAIL


def test_several_outputs():
    def polar(x):
        return np.cos(x), np.sin(x)

    def back(g, args, y):
        return (g[1] * y[0] - g[0] * y[1],)

    assert check_gradient(polar, back).verdict == PASS
    assert check_gradient(polar, lambda g, args, y: (g[1] * y[0] + g[0] * y[1],)).verdict == FAIL


# Messages.


LOOKS_LIKE = {
    "sign": (np.square, slope(lambda x: -2 * x), {}, "sign"),
    "twice": (np.square, slope(lambda x: 4 * x), {}, "twice"),
    "zero": (np.square, slope(lambda x: 0 * x), {}, "zero"),
    "not summed": (np.add, lambda g, args, y: (g.copy(), g.copy()), {"signature": "n, m n -> m n"}, "broadcast"),
    "base 2": (np.exp2, slope(np.exp2), {}, "ln 2"),
    "nan": (np.abs, slope(lambda x: x / np.abs(x)), {}, "nan"),
}


@pytest.mark.parametrize("name", LOOKS_LIKE)
def test_the_diagnosis_names_the_fault(name):
    f, vjp, told, word = LOOKS_LIKE[name]
    report = check_gradient(f, vjp, **told)
    assert report.verdict == FAIL and word in report.diagnosis, report.explain()


def test_the_message_says_which_side_is_which_and_shows_it_again():
    def back(g, args, y):
        return (3 * args[0] * g,)

    report = check_gradient(np.square, back, seed=3)
    text, case = report.explain(), report.counterexample
    assert "your rule says" in text and "it should be" in text
    assert case.size <= 2 and case.element[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(case.code(), {"f": np.square, "vjp": back})
    assert repr(case.finding.claimed).rstrip("0").rstrip(".") in printed.getvalue()


def test_reports_are_data_and_html():
    report = check_gradient(np.square, slope(lambda x: -2 * x))
    data = report.as_dict()
    assert data["verdict"] == FAIL and data["counterexample"]["code"] and data["seconds"] >= 0
    assert "FAIL" in report._repr_html_() and "<" in report._repr_html_()


def test_the_same_seed_gives_the_same_counterexample():
    def once(seed):
        return check_gradient(np.square, slope(lambda x: 2 * x + (x > 1.7)), seed=seed)

    first, again = once(5), once(5)
    assert first.verdict == FAIL and repr(first.counterexample.case) == repr(again.counterexample.case)
    assert first.counts == again.counts


def test_the_counterexample_is_small():
    def back(g, args, y):
        a, b = args
        ga, gb = g @ b.T, a.T @ g
        if a.shape[0] > 1:
            ga = ga * 1.5
        return ga, gb

    report = check_gradient(lambda a, b: a @ b, back, signature="m k, k n -> m n")
    assert report.verdict == FAIL and report.counterexample.size <= 4
    assert report.counterexample.layout == ("C", "C")


# What is asked wrongly.


def test_nothing_to_check_is_an_error():
    with pytest.raises(TypeError, match="vjp"):
        check_gradient(lambda x: np.square(x))


def test_an_unknown_severity_is_an_error():
    with pytest.raises(ValueError, match="wrong"):
        check_gradient(np.square, RIGHT_SQUARE, severity="high")


def test_a_function_of_the_engine_needs_no_rule():
    assert check_gradient(ops.tanh, orders=(1, 2), examples=60).verdict == PASS
    assert check_gradient(lambda x: ops.tanh(x) * x, framework="engine", examples=60).verdict == PASS


# As a test of a suite.


@gradient_test(slope(np.cos), signature="...", examples=30)
def test_the_sine(x):
    return np.sin(x)


def test_a_wrong_gradient_fails_its_test_with_the_whole_report():
    @gradient_test(slope(np.sin), examples=30)
    def test_the_cosine(x):
        """The sign is missing."""
        return np.cos(x)

    assert test_the_cosine.__name__ == "test_the_cosine" and "sign" in test_the_cosine.__doc__
    assert not inspect.signature(test_the_cosine).parameters
    with pytest.raises(GradientError, match="the sign is wrong"):
        test_the_cosine()


def test_a_test_that_concludes_nothing_fails_unless_it_may():
    def never(x):
        return np.log(-1 - x * x)

    with pytest.raises(GradientError, match="INCONCLUSIVE"):
        gradient_test(slope(np.cos), signature="...")(never)()
    gradient_test(slope(np.cos), inconclusive=True, signature="...")(never)()


@pytest.mark.parametrize("signature", ["... m k, ... k -> ... m", "m k, k -> m", None])
def test_a_rule_that_raises_is_not_taken_for_one_that_wants_integers(signature):
    """The transpose is forgotten: only square matrices do not raise."""

    def vjp(g, args, y):
        x, w = args
        return fitted(g[..., None] * w[..., None, :], x), fitted(np.matmul(x, g[..., None])[..., 0], w)

    report = check_gradient(lambda x, w: np.matmul(x, w[..., None])[..., 0], vjp, signature=signature)
    assert report.verdict == FAIL
