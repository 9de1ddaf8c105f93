"""Powers, products and angles: arithmetic in which a formula was taken for the derivative everywhere."""

from __future__ import annotations

import mpmath as mp
import numpy as np

from engine.domain import Domain, above, positive
from mutants.record import binary, binary_rule, call, fitted, right

NON_NEGATIVE = Domain(low=0.0, draw_low=0.2, draw_high=3.0)


def _power_slopes(x, n, y):
    """The slope in n of 0**n is 0 for n > 0, and there is none at 0**0 (not judged)."""
    flat = n == 0
    down = np.where(flat, 0.0, n * np.power(x, np.where(flat, 1.0, n - 1)))
    zero = (x == 0) & (n >= 0)
    return down, np.where(zero, 0.0, y * np.log(np.where(zero, 1.0, x)))


power = binary("power", np.power, _power_slopes, "arithmetic", generic=[positive])


@power.mutant(
    "0 to the power 0",
    source="pytorch#8940, HIPS#116, mlx#505, stan-dev/math#3031",
    fault="n x^(n-1) is 0 * inf at 0^0, where the function is the constant 1",
    kills="finite",
    at=call([0.0], [0.0], g=np.array([1.0])),
    truth=lambda x, n: (0.0, None),
)
@binary_rule
def _(x, n, y):
    return n * np.power(x, n - 1), _power_slopes(x, n, y)[1]


@right("... -> ...", options={"n": [0, 1, 2, 3]})
def integer_power(x, *, n):
    return x**n


@integer_power.vjp
def _(g, args, y, *, n):
    (x,) = args
    return (g * (n * x ** (n - 1)) if n else 0.0 * g,)


@integer_power.mutant(
    "exponent 0 passes the cotangent",
    source="jax@0a89fc83cb",
    fault="the special case for exponent 0 is the one for exponent 1",
    kills="value",
    at=call([2.0], n=0),
)
def _(g, args, y, *, n):
    (x,) = args
    return (g * (n * x ** (n - 1)) if n > 1 else g * 1.0,)


@integer_power.mutant(
    "division by x",
    source="derived from pytorch#8940",
    fault="n y / x, which is 0 / 0 at 0",
    kills="finite",
    at=call([0.0], n=2),
)
def _(g, args, y, *, n):
    (x,) = args
    return (g * (n * y / x),)


def _with_exponents(pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    return [pick.array(*shape), pick.integers(*shape[1:], high=4)], {}


@right(draw=_with_exponents)
def power_of_integers(x, n):
    return x**n


@power_of_integers.vjp
def _(g, args, y):
    x, n = args
    return (fitted(g * (n * x ** np.maximum(n - 1, 0)), x),)


@power_of_integers.mutant(
    "exponent 0 counted as 1",
    source="jax@6fe573147e (#17995)",
    fault="the guard against x^-1 replaces the factor n too",
    kills="value",
    at=call([2.0, 2.0], np.arange(2)),
)
def _(g, args, y):
    x, n = args
    n = np.where(n == 0, 1, n)
    return (fitted(g * n * x ** (n - 1), x),)


def _with_shifts(pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    return [pick.array(*shape), pick.integers(*shape[1:], low=-3, high=4)], {}


@right(draw=_with_shifts)
def ldexp(x, e):
    return np.ldexp(x, e)


@ldexp.vjp
def _(g, args, y):
    x, e = args
    return (fitted(np.ldexp(g, e), x),)


@ldexp.mutant(
    "integer power of two",
    source="pytorch#187460",
    fault="2^e is computed in integers, so it is 0 for a negative e",
    kills="value",
    at=call([1.0], np.array([-1])),
)
def _(g, args, y):
    x, e = args
    return (fitted(g * np.where(e < 0, 0, 1 << np.abs(e)), x),)


@ldexp.mutant(
    "y / x",
    source="tensorflow#127244",
    fault="the scale is found as y / x, which a zero mantissa does not tell",
    kills="finite",
    at=call([0.0], np.array([1])),
)
def _(g, args, y):
    x, _e = args
    return (fitted(g * (y / x), x),)


def _share(x, y):
    """e^x / (e^x + e^y)."""
    d = np.where(x == y, 0.0, x - y)
    e = np.exp(-np.abs(d))
    return np.where(d >= 0, 1.0, e) / (1 + e)


logaddexp = binary("logaddexp", np.logaddexp, lambda a, b, y: (_share(a, b), _share(b, a)), "arithmetic")


@logaddexp.mutant(
    "1 at equal values",
    source="tensorflow#127232",
    fault="where the two are equal each gets the whole cotangent",
    kills="value",
    at=call([1.0], [1.0]),
)
@binary_rule
def _(a, b, y):
    return np.where(a == b, 1.0, _share(a, b)), np.where(a == b, 1.0, _share(b, a))


def _share2(x, y):
    return _share(x * np.log(2), y * np.log(2))


logaddexp2 = binary("logaddexp2", np.logaddexp2, lambda a, b, y: (_share2(a, b), _share2(b, a)), "arithmetic")


@logaddexp2.mutant(
    "natural base",
    source="MyGrad@47a654b4",
    fault="the weights are those of logaddexp",
    kills="value",
    at=call([1.0], [0.5]),
)
@binary_rule
def _(a, b, y):
    return _share(a, b), _share(b, a)


# fmod jumps where a / b is whole: the validation draws a / b between the whole numbers


def _off_the_jumps(pick):
    shape = (pick.size(0, 3), pick.size(1, 3))
    b = pick.choice([-1.0, 1.0]) * pick.array(*shape, domain=above(0.5))
    return [(pick.integers(*shape, low=-3, high=4) + 0.5 + pick.array(*shape) / 5) * b, b], {}


@right("..., ... -> ...", domain={"b": Domain(kinks=(0.0,))})
def fmod(a, b):
    return np.fmod(a, b)


fmod.sample = _off_the_jumps


@fmod.vjp
@binary_rule
def _(a, b, y):
    return np.ones_like(y), -np.trunc(a / b)


@fmod.mutant(
    "floor for trunc",
    source="jax@daf6e3b065",
    fault="the rule is that of the remainder with the sign of the divisor",
    kills="value",
    at=call([-3.5], [2.0]),
)
@binary_rule
def _(a, b, y):
    return np.ones_like(y), -np.floor(a / b)


@right("..., ... -> ...", domain={"b": Domain(kinks=(0.0,))})
def remainder(a, b):
    return np.remainder(a, b)


remainder.sample = _off_the_jumps


@remainder.vjp
@binary_rule
def _(a, b, y):
    return np.ones_like(y), -np.floor(a / b)


@remainder.mutant(
    "trunc for floor",
    source="jax@daf6e3b065, mirrored",
    fault="the rule is that of fmod",
    kills="value",
    at=call([-3.5], [2.0]),
)
@binary_rule
def _(a, b, y):
    return np.ones_like(y), -np.trunc(a / b)


def _angle_slopes(a, b, y):
    """b / r^2 and -a / r^2, without squaring what would overflow or underflow."""
    r = np.hypot(a, b)
    return b / r / r, -a / r / r


AWAY = Domain(kinks=(0.0,), draw_low=0.3, draw_high=2.0)
arctan2 = binary("arctan2", np.arctan2, _angle_slopes, "arithmetic", generic=[AWAY, AWAY])


@arctan2.mutant(
    "the pull is the push",
    source="mlx#2453",
    fault="both arguments get the sum that forward mode makes of their tangents",
    kills="value",
    at=call([0.5], [2.0]),
)
@binary_rule
def _(a, b, y):
    both = (b - a) / (a * a + b * b)
    return both, both


@arctan2.mutant(
    "sign of the second argument",
    source="derived from mlx#2453",
    fault="-a is a",
    kills="value",
    at=call([0.5], [2.0]),
)
@binary_rule
def _(a, b, y):
    return b / (a * a + b * b), a / (a * a + b * b)


hypot = binary(
    "hypot", np.hypot, lambda a, b, y: (a / np.where(y == 0, 1, y), b / np.where(y == 0, 1, y)), "arithmetic", generic=[AWAY, AWAY]
)


@hypot.mutant(
    "0 / 0 at the origin",
    source="derived from jax#6636 and autograd@2df6a84",
    fault="a / y has no guard: the gradient at the tip of the cone is nan, where every slope lies in [-1, 1]",
    kills="finite",
    at=call([0.0], [0.0]),
)
@binary_rule
def _(a, b, y):
    return a / y, b / y


divide = binary("divide", np.divide, lambda a, b, y: (1 / b, -y / b), "arithmetic", generic=[AWAY, AWAY])


@divide.mutant(
    "quotient inverted",
    source="generic: operands swapped",
    fault="the second slope is -b / a^2",
    kills="value",
    at=call([0.5], [2.0]),
)
@binary_rule
def _(a, b, y):
    return 1 / b, -b / (a * a)


@right("... -> ...")
def nan_to_num(x):
    return np.nan_to_num(x)


@nan_to_num.vjp
def _(g, args, y):
    (x,) = args
    return (np.where(np.isfinite(x), g, 0.0),)


@nan_to_num.mutant(
    "no gradient",
    source="autograd@afea209",
    fault="the mask is inverted: only what was replaced gets a gradient",
    kills="value",
    at=call([2.0]),
)
def _(g, args, y):
    (x,) = args
    return (np.where(np.isfinite(x), 0.0, g),)


def sinc_slope(x):
    r"""d/dx sin(pi x) / (pi x), by its series where the closed form cancels."""
    p = np.pi * np.asarray(x)
    q = p * p
    near = np.abs(p) < 0.8
    series = sum((-1) ** k * 2 * k / float(mp.factorial(2 * k + 1)) * np.where(near, q, 0.0) ** (k - 1) for k in range(1, 10))
    safe = np.where(near, 1.0, p)
    return np.pi * np.where(near, p * series, (np.cos(safe) - np.sin(safe) / safe) / safe)


def sinc_forward(x):
    p = np.pi * x
    small = np.abs(p) < 1e-4
    safe = np.where(small, 1.0, p)
    return np.where(small, 1 - p * p / 6, np.sin(safe) / safe)


@right("... -> ...")
def sinc(x):
    return sinc_forward(x)


@sinc.vjp
def _(g, args, y):
    (x,) = args
    return (g * sinc_slope(x),)


@sinc.mutant(
    "cancellation near 0",
    source="report, section 4.4: sinc cancellation",
    fault="cos u / x - sin u / (u x) loses all digits as x goes to 0, and is nan at 0",
    kills="relative",
    at=call([1e-9]),
    truth=lambda x: (-(mp.pi**2) * mp.mpf(float(x[0])) / 3,),
)
def _(g, args, y):
    (x,) = args
    p = np.pi * x
    return (g * (np.cos(p) / x - np.sin(p) / (p * x)),)
