"""NumPy's and SciPy's functions of numbers, in high precision: each as NumPy has it at its edges, on mpmath's numbers."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import mpmath
from mpmath import mp

HUGE = mpmath.mpf(2) ** 24  # exp of more than this is taken as infinite: its exponent would fill the memory

NAN, INF, ZERO, ONE = mpmath.nan, mpmath.inf, mpmath.mpf(0), mpmath.mpf(1)


def real(v: Any) -> Any:
    """A complex result means: outside of the domain."""
    if isinstance(v, mpmath.mpc):
        return v.real if v.imag == 0 else NAN
    return v


class Work:
    """What the arbiter has cost: a sum of two numbers of 320 binary digits counts as 1, a power as 2, a special function as 20."""

    done = 0.0


def safely(f: Callable[..., Any], *values: Any, cost: float = 1.0) -> Any:
    """f of mpf numbers; nan where it is not defined."""
    Work.done += cost * max(1.0, (mp.prec / 640) ** 2)
    if any(mpmath.isnan(v) for v in values):
        return NAN
    try:
        return real(f(*values))
    except (ZeroDivisionError, ValueError, ArithmeticError, mpmath.libmp.ComplexResult):
        return NAN


def _divide(a: Any, b: Any) -> Any:
    if b == 0:
        return NAN if a == 0 or mpmath.isnan(a) else INF * mpmath.sign(a)
    return a / b


def _power(a: Any, b: Any) -> Any:
    if b == 0:
        return ONE
    if a == 0:
        return INF if b < 0 else ZERO
    if b == mpmath.floor(b) and abs(b) < 2**31:
        return a ** int(b)
    if a < 0:
        return NAN
    return _exp(b * mpmath.log(a))


def _exp(a: Any) -> Any:
    if a > HUGE:
        return INF
    return ZERO if a < -HUGE else mpmath.exp(a)


def _expm1(a: Any) -> Any:
    return _exp(a) - 1 if abs(a) > 1 else mpmath.expm1(a)


def _log(a: Any) -> Any:
    return NAN if a < 0 else -INF if a == 0 else mpmath.log(a)


def _log1p(a: Any) -> Any:
    return _log(1 + a) if abs(a) > 0.5 else mpmath.log1p(a)


def _tanh(a: Any) -> Any:
    if abs(a) > HUGE:
        return mpmath.sign(a)
    return mpmath.tanh(a)


def _sinh(a: Any) -> Any:
    return mpmath.sign(a) * INF if abs(a) > HUGE else mpmath.sinh(a)


def _cosh(a: Any) -> Any:
    return INF if abs(a) > HUGE else mpmath.cosh(a)


def _logaddexp(a: Any, b: Any) -> Any:
    top, low = max(a, b), min(a, b)
    return top if mpmath.isinf(top) or low == -INF else top + mpmath.log1p(_exp(low - top))


def _logaddexp2(a: Any, b: Any) -> Any:
    return _logaddexp(a * mpmath.ln2, b * mpmath.ln2) / mpmath.ln2


def _remainder(a: Any, b: Any) -> Any:
    return NAN if b == 0 or mpmath.isinf(a) else a - b * mpmath.floor(a / b)


def _fmod(a: Any, b: Any) -> Any:
    if b == 0 or mpmath.isinf(a):
        return NAN
    q = a / b
    return a - b * (mpmath.floor(q) if q >= 0 else mpmath.ceil(q))


def _floor_divide(a: Any, b: Any) -> Any:
    return NAN if b == 0 else mpmath.floor(a / b)


def _maximum(a: Any, b: Any) -> Any:
    return a if a >= b else b


def _minimum(a: Any, b: Any) -> Any:
    return a if a <= b else b


def _heaviside(a: Any, b: Any) -> Any:
    return b if a == 0 else ONE if a > 0 else ZERO


def _copysign(a: Any, b: Any) -> Any:
    return abs(a) if b >= 0 else -abs(a)


def _ldexp(a: Any, b: Any) -> Any:
    return a * mpmath.mpf(2) ** int(b)


def _round(a: Any) -> Any:
    return mpmath.nint(a)


def _trunc(a: Any) -> Any:
    return mpmath.floor(a) if a >= 0 else mpmath.ceil(a)


def _expit(a: Any) -> Any:
    return ONE / (1 + _exp(-a)) if a >= 0 else _exp(a) / (1 + _exp(a))


def _logit(a: Any) -> Any:
    return _log(_divide(a, 1 - a))


def _xlogy(a: Any, b: Any) -> Any:
    return ZERO if a == 0 else a * _log(b)


def _sinc(a: Any) -> Any:
    return ONE if a == 0 else mpmath.sin(mpmath.pi * a) / (mpmath.pi * a)


def _ndtr(a: Any) -> Any:
    return mpmath.erfc(-a / mpmath.sqrt(2)) / 2


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": _divide, "true_divide": _divide,
    "power": _power, "float_power": _power, "remainder": _remainder, "mod": _remainder, "fmod": _fmod,
    "floor_divide": _floor_divide, "negative": operator.neg, "positive": operator.pos, "absolute": abs, "fabs": abs,
    "square": lambda a: a * a, "sqrt": mpmath.sqrt, "cbrt": lambda a: mpmath.sign(a) * mpmath.cbrt(abs(a)),
    "reciprocal": lambda a: _divide(ONE, a), "exp": _exp, "exp2": lambda a: _exp(a * mpmath.ln2), "expm1": _expm1, "log": _log,
    "log2": lambda a: _log(a) / mpmath.ln2, "log10": lambda a: _log(a) / mpmath.ln10, "log1p": _log1p,
    "logaddexp": _logaddexp, "logaddexp2": _logaddexp2, "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan,
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan, "arctan2": lambda a, b: mpmath.atan2(a, b),
    "hypot": lambda a, b: mpmath.hypot(a, b), "sinh": _sinh, "cosh": _cosh, "tanh": _tanh, "arcsinh": mpmath.asinh,
    "arccosh": mpmath.acosh, "arctanh": mpmath.atanh, "deg2rad": mpmath.radians, "radians": mpmath.radians,
    "rad2deg": mpmath.degrees, "degrees": mpmath.degrees, "sign": mpmath.sign, "floor": mpmath.floor, "ceil": mpmath.ceil,
    "rint": _round, "trunc": _trunc, "maximum": _maximum, "minimum": _minimum, "fmax": _maximum, "fmin": _minimum,
    "heaviside": _heaviside, "copysign": _copysign, "ldexp": _ldexp, "conjugate": operator.pos,
    # scipy.special
    "erf": mpmath.erf, "erfc": mpmath.erfc, "erfcx": lambda a: _exp(a * a) * mpmath.erfc(a), "ndtr": _ndtr,
    "log_ndtr": lambda a: _log(_ndtr(a)), "expit": _expit, "log_expit": lambda a: -_logaddexp(ZERO, -a), "logit": _logit,
    "gamma": mpmath.gamma, "gammaln": lambda a: _log(abs(mpmath.gamma(a))) if a < 1e4 else mpmath.loggamma(a),
    "psi": mpmath.digamma, "xlogy": _xlogy, "xlog1py": lambda a, b: ZERO if a == 0 else a * _log1p(b),
    "entr": lambda a: ZERO if a == 0 else -a * _log(a), "rel_entr": lambda a, b: ZERO if a == 0 else a * _log(_divide(a, b)),
    "sinc": _sinc, "i0": lambda a: mpmath.besseli(0, a), "i1": lambda a: mpmath.besseli(1, a),
    "i0e": lambda a: mpmath.besseli(0, a) * _exp(-abs(a)), "i1e": lambda a: mpmath.besseli(1, a) * _exp(-abs(a)),
    "j0": lambda a: mpmath.besselj(0, a), "j1": lambda a: mpmath.besselj(1, a), "beta": mpmath.beta,
    "cosm1": lambda a: -2 * mpmath.sin(a / 2) ** 2, "erfinv": mpmath.erfinv, "exprel": lambda a: _divide(_expm1(a), a) if a else ONE,
}  # fmt: skip

TRANSCENDENTAL = {
    "power", "float_power", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "logaddexp2", "sin", "cos", "tan",
    "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "expit", "log_expit", "logit",
    "xlogy", "xlog1py", "entr", "rel_entr", "sinc", "cosm1", "exprel", "cbrt",
}  # fmt: skip
SPECIAL = {"erf", "erfc", "erfcx", "ndtr", "log_ndtr", "gamma", "gammaln", "psi", "i0", "i1", "i0e", "i1e", "j0", "j1", "beta", "erfinv"}

TESTS: dict[str, Callable[..., Any]] = {
    "isnan": mpmath.isnan, "isinf": mpmath.isinf, "isfinite": mpmath.isfinite, "signbit": lambda a: a < 0,
    "logical_not": lambda a: a == 0, "less": operator.lt, "less_equal": operator.le, "greater": operator.gt,
    "greater_equal": operator.ge, "equal": operator.eq, "not_equal": operator.ne,
}  # fmt: skip
