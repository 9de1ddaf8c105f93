"""Elementwise functions with right slopes: the easy ones, and those with edges, tails, periods and jumps."""

from __future__ import annotations

import numpy as np
from scipy import special

from engine.domain import Domain, above, away_from, interval, positive, real
from mutants.record import binary, unary

LN2, LN10 = float(np.log(2)), float(np.log(10))
EDGE = Domain(low=0.0, draw_low=0.1, draw_high=3.0)  # told nothing: only the validation stays off the edge
POSITIVE_PAIR = (positive, positive)


def sech(x):
    e = np.exp(-np.abs(x))
    return 2 * e / (1 + e * e)


def _gelu_slope(x):
    """Phi(x) + x phi(x)."""
    return special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def logistic(x):
    return special.expit(x)


def _silu_slope(x):
    return logistic(x) * (1 + x * logistic(-x))


# name, function, slope of (x, y), domain told, domain drawn from

UNARY = [
    ("negative", lambda x: -x, lambda x, y: -np.ones_like(x), real, None),
    ("exp", np.exp, lambda x, y: y, real, None),
    ("log", np.log, lambda x, y: 1 / x, real, EDGE),
    ("log_told", np.log, lambda x, y: 1 / x, positive, None),
    ("log2", np.log2, lambda x, y: 1 / (x * LN2), real, EDGE),
    ("log10", np.log10, lambda x, y: 1 / (x * LN10), real, EDGE),
    ("cbrt", np.cbrt, lambda x, y: 1 / (3 * y * y), away_from(0.0), positive),
    ("reciprocal", lambda x: 1 / x, lambda x, y: -y * y, away_from(0.0), above(0.2)),
    ("inverse_square", lambda x: 1 / (x * x), lambda x, y: -2 * y / x, real, above(0.3)),
    ("reciprocal_root", lambda x: 1 / np.sqrt(x), lambda x, y: -0.5 * y / x, real, above(0.2)),
    ("cube_plain", lambda x: x**3, lambda x, y: 3 * x * x, real, None),
    ("fifth_power", lambda x: x**5, lambda x, y: 5 * x**4, real, None),
    ("power_three_halves", lambda x: x**1.5, lambda x, y: 1.5 * np.sqrt(x), real, EDGE),
    ("power_half", lambda x: x**0.5, lambda x, y: 0.5 / y, real, EDGE),
    ("power_minus_two", lambda x: x**-2.0, lambda x, y: -2 * y / x, real, above(0.3)),
    ("sin", np.sin, lambda x, y: np.cos(x), real, None),
    ("cos", np.cos, lambda x, y: -np.sin(x), real, None),
    ("tan", np.tan, lambda x, y: 1 / np.cos(x) ** 2, real, interval(-1.2, 1.2)),
    ("arcsin", np.arcsin, lambda x, y: 1 / np.sqrt((1 - x) * (1 + x)), real, interval(-1.0, 1.0)),
    ("arccos", np.arccos, lambda x, y: -1 / np.sqrt((1 - x) * (1 + x)), interval(-1.0, 1.0), None),
    ("arctan", np.arctan, lambda x, y: 1 / (1 + x * x), real, None),
    ("sinh", np.sinh, lambda x, y: np.cosh(x), real, None),
    ("arcsinh", np.arcsinh, lambda x, y: 1 / np.hypot(1, x), real, None),
    ("arccosh", np.arccosh, lambda x, y: 1 / (np.sqrt(x - 1) * np.sqrt(x + 1)), real, above(1.1)),
    ("arctanh", np.arctanh, lambda x, y: 1 / ((1 - x) * (1 + x)), real, interval(-1.0, 1.0)),
    ("sine_of_inverse", lambda x: np.sin(1 / x), lambda x, y: -np.cos(1 / x) / x / x, real, above(0.3)),
    ("fast_sine", lambda x: np.sin(50 * x), lambda x, y: 50 * np.cos(50 * x), real, None),
    ("gaussian", lambda x: np.exp(-x * x / 2), lambda x, y: -x * y, real, None),
    ("bump_with_offset", lambda x: 1e6 + np.sin(x), lambda x, y: np.cos(x), real, None),
    ("large_scale", lambda x: 1e9 * x * x, lambda x, y: 2e9 * x, real, None),
    ("small_scale", lambda x: 1e-9 * x * x, lambda x, y: 2e-9 * x, real, None),
    ("softsign", lambda x: x / (1 + np.abs(x)), lambda x, y: 1 / (1 + np.abs(x)) ** 2, real, away_from(0.0)),
    ("square_with_sign", lambda x: x * np.abs(x), lambda x, y: 2 * np.abs(x), real, away_from(0.0)),
    ("erf", special.erf, lambda x, y: 2 / np.sqrt(np.pi) * np.exp(-x * x), real, None),
    ("erfc", special.erfc, lambda x, y: -2 / np.sqrt(np.pi) * np.exp(-x * x), real, None),
    ("normal_cdf", special.ndtr, lambda x, y: np.exp(-x * x / 2) / np.sqrt(2 * np.pi), real, None),
    ("expit", special.expit, lambda x, y: logistic(x) * logistic(-x), real, None),
    ("log_expit", special.log_expit, lambda x, y: logistic(-x), real, None),
    ("logit", special.logit, lambda x, y: 1 / (x * (1 - x)), real, interval(0.0, 1.0)),
    ("log_gamma", special.gammaln, lambda x, y: special.digamma(x), positive, None),
    ("entropy", special.entr, lambda x, y: -np.log(x) - 1, positive, None),
    ("gelu", lambda x: x * special.ndtr(x), lambda x, y: _gelu_slope(x), real, None),
    ("silu", lambda x: x * logistic(x), lambda x, y: _silu_slope(x), real, None),
    ("log_cosh", lambda x: np.abs(x) + np.log1p(np.exp(-2 * np.abs(x))) - LN2, lambda x, y: np.tanh(x), real, None),
    ("sech", lambda x: sech(x), lambda x, y: -sech(x) * np.tanh(x), real, None),
    ("floor", np.floor, lambda x, y: np.zeros_like(x), real, interval(0.1, 0.9)),
    ("sign", np.sign, lambda x, y: np.zeros_like(x), away_from(0.0), None),
    ("fraction", lambda x: x - np.floor(x), lambda x, y: np.ones_like(x), real, interval(0.1, 0.9)),
    ("triangle_wave", lambda x: np.abs(x - np.round(x)), lambda x, y: np.sign(x - np.round(x)), real, interval(0.1, 0.4)),
    ("relu_untold", lambda x: np.maximum(x, 0.0), lambda x, y: 1.0 * (x > 0), real, away_from(0.0)),
    ("relu_half_at_0", lambda x: np.maximum(x, 0.0), lambda x, y: np.heaviside(x, 0.5), real, away_from(0.0)),
    ("leaky_relu", lambda x: np.where(x > 0, x, 0.01 * x), lambda x, y: np.where(x > 0, 1.0, 0.01), real, away_from(0.0)),
    ("relu6", lambda x: np.clip(x, 0.0, 6.0), lambda x, y: 1.0 * ((x > 0) & (x < 6)), real, away_from(0.0, 6.0)),
    ("soft_threshold", lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), lambda x, y: 1.0 * (np.abs(x) > 0.5), real,
     away_from(-0.5, 0.5)),
    ("absolute_untold", np.abs, lambda x, y: np.sign(x), real, away_from(0.0)),
    ("constant", lambda x: 0.0 * x + 3.0, lambda x, y: np.zeros_like(x), real, None),
    ("identity", lambda x: x * 1.0, lambda x, y: np.ones_like(x), real, None),
    ("degrees", np.rad2deg, lambda x, y: np.full_like(x, 180 / np.pi), real, None),
    ("selu", lambda x: np.where(x > 0, x, 1.67 * np.expm1(np.minimum(x, 0))),
     lambda x, y: np.where(x > 0, 1.0, 1.67 * np.exp(np.minimum(x, 0))), real, away_from(0.0)),
    ("huber_slope", lambda x: np.where(np.abs(x) < 1, x * x / 2, np.abs(x) - 0.5), lambda x, y: np.clip(x, -1, 1), real,
     away_from(-1.0, 1.0)),
    ("step_at_half", lambda x: 1.0 * (x > 0.5), lambda x, y: np.zeros_like(x), real, away_from(0.5)),
    ("guarded_log", lambda x: np.log(np.maximum(x, 1e-3)), lambda x, y: (x > 1e-3) / np.maximum(x, 1e-3), real, positive),
]  # fmt: skip

for _name, _f, _slope, _told, _drawn in UNARY:
    unary(_name, _f, _slope, "plain", domain=_told, generic=_drawn)


def _weight(a, b):
    """1 where a is the larger, half at a tie."""
    return (a > b) + 0.5 * (a == b)


BINARY = [
    ("subtract", np.subtract, lambda a, b, y: (np.ones_like(y), -np.ones_like(y)), (), ()),
    ("divide_told", np.divide, lambda a, b, y: (1 / b, -y / b), (real, above(0.2)), ()),
    ("power_positive", np.power, lambda a, b, y: (b * np.power(a, b - 1), y * np.log(a)), POSITIVE_PAIR, ()),
    ("squared_distance", lambda a, b: (a - b) ** 2, lambda a, b, y: (2 * (a - b), 2 * (b - a)), (), ()),
    ("absolute_distance", lambda a, b: np.abs(a - b), lambda a, b, y: (np.sign(a - b), np.sign(b - a)), (), (interval(2, 3), real)),
    ("fmax", np.fmax, lambda a, b, y: (_weight(a, b), _weight(b, a)), (), (interval(2, 3), interval(0, 1))),
    ("fmin", np.fmin, lambda a, b, y: (_weight(b, a), _weight(a, b)), (), (interval(2, 3), interval(0, 1))),
    ("heaviside_product", lambda a, b: a * (b > 0), lambda a, b, y: (1.0 * (b > 0) + 0 * a, 0.0 * a * b), (), (real, away_from(0.0))),
    ("x_log_y", lambda a, b: a * np.log(b), lambda a, b, y: (np.log(b) + 0 * a, a / b), (real, positive), ()),
    ("copysign", np.copysign, lambda a, b, y: (np.sign(a) * np.sign(b), 0.0 * y), (), (above(0.2), above(0.2))),
    ("log_ratio", lambda a, b: np.log(a / b), lambda a, b, y: (1 / a + 0 * b, -1 / b + 0 * a), (interval(1e-3, 1e3),) * 2, ()),
    ("sine_of_sum", lambda a, b: np.sin(a + b), lambda a, b, y: (np.cos(a + b),) * 2, (), ()),
    ("weighted", lambda a, b: 3 * a - 0.5 * b, lambda a, b, y: (3.0 + 0 * y, -0.5 + 0 * y), (), ()),
    ("product_of_sines", lambda a, b: np.sin(a) * np.sin(b), lambda a, b, y: (np.cos(a) * np.sin(b), np.sin(a) * np.cos(b)), (), ()),
    ("beta_log", special.betaln, lambda a, b, y: (special.digamma(a) - special.digamma(a + b), special.digamma(b) - special.digamma(a + b)),
     (interval(0.1, 50.0),) * 2, ()),
]  # fmt: skip

for _name, _f, _slopes, _told, _drawn in BINARY:
    binary(_name, _f, _slopes, "plain", domains=_told, generic=_drawn)
