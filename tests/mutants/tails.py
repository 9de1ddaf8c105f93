"""Formulas that are right on paper and have no digit right where a value has rounded to its limit, or overflows on the way."""

from __future__ import annotations

import mpmath as mp
import numpy as np

from engine.domain import Domain
from mutants.record import binary, binary_rule, call, right, unary, unary_rule


def one(x):
    return mp.mpf(float(np.asarray(x).ravel()[0]))


def logistic(x):
    """1 / (1 + e^-x); analytic, and never overflows."""
    e = np.exp(-_size(x))
    return np.where(np.real(x) > 0, 1.0, e) / (1 + e)


sigmoid = unary("sigmoid", logistic, lambda x, y: logistic(x) * logistic(-x), "tails")


@sigmoid.mutant(
    "y (1 - y)",
    source="pytorch#195527, jax#40342",
    fault="1 - y is 0 as soon as y has rounded to 1",
    kills="relative",
    at=call([37.5]),
    truth=lambda x: (mp.exp(-one(x)) / (1 + mp.exp(-one(x))) ** 2,),
)
@unary_rule
def _(x, y):
    return y * (1 - y)


def _sech2(x):
    e = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


tanh = unary("tanh", np.tanh, lambda x, y: _sech2(x), "tails")


@tanh.mutant(
    "1 - y^2",
    source="tensorflow#126524, jax#40343",
    fault="y rounds to 1 from 19 on, and the slope to 0",
    kills="relative",
    at=call([20.0]),
    truth=lambda x: (mp.sech(one(x)) ** 2,),
)
@unary_rule
def _(x, y):
    return 1 - y * y


expm1 = unary("expm1", np.expm1, lambda x, y: np.exp(x), "tails")


@expm1.mutant(
    "y + 1",
    source="report, section 4.4: expm1 tail; jax@893b483e3f",
    fault="y rounds to -1 below -37, and the slope to 0",
    kills="relative",
    at=call([-40.0]),
    truth=lambda x: (mp.exp(one(x)),),
)
@unary_rule
def _(x, y):
    return y + 1


def _size(x):
    """|x| by its real part: analytic on either side."""
    return np.where(np.real(x) > 0, x, -x)


def _softplus(x):
    return np.where(np.real(x) > 0, x, 0.0) + np.log1p(np.exp(-_size(x)))


softplus = unary("softplus", _softplus, lambda x, y: logistic(x), "tails")


@softplus.mutant(
    "1 - e^-y",
    source="derived from pytorch#195527",
    fault="the slope is found from the result, and cancels where the result is small",
    kills="relative",
    at=call([-40.0]),
    truth=lambda x: (1 / (1 + mp.exp(-one(x))),),
)
@unary_rule
def _(x, y):
    return 1 - np.exp(-y)


logsigmoid = unary("logsigmoid", lambda x: -_softplus(-x), lambda x, y: logistic(-x), "tails")


@logsigmoid.mutant(
    "1 - sigmoid",
    source="derived from pytorch#195527",
    fault="1 - sigmoid(x) is 0 from 37 on",
    kills="relative",
    at=call([40.0]),
    truth=lambda x: (1 / (1 + mp.exp(one(x))),),
)
@unary_rule
def _(x, y):
    return 1 - logistic(x)


NON_NEGATIVE = Domain(low=0.0, draw_low=0.1, draw_high=3.0)
sqrt = unary("sqrt", np.sqrt, lambda x, y: 0.5 / y, "tails", generic=NON_NEGATIVE)


@sqrt.mutant(
    "0.5 / x * y",
    source="jax#39799, tensorflow#124836",
    fault="1 / x overflows for a subnormal x whose root is an ordinary number",
    kills="relative",
    at=call([5e-324]),
    truth=lambda x: (mp.mpf(1) / 2 / mp.sqrt(one(x)),),
)
@unary_rule
def _(x, y):
    return 0.5 / x * y


exp2 = unary("exp2", np.exp2, lambda x, y: y * np.log(2), "tails")


@exp2.mutant(
    "overflow before needed",
    source="tensorflow#126627, jax#40382",
    fault="2^(x+1) is inf where 2^x ln 2 is not",
    kills="finite",
    at=call([1023.5]),
    truth=lambda x: (mp.mpf(2) ** one(x) * mp.log(2),),
)
@unary_rule
def _(x, y):
    return np.exp2(x + 1) * (np.log(2) / 2)


cosh = unary("cosh", np.cosh, lambda x, y: np.sinh(x), "tails")


@cosh.mutant(
    "half the difference",
    source="derived from jax#40382",
    fault="e^x overflows before sinh x does",
    kills="finite",
    at=call([710.0]),
    truth=lambda x: (mp.sinh(one(x)),),
)
@unary_rule
def _(x, y):
    return (np.exp(x) - np.exp(-x)) / 2


@cosh.mutant(
    "cancellation at 0",
    source="derived from the report, section 4.4",
    fault="e^x - e^-x is 0 for |x| below one rounding of 1",
    kills="relative",
    at=call([1e-17]),
    truth=lambda x: (mp.sinh(one(x)),),
)
@unary_rule
def _(x, y):
    return np.where(np.abs(x) < 700, (np.exp(x) - np.exp(-x)) / 2, np.sinh(x))


log1p = unary("log1p", np.log1p, lambda x, y: 1 / (1 + x), "tails", generic=Domain(low=-1.0, draw_low=-0.8, draw_high=3.0))


@log1p.mutant(
    "e^-y computed as 1 - expm1",
    source="derived from report, section 0, fact 7",
    fault="1 - (1 - e^-y) is 0 for large y",
    kills="relative",
    at=call([1e17]),
    truth=lambda x: (1 / (1 + one(x)),),
)
@unary_rule
def _(x, y):
    return 1 + np.expm1(-y)


square = unary("square", np.square, lambda x, y: 2 * x, "tails")


@square.mutant(
    "nothing below 1e-6",
    source="report, section 2.1: an all-zero gradient passes at inputs of 1e-6",
    fault="small values are taken for 0",
    kills="relative",
    at=call([5e-7]),
)
@unary_rule
def _(x, y):
    return np.where(np.abs(x) < 1e-6, 0.0, 2 * x)


@square.mutant(
    "a rounded number",
    source="report, section 2.1: a constant error below 1e-5 passes",
    fault="the slope is off by 3e-6",
    kills="relative",
    at=call([0.25]),
)
@unary_rule
def _(x, y):
    return 2 * x + 3e-6


def _loss(z, t):
    return np.where(np.real(z) > 0, z, 0.0) - z * t + np.log1p(np.exp(-_size(z)))


def _loss_slopes(z, t, y):
    """sigmoid(z) - t = (1 - t) sigmoid(z) - t sigmoid(-z), which does not cancel."""
    return (1 - t) * logistic(z) - t * logistic(-z), -z


PROBABILITY = Domain(low=0.0, high=1.0, draw_low=0.1, draw_high=0.9)
binary_cross_entropy = binary("binary_cross_entropy", _loss, _loss_slopes, "tails", domains=[Domain(), PROBABILITY])


@binary_cross_entropy.mutant(
    "sigmoid - t",
    source="pytorch#195677",
    fault="1 - 1 is 0 where a confident right answer still has a slope of -e^-z",
    kills="relative",
    at=call([37.5], [1.0], g=np.array([1.0])),
    truth=lambda z, t: (-1 / (1 + mp.exp(one(z))), -one(z)),
)
@binary_rule
def _(z, t, y):
    return logistic(z) - t, -z


def _softmax(x):
    e = np.exp(x - np.max(np.real(x), axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@right("... n -> ... n")
def softmax(x):
    return _softmax(x) if x.shape[-1] else x * 1.0


@softmax.vjp
def _(g, args, y):
    """g_i - <y, g> = sum_j y_j (g_i - g_j): nothing cancels but what the weights say."""
    apart = g[..., :, None] - g[..., None, :]
    return (y * np.sum(y[..., None, :] * apart, axis=-1),)


@softmax.mutant(
    "1 - y on the diagonal",
    source="tensorflow#126633",
    fault="the diagonal of the Jacobian is y (1 - y), which is 0 for the winner of logits 37.4 apart: the rows do not sum to 0",
    kills="relative",
    at=call([37.4, 0.0], g=np.array([1.0, 0.0])),
    truth=lambda x: (_two_logits(x),),
)
def _(g, args, y):
    n = y.shape[-1]
    jacobian = np.eye(n) * (y * (1 - y))[..., None] - (1 - np.eye(n)) * y[..., :, None] * y[..., None, :]
    return (np.sum(jacobian * g[..., :, None], axis=-2),)


def _two_logits(x):
    """The gradient of the first of two probabilities."""
    e = mp.exp(mp.mpf(float(x[1])) - mp.mpf(float(x[0])))
    s = e / (1 + e) ** 2
    return [s, -s]


# The modified Bessel functions by their series, so that the forward takes complex and extended numbers.

MILD = Domain(low=-4.0, high=4.0, draw_low=-2.0, draw_high=2.0)


def bessel_i0(x):
    q, term, total = x * x / 4, 1.0, 1.0
    for k in range(1, 30):
        term = term * q / (k * k)
        total = total + term
    return total + 0 * x


def bessel_i1(x):
    """x/2 sum_k q^k / (k! (k+1)!)."""
    q, term, total = x * x / 4, 1.0, 1.0
    for k in range(1, 30):
        term = term * q / (k * (k + 1))
        total = total + term
    return x / 2 * total


def bessel_i1_slope(x):
    """1/2 sum_k (2k+1) q^k / (k! (k+1)!)."""
    q, term, total = x * x / 4, 1.0, 1.0
    for k in range(1, 30):
        term = term * q / (k * (k + 1))
        total = total + (2 * k + 1) * term
    return total / 2 + 0 * x


i0 = unary("i0", bessel_i0, lambda x, y: bessel_i1(x), "tails", domain=MILD)
i1 = unary("i1", bessel_i1, lambda x, y: bessel_i1_slope(x), "tails", domain=MILD)


@i0.mutant(
    "nan at 0",
    source="jax@a8723ecb9c",
    fault="the odd extension i1(|x|) x / |x| is 0 / 0 at 0",
    kills="finite",
    at=call([0.0]),
)
@unary_rule
def _(x, y):
    return bessel_i1(np.abs(x)) * (x / np.abs(x))


@i0.mutant(
    "zero at 1e-300",
    source="jax#39797",
    fault="the slope is found from x^2, which underflows",
    kills="relative",
    at=call([1e-300]),
    truth=lambda x: (one(x) / 2,),
)
@unary_rule
def _(x, y):
    return np.sign(x) * np.sqrt(x * x) * (bessel_i1(x) / np.where(x == 0, 1.0, x))


@i1.mutant(
    "zero slope at 0",
    source="jax#40627",
    fault="i0 - i1 / x is guarded at 0 with 0, its limit is 1/2",
    kills="value",
    at=call([0.0]),
)
@unary_rule
def _(x, y):
    return np.where(x == 0, 0.0, bessel_i0(x) - y / np.where(x == 0, 1.0, x))


def _norm(x):
    """Without overflow: the largest is taken out."""
    top = np.max(np.abs(x), axis=-1, keepdims=True, initial=0.0)
    top = np.where(top == 0, 1.0, top)
    return (top * np.sqrt(np.sum((x / top) ** 2, axis=-1, keepdims=True)))[..., 0]


@right("... n -> ...")
def euclidean_norm(x):
    return _norm(x)


@euclidean_norm.vjp
def _(g, args, y):
    (x,) = args
    top = np.where(y == 0, 1.0, y)[..., None]
    return (np.asarray(g)[..., None] * (x / top),)


@euclidean_norm.mutant(
    "squares overflow",
    source="tensorflow#124836, as for the square root",
    fault="x / sqrt(sum x^2) is 0 where the squares overflow, nan where they underflow",
    kills="relative",
    at=call([3e200, 4e200], g=np.asarray(1.0)),
    truth=lambda x: ([0.6, 0.8],),
)
def _(g, args, y):
    (x,) = args
    square = np.sum(x * x, axis=-1)
    return (np.asarray(g)[..., None] * np.where(square[..., None] == 0, 0.0, x / np.sqrt(square)[..., None]),)
