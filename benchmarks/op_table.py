"""A table of functions to be tested: what each takes, and the same function in NumPy where one is at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from scipy import special

Function = Callable[..., Any]
Shapes = dict[str, tuple[int, ...]]

UNIT, OPEN_UNIT, POSITIVE, ABOVE_ONE = (-1.0, 1.0), (0.0, 1.0), (0.0, None), (1.0, None)


@dataclass(frozen=True)
class Entry:
    """One function under test.

    f          the framework's function, of its own arrays
    signature  what it takes, in the notation of the gradient tester
    reference  the same function in NumPy and scipy.special, which the arbiter evaluates in high precision
    options    further arguments of check_gradient: domain, kwargs
    """

    name: str
    group: str
    f: Function
    signature: Any
    reference: Function | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Table:
    """Entries in the order in which they are added. `references` has the functions in NumPy by name, where they are not given beside."""

    references: Mapping[str, Function] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def add(self, group: str, signature: Any, functions: Mapping[str, Any], *, domain: Any = None, kwargs: Any = None) -> None:
        """Functions that take the same; for each name a function, or a pair of it and its reference."""
        options = {k: v for k, v in (("domain", domain), ("kwargs", kwargs)) if v is not None}
        for name, f in functions.items():
            f, reference = f if isinstance(f, tuple) else (f, self.references.get(name))
            self.entries.append(Entry(name, group, f, signature, reference, options))


def one_axis(shapes: Shapes) -> Any:
    """Any one axis of the first argument, counted from either end."""
    rank = len(next(iter(shapes.values())))
    return st.integers(-rank, rank - 1)


def some_axes(shapes: Shapes) -> Any:
    """One or more axes of the first argument."""
    rank = len(next(iter(shapes.values())))
    return st.lists(st.integers(0, rank - 1), min_size=1, unique=True).map(tuple)


# The same functions in NumPy, where it has no name for them.


def softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


def gelu(x: Any) -> Any:
    return x * special.ndtr(x)


def gelu_tanh(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def selu(x: Any) -> Any:
    return SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0)))


def softmax(x: Any, axis: int = -1) -> Any:
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def log_softmax(x: Any, axis: int = -1) -> Any:
    return x - logsumexp(x, axis=axis, keepdims=True)


def logsumexp(x: Any, axis: Any = -1, keepdims: bool = False) -> Any:
    top = np.max(x, axis=axis, keepdims=True)
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else np.sum(total, axis=axis)


UNARY: dict[str, tuple[Function, Any]] = {
    "abs": (np.abs, None), "acos": (np.arccos, UNIT), "acosh": (np.arccosh, ABOVE_ONE), "asin": (np.arcsin, UNIT),
    "asinh": (np.arcsinh, None), "atan": (np.arctan, None), "atanh": (np.arctanh, UNIT), "ceil": (np.ceil, None),
    "cos": (np.cos, None), "cosh": (np.cosh, None), "deg2rad": (np.deg2rad, None), "digamma": (special.psi, (1e-4, 1e4)),
    "erf": (special.erf, None), "erfc": (special.erfc, None), "erfinv": (special.erfinv, (-0.999, 0.999)), "exp": (np.exp, None),
    "exp2": (np.exp2, None), "expm1": (np.expm1, None), "floor": (np.floor, None), "lgamma": (special.gammaln, (1e-4, 1e4)),
    "log": (np.log, POSITIVE), "log10": (np.log10, POSITIVE), "log1p": (np.log1p, (-1.0, None)), "log2": (np.log2, POSITIVE),
    "logit": (special.logit, OPEN_UNIT), "negative": (np.negative, None), "rad2deg": (np.rad2deg, None),
    "reciprocal": (np.reciprocal, None), "round": (np.rint, None), "rsqrt": (lambda x: 1 / np.sqrt(x), POSITIVE),
    "sigmoid": (special.expit, None), "sign": (np.sign, None), "sin": (np.sin, None), "sinc": (np.sinc, None),
    "sinh": (np.sinh, None), "sqrt": (np.sqrt, POSITIVE), "square": (np.square, None), "tan": (np.tan, None),
    "tanh": (np.tanh, None), "trunc": (np.trunc, None), "nan_to_num": (np.nan_to_num, None), "cbrt": (np.cbrt, None),
    "i0": (special.i0, (-700.0, 700.0)), "i0e": (special.i0e, (-1e4, 1e4)), "i1": (special.i1, (-700.0, 700.0)),
    "i1e": (special.i1e, (-1e4, 1e4)),
    "entr": (special.entr, POSITIVE), "ndtr": (special.ndtr, None), "log_ndtr": (special.log_ndtr, None), "erfcx": (special.erfcx, None),
}  # fmt: skip
"""By PyTorch's names: the function in NumPy or SciPy, and where it is defined."""

BINARY: dict[str, Function] = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide, "maximum": np.maximum, "minimum": np.minimum,
    "fmax": np.fmax, "fmin": np.fmin, "fmod": np.fmod, "remainder": np.remainder, "hypot": np.hypot, "logaddexp": np.logaddexp,
    "logaddexp2": np.logaddexp2, "arctan2": np.arctan2, "copysign": np.copysign,
}  # fmt: skip
