"""Every elementwise op against mpmath, value and slope, from the smallest to the largest numbers.

The oracle is the textbook formula in 60 digits, written here and sharing nothing with the engine. An answer may be off by
a few units in the last place (ulps) of the dtype; where a formula must round its argument, by as many more as that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath as mp
import numpy as np
import pytest
from mpmath import mpf

from engine import grad, jvp, ops, vjp

mp.mp.dps = 60

POINTS = {
    np.float64: [0.0, 1e-300, 1e-9, 0.1, 0.5, 0.9, 1.0, 1.7, 3.0, 10.3, 20.0, 26.3, 37.0, 40.0, 88.0, 710.0, 800.0, 1e18, 1e300],
    np.float32: [0.0, 1e-38, 1e-9, 0.1, 0.5, 0.9, 1.0, 1.7, 3.0, 10.3, 13.1, 20.0, 37.0, 40.0, 88.0, 710.0, 800.0, 1e9, 1e38],
}
DTYPES = [np.float64, np.float32]


@dataclass
class Case:
    """An op and what it should give. With two arguments, `slope` gives two."""

    name: str
    value: Callable
    slope: Callable
    low: float = -np.inf  # the domain, open
    high: float = np.inf
    ulps: float = 4.0
    params: dict = field(default_factory=dict)
    slack: Callable = lambda *x: 0  # ulps that rounding an argument inside costs

    def op(self, *x):
        return getattr(ops, self.name)(*x, **self.params)

    def __str__(self):
        return self.name + "".join(f"-{v}" for v in self.params.values())


def sigma(x):
    return 1 / (1 + mp.exp(-x))


def phi(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi) if abs(x) < 1e4 else mpf(0)


def cdf(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 1e4 else mpf(x > 0)


def bell(x, s):
    return mp.exp(-s * x * x) if abs(x) < 1e4 else mpf(0)


def erfc(x):
    return mp.erfc(x) if abs(x) < 1e4 else mpf(2 * (x < 0))


def cubic(x):
    return 2 * mp.sqrt(2 / mp.pi) * (x + mpf(0.044715) * x**3)


def gelu_tanh_slope(x):
    rate = 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mpf(0.044715) * x * x)
    return sigma(cubic(x)) + x * rate * mp.exp(-cubic(x)) / (1 + mp.exp(-cubic(x))) ** 2


def sinc_slope(x):
    if abs(x) < 1e-15:
        return -(mp.pi**2) * x / 3
    return (mp.cos(mp.pi * x) - mp.sin(mp.pi * x) / (mp.pi * x)) / x


def sinc_second(x):
    if abs(x) < 1e-15:
        return -(mp.pi**2) / 3
    return -mp.pi * mp.sin(mp.pi * x) / x - 2 * sinc_slope(x) / x


def root3(x):
    return mp.sign(x) * mp.cbrt(abs(x))


CASES = [
    Case("negative", lambda x: -x, lambda x: -1),
    Case("reciprocal", lambda x: 1 / x, lambda x: -1 / x**2, low=0),
    Case("square", lambda x: x * x, lambda x: 2 * x),
    Case("sqrt", mp.sqrt, lambda x: 1 / (2 * mp.sqrt(x)), low=0),
    Case("cbrt", root3, lambda x: 1 / (3 * root3(x) ** 2), low=0),
    Case("cbrt", root3, lambda x: 1 / (3 * root3(x) ** 2), high=0),
    Case("exp", mp.exp, mp.exp),
    Case("exp2", lambda x: 2**x, lambda x: 2**x * mp.log(2)),
    Case("expm1", mp.expm1, mp.exp),
    Case("log", mp.log, lambda x: 1 / x, low=0),
    Case("log2", lambda x: mp.log(x) / mp.log(2), lambda x: 1 / x / mp.log(2), low=0),
    Case("log10", lambda x: mp.log(x) / mp.log(10), lambda x: 1 / x / mp.log(10), low=0),
    Case("log1p", mp.log1p, lambda x: 1 / (1 + x), low=-1),
    Case("abs", abs, mp.sign),
    Case("sign", mp.sign, lambda x: 0),
    Case("clip", lambda x: min(max(x, -1), mpf(0.5)), lambda x: mpf(-1 <= x <= 0.5), params={"min": -1.0, "max": 0.5}),
    Case("tanh", mp.tanh, lambda x: mp.sech(x) ** 2),
    Case("sigmoid", sigma, lambda x: mp.exp(-x) / (1 + mp.exp(-x)) ** 2),
    Case("softplus", lambda x: mp.log1p(mp.exp(x)), sigma),
    Case("relu", lambda x: max(x, mpf(0)), lambda x: mpf(x > 0)),
    Case("leaky_relu", lambda x: x if x > 0 else x * mpf(0.25), lambda x: 1 if x > 0 else mpf(0.25), params={"negative_slope": 0.25}),
    Case("elu", lambda x: x if x > 0 else mp.expm1(x), lambda x: 1 if x > 0 else mp.exp(x)),
    Case("elu", lambda x: x if x > 0 else mp.expm1(x) / 2, lambda x: 1 if x > 0 else mp.exp(x) / 2, params={"alpha": 0.5}),
    Case("silu", lambda x: x * sigma(x), lambda x: sigma(x) * (1 + x * sigma(-x)), ulps=6),
    Case("gelu", lambda x: x * cdf(x), lambda x: cdf(x) + x * phi(x), ulps=8),
    Case(
        "gelu",
        lambda x: x * sigma(cubic(x)),
        gelu_tanh_slope,
        params={"approximate": "tanh"},
        ulps=8,
        slack=lambda x: 4 * abs(cubic(x)) if x < 0 else 0,
    ),
    Case("erf", lambda x: 1 - erfc(x) if abs(x) > 1 else mp.erf(x), lambda x: 2 / mp.sqrt(mp.pi) * bell(x, 1)),
    Case("erfc", erfc, lambda x: -2 / mp.sqrt(mp.pi) * bell(x, 1)),
    Case("normal_cdf", cdf, phi),
    Case("gaussian", lambda x: bell(x, mpf(0.5)), lambda x: -x * bell(x, mpf(0.5)), params={"scale": 0.5}),
    Case("gaussian", lambda x: bell(x, 1), lambda x: -2 * x * bell(x, 1), params={"scale": 1.0}),
    Case("sin", mp.sin, mp.cos),
    Case("cos", mp.cos, lambda x: -mp.sin(x)),
    Case("tan", mp.tan, lambda x: mp.sec(x) ** 2, ulps=8),
    Case("arcsin", mp.asin, lambda x: 1 / mp.sqrt(1 - x * x), low=-1, high=1),
    Case("arccos", mp.acos, lambda x: -1 / mp.sqrt(1 - x * x), low=-1, high=1),
    Case("arctan", mp.atan, lambda x: 1 / (1 + x * x)),
    Case("sinh", mp.sinh, mp.cosh),
    Case("cosh", mp.cosh, mp.sinh),
    Case("arcsinh", lambda x: mp.sign(x) * mp.asinh(abs(x)), lambda x: 1 / mp.sqrt(1 + x * x)),
    Case("arccosh", mp.acosh, lambda x: 1 / mp.sqrt(x * x - 1), low=1),
    Case("arctanh", mp.atanh, lambda x: 1 / (1 - x * x), low=-1, high=1),
    Case("deg2rad", lambda x: x * mp.pi / 180, lambda x: mp.pi / 180),
    Case("rad2deg", lambda x: x * 180 / mp.pi, lambda x: 180 / mp.pi),
    # pi x is rounded, and near a zero that is all there is
    Case("sinc", mp.sincpi, sinc_slope, low=-1, high=1, slack=lambda x: 30 * (abs(x) > 0.6)),
]


def points(case, dtype):
    both = sorted({s * p for p in POINTS[dtype] for s in (1, -1)})
    inside = [p for p in np.array(both, dtype) if case.low < p < case.high]
    return np.array(inside, dtype)


def representable(true, dtype):
    return abs(true) <= float(np.finfo(dtype).max)


def off_by(got, true, dtype):
    """The error in ulps. Below the normal numbers an ulp is the smallest of them times eps, and libraries may flush."""
    unit = max(float(np.spacing(dtype(abs(true)))), float(np.finfo(dtype).smallest_subnormal))
    return float(abs(mpf(float(got)) - true) / mpf(unit))


def judge(case, what, x, got, true, dtype):
    """x is a tuple of the arguments."""
    true = mpf(true)
    if not representable(true, dtype):
        assert np.isinf(got), f"{case} {what} at {x!r}: {got!r}, wanted something beyond the largest number"
        return
    assert np.isfinite(got), f"{case} {what} at {x!r}: {got!r}, wanted {mp.nstr(true, 20)}"
    error, allowed = off_by(got, true, dtype), case.ulps + case.slack(*(mpf(float(v)) for v in x))
    assert error <= allowed, f"{case} {what} at {x!r}: {got!r} is {error:.1f} ulps off {mp.nstr(true, 20)}"


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_slope_hold_from_one_end_to_the_other(case, dtype):
    for x in points(case, dtype):
        exact = mpf(float(x))
        true, true_slope = mpf(case.value(exact)), mpf(case.slope(exact))
        quiet = representable(true, dtype) and representable(true_slope, dtype)
        with np.errstate(over="raise" if quiet else "ignore", divide="raise", invalid="raise"):
            one = np.ones(1, dtype)
            value, pull = vjp(case.op, x * one)
            slope, pushed = pull(one)[0], jvp(case.op, (x * one,), (one,))[1]
        assert value.dtype == slope.dtype == pushed.dtype == dtype
        judge(case, "value", (x,), value[0], true, dtype)
        judge(case, "slope", (x,), slope[0], true_slope, dtype)
        judge(case, "pushed slope", (x,), pushed[0], true_slope, dtype)


def pow_slopes(a, b):
    return (b * a ** (b - 1) if b else 0), (a**b * mp.log(a) if a else 0)


def angle_slopes(a, b):
    r = a * a + b * b
    return (b / r, -a / r) if r else (0, 0)


PAIRS = [
    Case("add", lambda a, b: a + b, lambda a, b: (1, 1)),
    Case("subtract", lambda a, b: a - b, lambda a, b: (1, -1)),
    Case("multiply", lambda a, b: a * b, lambda a, b: (b, a)),
    Case("divide", lambda a, b: a / b, lambda a, b: (1 / b, -a / b**2)),
    Case("hypot", mp.hypot, lambda a, b: (a / mp.hypot(a, b), b / mp.hypot(a, b)) if a or b else (0, 0)),
    Case("arctan2", mp.atan2, angle_slopes, ulps=6),
    Case(
        "logaddexp",
        lambda a, b: max(a, b) + mp.log1p(mp.exp(-abs(a - b))),
        lambda a, b: (sigma(a - b), sigma(b - a)),
        slack=lambda a, b: min(abs(a - b), 800),
    ),
    Case("maximum", max, lambda a, b: (mpf(a > b) + mpf(a == b) / 2, mpf(b > a) + mpf(a == b) / 2)),
    Case("minimum", min, lambda a, b: (mpf(a < b) + mpf(a == b) / 2, mpf(b < a) + mpf(a == b) / 2)),
    Case("pow", lambda a, b: a**b, pow_slopes, slack=lambda a, b: 2 * abs(mp.log(a)) if a else 0),
]
VALUES = {
    np.float64: [1e-300, 1e-9, 0.5, 1.0, 3.3, 20.0, 37.0, 700.3, 1e18, 1e300],
    np.float32: [1e-38, 1e-9, 0.5, 1.0, 3.3, 20.0, 37.0, 80.3, 1e9, 1e38],
}


def pairs(pair, dtype):
    """Both signs and zero where they are defined."""
    signs = (1,) if pair.name == "pow" else (1, -1)
    xs = sorted({dtype(s * v) for v in VALUES[dtype] for s in signs} | {dtype(0)})
    for a in xs:
        for b in xs:
            singular = (pair.name == "divide" and b == 0) or (pair.name == "pow" and a == 0 and 0 < b < 1)
            if not singular:
                yield a, b


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_both_slopes_hold_from_one_end_to_the_other(pair, dtype):
    for xs in pairs(pair, dtype):
        exact = [mpf(float(x)) for x in xs]
        true, slopes = mpf(pair.value(*exact)), [mpf(s) for s in pair.slope(*exact)]
        quiet = all(representable(v, dtype) for v in (true, *slopes))
        with np.errstate(over="raise" if quiet else "ignore", divide="raise", invalid="raise"):
            value, pull = vjp(pair.op, *(np.array([x]) for x in xs))
            got = pull(np.ones(1, dtype))
        judge(pair, "value", xs, value[0], true, dtype)
        for what, g, slope in zip(("slope in x1", "slope in x2"), got, slopes, strict=True):
            assert g.dtype == dtype
            judge(pair, what, xs, g[0], slope, dtype)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="before NEP 50 a number could turn a float32 scalar")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_single_precision_scalar_stays_one(case):
    x = points(case, np.float32)[len(points(case, np.float32)) // 2 + 1]
    for scalar in (x, np.asarray(x)):
        y, pull = vjp(case.op, scalar)
        assert y.dtype == pull(np.float32(1))[0].dtype == np.float32
        assert np.shape(y) == np.shape(pull(np.float32(1))[0]) == ()


@pytest.mark.parametrize("x", [0.0, 1e-300, 1e-9, 1e-3, 0.1, 0.45, 0.7, 2.5])
def test_the_second_slope_of_sinc_does_not_cancel_at_the_origin(x):
    second = grad(grad(ops.sinc))(x)
    assert off_by(second, mpf(sinc_second(mpf(x))), np.float64) <= 30


@pytest.mark.parametrize("x", [0.0, 1e-3, 0.3])
def test_the_fourth_slope_of_sinc_is_that_of_its_series(x):
    fourth = grad(grad(grad(grad(ops.sinc))))(x)
    series = mp.taylor(mp.sincpi, mpf(x), 4, method="quad", radius=1)[4] * 24 if x else mp.pi**4 / 5
    assert abs(fourth - float(series)) <= 1e-12 * abs(fourth)


LIMITS = [  # value and slope at -inf and at +inf
    ("tanh", -1, 0, 1, 0),
    ("sigmoid", 0, 0, 1, 0),
    ("softplus", 0, 0, np.inf, 1),
    ("relu", 0, 0, np.inf, 1),
    ("elu", -1, 0, np.inf, 1),
    ("silu", 0, 0, np.inf, 1),
    ("gelu", 0, 0, np.inf, 1),
    ("erf", -1, 0, 1, 0),
    ("erfc", 2, 0, 0, 0),
    ("normal_cdf", 0, 0, 1, 0),
    ("gaussian", 0, 0, 0, 0),
    ("arctan", -np.pi / 2, 0, np.pi / 2, 0),
    ("arcsinh", -np.inf, 0, np.inf, 0),
    ("exp", 0, 0, np.inf, np.inf),
    ("expm1", -1, 0, np.inf, np.inf),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda v: v[0])
def test_infinity_gives_the_limit(limit):
    name, *wanted = limit
    x = np.array([-np.inf, np.inf])
    y, pull = vjp(getattr(ops, name), x)
    slope = pull(np.ones(2))[0]
    np.testing.assert_array_equal([y[0], slope[0], y[1], slope[1]], wanted)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_at_infinity_in_both_forms(approximate):
    x = np.array([-np.inf, np.inf])
    y, pull = vjp(lambda x: ops.gelu(x, approximate=approximate), x)
    np.testing.assert_array_equal(y, [0, np.inf])
    np.testing.assert_array_equal(pull(np.ones(2))[0], [0, 1])


SMOOTH = [
    "tanh",
    "sigmoid",
    "softplus",
    "relu",
    "leaky_relu",
    "elu",
    "silu",
    "gelu",
    "erf",
    "erfc",
    "normal_cdf",
    "gaussian",
    "sin",
    "cos",
    "tan",
    "arctan",
    "arcsinh",
    "sinc",
]


@pytest.mark.parametrize("dtype", DTYPES, ids=["double", "single"])
@pytest.mark.parametrize("name", SMOOTH)
def test_nothing_warns_up_to_a_thousand_to_third_order(name, dtype):
    op = getattr(ops, name)
    x = np.linspace(-1e3, 1e3, 81, dtype=dtype)

    def slopes(f):
        return lambda x: jvp(f, (x,), (np.ones(x.shape, x.dtype),))[1]

    with np.errstate(over="raise", divide="raise", invalid="raise"):
        for f in (op, slopes(op), slopes(slopes(op)), slopes(slopes(slopes(op)))):
            assert np.all(np.isfinite(f(x)))


@pytest.mark.parametrize("name", [*SMOOTH, "exp", "log1p", "sqrt", "square"])
def test_nan_stays_nan(name):
    y, pull = vjp(getattr(ops, name), np.array([np.nan, 0.5]))
    assert np.isnan(y).tolist() == [True, False]
    assert np.isfinite(pull(np.ones(2))[0][1])


def test_an_unknown_approximation_is_refused():
    with pytest.raises(ValueError, match=r'"none" or "tanh"'):
        ops.gelu(np.zeros(2), approximate="sigmoid")
