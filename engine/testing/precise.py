"""NumPy programs in high precision: arrays whose elements are mpmath numbers, which answer NumPy's own functions.

`exactly(x)` makes one from an array of floats. A function that is written in NumPy then runs on it as it stands, if it stays
within what is known here; otherwise TypeError is raised. Nothing is ever rounded to a float on the way: a number has no
`__float__`, so that code which stores it in an array of floats raises instead of losing digits.

Outside of a function's domain the value is nan, at a pole an infinity, as in floats.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import mpmath
import numpy as np
from mpmath import mp

HUGE = mpmath.mpf(2) ** 24  # exp of more than this is taken as infinite: its exponent would fill the memory

NAN, INF, ZERO, ONE = mpmath.nan, mpmath.inf, mpmath.mpf(0), mpmath.mpf(1)


def lifted(x: Any) -> Any:
    """The mpf for a number, exactly. Raises TypeError for anything else."""
    if type(x) is Number:
        return x.v
    if isinstance(x, (bool, np.bool_, int, np.integer)):
        return mpmath.mpf(int(x))
    if isinstance(x, (float, np.floating)):
        return _long(x) if isinstance(x, np.longdouble) else mpmath.mpf(float(x))
    if isinstance(x, (complex, np.complexfloating)) and x.imag == 0:
        return mpmath.mpf(float(x.real))
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return lifted(x.item())
    raise TypeError(f"{type(x).__name__} is not a real number")


def _long(x: Any) -> Any:
    head = float(x)
    return mpmath.mpf(head) + mpmath.mpf(float(x - np.longdouble(head))) if np.isfinite(x) else mpmath.mpf(head)


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


class Number:
    """One number in high precision."""

    __slots__ = ("v",)
    __array_priority__ = 100

    def __init__(self, v: Any):
        self.v = v

    def __repr__(self) -> str:
        return str(mpmath.nstr(self.v, 20))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return run(ufunc, method, inputs, kwargs)

    def __bool__(self) -> bool:
        return bool(self.v != 0)

    def __hash__(self) -> int:
        return hash(self.v)

    @property
    def real(self) -> Number:
        return self

    def conjugate(self) -> Number:
        return self


def _numeric(name: str) -> Any:
    f = FUNCTIONS[name]

    def method(*values: Any) -> Any:
        try:
            numbers = [lifted(v) for v in values]
        except TypeError:
            return NotImplemented
        return Number(safely(f, *numbers))

    return method


def _swapped(name: str) -> Any:
    method = _numeric(name)
    return lambda self, other: method(other, self)


def _compared(name: str) -> Any:
    f = TESTS[name]

    def method(self: Number, other: Any) -> Any:
        try:
            return bool(f(self.v, lifted(other)))
        except TypeError:
            return NotImplemented

    return method


for _sign, _name in {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power", "mod": "remainder",
                     "floordiv": "floor_divide"}.items():  # fmt: skip
    setattr(Number, f"__{_sign}__", _numeric(_name))
    setattr(Number, f"__r{_sign}__", _swapped(_name))
for _sign, _name in {"neg": "negative", "pos": "positive", "abs": "absolute"}.items():
    setattr(Number, f"__{_sign}__", _numeric(_name))
for _sign, _name in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal"}.items():
    setattr(Number, f"__{_sign}__", _compared(_name))
for _name in FUNCTIONS:  # NumPy calls x.exp() for each element of an array of objects
    if not hasattr(Number, _name):
        setattr(Number, _name, _numeric(_name))
for _sign, _name in {"floor": "floor", "ceil": "ceil", "trunc": "trunc"}.items():
    setattr(Number, f"__{_sign}__", _numeric(_name))
Number.rint = Number.__round__ = _numeric("rint")  # type: ignore[attr-defined]


class Precise(np.ndarray[Any, Any]):
    """An array of Numbers that stays one through NumPy's functions."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return run(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        own = ROUTINES.get(func.__name__) if func.__module__.startswith("numpy") else None
        y = (own or super().__array_function__)(*((*args,) if own else (func, types, args, kwargs)), **(kwargs if own else {}))
        return wrapped(y)

    def __getitem__(self, key: Any) -> Any:
        return wrapped(super().__getitem__(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, bare(value))

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        if np.dtype(dtype).kind in "fO":
            return self.copy()  # the function means to keep the number as it is
        raise TypeError(f"a number of high precision cannot become {np.dtype(dtype)}")

    @property  # type: ignore[misc]
    def real(self) -> Any:
        return self


@cache
def _over(name: str, test: bool) -> Any:
    f = (TESTS if test else FUNCTIONS)[name]
    if test:
        return lambda *xs: bool(f(*[lifted(x) for x in xs]))
    cost = 20.0 if name in SPECIAL else 2.0 if name in TRANSCENDENTAL else 1.0
    return lambda *xs: Number(safely(f, *[lifted(x) for x in xs], cost=cost))


def run(ufunc: Any, method: str, inputs: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A NumPy ufunc, element by element in high precision. Raises TypeError for one that is not known."""
    plain = [bare(x) for x in inputs]
    out = kwargs.pop("out", None)
    name = ufunc.__name__
    if method == "__call__" and name in PAIRS:
        return PAIRS[name](*inputs)
    known = name in TESTS or name in FUNCTIONS
    if method != "__call__" or not known:
        options = {k: bare(v) for k, v in kwargs.items()}
        if method == "reduce" and options.get("where", True) is not True:
            options.setdefault("initial", ufunc.identity)
        if known and "O->?" not in ufunc.types and "OO->O" not in ufunc.types and ufunc.nin == 2 and name in FUNCTIONS:
            ufunc = np.frompyfunc(_over(name, False), 2, 1)
        if out is not None:
            options["out"] = tuple(bare(o) for o in out)
        return wrapped(getattr(ufunc, method)(*plain, **options))
    where = kwargs.pop("where", True)
    for harmless in ("dtype", "casting", "subok", "order"):
        kwargs.pop(harmless, None)
    if kwargs:
        raise TypeError(f"{name} in high precision does not take {', '.join(kwargs)}")
    test = name in TESTS
    y = np.frompyfunc(_over(name, test), len(plain), 1)(*plain)
    y = np.asarray(y, bool if test else object)
    if out is None and where is True:
        return y if test else y.view(Precise)
    target = bare(out[0]) if out is not None else np.full(y.shape, Number(ZERO), object)
    if target.dtype != y.dtype:
        raise TypeError(f"{name}: out holds {target.dtype}, which would lose digits")
    np.copyto(target, y, where=bare(where))
    return wrapped(target)


def _divmod(a: Any, b: Any) -> Any:
    return np.floor_divide(a, b), np.remainder(a, b)


def _modf(a: Any) -> Any:
    whole = np.trunc(a)
    return a - whole, whole


PAIRS: dict[str, Callable[..., Any]] = {"divmod": _divmod, "modf": _modf}


def bare(x: Any) -> Any:
    """Without the class, so that NumPy's own loops run."""
    if isinstance(x, Precise):
        return x.view(np.ndarray)
    if type(x) is Number:
        boxed = np.empty((), object)
        boxed[()] = x
        return boxed
    return x


def wrapped(y: Any) -> Any:
    """With the class if it holds Numbers, without it if not; a lone Number becomes an array without axes."""
    if type(y) in (tuple, list):
        return type(y)(wrapped(part) for part in y)
    if type(y) is Number:
        return bare(y).view(Precise)
    if isinstance(y, np.ndarray) and y.dtype == object and not isinstance(y, Precise):
        return y.view(Precise)
    return y.view(np.ndarray) if isinstance(y, Precise) and y.dtype != object else y


def _where(condition: Any, *choices: Any) -> Any:
    condition = np.asarray(bare(condition))
    mask = condition if condition.dtype == bool else condition.astype(bool)
    if not choices:
        return np.where(mask)
    a, b = (np.asarray(bare(c), object) for c in choices)
    return np.where(mask, a, b)


def _nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    top = np.finfo(np.float64).max

    def one(v: Any) -> Number:
        v = lifted(v)
        if mpmath.isnan(v):
            return Number(mpmath.mpf(nan))
        if mpmath.isinf(v):
            return Number(lifted((top if posinf is None else posinf) if v > 0 else (-top if neginf is None else neginf)))
        return Number(v)

    return np.asarray(np.frompyfunc(one, 1, 1)(bare(x)), object)


def _sinc_routine(x: Any) -> Any:
    return np.asarray(np.frompyfunc(_over("sinc", False), 1, 1)(bare(x)), object)


def _like(value: float) -> Callable[..., Any]:
    def made(a: Any, fill: Any = value, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Any:
        y = np.empty(np.shape(a) if shape is None else shape, object)
        y[...] = Number(lifted(fill)) if np.ndim(fill) == 0 else bare(fill)
        return y

    return made


def _zeros_like(a: Any, dtype: Any = None, **options: Any) -> Any:
    if dtype is not None and np.dtype(dtype).kind not in "fO":
        return np.zeros(np.shape(a), dtype)
    return _like(0.0)(a)


def _ones_like(a: Any, dtype: Any = None, **options: Any) -> Any:
    if dtype is not None and np.dtype(dtype).kind not in "fO":
        return np.ones(np.shape(a), dtype)
    return _like(1.0)(a)


def _interp(x: Any, xp: Any, fp: Any) -> Any:
    """On the piece that x lies in; constant beyond the ends."""
    x, xp, fp = (wrapped(np.asarray(bare(v), object)) for v in (x, xp, fp))
    i = np.clip(np.searchsorted(bare(xp), bare(x)), 1, len(xp) - 1)
    inside = fp[i - 1] + (fp[i] - fp[i - 1]) / (xp[i] - xp[i - 1]) * (x - xp[i - 1])
    return np.where(x < xp[0], fp[0], np.where(x > xp[-1], fp[-1], inside))


def _solve(a: Any, b: Any) -> Any:
    """Gaussian elimination with the largest pivot, for one matrix or a stack of them."""
    a, b = (bare(exactly(bare(x))) for x in (a, b))
    if a.ndim > 2:
        b = np.broadcast_to(b, (*a.shape[:-2], *b.shape[-2:]))
        return _stacked([_solve(x, y) for x, y in zip(a, b, strict=True)], b.shape)
    return _eliminated(a, b)[1]


def _eliminated(a: Any, b: Any) -> tuple[Any, Any]:
    """The determinant of `a` and the solution of a x = b."""
    n = len(a)
    vector = b.ndim == 1
    m = np.concatenate([a, b[:, None] if vector else b], axis=1)
    det: Any = Number(ONE)
    for i in range(n):
        p = i + max(range(n - i), key=lambda r: abs(lifted(m[i + r, i])))
        if p != i:
            m[[i, p]] = m[[p, i]]
            det = -det
        det = det * m[i, i]
        if m[i, i] == 0:
            return Number(ZERO), np.full_like(m[:, n:], Number(NAN))
        m[i] = m[i] / m[i, i]
        for r in range(n):
            if r != i:
                m[r] = m[r] - m[r, i] * m[i]
    x = m[:, n:]
    return det, x[:, 0] if vector else x


def _stacked(made: list[Any], shape: tuple[int, ...]) -> Any:
    """Results for the matrices of a stack, which may be empty."""
    return np.stack([np.asarray(bare(m), object) for m in made]) if made else np.empty(shape, object)


def _inv(a: Any) -> Any:
    n = np.shape(a)[-1]
    return _solve(a, np.broadcast_to(np.eye(n), np.shape(a)))


def _det(a: Any) -> Any:
    a = np.asarray(bare(a), object)
    if a.ndim > 2:
        return _stacked([_det(x) for x in a], a.shape[:-2])
    return _eliminated(a, np.zeros((len(a), 0), object))[0]


def _slogdet(a: Any) -> Any:
    det = wrapped(_det(a))
    return np.sign(det), np.log(np.abs(det))


def _cholesky(a: Any) -> Any:
    a = np.asarray(bare(a), object)
    if a.ndim > 2:
        return _stacked([_cholesky(x) for x in a], a.shape)
    n = len(a)
    low = np.full((n, n), Number(ZERO), object)
    for i in range(n):
        for j in range(i + 1):
            rest = a[i, j]
            for k in range(j):
                rest = rest - low[i, k] * low[j, k]
            low[i, j] = Number(safely(mpmath.sqrt, lifted(rest))) if i == j else rest / low[j, j]
    return low


ROUTINES: dict[str, Callable[..., Any]] = {
    "where": _where, "nan_to_num": _nan_to_num, "sinc": _sinc_routine, "zeros_like": _zeros_like, "ones_like": _ones_like,
    "empty_like": _zeros_like, "full_like": _like(0.0), "solve": _solve, "inv": _inv, "det": _det, "slogdet": _slogdet,
    "cholesky": _cholesky, "interp": _interp,
}  # fmt: skip


def exactly(x: Any) -> Precise:
    """The numbers of `x`, none of them changed."""
    x = np.asarray(x)
    y = np.empty(x.shape, object)
    for i, v in enumerate(x.ravel()):
        y.reshape(-1)[i] = Number(lifted(v))
    return y.view(Precise)


def precision(bits: int) -> Any:
    """`with precision(bits):` what mpmath computes inside has so many binary digits."""
    return mp.workprec(bits)
