"""The ufuncs of scipy.special, by name: SciPy is not imported to look them up."""

from __future__ import annotations

from engine import ops
from engine.ops.numpy_protocol.table import StandIn
from engine.traced import NUMPY, primal


def log_expit(x):
    r"""$\ln \sigma(x)$"""
    return -ops.softplus(-x)


def logit(x):
    r"""$\ln (x / (1 - x))$"""
    return ops.log(x) - ops.log1p(-x)


def xlogy(x, y):
    r"""$x \ln y$, and 0 for x = 0"""
    zero = primal(x) == 0
    return ops.where(zero, 0.0, x * ops.log(ops.where(zero, 1.0, y)))


def xlog1py(x, y):
    r"""$x \ln (1 + y)$, and 0 for x = 0"""
    zero = primal(x) == 0
    return ops.where(zero, 0.0, x * ops.log1p(ops.where(zero, 0.0, y)))


def entr(x):
    r"""$-x \ln x$, and 0 for x = 0"""
    return -xlogy(x, x)


SCIPY: dict[str, StandIn] = {
    "expit": ops.sigmoid,
    "ndtr": ops.normal_cdf,
    "erf": ops.erf,
    "erfc": ops.erfc,
    "log_expit": log_expit,
    "logit": logit,
    "xlogy": xlogy,
    "xlog1py": xlog1py,
    "entr": entr,
    "exp2": ops.exp2,
    "expm1": ops.expm1,
    "log1p": ops.log1p,
    "cbrt": ops.cbrt,
}
NUMPY.update(SCIPY)
