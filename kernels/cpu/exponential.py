r"""e^x and what is made of it, number by number, in instructions that LLVM turns into vectors: a call of the C library it cannot.

    x = n ln 2 + r, n whole, |r| <= ln(2) / 2     e^x = 2^n e^r     e^r = 1 + r + r^2 (1/2! + r/3! + ...)

ln 2 is taken in two parts, of which the first has so few digits that n times it is exact (Cody & Waite (1980), Software manual for the
elementary functions, ch. 6). The series ends where it is below a quarter of a unit in the last place. Infinities, nan, overflow and
the numbers below the smallest normal one are as in the C library. Errors in units in the last place, as `tests/test_exponential.py`
has them: exp 1.5, expm1 2.5, sigmoid 2.5, tanh 3.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

LN2 = "0.693147180559945309417232121458176568"
BITS = {"float": (23, 127), "double": (52, 1023)}  # of the fraction, and what is added to the exponent
TERMS = {"float": 8, "double": 14}  # of the series
FIRST = {"float": 0.693145751953125, "double": 0.6931471805592082}  # ln 2 in 15 and 40 bits
SECOND = {"float": 1.42860682030941723e-06, "double": 7.37100256516779890e-13}  # and the rest
LEAST = {"float": -104.0, "double": -746.0}  # below it e^x is 0
MOST = {"float": 89.0, "double": 710.0}  # above it e^x is infinite
GONE = {"float": -60.0, "double": -60.0}  # 2^n, of which nothing is left in 2^n - 1
STEEP = {"float": 9.1, "double": 19.1}  # from here on tanh is 1


class Numbers:
    """The instructions on numbers of one type, alone or as vectors."""

    def __init__(self, builder: Any, kind: Any):
        self.builder, self.kind = builder, kind
        self.element = kind.element if isinstance(kind, ir.VectorType) else kind
        self.name = str(self.element)
        self.bits, self.bias = BITS[self.name]
        whole = ir.IntType(32 if self.name == "float" else 64)
        self.whole = ir.VectorType(whole, kind.count) if isinstance(kind, ir.VectorType) else whole

    def constant(self, value: Any, kind: Any = None) -> Any:
        kind = kind or self.kind
        return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the machine has such an instruction."""
        return self._call("llvm.fmuladd", a, b, c)

    def _call(self, name: str, *values: Any) -> Any:
        lanes = f"v{self.kind.count}" if isinstance(self.kind, ir.VectorType) else ""
        full = f"{name}.{lanes}f{self.whole_width()}"
        run = cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(self.kind, [self.kind] * len(values)), full)
        return self.builder.call(run, values)

    def whole_width(self) -> int:
        return 32 if self.name == "float" else 64

    def at_least(self, x: Any, low: float) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", x, self.constant(low)), self.constant(low), x)

    def at_most(self, x: Any, high: float) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", x, self.constant(high)), self.constant(high), x)

    def magnitude(self, x: Any) -> Any:
        return self._call("llvm.fabs", x)

    def with_sign(self, x: Any, of: Any) -> Any:
        return self._call("llvm.copysign", x, of)

    def rounding(self) -> Any:
        """A number so large that what is added to it is rounded to whole numbers: they stand in its last bits."""
        return self.constant(1.5 * 2.0**self.bits)

    def nearest(self, x: Any, factor: float) -> Any:
        """The whole number nearest to x times a factor."""
        return self.builder.fsub(self.fused(x, self.constant(factor), self.rounding()), self.rounding())

    def power_of_two(self, n: Any) -> Any:
        """2^n for a whole n, as long as that is a normal number: n is the exponent."""
        b = self.builder
        last_bits = b.bitcast(b.fadd(n, self.rounding()), self.whole)
        exponent = b.shl(last_bits, self.constant(self.bits, self.whole))
        return b.bitcast(b.add(exponent, self.constant(self.bias << self.bits, self.whole)), self.kind)

    def reduced(self, x: Any) -> tuple[Any, Any]:
        """n and e^r - 1."""
        b = self.builder
        n = self.nearest(x, 1 / float(LN2))
        minus_n = b.fsub(self.constant(-0.0), n)
        r = self.fused(minus_n, self.constant(SECOND[self.name]), self.fused(minus_n, self.constant(FIRST[self.name]), x))
        tail = self.constant(1 / factorial(TERMS[self.name] - 1))
        for k in range(TERMS[self.name] - 2, 1, -1):
            tail = self.fused(tail, r, self.constant(1 / factorial(k)))
        return n, self.fused(b.fmul(r, r), tail, r)

    def exp(self, x: Any) -> Any:
        return self.exp_and_expm1(x)[0]

    def exp_and_expm1(self, x: Any) -> tuple[Any, Any]:
        b = self.builder
        n, q = self.reduced(self.at_most(self.at_least(x, LEAST[self.name]), MOST[self.name]))
        half = self.nearest(n, 0.5)  # in two steps: 2^n may be too small or too large for one
        e = b.fmul(b.fmul(b.fadd(q, self.constant(1.0)), self.power_of_two(half)), self.power_of_two(b.fsub(n, half)))
        return e, self._minus_one(n, q)

    def expm1(self, x: Any) -> Any:
        """For x up to 80."""
        return self._minus_one(*self.reduced(self.at_least(x, LEAST[self.name])))

    def _minus_one(self, n: Any, q: Any) -> Any:
        p = self.power_of_two(self.at_least(n, GONE[self.name]))
        return self.fused(p, q, self.builder.fsub(p, self.constant(1.0)))

    def sigmoid(self, x: Any) -> Any:
        r"""$1 / (1 + e^{-x})$, by the power that does not overflow."""
        b = self.builder
        e = self.exp(b.fsub(self.constant(-0.0), self.magnitude(x)))
        above = b.select(b.fcmp_ordered(">=", x, self.constant(0.0)), self.constant(1.0), e)
        return b.fdiv(above, b.fadd(e, self.constant(1.0)))

    def tanh(self, x: Any) -> Any:
        r"""$t / (t + 2), \; t = e^{2|x|} - 1$, with the sign of x"""
        b = self.builder
        a = self.at_most(self.magnitude(x), STEEP[self.name])
        t = self.expm1(b.fadd(a, a))
        return self.with_sign(b.fdiv(t, b.fadd(t, self.constant(2.0))), x)


def _of_one_number(name: str, plain: Any) -> Any:
    """The function of that name, for jitted code; NumPy's where nothing is compiled."""

    def function(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(Numbers(builder, values[0].type), name)(values[0])

        return x(x), code

    function.__name__ = name
    return plain if config.DISABLE_JIT else intrinsic(function)


exp = _of_one_number("exp", np.exp)
expm1 = _of_one_number("expm1", np.expm1)
tanh = _of_one_number("tanh", np.tanh)
sigmoid = _of_one_number("sigmoid", lambda x: 1 / (1 + np.exp(-x)))


def exp_and_expm1(x: Any) -> Any:
    return np.exp(x), np.expm1(x)


if not config.DISABLE_JIT:

    @intrinsic
    def exp_and_expm1(typing: Any, x: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return context.make_tuple(builder, signature.return_type, Numbers(builder, values[0].type).exp_and_expm1(values[0]))

        return types.UniTuple(x, 2)(x), code
