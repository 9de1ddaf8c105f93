"""Derivatives of derivatives, and modes that disagree: functions of engine ops, some with a faulty rule inside."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from engine import jvp, ops
from engine.domain import Domain
from engine.op import op
from engine.traced import NUMPY, OPS, primal
from mutants.record import Right, call, right


@contextmanager
def off_the_record():
    """Ops that are defined inside do not stay in the registry."""
    before, stand_ins = dict(OPS), dict(NUMPY)
    yield
    for registry, kept in ((OPS, before), (NUMPY, stand_ins)):
        registry.clear()
        registry.update(kept)


def bessel_series(x, step):
    q, term, total = x * x / 4, 1.0, 1.0
    for k in range(1, 13):
        term = term * q / step(k)
        total = total + term
    return total


def i0(x):
    return bessel_series(x, lambda k: k * k)


def i1(x):
    return x / 2 * bessel_series(x, lambda k: k * (k + 1))


with off_the_record():

    @op("... -> ...")
    def quartic_cut(x):
        r"""$y = x^4$"""
        return x**4

    @quartic_cut.slope("x")
    def _(x):
        r"""4 x^3, \mathrm{\ a\ constant\ to\ the\ second\ derivative}"""
        return 4 * primal(x) ** 3

    @op("... n -> ...")
    def loss_cut(z):
        r"""$y = \ln \sum_j e^{z_j} - z_1$"""
        return np.logaddexp.reduce(z, axis=-1) - z[..., 0] if z.shape[-1] else np.zeros(z.shape[:-1], z.dtype)

    def _probabilities_less_one(z):
        z = primal(z)
        e = np.exp(z - np.max(z, axis=-1, keepdims=True, initial=-np.inf))
        return (e / e.sum(axis=-1, keepdims=True) - (np.arange(z.shape[-1]) == 0)).astype(z.dtype)

    @loss_cut.vjp("z")
    def _(g, z):
        r"""\bar y (p - e_1), \mathrm{\ with\ p\ computed\ outside\ of\ the\ ops}"""
        return ops.expand_dims(g, axis=-1) * _probabilities_less_one(z)

    @loss_cut.jvp("z")
    def _(d, z):
        r"""\langle p - e_1, \dot z \rangle"""
        return ops.sum(_probabilities_less_one(z) * d, axis=-1)

    @op("..., ... -> ...")
    def logit_gradient(gy, z):
        r"""$\bar z = \bar y (\sigma(z) - 1/4)$"""
        return gy * (1 / (1 + np.exp(-z)) - 0.25)

    @logit_gradient.vjp("gy")
    def _(g, z):
        r"""right"""
        return g * (ops.sigmoid(z) - 0.25)

    @logit_gradient.vjp("z")
    def _(g, gy, z):
        r"""right"""
        return g * gy * ops.sigmoid(z) * ops.sigmoid(-z)

    @logit_gradient.jvp("gy")
    def _(d, z):
        r"""right"""
        return d * (ops.sigmoid(z) - 0.25)

    @logit_gradient.jvp("z")
    def _(d, gy, z):
        r"""\sigma \mathrm{\ for\ } \sigma (1 - \sigma)"""
        return d * gy * ops.sigmoid(z)

    @op("... -> ...")
    def logit_loss(z):
        r"""$y = \ln (1 + e^z) - z / 4$"""
        return np.logaddexp(0, z) - z / 4

    @logit_loss.vjp("z")
    def _(g, z):
        r"""\bar y (\sigma(z) - 1/4)"""
        return logit_gradient(g, z)

    @logit_loss.jvp("z")
    def _(d, z):
        r"""(\sigma(z) - 1/4) \dot z"""
        return d * (ops.sigmoid(z) - 0.25)

    @op("... -> ...")
    def i1_cut(x):
        r"""$y = I_1(x)$"""
        return i1(x)

    @i1_cut.slope("x")
    def _(x, y):
        r"""I_0(x) - I_1(x) / x, \mathrm{\ and\ 0\ at\ 0,\ where\ it\ is\ 1/2}"""
        zero = x == 0
        return ops.where(zero, 0.0, i0(x) - y / ops.where(zero, 1.0, x))

    @op("... -> ...")
    def i0_cut(x):
        r"""$y = I_0(x)$"""
        return i0(x) + 0 * x

    @i0_cut.slope("x")
    def _(x):
        r"""I_1(x)"""
        return i1_cut(x)

    @op("... -> ...")
    def sine_pulled_only(x):
        r"""$y = \sin x$"""
        return np.sin(x)

    @sine_pulled_only.vjp("x")
    def _(g, x):
        r"""right"""
        return g * ops.cos(x)

    @sine_pulled_only.jvp("x")
    def _(d, x):
        r"""\mathrm{the\ tangent\ of\ cos}"""
        return d * -ops.sin(x)

    @op("..., ... -> ...")
    def product_one_sided(a, b):
        r"""$y = a b$"""
        return a * b

    @product_one_sided.slope("a")
    def _(b):
        r"""b"""
        return b

    @product_one_sided.slope("b")
    def _(a):
        r"""a, \mathrm{\ a\ constant\ to\ the\ second\ derivative}"""
        return primal(a)


SECOND = {"framework": "engine", "orders": (1, 2)}


@right("... -> ...", **SECOND)
def quartic(x):
    return ops.square(ops.square(x))


@quartic.mutant_f(
    "higher derivatives vanish",
    source="pytorch#197867, AutoGrad.jl#75: x^4 twice",
    fault="the slope is computed where no derivative can see it",
    kills="second order",
    at=call([1.5]),
    order=2,
)
def _(x):
    return quartic_cut(x)


@right("... n -> ...", **SECOND)
def first_class_loss(z):
    return ops.logsumexp(z, axis=-1) - z[..., 0] if z.shape[-1] else ops.sum(z, axis=-1)


@first_class_loss.mutant_f(
    "second derivative silently 0",
    source="tensorflow#7403, #5876",
    fault="the fused loss hands back probabilities that are constants to the next derivative",
    kills="second order",
    at=call([1.0, 2.0]),
    order=2,
)
def _(z):
    return loss_cut(z)


@right("... -> ...", **SECOND)
def logistic_loss(z):
    return ops.softplus(z) - 0.25 * z


@logistic_loss.mutant_f(
    "forward over reverse",
    source="pytorch#79609",
    fault="the backward op pulls right and pushes wrong",
    kills="mode agreement, second order",
    at=call([0.5]),
    order=2,
)
def _(z):
    return logit_loss(z)


@right("... -> ...", domain={"x": Domain(low=-2.0, high=2.0)}, **SECOND)
def bessel(x):
    return i0(x) + 0 * x


@bessel.mutant_f(
    "second derivative 0 at 0",
    source="jax#40627",
    fault="the slope of the slope is guarded at 0 with 0, its limit is 1/2",
    kills="second order",
    at=call([0.0]),
    order=2,
)
def _(x):
    return i0_cut(x)


@right("..., ... -> ...", **SECOND)
def product(a, b):
    return a * b


@product.mutant_f(
    "half of the Hessian",
    source="derived from pytorch#197867",
    fault="one of the two mixed derivatives is 0, so the Hessian is not symmetric",
    kills="second order",
    at=call([1.5], [0.5]),
    order=2,
)
def _(a, b):
    return product_one_sided(a, b)


@right("... -> ...", framework="engine")
def sine_in_both_modes(x):
    return ops.sin(x)


@sine_in_both_modes.mutant_f(
    "forward mode of another function",
    source="derived from pytorch#192540 and jax#10993",
    fault="the pull is right, the push is that of the cosine",
    kills="mode agreement",
    at=call([0.5]),
)
def _(x):
    return sine_pulled_only(x)


class Dual:
    """A value and a tangent that does not know to which derivative it belongs."""

    def __init__(self, value, tangent):
        self.value, self.tangent = value, tangent

    def __add__(self, other):
        return Dual(self.value + other.value, self.tangent + other.tangent)

    def __mul__(self, other):
        return Dual(self.value * other.value, self.value * other.tangent + self.tangent * other.value)


@right("... -> ...")
def nested(x):
    """x times the derivative of x + y in y, which is 1."""
    return x * jvp(lambda y: x + y, (np.ones_like(x),), (np.ones_like(x),))[1]


@nested.vjp
def _(g, args, y):
    return (1.0 * g,)


@nested.jvp
def _(ds, args, y):
    return 1.0 * ds[0]


@nested.mutant_jvp(
    "perturbation confusion",
    source="AutoGrad.jl#75; Siskind & Pearlmutter (2005)",
    fault="the inner derivative takes the outer tangent for its own: d/dx x d/dy (x + y) comes out as 2",
    kills="mode agreement",
    at=call([3.0]),
)
def _(ds, args, y):
    u, one = Dual(args[0], ds[0]), np.ones_like(args[0])
    inner = (u + Dual(one, one)).tangent
    return (u * Dual(inner, np.zeros_like(one))).tangent


def _choices(pick):
    n = pick.size(0, 3)
    return [pick.integers(n, high=3).astype(np.uint32), pick.array(n), pick.array(n)], {}


select = Right("select", lambda pred, a, b: np.where(pred != 0, a, b), "modes", draw=_choices)


@select.vjp
def _(g, args, y):
    chosen = args[0] != 0
    return np.where(chosen, g, 0.0), np.where(chosen, 0.0, g)


@select.jvp
def _(ds, args, y):
    return np.where(args[0] != 0, *ds)


@select.mutant_jvp(
    "the predicate as a weight",
    source="jax#10993",
    fault="p da + (1 - p) db, which is right for 0 and 1 and not for 2",
    kills="mode agreement",
    at=call(np.array([2], np.uint32), [1.0], [2.0]),
)
def _(ds, args, y):
    p = args[0].astype(np.float64)
    return p * ds[0] + (1 - p) * ds[1]
