"""Dtypes: a traced value promotes as NumPy's own (NEP 50), and every gradient has the dtype of its argument."""

import operator

import numpy as np
import pytest

from engine import jvp, ops, vjp
from engine.traced import NUMPY

pytestmark = pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1 promotes by value: NEP 50 came with 2.0")

FLOATS = [np.float16, np.float32, np.float64, np.longdouble]
UFUNCS = sorted((f for f in NUMPY if isinstance(f, np.ufunc) and f.signature is None), key=lambda f: f.__name__)
ELEMENTWISE = [f for f in UFUNCS if not f.__name__.startswith("_")]
OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.mod]


def number(dtype, shape):
    x = np.full(shape, 0.5 if np.dtype(dtype).kind == "f" else 1, dtype)
    return x if shape else x[()]


OWN = [ops.sigmoid, ops.softplus, ops.relu, ops.leaky_relu, ops.elu, ops.gelu, ops.silu, ops.erf, ops.erfc, ops.normal_cdf]
OWN += [ops.gaussian, ops.sinc, ops.softmax, ops.log_softmax, ops.logsumexp, ops.vector_norm]
OTHERS = [number(t, shape) for t in (np.bool_, np.int8, np.uint16, np.int64, np.uint64, *FLOATS) for shape in ((2,), ())]
OTHERS += [True, 1, 0.5]


def same_kinds(y, want):
    """The same shape and dtype, in one output or several."""
    ys, wants = (v if isinstance(v, tuple) else (v,) for v in (y, want))
    return [(a.dtype, np.shape(a)) for a in ys] == [(b.dtype, np.shape(b)) for b in wants]


def check(f, args, place):
    try:
        want = f(*args)
    except TypeError:  # NumPy has no loop for these
        return
    x = args[place]
    of_x = lambda z: f(*args[:place], z, *args[place + 1 :])  # noqa: E731
    y, pull = vjp(of_x, x)
    assert same_kinds(y, want), args
    (g,) = pull(tuple(np.ones_like(part) for part in y) if isinstance(y, tuple) else np.ones_like(y))
    assert same_kinds(g, x), args
    y, dy = jvp(of_x, (x,), (np.ones_like(x),))
    assert same_kinds(y, want), args
    assert same_kinds(dy, want), args


@pytest.mark.parametrize("f", ELEMENTWISE + OPERATORS, ids=lambda f: f.__name__)
def test_elementwise(f):
    with np.errstate(all="ignore"):
        for dtype in FLOATS:
            for shape in ((2,), ()):
                x = number(dtype, shape)
                if getattr(f, "nin", 2) == 1:
                    check(f, (x,), 0)
                    continue
                for other in OTHERS:
                    check(f, (x, other), 0)
                    check(f, (other, x), 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("op", OWN, ids=lambda op: op.name)
def test_of_the_engines_own(op, dtype):
    x = number(dtype, (2,))
    y, pull = vjp(op, x)
    assert y.dtype == dtype
    assert pull(np.ones_like(y))[0].dtype == dtype
    assert op(x[0]).dtype == dtype
