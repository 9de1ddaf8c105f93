"""Functions written with plain numpy, differentiated as they are.

Each function is run as NumPy runs it and as the engine traces it: the values must agree. Its gradient, with a random
cotangent, must agree with differences of the plain run; forward mode with reverse mode; the second derivative with differences
of the first. The engine's part in the oracle is nil: it only ever sees the traced run.
"""

import zlib

import numpy as np
import pytest
from numpy_one_liners import ONE_LINERS
from numpy_programs import PROGRAMS

from engine import grad, hvp, jvp, vjp
from engine.tree import flatten

ALL = [(name, f, draws) for name, (f, *draws) in ONE_LINERS.items()] + [(f.__name__, f, draws) for f, draws in PROGRAMS.items()]
every_function = pytest.mark.parametrize("name, f, draws", ALL, ids=[name for name, _, _ in ALL])
H = 1e-3
BEFORE_NEP_50 = np.lib.NumpyVersion(np.__version__) < "2.0.0"  # where a float64 number could turn a float32 array


def arguments(name, draws):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return rng, [draw(rng) for draw in draws]


def leaves(y):
    return [np.asarray(part) for part in flatten(y)[0]]


def paired(g, y):
    return sum(np.sum(a * b) for a, b in zip(g, leaves(y), strict=True))


def moved(args, directions, h):
    return [x + h * d for x, d in zip(args, directions, strict=True)]


def slope_of(run, args, directions):
    """d run / d directions by differences of fourth order."""
    at = {k: run(moved(args, directions, k * H)) for k in (-2, -1, 1, 2)}
    return (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * H)


def inner(xs, ys):
    return sum(np.sum(x * y) for x, y in zip(xs, ys, strict=True))


def cotangents(rng, y):
    """A random cotangent, flat and in y's own nesting."""
    parts, nest = flatten(y)
    g = [rng.normal(size=np.shape(part)) for part in parts]
    return g, nest(g)


@every_function
def test_the_value_is_numpys(name, f, draws):
    _, args = arguments(name, draws)
    plain, (traced, _) = f(*args), vjp(f, *args)
    assert isinstance(traced, (list, tuple)) == isinstance(plain, (list, tuple))
    for a, b in zip(leaves(plain), leaves(traced), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=1e-12, atol=1e-12)


@every_function
def test_the_gradient_is_the_limit_of_differences(name, f, draws):
    rng, args = arguments(name, draws)
    y, pull = vjp(f, *args)
    g, nested = cotangents(rng, y)
    gradients = pull(nested)
    for _ in range(3):
        directions = [rng.normal(size=x.shape) for x in args]
        wanted = slope_of(lambda xs: paired(g, f(*xs)), args, directions)
        scale = inner(map(abs, gradients), map(abs, directions)) + 1
        assert abs(inner(gradients, directions) - wanted) <= 1e-7 * scale


@every_function
def test_forward_mode_agrees(name, f, draws):
    rng, args = arguments(name, draws)
    directions = [rng.normal(size=x.shape) for x in args]
    y, dy = jvp(f, args, directions)
    g, nested = cotangents(rng, y)
    gradients = vjp(f, *args)[1](nested)
    scale = inner(map(abs, gradients), map(abs, directions)) + 1
    assert abs(paired(g, dy) - inner(gradients, directions)) <= 1e-10 * scale


@every_function
def test_the_second_derivative_is_the_limit_of_differences(name, f, draws):
    rng, args = arguments(name, draws)
    g, _ = cotangents(rng, f(*args))

    def weighted(*xs):
        return sum(np.sum(a * b) for a, b in zip(g, flatten(f(*xs))[0], strict=True))

    directions, others = ([rng.normal(size=x.shape) for x in args] for _ in range(2))
    product = hvp(weighted, args, directions)
    product = product if isinstance(product, tuple) else (product,)
    gradient = grad(weighted, argnums=tuple(range(len(args))))
    wanted = slope_of(lambda xs: inner(gradient(*xs), others), args, directions)
    scale = inner(map(abs, product), map(abs, others)) + 1
    assert abs(inner(product, others) - wanted) <= 1e-6 * scale


@every_function
def test_single_precision_in_single_precision_out(name, f, draws):
    rng, args = arguments(name, draws)
    single = [x.astype(np.float32) for x in args]
    plain, (y, pull) = f(*single), vjp(f, *single)
    for a, b in zip(leaves(plain), leaves(y), strict=True):
        assert a.dtype == b.dtype or BEFORE_NEP_50
    _, nested = cotangents(rng, y)
    parts, nest = flatten(nested)
    gradients = pull(nest([g.astype(a.dtype) for g, a in zip(parts, leaves(y), strict=True)]))
    for g, wide in zip(gradients, vjp(f, *args)[1](nested), strict=True):
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, wide, rtol=2e-3, atol=2e-3 * (1 + np.abs(wide).max()))


def test_arguments_are_not_written_into():
    for name, f, draws in ALL:
        _, args = arguments(name, draws)
        before = [x.copy() for x in args]
        for x in args:
            x.flags.writeable = False
        y, pull = vjp(f, *args)
        parts, nest = flatten(y)
        pull(nest([np.ones(np.shape(p)) for p in parts]))
        for x, b in zip(args, before, strict=True):
            np.testing.assert_array_equal(x, b)
