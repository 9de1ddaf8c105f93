"""NumPy programs in high precision: arrays whose elements are mpmath numbers, which answer NumPy's own functions.

`exactly(x)` makes one from an array of floats. A function that is written in NumPy then runs on it as it stands, if it stays
within what is known here; otherwise TypeError is raised. Nothing is ever rounded to a float on the way: a number has no
`__float__`, so that code which stores it in an array of floats raises instead of losing digits.

Outside of a function's domain the value is nan, at a pole an infinity, as in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import mpmath
import numpy as np
from mpmath import mp

from engine.testing.scalars import FUNCTIONS, NAN, ONE, SPECIAL, TESTS, TRANSCENDENTAL, ZERO, safely


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


def _each(name: str) -> Callable[[Any], Any]:
    """A scalar function that NumPy has as a routine, not as a ufunc."""

    def routine(x: Any) -> Any:
        return np.asarray(np.frompyfunc(_over(name, False), 1, 1)(bare(x)), object)

    return routine


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
    "where": _where, "nan_to_num": _nan_to_num, "sinc": _each("sinc"), "i0": _each("i0"),
    "zeros_like": _zeros_like, "ones_like": _ones_like,
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
