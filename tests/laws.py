"""The laws that the rules of every op obey. Each takes an op, the place of one argument and a call, and asserts."""

import numpy as np

from engine import jvp, vjp
from engine.op import as_array
from engine.tree import flatten


def differentiable(op, args):
    """The places of the arguments that carry a derivative in this call."""
    return [i for i, a in enumerate(args) if op.argument(i) not in op.constant and as_array(a).dtype.kind == "f"]


def has_rules(op):
    return bool(op.vjps or op.jvps or op.linear)


def only(op, args, params, place):
    """`op` as a function of one argument; always returns a tuple of its real outputs."""

    def f(x):
        y = op(*args[:place], x, *args[place + 1 :], **params)
        return tuple(part for part in (y if isinstance(y, tuple) else (y,)) if part.dtype.kind == "f")

    return f, np.asarray(args[place])


def random_like(rng, arrays):
    return tuple(rng.uniform(-1, 1, np.shape(a)).astype(np.asarray(a).dtype) for a in arrays)


def dot(a, b):
    return sum(float(np.vdot(x, y)) for x, y in zip(a, b, strict=True))


def size(a, b):
    return sum(float(np.sum(np.abs(x * y))) for x, y in zip(a, b, strict=True))


def largest(arrays):
    return max((float(np.max(np.abs(a), initial=0.0)) for a in arrays), default=0.0)


def transposition(op, place, args, params):
    """<g, J dx> = <J' g, dx>. There is no step size, so it must hold to rounding."""
    f, x = only(op, args, params, place)
    rng = np.random.default_rng(0)
    dx = rng.uniform(-1, 1, x.shape)
    y, dy = jvp(f, (x,), (dx,))
    g = random_like(rng, y)
    (gx,) = vjp(f, x)[1](g)
    scale = size(g, dy) + size((gx,), (dx,)) + largest((gx,)) + largest(dy)
    gap = abs(dot(g, dy) - dot((gx,), (dx,)))
    assert gap <= 1e-12 * scale + 1e-300, f"<g, J dx> and <J' g, dx> differ by {gap:.2e}, scale {scale:.2e}"


def differences(op, place, args, params):
    """J dx is the limit of differences: a central one, extrapolated once."""
    f, x = only(op, args, params, place)
    dx = np.random.default_rng(1).uniform(-1, 1, x.shape)
    y, dy = jvp(f, (x,), (dx,))
    for part, claimed, slope in zip(y, dy, difference(f, x, dx), strict=True):
        close(claimed, slope, 1e-6 * (largest((slope,)) + largest((part,)) + 1e-3), "J dx and the difference quotient")


def difference(f, x, dx, h=1e-3):
    def central(step):
        return [(a - b) / (2 * step) for a, b in zip(f(x + step * dx), f(x - step * dx), strict=True)]

    return [(4 * fine - coarse) / 3 for fine, coarse in zip(central(h / 2), central(h), strict=True)]


def close(a, b, bound, what):
    gap = largest((np.asarray(a) - np.asarray(b),))
    assert gap <= bound, f"{what} differ by {gap:.2e}, bound {bound:.2e}"


def second_order(op, place, args, params):
    """Rules are ops: the pull itself pushes and pulls, and agrees with its differences."""
    f, x = only(op, args, params, place)
    rng = np.random.default_rng(2)
    g = random_like(rng, f(x))
    dx, u = rng.uniform(-1, 1, x.shape), rng.uniform(-1, 1, x.shape)

    def pulled(z):
        return vjp(f, z)[1](g)

    p, dp = jvp(pulled, (x,), (dx,))
    (back,) = vjp(pulled, x)[1]((u,))
    scale = size((u,), dp) + size((back,), (dx,)) + largest(dp) + largest((back,)) + largest(p)  # second-order terms may cancel
    gap = abs(dot((u,), dp) - dot((back,), (dx,)))
    assert gap <= 1e-11 * scale + 1e-300, f"push and pull of the pull differ by {gap:.2e}, scale {scale:.2e}"
    if op.surrogate is None:
        (slope,) = difference(pulled, x, dx)
        close(dp[0], slope, 1e-5 * (largest((slope,)) + largest(p) + 1e-3), "the push of the pull and its difference quotient")


SPECIAL = np.array([0.0, 1.0, -1.0, 0.5, 2.0])


def special_points(op, place, args, params):
    """At zeros, ones and ties too, wherever op is smooth along dx: J dx is its slope, and so for the pull."""
    rng = np.random.default_rng(6)
    args = [_special(rng, op.domain[op.argument(i)], a) if i in differentiable(op, args) else a for i, a in enumerate(args)]
    f, x = only(op, args, params, place)
    dx = rng.choice([-1.0, 1.0, 2.0], x.shape)
    with np.errstate(all="ignore"):
        y, dy = jvp(f, (x,), (dx,))
        _where_smooth(op, f, x, dx, y, dy, "J dx")
        if op.surrogate is None:
            g = random_like(rng, y)

            def pulled(z):
                return vjp(f, z)[1](g)

            p, dp = jvp(pulled, (x,), (dx,))
            _where_smooth(op, pulled, x, dx, p, dp, "the push of the pull")


def _special(rng, domain, a):
    inside = SPECIAL[domain.contains(SPECIAL)]
    return rng.choice(inside, np.shape(a)).astype(a.dtype)


def _where_smooth(op, f, x, dx, y, dy, what):
    """Compare with the one-sided slopes where they agree and have converged."""
    for part, claimed, *sides in zip(y, dy, *_one_sided(f, x, dx, y, 1e-4), *_one_sided(f, x, dx, y, 5e-5), strict=True):
        slope = (sides[2] + sides[3]) / 2
        near = 1e-4 * (1 + np.abs(slope))
        smooth = np.isfinite(slope) & np.all([np.abs(s - slope) < near for s in sides], axis=0)
        if not op.elementwise:  # a sum or a sort can agree in one element by accident
            smooth = smooth & np.all(smooth)
        gap = np.where(smooth, np.abs(claimed - slope), 0)
        assert not np.any(gap > 2 * near), f"{what} is {claimed}, the slope is {slope}, at {x.tolist()} along {dx.tolist()}, y {part}"


def _one_sided(f, x, dx, y, h):
    """Slopes from the left and from the right, of second order in h."""
    a, b, c, d = (f(x + s * h * dx) for s in (-2, -1, 1, 2))
    left = [(3 * part - 4 * q + p) / (2 * h) for part, p, q in zip(y, a, b, strict=True)]
    right = [(4 * q - 3 * part - p) / (2 * h) for part, p, q in zip(y, d, c, strict=True)]
    return left, right


def promised_shape(op, args, params):
    """The output has the shape that the notation or the shape rule says."""
    y = op(*args, **params)
    promised = op.infer([np.shape(a) for a in args], params)
    assert [np.shape(part) for part in (y if isinstance(y, tuple) else (y,))] == [tuple(s) for s in promised]


def inputs_unchanged(op, args, params):
    """Neither the op nor its pull writes into an argument or a cotangent."""
    before = [np.copy(a) for a in args]
    op(*args, **params)
    for place in differentiable(op, args) if has_rules(op) else []:
        f, x = only(op, args, params, place)
        y, pull = vjp(f, x)
        g = random_like(np.random.default_rng(3), y)
        kept = [np.copy(part) for part in g]
        pull(g)
        assert all(np.array_equal(a, b) for a, b in zip(g, kept, strict=True)), "the pull wrote into its cotangent"
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(args, before, strict=True)), "an argument was written into"


def gradients_apart(op, args, params):
    """No gradient shares memory with another, with the cotangent, or with an argument."""
    places = differentiable(op, args)

    def f(*xs):
        full = list(args)
        for i, x in zip(places, xs, strict=True):
            full[i] = x
        y = op(*full, **params)
        return tuple(part for part in (y if isinstance(y, tuple) else (y,)) if part.dtype.kind == "f")

    xs = [np.asarray(args[i]) for i in places]
    y, pull = vjp(f, *xs)
    g = random_like(np.random.default_rng(4), y)
    held = [a for a in [*pull(g), *g, *xs] if isinstance(a, np.ndarray)]
    for i, a in enumerate(held):
        for b in held[:i]:
            assert not np.shares_memory(a, b), "two gradients, or a gradient and an input, share a buffer"


def single_precision(op, args, params):
    """float32 in, float32 out, forward and backward, as near to float64 as rounding allows."""
    args32 = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in map(np.asarray, args)]
    params32 = {k: np.dtype(np.float32) if k == "dtype" else v for k, v in params.items()}
    args64 = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in args32]
    for place in differentiable(op, args):
        f32, x32 = only(op, args32, params32, place)
        f64, x64 = only(op, args64, params, place)
        y32, pull32 = vjp(f32, x32)
        y64, pull64 = vjp(f64, x64)
        g = random_like(np.random.default_rng(5), y32)
        (gx32,), (gx64,) = pull32(g), pull64(tuple(part.astype(np.float64) for part in g))
        assert gx32.dtype == np.float32, f"the gradient is {gx32.dtype}"
        for a, b in zip((*y32, gx32), (*y64, gx64), strict=True):
            assert a.dtype == np.float32, f"an output is {a.dtype}"
            terms = 1 + max(np.size(v) for v in args)
            close(a, b, 32 * np.finfo(np.float32).eps * terms * (largest((b,)) + largest(args64) + 1), "float32 and float64")


def any_layout(op, args, params, layout, laid_out):
    """Strides do not matter."""
    y = op(*args, **params)
    z = op(*[laid_out(np.asarray(a), layout) for a in args], **params)
    for a, b in zip(flatten(y)[0], flatten(z)[0], strict=True):
        close(a, b, 1e-12 * (largest((a,)) + 1), f"C order and {layout}")
