"""Kinks, ties and masks: what a rule does at the points that random numbers never hit."""

from __future__ import annotations

import numpy as np

from engine.domain import Domain, away_from
from mutants.record import binary, binary_rule, call, fitted, right, unary, unary_rule


def _apart(pick):
    """Two arrays that broadcast and have no equal values."""
    m, n = pick.size(0, 3), pick.size(1, 3)
    a = pick.array(m, n)
    return (a, a + pick.choice([-1.0, 1.0]) * (0.5 + np.abs(pick.array(m, n)))), {}


maximum = binary("maximum", np.maximum, lambda a, b, y: ((a > b) + 0.5 * (a == b), (b > a) + 0.5 * (a == b)), "kinks")
minimum = binary("minimum", np.minimum, lambda a, b, y: ((a < b) + 0.5 * (a == b), (b < a) + 0.5 * (a == b)), "kinks")
maximum.sample = minimum.sample = _apart


@maximum.mutant(
    "nothing at a tie",
    source="MyGrad@78eafdb5",
    fault="both comparisons are strict, so equal values get no gradient at all",
    kills="tie direction",
    at=call([1.0], [1.0]),
)
@binary_rule
def _(a, b, y):
    return 1.0 * (a > b), 1.0 * (b > a)


@maximum.mutant(
    "twice at a tie",
    source="pytorch#184572, #184574, #76522: three answers for one function",
    fault="equal values get the whole gradient each; moved together they would move y twice as fast",
    kills="tie direction",
    at=call([1.0], [1.0]),
)
@binary_rule
def _(a, b, y):
    return 1.0 * (a >= b), 1.0 * (b >= a)


@minimum.mutant(
    "nothing at a tie",
    source="MyGrad@78eafdb5",
    fault="both comparisons are strict, so equal values get no gradient at all",
    kills="tie direction",
    at=call([1.0], [1.0]),
)
@binary_rule
def _(a, b, y):
    return 1.0 * (a < b), 1.0 * (b < a)


relu = unary("relu", lambda x: np.where(np.real(x) > 0, x, 0.0), lambda x, y: 1.0 * (x > 0), "kinks", domain=away_from(0.0))


@relu.mutant(
    "outside of the hull",
    source="derived from pytorch#76522: any value from 0 to 1 can be argued for at 0, no other",
    fault="the slope at 0 is 2",
    kills="hull",
    at=call([0.0]),
)
@unary_rule
def _(x, y):
    return 1.0 * (x > 0) + 2.0 * (x == 0)


@right("... -> ...", domain={"x": away_from(-1.0, 0.5)})
def clip(x):
    return np.minimum(np.maximum(x, -1.0), 0.5)


@clip.vjp
@unary_rule
def _(x, y):
    return 1.0 * ((x >= -1) & (x <= 0.5))


@clip.mutant(
    "one bound forgotten",
    source="derived from pytorch#184574",
    fault="above the upper bound the gradient still passes",
    kills="value",
    at=call([2.0]),
)
@unary_rule
def _(x, y):
    return 1.0 * (x >= -1)


hard_sigmoid = unary(
    "hard_sigmoid",
    lambda x: np.minimum(np.maximum(x + 3.0, 0.0), 6.0) / 6,
    lambda x, y: ((x > -3) & (x < 3)) / 6.0,
    "kinks",
    domain=Domain(kinks=(-3.0, 3.0), draw_low=-6.0, draw_high=6.0),
)


@hard_sigmoid.mutant(
    "slope 1/6 on the left",
    source="pytorch#51408",
    fault="the slope of the linear part is kept below -3",
    kills="value",
    at=call([-4.0]),
)
@unary_rule
def _(x, y):
    return (x < 3) / 6.0


@right("... -> ...", options={"lam": [0.0, 0.5]}, generic={"x": away_from(-0.5, 0.0, 0.5)})
def hard_shrink(x, *, lam):
    return np.where(np.abs(x) > lam, x, 0.0 * x)


@hard_shrink.vjp
@unary_rule
def _(x, y, *, lam):
    return 1.0 * ((np.abs(x) > lam) | (lam == 0))


@hard_shrink.mutant(
    "zero at 0 with no threshold",
    source="pytorch#80803",
    fault="with lambda 0 the function is the identity, and the gradient at 0 is 0",
    kills="value",
    at=call([0.0], lam=0.0),
)
@unary_rule
def _(x, y, *, lam):
    return 1.0 * (np.abs(x) > lam)


absolute = unary("absolute", np.abs, lambda x, y: np.sign(x), "kinks", domain=away_from(0.0))


@absolute.mutant(
    "x / |x|",
    source="autograd@2df6a84 (#712)",
    fault="one of two names of the function lacks the guard, and gives nan at 0",
    kills="finite",
    at=call([0.0]),
)
@unary_rule
def _(x, y):
    return x / np.abs(x)


def _p_norm(x, p):
    top = np.max(np.abs(x), axis=-1, keepdims=True, initial=0.0)
    top = np.where(top == 0, 1.0, top)
    return (top * np.sum(np.abs(x / top) ** p, axis=-1, keepdims=True) ** (1 / p))[..., 0]


def _p_norm_slopes(x, y, p):
    scale = np.where(y == 0, 1.0, y)[..., None]
    return np.sign(x) * np.abs(x / scale) ** (p - 1)


@right("... n -> ...", options={"p": [1.5, 2.0, 3.0]}, generic={"x": away_from(0.0)})
def p_norm(x, *, p):
    return _p_norm(x, p)


@p_norm.vjp
def _(g, args, y, *, p):
    (x,) = args
    return (np.asarray(g)[..., None] * _p_norm_slopes(x, np.asarray(y), p),)


@p_norm.mutant(
    "x |x|^(p-2)",
    source="tt-metal#55585",
    fault="0 * inf at a zero entry for p below 2, where the slope is 0",
    kills="finite",
    at=call([0.0, 1.0], p=1.5),
)
def _(g, args, y, *, p):
    (x,) = args
    scale = np.where(np.asarray(y) == 0, 1.0, y)[..., None]
    return (np.asarray(g)[..., None] * x * np.abs(x) ** (p - 2) * scale ** (1 - p),)


def _two_sets(pick):
    n = pick.size(0, 3)
    return [pick.array(pick.size(0, 3), n), pick.array(pick.size(0, 3), n)], {"p": pick.choice([1.5, 2.0])}


@right(draw=_two_sets)
def cdist(a, b, *, p):
    return _p_norm(a[:, None, :] - b[None, :, :], p)


@cdist.vjp
def _(g, args, y, *, p):
    a, b = args
    back = g[..., None] * _p_norm_slopes(a[:, None, :] - b[None, :, :], y, p)
    return back.sum(axis=1), -back.sum(axis=0)


@cdist.mutant(
    "distance 0",
    source="pytorch#36493",
    fault="dist^(1-p) is inf where two points are the same, and 0 * inf is nan for all that these points touch",
    kills="finite",
    at=call([[1.0]], [[1.0]], p=1.5),
)
def _(g, args, y, *, p):
    a, b = args
    d = a[:, None, :] - b[None, :, :]
    back = g[..., None] * np.sign(d) * np.abs(d) ** (p - 1) * y[..., None] ** (1 - p)
    return back.sum(axis=1), -back.sum(axis=0)


def _elu(x):
    return np.where(np.real(x) > 0, x, np.expm1(np.where(np.real(x) > 0, 0.0, x)))


elu = unary("elu", _elu, lambda x, y: np.where(x > 0, 1.0, np.exp(np.minimum(x, 0.0))), "kinks")


@elu.mutant(
    "both branches",
    source="jax@b0805a8a31",
    fault="0 times the e^x of the branch that was not taken is 0 * inf",
    kills="finite",
    at=call([800.0]),
)
@unary_rule
def _(x, y):
    return (x > 0) + (x <= 0) * np.exp(x)


@right("... -> ...", options={"alpha": [0.5, 2.0]})
def celu(x, *, alpha):
    low = np.where(np.real(x) > 0, 0.0, x)
    return np.where(np.real(x) > 0, x, alpha * np.expm1(low / alpha))


@celu.vjp
@unary_rule
def _(x, y, *, alpha):
    return np.where(x > 0, 1.0, np.exp(np.minimum(x, 0.0) / alpha))


@celu.mutant(
    "alpha left out",
    source="pytorch#18287, #52248",
    fault="the exponent is not divided by alpha in the rule",
    kills="value",
    at=call([-1.0], alpha=0.5),
)
@unary_rule
def _(x, y, *, alpha):
    return np.where(x > 0, 1.0, np.exp(np.minimum(x, 0.0)))


def _log_above_one(x):
    above = np.real(x) > 1
    return np.where(above, np.log(np.where(above, x, 1.0)), 0.0 * x)


log_above_one = unary(
    "log_above_one", _log_above_one, lambda x, y: np.where(x > 1, 1 / np.where(x > 1, x, 1.0), 0.0), "kinks", domain=away_from(1.0)
)


@log_above_one.mutant(
    "mask times 1 / x",
    source="burn#3727, pytorch#52248",
    fault="0 times the 1 / x of the branch that was not taken is nan at 0",
    kills="finite",
    at=call([0.0]),
)
@unary_rule
def _(x, y):
    return (x > 1) * (1 / x)


def _masked(pick):
    m, n = pick.size(0, 3), pick.size(1, 3)
    return [pick.integers(m, n, high=2) == 1, pick.array(m, n), pick.array(n)], {}


@right(draw=_masked)
def where(condition, a, b):
    return np.where(condition, a, b)


@where.vjp
def _(g, args, y):
    condition, a, b = args
    return fitted(np.where(condition, g, 0.0), a), fitted(np.where(condition, 0.0, g), b)


@where.mutant(
    "the condition is not inverted",
    source="generic: operands swapped",
    fault="both arguments get the gradient of the first",
    kills="value",
    at=call(np.array([[True, False]]), [[1.0, 2.0]], [3.0, 4.0]),
)
def _(g, args, y):
    condition, a, b = args
    return fitted(np.where(condition, g, 0.0), a), fitted(np.where(condition, g, 0.0), b)


@right("m n -> m")
def row_max(x):
    return np.max(x, axis=1, initial=-np.inf)


def _no_ties(pick):
    m, n = pick.size(0, 3), pick.size(1, 4)
    x = np.arange(m * n) + 0.3 * pick.array(m * n)
    return (pick.rng.permutation(x).reshape(m, n),), {}


row_max.sample = _no_ties


def _winners(x, y):
    won = 1.0 * (x == y[:, None])
    return won, np.maximum(won.sum(axis=1, keepdims=True), 1.0)


@row_max.vjp
def _(g, args, y):
    (x,) = args
    won, count = _winners(x, y)
    return (g[:, None] * won / count,)


@row_max.mutant(
    "every winner gets all",
    source="derived from pytorch#184572 and tinygrad#12296",
    fault="equal largest values are not divided by their count",
    kills="tie direction",
    at=call([[2.0, 2.0]]),
)
def _(g, args, y):
    (x,) = args
    return (g[:, None] * _winners(x, y)[0],)


@row_max.mutant(
    "nothing where two are largest",
    source="derived from MyGrad@78eafdb5",
    fault="the gradient goes to an only winner and is lost at a tie",
    kills="tie direction",
    at=call([[2.0, 2.0]]),
)
def _(g, args, y):
    (x,) = args
    won, count = _winners(x, y)
    return (g[:, None] * won * (count == 1),)


signed_square = unary("signed_square", lambda x: x * np.abs(x), lambda x, y: 2 * np.abs(x), "kinks")


@signed_square.mutant(
    "2 x",
    source="written against the tester",
    fault="the rule of x squared; a complex step through np.abs is wrong too, and must not excuse it",
    kills="value",
    at=call([-2.0]),
)
@unary_rule
def _(x, y):
    return 2 * x
